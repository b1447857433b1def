"""An answer in OpenAI's shape: whole, or as the chunks of a stream with the waits before them."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blueprint_llm.testing.script import Answer, BadLine, BrokenTool, Midway, Recorded

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

CREATED = 1_700_000_000
ARGUMENT_CHARS = 8
Answering = Answer | Recorded | BrokenTool | Midway  # the steps that give an answer, or spoil one


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait before the next part."""

    seconds: float


def answer_of(step: Answering) -> Answer | Recorded:
    """Return the answer that a step gives or spoils."""
    return step if isinstance(step, Answer | Recorded) else step.answer


def completion(step: Answering, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the whole answer: in OpenAI's shape, or as it was recorded."""
    answer = answer_of(step)
    if isinstance(answer, Recorded):
        return dict(answer.whole)
    message: dict[str, Any] = {"role": "assistant", "content": answer.text or None}
    if answer.tool_calls:
        message["tool_calls"] = [_tool_call(answer, number) for number in range(len(answer.tool_calls))]
    choice = {"index": 0, "message": message, "finish_reason": answer.ending}
    usage = {} if answer.usage is None else {"usage": _usage(answer)}
    return {**_stamp(answer, body, "chat.completion"), "choices": [choice], **usage}


def stream(step: Answering, body: Mapping[str, Any]) -> Iterator[Pause | dict[str, Any] | Midway]:
    """Yield what happens while an answer is streamed: waits, chunks, and at its place the fault that spoils it."""
    answer = answer_of(step)
    parts = _paced(_content(answer, body), answer.pace_s)
    yield Pause(answer.delay_s)
    if isinstance(step, Midway):
        yield from itertools.islice(parts, max(0, 2 * step.after_chunks - 1))
        yield step
        if not isinstance(step, BadLine):
            return
    yield from parts
    yield from _closing(answer, body)


def _paced(chunks: Iterable[dict[str, Any]], pace_s: float) -> Iterator[Pause | dict[str, Any]]:
    for number, chunk in enumerate(chunks):
        if number:
            yield Pause(pace_s)
        yield chunk


def _content(answer: Answer | Recorded, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The chunks that carry text and tool calls; all that were recorded."""
    if isinstance(answer, Recorded):
        yield from map(dict, answer.chunks)
        return
    stamp, role = _stamp(answer, body, "chat.completion.chunk"), {"role": "assistant"}
    for delta in _deltas(answer):
        yield {**stamp, "choices": [{"index": 0, "delta": {**role, **delta}, "finish_reason": None}]}
        role = {}


def _deltas(answer: Answer) -> Iterator[dict[str, Any]]:
    for piece in _pieces(answer.text, answer.chunk_chars):
        yield {"content": piece}
    for number, call in enumerate(answer.tool_calls):
        yield {"tool_calls": [{"index": number, **_tool_call(answer, number, "")}]}
        for piece in _pieces(call.wire_arguments, answer.chunk_chars or ARGUMENT_CHARS):
            yield {"tool_calls": [{"index": number, "function": {"arguments": piece}}]}


def _pieces(text: str, chars: int | None) -> Iterator[str]:
    if chars is None:
        return iter(re.findall(r"\S+\s*|\s+", text))
    return (text[start : start + chars] for start in range(0, len(text), chars))


def _closing(answer: Answer | Recorded, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The chunk with the finish reason, and the usage where it was asked for; a recording has its own."""
    if isinstance(answer, Recorded):
        return
    stamp = _stamp(answer, body, "chat.completion.chunk")
    yield {**stamp, "choices": [{"index": 0, "delta": {}, "finish_reason": answer.ending}]}
    if (body.get("stream_options") or {}).get("include_usage") and answer.usage is not None:
        yield {**stamp, "choices": [], "usage": _usage(answer)}


def _stamp(answer: Answer, body: Mapping[str, Any], kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-scripted", "object": kind, "created": CREATED, "model": answer.model or body.get("model")}


def _tool_call(answer: Answer, number: int, arguments: str | None = None) -> dict[str, Any]:
    call = answer.tool_calls[number]
    function = {"name": call.name, "arguments": call.wire_arguments if arguments is None else arguments}
    return {"id": call.id or f"call_{number}", "type": "function", "function": function}


def _usage(answer: Answer) -> dict[str, Any]:
    if isinstance(answer.usage, tuple):
        prompt, completion = answer.usage
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return dict(answer.usage or {})
