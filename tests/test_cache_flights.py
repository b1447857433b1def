"""Identical calls at the same time: one upstream call, in a process, between processes and through Redis."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis_server
from asking import asking
from driving import KEY

from blueprint_llm import CacheManager, LLMClient, SyncLLMClient
from blueprint_llm.cache.flights import Flights
from blueprint_llm.cache.memory import MemoryCache
from blueprint_llm.cache.ops import LEASE_S, Get, Lease, Put
from blueprint_llm.cache.redis_cache import RedisCache
from blueprint_llm.errors import BlueprintError, DeadlineExceededError
from blueprint_llm.testing import Answer, FaultServer, ScriptedAdapter, Status

MESSAGES = [{"role": "user", "content": "What is a flight?"}]
SLOW = Answer("One for all.", delay_s=0.4)
HANGING = Answer("never said", delay_s=60)

CALLER = """
import asyncio, json, os, sys, urllib.request
from blueprint_llm import LLMClient
from blueprint_llm.engine.steps import END
config, messages, count, streamed, plain = map(json.loads, sys.argv[1:])
class Plain:
    ready = True
    def post(self, call):
        url = call.params.get("api_base") or call.credential.base_url
        body = json.dumps({"model": call.model, "messages": call.messages}).encode()
        with urllib.request.urlopen(urllib.request.Request(url + "/chat/completions", body)) as reply:
            return json.load(reply)
    async def acomplete(self, call):
        return await asyncio.to_thread(self.post, call)
    async def aopen(self, call):
        return Handle(await self.acomplete(call))
class Handle:
    def __init__(self, answer):
        self.chunks = [{"choices": [{"index": 0, "delta": each["message"], "finish_reason": each["finish_reason"]}]}
                       for each in answer["choices"]]
    async def aread(self):
        return self.chunks.pop() if self.chunks else END
    async def aclose(self): pass
    def usage(self): pass
    def ended_by(self): return "terminal"
async def ask(client):
    if not streamed:
        return (await client.chat(messages=messages)).content
    return "".join([chunk.delta async for chunk in client.stream(messages=messages)])
async def main():
    async with LLMClient(config, adapters={"p0": Plain()} if plain else None) as client:
        if not plain:
            from blueprint_llm.adapters.litellm import module
            module()
        print("ready", flush=True)
        sys.stdin.readline()
        print(json.dumps(await asyncio.gather(*(ask(client) for _ in range(count)))), flush=True)
        os._exit(0)
asyncio.run(main())
"""


def configured(url="http://127.0.0.1:9/v1", **blueprint):
    """One provider with the cache on."""
    providers = {"p0": {"model": "openai/gpt-4o", "api_base": url, "api_key": KEY}}
    deadline = {"total_s": 20, "first_token_s": 8}
    return {
        "blueprint": {
            "providers": providers,
            "cache": {"enabled": True},
            "deadline": deadline,
            "retry": {"max_attempts": 1},
            **blueprint,
        }
    }


class Callers:
    """Processes that wait for a word, then make identical calls."""

    def __init__(self, config, processes, each, *, streamed=False, plain=True, homes=()):
        arguments = map(json.dumps, (config, MESSAGES, each, streamed, plain))
        command = [sys.executable, "-c", CALLER, *arguments]
        envs = [{**os.environ, "BLUEPRINT_HOME": str(home)} for home in homes] or [None] * processes
        self.processes = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) for env in envs
        ]
        for process in self.processes:
            assert process.stdout.readline() == "ready\n"

    def go(self, *chosen):
        """Let them call; all of them by default."""
        for process in chosen or self.processes:
            process.stdin.write("go\n")
            process.stdin.flush()

    def answers(self, *chosen):
        """What they got, and the end of them."""
        found = []
        for process in chosen or self.processes:
            output, _ = process.communicate(timeout=30)
            found += json.loads(output)
        return found


@pytest.fixture(params=["disk", "redis"])
def shared(request, tmp_path):
    """The blueprint keys of a cache that processes share."""
    if request.param == "disk":
        yield {}
        return
    with redis_server.running(tmp_path) as url:
        yield {"store": {"url": url}}


def test_twenty_coroutines_make_one_call():
    """All get the answer of the first."""
    p0 = ScriptedAdapter(default=SLOW)

    async def run():
        async with LLMClient(configured(), adapters={"p0": p0}) as client:
            return await asyncio.gather(*(client.chat(messages=MESSAGES) for _ in range(20)))

    answers = asyncio.run(run())

    assert {answer.content for answer in answers} == {"One for all."}
    assert len(p0.calls) == 1
    assert sum(answer.metadata["cached"] for answer in answers) == 19


def test_twenty_threads_make_one_call():
    """The same for blocking calls."""
    p0 = ScriptedAdapter(default=SLOW)
    with SyncLLMClient(configured(), adapters={"p0": p0}) as client, ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: client.chat(messages=MESSAGES).content, range(20)))

        assert answers == ["One for all."] * 20
        assert len(p0.calls) == 1
        assert client.get_usage().cache_hits == 19


def test_streams_and_whole_answers_share_a_flight():
    """Who streams and who does not wait for the same call."""
    p0 = ScriptedAdapter(default=SLOW)

    async def stream(client):
        return "".join([chunk.delta async for chunk in client.stream(messages=MESSAGES)])

    async def chat(client):
        return (await client.chat(messages=MESSAGES)).content

    async def run():
        async with LLMClient(configured(), adapters={"p0": p0}) as client:
            return await asyncio.gather(*((stream if n % 2 else chat)(client) for n in range(10)))

    assert asyncio.run(run()) == ["One for all."] * 10
    assert len(p0.calls) == 1


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
def test_four_processes_make_one_call(shared, streamed):
    """Five callers in each of four processes, also through Redis: one call."""
    with FaultServer(default=SLOW) as server:
        callers = Callers(configured(server.url, **shared), 4, 5, streamed=streamed)
        callers.go()

        assert callers.answers() == ["One for all."] * 20
        assert len(server.requests) == 1


@pytest.mark.parametrize("password", [pytest.param("", id="open"), pytest.param("redis-password", id="password")])
def test_two_machines_make_one_call(tmp_path, password):
    """Machines share nothing but Redis, not the user's own secret either: one call, and later hits on both."""
    options = ["--requirepass", password] if password else []
    with FaultServer(default=SLOW) as server, redis_server.running(tmp_path, *options) as url:
        store = {"url": url.replace("redis://", f"redis://:{password}@") if password else url}
        homes = [tmp_path / "here", tmp_path / "there"]
        for _ in range(2):
            callers = Callers(configured(server.url, store=store), 2, 5, homes=homes)
            callers.go()
            assert callers.answers() == ["One for all."] * 10

        assert len(server.requests) == 1


def test_redis_that_refuses_the_password_fails_no_call(tmp_path):
    """A wrong password is one warning without it, and the call goes to the provider."""
    told, p0 = [], ScriptedAdapter(default=SLOW)
    with redis_server.running(tmp_path, "--requirepass", "the-right-one") as url:
        store = RedisCache(url.replace("redis://", "redis://:the-wrong-one@"))
        with SyncLLMClient(configured(), adapters={"p0": p0}) as client:
            client._parts.cache = CacheManager(store, on_event=told.append)
            assert client.chat(messages=MESSAGES).content == "One for all."
            assert client.chat(messages=MESSAGES).content == "One for all."

    assert [event.name for event in told] == ["cache.failed"]
    assert "the-wrong-one" not in repr(told)


def test_two_processes_with_litellm_make_one_call():
    """The same with LiteLLM at the provider's side."""
    with FaultServer(default=SLOW) as server:
        callers = Callers(configured(server.url), 2, 5, plain=False)
        callers.go()

        assert callers.answers() == ["One for all."] * 10
        assert len(server.requests) == 1


def test_a_killed_leader_is_replaced_by_one(shared):
    """`kill -9` of who fetches: one of the others takes over, all of them are answered."""
    with FaultServer([Answer("never sent", delay_s=60)], default=SLOW) as server:
        callers = Callers(configured(server.url, **shared), 4, 5)
        leader, *followers = callers.processes
        callers.go(leader)
        server.wait_until(lambda requests: len(requests) == 1, 10)
        callers.go(*followers)
        time.sleep(0.3)
        os.kill(leader.pid, signal.SIGKILL)
        began = time.monotonic()

        assert callers.answers(*followers) == ["One for all."] * 15
        assert len(server.requests) == 2
        assert time.monotonic() - began < 10
        leader.communicate()


def test_a_failing_leader_holds_nobody_up():
    """Its error is its own; who waited for it goes alone, at once, and what they get is kept."""
    p0 = ScriptedAdapter([Status(500, delay_s=0.3)], default=SLOW)

    async def run():
        async with LLMClient(configured(), adapters={"p0": p0}) as client:
            calls = (client.chat(messages=MESSAGES) for _ in range(5))
            return await asyncio.gather(*calls, return_exceptions=True)

    began = time.monotonic()
    answers = asyncio.run(run())

    assert sum(isinstance(answer, BlueprintError) for answer in answers) == 1
    assert len(p0.calls) == 5
    assert time.monotonic() - began < 5


async def led(p0, follow):
    """`follow` a leader that has begun; its result, and the leader, cancelled if it still waits."""
    async with LLMClient(configured(), adapters={"p0": p0}) as client:
        leader = asyncio.create_task(client.chat(messages=MESSAGES))
        await asyncio.sleep(0.05)
        assert len(p0.calls) == 1
        result = await follow(client, leader)
        leader.cancel()
        await asyncio.gather(leader, return_exceptions=True)
        return result


def test_a_followers_deadline_holds():
    """Whoever has little time does not wait for a slow leader beyond it."""

    async def follow(client, leader):
        began = time.monotonic()
        with pytest.raises(DeadlineExceededError):
            await client.chat(messages=MESSAGES, deadline_s=0.6)
        assert not leader.done()
        return time.monotonic() - began

    assert asyncio.run(led(ScriptedAdapter(default=HANGING), follow)) < 5


def test_an_impatient_follower_asks_itself():
    """Waiting ends while there is time for an own call: a hanging leader fails nobody else."""
    p0 = ScriptedAdapter([HANGING], default=Answer("Quick."))

    async def follow(client, leader):
        return (await client.chat(messages=MESSAGES, deadline_s=2)).content

    assert asyncio.run(led(p0, follow)) == "Quick."
    assert len(p0.calls) == 2


def test_a_cancelled_leader_gives_its_lease_back():
    """The next caller leads at once."""
    p0 = ScriptedAdapter([HANGING], default=Answer("Quick."))

    async def follow(client, leader):
        leader.cancel()
        await asyncio.gather(leader, return_exceptions=True)
        key = (await client.chat(messages=MESSAGES)).trace["cache"]["key"]
        return client._parts.cache.execute(Lease(key=key, owner="me", flight="nobody"))

    assert asyncio.run(led(p0, follow)).flight == ""


def test_a_long_call_keeps_its_lease():
    """The heartbeat goes on while the leader waits for its provider, longer than a lease holds."""
    p0 = ScriptedAdapter(default=Answer("slow", delay_s=LEASE_S + 1))

    async def follow(client, leader):
        async with LLMClient(configured(), adapters={"p0": p0}) as other:
            return [(await other.chat(messages=MESSAGES)).content, (await leader).content]

    assert asyncio.run(led(p0, follow)) == ["slow", "slow"]
    assert len(p0.calls) == 1


def test_nobody_waits_for_a_reader_who_pauses():
    """A stream that is held half read keeps no lease alive: the next caller, even the same thread, is answered."""
    p0 = ScriptedAdapter(default=Answer("one two three four"))
    with asking("sync", configured(), adapters={"p0": p0}) as ask:
        stream = iter(ask.client.stream(messages=MESSAGES))
        next(stream)
        began = time.monotonic()
        assert ask.chat(messages=MESSAGES).content == "one two three four"
        assert time.monotonic() - began < 6
        assert "".join(chunk.delta for chunk in stream).endswith("four")
    assert len(p0.calls) == 2


class FinishedMeanwhile(MemoryCache):
    """A store in which somebody else finishes right before the lease is taken."""

    entry = b""

    def execute(self, op):
        """Keep the answer, then lend the lease."""
        if isinstance(op, Lease):
            super().execute(Put(key=op.key, value=self.entry, ttl_s=60))
        return super().execute(op)


def test_an_answer_that_came_before_the_lease_is_used():
    """Between looking and leading somebody may have finished: no second call, and the lease is given back."""
    p0 = ScriptedAdapter(default=Answer("Once."))
    store = FinishedMeanwhile()
    with asking("sync", configured(store={"url": "memory"}), adapters={"p0": p0}) as ask:
        cache = ask.client._parts.cache
        key = ask.chat(messages=MESSAGES).trace["cache"]["key"]
        store.entry = cache.store.execute(Get(key=key))
        cache.store = store

        assert ask.chat(messages=MESSAGES).metadata["cached"]
    assert len(p0.calls) == 1
    assert store.execute(Lease(key=key, owner="me")).mine


def test_flights_wake_and_end():
    """A landed flight wakes who waits; the thread that beats ends when nothing flies any more."""
    beats = []
    flights = Flights(beats.append, every_s=0.01, idle_s=0.05)
    flight = flights.begin("k", "me")
    waiter = threading.Thread(target=flights.wait, args=("k", 10, 0.01))
    waiter.start()
    while len(beats) < 3:
        time.sleep(0.005)
    flight.paused = True
    time.sleep(0.05)
    paused = len(beats)
    time.sleep(0.1)
    assert len(beats) == paused
    flights.end(flight)
    waiter.join(5)
    assert not waiter.is_alive()
    thread = flights._thread
    if thread is not None:
        thread.join(5)
    assert flights._thread is None
    second = flights.begin("k", "you")
    third = flights.begin("k", "they")
    flights.end(second)
    assert flights._flights == {"k": third}
    flights.end(third)
