"""A loopback server that speaks OpenAI's chat format, repeats recordings in others, and fails as it was told to.

It runs on an event loop in a thread of its own, so that sync and async tests and other processes may use it alike.
While a reply is written the next request's head is already awaited: an end of file there means that the client left.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import orjson

from blueprint_llm.testing.script import Request, Script, Status, Step
from blueprint_llm.testing.wire import Drop, Hang, Part, Pause, format_of, reply, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

HOST = "127.0.0.1"
START_S = 10.0
BATCH_BYTES = 16_384
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
UNEXPECTED = Status(400, "blueprint_llm.testing: the script did not expect this request")
GONE = (asyncio.IncompleteReadError, ConnectionError)


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
        sending = asyncio.ensure_future(_send(_batched(self._reply(request)), writer))
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
        format_ = format_of(path)
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
    return Request(method=method, path=path, headers=headers, body=_json_object(content), at=time.monotonic())


def _json_object(content: bytes) -> dict[str, Any]:
    with contextlib.suppress(orjson.JSONDecodeError):
        body = orjson.loads(content)
        return body if isinstance(body, dict) else {}
    return {}


def _batched(parts: Iterable[Part]) -> Iterator[Part]:
    """Join what is sent without a wait in between, up to a limit: a system call per chunk would cost more than it."""
    batch = bytearray()
    for part in parts:
        if isinstance(part, bytes) and len(batch) < BATCH_BYTES:
            batch += part
            continue
        yield bytes(batch)
        batch.clear()
        yield part
    yield bytes(batch)


async def _send(parts: Iterable[Part], writer: asyncio.StreamWriter) -> bool:
    """Send a reply; whether the connection goes on."""
    for part in parts:
        match part:
            case bytes():
                writer.write(part)
                await writer.drain()
            case Pause():
                await asyncio.sleep(part.seconds)
            case Hang():
                await asyncio.Event().wait()
            case Drop():
                _drop(writer, reset=part.reset)
                return False
    return True


def _drop(writer: asyncio.StreamWriter, *, reset: bool) -> None:
    if reset:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        writer.transport.abort()
    writer.close()
