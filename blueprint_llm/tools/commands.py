"""The built-in tools that run programs, and their processes: through the supervisor, within bounded memory.

Input is empty, output and errors share one pipe, and the middle of what is too long is dropped, never buffered.
A command ends with whoever waits for it: cancelling `call`, or closing, returns when the whole family is dead.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import selectors
import shutil
import socket
import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

from blueprint_llm.errors import ToolError
from blueprint_llm.tools.boundary import Allowance  # noqa: TC001 - the schema is read from the signature
from blueprint_llm.tools.registry import BadArgumentsError, Claims, Ran, tool
from blueprint_llm.tools.sandbox import Confinement, git_environment
from blueprint_llm.tools.words import Command, parse_command, program_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from blueprint_llm.config.blocks import ToolLimits, Tools
    from blueprint_llm.tools.boundary import Effects
    from blueprint_llm.tools.sandbox import Plan
    from blueprint_llm.tools.workspace import Workspace

T = TypeVar("T")

# Names that load code into programs or carry secrets: never passed on, whatever the configuration lists.
_NEVER = re.compile(
    r"(?i)LD_.*|DYLD_.*|PYTHON.*|GIT_.*|BASH_ENV|ENV|IFS|PS4|PROMPT_COMMAND|NODE_OPTIONS|PERL5.*|RUBYOPT|RUBYLIB|"
    r"JAVA_TOOL_OPTIONS|.*(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL).*"
)
_WRITE_REFUSED = re.compile(r"Read-only file system|read-only|EROFS|Errno 30\b")
_NETWORK_REFUSED = re.compile(
    r"Network is unreachable|name resolution|resolve host|ENETUNREACH|EAI_AGAIN|ENOTFOUND|getaddrinfo"
    r"|[Uu]nable to connect|socket.*(?:Permission denied|Errno 13|EACCES)|(?:Permission denied|EACCES).*socket",
    re.DOTALL,
)
_REFUSED_BY_LANDLOCK = re.compile(r"Permission denied|EACCES|Errno 13\b")
_SIGNALS = {25: " (limit of file size)", 9: " (killed)", 11: " (crashed)", 24: " (limit of processor time)"}
_CHUNK, _MB = 1 << 16, 1 << 20
_GRACE_S = 5.0
_MOST_AT_ONCE = 64


class CommandTools:
    """Tools bound to one workspace and one spawner."""

    def __init__(self, workspace: Workspace, settings: Tools, spawner: Spawner, confinement: Confinement) -> None:
        self._workspace, self._settings, self._spawner, self._confinement = workspace, settings, spawner, confinement
        self._searched: dict[str, str] = {}  # PATH, and what of it is trusted

    @tool(effect="execute", confined=True)
    async def command(self, argv: list[str] | None = None, command: str | None = None, *, allowance: Allowance) -> Ran:
        """Run a program in the workspace, without a shell: its words in `argv`, or one plain `command` string."""
        return await self._run(_understood(argv, command), allowance)

    @tool(effect="execute", confined=True)
    async def run_tests(self, args: list[str] | None = None, *, allowance: Allowance) -> Ran:
        """Run pytest in the workspace with these further arguments; the result counts passed and failed tests."""
        ran = await self._run(parse_command(["pytest", *(args or [])]), allowance)
        return Ran(status=ran.status, text=ran.text, facts={**ran.facts, "tests": _counts(ran.text)})

    @staticmethod
    def claims(arguments: Mapping[str, Any]) -> Claims:
        """Return the command that a call of either tool would run."""
        if "args" in arguments:
            arguments = {"argv": ["pytest", *(arguments["args"] or [])], "command": None}
        return Claims(command=_understood(**arguments))

    def environment(self) -> dict[str, str]:
        """Return the environment of a command: what the configuration passes on, its PATH free of the workspace."""
        names = (name for name in self._settings.env.pass_ if not _NEVER.fullmatch(name))
        env = {name: os.environ[name] for name in names if name in os.environ}
        if "PATH" in env:
            if env["PATH"] not in self._searched:
                inside = f"{self._workspace.root}/"
                folders = (folder for folder in env["PATH"].split(":") if os.path.isabs(folder))  # noqa: PTH117 - plain strings
                trusted = (folder for folder in folders if not f"{os.path.realpath(folder)}/".startswith(inside))
                self._searched[env["PATH"]] = ":".join(trusted)
            env["PATH"] = self._searched[env["PATH"]]
        return env

    async def _run(self, command: Command, allowance: Allowance) -> Ran:
        return await self._spawner.call(lambda flight: self._run_to_its_end(command.argv, allowance, flight))

    def _run_to_its_end(self, argv: tuple[str, ...], allowance: Allowance, flight: Flight) -> Ran:
        env, name = self.environment(), argv[0]
        place = os.path.join(self._workspace.root, name) if "/" in name else name  # noqa: PTH118 - a plain string
        program = shutil.which(place, path=env.get("PATH", os.defpath))
        if program is None:
            raise FileNotFoundError(2, "no such program", name)
        plan = self._confinement.plan(allowance, env)
        if program_name(name) == "git" and plan.in_force != "none":
            if plan.unsettled:
                raise ToolError(
                    f"{plan.unsettled[0]} is hidden and has unrecorded changes: git would record it as empty"
                )
            env |= git_environment(self._confinement.global_git_config(env.get("HOME", "")))
        try:
            outcome = self._spawner.run(argv, program, env, plan, flight)
        finally:
            notes = self._confinement.put_right(plan.before)
        return self._told(outcome, allowance, plan.in_force, notes)

    def _told(self, outcome: _Outcome, allowance: Allowance, in_force: str, notes: list[str]) -> Ran:
        """Return what is told of a command's end: how it ended, what the kernel refused, its output."""
        limits, code = self._settings.limits, outcome.code
        output = outcome.output.decode("utf-8", "replace")
        headline = {
            "timeout": f"stopped after {limits.timeout_s:g} s",
            "output": f"stopped: more than {limits.stop_output_mb} MiB of output",
            "processes": f"stopped: limit of {limits.processes} processes",
            "stopped": "stopped by its caller",
            "failed": f"could not be started: {outcome.note}",
            "lost": "ended without a report",
        }.get(outcome.ended, f"exit code {code}")
        if outcome.ended == "exit" and code is not None and code < 0:
            headline = f"ended by signal {-code}" + _SIGNALS.get(-code, "")
        statuses: dict[str, Literal["ok", "timeout", "unknown"]] = {"timeout": "timeout", "lost": "unknown"}
        statuses |= {"exit": "ok"} if code == 0 else {}
        lines = [headline]
        if outcome.orphans and outcome.ended == "exit":
            lines.append(f"{outcome.orphans} process(es) it left running were killed")
        if code != 0 and in_force != "none":
            lines += _refused(output, allowance.effects, in_force)
        facts = {
            "exit_code": code, "ended": outcome.ended, "output_bytes": outcome.total_bytes, "orphans": outcome.orphans,
            "sandbox": in_force, "effects": list(allowance.effects.names),
            "cut": outcome.total_bytes > limits.output_bytes,
        }  # fmt: skip
        return Ran(status=statuses.get(outcome.ended, "error"), text="\n".join([*lines, *notes, output]), facts=facts)


def _understood(argv: list[str] | None, command: str | None) -> Command:
    if (argv is None) == (command is None):
        raise BadArgumentsError("argv: give either argv or command")
    try:
        return parse_command((command or "") if argv is None else argv)
    except ValueError as error:
        raise BadArgumentsError(f"{'command' if argv is None else 'argv'}: {error}") from None


def _refused(output: str, effects: Effects, in_force: str) -> list[str]:
    """What the kernel seems to have refused, so that a model can go on."""
    found = []
    is_landlock = in_force.startswith("landlock")
    if not effects.write and (_WRITE_REFUSED.search(output) or (is_landlock and _REFUSED_BY_LANDLOCK.search(output))):
        found.append("(the rule allows reading only; ask for `effects: write`)")
    if not effects.network and _NETWORK_REFUSED.search(output):
        found.append("(the rule keeps the network closed; ask for `effects: network`)")
    if effects.write and _WRITE_REFUSED.search(output):
        found.append(
            "(files outside the workspace and those that act by themselves, such as .git/hooks, are read-only)"
        )
    return found


def _counts(text: str) -> dict[str, int]:
    """What pytest's last line counts."""
    return {
        kind.removesuffix("s") if kind == "errors" else kind: int(count)
        for count, kind in re.findall(r"(\d+) (passed|failed|errors?|skipped|xfailed|xpassed|deselected)", text[-2000:])
    }


# Processes.


class _Outcome(NamedTuple):
    """How a command ended."""

    ended: str  # exit, timeout, output (too much), processes (too many), stopped (by its caller), failed to start, lost
    code: int | None  # negative: the signal that killed it
    output: bytes
    total_bytes: int
    orphans: int
    note: str


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


class Flight:
    """A command under way, as far as others may end it: the control socket, and the supervisor's end of it."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)

    def stop(self) -> None:
        """Have the supervisor end the command, or not begin it; it still reports."""
        with contextlib.suppress(OSError):  # it may have ended already
            self.ours.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close both ends."""
        self.ours.close()
        self.theirs.close()


class Spawner:
    """The engine's side of the supervisor: started on first use, again if it dies."""

    def __init__(self, cwd: str, limits: ToolLimits) -> None:
        self._cwd, self._limits = cwd, limits
        self._lock = threading.Lock()
        self._server: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket | None = None
        self._flights: dict[Flight, Future[Any]] = {}
        self._threads = ThreadPoolExecutor(_MOST_AT_ONCE, thread_name_prefix="blueprint-command")
        self._is_closed = False

    def close(self) -> None:
        """End the supervisor and every command; returns when they are dead, or cannot be ended, such as frozen ones."""
        with self._lock:
            self._is_closed = True
            running = list(self._flights.values())
            for flight in self._flights:
                flight.stop()
        wait(running, _GRACE_S)
        self._threads.shutdown(wait=False)
        with self._lock:
            if self._requests:
                self._requests.close()
            if self._server:
                try:
                    self._server.wait(_GRACE_S)
                except subprocess.TimeoutExpired:
                    self._server.kill()
                    self._server.wait()
            self._requests = self._server = None

    async def call(self, function: Callable[[Flight], T]) -> T:
        """Return what a blocking function returns, in a thread; cancelled, it first has the function's command end."""
        flight = Flight()

        def work() -> T:
            try:
                return function(flight)
            finally:
                with self._lock:
                    del self._flights[flight]
                flight.close()

        with self._lock:
            if self._is_closed:
                flight.close()
                raise ToolError("the tools are closed")
            running = self._flights[flight] = self._threads.submit(work)
        return await to_its_end(asyncio.wrap_future(running), flight.stop)

    def run(self, argv: tuple[str, ...], program: str, env: Mapping[str, str], plan: Plan, flight: Flight) -> _Outcome:
        """Run a command to its end; takes at most its timeout and a little.

        Raises ToolError if commands cannot be started, or the engine is closed.
        """
        limits = self._limits
        request = {
            "program": plan.prefix[0] if plan.prefix else program,
            "argv": (*plan.prefix, program, *argv[1:]) if plan.prefix else argv,
            "env": {**env, **plan.env},
            "cwd": self._cwd,
            "timeout_s": limits.timeout_s,
            "limits": {  # by their names in `resource`; NPROC counts the command's own
                "DATA": limits.memory_mb * _MB, "FSIZE": limits.file_mb * _MB, "NPROC": limits.processes, "CORE": 0
            },
            "ruleset": plan.ruleset is not None,
            "filter": plan.filter.hex(),
            "is_wrapped": bool(plan.prefix),
        }  # fmt: skip
        read, write = os.pipe()
        empty = os.open(os.devnull, os.O_RDONLY)
        with os.fdopen(read, "rb", buffering=0) as pipe:
            try:
                fds = [flight.theirs.fileno(), empty, write, *([] if plan.ruleset is None else [plan.ruleset])]
                with self._lock:
                    self._send(json.dumps(request).encode(), fds)
            finally:
                flight.theirs.close()
                os.close(empty)
                os.close(write)
            return _follow(limits, flight.ours, pipe.fileno())

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
        return bytes(self._head) + b"\n[... %d bytes left out ...]\n" % dropped * bool(dropped) + bytes(self._tail)


def _follow(limits: ToolLimits, control: socket.socket, pipe: int) -> _Outcome:
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
    return _Outcome(
        ended="output" if ended == "stopped" and is_too_much else ended,
        code=facts.get("status"),
        output=output.text(),
        total_bytes=output.total,
        orphans=max(0, facts.get("orphans") or 0),
        note=facts.get("failed", ""),
    )
