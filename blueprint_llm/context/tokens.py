"""How many tokens a prompt has: its bytes as a bound, a tokenizer where the bound does not settle the question.

No byte-level tokenizer makes more tokens than there are bytes, so whatever has fewer bytes than the window has tokens
fits without being tokenized. Everything else is counted by the `Count` that the caller hands in (LiteLLM's counter of
the target's model); where there is none, `estimate` guesses from the bytes. How far a count falls short of what a
provider reports is learnt in `Margins`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

Message = Mapping[str, Any]
Count = Callable[[Sequence[Message], Sequence[Any]], int]
"""Tokens of messages and tool schemas together; additive over messages but for a constant."""

PER_MESSAGE = 16  # role, name and separators of any chat template
PER_TOOLS = 512  # Anthropic adds up to 346 tokens of its own, others less
PER_IMAGE = 5000  # the dearest measure in common use is under 5,000 tokens an image
IMAGES = frozenset({"image_url", "image", "input_image"})
# English runs at about four bytes a token, code and JSON at about three; the frame of a message is four tokens.
BYTES_A_TOKEN, _FRAME_TOKENS, _IMAGE_TOKENS = 3, 4, 1600


def upper_bound(messages: Iterable[Message], tools: Iterable[Mapping[str, Any]] = ()) -> int:
    """Return at least as many tokens as the prompt has: its bytes, with allowances for templates and pictures."""
    listed = list(tools)
    total = len(_json(listed)) + PER_TOOLS if listed else 0
    for message in messages:
        size, images, texts = _measure(message)
        total += size + PER_IMAGE * images + PER_MESSAGE * (1 + texts)
    return total


def message_tokens(message: Message) -> int:
    """Return a guess of the tokens of one message, for where no tokenizer is at hand."""
    size, images, _ = _measure(message)
    return _FRAME_TOKENS + -(-size // BYTES_A_TOKEN) + _IMAGE_TOKENS * images


def text_tokens(text: str) -> int:
    """Return a guess of the tokens of a text."""
    return -(-_bytes(text) // BYTES_A_TOKEN)


def estimate(messages: Sequence[Message], tools: Sequence[Any] = ()) -> int:
    """Return a guess of the tokens of a prompt: the `Count` of whoever has no tokenizer."""
    return sum(map(message_tokens, messages)) + (-(-len(_json(list(tools))) // BYTES_A_TOKEN) if tools else 0)


def fits(messages: Sequence[Message], budget_tokens: int, tools: Sequence[Any] = ()) -> bool:
    """Return True if the bytes alone show that a request fits; False says nothing but that it must be counted."""
    return upper_bound(messages, tools) <= budget_tokens


def _measure(message: Message) -> tuple[int, int, int]:
    """Return the bytes of a message, its images, and its text parts."""
    rest = {key: value for key, value in message.items() if key not in {"content", "role"} and value is not None}
    size, images, texts = _measure_content(message.get("content"))
    return size + (len(_json(rest)) if rest else 0), images, texts


def _measure_content(content: Any) -> tuple[int, int, int]:
    if content is None:
        return 0, 0, 0
    if not isinstance(content, list):
        return (_bytes(content) if isinstance(content, str) else len(_json(content))), 0, 0
    size, images, texts = 0, 0, 0
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in IMAGES:
            images += 1
        elif kind == "text":
            size, texts = size + _bytes(str(part.get("text", ""))), texts + 1
        elif kind == "tool_result":  # may hold images in turn
            inner, pictures, inside = _measure_content(part.get("content"))
            size += inner + len(str(part.get("tool_use_id")))
            images, texts = images + pictures, texts + inside + 1
        else:
            size += _bytes(part) if isinstance(part, str) else len(_json(part))
    return size, images, texts


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def _json(value: Any) -> bytes:
    return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS)


# Prompts of English, code, JSON and CJK text have 1.1 to 1.35 times the tokens that LiteLLM's counter says, which
# knows no tokenizer of SmolLM2 and takes OpenAI's.
_PRIORS = {"embedded": 1.35}
# A report outside of these is no count of the same prompt: a server that makes its numbers up, or counts only a part.
_LEAST_RATIO, _MOST_RATIO = 0.5, 3.0
_FADE = 0.1


@dataclass(slots=True)
class Margins:
    """By what factor a count falls short of what providers report, learnt per model."""

    factors: dict[str, float] = field(default_factory=dict)

    def of(self, model: str) -> float:
        """Return the factor of a model, at least 1."""
        return self.factors.get(model) or _PRIORS.get(model.partition("/")[0], 1.0)

    def learn(self, model: str, counted: int, reported: int) -> None:
        """Compare a count with the provider's own: up at once, a tenth of the way down."""
        if counted <= 0 or not _LEAST_RATIO <= reported / counted <= _MOST_RATIO:
            return
        seen, known = max(1.0, reported / counted), self.of(model)
        self.factors[model] = max(seen, known - (known - seen) * _FADE)
