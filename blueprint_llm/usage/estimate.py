"""How many tokens a prompt may have, before anybody has counted them.

No byte-level tokenizer makes more tokens than there are bytes, so bytes are a bound that needs no tokenizer; an exact
count is only worth its time when the bound would cost a noticeable part of what is left.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PER_MESSAGE = 16  # role, name and separators of any chat template
PER_TOOLS = 512  # Anthropic adds up to 346 tokens of its own, others less
PER_IMAGE = 5000  # the dearest measure in common use is under 5,000 tokens an image
_WORTH_COUNTING = 0.01
_UNLEARNT = 1.8  # LiteLLM's counter has been seen that far below the bill


def upper_bound(messages: Iterable[Mapping[str, Any]], tools: Iterable[Mapping[str, Any]] = ()) -> int:
    """At least as many tokens as the prompt has: its bytes, with allowances for templates and pictures."""
    listed = list(tools)
    return sum(map(_of_message, messages)) + (len(orjson.dumps(listed, default=str)) + PER_TOOLS if listed else 0)


def _of_message(message: Mapping[str, Any]) -> int:
    content = message.get("content")
    rest = {key: value for key, value in message.items() if key not in {"content", "role"} and value is not None}
    extra = len(orjson.dumps(rest, default=str)) if rest else 0
    parts = content if isinstance(content, list) else [content]
    return PER_MESSAGE + extra + sum(map(_of_part, parts))


def _of_part(part: Any) -> int:
    if part is None:
        return 0
    if isinstance(part, str):
        return len(part.encode(errors="surrogatepass"))
    if isinstance(part, dict) and part.get("type") in {"image_url", "image", "input_image"}:
        return PER_IMAGE
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        return PER_MESSAGE + _of_part(part["text"])
    return len(orjson.dumps(part, default=str))


def worth_counting(bound_cost: int | None, left: int | None) -> bool:
    """Whether the bound's cost is more than 1 % of what the tightest limit has left (None: unlimited)."""
    return left is not None and (bound_cost or 0) > left * _WORTH_COUNTING


class Margins:
    """How far a tokenizer's counts fall short of the bills, learnt per model."""

    def __init__(self) -> None:
        self._factors: dict[str, float] = {}

    def refine(self, model: str, bound: int, counted: int) -> int:
        """A tighter bound from a tokenizer's count."""
        return min(bound, math.ceil(counted * self._factors.get(model, _UNLEARNT)))

    def learn(self, model: str, counted: int, billed: int) -> None:
        """Compare a count with the bill: up at once, down a tenth of the way."""
        if counted <= 0 or billed <= 0:
            return
        seen, known = max(1.0, billed / counted), self._factors.get(model, _UNLEARNT)
        self._factors[model] = max(seen, known - (known - seen) * 0.1)
