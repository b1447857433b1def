"""Between OpenAI's chat format and the dialect of llama.cpp's server: the request out, the chunks back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blueprint_llm.adapters.local.tools import CallReader, call_schema, offered, with_tools

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

MAX_TOKENS = 1024
"""The longest answer where the request sets no limit: a small model may never stop by itself."""

# Sampling parameters, `stop`, `seed`, `response_format` and `logprobs` pass through; these do not.
_OURS = {"model", "messages", "tools", "tool_choice", "parallel_tool_calls", "n", "user", "metadata", "stream_options"}


def prepared(body: Mapping[str, Any]) -> tuple[dict[str, Any], CallReader | None]:
    """What llama.cpp is asked, and how to read the answer where tools are offered. Raises ValueError."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ValueError("messages: at least one is needed")
    if body.get("n") not in {None, 1}:
        raise ValueError("n: the embedded model gives one answer")
    try:
        tools, forced = offered(body.get("tools") or [], body.get("tool_choice"))
        plain = with_tools(messages, tools)
        schema = {"response_format": _json_of(call_schema(tools))} if forced else {}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"messages or tools are not in OpenAI's format: {error}") from None
    asked = {key: value for key, value in body.items() if key not in _OURS and value is not None}
    wire = {"max_tokens": asked.pop("max_completion_tokens", MAX_TOKENS), **asked, **schema, "messages": plain}
    wire |= {"stream": True, "stream_options": {"include_usage": True}, "return_progress": True}
    return wire, CallReader(forced=forced) if tools else None


def _json_of(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"schema": schema}}


class Chunks:
    """Turn llama.cpp's chunks into OpenAI's: no progress, no path as the model's name, calls instead of their text."""

    def __init__(self, model: str, reader: CallReader | None) -> None:
        self._model, self._reader = model, reader
        self._started = False
        self.complete = False

    def read(self, raw: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The chunks that `raw` becomes."""
        if "prompt_progress" in raw:
            return
        if not raw["choices"]:
            self.complete = True
            yield self._chunk(raw, [], usage=raw["usage"])
            return
        choice = raw["choices"][0]
        reason = choice["finish_reason"]
        for delta in self._deltas(choice["delta"].get("content") or "", ended=reason is not None):
            yield self._chunk(raw, [{**choice, "delta": self._with_role(delta), "finish_reason": None}])
        if reason is not None:
            called = reason == "stop" and self._reader is not None and self._reader.calls
            finish = "tool_calls" if called else reason
            yield self._chunk(raw, [{"index": 0, "delta": self._with_role({}), "finish_reason": finish}])

    def _deltas(self, text: str, *, ended: bool) -> list[dict[str, Any]]:
        if self._reader is None:
            return [{"content": text}] if text else []
        return self._reader.feed(text) + (self._reader.close() if ended else [])

    def _with_role(self, delta: dict[str, Any]) -> dict[str, Any]:
        started, self._started = self._started, True
        return delta if started else {"role": "assistant", **delta}

    def _chunk(self, raw: Mapping[str, Any], choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        kept = {key: raw[key] for key in ("id", "created", "object")}
        return {**kept, "model": self._model, "choices": choices, **more}


def assembled(chunks: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The `chat.completion` that a whole stream adds up to."""
    text, reason = "", None
    calls: list[dict[str, Any]] = []
    last: dict[str, Any] = {}
    for last in chunks:
        for choice in last["choices"]:
            reason = choice["finish_reason"] or reason
            text += choice["delta"].get("content") or ""
            _add(calls, choice["delta"].get("tool_calls", ()))
    content = None if calls and not text else text
    message = {"role": "assistant", "content": content, **({"tool_calls": calls} if calls else {})}
    choice = {"index": 0, "message": message, "finish_reason": reason}
    return {**last, "object": "chat.completion", "choices": [choice]}


def _add(calls: list[dict[str, Any]], pieces: Iterable[dict[str, Any]]) -> None:
    for piece in pieces:
        if "id" in piece:
            calls.append({"id": piece["id"], "type": "function", "function": {**piece["function"]}})
        else:
            calls[-1]["function"]["arguments"] += piece["function"]["arguments"]
