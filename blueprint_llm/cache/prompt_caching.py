"""Breakpoints for Anthropic's prompt cache, at the ends of what stays the same from one request to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Anthropic caches no prefix below 1,024 tokens; at about four characters each, a shorter history is not worth a mark.
LONG_CHARS = 4096
# LiteLLM's names of those who serve Anthropic's models and take its marks; "" is Anthropic itself.
_HOSTS = frozenset({"", "anthropic", "bedrock", "vertex_ai", "openrouter"})
_MARK = {"type": "ephemeral"}


def with_breakpoints(
    model: str, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return both with at most four breakpoints; unchanged for other models or where the caller set his own."""
    sent, offered = [dict(message) for message in messages], [dict(tool) for tool in tools]
    provider, _, name = model.lower().rpartition("/")
    if "claude" not in name or provider.partition("/")[0] not in _HOSTS or _has_hints(sent, offered):
        return sent, offered
    if offered:
        offered[-1]["cache_control"] = _MARK
    for place in _places(sent):
        sent[place] = _marked(sent[place])
    return sent, offered


def _has_hints(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> bool:
    parts = [part for message in messages if isinstance(message.get("content"), list) for part in message["content"]]
    functions = [tool.get("function") for tool in tools]
    return any(isinstance(each, dict) and "cache_control" in each for each in (*messages, *tools, *parts, *functions))


def _places(messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the last system message; of a long history its end, and the end of the turn before, as last time."""
    system = [n for n, message in enumerate(messages) if message["role"] == "system" and message.get("content")][-1:]
    turns = [n for n, message in enumerate(messages) if message["role"] in {"user", "tool"} and message.get("content")]
    long = sum(len(str(message.get("content") or "")) for message in messages) >= LONG_CHARS
    return [*system, *(turns[-2:] if long and len(turns) > 1 else ())]


def _marked(message: dict[str, Any]) -> dict[str, Any]:
    """A message whose last part ends a prefix."""
    content = message["content"]
    if message["role"] == "tool":  # LiteLLM takes a tool result's mark from the message
        return {**message, "cache_control": _MARK}
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else [*content]
    if not isinstance(parts[-1], dict):
        return message
    return {**message, "content": [*parts[:-1], {**parts[-1], "cache_control": _MARK}]}
