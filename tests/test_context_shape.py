"""Shaping a conversation: whole units, pins, one marker, never over budget, never invalid."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blueprint_llm.context import (
    EVERYTHING,
    ContextPolicy,
    estimate,
    may_summarise,
    message_tokens,
    shape,
    summary_messages,
    with_summary,
)
from blueprint_llm.context.units import broken_pairs, split
from blueprint_llm.errors import ContextDoesNotFitError
from blueprint_llm.types import ContextPart

FILLS: list[float] = []


def user(text: str, **more: object) -> dict:
    """A user's turn."""
    return {"role": "user", "content": text, **more}


def assistant(text: str | None, *ids: str) -> dict:
    """An assistant's turn with a tool call for each id."""
    calls = [{"id": i, "type": "function", "function": {"name": "f", "arguments": '{"a": "b"}'}} for i in ids]
    return {"role": "assistant", "content": text, **({"tool_calls": calls} if calls else {})}


def result(call: str, text: object) -> dict:
    """The answer to a tool call."""
    return {"role": "tool", "tool_call_id": call, "content": text}


def history(draw: random.Random) -> list[dict]:
    """A valid tool-using conversation; ids are unique or reused from turn to turn."""
    messages = [{"role": "system", "content": "s" * draw.randint(0, 300)}] if draw.random() < 0.8 else []
    unique, made = draw.random() < 0.7, 0
    for turn in range(draw.randint(1, 7)):
        messages.append(user(f"question {turn} " + "q" * draw.randint(0, 400)))
        for _ in range(draw.randint(0, 3)):
            ids = [f"call_{made + n if unique else n}" for n in range(draw.randint(1, 3))]
            made += len(ids)
            messages.append(assistant(draw.choice([None, "", "thinking"]), *ids))
            messages += [result(i, "é1 \n"[draw.randint(0, 3)] * int(draw.expovariate(1 / 600))) for i in ids]
        if draw.random() < 0.8:
            messages.append(assistant("a" * draw.randint(1, 800)))
    return messages


def check_one(messages: list[dict], budget: int, tools: list[dict]) -> None:
    """Shape once and check everything that must hold."""
    before = [dict(m) for m in messages]
    shaped = shape(messages, budget, tools)
    sent = shaped.messages
    turns = [m for m in sent if m["role"] != "system"]
    assert messages == before
    assert shaped.tokens <= budget
    assert shaped.tokens == sum(map(message_tokens, sent)) + (estimate(json.dumps(tools)) if tools else 0)
    assert not broken_pairs(sent)
    assert turns[0]["role"] == "user"
    assert [m for m in messages if m["role"] == "user"][-1] in sent
    assert [m for m in messages if m["role"] == "system"] == [m for m in sent if m["role"] == "system"]
    if shaped.dropped or shaped.truncated:
        FILLS.append(shaped.tokens / budget)
        assert shaped.reasons
    else:
        assert sent == messages


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32))
def test_ten_thousand_histories_stay_valid_and_within_budget(seed: int) -> None:
    """Of 10,000 random tool-using histories none goes over budget, loses a pair, a system message or the question."""
    draw = random.Random(seed)  # noqa: S311 - test data
    needed = []
    for _ in range(100):
        messages = history(draw)
        tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}] * draw.randint(0, 2)
        budget = int(sum(map(message_tokens, messages)) * draw.uniform(0.02, 1.2)) + draw.randint(1, 200)
        try:
            check_one(messages, budget, tools)
        except ContextDoesNotFitError as error:
            needed.append(error.needed_tokens - budget)
    assert all(over > 0 for over in needed)


def test_the_budget_is_used() -> None:
    """What is cut fills at least 0.85 of its budget on average."""
    draw = random.Random(8)  # noqa: S311 - test data
    FILLS.clear()
    for _ in range(500):
        messages = history(draw)
        total = sum(map(message_tokens, messages))
        try:
            check_one(messages, int(total * draw.uniform(0.1, 0.95)) + 20, [])
        except ContextDoesNotFitError:
            continue

    assert len(FILLS) > 300
    assert sum(FILLS) / len(FILLS) >= 0.85


def test_what_fits_is_sent_unchanged() -> None:
    """A conversation within the budget keeps its very objects, even where it is odd."""
    messages = [assistant("hello"), result("nobody asked", "x"), user("hi")]

    shaped = shape(messages, 10_000)

    assert [id(m) for m in shaped.messages] == [id(m) for m in messages]
    assert (shaped.dropped, shaped.truncated, shaped.reasons) == ((), 0, ())


def test_a_late_result_ties_everything_since_its_call_together() -> None:
    """Calls and results that interleave with other turns are kept or dropped as one unit."""
    messages = [
        user("q"),
        assistant(None, "a"),
        assistant(None, "b"),
        result("a", "1"),
        user("x"),
        result("b", "2"),
        user("end"),
    ]

    assert [len(unit) for unit in split(messages)] == [1, 5, 1]


def test_what_the_caller_broke_is_not_mended_but_not_worsened() -> None:
    """A result without a call in the caller's own list does not stop the rest from being shaped."""
    messages = [user("old " * 90), assistant(None, "lost"), user("x"), result("nobody", "r"), user("q")]

    shaped = shape(messages, 80)

    assert shaped.tokens <= 80
    assert not broken_pairs(shaped.messages) - broken_pairs(messages)


def test_long_tool_results_are_cut_to_head_and_tail() -> None:
    """A pinned tool result that is too long becomes JSON with its length, head and tail; arguments stay."""
    messages = [user("q"), assistant(None, "a"), result("a", "H" * 5000 + "T" * 5000)]

    shaped = shape(messages, 500)
    cut = json.loads(shaped.messages[-1]["content"])

    assert shaped.truncated == 1
    assert (cut["truncated"], cut["chars"]) == (True, 10_000)
    assert cut["head"].startswith("HHH")
    assert cut["tail"].endswith("TTT")
    assert shaped.messages[1] is messages[1]
    assert shaped.tokens > 400


def test_cutting_never_makes_a_result_longer() -> None:
    """A result whose shortened form would be longer is left as it is."""
    messages = [user("q"), assistant(None, "a"), result("a", "r" * 70)]

    with pytest.raises(ContextDoesNotFitError) as caught:
        shape(messages, 10)

    assert caught.value.needed_tokens == sum(map(message_tokens, messages))


def test_a_tool_result_in_text_parts_is_cut_too() -> None:
    """Results in OpenAI's content parts are shortened like strings."""
    messages = [user("q"), assistant(None, "a"), result("a", [{"type": "text", "text": "x" * 9000}])]

    shaped = shape(messages, 300)

    assert json.loads(shaped.messages[-1]["content"])["chars"] == 9000


def test_images_count_flat_and_are_never_cut() -> None:
    """An image costs a fixed number of tokens whatever the length of its URL."""
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}

    assert message_tokens(user("")) + 1600 == message_tokens({"role": "user", "content": [picture]})
    assert message_tokens({"role": "user", "content": [{"type": "text", "text": "abc"}]}) == message_tokens(user("abc"))
    assert message_tokens({"role": "assistant", "content": None}) == 4


def test_the_active_plan_stays() -> None:
    """A message named active_plan survives however old it is, and the marker says what is missing."""
    old = [user("old " * 50), assistant("old " * 50)]
    messages = [user("the plan", name="active_plan"), *old * 10, user("now")]

    shaped = shape(messages, 150)

    assert shaped.messages[0]["content"] == "the plan"
    assert (
        shaped.messages[1]["content"]
        == f"[{len(shaped.dropped)} earlier messages were left out to fit the context window]"
    )
    assert shaped.messages[-1]["content"] == "now"


def test_the_marker_keeps_the_first_turn_the_users() -> None:
    """When the first kept turn is the assistant's, the marker stands before it."""
    messages = [{"role": "system", "content": "s"}, user("old " * 90), assistant("kept"), user("q")]

    shaped = shape(messages, 50)

    assert [m["role"] for m in shaped.messages] == ["system", "user", "assistant", "user"]
    assert [m["content"] for m in shaped.dropped] == ["old " * 90]


def test_an_active_plan_from_the_assistant_is_not_the_first_turn() -> None:
    """A pinned assistant message at the start gets the marker in front of it."""
    messages = [{**assistant("plan"), "name": "active_plan"}, user("old " * 90), user("q")]

    shaped = shape(messages, 60)

    assert [m["content"][:4] for m in shaped.messages] == ["[1 e", "plan", "q"]


@pytest.mark.parametrize("budget", [0, 1, 20])
def test_pins_that_do_not_fit_are_an_error_with_numbers(budget: int) -> None:
    """Too large a question is refused with what it needs, the limit and the provider's name."""
    with pytest.raises(ContextDoesNotFitError) as caught:
        shape([user("x" * 600)], budget, policy=ContextPolicy(provider="tiny"))

    assert (caught.value.provider, caught.value.limit_tokens) == ("tiny", budget)
    assert caught.value.needed_tokens > 200


def test_allowed_parts_come_before_old_turns_but_after_pins() -> None:
    """Parts take the room that pins leave, best first; what has no room is named in the reasons."""
    old = [user("old " * 100), assistant("old " * 100)] * 5
    parts = [
        ContextPart(kind="file", source="a.py", text="A" * 300),
        ContextPart(kind="file", source="big.py", text="B" * 9000),
        ContextPart(kind="user", source="note", text="C" * 30),
    ]

    shaped = shape([*old, user("q")], 400, policy=EVERYTHING, parts=parts)
    text = json.dumps(shaped.messages)

    assert "AAA" in text
    assert "CCC" in text
    assert "BBB" not in text
    assert "file big.py: no room" in shaped.reasons
    assert shaped.tokens <= 400
    assert shaped.messages[0]["role"] == "user"


def test_parts_that_fit_are_added_after_the_system_message() -> None:
    """With room for everything the parts are one user message after the system's."""
    shaped = shape(
        [{"role": "system", "content": "s"}, user("q")],
        1000,
        policy=EVERYTHING,
        parts=[ContextPart(kind="file", source="a.py", text="A")],
    )

    assert [m["role"] for m in shaped.messages] == ["system", "user", "user"]
    assert "<file source='a.py'>\nA\n</file>" in shaped.messages[1]["content"]


def test_only_what_is_needed_is_counted() -> None:
    """A costly tokenizer sees the end of a long conversation, not all of it."""
    seen: list[str] = []

    def count(text: str) -> int:
        seen.append(text)
        return estimate(text)

    shape([user(f"turn {n} " + "x" * 100) for n in range(1000)], 500, count=count)

    assert len(seen) < 50


def test_a_summary_takes_the_place_of_what_was_dropped() -> None:
    """Summarise-then-continue asks for the dropped messages and puts the answer where they stood."""
    messages = [{"role": "system", "content": "s"}, user("old " * 90), assistant("older"), user("q")]
    shaped = shape(messages, 60)

    request = summary_messages(shaped.dropped)
    again = with_summary(messages, shaped, "they spoke of old things")

    assert "old old" in request[1]["content"]
    assert "they spoke of old things" in again[1]["content"]
    assert again[1]["role"] == "user"
    assert again[-1] is messages[-1]
    assert shape(again, 100).dropped == ()


def test_with_nothing_dropped_a_summary_comes_last() -> None:
    """A summary of nothing does not disturb the conversation."""
    messages = [user("q")]

    assert with_summary(messages, shape(messages, 100), "s")[0] is messages[0]


@pytest.mark.parametrize(
    ("target", "by", "allowed"),
    [
        pytest.param(False, False, True, id="cloud for cloud"),
        pytest.param(False, True, True, id="local for cloud"),
        pytest.param(True, True, True, id="local for local"),
        pytest.param(True, False, False, id="cloud for local"),
    ],
)
def test_a_summariser_is_of_the_same_or_a_stricter_tier(*, target: bool, by: bool, allowed: bool) -> None:
    """A conversation bound for this machine is not sent off it to be summarised."""
    assert may_summarise(ContextPolicy(local=target), ContextPolicy(local=by)) is allowed
