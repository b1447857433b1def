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

    from blueprint_llm.config.tool_blocks import ToolLimits
    from blueprint_llm.tools.sandbox import Plan

T = TypeVar("T")

_CHUNK, _MB = 1 << 16, 1 << 20
_GRACE_S = 5.0
_MOST_AT_ONCE = 64


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


async def to_its_end(pending: asyncio.Future[T], stop: Callable[[], None] = lambda: None) -> T:
    """Return what a thread returns; a cancellation has it stop, and is raised once it has ended."""
    try:
        return await asyncio.shield(pending)
    except asyncio.CancelledError:
        stop()
        while not pending.done():  # a second cancellation changes nothing
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({pending})
        raise


def request_for(
    command: tuple[str, ...], program: str, cwd: str, env: Mapping[str, str], plan: Plan, limits: ToolLimits
) -> bytes:
    """Return what the supervisor is told of a command: its words, its program's absolute path, how it is confined."""
    request = {
        "program": plan.prefix[0] if plan.prefix else program,
        "argv": (*plan.prefix, program, *command[1:]) if plan.prefix else command,
        "env": {**env, **plan.env},
        "cwd": cwd,
        "timeout_s": limits.timeout_s,
        "limits": {  # by their names in `resource`; NPROC counts the command's own
            "DATA": limits.memory_mb * _MB, "FSIZE": limits.file_mb * _MB, "NPROC": limits.processes, "CORE": 0
        },
        "ruleset": plan.ruleset is not None,
        "filter": plan.filter.hex(),
        "is_wrapped": bool(plan.prefix),
    }  # fmt: skip
    return json.dumps(request).encode()


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
        return await to_its_end(
            asyncio.get_running_loop().run_in_executor(self._threads, function, flight), flight.stop
        )

    def run(self, request: bytes, ruleset: int | None, limits: ToolLimits, flight: Flight) -> Outcome:
        """Run a command to its end; takes at most its timeout and a little.

        Args:
            request: From `request_for`.
            ruleset: A Landlock descriptor to take on.
            limits: Of time and output.
            flight: By which others may end it.

        Raises:
            ToolError: Commands cannot be started, or the engine is closed.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        read, write = os.pipe()
        empty = os.open(os.devnull, os.O_RDONLY)
        with ours, os.fdopen(read, "rb", buffering=0) as pipe:
            try:
                fds = [theirs.fileno(), empty, write, *([] if ruleset is None else [ruleset])]
                with self._lock:
                    self._send(request, fds)
                    flight.begin(ours)
                    self._flights.add(flight)
            finally:
                theirs.close()
                os.close(empty)
                os.close(write)
            try:
                return _follow(limits, ours, pipe.fileno())
            finally:
                with self._lock:
                    self._flights.discard(flight)
                flight.over.set()

    def _send(self, request: bytes, fds: list[int]) -> None:
        if self._is_closed:
            raise ToolError("the tools are closed")
        for attempt in range(2):
            if self._requests is None or self._server is None or self._server.poll() is not None:
                if self._requests is not None:
                    self._requests.close()
                self._server, self._requests = _start_server()
            try:
                socket.send_fds(self._requests, [request], fds)
            except OSError as error:
                if attempt:
                    raise ToolError(f"commands cannot be started: {error.strerror}") from None
            else:
                return


def _start_server() -> tuple[subprocess.Popen[bytes], socket.socket]:
    if not hasattr(os, "fork"):
        raise ToolError("commands need a POSIX system; this one cannot limit or clean up processes")
    kind = socket.SOCK_SEQPACKET if sys.platform == "linux" else socket.SOCK_DGRAM
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
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


class _Output:
    """The first and the last bytes of a pipe."""

    def __init__(self, pipe: int, keep: int) -> None:
        self._pipe, self._half = pipe, max(1, keep // 2)
        self.total = 0
        self._head, self._tail = bytearray(), bytearray()

    def drain(self, most: int) -> bool:
        """Read what is there, at most so many chunks; return False at the end of the stream."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(most):
                chunk = os.read(self._pipe, _CHUNK)
                if not chunk:
                    return False
                self.total += len(chunk)
                room = self._half - len(self._head)
                self._head += chunk[:room]
                self._tail += chunk[room:][-self._half :]
                del self._tail[: -self._half]
        return True

    def text(self) -> bytes:
        dropped = self.total - len(self._head) - len(self._tail)
        gap = b"\n[... %d bytes left out ...]\n" % dropped if dropped else b""
        return bytes(self._head) + gap + bytes(self._tail)


def _follow(limits: ToolLimits, control: socket.socket, pipe: int) -> Outcome:
    """Read the output until the supervisor reports, then what is left in the pipe."""
    output, replies, is_too_much = _Output(pipe, limits.output_bytes), bytearray(), False
    os.set_blocking(pipe, False)
    with selectors.DefaultSelector() as ears:
        ears.register(control, selectors.EVENT_READ)
        ears.register(pipe, selectors.EVENT_READ)
        while ready := {key.fd for key, _ in ears.select(limits.timeout_s + _GRACE_S)}:
            if pipe in ready and not output.drain(64):
                ears.unregister(pipe)
            if not is_too_much and output.total > limits.stop_output_mb * _MB:
                is_too_much = True
                control.shutdown(socket.SHUT_WR)
            if control.fileno() in ready:
                chunk = control.recv(_CHUNK)
                replies += chunk
                if not chunk or replies.endswith(b"}\n"):  # its last line; its process need not be waited for
                    break
    output.drain(1 << 10)
    facts: dict[str, Any] = {}
    with contextlib.suppress(ValueError):
        for line in replies.splitlines():
            facts |= json.loads(line)
    ended = "lost" if not facts else "failed" if "failed" in facts else facts.get("why") or "exit"
    return Outcome(
        ended="output" if ended == "stopped" and is_too_much else ended,
        code=facts.get("status"),
        output=output.text(),
        total_bytes=output.total,
        orphans=max(0, facts.get("orphans") or 0),
        note=facts.get("failed", ""),
    )
