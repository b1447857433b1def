"""A step as the bytes of an HTTP reply, with the waits and breaks between them.

A reply is a generator of parts, so that a long or slow stream is made while it is sent. What is made up here is in
OpenAI's chat format; what was recorded goes out in the format of the path that was asked.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import orjson

from blueprint_llm.testing.script import (
    Answer,
    BadLine,
    BrokenTool,
    Cut,
    Empty,
    ErrorObject,
    HtmlPage,
    Midway,
    NotJson,
    Recorded,
    Refuse,
    Reset,
    Stall,
    Status,
    Step,
)

LAST_CHUNK = b"0\r\n\r\n"
JSON, EVENTS, HTML, TEXT = "application/json", "text/event-stream; charset=utf-8", "text/html", "text/plain"
CREATED = 1_700_000_000
ARGUMENT_CHARS = 8
ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait before the next part."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Hang:
    """Wait until the client goes away."""


@dataclass(frozen=True, slots=True)
class Drop:
    """Close the connection, or reset it; what would follow is not sent."""

    reset: bool = False


Part = bytes | Pause | Hang | Drop


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """How a provider sends a stream.

    Attributes:
        kind: Its content type.
        frame: One chunk as bytes.
        end: What follows the last chunk.
        is_stream: Whether the path alone asks for a stream; None: the body says.
    """

    kind: str
    frame: Callable[[Mapping[str, Any]], bytes]
    end: bytes = b""
    is_stream: bool | None = None


def reply(step: Step, body: Mapping[str, Any], format_: Format | None = None) -> Iterator[Part]:
    """The parts of the reply to a chat request with that body."""
    format_ = format_ or OPENAI
    streamed = bool(body.get("stream")) if format_.is_stream is None else format_.is_stream
    match step:
        case Refuse():
            yield Drop()
        case Status():
            yield from _status(step)
        case HtmlPage():
            page = f"<html><body><h1>{step.status} {_phrase(step.status)}</h1></body></html>"
            yield whole(page.encode(), status=step.status, kind=HTML)
        case NotJson():
            yield whole(step.body.encode(), kind=TEXT)
        case Empty():
            yield from (head(200, {"content-type": EVENTS}), DONE + LAST_CHUNK) if streamed else (whole(b""),)
        case Answer() | Recorded() | BrokenTool() | Midway():
            yield from _stream(step, body, format_) if streamed else _document(step, body)


def head(status: int, headers: Mapping[str, str], length: int | None = None) -> bytes:
    """A status line and headers; without a length the body is sent in chunks."""
    framing = ("transfer-encoding", "chunked") if length is None else ("content-length", str(length))
    lines = [
        f"HTTP/1.1 {status} {_phrase(status)}",
        *(f"{name}: {value}" for name, value in (*headers.items(), framing)),
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def whole(content: bytes, *, status: int = 200, kind: str = JSON, headers: Mapping[str, str] | None = None) -> bytes:
    """A reply in one piece."""
    return head(status, {"content-type": kind, **(headers or {})}, len(content)) + content


def error_body(code: int, message: str | None, kind: str | None = None, error_code: Any = None) -> dict[str, Any]:
    """An error object in OpenAI's shape."""
    kind = kind or ERROR_TYPES.get(code) or ("server_error" if code >= HTTPStatus.INTERNAL_SERVER_ERROR else None)
    error = {"message": message or _phrase(code), "type": kind or "invalid_request_error", "param": None}
    return {"error": {**error, "code": error_code}}


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase if status in set(HTTPStatus) else "Unknown"


def _status(step: Status) -> Iterator[Part]:
    body = error_body(step.code, step.message, step.type, step.error_code) if step.body is None else step.body
    text = isinstance(body, str)
    yield Pause(step.delay_s)
    content = body.encode() if isinstance(body, str) else orjson.dumps(body)
    yield whole(content, status=step.code, kind=TEXT if text else JSON, headers=step.headers)


def _document(step: Answer | Recorded | BrokenTool | Midway, body: Mapping[str, Any]) -> Iterator[Part]:
    """The answer as one JSON object, whole or spoiled."""
    answer = step if isinstance(step, Answer | Recorded) else step.answer
    content = orjson.dumps(completion(answer, body))
    half = head(200, {"content-type": JSON, **answer.headers}, len(content)) + content[: len(content) // 2]
    yield Pause(answer.delay_s)
    match step:
        case Cut() | Reset():
            yield from (half, Drop(reset=isinstance(step, Reset)))
        case Stall():
            yield from (half, Hang())
        case BadLine():
            yield whole(content[: len(content) // 2])
        case ErrorObject():
            yield whole(orjson.dumps(error_body(200, step.message, step.type, step.code)))
        case _:
            yield whole(content, headers=answer.headers)


def completion(answer: Answer | Recorded, body: Mapping[str, Any]) -> dict[str, Any]:
    """The whole answer: in OpenAI's shape, or as it was recorded."""
    if isinstance(answer, Recorded):
        return dict(answer.whole)
    message: dict[str, Any] = {"role": "assistant", "content": answer.text or None}
    if answer.tool_calls:
        message["tool_calls"] = [_tool_call(answer, number) for number in range(len(answer.tool_calls))]
    choice = {"index": 0, "message": message, "finish_reason": answer.ending}
    usage = {} if answer.usage is None else {"usage": usage_object(answer.usage)}
    return {**_stamp(answer, body, "chat.completion"), "choices": [choice], **usage}


def _stamp(answer: Answer, body: Mapping[str, Any], kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-scripted", "object": kind, "created": CREATED, "model": answer.model or body.get("model")}


def _tool_call(answer: Answer, number: int, arguments: str | None = None) -> dict[str, Any]:
    call = answer.tool_calls[number]
    function = {"name": call.name, "arguments": call.wire_arguments if arguments is None else arguments}
    return {"id": call.id or f"call_{number}", "type": "function", "function": function}


def usage_object(usage: tuple[int, int] | Mapping[str, Any]) -> dict[str, Any]:
    """Usage in OpenAI's shape."""
    if isinstance(usage, Mapping):
        return dict(usage)
    prompt, completion = usage
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _stream(step: Answer | Recorded | BrokenTool | Midway, body: Mapping[str, Any], format_: Format) -> Iterator[Part]:
    """The answer as a stream, whole or spoiled on the way."""
    answer = step if isinstance(step, Answer | Recorded) else step.answer
    events = _paced(map(format_.frame, content_chunks(answer, body)), answer.pace_s)
    yield Pause(answer.delay_s)
    yield head(200, {"content-type": format_.kind, **answer.headers})
    if isinstance(step, Midway):
        yield from itertools.chain.from_iterable(itertools.islice(events, step.after_chunks))
        yield from _strike(step)
    yield from itertools.chain.from_iterable(events)
    yield b"".join(map(format_.frame, closing_chunks(answer, body))) + format_.end * answer.done + LAST_CHUNK


def _strike(step: Midway) -> Iterator[Part]:
    match step:
        case Cut():
            yield from (b"" if step.abrupt else LAST_CHUNK, Drop())
        case Reset():
            yield Drop(reset=True)
        case Stall():
            yield Hang()
        case BadLine():
            yield sse(step.line.encode())
        case ErrorObject():
            error = sse(orjson.dumps(error_body(200, step.message, step.type, step.code)))
            yield from (error + LAST_CHUNK, Drop())


def _paced(events: Iterator[bytes], pace_s: float) -> Iterator[tuple[Part, ...]]:
    for number, event in enumerate(events):
        yield (Pause(pace_s), event) if pace_s and number else (event,)


def _deltas(answer: Answer) -> Iterator[dict[str, Any]]:
    role = {"role": "assistant"}
    for piece in _pieces(answer.text, answer.chunk_chars):
        yield {**role, "content": piece}
        role = {}
    for number, call in enumerate(answer.tool_calls):
        yield {**role, "tool_calls": [{"index": number, **_tool_call(answer, number, "")}]}
        role = {}
        for piece in _pieces(call.wire_arguments, answer.chunk_chars or ARGUMENT_CHARS):
            yield {"tool_calls": [{"index": number, "function": {"arguments": piece}}]}


def _pieces(text: str, chars: int | None) -> Iterator[str]:
    if chars is None:
        return iter(re.findall(r"\S+\s*|\s+", text))
    return (text[start : start + chars] for start in range(0, len(text), chars))


def content_chunks(answer: Answer | Recorded, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The chunks that carry text and tool calls; all that were recorded."""
    if isinstance(answer, Recorded):
        yield from map(dict, answer.chunks)
        return
    stamp = _stamp(answer, body, "chat.completion.chunk")
    for delta in _deltas(answer):
        yield {**stamp, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


def closing_chunks(answer: Answer | Recorded, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The chunk with the finish reason, and the usage where it was asked for; a recording has its own."""
    if isinstance(answer, Recorded):
        return
    stamp = _stamp(answer, body, "chat.completion.chunk")
    yield {**stamp, "choices": [{"index": 0, "delta": {}, "finish_reason": answer.ending}]}
    asked = (body.get("stream_options") or {}).get("include_usage")
    if asked and answer.usage is not None:
        yield {**stamp, "choices": [], "usage": usage_object(answer.usage)}


def _event(chunk: Mapping[str, Any]) -> bytes:
    return sse(orjson.dumps(chunk))


def _named_event(chunk: Mapping[str, Any]) -> bytes:
    return _http_chunk(f"event: {chunk.get('type')}\ndata: ".encode() + orjson.dumps(chunk) + b"\n\n")


def _line(chunk: Mapping[str, Any]) -> bytes:
    return _http_chunk(orjson.dumps(chunk) + b"\n")


def sse(payload: bytes) -> bytes:
    """One server-sent event as one HTTP chunk."""
    return _http_chunk(b"data: " + payload + b"\n\n")


def _http_chunk(event: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(event), event)


DONE = sse(b"[DONE]")
OPENAI = Format(kind=EVENTS, frame=_event, end=DONE)
# By the end of the path.
FORMATS = {
    "/chat/completions": OPENAI,
    "/messages": Format(kind=EVENTS, frame=_named_event),
    ":generateContent": Format(kind=EVENTS, frame=_event, is_stream=False),
    ":streamGenerateContent": Format(kind=EVENTS, frame=_event, is_stream=True),
    "/api/chat": Format(kind="application/x-ndjson", frame=_line),
}


def format_of(path: str) -> Format | None:
    """The format that a path asks for; None: it is no chat request's."""
    return next((found for end, found in FORMATS.items() if path.endswith(end)), None)
