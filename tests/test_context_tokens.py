"""Tokens: a bound from bytes, LiteLLM's count where it is needed, margins learnt from what providers report."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import litellm
import pytest
from context_histories import TOOLS, history

from blueprint_llm.adapters.tokens import count_tokens
from blueprint_llm.context.shaping import broken_pairs, shape
from blueprint_llm.context.tokens import Margins, estimate, fits, message_tokens, upper_bound
from blueprint_llm.errors import ContextDoesNotFitError

PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}
SOURCE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 100_000}}
AUDIO = {"type": "input_audio", "input_audio": {"data": "A" * 100_000, "format": "wav"}}
OPENAI, CLAUDE, GEMINI = "openai/gpt-4o-mini", "claude-opus-4-5", "gemini/gemini-2.5-pro"


def user(content: Any) -> dict[str, Any]:
    """A user's message."""
    return {"role": "user", "content": content}


def by_litellm(model: str, messages: Any, tools: Any) -> int:
    """The judge: LiteLLM's own counter, as a program would call it."""
    return int(
        litellm.token_counter(model=model, messages=messages, tools=tools or None, use_default_image_token_count=True)
    )


@pytest.mark.slow
@pytest.mark.parametrize("model", [OPENAI, CLAUDE, GEMINI])
def test_held_out_histories_fill_their_window(model: str) -> None:
    """Of 250 tool-using histories none is over its window, refused though its pins fit, or broken; 0.85 is filled."""
    draw = random.Random(2211)  # noqa: S311 - test data
    fills = []
    for n in range(250 if model == OPENAI else 60):
        messages, window, tools = history(draw), draw.randint(600, 3000), TOOLS if draw.random() < 0.5 else []
        fitting = by_litellm(model, messages, tools) <= window
        try:
            shaped = shape(messages, window, tools, count=partial(count_tokens, model))
        except ContextDoesNotFitError:
            assert least_of_pins(model, messages, tools) > window, n
            continue
        tokens = by_litellm(model, shaped.messages, tools)
        assert tokens <= window
        assert not broken_pairs(shaped.messages)
        if fitting:
            assert [id(m) for m in shaped.messages] == [id(m) for m in messages]
        else:
            fills.append(tokens / window)
            assert shaped.tokens == tokens
            assert shaped.reasons

    assert len(fills) > 50
    assert sum(fills) / len(fills) >= 0.85


def least_of_pins(model: str, messages: list[dict[str, Any]], tools: Any) -> int:
    """System, the last question and what comes after the last call, results cut to 100 characters, and a marker."""
    questions = [n for n, each in enumerate(messages) if each["role"] == "user" and isinstance(each["content"], str)]
    callers = [n for n, each in enumerate(messages) if each["role"] == "assistant"]
    tail = messages[callers[-1] :] if callers[-1] > questions[-1] else []
    system = messages[:1] if messages[0]["role"] == "system" else []
    pins = [*system, messages[questions[-1]], *[cut(each) for each in tail], user("[99 earlier messages")]
    return by_litellm(model, pins, tools)


def cut(message: dict[str, Any]) -> dict[str, Any]:
    """A result cut to 100 characters; every other message as it is."""
    if message["role"] == "tool":
        return {**message, "content": str(message["content"])[:100]}
    if message["role"] == "user" and isinstance(message["content"], list):
        parts = [{**p, "content": str(p["content"])[:100]} if "content" in p else p for p in message["content"]]
        return {**message, "content": parts}
    return message


@pytest.mark.parametrize("model", [OPENAI, CLAUDE, GEMINI, "embedded/smollm2"])
def test_the_bound_is_one(model: str) -> None:
    """No history has more tokens than the bound says, by any of LiteLLM's tokenizers."""
    draw = random.Random(7)  # noqa: S311 - test data
    for _ in range(20):
        messages = history(draw)
        assert by_litellm(model, messages, TOOLS) <= upper_bound(messages, TOOLS)
        assert fits(messages, upper_bound(messages, TOOLS), TOOLS)


@pytest.mark.parametrize("model", [OPENAI, CLAUDE, "ollama/llama-3", "unheard-of"])
@pytest.mark.parametrize(
    ("content", "least", "most"),
    [
        pytest.param([PICTURE], 250, 260, id="OpenAI's picture"),
        pytest.param([SOURCE], 250, 260, id="Anthropic's picture"),
        pytest.param([{"type": "tool_result", "tool_use_id": "a", "content": [SOURCE]}], 250, 270, id="in a result"),
        pytest.param([AUDIO, {"type": "text", "text": "hello"}], 250, 320, id="audio, which LiteLLM cannot count"),
        pytest.param("hello", 5, 12, id="text"),
    ],
)
def test_parts_count_as_litellm_has_it(model: str, content: Any, least: int, most: int) -> None:
    """A picture costs LiteLLM's flat figure, not its base64; nothing is fetched, and no part is an error."""
    assert least <= count_tokens(model, [user(content)]) <= most


def test_no_tokenizer_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """For models whose tokenizer LiteLLM would load from a hub, OpenAI's that it brings along counts."""
    fetched: list[str] = []
    monkeypatch.setattr("litellm.utils.is_offline_mode", lambda: False)
    monkeypatch.setattr("litellm.utils._load_huggingface_tokenizer", fetched.append)

    for model in ("ollama/llama-3", "replicate/x", "llama-2", "command-r"):
        assert count_tokens(model, [user("hello")]) == 8
    assert fetched == []


def test_a_message_that_litellm_cannot_count_spoils_no_other() -> None:
    """Beside one odd message the others, and the tools, still count as they should."""
    odd = {"role": "assistant", "tool_calls": [{"id": "x", "type": "custom", "custom": {"name": "n", "input": "abc"}}]}
    alone = count_tokens(OPENAI, [odd])

    assert 10 < alone < 60
    assert count_tokens(OPENAI, [odd, user("hello " * 100)]) == alone + count_tokens(OPENAI, [user("hello " * 100)]) - 3
    assert count_tokens(OPENAI, [odd], TOOLS) > alone + 100


def test_a_counter_that_is_switched_off_is_no_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a program has set `litellm.disable_token_counter`, the bytes are guessed from."""
    monkeypatch.setattr(litellm, "disable_token_counter", True)

    assert 90 < count_tokens(OPENAI, [user("x" * 300)]) < 130


def test_guesses_know_pictures_and_tools() -> None:
    """Without a tokenizer a third of the bytes counts, and a picture by a flat figure wherever it stands."""
    inside = user([{"type": "tool_result", "tool_use_id": "a", "content": [SOURCE]}])

    assert message_tokens(user("abc" * 100)) == 104
    assert message_tokens(user([PICTURE])) == 1604
    assert 1604 <= message_tokens(inside) < 1620
    assert message_tokens({"role": "assistant", "content": None}) == 4
    assert estimate([user("abc")], TOOLS) > estimate([user("abc")]) + 100


def test_a_margin_is_learnt() -> None:
    """A surprise widens it at once, agreement narrows it bit by bit, and it is never below one."""
    margins = Margins()
    assert (margins.of("m"), margins.of("embedded/smollm2")) == (1.0, 1.35)

    margins.learn("m", 1000, 1300)
    assert margins.of("m") == 1.3
    margins.learn("m", 1000, 1000)
    assert 1.2 < margins.of("m") < 1.3
    for _ in range(200):
        margins.learn("m", 1000, 900)
    assert margins.of("m") == pytest.approx(1.0)
    assert margins.of("other") == 1.0


@pytest.mark.parametrize(
    ("counted", "reported"),
    [
        pytest.param(1000, 12, id="made up"),
        pytest.param(1000, 9000, id="something else"),
        pytest.param(0, 5, id="nothing counted"),
        pytest.param(1000, 0, id="nothing reported"),
    ],
)
def test_a_report_of_something_else_teaches_nothing(counted: int, reported: int) -> None:
    """What is far from the count is no count of the same prompt."""
    margins = Margins()
    margins.learn("m", counted, reported)

    assert margins.of("m") == 1.0
