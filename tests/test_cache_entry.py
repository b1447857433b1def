import dataclasses

import pytest

from blueprint_llm.cache import CacheManager, Entry, MemoryCache, Seal, storable
from blueprint_llm.cache import manager as manager_module
from blueprint_llm.cache.ops import Get, Lease, Put
from blueprint_llm.errors import StoreError
from blueprint_llm.streaming import StreamVerdict
from blueprint_llm.types import ChatResponse, PartialToolCall, ToolCall, UsageInfo

CALL = ToolCall(id="c1", name="read", arguments={"path": "ä"})
RESPONSE = ChatResponse(
    content="Hello\nworld \U0001f600",
    finish_reason="tool_calls",
    usage=UsageInfo(prompt_tokens=3, completion_tokens=4, total_tokens=7, estimated_cost=0.25, cached_tokens=2),
    tool_calls=[CALL],
    provider="cloud",
    model="openai/gpt-4o",
)
DELTAS = [
    "Hello",
    "\nworld",
    PartialToolCall(index=1, id="c1", name="read"),
    PartialToolCall(index=1, arguments_delta="{"),
]
RAW = {
    "id": "r1",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": RESPONSE.content, "tool_calls": [1]}},
        {"index": 1, "message": {"content": "another"}},
    ],
}
ENTRY = Entry.of(RESPONSE, RAW, DELTAS, at=5.0)


def test_an_entry_survives_its_bytes():
    """What is loaded is what was dumped, deltas and raw response included; a hit costs nothing and saved something."""
    loaded = Entry.load(ENTRY.dump())

    assert loaded == ENTRY
    assert (loaded.content, loaded.tool_calls, loaded.deltas) == (RESPONSE.content, (CALL,), DELTAS)
    assert (loaded.raw, loaded.saved_nano, loaded.usage.estimated_cost) == (RAW, 250_000_000, 0.0)
    assert loaded.usage.cached_tokens == 2


@pytest.mark.parametrize(
    "raw", [{}, {"choices": []}, {"choices": [{"message": {"content": "changed"}}]}, {"choices": [{}]}]
)
def test_any_raw_response_survives(raw):
    """Also one whose text is not the answer's."""
    assert Entry.load(Entry.of(RESPONSE, raw, [], at=0).dump()).raw == raw


def test_an_entry_holds_its_text_once():
    """The answer is no part of the raw response that is kept."""
    long = RESPONSE.model_copy(update={"content": "x" * 5000})
    raw = {"choices": [{"message": {"content": long.content}}]}

    assert len(Entry.of(long, raw, [], at=0).dump()) < 5500


def test_an_answer_that_came_whole_is_replayed_in_one_piece():
    """Without deltas the text is the only one; without text there is none."""
    assert Entry.of(RESPONSE, {}, [], at=0).deltas == [RESPONSE.content]
    assert Entry.of(RESPONSE.model_copy(update={"content": "", "usage": None}), {}, [], at=0).deltas == []


@pytest.mark.parametrize("text", [b"", b"{}", b"[1]", b"null", b'["a",null,5,[],0,0]', b"\xff"])
def test_other_bytes_are_no_entry(text):
    """Anything else is a ValueError."""
    with pytest.raises(ValueError):  # noqa: PT011 - the class is all that is promised
        Entry.load(text)


def test_every_byte_is_sealed():
    """A flipped bit anywhere, another key or another secret: not an entry."""
    seal = Seal(b"s" * 32)
    sealed = seal.close("n:1", ENTRY.dump())

    assert seal.open("n:1", sealed) == ENTRY.dump()
    for place in range(len(sealed)):
        flipped = bytes([*sealed[:place], sealed[place] ^ 1, *sealed[place + 1 :]])
        assert seal.open("n:1", flipped) is None
    assert seal.open("n:2", sealed) is None
    assert Seal(b"t" * 32).open("n:1", sealed) is None
    assert seal.open("n:1", sealed[:10]) is None


def test_the_users_secret_is_made_once_and_private(bare_environment, monkeypatch):
    """Two seals of one user agree; the file is nobody else's."""
    sealed = Seal.of_user().close("n:1", b"text")
    file = next(bare_environment.rglob("cache.key"))

    assert Seal.of_user().open("n:1", sealed) == b"text"
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(file.parent.iterdir()) == [file]
    monkeypatch.setenv("BLUEPRINT_HOME", "/dev/null/none")
    assert Seal.of_user().open("n:1", sealed) is None


def verdict(status="ok", ended_by="terminal", finish_reason="stop", choices=()):
    """A verdict on an answer."""
    return StreamVerdict(status=status, ended_by=ended_by, finish_reason=finish_reason, text="x", choices=choices)


@pytest.mark.parametrize(
    ("found", "content", "kept"),
    [
        pytest.param(verdict(), "x", True, id="finished"),
        pytest.param(verdict(finish_reason="tool_calls"), "x", True, id="tool calls"),
        pytest.param(verdict(), " \n", False, id="empty"),
        pytest.param(verdict(finish_reason="length"), "x", False, id="cut by length"),
        pytest.param(verdict(finish_reason="content_filter"), "x", False, id="filtered"),
        pytest.param(verdict(finish_reason=None), "x", False, id="no finish reason"),
        pytest.param(verdict(status="suspect"), "x", False, id="suspect"),
        pytest.param(verdict(status="incomplete"), "x", False, id="incomplete"),
        pytest.param(verdict(ended_by="invented"), "x", False, id="invented end"),
        pytest.param(verdict(choices=(verdict(), verdict(finish_reason="length"))), "x", False, id="one choice cut"),
        pytest.param(verdict(choices=(verdict(), verdict())), "x", True, id="all choices finished"),
    ],
)
def test_only_complete_answers_are_kept(found, content, kept):
    """Nothing that is not finished beyond doubt."""
    response = RESPONSE.model_copy(update={"content": content, "tool_calls": []})

    assert storable(response, found) == kept


class BrokenCache(MemoryCache):
    """Fails while `broken`."""

    broken = True

    def execute(self, op):
        """Fail, or keep."""
        if self.broken:
            raise StoreError("the disk is gone")
        return super().execute(op)


async def test_a_store_in_trouble_is_a_miss_told_once_and_left_alone():
    """Nothing is raised; one event; the store is not asked again for a while."""
    events = []
    store = BrokenCache()
    manager = CacheManager(store, on_event=events.append, seal=Seal())

    manager.put("n:1", ENTRY)
    assert manager.get("n:1") is None
    assert await manager.aexecute(Get(key="n:1")) is None
    manager._back_at = 0
    assert (await manager.aexecute(Lease(key="n:1", owner="me"))).mine
    assert [event.name for event in events] == ["cache.failed"]
    store.broken = False
    assert manager.get("n:1") is None
    manager._back_at = 0
    manager.put("n:1", ENTRY)
    assert manager.get("n:1") == ENTRY
    store.broken = True
    with pytest.raises(StoreError):
        manager.measure()
    await manager.aclose()


def test_trouble_is_a_warning_where_nobody_listens():
    """By default people hear of it as of any Python warning; as an error it still fails no call."""
    manager = CacheManager(BrokenCache(), seal=Seal())

    assert manager.get("n:1") is None  # warnings are errors here

    other = CacheManager(BrokenCache(), seal=Seal())
    with pytest.warns(RuntimeWarning, match="the disk is gone"):
        other.get("n:1")
    other.close()


def test_a_damaged_entry_is_a_miss():
    """An entry whose seal does not hold is not used, and that is told once."""
    events = []
    store = MemoryCache()
    manager = CacheManager(store, on_event=events.append)
    manager.put("n:1", ENTRY)
    sealed = store.execute(Get(key="n:1"))
    store.execute(Put(key="n:2", value=sealed, ttl_s=60))

    assert manager.get("n:1") == ENTRY
    assert manager.get("n:2") is None
    assert manager.entry_of("n:1", b"x") is None
    assert [event.name for event in events] == ["cache.failed"]


def test_manager_by_itself():
    """Entries have their own time, a caller may want a fresh one, projects are cleared apart."""
    now = [1000.0]
    store = MemoryCache(clock=lambda: now[0])
    manager = CacheManager(store, seal=Seal(), clock=lambda: now[0], ttl_s=100)
    fresh = Entry.of(RESPONSE, {}, [], at=now[0])
    manager.put("n:1", fresh)
    manager.put("n:2", fresh, ttl_s=10)
    now[0] += 50

    assert manager.get("n:1") == fresh
    assert manager.get("n:2") is None
    assert manager.entry_of("n:1", store.execute(Get(key="n:1")), 40) is None
    assert manager.measure().entries == 2
    assert manager.clear("unknown project") == 0
    assert manager.clear(older_than_s=60) == 0
    assert manager.clear() == 2


def test_a_hot_entry_is_not_read_every_time(monkeypatch):
    """What was found is good for a second, but not beyond its own time, a caller's wish or a `clear`."""
    now = [1000.0]
    manager = CacheManager(MemoryCache(), seal=Seal(), clock=lambda: now[0], ttl_s=100)
    manager.put("n:1", Entry.of(RESPONSE, {}, [], at=now[0]))
    assert manager.recent("n:1") is None
    found = manager.get("n:1")

    assert manager.recent("n:1") == found
    now[0] += 50
    assert manager.recent("n:1", max_age_s=40) is None
    assert manager.recent("n:1", max_age_s=60) == found
    now[0] += 50
    assert manager.recent("n:1") is None
    now[0] = 1000.0
    monkeypatch.setattr(manager_module, "FRESH_S", 0.0)
    assert manager.recent("n:1") is None
    monkeypatch.undo()
    assert manager.recent("n:1") == found
    manager.clear()
    assert manager.recent("n:1") is None


def test_few_entries_are_held_in_memory(monkeypatch):
    """Their number is bounded, and so is the size of each."""
    monkeypatch.setattr(manager_module, "MOST_RECENT", 3)
    manager = CacheManager(MemoryCache(), seal=Seal())
    manager.put("n:large", dataclasses.replace(ENTRY, content="x" * (1 << 18)))
    assert manager.get("n:large") is not None
    assert manager.recent("n:large") is None
    for n in range(5):
        manager.put(f"n:{n}", ENTRY)
        manager.get(f"n:{n}")

    assert [manager.recent(f"n:{n}") is not None for n in range(5)] == [False, False, False, True, True]
