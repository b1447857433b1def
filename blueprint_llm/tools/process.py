"""Run a command through the supervisor and collect its output within bounded memory.

Input is empty, output and errors share one pipe, and the middle of what is too long is dropped, never buffered.
A command ends with whoever waits for it: cancelling `call`, or closing, returns when the whole family is dead.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import selectors
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from blueprint_llm.errors import ToolError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")

_CHUNK = 1 << 16
_GRACE_S = 5.0
_MOST_AT_ONCE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A command ready to run.

    Attributes:
        program: Absolute path of what is executed.
        argv: Its words, the first as it is called.
        limits: Kernel limits by their `resource` name, in the kernel's units; `NPROC` counts the command's own.
        keep_bytes: How much of the output is kept, half from each end.
        stop_bytes: How much output ends the command.
        ruleset: A Landlock descriptor to take on.
        filter: A filter of system calls to take on, or to hand to the program that wraps the command.
        is_wrapped: Whether the program is such a wrapper.
    """

    program: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    timeout_s: float
    limits: Mapping[str, int]
    keep_bytes: int
    stop_bytes: int
    ruleset: int | None = None
    filter: bytes = b""
    is_wrapped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a command ended.

    Attributes:
        ended: `exit`, `timeout`, `output` (too much), `processes` (too many), `stopped` (by its caller),
            `failed` (never started) or `lost`.
        code: Its exit code; negative: the signal that killed it.
        total_bytes: How much it wrote in all.
        orphans: Processes it had left running, killed at its end.
    """

    ended: str
    code: int | None
    output: bytes
    total_bytes: int
    orphans: int
    note: str = ""


class _Output:
    """The first and the last bytes of a stream."""

    def __init__(self, keep: int) -> None:
        self._half = max(1, keep // 2)
        self.total = 0
        self._head, self._tail = bytearray(), bytearray()

    def add(self, chunk: bytes) -> None:
        self.total += len(chunk)
        room = self._half - len(self._head)
        if room > 0:
            self._head += chunk[:room]
            chunk = chunk[room:]
        self._tail += chunk[-self._half :]
        del self._tail[: -self._half]

    def text(self) -> bytes:
        dropped = self.total - len(self._head) - len(self._tail)
        gap = b"\n[... %d bytes left out ...]\n" % dropped if dropped else b""
        return bytes(self._head) + gap + bytes(self._tail)


class Spawner:
    """The engine's side of the supervisor: started on first use, again if it dies."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._server: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket | None = None
        self._flights: set[Flight] = set()
        self._threads = ThreadPoolExecutor(_MOST_AT_ONCE, thread_name_prefix="blueprint-command")
        self._is_closed = False

    def close(self) -> None:
        """End the supervisor and every command; returns when they are dead."""
        with self._lock:
            self._is_closed = True
            flights = list(self._flights)
        for flight in flights:
            flight.stop()
        for flight in flights:
            flight.over.wait(_GRACE_S)
        with self._lock:
            if self._requests:
                self._requests.close()
            if self._server:
                self._server.wait(_GRACE_S)
            self._requests = self._server = None
        self._threads.shutdown(wait=False)

    async def call(self, function: Callable[[Flight], T]) -> T:
        """Return what a blocking function returns, in a thread; cancelled, it first has the function's command end."""
        flight = Flight()
        ended = asyncio.get_running_loop().run_in_executor(self._threads, function, flight)
        try:
            return await asyncio.shield(ended)
        except asyncio.CancelledError:
            flight.stop()
            while not ended.done():  # a second cancellation changes nothing: first the family must be dead
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait({ended})
            raise

    def run(self, job: Job, flight: Flight) -> Outcome:
        """Run a command to its end; takes at most its timeout and a little.

        Raises:
            ToolError: Commands cannot be started, or the engine is closed.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        read, write = os.pipe()
        empty = os.open(os.devnull, os.O_RDONLY)
        with ours, os.fdopen(read, "rb", buffering=0) as pipe:
            try:
                with self._lock:
                    self._send(job, [theirs.fileno(), empty, write, *([] if job.ruleset is None else [job.ruleset])])
                    flight.begin(ours)
                    self._flights.add(flight)
            finally:
                theirs.close()
                os.close(empty)
                os.close(write)
            try:
                return _follow(job, ours, pipe.fileno())
            finally:
                with self._lock:
                    self._flights.discard(flight)
                flight.over.set()

    def _send(self, job: Job, fds: list[int]) -> None:
        request = {
            "program": job.program,
            "argv": job.argv,
            "env": dict(job.env),
            "cwd": job.cwd,
            "timeout_s": job.timeout_s,
            "limits": dict(job.limits),
            "umask": 0o022,
            "ruleset": job.ruleset is not None,
            "filter": job.filter.hex(),
            "is_wrapped": job.is_wrapped,
        }
        body = json.dumps(request).encode()
        if self._is_closed:
            raise ToolError("the tools are closed")
        for attempt in range(2):
            try:
                socket.send_fds(self._connection(), [body], fds)
            except OSError as error:
                if attempt:
                    raise ToolError(f"commands cannot be started: {error.strerror}") from None
            else:
                return

    def _connection(self) -> socket.socket:
        if self._requests is None or self._server is None or self._server.poll() is not None:
            if self._requests is not None:
                self._requests.close()
            self._server, self._requests = _start_server()
        return self._requests


def _start_server() -> tuple[subprocess.Popen[bytes], socket.socket]:
    if not hasattr(os, "fork"):
        raise ToolError("commands need a POSIX system; this one cannot limit or clean up processes")
    ours, theirs = socket.socketpair(
        socket.AF_UNIX, socket.SOCK_SEQPACKET if sys.platform == "linux" else socket.SOCK_DGRAM
    )
    script = str(Path(__file__).with_name("supervisor.py"))
    with theirs:
        server = subprocess.Popen(  # noqa: S603 - our own interpreter and script
            [sys.executable, "-I", "-S", script, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={},
            cwd="/",
            start_new_session=True,
        )
    return server, ours


class Flight:
    """A command under way, as far as others may end it."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._is_stopped = False

    def begin(self, control: socket.socket) -> None:
        """Take the control socket of a command; one that was to be stopped before it began is stopped now."""
        with self._lock:
            self._control = control
        if self._is_stopped:
            self.stop()

    def stop(self) -> None:
        """Have the supervisor end the command; it still reports."""
        with self._lock, contextlib.suppress(OSError):  # it may have ended already
            self._is_stopped = True
            if self._control is not None:
                self._control.shutdown(socket.SHUT_WR)


def _follow(job: Job, control: socket.socket, pipe: int) -> Outcome:
    """Read the output until the supervisor reports, then what is left in the pipe."""
    output, replies, is_too_much = _Output(job.keep_bytes), bytearray(), False
    os.set_blocking(pipe, False)
    with selectors.DefaultSelector() as ears:
        ears.register(control, selectors.EVENT_READ)
        ears.register(pipe, selectors.EVENT_READ)
        while True:
            ready = {key.fd for key, _ in ears.select(job.timeout_s + _GRACE_S)}
            if pipe in ready and not _drain(pipe, output, 64):
                ears.unregister(pipe)
            if not is_too_much and output.total > job.stop_bytes:
                is_too_much = True
                control.shutdown(socket.SHUT_WR)
            if control.fileno() in ready:
                chunk = control.recv(_CHUNK)
                replies += chunk
                if not chunk:
                    break
            if not ready:
                break
    _drain(pipe, output, 1 << 10)
    return _outcome(bytes(replies), output, is_too_much=is_too_much)


def _drain(pipe: int, output: _Output, most: int) -> bool:
    """Read what is there, at most so many chunks; False at the end of the stream."""
    with contextlib.suppress(BlockingIOError):
        for _ in range(most):
            chunk = os.read(pipe, _CHUNK)
            if not chunk:
                return False
            output.add(chunk)
    return True


def _outcome(replies: bytes, output: _Output, *, is_too_much: bool) -> Outcome:
    facts: dict[str, Any] = {}
    decoder, text, place = json.JSONDecoder(), replies.decode("utf-8", "replace"), 0
    with contextlib.suppress(ValueError):
        while place < len(text):
            found, place = decoder.raw_decode(text, place)
            facts |= found
    ended = "lost" if not facts else "failed" if "failed" in facts else facts.get("why") or "exit"
    ended = "output" if ended == "stopped" and is_too_much else ended
    return Outcome(
        ended=ended,
        code=facts.get("status"),
        output=output.text(),
        total_bytes=output.total,
        orphans=max(0, facts.get("orphans") or 0),
        note=facts.get("failed", ""),
    )
