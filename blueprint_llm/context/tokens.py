"""How many tokens a message is, counted once each and only when asked.

The default is a third of the UTF-8 bytes: English runs at about four bytes a token, code at about three, so it
errs upwards for both; who has the target's tokenizer hands it in as `count`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Count = Callable[[str], int]

# The frame that chat formats put around a message (role markers, separators), and around each further key.
MESSAGE_TOKENS = 4
_COUNTED = frozenset({"role", "content"})
_encode = json.JSONEncoder(ensure_ascii=False, default=str).encode
# An image costs at most about this much whatever the length of its URL: 1,568 tokens in Anthropic's vision guide.
IMAGE_TOKENS = 1600


def estimate(text: str) -> int:
    """A cautious guess: one token for every three UTF-8 bytes, rounded up."""
    return -(-len(text.encode("utf-8", "replace")) // 3)


def message_tokens(message: Mapping[str, Any], count: Count = estimate) -> int:
    """The tokens of a message: its frame, its content, and whatever else it has, as JSON."""
    rest = [value for key, value in message.items() if key not in _COUNTED and value is not None]
    extra = sum(count(value) if isinstance(value, str) else _json_tokens(value, count) for value in rest)
    return MESSAGE_TOKENS * (1 + len(rest)) + _content_tokens(message.get("content"), count) + extra


def tool_tokens(tools: Sequence[Any], count: Count = estimate) -> int:
    """The tokens of the tool schemas that go with every request."""
    return _json_tokens(tools, count) if tools else 0


def _content_tokens(content: Any, count: Count) -> int:
    if content is None:
        return 0
    if isinstance(content, str):
        return count(content)
    return sum(_part_tokens(part, count) for part in content)


def _part_tokens(part: Any, count: Count) -> int:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text":
        return count(str(part.get("text", "")))
    return IMAGE_TOKENS if kind in {"image_url", "image"} else _json_tokens(part, count)


def _json_tokens(value: Any, count: Count) -> int:
    return count(_encode(value))


class Meter:
    """Counts each message once, known by its identity; it holds on to what it counted, so no identity comes twice."""

    def __init__(self, count: Count) -> None:
        self.count = count
        self._known: dict[int, tuple[Mapping[str, Any], int]] = {}

    def of(self, message: Mapping[str, Any]) -> int:
        """The tokens of one message."""
        key = id(message)
        if key not in self._known:
            self._known[key] = (message, message_tokens(message, self.count))
        return self._known[key][1]

    def total(self, messages: Sequence[Mapping[str, Any]]) -> int:
        """The tokens of several messages."""
        return sum(map(self.of, messages))

    def fits(self, messages: Sequence[Mapping[str, Any]], room: int) -> bool:
        """Whether they fit; counts from the end and stops as soon as they do not."""
        for message in reversed(messages):
            room -= self.of(message)
            if room < 0:
                return False
        return room >= 0


def fits(messages: Sequence[Mapping[str, Any]], budget_tokens: int, tools: Sequence[Any] = ()) -> bool:
    """Whether a request may be sent as it is."""
    return Meter(estimate).fits(messages, budget_tokens - tool_tokens(tools))
