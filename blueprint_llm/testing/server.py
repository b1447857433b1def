"""A loopback server that speaks OpenAI's chat format, repeats recordings in others, and fails as it was told to.

It runs on an event loop in a thread of its own, so that sync and async tests and other processes may use it alike.
While a reply is written the next request's head is already awaited: an end of file there means that the client left.
A reply is a generator of parts, bytes and the waits and breaks between them, so that a long or slow stream is made
while it is sent. What was recorded goes out in the format of the path that was asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import socket
import struct
import threading
import time
from concurrent.futures import Future
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import orjson

from blueprint_llm.testing import script as on
from blueprint_llm.testing.script import Answering, Pause, Request, Script, Status, Step, answer_of, completion, stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

HOST = "127.0.0.1"
START_S = 10.0
BATCH_BYTES = 16_384
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
UNEXPECTED = Status(400, "blueprint_llm.testing: the script did not expect this request")
_TURNS = 5
GONE = (asyncio.IncompleteReadError, ConnectionError)
LAST_CHUNK = b"0\r\n\r\n"
JSON, EVENTS, HTML, TEXT = "application/json", "text/event-stream; charset=utf-8", "text/html", "text/plain"
ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


Drop = Literal["close", "reset"]  # the connection; what would follow is not sent
HANG = Pause(math.inf)  # until the client goes away
Part = bytes | Pause | Drop


def _http_chunk(event: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(event), event)


def _sse(payload: bytes) -> bytes:
    """One server-sent event as one HTTP chunk."""
    return _http_chunk(b"data: " + payload + b"\n\n")


class Format(NamedTuple):
    """How a provider sends a stream; `is_stream`: whether the path alone asks for one, None: the body says."""

    before: str = "data: "
    after: bytes = b"\n\n"
    content_type: str = EVENTS
    end: bytes = b""
    is_stream: bool | None = None

    def frame(self, chunk: Mapping[str, Any]) -> bytes:
        """One object of the stream as one HTTP chunk."""
        return _http_chunk(self.before.format(type=chunk.get("type")).encode() + orjson.dumps(chunk) + self.after)


DONE = _sse(b"[DONE]")
OPENAI = Format(end=DONE)
# By the end of the path; any other is no chat request's.
FORMATS = {
    "/chat/completions": OPENAI,
    "/messages": Format("event: {type}\ndata: "),
    ":generateContent": Format(is_stream=False),
    ":streamGenerateContent": Format(is_stream=True),
    "/api/chat": Format("", b"\n", "application/x-ndjson"),
    "/v2/chat": Format("", b"\n", "application/stream+json"),
}


def reply(step: Step, body: Mapping[str, Any], format_: Format = OPENAI) -> Iterator[Part]:
    """The parts of the reply to a chat request with that body."""
    streamed = bool(body.get("stream")) if format_.is_stream is None else format_.is_stream
    match step:
        case on.Refuse():
            yield "close"
        case Status():
            ours = error_body(step.code, step.message, step.type, step.error_code)
            text = step.body if isinstance(step.body, str) else orjson.dumps(ours if step.body is None else step.body)
            yield Pause(step.delay_s)
            kind = TEXT if isinstance(step.body, str) else JSON
            yield whole(text, status=step.code, kind=kind, headers=step.headers)
        case on.HtmlPage():
            page = f"<html><body><h1>{step.status} {_phrase(step.status)}</h1></body></html>"
            yield whole(page, status=step.status, kind=HTML)
        case on.NotJson():
            yield whole(step.body, kind=TEXT)
        case on.Empty():
            yield head(200, {"content-type": EVENTS}) + DONE + LAST_CHUNK if streamed else whole(b"")
        case _:
            yield from _streamed(step, body, format_) if streamed else _document(step, body)


def _document(step: Answering, body: Mapping[str, Any]) -> Iterator[Part]:
    """The answer as one JSON object, whole or spoiled."""
    answer, content = answer_of(step), orjson.dumps(completion(step, body))
    half = content[: len(content) // 2]
    yield Pause(answer.delay_s)
    match step:
        case on.Cut() | on.Reset() | on.Stall():
            yield head(200, {"content-type": JSON, **answer.headers}, len(content)) + half
            yield HANG if isinstance(step, on.Stall) else "reset" if isinstance(step, on.Reset) else "close"
        case on.BadLine():
            yield whole(half)
        case on.ErrorObject():
            yield whole(orjson.dumps(error_body(200, step.message, step.type, step.code)))
        case _:
            yield whole(content, headers=answer.headers)


def _streamed(step: Answering, body: Mapping[str, Any], format_: Format) -> Iterator[Part]:
    """The answer as a stream, whole or spoiled on the way."""
    answer, parts = answer_of(step), stream(step, body)
    yield from itertools.islice(parts, 1)  # the wait before the first byte
    yield head(200, {"content-type": format_.content_type, **answer.headers})
    for part in parts:
        match part:
            case Pause():
                if part.seconds:  # what is not waited for is sent in one go
                    yield part
            case on.Midway():
                yield from _strike(part)
            case _:
                yield format_.frame(part)
    yield format_.end * answer.done + LAST_CHUNK


def _strike(step: on.Midway) -> Iterator[Part]:
    match step:
        case on.Cut():
            yield from (b"" if step.abrupt else LAST_CHUNK, "close")
        case on.Reset():
            yield "reset"
        case on.Stall():
            yield HANG
        case on.BadLine():
            yield _sse(step.line.encode())
        case on.ErrorObject():
            yield from (OPENAI.frame(error_body(200, step.message, step.type, step.code)) + LAST_CHUNK, "close")


def head(status: int, headers: Mapping[str, str], length: int | None = None) -> bytes:
    """A status line and headers; without a length the body is sent in chunks."""
    framing = ("transfer-encoding", "chunked") if length is None else ("content-length", str(length))
    fields = [f"{name}: {value}" for name, value in (*headers.items(), framing)]
    return "\r\n".join([f"HTTP/1.1 {status} {_phrase(status)}", *fields, "", ""]).encode("latin-1")


def whole(
    content: str | bytes, *, status: int = 200, kind: str = JSON, headers: Mapping[str, str] | None = None
) -> bytes:
    """A reply in one piece."""
    content = content.encode() if isinstance(content, str) else content
    return head(status, {"content-type": kind, **(headers or {})}, len(content)) + content


def error_body(code: int, message: str | None, kind: str | None = None, error_code: Any = None) -> dict[str, Any]:
    """An error object in OpenAI's shape."""
    kind = kind or ERROR_TYPES.get(code) or ("server_error" if code >= HTTPStatus.INTERNAL_SERVER_ERROR else None)
    error = {"message": message or _phrase(code), "type": kind or "invalid_request_error", "param": None}
    return {"error": {**error, "code": error_code}}


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase if status in set(HTTPStatus) else "Unknown"


class FaultServer:
    """Answer chat requests by script: `with FaultServer([Status(429), Answer("Hello")]) as server: ...`.

    Without a default, a request after the script's last step gets a 400 and is reported by `assert_done`.

    Args:
        script: One step per request, in order; a function of the `Request`; or a `Script`.
        default: Answers the requests after the last step.
        port: 0 takes a free one.
    """

    def __init__(
        self,
        script: Script | Iterable[Step] | Callable[[Request], Step] = (),
        *,
        default: Step | None = None,
        port: int = 0,
    ) -> None:
        self._script = script if isinstance(script, Script) else Script(script, default=default)
        self._port = port
        self._requests: list[Request] = []
        self._changed = threading.Condition()
        self._stop: Callable[[], object] = lambda: None

    def __enter__(self) -> Self:
        ready: Future[int] = Future()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="fault-server", daemon=True)
        self._thread.start()
        self._port = ready.result(START_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._thread.join()

    @property
    def url(self) -> str:
        """The `api_base` for clients."""
        return f"http://{HOST}:{self._port}/v1"

    @property
    def requests(self) -> list[Request]:
        """The requests so far, in the order in which they were complete."""
        with self._changed:
            return list(self._requests)

    def add(self, *steps: Step) -> None:
        """Append steps to the script."""
        self._script.add(*steps)

    def wait_until(self, condition: Callable[[list[Request]], Any], timeout_s: float = 5.0) -> list[Request]:
        """Block until `condition` holds for the requests; they are returned. Raises AssertionError when it is late."""
        with self._changed:
            if not self._changed.wait_for(lambda: condition(self._requests), timeout_s):
                raise AssertionError(f"not within {timeout_s} s; the requests were {self._requests}")
            return list(self._requests)

    def assert_done(self) -> None:
        """Raise an AssertionError that lists unused steps and unexpected requests, if there are any."""
        self._script.assert_done()

    def _run(self, ready: Future[int]) -> None:
        try:
            asyncio.run(self._serve(ready))
        except OSError as error:  # the port is taken: the thread that starts us must hear of it
            ready.set_exception(error)

    async def _serve(self, ready: Future[int]) -> None:
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._connection, HOST, self._port, backlog=1024)
        self._stop = lambda: loop.call_soon_threadsafe(stopped.set)
        ready.set_result(server.sockets[0].getsockname()[1])
        await stopped.wait()
        for listening in server.sockets:
            loop.remove_reader(listening)
        for _ in range(_TURNS):  # a connection that was accepted just now begins, or nobody would ever close it
            await asyncio.sleep(0)
        server.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until either side ends it; the server's own end arrives as a cancellation."""
        head = _read_head(reader)
        try:
            going_on = True
            while going_on:
                request = await _read_request(await head, reader)
                head = _read_head(reader)
                going_on = await self._answer(request, head, writer)
        except (*GONE, asyncio.CancelledError):
            pass
        finally:
            head.cancel()
            writer.close()

    async def _answer(self, request: Request, head: asyncio.Task[bytes], writer: asyncio.StreamWriter) -> bool:
        """Answer one request; whether the connection goes on."""
        if request.path == "/__requests":
            return await _send([whole(orjson.dumps(self._report()))], writer)
        number = self._record(request)
        sending = asyncio.ensure_future(_send(self._reply(request), writer))
        await asyncio.wait({sending, head}, return_when=asyncio.FIRST_COMPLETED)
        if not sending.done() and head.exception() is not None:
            sending.cancel()
            return self._note_early_close(number)
        try:
            return await sending and request.headers.get("connection") != "close"
        except ConnectionError:
            return self._note_early_close(number)

    def _reply(self, request: Request) -> Iterable[Part]:
        path = request.path.partition("?")[0]
        format_ = next((found for end, found in FORMATS.items() if path.endswith(end)), None)
        if request.method != "POST" or format_ is None:
            return reply(Status(404, f"no such path: {request.method} {path}"), {})
        name = f"{request.method} {path} for model {request.body.get('model')!r}"
        return reply(self._script.next(request, name) or UNEXPECTED, request.body, format_)

    def _record(self, request: Request) -> int:
        with self._changed:
            self._requests.append(request)
            self._changed.notify_all()
            return len(self._requests) - 1

    def _note_early_close(self, number: int) -> bool:
        with self._changed:
            self._requests[number] = replace(self._requests[number], closed_early_at=time.monotonic())
            self._changed.notify_all()
        return False

    def _report(self) -> dict[str, Any]:
        """What `GET /__requests` tells another process; headers hold keys and stay here."""
        shown = ("method", "path", "body", "at", "closed_early_at")
        requests = [{name: getattr(request, name) for name in shown} for request in self.requests]
        return {"count": len(requests), "requests": requests}


def _read_head(reader: asyncio.StreamReader) -> asyncio.Task[bytes]:
    """Await the next request's head; its failure is looked at or not, and never logged."""
    head = asyncio.ensure_future(reader.readuntil(b"\r\n\r\n"))
    head.add_done_callback(lambda done: done.cancelled() or done.exception())
    return head


async def _read_request(head: bytes, reader: asyncio.StreamReader) -> Request:
    first, *lines = head.decode("latin-1").rstrip().split("\r\n")
    method, path, _ = first.split(" ", 2)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    content = await reader.readexactly(int(headers.get("content-length", 0)))
    body: Any = None
    with contextlib.suppress(orjson.JSONDecodeError):
        body = orjson.loads(content)
    body = body if isinstance(body, dict) else {}
    return Request(method=method, path=path, headers=headers, body=body, at=time.monotonic())


async def _send(parts: Iterable[Part], writer: asyncio.StreamWriter) -> bool:
    """Send a reply; whether the connection goes on. What has no wait in between is joined, to save system calls."""
    batch = bytearray()
    for part in parts:
        if isinstance(part, bytes):
            batch += part
            if len(batch) < BATCH_BYTES:
                continue
        writer.write(bytes(batch))
        batch.clear()
        await writer.drain()
        if isinstance(part, Pause):
            await asyncio.sleep(part.seconds)
        elif isinstance(part, str):
            if part == "reset":
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                writer.transport.abort()
            writer.close()
            return False
    writer.write(bytes(batch))
    await writer.drain()
    return True
