"""Answers that are no chat's, in a chat's terms: what was used, and the calls, so that one validator judges all.

OpenAI's responses and Anthropic's messages call tools. Those that the provider runs itself (searches, MCP, code) have
items of their own and are none of the caller's.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from blueprint_llm.streaming.chunks import fields, sequence

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CALLING = frozenset({"responses", "aresponses", "anthropic_messages", "anthropic_messages_handler"})
# Why an answer ended, where it is no complete one.
_CUT = {"max_output_tokens": "length", "max_tokens": "length", "content_filter": "content_filter", "refusal": "refusal"}
_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed", "message_stop"})
# What events hold that are read where they come as they were sent.
_TELLING = (b'"usage"', b'"tool_use"', b'"content_block_delta"', b'"message_stop"')
# Where a delta of Anthropic's has what the model wrote.
_WRITTEN = ("text", "thinking", "partial_json")


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


def answer_in_chat_terms(answer: Any) -> dict[str, Any] | None:
    """Return a whole answer with its tool calls as a chat's; None where it calls nothing."""
    said = _plain(answer)
    parts = [_plain(part) for part in (*sequence(said.get("output")), *sequence(said.get("content")))]
    calls = [call for part in parts if (call := _call(part)) is not None]
    if not calls:
        return None
    message = {"role": "assistant", "content": None, "tool_calls": calls}
    return {"choices": [{"index": 0, "message": message, "finish_reason": _reason(said)}]}


class EventReader:
    """Reads what a stream that is no chat's says of itself: events as objects, or Anthropic's as they came.

    Attributes:
        usage: What it says was used so far, in the provider's terms; `is_begun`: that was before it wrote.
        seen_chars: How much it has written.
        answer: The whole answer, where its last event has it.
        has_calls: A call has begun: what comes from then on is held until the answer is complete and valid.
        is_over: The event that ends an answer has come.
    """

    def __init__(self) -> None:
        self.usage: dict[str, Any] = {}
        self.answer: Any = None
        self.has_calls = self.is_over = self.is_begun = False
        self.seen_chars = 0
        self._indexes: dict[Any, int] = {}
        self._reason = "tool_calls"
        self._rest = b""

    def add(self, event: Any) -> list[dict[str, Any]]:
        """Take the next event, or a piece of one; return what it brought of tool calls, as chunks of a chat."""
        chunks: list[dict[str, Any]] = []
        for part in self._parsed(event) if isinstance(event, bytes | str) else [event]:
            facts = _plain(part)
            self.seen_chars += _written(facts)
            chunks += self._read(facts)
            response = _part(part, "response")
            self.answer = response or self.answer
            for place in (part, response or _part(part, "message")):
                said = _plain(_part(place, "usage"))
                self.usage |= {name: value for name, value in said.items() if value is not None}
                self.is_begun = facts.get("type") == "message_start" if said else self.is_begun
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

    def _read(self, said: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the chunks of a chat that an event amounts to."""
        place, kind = said.get("output_index", said.get("index")), said.get("type")
        part, delta = _plain(said.get("item") or said.get("content_block")), _plain(said.get("delta"))
        if kind in {"response.output_item.added", "content_block_start"} and (call := _call(part)) is not None:
            self.has_calls = True
            self._indexes[place] = len(self._indexes)
            yield self._chunk(place, {**call, "function": {"name": part.get("name"), "arguments": ""}})
        elif place in self._indexes and kind == "response.function_call_arguments.delta":
            yield self._chunk(place, {"function": {"arguments": said.get("delta")}})
        elif place in self._indexes and delta.get("type") == "input_json_delta":
            yield self._chunk(place, {"function": {"arguments": delta.get("partial_json")}})
        elif delta.get("stop_reason"):
            self._reason = _reason(delta)
        elif kind in _ENDS:
            self.is_over = True
            reason = _reason(_plain(said["response"])) if said.get("response") else self._reason
            yield {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}

    def _chunk(self, place: Any, call: dict[str, Any]) -> dict[str, Any]:
        delta = {"tool_calls": [{"index": self._indexes[place], **call}]}
        return {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


def _written(said: Mapping[str, Any]) -> int:
    """Return how many characters an event brings, or a chunk of a text completion."""
    delta, choices = said.get("delta"), [_plain(choice) for choice in sequence(said.get("choices"))]
    texts = [delta, *(_plain(delta).get(name) for name in _WRITTEN), *(choice.get("text") for choice in choices)]
    return sum(len(text) for text in texts if isinstance(text, str))


def _call(part: Mapping[str, Any]) -> dict[str, Any] | None:
    match part.get("type"):
        case "function_call":
            call_id, arguments = part.get("call_id"), part.get("arguments")
        case "tool_use":
            call_id, arguments = part.get("id"), part.get("input")
        case _:
            return None
    return {"id": call_id, "type": "function", "function": {"name": part.get("name"), "arguments": arguments}}


def _reason(said: Mapping[str, Any]) -> str:
    """Return a finish reason; what only says that the answer has ended means that it calls."""
    incomplete = _plain(said.get("incomplete_details")).get("reason")
    return _CUT.get(str(incomplete or said.get("stop_reason")), "tool_calls")


def _part(record: Any, name: str) -> Any:
    return record.get(name) if isinstance(record, dict) else getattr(record, name, None)


def _plain(record: Any) -> dict[str, Any]:
    found = fields(record)
    return dict(found) if isinstance(found, dict) else {}
