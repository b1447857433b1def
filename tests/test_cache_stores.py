import asyncio
import socket

import pytest
import redis_server

from blueprint_llm.cache import MemoryCache, NoCache, open_store
from blueprint_llm.cache.disk import DiskCache
from blueprint_llm.cache.redis_store import RedisCache
from blueprint_llm.config.blocks import Cache, StoreConfig
from blueprint_llm.errors import StoreError


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory):
    """A real server."""
    with redis_server.running(tmp_path_factory.mktemp("redis")) as url:
        yield url


def opened(kind, request, tmp_path):
    """A store of a kind, empty."""
    match kind:
        case "memory":
            return MemoryCache()
        case "disk":
            return DiskCache(tmp_path / "cache")
    return RedisCache(request.getfixturevalue("redis_url"), prefix=f"{{test}}:{tmp_path.name}")


@pytest.fixture(params=["memory", "disk", "redis"])
async def store(request, tmp_path):
    """Each kind of store."""
    store = opened(request.param, request, tmp_path)
    yield store
    await store.aclose()


@pytest.fixture(params=["disk", "redis"])
async def shared(request, tmp_path):
    """The stores that processes share."""
    store = opened(request.param, request, tmp_path)
    yield store
    await store.aclose()


async def eventually(check):
    """Wait until `check` comes true."""
    async with asyncio.timeout(5):
        while not await check():  # noqa: ASYNC110 - nobody could set an event
            await asyncio.sleep(0.005)


async def test_cache_keeps_bytes(store):
    """What is put is found until it is dropped; the newest value wins."""
    assert await store.get("n:1") is None

    await store.put("n:1", b"old", 60)
    await store.put("n:1", b"\0new\xff", 60)

    assert await store.get("n:1") == b"\0new\xff"
    assert await store.get("n:2") is None
    await store.drop("n:1")
    assert await store.get("n:1") is None


@pytest.mark.parametrize("size", [0, 1 << 16, 1 << 20], ids=["empty", "inline", "in a thread"])
async def test_cache_keeps_any_size(store, size):
    """A value is given back to the last byte."""
    value = bytes(range(256)) * (size // 256)
    await store.put("n:1", value, 60)

    assert await store.get("n:1") == value


async def test_cache_entries_expire_by_themselves(store):
    """Each entry has its own time to live."""
    await store.put("n:short", b"1", 0.02)
    await store.put("n:long", b"2", 60)

    async def is_gone():
        return await store.get("n:short") is None

    await eventually(is_gone)
    assert await store.get("n:long") == b"2"


async def test_cache_measures_and_clears(store):
    """Clearing takes a namespace, old entries, or all; leases are no entries."""
    for name in ("a:1", "a:2", "b:1"):
        await store.put(name, b"12345", 60)
    await store.lease("a:3", "me", 60)

    amount = await store.measure()
    assert (amount.entries, amount.bytes) == (3, 15)
    assert await store.clear(older_than_s=3600) == 0
    assert await store.clear("a") == 2
    assert await store.get("b:1") == b"12345"
    assert await store.clear() == 1
    assert (await store.measure()).entries == 0


async def test_cache_works_in_one_event_loop_after_another(store):
    """A store outlives the loop it was first used in, and serves two at once."""
    await store.put("n:1", b"here", 60)

    async def other():
        found = await store.get("n:1")
        await store.put("n:2", b"there", 60)
        if isinstance(store, RedisCache):
            await store.aclose()  # this loop's connections
        return found

    assert await asyncio.to_thread(asyncio.run, other()) == b"here"
    assert await store.get("n:2") == b"there"


async def test_a_lease_has_one_holder(shared):
    """Others are refused until it is given back, and only its holder can give it back."""
    assert await shared.lease("n:1", "me", 60)
    assert not await shared.lease("n:1", "you", 60)
    assert await shared.lease("n:2", "you", 60)

    await shared.release("n:1", "you")
    assert not await shared.lease("n:1", "you", 60)
    await shared.release("n:1", "me")
    assert await shared.lease("n:1", "you", 60)


async def test_a_lease_of_a_dead_holder_is_taken_by_one(shared):
    """One that is not renewed is free, and who comes back from the dead does not get it again."""
    await shared.lease("n:1", "dead", 0.02)

    async def is_taken():
        return await shared.lease("n:1", "second", 60)

    await eventually(is_taken)
    assert not await shared.lease("n:1", "third", 60)
    assert not await shared.lease("n:1", "dead", 60)
    await shared.release("n:1", "dead")
    assert not await shared.lease("n:1", "third", 60)


async def test_a_lease_lives_while_it_is_renewed(shared):
    """Renewing keeps it beyond its first time."""
    await shared.lease("n:1", "me", 0.2)
    assert await shared.lease("n:1", "me", 60)
    await asyncio.sleep(0.3)

    assert not await shared.lease("n:1", "you", 60)


async def test_one_of_many_takes_a_lease(shared):
    """Of askers at once exactly one is lent it."""
    taken = await asyncio.gather(*(shared.lease("n:1", f"owner {n}", 60) for n in range(20)))

    assert taken.count(True) == 1


async def test_no_cache_keeps_nothing():
    """The null store finds nothing and lets everybody fetch."""
    store = NoCache()
    await store.put("n:1", b"1", 60)

    assert await store.get("n:1") is None
    assert await store.lease("n:1", "me", 60)
    assert await store.lease("n:1", "you", 60)
    assert ((await store.measure()).entries, await store.clear()) == (0, 0)
    await store.aclose()


async def test_memory_evicts_what_it_stored_first():
    """The size cap holds; a value larger than all of it is not kept."""
    store = MemoryCache(size_limit_bytes=10)
    for name in "abc":
        await store.put(name, b"1234", 60)
    await store.put("d", b"12345678901", 60)

    assert [await store.get(name) for name in "abcd"] == [None, b"1234", b"1234", None]
    await store.aclose()
    assert (await store.measure()).bytes == 0


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
    assert type(open_store(Cache(**cache), StoreConfig(url=url))) is kind


async def test_redis_that_is_away_is_named_without_its_password():
    """The error says where, and what to do."""
    store = RedisCache("redis://:hunter2secret@127.0.0.1:1/0")

    with pytest.raises(StoreError, match=r"127\.0\.0\.1:1 cannot be used") as caught:
        await store.get("n:1")
    assert "hunter2secret" not in str(caught.value)


async def test_redis_that_is_frozen_is_not_waited_for():
    """A server that accepts and says nothing costs its time limit, not the call's."""
    with socket.create_server(("127.0.0.1", 0)) as frozen:
        store = RedisCache(f"redis://127.0.0.1:{frozen.getsockname()[1]}/0", wait_s=0.05)

        with pytest.raises(StoreError, match="TimeoutError"):
            async with asyncio.timeout(1):
                await store.get("n:1")
        await store.aclose()
