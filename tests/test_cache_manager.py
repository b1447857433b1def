"""The manager by itself: ages and projects, and a store in trouble, which is a miss that is told once per outage."""

import pytest
import redis_server
from caching import FULL, entry_of

from blueprint_llm.cache import CacheManager, MemoryCache
from blueprint_llm.cache import manager as manager_module
from blueprint_llm.cache.entry import seal
from blueprint_llm.cache.redis_store import RedisCache
from blueprint_llm.cache.store import RepairedError
from blueprint_llm.config import load_config
from blueprint_llm.errors import StoreError
from blueprint_llm.redaction import register
from blueprint_llm.types import ToolCall


class BrittleCache(MemoryCache):
    """Fails while `broken`; `damages` operations find it damaged and repaired."""

    broken = False
    damages = 0
    asked = 0

    async def get(self, key):
        """Fail, or look."""
        self.asked += 1
        if self.broken:
            raise StoreError("the disk is gone")
        if self.damages:
            self.damages -= 1
            raise RepairedError("it was damaged")
        return await super().get(key)

    async def measure(self):
        """Fail, or measure."""
        await self.get("")
        return await super().measure()

    async def aclose(self):
        """Fail, or close."""
        await self.get("")


@pytest.fixture
def events():
    """What was told."""
    return []


@pytest.fixture
def store():
    """A store that can be made to fail."""
    return BrittleCache()


@pytest.fixture
def manager(store, events):
    """A manager over it."""
    return CacheManager(store, on_event=events.append)


def told(events):
    """The names of the events, and who should hear of them."""
    return [(event.name, event.level) for event in events]


async def test_an_entry_comes_back_whole(manager, events):
    """What was kept is found, with everything in it."""
    assert await manager.lookup("n:1") is None

    await manager.keep("n:1", FULL)

    assert await manager.lookup("n:1") == FULL
    assert events == []


async def test_entries_have_their_own_time_and_callers_their_own_wishes():
    """The entry's time to live, the oldest that a caller takes, and clearing by project and age."""
    now = [1000.0]
    manager = CacheManager(MemoryCache(clock=lambda: now[0]), clock=lambda: now[0], ttl_s=100)
    fresh = entry_of(at=now[0])
    await manager.keep("n:1", fresh)
    await manager.keep("n:2", fresh, ttl_s=10)
    now[0] += 50

    assert await manager.lookup("n:1") == fresh
    assert await manager.lookup("n:1", max_age_s=60) == fresh
    assert await manager.lookup("n:1", max_age_s=40) is None
    assert await manager.lookup("n:2") is None
    assert (await manager.measure()).entries == 2
    assert await manager.clear("unknown project") == 0
    assert await manager.clear(older_than_s=60) == 0
    assert await manager.clear() == 2


async def test_a_hot_entry_is_not_read_every_time(manager, store, monkeypatch):
    """What was found is good for a second, but not beyond a newer answer, a caller's wish or a `clear`."""
    await manager.keep("n:1", entry_of("old", at=1000.0))
    assert [(await manager.lookup("n:1")).content for _ in range(3)] == ["old"] * 3
    assert store.asked == 1

    assert await manager.lookup("n:1", max_age_s=60) is None
    await manager.keep("n:1", entry_of("new"))
    assert [(await manager.lookup("n:1")).content for _ in range(3)] == ["new"] * 3
    assert store.asked == 2
    monkeypatch.setattr(manager_module, "RECENT_S", 0)
    await manager.lookup("n:1")
    assert store.asked == 3
    monkeypatch.undo()
    await manager.clear()
    assert await manager.lookup("n:1") is None


async def test_each_hit_is_an_entry_of_its_own(manager):
    """Who changes what it got changes nobody else's."""
    await manager.keep("n:1", FULL)
    for _ in range(3):
        entry = await manager.lookup("n:1")
        assert entry == FULL
        entry.whole.clear()


async def test_few_entries_are_held_in_memory(manager, store, monkeypatch):
    """Their number is bounded, and so is the size of each."""
    monkeypatch.setattr(manager_module, "MOST_RECENT", 3)
    await manager.keep("n:large", entry_of("x" * (1 << 18)))
    for n in range(5):
        await manager.keep(f"n:{n}", entry_of())
        await manager.lookup(f"n:{n}")
    store.asked = 0

    for name in ("n:large", "n:large", "n:4", "n:3", "n:0"):
        assert await manager.lookup(name) is not None
    assert store.asked == 3


async def test_an_answer_that_repeats_a_secret_is_not_kept(manager, store):
    """Wherever it stands: no key reaches the store's bytes."""
    register("sk-0123456789abcdef")
    spoken = "Your key is sk-0123456789abcdef."
    call = ToolCall(id="c1", name="tell", arguments={"text": spoken})
    for entry in (entry_of(spoken), entry_of(tool_calls=(call,)), entry_of(chunks=({"x": [spoken]},))):
        await manager.keep("n:1", entry)

    assert (await store.measure()).entries == 0
    await manager.keep("n:1", entry_of())
    assert (await store.measure()).entries == 1


async def test_an_answer_that_json_cannot_hold_is_not_kept(manager, events):
    """It is no reason to fail, nor to tell anybody."""
    await manager.keep("n:1", entry_of(chunks=({"logprob": float("-inf")},)))

    assert await manager.lookup("n:1") is None
    assert events == []


async def test_an_outage_is_told_once_and_so_is_its_end(manager, store, events, monkeypatch):
    """Nothing is raised; the store is left alone for a while; the next outage is told again."""
    monkeypatch.setattr(manager_module, "RECENT_S", 0)
    await manager.keep("n:1", FULL)
    for _ in range(2):
        store.broken, store.asked = True, 0
        assert [await manager.lookup("n:1") for _ in range(3)] == [None] * 3
        assert store.asked == 1
        manager._back_at = 0
        assert await manager.lookup("n:1") is None
        assert told(events) == [("cache.failed", "warning")]
        store.broken = False
        assert await manager.lookup("n:1") is None
        manager._back_at = 0
        assert await manager.lookup("n:1") == FULL
        assert await manager.lookup("n:1") == FULL
        assert told(events) == [("cache.failed", "warning"), ("cache.recovered", "info")]
        assert events[0].facts == {"reason": "the disk is gone"}
        assert events[1].facts["after_s"] >= 0
        events.clear()


async def test_what_was_repaired_is_used_at_once(manager, store, events):
    """No pause after a repair: the same question is asked again and answered."""
    await manager.keep("n:1", FULL)
    store.damages = 1

    assert await manager.lookup("n:1") == FULL
    assert told(events) == [("cache.failed", "warning"), ("cache.recovered", "info")]


async def test_what_stays_damaged_is_an_outage(manager, store, events):
    """A repair that does not help is not repeated for ever."""
    store.damages = 10

    assert [await manager.lookup("n:1") for _ in range(9)] == [None] * 9
    assert store.damages == 8
    assert told(events) == [("cache.failed", "warning")]


async def test_measuring_and_clearing_tell_their_caller(manager, store, events):
    """They are somebody's question, not a call that must go on; closing never fails."""
    store.damages = 1
    assert (await manager.measure()).entries == 0
    store.broken = True
    with pytest.raises(StoreError, match="gone"):
        await manager.measure()
    await manager.aclose()


async def test_a_pause_ends_by_itself(manager, store, monkeypatch):
    """After it the store is asked again."""
    monkeypatch.setattr(manager_module, "PAUSE_S", 0)
    await manager.keep("n:1", FULL)
    store.broken = True
    assert await manager.lookup("n:1") is None
    store.broken = False

    assert await manager.lookup("n:1") == FULL


async def test_trouble_is_a_warning_where_nobody_listens(store):
    """By default people hear of it as of any Python warning; as an error it still fails no call."""
    store.broken = True

    assert await CacheManager(store).lookup("n:1") is None  # warnings are errors here
    with pytest.warns(RuntimeWarning, match="the disk is gone"):
        await CacheManager(store).lookup("n:1")


@pytest.mark.parametrize(
    "planted",
    [
        pytest.param(b"x", id="short"),
        pytest.param(b"", id="empty"),
        pytest.param(seal("n:2", FULL.dump()), id="another key's"),
        pytest.param(seal("n:1", b"{}\n{}\n[]"), id="no entry"),
        pytest.param(seal("n:1", FULL.dump(), b"secret"), id="a signed one"),
    ],
)
async def test_a_damaged_entry_is_a_miss_and_gone(manager, store, events, planted):
    """It is not used, told once, and deleted; the cache goes on at once."""
    await store.put("n:1", planted, 60)

    assert await manager.lookup("n:1") is None
    assert await store.get("n:1") is None
    assert told(events) == [("cache.failed", "warning"), ("cache.recovered", "info")]
    await manager.keep("n:1", FULL)
    assert await manager.lookup("n:1") == FULL


def configured(url, **cache):
    """A configuration with the cache on."""
    return load_config({"blueprint": {"store": {"url": url}, "cache": {"enabled": True, "ttl_s": 7, **cache}}})


async def test_entries_in_redis_are_signed(tmp_path, events):
    """Who can write to Redis without knowing its password plants nothing; all who know it share."""
    with redis_server.running(tmp_path, "--requirepass", "the-password") as url:
        config = configured(url.replace("redis://", "redis://:the-password@"))
        here, there = (CacheManager.of_config(config, on_event=events.append) for _ in range(2))
        await here.keep("n:1", FULL)
        assert await there.lookup("n:1") == FULL
        assert events == []
        for secret in (None, b"", b"guessed"):
            await here.store.put("n:2", seal("n:2", FULL.dump(), secret), 60)
            assert await there.lookup("n:2") is None
        await here.aclose()

    assert "the-password" not in repr(events)


async def test_redis_that_refuses_the_password_is_an_outage(tmp_path, events):
    """It is told without the password."""
    with redis_server.running(tmp_path, "--requirepass", "the-right-one") as url:
        manager = CacheManager(RedisCache(url.replace("redis://", "redis://:the-wrong-one@")), on_event=events.append)
        assert await manager.lookup("n:1") is None
        await manager.aclose()

    assert told(events) == [("cache.failed", "warning")]
    assert "the-wrong-one" not in repr(events)


async def test_a_manager_of_a_configuration(tmp_path):
    """It keeps where the configuration says, for as long; a cache that is off has no keys."""
    manager = CacheManager.of_config(configured("sqlite", directory=str(tmp_path / "here")))
    await manager.keep("n:1", FULL)

    assert (manager.enabled, manager.ttl_s) == (True, 7)
    assert (tmp_path / "here" / "cache.db").exists()
    await manager.aclose()
    off = CacheManager.of_config(configured("memory", enabled=False))
    assert (off.enabled, off.key_of(None)) == (False, None)
