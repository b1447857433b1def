import asyncio
import time

import pytest
import redis_server

from blueprint_llm.cache import MemoryCache, NoCache, open_store
from blueprint_llm.cache.disk import DiskCache
from blueprint_llm.cache.ops import Beat, Clear, Drop, Get, Lease, Measure, Put, Release
from blueprint_llm.cache.redis_cache import RedisCache
from blueprint_llm.config.blocks import Cache, StoreConfig
from blueprint_llm.errors import StoreError


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory):
    """A real server."""
    with redis_server.running(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(params=["memory", "disk", "redis"])
def store(request, tmp_path):
    """Each kind of store, empty."""
    match request.param:
        case "memory":
            store = MemoryCache()
        case "disk":
            store = DiskCache(tmp_path / "cache")
        case "redis":
            store = RedisCache(request.getfixturevalue("redis_url"), prefix=f"{{test}}:{tmp_path.name}")
    yield store
    store.close()


@pytest.fixture(params=["execute", "aexecute"])
def run(request, store):
    """Run an operation, blocking or as a coroutine."""
    if request.param == "execute":
        yield store.execute
        return
    with asyncio.Runner() as runner:

        async def once(op):
            return await store.aexecute(op)

        yield lambda op: runner.run(once(op))
        runner.run(store.aclose())


def eventually(check, within_s=5.0):
    """Whether `check` comes true in time."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        if check():
            return True
        time.sleep(0.01)
    return False


def test_cache_keeps_bytes(run):
    """What is put is found until it is dropped; the newest value wins."""
    assert run(Get(key="n:1")) is None

    run(Put(key="n:1", value=b"old", ttl_s=60))
    run(Put(key="n:1", value=b"\0new\xff", ttl_s=60))

    assert run(Get(key="n:1")) == b"\0new\xff"
    assert run(Get(key="n:2")) is None
    run(Drop(key="n:1"))
    assert run(Get(key="n:1")) is None


def test_cache_entries_expire_by_themselves(run):
    """Each entry has its own time to live."""
    run(Put(key="n:short", value=b"1", ttl_s=0.05))
    run(Put(key="n:long", value=b"2", ttl_s=60))

    assert eventually(lambda: run(Get(key="n:short")) is None)
    assert run(Get(key="n:long")) == b"2"


def test_cache_measures_and_clears(run):
    """Clearing takes a namespace, old entries, or all; leases are no entries."""
    for name in ("a:1", "a:2", "b:1"):
        run(Put(key=name, value=b"12345", ttl_s=60))
    run(Lease(key="a:3", owner="me"))

    assert (run(Measure()).entries, run(Measure()).bytes) == (3, 15)
    assert run(Clear(older_than_s=3600)) == 0
    assert run(Clear(namespace="a")) == 2
    assert run(Get(key="b:1")) == b"12345"
    assert run(Clear()) == 1
    assert run(Measure()).entries == 0


def test_lease_has_one_holder(run):
    """The first asker holds a lease; others hear whom they wait for, until it is given back."""
    mine = run(Lease(key="n:1", owner="me"))
    yours = run(Lease(key="n:1", owner="you"))

    assert mine.mine
    assert (yours.mine, yours.flight) == (False, "me")
    assert run(Lease(key="n:2", owner="you")).mine
    run(Release(key="n:1", owner="you"))
    assert not run(Lease(key="n:1", owner="you", flight="me")).mine
    run(Release(key="n:1", owner="me"))
    assert run(Lease(key="n:1", owner="you", flight="me")).flight == ""
    assert run(Lease(key="n:1", owner="you")).mine


def test_lease_of_a_dead_holder_is_taken_once(run):
    """When a holder stops beating, one of those who wait takes over; the flight keeps its name for the others."""
    run(Lease(key="n:1", owner="dead", ttl_s=0.05))

    assert eventually(lambda: run(Lease(key="n:1", owner="second", flight="dead")).mine)
    third = run(Lease(key="n:1", owner="third", flight="dead"))
    assert (third.mine, third.flight) == (False, "dead")
    assert not run(Beat(key="n:1", owner="dead")).mine
    run(Release(key="n:1", owner="dead"))
    assert run(Beat(key="n:1", owner="second")).mine


def test_who_waited_for_another_flight_does_not_take_a_stale_lease(run):
    """The flight that it waited for is over: it goes alone."""
    run(Lease(key="n:1", owner="dead", ttl_s=0.01))
    time.sleep(0.05)

    assert not run(Lease(key="n:1", owner="me", flight="another")).mine
    assert run(Lease(key="n:1", owner="me", flight="dead")).mine


def test_lease_lives_while_it_beats(run):
    """A heartbeat keeps a lease beyond its time."""
    run(Lease(key="n:1", owner="me", ttl_s=0.05))
    run(Beat(key="n:1", owner="me", ttl_s=60))
    time.sleep(0.1)

    assert not run(Lease(key="n:1", owner="you", flight="me")).mine


def test_a_new_caller_takes_a_stale_lease(run):
    """Nobody has to have waited for a dead holder to replace it."""
    run(Lease(key="n:1", owner="dead", ttl_s=0.01))

    assert eventually(lambda: run(Lease(key="n:1", owner="new")).mine)


def test_a_lease_that_nobody_can_have_taken_holds_nobody_up(run):
    """One that would last for days was planted, or the clock was set back: the next caller takes it."""
    run(Lease(key="n:1", owner="planted", ttl_s=86400))

    assert run(Lease(key="n:1", owner="me")).mine


def test_no_cache_keeps_nothing():
    """The null store finds nothing and lets everybody fetch."""
    store = NoCache()
    store.execute(Put(key="n:1", value=b"1", ttl_s=60))

    assert store.execute(Get(key="n:1")) is None
    assert asyncio.run(store.aexecute(Lease(key="n:1", owner="me"))).mine
    assert store.execute(Lease(key="n:1", owner="you")).mine
    assert (store.execute(Measure()).entries, store.execute(Clear())) == (0, 0)
    store.close()
    asyncio.run(store.aclose())


def test_memory_evicts_what_it_stored_first():
    """The size cap holds; a value larger than all of it is not kept."""
    store = MemoryCache(size_limit_bytes=10)
    for name in "abc":
        store.execute(Put(key=name, value=b"1234", ttl_s=60))
    store.execute(Put(key="d", value=b"12345678901", ttl_s=60))

    assert [store.execute(Get(key=name)) for name in "abcd"] == [None, b"1234", b"1234", None]
    asyncio.run(store.aclose())
    assert store.execute(Measure()).bytes == 0


@pytest.mark.parametrize(
    ("cache", "url", "kind"),
    [
        pytest.param({}, "sqlite", NoCache, id="off unless enabled"),
        pytest.param({"enabled": True}, "sqlite", DiskCache, id="beside the ledger on disk"),
        pytest.param({"enabled": True}, "memory", MemoryCache, id="memory"),
        pytest.param({"enabled": True}, "redis://127.0.0.1:1/0", RedisCache, id="redis"),
        pytest.param(
            {"enabled": True, "directory": "~/x"}, "redis://127.0.0.1:1/0", DiskCache, id="a folder of its own"
        ),
    ],
)
def test_the_configuration_chooses_the_store(cache, url, kind):
    """The cache follows the ledger unless it has a folder of its own."""
    assert isinstance(open_store(Cache(**cache), StoreConfig(url=url)), kind)


def test_redis_that_is_away_is_named_without_its_password():
    """The error says where, and what to do."""
    store = RedisCache("redis://:hunter2secret@127.0.0.1:1/0")

    with pytest.raises(StoreError, match=r"127\.0\.0\.1:1 cannot be used") as caught:
        store.execute(Get(key="n:1"))
    assert "hunter2secret" not in str(caught.value)
