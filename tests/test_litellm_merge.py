"""Chunks merged by shape: however an answer is cut up, it comes out as it was."""

import base64
import copy
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blueprint_llm.adapters.merge import Merger, as_delta, usage_of


def merged(*deltas, **around):
    """The message of one choice that came in these deltas."""
    return whole(*({"choices": [{"index": 0, "delta": delta, **around}]} for delta in deltas))["choices"][0]["message"]


def whole(*chunks):
    """What the chunks add up to."""
    merger = Merger()
    for chunk in chunks:
        merger.add(chunk)
    return merger.whole()


TEXT = st.text(alphabet="ab \n=é", min_size=1, max_size=12)
PROSE = st.dictionaries(st.sampled_from(["content", "reasoning_content", "refusal", "hologram"]), TEXT)
LABELLED = st.fixed_dictionaries({"type": st.just("t"), "id": TEXT, "text": TEXT, "flag": st.booleans()})
INDEXED = st.lists(LABELLED, max_size=3).map(lambda each: [{"index": n, **record} for n, record in enumerate(each)])
THOUGHT = st.builds(lambda text, sign: {"type": "thinking", "thinking": text, "signature": sign}, TEXT, TEXT)
HIDDEN = st.fixed_dictionaries({"type": st.just("redacted_thinking"), "data": TEXT})
FUNCTION = st.fixed_dictionaries({"name": TEXT, "arguments": TEXT})
CALLS = st.lists(st.fixed_dictionaries({"type": st.just("function"), "function": FUNCTION}), min_size=1, max_size=3)
MESSAGES = st.builds(
    lambda prose, more: {"role": "assistant", "content": None, **prose, **more},
    PROSE,
    st.fixed_dictionaries(
        {},
        optional={
            "tool_calls": CALLS.map(lambda calls: [{"id": f"c{n}", **call} for n, call in enumerate(calls)]),
            "thinking_blocks": st.lists(st.one_of(THOUGHT, HIDDEN), min_size=1, max_size=3),
            "reasoning_details": INDEXED.filter(bool),
            "annotations": st.lists(LABELLED, min_size=1, max_size=3),
            "scene": LABELLED,
            "tastes": st.lists(TEXT, min_size=1, max_size=3),
        },
    ),
)


def cut(draw, text):
    """A text in one piece or more, some of them empty."""
    places = [0, *sorted(draw(st.lists(st.integers(0, len(text)), max_size=3))), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(places)]


def pieces_of(draw, name, value):
    """The deltas in which a field of a message comes."""
    match value:
        case str() if name not in {"id", "type", "role", "name", "data"}:
            return [{name: piece} for piece in cut(draw, value)]
        case dict():
            return [{name: piece} for piece in record_pieces(draw, value)]
        case list() if name in {"tool_calls", "reasoning_details", "thinking_blocks"}:
            elements = [{"index": n, **each} if name != "thinking_blocks" else each for n, each in enumerate(value)]
            return [{name: [piece]} for each in elements for piece in record_pieces(draw, each)]
        case list():
            return [{name: [each]} for each in value]
        case _:
            return [{name: value}]


def record_pieces(draw, record):
    """An object in pieces: its labels with the first one or with each, its place with each, its texts one by one."""
    labels = {name: value for name, value in record.items() if name in {"id", "type"}}
    place = {name: value for name, value in record.items() if name == "index"}
    rest = [
        piece
        for name, value in record.items()
        if name not in {*labels, *place}
        for piece in pieces_of(draw, name, value)
    ]
    again = labels if draw(st.booleans()) else {}
    return [{**place, **(again if n else labels), **piece} for n, piece in enumerate(rest)]


def mixed(draw, queues):
    """The deltas of all fields in any order that keeps each field's own."""
    queues = [list(queue) for queue in queues if queue]
    while queues:
        chosen = draw(st.sampled_from(queues))
        yield chosen.pop(0)
        queues = [queue for queue in queues if queue]


@given(message=MESSAGES, data=st.data())
def test_a_message_survives_any_cut(message, data):
    """Text, reasoning, calls, thoughts and fields that nobody knows: any cut of a message adds up to it again."""
    queues = [pieces_of(data.draw, name, value) for name, value in message.items() if value is not None]

    assert merged({"role": "assistant", "content": None}, *mixed(data.draw, queues)) == message


@given(message=MESSAGES, data=st.data())
def test_nothing_that_was_given_is_changed_or_kept(message, data):
    """The chunks stay as they are, and a whole that a caller changes does not show in the next one."""
    queues = [pieces_of(data.draw, name, value) for name, value in message.items() if value is not None]
    chunks = [{"choices": [{"index": 0, "delta": delta}]} for delta in mixed(data.draw, queues)]
    given_, merger = copy.deepcopy(chunks), Merger()
    for chunk in chunks:
        merger.add(chunk)
    first = merger.whole()
    expected = copy.deepcopy(first)
    first["choices"][0]["message"].setdefault("tool_calls", []).append("spoilt")
    for name in first["choices"][0]["message"]:
        first["choices"][0]["message"][name] = "spoilt"

    assert chunks == given_
    assert merger.whole() == expected


@given(message=MESSAGES)
def test_an_answer_is_one_chunk_of_itself(message):
    """What is made a chunk and merged again is what it was."""
    answer = {"id": "i", "object": "chat.completion", "choices": [{"index": 0, "finish_reason": "stop"}]}
    answer["choices"][0]["message"] = message

    assert whole(as_delta(answer)) == answer


def call(index, call_id=None, name=None, arguments=""):
    """A piece of a tool call."""
    label = {} if call_id is None else {"id": call_id}
    return {
        "tool_calls": [
            {"index": index, "type": "function", **label, "function": {"name": name, "arguments": arguments}}
        ]
    }


def calls(message):
    """The calls of a message: id, name, arguments."""
    return [(each.get("id"), *each["function"].values()) for each in message["tool_calls"]]


CALLS_CASES = [
    pytest.param([call(0, "a", "f", "{"), call(0, None, None, "}")], [("a", "f", "{}")], id="in pieces"),
    pytest.param([call(0, "a", "f", "{"), call(0, "", "", "}")], [("a", "f", "{}")], id="empty labels (Azure)"),
    pytest.param([call(0, "a", "f", "{"), call(0, "a", "f", "}")], [("a", "f", "{}")], id="labels with every piece"),
    pytest.param([call(0, "a", "f", "{"), call(0, "b", None, "}")], [("a", "f", "{}")], id="a new id with every piece"),
    pytest.param(
        [call(0, "a", "f", "{}"), call(0, "b", "f", "{}")], [("a", "f", "{}"), ("b", "f", "{}")], id="one place for all"
    ),
    pytest.param(
        [call(0, "a", "f", "{"), call(1, "b", "g", "["), call(0, None, None, "}"), call(1, None, None, "]")],
        [("a", "f", "{}"), ("b", "g", "[]")],
        id="in turns",
    ),
    pytest.param([call(1, "a", "f", "11"), call(1, None, None, "11")], [("a", "f", "1111")], id="the same piece twice"),
]


@pytest.mark.parametrize(("deltas", "expected"), CALLS_CASES)
def test_tool_calls_are_told_apart(deltas, expected):
    """Pieces find their call by its place; a place with another id and name is another call, and no place is left."""
    message = merged(*deltas)

    assert calls(message) == expected
    assert not [each for each in message["tool_calls"] if "index" in each]


def thought(text=None, signature=None, kind="thinking", **more):
    """A piece of a thinking block."""
    return {"thinking_blocks": [{"type": kind, "thinking": text, "signature": signature, **more}]}


HIDDEN_BLOCK = {"thinking_blocks": [{"type": "redacted_thinking", "data": "x"}]}
BLOCKS = [
    pytest.param([thought("a"), thought("b"), thought("", "s")], [("thinking", "ab", "s")], id="signed at its end"),
    pytest.param(
        [thought("a", "s"), thought("b"), thought(None, "t")],
        [("thinking", "a", "s"), ("thinking", "b", "t")],
        id="the next one begins",
    ),
    pytest.param(
        [thought("a", index=0), thought("b", index=1)],
        [("thinking", "a", None), ("thinking", "b", None)],
        id="unsigned, at places of their own",
    ),
    pytest.param(
        [thought("a"), HIDDEN_BLOCK, HIDDEN_BLOCK, thought("b")],
        [("thinking", "a", None), ("redacted_thinking", "x"), ("redacted_thinking", "x"), ("thinking", "b", None)],
        id="hidden ones between",
    ),
]


@pytest.mark.parametrize(("deltas", "expected"), BLOCKS)
def test_thinking_blocks_are_told_apart(deltas, expected):
    """A block goes on until it is signed; a hidden one is whole, and no place in the stream is left."""
    blocks = merged(*deltas)["thinking_blocks"]

    assert [tuple(block.values()) for block in blocks] == expected


def test_reasoning_of_two_kinds_at_one_place_stays_apart():
    """OpenRouter seals a thought at the place where it was shown."""
    shown = {"type": "reasoning.text", "format": "v1", "index": 0}
    sealed = {"type": "reasoning.encrypted", "format": "v1", "index": 0, "data": "x"}
    details = merged(
        *({"reasoning_details": [each]} for each in (shown | {"text": "a"}, shown | {"text": "b"}, sealed))
    )

    assert details["reasoning_details"] == [shown | {"text": "ab"}, sealed]


@pytest.mark.parametrize("name", ["images", "annotations", "reasoning_items"])
def test_elements_that_come_whole_are_never_joined(name):
    """Two images, both the first of their chunk, are two images."""
    one, two = ({"index": 0, "type": "t", "image_url": {"url": url}} for url in ("data:a", "data:b"))

    assert merged({name: [one]}, {name: [two]})[name] == [one, two]


def test_sound_in_pieces_is_one_sound():
    """Pieces of base64 that are padded each by itself are joined as bytes; a transcript is a text."""
    pieces = ({"id": "a", "data": "QQ==", "transcript": "o"}, {"data": "QkM=", "transcript": "h"}, {"expires_at": 9})

    assert merged(*({"audio": piece} for piece in pieces))["audio"] == {
        "id": "a",
        "data": "QUJD",
        "transcript": "oh",
        "expires_at": 9,
    }


def test_what_only_looks_like_padding_is_text():
    """Only data is joined as bytes; a text about base64 stays a text, and so does data that is none."""
    assert merged({"content": "QQ=="}, {"content": "QkM="})["content"] == "QQ==QkM="
    assert merged({"audio": {"data": "a ="}}, {"audio": {"data": "= b"}})["audio"] == {"data": "a == b"}


def test_citations_that_come_one_by_one_are_a_list():
    """Anthropic's citations, which LiteLLM streams one at a time, are in lists as in a whole answer."""
    deltas = [{"provider_specific_fields": {"citation": {"cited_text": text}}} for text in "ab"]

    assert merged(*deltas)["provider_specific_fields"] == {"citations": [[{"cited_text": "a"}, {"cited_text": "b"}]]}


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        pytest.param(
            [{"kind": "k", "words": "a"}, {"kind": "k", "words": "b"}], {"kind": "k", "words": "ab"}, id="label"
        ),
        pytest.param(
            [{"laugh": "ha"}, {"words": "a"}, {"laugh": "ha", "words": "b"}],
            {"laugh": "haha", "words": "ab"},
            id="the same, but not in every piece",
        ),
        pytest.param([{"words": "ha"}, {"words": "ha"}], {"words": "haha"}, id="nothing else changes"),
        pytest.param(
            [{"text": "ha", "x": "a"}, {"text": "ha", "x": "b"}], {"text": "haha", "x": "ab"}, id="text by name"
        ),
        pytest.param([{"status": "begun"}, {"status": "done"}], {"status": "done"}, id="a state"),
        pytest.param([{"n": 1, "on": False}, {"n": 2, "on": True}], {"n": 2, "on": True}, id="numbers"),
        pytest.param([{"x": None}, {"x": "a"}, {"x": None}], {"x": "a"}, id="None says nothing"),
        pytest.param([{"x": {"y": [1]}}, {"x": {"y": [2], "z": "a"}}], {"x": {"y": [1, 2], "z": "a"}}, id="deep"),
        pytest.param([{"x": "a"}, {"x": ["b"]}], {"x": ["b"]}, id="another kind of value"),
    ],
)
def test_objects_that_nobody_knows(pieces, expected):
    """In an invented object texts grow, labels stay, numbers are replaced."""
    assert merged(*({"scene": piece} for piece in pieces))["scene"] == expected


def test_texts_of_a_delta_itself_always_grow():
    """The same piece twice is said twice."""
    assert merged({"content": "ha", "hologram": "ha"}, {"content": "ha", "hologram": "ha"}) == {
        "role": "assistant",
        "content": "haha",
        "hologram": "haha",
    }


def test_around_the_choices_the_last_word_counts():
    """Usage and lists are replaced, not added up; the id and the time are the first; what is empty says nothing."""
    chunks = [
        {"id": "a", "created": 1, "model": "m", "citations": ["x"], "usage": {"total_tokens": 1}, "choices": []},
        {"id": "b", "created": 2, "model": "n", "citations": [], "usage": {"total_tokens": 3}, "choices": None},
        {"id": "c", "created": 3, "model": None, "usage": None, "choices": []},
    ]
    around = {"id": "a", "created": 1, "model": "n", "citations": ["x"], "usage": {"total_tokens": 3}}

    assert whole(*chunks) == {**around, "object": "chat.completion", "choices": []}


def test_choices_keep_to_themselves():
    """Several answers, their chunks in turns, come out in order, each with its own probabilities and reason."""
    pieces = [(1, "b1", None), (0, "a1", None), (1, "b2", None), (0, "a2", "stop"), (1, "", "length")]
    chunks = [
        {"choices": [{"index": n, "delta": {"content": text}, "finish_reason": end, "logprobs": {"content": [text]}}]}
        for n, text, end in pieces
    ]
    found = whole(*chunks)["choices"]

    assert [(each["index"], each["message"]["content"], each["finish_reason"]) for each in found] == [
        (0, "a1a2", "stop"),
        (1, "b1b2", "length"),
    ]
    assert [each["logprobs"]["content"] for each in found] == [["a1", "a2"], ["b1", "b2", ""]]


def test_usage_is_the_providers_with_what_litellm_counted():
    """What a provider says stays, gaps in its details are filled, and no cost or details are made up."""
    said = {"total_tokens": 9, "extra": {"a": 1}, "details": {"text": 5, "reasoning": None}}
    counted = {"total_tokens": 9, "cost": 0.1, "more": {"b": 1}, "details": {"text": 4, "reasoning": 4}}

    assert usage_of(said, counted) == {
        "total_tokens": 9,
        "extra": {"a": 1},
        "details": {"text": 4, "reasoning": 4},
    }


def test_many_pieces_are_as_few():
    """However many pieces come: texts are joined, labels stay labels, and padded base64 is joined as bytes."""
    sound = [bytes([number]) * (2 if number == 30 else 3) for number in range(100)]  # the one in the middle is padded
    pieces = [
        {"content": f"{number} ", "scene": {"kind": "3d", "text": "ab" if number % 3 else "c"}, "audio": {"data": data}}
        for number, data in enumerate(base64.b64encode(each).decode() for each in sound)
    ]

    message = merged(*pieces)

    assert message["content"] == "".join(f"{number} " for number in range(100))
    assert message["scene"] == {"kind": "3d", "text": "cabab" * 33 + "c"}
    assert base64.b64decode(message["audio"]["data"]) == b"".join(sound)


def test_a_text_that_ends_as_it_began_is_no_label():
    """Only what is the same in every piece may be a label."""
    pieces = [{"scene": {"kind": "3d", "words": words, "note": note}} for words, note in zip("aba", "xyz", strict=True)]

    assert merged(*pieces)["scene"] == {"kind": "3d", "words": "aba", "note": "xyz"}
