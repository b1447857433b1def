"""What LiteLLM's endpoints have in common: whom a call asks, what caps its answer, and what it says was used."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from blueprint_llm.engine.called import CallReader
from blueprint_llm.streaming.chunks import fields

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from blueprint_llm.engine.runtime import Runtime
    from blueprint_llm.routing.targets import Target

CHATS = frozenset({"completion", "acompletion"})
_CAPS = {
    "completion": ("max_tokens", "max_completion_tokens"),
    "text_completion": ("max_tokens",),
    "responses": ("max_output_tokens",),
}
# The keywords that cap what an endpoint writes, the usual one first. What is not here writes no text.
CAPS = {**_CAPS, **{f"a{name}": names for name, names in _CAPS.items()}, "anthropic_messages": ("max_tokens",)}
# What OpenTelemetry's conventions call what an endpoint does; an endpoint without a name there keeps its own.
SPANS = {
    **dict.fromkeys((*CHATS, "responses", "aresponses", "anthropic_messages"), "chat"),
    **dict.fromkeys(("embedding", "aembedding"), "embeddings"),
    **dict.fromkeys(("text_completion", "atext_completion"), "text_completion"),
}
# Where the endpoints have what they send.
PROMPTS = ("input", "prompt", "query", "documents", "system", "instructions")
# What events hold that are read where they come as they were sent.
_TELLING = (b'"usage"', b'"tool_use"', b'"input_json_delta"', b'"message_stop"')
# Where the events of a stream hold what the answer has: OpenAI's responses, Anthropic's messages.
_WHOLE = ("response", "message")


def target_of(runtime: Runtime, keywords: Mapping[str, Any], model: str | None = None) -> Target:
    """Return whom a call of LiteLLM's asks: a provider of the configuration, a Router's deployment, or just a model.

    Args:
        runtime: Whose configuration names providers.
        keywords: The call's.
        model: Another model than the call's own, for one of its `fallbacks`.
    """
    named, vendor = model or str(keywords.get("model") or ""), keywords.get("custom_llm_provider")
    if vendor and not model and not named.startswith(f"{vendor}/"):
        named = f"{vendor}/{named}"
    (found,) = runtime.table.of_model(named)
    facts = {**(keywords.get("litellm_metadata") or {}), **(keywords.get("metadata") or {})}
    group, info = facts.get("model_group"), keywords.get("model_info") or {}
    own = {"api_base": keywords["api_base"]} if keywords.get("api_base") and not model else {}
    if not (group or info or own):
        return found
    asked = replace(
        found,
        provider=found.provider if found.known or not group else group,
        group=group,
        deployment=str(info.get("id") or ""),
        info=info,
        params={**found.params, **own},
    )
    return runtime.table.remembered(asked)  # a price is remembered for the very object


def fallbacks_of(runtime: Runtime, keywords: Mapping[str, Any]) -> list[Target]:
    """Return whom else a call may ask by its own `fallbacks`: names of models, or keywords with one."""
    listed = keywords.get("fallbacks") or ()
    names = [each.get("model") if isinstance(each, dict) else each for each in listed]
    return [target_of(runtime, keywords, name) for name in names if isinstance(name, str)]


def prompt_of(keywords: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what a call of any endpoint sends, as messages: their size bounds what it costs."""
    messages = [message if isinstance(message, dict) else dict(message) for message in keywords.get("messages") or ()]
    texts = [keywords[name] for name in PROMPTS if keywords.get(name)]
    return [*messages, *({"role": "user", "content": str(text)} for text in texts)]


def usage_in(answer: Any) -> Any:
    """Return the usage of an answer in the terms of a chat's; None where it has none."""
    return in_chat_terms(_part(answer, "usage"))


def in_chat_terms(said: Any) -> Any:
    """Return a usage in the terms of a chat's. What Anthropic reads from its cache, or writes, is beside its input."""
    facts = _plain(said)
    if "input_tokens" not in facts or facts.get("prompt_tokens"):
        return said
    read, written = (facts.get(f"cache_{what}_input_tokens") or 0 for what in ("read", "creation"))
    asked, answered = _plain(facts.get("input_tokens_details")), _plain(facts.get("output_tokens_details"))
    return {
        "prompt_tokens": (facts["input_tokens"] or 0) + read + written,
        "completion_tokens": facts.get("output_tokens") or 0,
        "prompt_tokens_details": {"cached_tokens": asked.get("cached_tokens") or read},
        "completion_tokens_details": {"reasoning_tokens": answered.get("reasoning_tokens") or 0},
        "cache_creation_input_tokens": written,
    }


class EventReader:
    """Reads what a stream that is no chat's says of itself: events as objects, or Anthropic's as they came.

    Attributes:
        usage: What it says was used so far, in the provider's terms.
        answer: The whole answer, where its last event has it.
        calls: Its tool calls.
    """

    def __init__(self) -> None:
        self.usage: dict[str, Any] = {}
        self.answer: Any = None
        self.calls = CallReader()
        self._rest = b""

    def add(self, event: Any) -> list[dict[str, Any]]:
        """Take the next event, or a piece of one; return what it brought of tool calls, as chunks of a chat."""
        chunks: list[dict[str, Any]] = []
        for part in self._parsed(event) if isinstance(event, bytes | str) else [event]:
            chunks += self.calls.read(part)
            whole = next(filter(None, (_part(part, name) for name in _WHOLE)), None)
            self.answer = _part(part, "response") or self.answer
            for place in (part, whole):
                said = _plain(_part(place, "usage"))
                self.usage |= {name: value for name, value in said.items() if value is not None}
        return chunks

    def _parsed(self, piece: bytes | str) -> Iterator[Any]:
        """Yield the events that say of usage, calls or the end, out of lines that may come in pieces."""
        *lines, self._rest = (self._rest + (piece.encode() if isinstance(piece, str) else piece)).split(b"\n")
        for line in lines:
            if line.startswith(b"data:") and any(mark in line for mark in _TELLING):
                try:
                    yield json.loads(line[5:])
                except ValueError:  # not for us to judge
                    continue


def _part(record: Any, name: str) -> Any:
    return record.get(name) if isinstance(record, dict) else getattr(record, name, None)


def _plain(record: Any) -> dict[str, Any]:
    found = fields(record)
    return dict(found) if isinstance(found, dict) else {}
