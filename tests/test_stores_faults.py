import asyncio
import concurrent.futures
import gc
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import warnings

import pytest
import redis
import redis_server
from holding import count_turns, free, holding

from blueprint_llm.config import load_config
from blueprint_llm.config.blocks import StoreConfig
from blueprint_llm.errors import ConfigError, StoreError
from blueprint_llm.types import UsageFilter
from blueprint_llm.usage import stores as stores_module
from blueprint_llm.usage.stores import DegradedStore, MemoryStore, SqliteStore, open_store, waited_for
from blueprint_llm.usage.stores import redis_store as redis_module
from blueprint_llm.usage.stores import sqlite as sqlite_module
from blueprint_llm.usage.stores import writer as writer_module
from blueprint_llm.usage.stores.breaker import BreakerReport
from blueprint_llm.usage.stores.records import AttemptRow, Charge, Reservation, Settlement
from blueprint_llm.usage.stores.redis_store import RedisStore, redis_client

ALL = UsageFilter()
VISITOR = """
import asyncio, sys
from blueprint_llm.types import UsageFilter
from blueprint_llm.usage.stores import SqliteStore
async def visit():
    store = SqliteStore(sys.argv[1])
    print(len(await store.rows(UsageFilter(), limit=1000)))
    await store.aclose()
asyncio.run(visit())
"""


def charge(amount=60, limit=100):
    """A charge on everybody, forever."""
    return Charge(scope="global", subject="global", kind="usd", window="ever", amount=amount, limit=limit)


def row(id_="1"):
    """An attempt."""
    return AttemptRow(id=id_, call_id=id_)


def reservation(id_="1"):
    """A reservation of 60 of 100."""
    return Reservation(id=id_, charges=(charge(),), ttl_s=60, row=row(id_))


def settlement(amount=45, id_="1"):
    """The end of an attempt that cost so much."""
    return Settlement(charges=(charge(amount),), row=row(id_))


async def written(store, id_):
    """Record a row, and make a transaction that takes it along."""
    await store.record(row(id_))
    await store.heartbeat("nobody's", 1)


async def counted(store):
    """(Spent and reserved, spent)."""
    (level,) = await store.levels((charge(),))
    return level.used, level.spent


async def until(store, wanted):
    """Wait until the counter is as wanted, at most ten seconds."""
    for _ in range(1000):
        if await counted(store) == wanted:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(await counted(store))


@pytest.fixture
def path(tmp_path):
    """Where a ledger may be."""
    return tmp_path / "ledger.sqlite"


@pytest.fixture
async def store(path):
    """A ledger that has been used."""
    store = SqliteStore(path)
    await store.new_epoch()
    yield store
    await store.aclose()


LOCKS = pytest.mark.parametrize(
    "statements",
    [
        pytest.param(["BEGIN EXCLUSIVE"], id="a writer"),
        pytest.param(["PRAGMA locking_mode = EXCLUSIVE", "BEGIN EXCLUSIVE"], id="a process that lets nobody in"),
    ],
)


@LOCKS
@pytest.mark.parametrize("is_stopped", [False, True], ids=["at work", "stopped"])
async def test_a_locked_ledger_costs_no_more_than_the_deadline(path, statements, is_stopped):
    """The loop goes on, the call ends with its deadline and can say by whom the ledger is locked; nothing is taken."""
    first = SqliteStore(path)
    await first.new_epoch()
    await first.aclose()
    store = SqliteStore(path)
    with holding(path, *statements) as holder:
        if is_stopped:
            os.kill(holder.pid, signal.SIGSTOP)
        turns = asyncio.create_task(count_turns())

        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.3):
                await asyncio.gather(*(store.reserve(reservation(name)) for name in "abc"))

        turns.cancel()
        assert await turns > 20
        reason = waited_for(caught.value)
        assert f"{path} is locked by process {holder.pid} (python" in reason
        assert (", stopped)" in reason) is is_stopped
        free(holder)
    await until(store, (0, 0))
    await store.aclose()


async def test_a_caller_without_a_deadline_is_told(store, path, monkeypatch):
    """Who waits too long hears who holds the lock, and is not sent to move the file."""
    monkeypatch.setattr(writer_module, "WAIT_S", 0.05)
    with holding(path, "BEGIN EXCLUSIVE") as holder, pytest.raises(StoreError, match="is locked by process") as caught:
        await store.reserve(reservation())

    assert str(holder.pid) in str(caught.value)
    assert "move" not in str(caught.value)
    await until(store, (0, 0))


async def test_our_own_lock_is_named(store, path):
    """Where this process itself holds the lock, that is said, and nothing of who holds another file's."""
    own = sqlite3.connect(path, isolation_level=None)
    own.execute("BEGIN IMMEDIATE")

    with holding(path.with_name("other.sqlite"), "BEGIN EXCLUSIVE"), pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(0.05):
            await store.reserve(reservation())

    assert waited_for(caught.value) == f"the ledger {path} is locked by this process"
    own.close()


async def test_a_call_that_was_not_locked_out_says_nothing_of_locks():
    """A timeout elsewhere is not blamed on the store."""
    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(0):
            await asyncio.sleep(1)

    assert waited_for(caught.value) is None


async def test_what_was_paid_is_booked_when_the_lock_is_gone(store, path):
    """Settling is given up by its caller, not by the store; a row beside it does not wait at all."""
    await store.reserve(reservation())
    with holding(path, "BEGIN EXCLUSIVE") as holder:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await store.settle(settlement())
        await store.record(row("2"))
        free(holder)

    await until(store, (45, 45))
    assert {item.id for item in await store.rows(ALL)} == {"2", "1"}


async def test_a_reset_that_was_given_up_does_not_come_later(store, path):
    """Whoever was told that the ledger is locked finds the counters as they were."""
    await store.settle(settlement())
    with holding(path, "BEGIN EXCLUSIVE") as holder:
        for reset in (store.reset_limits, store.new_epoch):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await reset()
        free(holder)
    await store._writer.drain(10)

    assert await counted(store) == (45, 45)
    assert len(await store.rows(ALL)) == 1


async def test_a_row_is_soon_seen_by_others(store, path):
    """A row that no transaction takes along gets one of its own; several share it."""
    before = visit(path)
    for n in range(3):
        await store.record(row(f"{n}"))

    assert visit(path) == before
    await asyncio.sleep(2 * sqlite_module._ROWS_S)  # then the writer has them
    await store._writer.drain(10)
    assert visit(path) == before + 3


async def test_a_transaction_that_fails_loses_no_row(store):
    """Rows that wait go with the next transaction that is carried out."""
    await store.record(row("1"))
    with pytest.raises(ZeroDivisionError):
        await store._transact(lambda *_: 1 / 0)

    assert [item.id for item in await store.rows(ALL)] == ["1"]


@pytest.mark.parametrize("moment", ["before", "while", "after"])
async def test_what_nobody_heard_of_is_undone(moment):
    """A caller may leave before its job is begun, while it is done, or when it is done but not yet told."""
    began, go, log = threading.Event(), threading.Event(), []
    writer = writer_module.Writer(lambda: "locked")

    def act():
        began.set()
        go.wait(10)
        log.append("done")

    first = writer_module.Job(lambda: moment == "before" and go.wait(10))
    writer.put(first)
    job = writer_module.Job(act, lambda: log.append("undone"))
    caller = asyncio.create_task(writer.do(job))
    await asyncio.sleep(0)
    if moment != "before":
        began.wait(10)
    if moment == "after":
        go.set()
        concurrent.futures.wait([job], 10)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    go.set()
    await writer.drain(10)

    assert log == ([] if moment == "before" else ["done", "undone"])


async def test_what_cannot_be_undone_is_done():
    """A job without an undo is carried out though its caller has left before it could be."""
    go, log = threading.Event(), []
    writer = writer_module.Writer(lambda: "locked")
    writer.put(writer_module.Job(lambda: go.wait(10)))
    caller = asyncio.create_task(writer.do(writer_module.Job(lambda: log.append("done"))))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    go.set()
    await writer.drain(10)

    assert log == ["done"]


LEAVING = """
import asyncio, os, sys
from blueprint_llm.usage.stores.records import AttemptRow
from blueprint_llm.usage.stores.sqlite import SqliteStore
async def write(store):
    for n in range(3):
        await store.record(AttemptRow(id=str(n), call_id=str(n)))
store = SqliteStore(sys.argv[1])
if sys.argv[2] == "closed":
    async def write_and_close():
        await write(store)
        await store.aclose()
    asyncio.run(write_and_close())
elif sys.argv[2] == "forked":
    asyncio.run(write(store))
    if os.fork() == 0:
        sys.exit()
    os.wait()
else:
    asyncio.run(write(store))
    del store
"""


@pytest.mark.parametrize("how", ["closed", "forgotten", "forked"])
def test_rows_outlive_the_program_that_wrote_them(tmp_path, how):
    """A program that ends at once, closes its store or forks, leaves each row behind, once."""
    path = tmp_path / "ledger.sqlite"

    subprocess.run([sys.executable, "-W", "error", "-c", LEAVING, str(path), how], check=True, timeout=60)

    assert [item.id for item in asyncio.run(SqliteStore(path).rows(ALL))] == ["2", "1", "0"]


async def test_closing_books_what_waits(store, path):
    """A store that is closed while its file is locked waits for the lock, and loses nothing."""
    await store.reserve(reservation())
    with holding(path, "BEGIN EXCLUSIVE") as holder:
        task = asyncio.create_task(store.settle(settlement()))
        await asyncio.sleep(0)
        closing = asyncio.create_task(store.aclose())
        await asyncio.sleep(0.02)
        assert not closing.done()
        free(holder)
        await closing
        await task

    assert await counted(store) == (45, 45)


async def test_first_come_first_served(store, path):
    """While somebody waits for the lock nobody overtakes."""
    with holding(path, "BEGIN EXCLUSIVE") as holder:
        tasks = []
        for name in "abc":
            tasks.append(asyncio.create_task(store.reserve(reservation(name))))
            await asyncio.sleep(0)
        free(holder)
        late = asyncio.create_task(store.reserve(reservation("d")))

        assert [done.ok for done in await asyncio.gather(*tasks, late)] == [True, False, False, False]


async def test_a_thread_of_ours_at_the_file_does_not_stop_the_loop(store):
    """While a thread of this process is at the store the loop goes on too."""
    store._lock.acquire()
    waiting = asyncio.create_task(store.reserve(reservation()))
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert not waiting.done()
    store._lock.release()

    assert (await waiting).ok


async def test_nothing_can_wait_where_no_thread_can_begin(path, monkeypatch):
    """A system without threads left gives an error, and the next call goes on."""
    store = SqliteStore(path)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", lambda _: (_ for _ in ()).throw(RuntimeError("no new threads")))
        with pytest.raises(StoreError, match="no new threads"):
            await store.reserve(reservation())

    assert (await store.reserve(reservation())).ok
    await store.aclose()


def visit(path):
    """How many rows another process sees that opens the ledger and closes it again."""
    done = subprocess.run([sys.executable, "-c", VISITOR, str(path)], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.slow
async def test_two_stores_of_a_process_survive_another_process(path):
    """Opening a second store here drops no lock of the first: a visitor's closing takes no file from under them."""
    stores = [SqliteStore(path) for _ in range(3)]
    for n, store in enumerate(stores):
        await written(store, f"{n}")

    for n in range(3, 6):
        assert visit(path) == n
        await written(stores[n % 3], f"{n}")

    assert [len(await store.rows(ALL)) for store in stores] == [6, 6, 6]
    for store in stores:
        await store.aclose()


async def test_files_are_the_users_own(tmp_path):
    """The ledger and its log can be read by nobody else, whatever the umask says."""
    before = os.umask(0)
    store = SqliteStore(tmp_path / "new" / "ledger.sqlite")
    await store.reserve(reservation())
    os.umask(before)

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").iterdir()}

    assert modes == {"ledger.sqlite": 0o600, "ledger.sqlite-wal": 0o600, "ledger.sqlite-shm": 0o600}
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    await store.aclose()


@pytest.mark.parametrize("act", [lambda store: store.reserve(reservation()), lambda store: store.rows(ALL)])
async def test_corrupt_file_is_an_error_and_no_free_pass(path, act):
    """A damaged ledger stops the call and says what to do; the file is left as it is."""
    path.write_bytes(b"no database at all, " * 500)

    with pytest.raises(StoreError, match=r"ledger\.sqlite cannot be used .*move the file away"):
        await act(SqliteStore(path))

    assert path.read_bytes().startswith(b"no database")


async def test_damage_under_way_is_an_error(store, path):
    """A ledger that is overwritten while it is closed stops the next call."""
    for n in range(50):
        await store.record(row(f"{n}"))
    await store.aclose()
    path.write_bytes(path.read_bytes()[:4096] + b"\xff" * 8192)

    with pytest.raises(StoreError):
        await SqliteStore(path).reserve(reservation())


UNUSABLE = """
import asyncio, os, resource, signal, sys
from blueprint_llm.config.blocks import StoreConfig
from blueprint_llm.errors import StoreError
from blueprint_llm.usage.stores import open_store
from blueprint_llm.usage.stores.records import AttemptRow, Charge, Reservation
kind, on_failure = sys.argv[1:3]
if kind == "full disk":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
if kind == "read-only":
    os.chmod(os.environ["HOME"], 0o500)
    try:
        os.setuid(65534)
    except PermissionError:  # a user, or root without its privileges, is refused already
        pass
async def main():
    store = open_store(StoreConfig(on_failure=on_failure), on_event=lambda event: print(event.name, event.facts))
    took = Charge(scope="global", subject="global", kind="usd", window="ever", amount=60, limit=100)
    for name in "ab":
        wanted = Reservation(id=name, charges=(took,), ttl_s=60, row=AttemptRow(id=name, call_id=name))
        print("ok" if (await store.reserve(wanted)).ok else "denied")
try:
    asyncio.run(main())
except StoreError as error:
    print("StoreError", error)
"""


@pytest.mark.parametrize("on_failure", ["error", "memory"])
@pytest.mark.parametrize("kind", ["home is a file", "no home", "full disk", "read-only"])
def test_an_unusable_place_is_an_error_or_memory(shared_tmp, kind, on_failure):
    """Where the ledger cannot be, that and the cure are said, or limits hold in this process, as configured."""
    home = shared_tmp / "home"
    home.touch() if kind == "home is a file" else home.mkdir()
    environment = {**os.environ, "HOME": str(home)}
    for name in ("BLUEPRINT_HOME", "XDG_STATE_HOME"):
        environment.pop(name, None)
    if kind == "no home":
        environment["HOME"] = "~nobody-of-that-name"

    done = subprocess.run(
        [sys.executable, "-c", UNUSABLE, kind, on_failure], capture_output=True, text=True, env=environment, check=True
    )

    first, *rest = done.stdout.splitlines()
    assert "BLUEPRINT_HOME" in first
    if kind == "no home":
        assert "there is no home folder" in first
    else:
        assert "cannot be used" in first
        assert "blueprint.store.on_failure: memory" in first
    if on_failure == "error":
        assert first.startswith("StoreError")
        assert rest == []
    else:
        assert first.startswith("store.degraded")
        assert rest == ["ok", "denied"]


async def test_a_ledger_that_can_be_used_again_is_used(path):
    """An error is not for good: the file is opened anew by the next call."""
    path.mkdir()
    store = SqliteStore(path)
    with pytest.raises(StoreError):
        await store.reserve(reservation())
    path.rmdir()

    assert (await store.reserve(reservation())).ok
    await store.aclose()


async def test_failed_operation_changes_nothing(store):
    """An operation that breaks in the middle is rolled back, and the store goes on."""
    with pytest.raises(StoreError):
        await store.settle(Settlement(charges=(charge(),), row=AttemptRow(id="2", call_id=object())))

    assert await counted(store) == (0, 0)
    assert (await store.reserve(reservation())).ok


def fork(act):
    """Run `act` in a forked child; 0 where it returned True."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside other tests' threads
        pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if act() else 1)
        finally:
            os._exit(2)
    return os.waitpid(pid, 0)[1]


def test_forked_child_goes_on_by_itself(path):
    """A child settles what its parent reserved; parent and child go on after the other has closed."""
    store = SqliteStore(path)
    asyncio.run(store.reserve(reservation()))

    async def settle_and_close():
        done = await store.settle(settlement())
        await store.aclose()
        return done.was == "open"

    assert fork(lambda: asyncio.run(settle_and_close())) == 0

    asyncio.run(store.record(row("2")))
    assert fork(lambda: len(asyncio.run(store.rows(ALL))) == 2) == 0
    assert asyncio.run(counted(store)) == (45, 45)
    asyncio.run(store.aclose())


PAST_PYTHON = """
import asyncio, ctypes, os, pathlib, sys
from blueprint_llm.usage.stores.records import AttemptRow
from blueprint_llm.usage.stores.sqlite import SqliteStore
store = SqliteStore(pathlib.Path(sys.argv[1]))
row = lambda name: AttemptRow(id=name, call_id=name, at=0.0)
asyncio.run(store.record(row("parent")))
held = store._db
child = ctypes.PyDLL(None).fork()
if child == 0:
    ctypes.pythonapi.PyOS_AfterFork_Child()  # all that such a server calls
asyncio.run(store.record(row("child" if child == 0 else "parent again")))
asyncio.run(store.breakers(["any"]))
print(child == 0, store._db is held, flush=True)
if child == 0:
    os._exit(0)
os.waitpid(child, 0)
"""


def test_a_server_that_forks_past_python(path):
    """Nobody is told before it, as in uWSGI: the child opens the file for itself; its parent goes on with its own."""
    done = subprocess.run([sys.executable, "-c", PAST_PYTHON, str(path)], capture_output=True, text=True, check=True)

    assert sorted(done.stdout.split("\n")) == ["", "False True", "True False"]


def test_forked_child_outlives_the_parents_connection(path):
    """A child that goes on after its parent has closed shares the file with newcomers."""
    store = SqliteStore(path)
    asyncio.run(store.record(row("parent")))
    ready, go = os.pipe(), os.pipe()

    def child():
        asyncio.run(store.record(row("child 1")))
        os.write(ready[1], b"r")
        os.read(go[0], 1)
        for n in range(2, 300):
            asyncio.run(store.record(row(f"child {n}")))
        return len(asyncio.run(store.rows(ALL, limit=1000))) == 301

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if child() else 1)
        finally:
            os._exit(2)
    os.read(ready[0], 1)
    asyncio.run(store.aclose())
    newcomer = SqliteStore(path)
    asyncio.run(newcomer.record(row("newcomer")))
    os.write(go[1], b"g")

    assert os.waitpid(pid, 0)[1] == 0
    assert len(asyncio.run(newcomer.rows(ALL, limit=1000))) == 301
    asyncio.run(newcomer.aclose())
    for end in (*ready, *go):
        os.close(end)


def test_fork_while_the_ledger_is_locked(path):
    """Jobs that wait for a lock stay with the parent; the child begins with none of them."""
    store = SqliteStore(path)

    async def main():
        await store.new_epoch()
        with holding(path, "BEGIN EXCLUSIVE") as holder:
            waiting = asyncio.create_task(store.reserve(reservation()))
            await asyncio.sleep(0.02)
            status = fork(lambda: store._writer.idle)
            free(holder)
            return status, (await waiting).ok

    assert asyncio.run(main()) == (0, True)
    asyncio.run(store.aclose())


@pytest.mark.parametrize("kind", [MemoryStore, SqliteStore])
async def test_threads_share_a_store(path, kind):
    """Eight threads with loops of their own at one store count every call."""
    store = kind() if kind is MemoryStore else kind(path)

    async def work(name):
        for n in range(20):
            await store.settle(settlement(1, f"{name}-{n}"))

    threads = [threading.Thread(target=lambda name=name: asyncio.run(work(name))) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(await store.rows(ALL, limit=1000)) == 160
    await store.aclose()


async def test_old_counters_are_forgotten(path):
    """Counters and expired reservations of windows that ended over a day ago are dropped."""
    now = [1000.0]
    store = SqliteStore(path, clock=lambda: now[0])
    old = Charge(scope="global", subject="global", kind="usd", window="minute", amount=1, limit=9)
    await store.reserve(Reservation(id="1", charges=(old,), ttl_s=1, row=row()))
    now[0] += 100
    await store.rows(ALL)
    now[0] += 2 * 86400

    await store.new_epoch()

    db = store._connected()
    assert [db.execute(f"SELECT count(*) FROM {table}").fetchone() for table in ("counter", "hold")] == [(0,), (0,)]  # noqa: S608 - fixed names
    await store.aclose()


async def test_the_log_is_emptied_beside_the_calls(store, path, monkeypatch):
    """What many calls wrote goes into the file on a thread of its own, and closing the store waits for it."""
    makers, make = [], SqliteStore._empty_log
    monkeypatch.setattr(SqliteStore, "_empty_log", lambda self: (makers.append(threading.current_thread()), make(self)))
    before = path.stat().st_size

    for n in range(sqlite_module._CHECKPOINT_EVERY):
        await written(store, f"{n}")
    store._checkpoint.join()

    assert [thread.name for thread in makers] == ["blueprint-checkpoint"]
    assert path.stat().st_size > before


async def test_a_long_log_begins_anew(store, path, monkeypatch):
    """Where writers never pause, a log that grew too long is begun anew all the same."""
    monkeypatch.setattr(sqlite_module, "_LONG_LOG", 10)
    log = path.with_name("ledger.sqlite-wal")
    for n in range(sqlite_module._CHECKPOINT_EVERY * 2):
        await written(store, f"{n}")
        if n % sqlite_module._CHECKPOINT_EVERY == 0:
            size = log.stat().st_size
    store._checkpoint.join()
    longest = log.stat().st_size

    for n in range(20):
        await written(store, f"more {n}")

    assert size <= log.stat().st_size == longest


async def test_a_checkpoint_that_cannot_be_made_disturbs_no_call(store, monkeypatch):
    """A thread that cannot start costs nothing but a longer log."""
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", lambda _: (_ for _ in ()).throw(RuntimeError("no new threads")))
        for n in range(sqlite_module._CHECKPOINT_EVERY + 1):
            await store.record(row(f"{n}"))

    assert len(await store.rows(ALL, limit=1000)) == sqlite_module._CHECKPOINT_EVERY + 1


@pytest.mark.parametrize("hidden", ["fcntl", "resource", "redis"])
def test_the_ledger_needs_nothing_of_one_system_only(path, hidden):
    """Where a module is missing the ledger imports and runs without it."""
    program = f"import sys; sys.modules[{hidden!r}] = None\n{VISITOR}"

    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)

    assert done.stdout == "0\n"


@pytest.fixture
def events():
    """What was told."""
    return []


async def test_degraded_store_limits_in_memory_and_recovers(path, events):
    """A broken ledger is told once and limits hold meanwhile; once it is back, what was spent is charged to it."""
    now = [1000.0]
    path.write_bytes(b"no database at all, " * 500)
    store = DegradedStore(SqliteStore(path), clock=lambda: now[0], on_event=events.append)
    assert (await store.reserve(reservation())).ok
    path.unlink()
    assert (await store.reserve(reservation("2"))).denied
    now[0] += 6

    settled = await store.settle(settlement())

    assert (settled.was, await counted(store)) == ("unknown", (45, 45))
    assert [event.name for event in events] == ["store.degraded", "store.recovered"]
    assert "cannot be used" in events[0].facts["reason"]
    await store.aclose()


async def test_a_locked_ledger_is_done_without(store, path, events, monkeypatch):
    """Where limits may hold in memory, a call waits for a locked ledger a moment only; what was paid is booked."""
    monkeypatch.setattr(stores_module, "PATIENCE_S", 0.05)
    either = DegradedStore(store, on_event=events.append)
    await either.reserve(reservation())
    with holding(path, "BEGIN EXCLUSIVE") as holder:
        assert (await either.settle(settlement())).was == "unknown"
        assert (await either.reserve(reservation("2"))).denied
        free(holder)

    await until(store, (45, 45))
    assert f"is locked by process {holder.pid}" in events[0].facts["reason"]


async def test_degrading_warns_where_nobody_listens(path):
    """Without a listener the event is a Python warning."""
    path.write_bytes(b"no database at all, " * 500)
    store = open_store(StoreConfig(url=f"sqlite:{path}", on_failure="memory"))

    with pytest.warns(RuntimeWarning, match=r"store\.degraded"):
        await store.reserve(reservation())
    await store.aclose()


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("sqlite", SqliteStore),
        ("sqlite:///somewhere/l.sqlite", SqliteStore),
        ("memory", MemoryStore),
        ("redis://127.0.0.1:1/0", RedisStore),
    ],
)
def test_url_names_the_store(url, kind):
    """sqlite, memory and redis URLs open their stores; nothing is touched before it is used."""
    assert type(open_store(StoreConfig(url=url))) is kind


def test_unknown_url_is_a_configuration_error():
    """Any other scheme is refused with what is allowed, without its password."""
    with pytest.raises(ConfigError, match="must be sqlite, sqlite:PATH, memory or redis") as caught:
        load_config({"blueprint": {"store": {"url": "postgres://me:secret@host/db"}}})

    assert "secret" not in str(caught.value)


async def test_unreachable_redis_is_an_error_without_its_password(monkeypatch):
    """A server that is not there stops the call, and the password stays out of it."""
    monkeypatch.setattr(writer_module, "BOOK_S", 0.1)
    store = RedisStore("redis://:hidden@127.0.0.1:1/0")

    with pytest.raises(StoreError, match=r"127\.0\.0\.1:1 cannot be used .*start the Redis server") as caught:
        await store.reserve(reservation())

    assert "hidden" not in str(caught.value)
    await store.aclose()


async def test_redis_that_forgot_its_script_is_told_again(tmp_path):
    """After a restart the script is loaded again and calls go on."""
    with redis_server.running(tmp_path) as url:
        store = RedisStore(url)
        assert (await store.reserve(reservation())).ok
        await redis_client(url).script_flush()

        assert (await store.reserve(reservation("2"))).denied
        await store.aclose()


async def test_a_frozen_redis_costs_no_more_than_the_deadline(tmp_path, pid_of):
    """Who gives up takes nothing, though the server gets the request afterwards; what was paid is booked."""
    with redis_server.running(tmp_path) as url:
        store, pid = RedisStore(url), pid_of(url)
        left = reservation("left")._replace(charges=(charge(30),))
        await store.reserve(reservation("paid"))
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(TimeoutError) as caught:
                async with asyncio.timeout(0.3):
                    await asyncio.gather(store.reserve(left), store.settle(settlement(40, "paid")))
        finally:
            os.kill(pid, signal.SIGCONT)

        assert "does not answer" in waited_for(caught.value)
        await until(store, (40, 40))
        assert (await store.reserve(reservation("next"))).ok
        await store.aclose()


async def test_a_reservation_that_was_given_up_is_not_made_when_it_arrives(tmp_path):
    """A server that was frozen may get what was given up after what gives it up: nothing is taken then."""
    with redis_server.running(tmp_path) as url:
        store = RedisStore(url)
        await store._call("release", {"id": "1", "forbid": True})

        await store.reserve(reservation())

        assert await counted(store) == (0, 0)
        await store.aclose()


@pytest.fixture
def pid_of():
    """The process that listens at a URL, by what the server says of itself."""

    def ask(url):
        import redis  # noqa: PLC0415 - only here

        with redis.Redis.from_url(url) as client:
            return client.info("server")["process_id"]

    return ask


async def test_redis_that_returns_gets_what_was_paid(tmp_path):
    """A settle that found no server is booked when the server is back, and its caller was told."""
    with redis_server.running(tmp_path) as url:
        port = url.rpartition(":")[2].partition("/")[0]
    store = RedisStore(url)
    with pytest.raises(StoreError):
        await store.settle(settlement())

    with redis_server.running(tmp_path, port=port):
        await until(store, (45, 45))
        await store.aclose()


async def test_users_of_one_redis_share_its_client(tmp_path):
    """Two stores have one client; closing one leaves the other's call alone, and nothing stays connected at the end."""
    with redis_server.running(tmp_path) as url:
        one, other = RedisStore(url), RedisStore(url, prefix="{other}")
        await asyncio.gather(one.reserve(reservation()), other.reserve(reservation()), one.aclose())

        assert (await counted(one), await counted(other)) == ((60, 0), (60, 0))
        client = redis_client(url)
        assert client is redis_client(url)
        await one.aclose()
        await other.aclose()
        assert not any(each.is_connected for each in client.connection_pool._available_connections)


async def test_a_forked_child_has_connections_of_its_own(tmp_path):
    """A child uses none of its parent's connections, and both go on."""
    with redis_server.running(tmp_path) as url:
        store = RedisStore(url)
        await store.reserve(reservation())

        async def settle():
            done = await store.settle(settlement())
            await store.aclose()
            return done.was == "open"

        def child():
            asyncio._set_running_loop(None)  # the parent's, in whose midst the child was forked
            return asyncio.run(settle())

        assert fork(child) == 0
        assert await counted(store) == (45, 45)
        await store.aclose()


async def test_without_the_redis_package_the_error_says_what_to_install(monkeypatch):
    """The extra is named."""
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)

    with pytest.raises(ConfigError, match=r"pip install 'blueprint-llm\[redis\]'"):
        await RedisStore("redis://127.0.0.1:1/0").levels(())


async def test_endless_contention_is_an_error(tmp_path, monkeypatch):
    """A breaker that something else keeps changing gives up with an error."""
    monkeypatch.setattr(redis_module, "_SWAPS", 0)
    monkeypatch.setattr(writer_module, "BOOK_S", 0.1)
    with redis_server.running(tmp_path) as url:
        store = RedisStore(url)

        with pytest.raises(StoreError, match="contended"):
            await store.settle(settlement()._replace(report=BreakerReport("t", ok=True)))
        await store.aclose()


def test_connections_end_with_their_loop(tmp_path, monkeypatch):
    """A program that calls LiteLLM, guarded, has nothing of ours to close: nothing is open once its loop has ended."""
    with warnings.catch_warnings(action="ignore"):  # what other tests have left, under their own filters
        gc.collect()
    complained = []
    monkeypatch.setattr(sys, "unraisablehook", lambda told: complained.append(told.exc_value))
    with redis_server.running(tmp_path) as url:
        for _ in range(3):
            asyncio.run(RedisStore(url).breakers(["any"]))
            gc.collect()
        with redis.Redis.from_url(url) as seen:
            assert len(seen.client_list()) == 1

    assert complained == []
