"""The tool calls of OpenAI's responses and Anthropic's messages in a chat's terms, so that one validator judges all.

Calls that the provider runs itself (searches, MCP, code) have items of their own and are none of the caller's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blueprint_llm.streaming.chunks import fields, sequence

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CALLING = frozenset({"responses", "aresponses", "anthropic_messages"})
# Why an answer ended, where it is no complete one.
_CUT = {"max_output_tokens": "length", "max_tokens": "length", "content_filter": "content_filter", "refusal": "refusal"}
_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed", "message_stop"})


def answer_in_chat_terms(answer: Any) -> dict[str, Any] | None:
    """Return a whole answer with its tool calls as a chat's; None where it calls nothing."""
    said = _plain(answer)
    parts = [_plain(part) for part in (*sequence(said.get("output")), *sequence(said.get("content")))]
    calls = [call for part in parts if (call := _call(part)) is not None]
    if not calls:
        return None
    message = {"role": "assistant", "content": None, "tool_calls": calls}
    return {"choices": [{"index": 0, "message": message, "finish_reason": _reason(said)}]}


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


class CallReader:
    """Reads the tool calls out of the events of a stream, and says how long its events are to be held.

    Attributes:
        has_calls: A call has begun: what comes from then on is held until the answer is complete and valid.
        is_over: The event that ends an answer has come.
    """

    def __init__(self) -> None:
        self.has_calls = self.is_over = False
        self._indexes: dict[Any, int] = {}
        self._reason = "tool_calls"

    def read(self, event: Any) -> Iterator[dict[str, Any]]:
        """Yield the chunks of a chat that an event amounts to."""
        said = _plain(event)
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


def _plain(record: Any) -> dict[str, Any]:
    found = fields(record)
    return dict(found) if isinstance(found, dict) else {}
