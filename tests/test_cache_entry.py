import dataclasses
import json
import math

import pytest
from caching import CHUNKS, FULL, MESSAGE, WHOLE, chunk, entry_of
from hypothesis import example, given, settings
from hypothesis import strategies as st

from blueprint_llm.cache import Entry, storable
from blueprint_llm.cache.entry import Chunks, seal, unseal

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False, allow_infinity=False) | st.text("ab"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=2), inner, max_size=3),
    max_leaves=6,
)
CHUNK = st.dictionaries(st.sampled_from("abcde"), JSON, max_size=5)


def test_an_entry_survives_its_bytes():
    """What is loaded is what was dumped: every field of the response and of every chunk, known or not."""
    loaded = Entry.load(FULL.dump())

    assert loaded == FULL
    assert (loaded.whole, tuple(loaded.chunks)) == (WHOLE, CHUNKS)
    assert (loaded.content, loaded.tool_calls) == (MESSAGE["content"], FULL.tool_calls)
    assert (loaded.usage.cached_tokens, loaded.saved_nano) == (2, 250_000_000)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("content", "changed"),
        ("content", ""),
        ("whole", {}),
        ("whole", {"choices": []}),
        ("whole", {"choices": [{}]}),
        ("whole", {"choices": [{"message": None}]}),
        ("chunks", ()),
        ("usage", None),
        ("tool_calls", ()),
        ("saved_nano", None),
    ],
)
def test_what_differs_from_the_response_survives_too(field, value):
    """An entry gives back what it was made of, also where that is not what its response says."""
    entry = dataclasses.replace(FULL, **{field: value})

    assert Entry.load(entry.dump()) == entry
    assert getattr(Entry.load(entry.dump()), field) == value


def test_an_entry_holds_its_text_once():
    """Neither the answer nor what all chunks repeat is written again and again."""
    text = "x" * 5000
    chunks = [chunk({"content": "y"}) for _ in range(100)]

    assert len(entry_of(text).dump()) < 5400
    assert len(entry_of(chunks=chunks).dump()) < len(json.dumps(chunks)) * 0.6


@settings(max_examples=150, deadline=None)
@given(chunks=st.lists(CHUNK, max_size=5))
@example([{"a": 1}, {"a": True}, {"a": 1.0}, {}, {"b": 1}])
def test_any_chunks_survive(chunks):
    """Whatever first and later chunks have in common, lack, or say in another type, each comes back as it was."""
    assert json.dumps(list(Chunks(Chunks.of(chunks).text)), sort_keys=True) == json.dumps(chunks, sort_keys=True)


def test_each_reader_gets_chunks_of_its_own():
    """Who changes a chunk, or the response, changes nobody else's."""
    first, second = Entry.load(FULL.dump()), Entry.load(FULL.dump())
    next(iter(first.chunks))["choices"].clear()
    first.whole["choices"].clear()

    assert second == FULL
    assert tuple(first.chunks) == CHUNKS


def test_chunks_are_compared_by_what_they_say():
    """They equal any sequence of the same chunks, and are true exactly if there are any."""
    chunks = Chunks.of(CHUNKS)

    assert chunks == CHUNKS == chunks
    assert chunks != CHUNKS[1:]
    assert chunks != "chunks"
    assert (bool(chunks), bool(Chunks.of(())), bool(Entry.load(entry_of().dump()).chunks)) == (True, False, False)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(-math.inf, id="infinite"),
        pytest.param(math.nan, id="no number"),
        pytest.param(1 << 70, id="huge"),
        pytest.param("\ud800", id="surrogate"),
        pytest.param({1: 2}, id="a number as a name"),
        pytest.param((1, 2), id="tuple"),
        pytest.param(object(), id="object"),
    ],
)
@pytest.mark.parametrize("place", ["whole", "chunks"])
def test_what_json_cannot_give_back_is_refused(value, place):
    """No entry comes back otherwise than it was: such an answer is not kept."""
    given = {"whole": {**WHOLE, "x": value}, "chunks": ({"x": value},)}[place]

    with pytest.raises((TypeError, ValueError)):
        dataclasses.replace(FULL, **{place: given}).dump()


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"{}", b"[1]", b"null", b"\xff", b"\n\n", b"{}\n{}\n[]", b"1\n2\n3", b"{}\n[]\n[{}]"),
        b'{"tool_calls": [], "usage": null, "brand_new": 1}\n{}\n[{}]',
        b'{"tool_calls": [], "usage": {"brand_new": 1}}\n{}\n[{}]',
        b'{"tool_calls": [{}], "usage": null}\n{}\n[{}]',
        b'{"tool_calls": [], "usage": null}\n{"choices": 5}\n[{}]',
    ],
)
def test_other_bytes_are_no_entry(text):
    """Anything else is a ValueError."""
    with pytest.raises(ValueError):  # noqa: PT011 - the class is all that is promised
        Entry.load(text)


def test_an_entry_does_not_show_the_answer():
    """Its repr, which may end in a log, has no text of the conversation."""
    assert not any(word in repr(FULL) for word in ("Hello", "greet", "signature", "path"))


@pytest.mark.parametrize("secret", [None, b"", b"s" * 32], ids=["checksum", "no password", "password"])
def test_every_byte_is_sealed(secret):
    """A flipped bit anywhere, a cut, or another key: not the text that was sealed."""
    text = entry_of().dump()
    sealed = seal("n:1", text, secret)

    assert unseal("n:1", sealed, secret) == text
    for place in range(len(sealed)):
        flipped = bytes([*sealed[:place], sealed[place] ^ 1, *sealed[place + 1 :]])
        assert unseal("n:1", flipped, secret) is None
    assert unseal("n:2", sealed, secret) is None
    assert unseal("n:1", sealed[:10], secret) is None
    assert unseal("n:1", b"", secret) is None


def test_who_does_not_know_the_secret_cannot_seal():
    """An entry signed with another secret, or not at all, is none."""
    text = entry_of().dump()

    for forged in (seal("n:1", text, b"t" * 32), seal("n:1", text, b""), seal("n:1", text)):
        assert unseal("n:1", forged, b"s" * 32) is None


def answer(*choices, **message):
    """A response whose choices end with these reasons; `message` is what each says."""
    said = message or {"content": "x"}
    return {"choices": [{"finish_reason": each, "message": {"role": "assistant", **said}} for each in choices]}


@pytest.mark.parametrize(
    ("whole", "kept"),
    [
        pytest.param(answer("stop"), True, id="finished"),
        pytest.param(answer("tool_calls", content=None, tool_calls=[{}]), True, id="tool calls"),
        pytest.param(answer("function_call", function_call={"name": "f"}), True, id="function call"),
        pytest.param(answer("stop", content=[{"type": "text", "text": "x"}]), True, id="parts"),
        pytest.param(answer("stop", content=None, refusal="I will not."), True, id="refusal"),
        pytest.param(answer("stop", content=None, audio={"id": "a"}), True, id="audio"),
        pytest.param(answer("stop", "stop"), True, id="all choices finished"),
        pytest.param(answer("stop", content=" \n"), False, id="blank"),
        pytest.param(answer("stop", content=None), False, id="empty"),
        pytest.param(answer("stop", content="", reasoning_content="Hm."), False, id="reasoning only"),
        pytest.param(answer("length"), False, id="cut by length"),
        pytest.param(answer("content_filter"), False, id="filtered"),
        pytest.param(answer(None), False, id="no finish reason"),
        pytest.param(answer("stop", "length"), False, id="one choice cut"),
        pytest.param({"choices": []}, False, id="no choice"),
        pytest.param({"choices": [{"finish_reason": "stop"}]}, False, id="no message"),
        pytest.param({}, False, id="nothing"),
    ],
)
def test_only_finished_answers_are_kept(whole, kept):
    """Nothing that is not finished, or says nothing."""
    assert storable(whole, status="ok", ended_by="terminal") == kept


@pytest.mark.parametrize(
    ("status", "ended_by"),
    [("suspect", "terminal"), ("incomplete", "terminal"), ("invalid", "terminal"), ("ok", "invented"), ("ok", "none")],
)
def test_only_proven_answers_are_kept(status, ended_by):
    """Nothing whose calls are invalid or whose end somebody made up."""
    assert not storable(answer("stop"), status=status, ended_by=ended_by)
