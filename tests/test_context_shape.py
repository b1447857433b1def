"""Shaping a conversation: whole units, pins, one marker, never over budget, never invalid."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blueprint_llm.context.policy import EVERYTHING, ContextPolicy
from blueprint_llm.context.shaping import broken_pairs, call_ids, is_question, result_ids, shape, split
from blueprint_llm.context.tokens import estimate, message_tokens, upper_bound
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
    assert shaped.tokens == (estimate(sent, tools) if shaped.counted else upper_bound(sent, tools))
    assert not broken_pairs(sent)
    assert turns[0]["role"] == "user"
    assert [m for m in messages if m["role"] == "user"][-1] in sent
    assert [m for m in messages if m["role"] == "system"] == [m for m in sent if m["role"] == "system"]
    if shaped.dropped or shaped.truncated:
        FILLS.append(shaped.tokens / budget)
        assert shaped.reasons
    else:
        assert [id(m) for m in sent] == [id(m) for m in messages]


def check_many(seed: int, count: int) -> None:
    """Shape random histories to random budgets and check each."""
    draw = random.Random(seed)  # noqa: S311 - test data
    over = []
    for _ in range(count):
        messages = history(draw)
        tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}] * draw.randint(0, 2)
        budget = int(sum(map(message_tokens, messages)) * draw.uniform(0.02, 1.2)) + draw.randint(1, 200)
        try:
            check_one(messages, budget, tools)
        except ContextDoesNotFitError as error:
            over.append(error.needed_tokens - budget)
    assert all(tokens > 0 for tokens in over)


def test_histories_stay_valid_and_within_budget() -> None:
    """Of a thousand random histories none goes over budget, loses a pair, a system message or the question."""
    check_many(11, 1000)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32))
def test_ten_thousand_histories_stay_valid_and_within_budget(seed: int) -> None:
    """The same over 10,000 histories from seeds that are looked for."""
    check_many(seed, 100)


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
    """A tokenizer sees nothing of what surely fits, and only the end of a conversation that is far too long."""
    seen: list[int] = []

    def count(messages: list[dict], tools: list[dict]) -> int:
        seen.append(len(messages))
        return estimate(messages, tools)

    turns = [user(f"turn {n} " + "x" * 100) for n in range(1000)]
    shape(turns[:5], 1000, count=count)
    assert seen == []

    shape(turns, 500, count=count)
    assert sum(seen) < 50


def test_a_margin_leaves_room_but_refuses_nothing() -> None:
    """The window is filled to what the provider will count; pins that fit by the tokenizer are sent all the same."""
    messages = [user(f"turn {n} " + "x" * 100) for n in range(40)]

    assert 350 < shape(messages, 600, margin=1.5).tokens <= 400
    assert shape([user("old " * 100), user("x" * 600)], 240, margin=1.5).messages[-1] == user("x" * 600)
    with pytest.raises(ContextDoesNotFitError):
        shape([user("x" * 600)], 190, margin=1.5)


def tool_use(*ids: str) -> dict:
    """An assistant's turn in Anthropic's shape."""
    calls = [{"type": "tool_use", "id": i, "name": "f", "input": {"a": "b"}} for i in ids]
    return {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "s"}, *calls]}


def tool_result(**results: object) -> dict:
    """The user message that carries results in Anthropic's shape."""
    parts = [{"type": "tool_result", "tool_use_id": i, "content": content} for i, content in results.items()]
    return {"role": "user", "content": parts}


LEGACY = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
MIXED = {"role": "user", "content": [*tool_result(a="r")["content"], {"type": "text", "text": "and now?"}]}


@pytest.mark.parametrize(
    ("message", "calls", "results", "question"),
    [
        pytest.param(assistant(None, "a", "b"), ["a", "b"], [], False, id="tool_calls"),
        pytest.param(result("a", "r"), [], ["a"], False, id="tool"),
        pytest.param(LEGACY, ["f"], [], False, id="function_call"),
        pytest.param({"role": "function", "name": "f", "content": "r"}, [], ["f"], False, id="function"),
        pytest.param(tool_use("a", "b"), ["a", "b"], [], False, id="tool_use"),
        pytest.param(tool_result(a="r", b="r"), [], ["a", "b"], False, id="tool_result"),
        pytest.param(MIXED, [], ["a"], True, id="tool_result and a question"),
        pytest.param(user("q"), [], [], True, id="question"),
        pytest.param(user([]), [], [], True, id="nothing said"),  # type: ignore[arg-type] # an odd content
    ],
)
def test_calls_and_results_are_known_in_every_shape(
    *, message: dict, calls: list[str], results: list[str], question: bool
) -> None:
    """OpenAI's tool calls and function calls, Anthropic's parts: one message tells what it asks and answers."""
    assert (call_ids(message), result_ids(message), is_question(message)) == (calls, results, question)


def test_a_carrier_of_results_is_not_the_users_last_word() -> None:
    """In Anthropic's shape the question stays although a user message with results comes after it."""
    loop = [each for n in range(9) for each in (tool_use(f"c{n}"), tool_result(**{f"c{n}": "r" * 300}))]
    messages = [user("old " * 90), assistant("old"), user("THE QUESTION"), *loop]

    shaped = shape(messages, 500)

    assert user("THE QUESTION") in shaped.messages
    assert not broken_pairs(shaped.messages)
    assert shaped.messages[-1] is messages[-1]


@pytest.mark.parametrize("content", ["x" * 9000, [{"type": "text", "text": "x" * 9000}]], ids=["text", "parts"])
def test_results_in_anthropics_shape_are_cut(content: object) -> None:
    """Each long result of a message keeps its id and becomes head and tail; a short one stays."""
    messages = [user("q"), tool_use("a", "b"), tool_result(a=content, b="short")]

    shaped = shape(messages, 300)
    first, second = shaped.messages[-1]["content"]

    assert (first["tool_use_id"], json.loads(first["content"])["chars"]) == ("a", 9000)
    assert second == messages[-1]["content"][1]
    assert shaped.messages[1] is messages[1]
    assert shaped.truncated == 1


def test_a_picture_in_a_result_stays() -> None:
    """Only the text of a result is cut."""
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 50_000}}
    messages = [user("q"), assistant(None, "a"), result("a", [{"type": "text", "text": "x" * 9000}, picture])]

    shaped = shape(messages, 2000)
    text, kept = shaped.messages[-1]["content"]

    assert json.loads(text["text"])["chars"] == 9000
    assert kept is picture


def test_the_marker_is_no_reason_to_refuse() -> None:
    """Where only the pins have room, they go without the sentence that something is missing."""
    messages = [user("old " * 90), assistant("old"), user("q " * 90)]

    assert shape(messages, message_tokens(messages[-1])).messages == [messages[-1]]


def test_what_fits_without_the_marker_is_left_alone() -> None:
    """The room for the marker costs nobody a turn: a conversation of exactly the budget is sent as it is."""
    messages = [user("old " * 90), assistant("b " * 90), user("q " * 90)]
    exact = sum(map(message_tokens, messages))

    assert [id(m) for m in shape(messages, exact).messages] == [id(m) for m in messages]
    assert shape(messages, exact - 1).dropped == (messages[0],)
