"""Identical calls at the same time: one fetches, in a process with several event loops, and between processes."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis_server
from caching import entry_of

from blueprint_llm.cache import CacheManager, MemoryCache
from blueprint_llm.cache.disk import DiskCache
from blueprint_llm.errors import StoreError

KEY = "n:1"
LONG_S = 30
LEASE_S = 0.2


class Upstream:
    """Fetches slowly, and counts."""

    def __init__(self, manager):
        self.manager, self.fetched, self.free = manager, 0, asyncio.Event()
        self.begun = asyncio.Event()

    async def ask(self, owner, *, patience_s=LONG_S, **more):
        """What one caller gets: the answer, and whether it fetched it itself."""
        async with self.manager.flight(KEY, owner=owner, until=time.monotonic() + patience_s, **more) as flight:
            if flight.entry is not None:
                return flight.entry.content, False
            self.fetched += 1
            self.begun.set()
            await self.fetch(owner)
            await self.manager.keep(KEY, entry_of(f"from {owner}"))
            return f"from {owner}", True

    async def fetch(self, owner):
        """Wait until it may be answered."""
        await self.free.wait()


@pytest.fixture(params=["memory", "disk"])
async def manager(request, tmp_path):
    """A manager whose leases are short."""
    store = MemoryCache() if request.param == "memory" else DiskCache(tmp_path / "cache")
    manager = CacheManager(store, lease_s=LEASE_S, on_event=lambda event: pytest.fail(str(event)))
    yield manager
    await manager.aclose()


@pytest.fixture
def upstream(manager):
    """A provider behind it."""
    return Upstream(manager)


async def boarded(upstream, names, **more):
    """Callers, the first of which is fetching."""
    tasks = [asyncio.create_task(upstream.ask(names[0], **more))]
    await upstream.begun.wait()
    tasks += [asyncio.create_task(upstream.ask(name, **more)) for name in names[1:]]
    await asyncio.sleep(0.02)
    return tasks


async def test_twenty_callers_make_one_call(upstream):
    """All get the answer of the first; each gets an entry of its own."""
    tasks = await boarded(upstream, [f"c{n}" for n in range(20)])
    upstream.free.set()

    answers = await asyncio.gather(*tasks)

    assert answers == [("from c0", True)] + [("from c0", False)] * 19
    assert upstream.fetched == 1


async def test_each_waiter_may_change_its_answer(manager, upstream):
    """What one does to its entry, another does not see."""
    leader, *followers = await boarded(upstream, ["a"])

    async def spoil():
        async with manager.flight(KEY, owner="b", until=time.monotonic() + LONG_S) as flight:
            flight.entry.whole.clear()

    followers = [asyncio.create_task(spoil()), asyncio.create_task(upstream.ask("c"))]
    await asyncio.sleep(0.02)
    upstream.free.set()
    await asyncio.gather(leader, *followers)
    assert (await manager.lookup(KEY)).whole != {}


async def test_waiters_do_not_wait_for_the_store():
    """The answer is handed on before it is written: a store that hangs holds nobody up."""

    class Hanging(MemoryCache):
        async def put(self, key, value, ttl_s):
            await asyncio.sleep(LONG_S)

    upstream = Upstream(CacheManager(Hanging()))
    leader, follower = await boarded(upstream, ["a", "b"])
    upstream.free.set()

    async with asyncio.timeout(LONG_S / 2):
        assert await follower == ("from a", False)
    leader.cancel()
    await asyncio.gather(leader, return_exceptions=True)


async def test_a_broken_store_still_makes_one_call_of_a_process():
    """Callers of one process need no store to meet."""

    class Broken(MemoryCache):
        async def get(self, *arguments):
            raise StoreError("gone")

        lease = release = put = get

    upstream = Upstream(CacheManager(Broken(), on_event=lambda event: None))
    tasks = await boarded(upstream, ["a", "b", "c"])
    upstream.free.set()

    assert await asyncio.gather(*tasks) == [("from a", True), ("from a", False), ("from a", False)]


async def test_two_event_loops_make_one_call():
    """The user's loop and the one behind the blocking client wait for each other, and wake each other at once."""
    upstream = Upstream(CacheManager(MemoryCache(), lease_s=LONG_S))
    here, *_ = await boarded(upstream, ["here"])
    there = asyncio.create_task(asyncio.to_thread(asyncio.run, upstream.ask("there")))
    await asyncio.sleep(0.1)
    upstream.free.set()

    async with asyncio.timeout(LONG_S / 2):
        assert await asyncio.gather(here, there) == [("from here", True), ("from here", False)]


async def test_an_event_loop_that_ends_takes_nobody_with_it(upstream):
    """A waiter whose loop is closed meanwhile is no trouble, and its call is cancelled as any other."""
    leader, *_ = await boarded(upstream, ["a"])

    async def leave():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await upstream.ask("b")

    await asyncio.to_thread(asyncio.run, leave())
    upstream.free.set()
    assert await leader == ("from a", True)


async def test_a_loop_that_died_with_a_flight_is_replaced(manager, upstream):
    """A caller whose loop stands still is lost: another takes over, once, and the others wait for that one."""

    def begin():
        loop = asyncio.new_event_loop()
        flight = manager.flight(KEY, owner="dead", until=time.monotonic() + LONG_S)
        loop.run_until_complete(flight.__aenter__())
        return loop, flight

    loop, flight = await asyncio.to_thread(begin)
    upstream.free.set()

    answers = await asyncio.gather(*(upstream.ask(name) for name in "bcd"))

    assert sorted(fetched for _, fetched in answers) == [False, False, True]
    await asyncio.to_thread(loop.run_until_complete, flight.__aexit__(None, None, None))
    loop.close()


async def test_a_failing_leader_holds_nobody_up(upstream):
    """Its error is its own; who waited for it goes alone, at once."""

    async def fetch(owner):
        await upstream.free.wait()
        if owner == "a":
            raise ValueError("no answer")

    upstream.fetch = fetch
    tasks = await boarded(upstream, ["a", "b", "c"])
    upstream.free.set()

    answers = await asyncio.gather(*tasks, return_exceptions=True)

    assert isinstance(answers[0], ValueError)
    assert answers[1:] == [("from b", True), ("from c", True)]


async def test_an_answer_that_is_not_kept_holds_nobody_up(manager, upstream):
    """A leader whose answer is cut, or holds a key, leaves its followers to ask themselves."""

    async def cut():
        async with manager.flight(KEY, owner="a", until=time.monotonic() + LONG_S):
            await upstream.free.wait()

    leader = asyncio.create_task(cut())
    await asyncio.sleep(0.02)
    follower = asyncio.create_task(upstream.ask("b"))
    await asyncio.sleep(0.02)
    upstream.free.set()

    await leader
    assert await follower == ("from b", True)


async def test_a_cancelled_leader_is_replaced_by_one(upstream):
    """A user's Ctrl-C is not the provider's failure: one of those who waited fetches, the others go on waiting."""
    leader, *followers = await boarded(upstream, ["a", "b", "c", "d"])
    leader.cancel()
    upstream.free.set()

    answers = await asyncio.gather(*followers)

    assert sorted(fetched for _, fetched in answers) == [False, False, True]
    assert upstream.fetched == 2
    assert leader.cancelled()


@pytest.mark.parametrize("ending", ["answered", "failed", "cancelled"])
async def test_a_lease_is_given_back(tmp_path, ending):
    """However a block ends, another process may lead at once."""
    here, there = (CacheManager(DiskCache(tmp_path / "cache"), lease_s=LONG_S) for _ in range(2))

    async def block():
        async with here.flight(KEY, owner="a", until=time.monotonic() + LONG_S) as flight:
            assert flight.leased
            if ending == "failed":
                raise ValueError("no answer")
            if ending == "cancelled":
                asyncio.current_task().cancel()
                await asyncio.sleep(LONG_S)

    await asyncio.gather(asyncio.create_task(block()), return_exceptions=True)
    async with asyncio.timeout(LONG_S / 2), there.flight(KEY, owner="b", until=time.monotonic() + LONG_S) as flight:
        assert flight.leased
    await here.aclose()
    await there.aclose()


async def test_waiting_ends_in_time(upstream):
    """Whoever has little time fetches itself, and its answer serves those who wait for the slow one."""
    leader, patient = await boarded(upstream, ["slow", "patient"])
    upstream.fetch = lambda owner: asyncio.sleep(0)  # from now on; the slow one waits already

    assert await upstream.ask("hasty", patience_s=0.05) == ("from hasty", True)
    assert await patient == ("from hasty", False)
    assert not leader.done()
    upstream.free.set()
    assert await leader == ("from slow", True)


@pytest.mark.parametrize("patience_s", [0, -5])
async def test_no_time_at_all_is_no_error(upstream, patience_s):
    """A caller without any time to wait fetches at once."""
    upstream.free.set()

    assert await upstream.ask("a", patience_s=patience_s) == ("from a", True)


async def test_an_answer_that_came_before_the_lease_is_used(manager, upstream):
    """Between looking and leading somebody may have finished: no second call, and the next one is not held up."""
    upstream.free.set()
    await manager.keep(KEY, entry_of("from before", at=1000.0))

    assert await upstream.ask("a") == ("from before", False)
    assert await upstream.ask("b") == ("from before", False)
    assert await upstream.ask("c", max_age_s=60) == ("from c", True)


async def test_an_older_answer_than_a_waiter_wants_is_not_handed_on(manager, upstream):
    """A leader that takes an old answer does not make its followers take it."""
    await manager.keep(KEY, entry_of("old", at=1000.0))
    store_get, gate = manager.store.get, asyncio.Event()

    async def held(key):
        await gate.wait()
        return await store_get(key)

    manager.store.get = held
    upstream.free.set()
    leader = asyncio.create_task(upstream.ask("a"))
    await asyncio.sleep(0.02)
    followers = [asyncio.create_task(upstream.ask("b", max_age_s=60)), asyncio.create_task(upstream.ask("c"))]
    await asyncio.sleep(0.02)
    gate.set()

    assert await asyncio.gather(leader, *followers) == [("old", False), ("from b", True), ("old", False)]


async def test_a_slow_but_steady_reader_keeps_its_lease(manager, upstream):
    """Who holds each chunk for a while, but asks for more, is waited for."""
    async with manager.flight(KEY, owner="reader", until=time.monotonic() + LONG_S) as flight:
        follower = asyncio.create_task(upstream.ask("next"))
        for _ in range(30):
            flight.pause()
            await asyncio.sleep(LEASE_S / 10)
            flight.resume()
        assert not follower.done()
        await manager.keep(KEY, entry_of("from reader"))

    assert await follower == ("from reader", False)


async def test_nobody_waits_for_a_reader_who_pauses(manager, upstream):
    """A stream that is held half read keeps no lease: the next caller takes over, even of the same thread."""
    async with manager.flight(KEY, owner="reader", until=time.monotonic() + LONG_S) as flight:
        flight.pause()
        upstream.free.set()
        async with asyncio.timeout(LONG_S / 2):
            assert await upstream.ask("next") == ("from next", True)
        flight.resume()


async def test_a_slow_fetch_is_waited_for(manager, upstream):
    """The lease is kept alive for as long as the block lasts, far beyond its own time."""
    other = CacheManager(manager.store, lease_s=LEASE_S) if isinstance(manager.store, DiskCache) else manager
    leader, *_ = await boarded(upstream, ["slow"])
    follower = asyncio.create_task(Upstream(other).ask("follower"))
    await asyncio.sleep(3 * LEASE_S)
    assert not follower.done()
    upstream.free.set()

    assert await follower == ("from slow", False)
    await leader


PROCESS = """
import asyncio, json, os, sys, time
sys.path.insert(0, sys.argv[1])
from caching import entry_of
from blueprint_llm.cache import CacheManager
from blueprint_llm.cache.disk import DiskCache
from blueprint_llm.cache.redis_store import RedisCache
_, _, place, log, count, slow_s = sys.argv
store = RedisCache(place) if place.startswith("redis:") else DiskCache(place)
manager = CacheManager(store, lease_s=0.5)
async def ask(n):
    async with manager.flight("n:1", owner=f"{os.getpid()}.{n}", until=time.monotonic() + 20) as flight:
        if flight.entry is not None:
            return flight.entry.content
        with open(log, "a") as file:
            file.write(f"{os.getpid()}\\n")
        await asyncio.sleep(float(slow_s))
        await manager.keep("n:1", entry_of("one for all"))
        return "one for all"
async def main():
    await manager.lookup("n:0")
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(await asyncio.gather(*map(ask, range(int(count))))), flush=True)
    await manager.aclose()
asyncio.run(main())
"""


class Processes:
    """Processes that wait for a word, then ask the same; `log` names who fetched."""

    def __init__(self, place, log, slow_s, count=5):
        self.log = log
        folder = str(Path(__file__).parent)
        arguments = [[folder, place, log, count, each] for each in slow_s]
        self.all = [
            subprocess.Popen(
                [sys.executable, "-c", PROCESS, *map(str, each)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for each in arguments
        ]
        for process in self.all:
            assert process.stdout.readline() == "ready\n"

    def go(self, *chosen):
        """Let them ask."""
        for process in chosen:
            process.stdin.write("go\n")
            process.stdin.flush()

    def answers(self, *chosen):
        """What they got, and the end of them."""
        return [answer for process in chosen for answer in json.loads(process.communicate(timeout=30)[0])]

    def fetchers(self):
        """Which processes fetched, in order."""
        return [int(line) for line in self.log.read_text().split()] if self.log.exists() else []

    def wait_for_a_fetcher(self):
        """Block until somebody fetches."""
        until = time.monotonic() + 20
        while not self.fetchers() and time.monotonic() < until:
            time.sleep(0.01)


@pytest.fixture(params=["disk", "redis"])
def place(request, tmp_path):
    """Where processes share a cache."""
    if request.param == "disk":
        yield tmp_path / "cache"
        return
    with redis_server.running(tmp_path) as url:
        yield url


def test_two_processes_make_one_call(place, tmp_path):
    """Five callers in each of two processes: one fetches, all are answered."""
    processes = Processes(place, tmp_path / "log", [0.3, 0.3])
    processes.go(*processes.all)

    assert processes.answers(*processes.all) == ["one for all"] * 10
    assert len(processes.fetchers()) == 1


@pytest.mark.slow
def test_a_killed_leader_is_replaced_by_one(place, tmp_path):
    """`kill -9` of who fetches: one of the others takes over, all of them are answered."""
    processes = Processes(place, tmp_path / "log", [60, 0.5, 0.5, 0.5])
    leader, *followers = processes.all
    processes.go(leader)
    processes.wait_for_a_fetcher()
    processes.go(*followers)
    time.sleep(0.2)
    os.kill(leader.pid, signal.SIGKILL)

    assert processes.answers(*followers) == ["one for all"] * 15
    first, *others = processes.fetchers()
    assert first == leader.pid
    assert len(others) == 1
    leader.communicate()


@pytest.mark.slow
def test_a_stopped_leader_is_replaced(place, tmp_path):
    """SIGSTOP of who fetches is as good as its death; woken up, it brings its own answer home."""
    processes = Processes(place, tmp_path / "log", [0.5, 0.1], count=1)
    leader, follower = processes.all
    processes.go(leader)
    processes.wait_for_a_fetcher()
    os.kill(leader.pid, signal.SIGSTOP)
    processes.go(follower)

    assert processes.answers(follower) == ["one for all"]
    os.kill(leader.pid, signal.SIGCONT)
    assert processes.answers(leader) == ["one for all"]
    assert processes.fetchers() == [leader.pid, follower.pid]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # of forking with threads: that is the point
def test_a_forked_child_does_not_wait_for_its_parents_flight(tmp_path):
    """The child inherits a flight that nobody flies there: it takes over when the lease has run out."""
    manager = CacheManager(DiskCache(tmp_path / "cache"), lease_s=LEASE_S)

    async def parent():
        async with manager.flight(KEY, owner="parent", until=time.monotonic() + LONG_S) as flight:
            flight.pause()  # as good as a lease that ends: what the child sees of its parent stands still
            return await asyncio.to_thread(forked)

    def forked():
        child = os.fork()
        if child:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        try:
            upstream = Upstream(manager)
            upstream.free.set()
            os._exit(0 if asyncio.run(upstream.ask("child")) == ("from child", True) else 1)
        finally:
            os._exit(2)

    assert asyncio.run(parent()) == 0
