import asyncio
import contextlib
import fcntl
import os
import sqlite3
import threading
import time
import warnings

import pytest
import redis_server

from blueprint_llm.config import load_config
from blueprint_llm.config.blocks import StoreConfig
from blueprint_llm.errors import ConfigError, StoreError
from blueprint_llm.types import UsageFilter
from blueprint_llm.usage.stores import DegradedStore, MemoryStore, SqliteStore, checkpoints, open_store
from blueprint_llm.usage.stores import redis_store as redis_module
from blueprint_llm.usage.stores.ops import (
    AttemptRow,
    BreakerReport,
    BreakerStates,
    Charge,
    NewEpoch,
    Reserve,
    Rows,
    Settle,
    Standing,
    WriteRow,
)
from blueprint_llm.usage.stores.redis_store import RedisStore

ROW = AttemptRow(id="1", call_id="1")


def charge(amount=60, limit=100):
    """A charge on everybody, forever."""
    return Charge(scope="global", subject="global", kind="usd", window="ever", amount=amount, limit=limit)


def reserve(id_="1"):
    """A reservation of 60 of 100."""
    return Reserve(id=id_, charges=(charge(),), ttl_s=60, row=AttemptRow(id=id_, call_id=id_))


def spent(store):
    """What the counter holds."""
    return store.execute(Standing(charges=(charge(),)))[0].spent


def write_rows(store, numbers):
    """One transaction for each number."""
    for n in numbers:
        store.execute(WriteRow(row=AttemptRow(id=f"{n}", call_id=f"{n}")))


def test_the_log_is_emptied_beside_the_calls(tmp_path, monkeypatch):
    """What many calls wrote goes into the file on a thread of its own, and closing the store waits for it."""
    path, makers = tmp_path / "ledger.sqlite", []
    make = checkpoints.Checkpoints._make
    monkeypatch.setattr(
        checkpoints.Checkpoints, "_make", lambda self: (makers.append(threading.current_thread()), make(self))
    )
    store = SqliteStore(path)
    write_rows(store, range(checkpoints.EVERY - 1))
    before = path.stat().st_size
    assert not makers

    write_rows(store, [checkpoints.EVERY])
    store._checkpoints._thread.join(20)

    assert [thread.name for thread in makers] == ["blueprint-checkpoint"]
    assert path.stat().st_size > before
    write_rows(store, range(1000, 1000 + checkpoints.EVERY))
    store.close()
    assert not any(thread.is_alive() for thread in makers)
    assert len(store.execute(Rows(where=UsageFilter(), limit=999))) == 2 * checkpoints.EVERY
    store.close()


def test_a_fork_waits_for_a_checkpoint(tmp_path, monkeypatch):
    """A child never begins with locks that a thread of its parent held; both can go on."""
    begun, done = threading.Event(), threading.Event()
    monkeypatch.setattr(checkpoints.Checkpoints, "_make", lambda _: (begun.set(), time.sleep(0.3), done.set()))
    store = SqliteStore(tmp_path / "ledger.sqlite")
    write_rows(store, range(checkpoints.EVERY))
    assert begun.wait(20)

    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            write_rows(store, [1000])
            os._exit(0)
        os._exit(1)

    assert done.is_set()
    assert os.waitpid(child, 0)[1] == 0
    assert len(store.execute(Rows(where=UsageFilter(), limit=999))) == checkpoints.EVERY + 1
    store.close()


def test_a_checkpoint_that_cannot_be_made_is_made_later(tmp_path, monkeypatch):
    """Neither a thread that cannot start nor a file that fails disturbs a call."""
    path = tmp_path / "ledger.sqlite"
    store = SqliteStore(path)
    write_rows(store, [0])
    before = path.stat().st_size
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", lambda _: (_ for _ in ()).throw(RuntimeError("no new threads")))
        write_rows(store, range(1, checkpoints.EVERY))
    broken, store._checkpoints._db = store._checkpoints._db, sqlite3.connect(":memory:", check_same_thread=False)
    store._checkpoints._db.close()
    write_rows(store, range(1000, 1000 + checkpoints.EVERY))
    store._checkpoints._thread.join(20)
    assert path.stat().st_size == before

    store._checkpoints._db = broken
    write_rows(store, range(2000, 2000 + checkpoints.EVERY))
    store._checkpoints._thread.join(20)

    assert path.stat().st_size > before
    store.close()


def test_files_are_the_users_own(tmp_path):
    """The ledger, its log and its queue can be read by nobody else."""
    store = SqliteStore(tmp_path / "new" / "ledger.sqlite")
    store.execute(reserve())

    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "new").iterdir()}

    assert {"ledger.sqlite", "ledger.sqlite.lock", "ledger.sqlite-wal"} <= set(modes)
    assert set(modes.values()) == {0o600}
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    store.close()


@pytest.mark.parametrize("op", [reserve(), Rows(where=UsageFilter())], ids=["reserve", "report"])
def test_corrupt_file_is_an_error_and_no_free_pass(tmp_path, op):
    """A damaged ledger stops the call and says what to do; the file is left as it is."""
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"no database at all, " * 500)

    with pytest.raises(StoreError, match=r"ledger\.sqlite cannot be used .*move the file away"):
        SqliteStore(path).execute(op)

    assert path.read_bytes().startswith(b"no database")


def test_damage_under_way_is_an_error(tmp_path):
    """A ledger that is overwritten while it is open stops the next process."""
    path = tmp_path / "ledger.sqlite"
    store = SqliteStore(path)
    for n in range(50):
        store.execute(reserve(f"{n}"))
    store.close()
    path.write_bytes(path.read_bytes()[:4096] + b"\xff" * 8192)

    with pytest.raises(StoreError):
        SqliteStore(path).execute(reserve("x"))


def test_folder_that_cannot_be_made_is_an_error(tmp_path):
    """A path through a file says so."""
    (tmp_path / "file").touch()

    with pytest.raises(StoreError, match="cannot be used"):
        SqliteStore(tmp_path / "file" / "ledger.sqlite").execute(reserve())


def test_failed_operation_changes_nothing(tmp_path):
    """An operation that breaks in the middle is rolled back, and the store goes on."""
    store = SqliteStore(tmp_path / "ledger.sqlite")
    broken = Settle(charges=(charge(),), row=AttemptRow(id="2", call_id=object()))
    with pytest.raises(StoreError):
        store.execute(broken)

    assert spent(store) == 0
    assert store.execute(reserve()).ok
    store.close()


def test_forked_child_opens_its_own_connection(tmp_path):
    """A child process uses neither its parent's connection nor its place in the queue."""
    store = SqliteStore(tmp_path / "ledger.sqlite")
    store.execute(reserve())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside other tests' threads
        pid = os.fork()
    if pid == 0:
        ok = store.execute(Settle(charges=(charge(30),), row=ROW)).was == "open"
        os._exit(0 if ok else 1)

    assert os.waitpid(pid, 0)[1] == 0
    assert spent(store) == 30
    store.close()


async def test_coroutine_waits_in_a_thread_when_the_queue_is_not_empty(tmp_path):
    """While another process is at the file the loop goes on; the operation is done afterwards."""
    store = SqliteStore(tmp_path / "ledger.sqlite")
    store.execute(NewEpoch())
    with (tmp_path / "ledger.sqlite.lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        waiting = asyncio.create_task(store.aexecute(reserve()))
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert not waiting.done()
        fcntl.flock(other, fcntl.LOCK_UN)

        assert (await waiting).ok
    await store.aclose()


async def test_coroutine_waits_in_a_thread_for_a_thread(tmp_path):
    """While a thread of this process is at the store the loop goes on too."""
    store = SqliteStore(tmp_path / "ledger.sqlite")
    store._lock.acquire()
    waiting = asyncio.create_task(store.aexecute(reserve()))
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert not waiting.done()
    store._lock.release()

    assert (await waiting).ok
    await store.aclose()


@pytest.mark.parametrize("kind", [MemoryStore, SqliteStore])
def test_threads_share_a_store(tmp_path, kind):
    """Eight threads at one store count every call."""
    store = kind() if kind is MemoryStore else kind(tmp_path / "ledger.sqlite")

    def work(name):
        for n in range(20):
            store.execute(WriteRow(row=AttemptRow(id=f"{name}-{n}", call_id=f"{name}-{n}")))

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(store.execute(Rows(where=UsageFilter(), limit=1000))) == 160
    store.close()


def test_old_counters_are_forgotten(tmp_path):
    """Counters and expired reservations of windows that ended over a day ago are dropped."""
    now = [1000.0]
    store = SqliteStore(tmp_path / "ledger.sqlite", clock=lambda: now[0])
    old = Charge(scope="global", subject="global", kind="usd", window="minute", amount=1, limit=9)
    store.execute(Reserve(id="1", charges=(old,), ttl_s=1, row=ROW))
    now[0] += 100
    store.execute(NewEpoch())
    store.execute(Rows(where=UsageFilter()))
    now[0] += 2 * 86400

    store.execute(NewEpoch())

    db = store._connected()
    assert [db.execute(f"SELECT count(*) FROM {table}").fetchone() for table in ("counter", "hold")] == [(0,), (0,)]  # noqa: S608 - fixed names
    store.close()


@pytest.fixture
def events():
    """What was told."""
    return []


def degraded(store, events, now):
    """A store with the memory behind it."""
    return DegradedStore(store, clock=lambda: now[0], on_event=events.append)


def test_degraded_store_limits_in_memory_and_says_so(tmp_path, events):
    """With on_failure memory a broken ledger is reported once, and limits still hold in this process."""
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"no database at all, " * 500)
    store = degraded(SqliteStore(path), events, [1000.0])

    assert [store.execute(reserve(name)).ok for name in "ab"] == [True, False]

    assert [event.name for event in events] == ["store.degraded"]
    assert "cannot be used" in events[0].facts["reason"]
    store.close()


async def test_degraded_store_recovers(tmp_path, events):
    """Some seconds later the store is asked again; what was spent meanwhile is charged to it when settled."""
    path, now = tmp_path / "ledger.sqlite", [1000.0]
    path.write_bytes(b"no database at all, " * 500)
    store = degraded(SqliteStore(path), events, now)
    assert (await store.aexecute(reserve())).ok
    path.unlink()
    assert (await store.aexecute(reserve("2"))).denied
    now[0] += 6

    settled = await store.aexecute(Settle(charges=(charge(45),), row=ROW))

    assert (settled.was, spent(store)) == ("unknown", 45)
    assert [event.name for event in events] == ["store.degraded", "store.recovered"]
    await store.aclose()


def test_degrading_warns_where_nobody_listens(tmp_path):
    """Without a listener the event is a Python warning."""
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"no database at all, " * 500)
    store = open_store(StoreConfig(url=f"sqlite:{path}", on_failure="memory"))

    with pytest.warns(RuntimeWarning, match="store.degraded"):
        store.execute(reserve())
    store.close()


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


async def test_unreachable_redis_is_an_error_without_its_password():
    """A server that is not there stops the call, blocking or not, and the password stays out of it."""
    store = RedisStore("redis://:hidden@127.0.0.1:1/0")

    with pytest.raises(StoreError, match=r"127\.0\.0\.1:1 cannot be used .*start the Redis server") as caught:
        store.execute(reserve())
    with pytest.raises(StoreError):
        await store.aexecute(reserve())

    assert "hidden" not in str(caught.value)
    await store.aclose()


def test_redis_that_dies_and_comes_back_is_used_again(tmp_path):
    """After a restart the script is loaded again and calls go on."""
    with redis_server.running(tmp_path) as url:
        store = RedisStore(url)
        assert store.execute(reserve()).ok
        store._client.script_flush()

        assert not store.execute(reserve("2")).ok
    with pytest.raises(StoreError):
        store.execute(reserve("3"))
    store.close()


async def test_redis_loads_its_script_for_coroutines_too(tmp_path):
    """The first coroutine on a fresh server needs no blocking call before it."""
    with redis_server.running(tmp_path) as url:
        store = RedisStore(url)

        assert (await store.aexecute(reserve())).ok

        await store.aclose()
        await store.aclose()


def test_without_the_redis_package_the_error_says_what_to_install(monkeypatch):
    """The extra is named."""
    monkeypatch.setitem(__import__("sys").modules, "redis.asyncio", None)

    with pytest.raises(ConfigError, match=r"pip install 'blueprint-llm\[redis\]'"):
        RedisStore("redis://127.0.0.1:1/0").execute(reserve())


def test_racing_breaker_reports_are_all_counted(tmp_path):
    """Sixteen threads that report failures to Redis at once lose none."""
    with redis_server.running(tmp_path) as url:
        store = RedisStore(url)
        report = BreakerReport(target="t", ok=False, failures=10**6)
        threads = [threading.Thread(target=store.execute, args=(report,)) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert store.execute(BreakerStates(targets=("t",)))["t"].failures == 16
        store.close()


def test_endless_contention_is_an_error(tmp_path, monkeypatch):
    """A breaker that something else keeps changing gives up with an error."""
    monkeypatch.setattr(redis_module, "_SWAPS", 0)
    with redis_server.running(tmp_path) as url:
        store = RedisStore(url)

        with pytest.raises(StoreError, match="contended"):
            store.execute(BreakerReport(target="t", ok=False))
        store.close()
