"""The built-in tools that run programs, and their processes: through the supervisor.

Input is empty, output and errors share one pipe, and the middle of what is too long is dropped, never buffered.
A command ends with whoever waits for it: cancelling `call`, or closing, returns when the whole family is dead.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from blueprint_llm.errors import ToolError
from blueprint_llm.tools.registry import BadArgumentsError, Claims, Ran, to_its_end, tool
from blueprint_llm.tools.sandbox import Confinement, git_environment
from blueprint_llm.tools.words import parse_command, program_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from blueprint_llm.config.blocks import ToolLimits, Tools
    from blueprint_llm.tools.boundary import Effects
    from blueprint_llm.tools.sandbox import Plan
    from blueprint_llm.tools.workspace import Workspace

T = TypeVar("T")

# Names that load code into programs or carry secrets: never passed on, whatever the configuration lists.
_NEVER = re.compile(
    r"(?i)LD_.*|DYLD_.*|GCONV_PATH|GLIBC_TUNABLES|PYTHON.*|GIT_.*|BASH_.*|BASHOPTS|SHELLOPTS|ENV|ZDOTDIR|IFS|PS4"
    r"|PROMPT_COMMAND|NODE_OPTIONS|NODE_PATH|PERL.*|RUBYOPT|RUBYLIB|LUA_.*|(?:_|JDK_)JAVA_OPTIONS|JAVA_TOOL_OPTIONS"
    r"|DOTNET_STARTUP_HOOKS|RIPGREP_CONFIG_PATH|TAR_OPTIONS|LESS(?:OPEN|CLOSE)|MAKEFLAGS|RUSTC_WRAPPER"
    r"|.*(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL).*|.*_PASS"
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
    """Tools bound to one workspace and one spawner; they run the command that was judged, in `claims`."""

    def __init__(self, workspace: Workspace, settings: Tools, spawner: Spawner, confinement: Confinement) -> None:
        self._workspace, self._settings, self._spawner, self._confinement = workspace, settings, spawner, confinement
        self._searched: dict[str, str] = {}  # PATH, and what of it is trusted

    @tool(effect="execute", judged=True)
    async def command(self, argv: list[str] | None = None, command: str | None = None, *, claims: Claims) -> Ran:  # noqa: ARG002 - see `claims`
        """Run a program in the workspace, without a shell: its words in `argv`, or one plain `command` string."""
        return await self._spawner.call(partial(self._run, claims))

    @tool(effect="execute", judged=True)
    async def run_tests(self, args: list[str] | None = None, *, claims: Claims) -> Ran:  # noqa: ARG002 - see `claims`
        """Run pytest in the workspace with these further arguments; the result counts passed and failed tests."""
        ran = await self._spawner.call(partial(self._run, claims))
        counts = re.findall(r"(\d+) (passed|failed|error|skipped|xfailed|xpassed|deselected)", ran.text[-2000:])
        return replace(ran, facts={**ran.facts, "tests": {kind: int(count) for count, kind in counts}})

    @staticmethod
    def claims(arguments: Mapping[str, Any]) -> Claims:
        """Return the command that a call of either tool would run."""
        argv, command = arguments.get("argv"), arguments.get("command")
        if "args" in arguments:
            argv = ["pytest", *(arguments["args"] or [])]
        if (argv is None) == (command is None):
            raise BadArgumentsError("argv: give either argv or command")
        try:
            return Claims(command=parse_command((command or "") if argv is None else argv))
        except ValueError as error:
            raise BadArgumentsError(f"{'command' if argv is None else 'argv'}: {error}") from None

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

    def _run(self, claims: Claims, flight: Flight) -> Ran:
        """Run a command to its end."""
        argv, effects = claims.command.argv if claims.command else (), claims.effects
        env, name = self.environment(), argv[0]
        place = os.path.join(self._workspace.root, name) if "/" in name else name  # noqa: PTH118 - a plain string
        program = shutil.which(place, path=env.get("PATH", os.defpath))
        if program is None:
            raise FileNotFoundError(2, "no such program", name)
        plan = self._confinement.plan(effects, env)
        try:
            if program_name(name) == "git" and plan.in_force != "none":
                if plan.unsettled:
                    raise ToolError(
                        f"{plan.unsettled[0]} is hidden and has unrecorded changes: git would record it as empty"
                    )
                env |= git_environment(self._confinement.global_git_config(env.get("HOME", "")))
            report, output = self._spawner.run(argv, program, env, plan, flight)
        finally:
            notes = self._confinement.put_right(plan)
        return self._told(report, output.decode("utf-8", "replace"), effects, plan.in_force, notes)

    def _told(self, report: dict[str, Any], output: str, effects: Effects, in_force: str, notes: list[str]) -> Ran:
        """Return what is told of a command's end: how it ended, what the kernel refused, its output."""
        limits, code, note = self._settings.limits, report["exit_code"], report.pop("note", "")
        headline = {
            "timeout": f"stopped after {limits.timeout_s:g} s",
            "output": f"stopped: more than {limits.stop_output_mb} MiB of output",
            "processes": f"stopped: limit of {limits.processes} processes",
            "stopped": "stopped by its caller",
            "failed": f"could not be started: {note}",
            "lost": "ended without a report",
        }.get(report["ended"], f"exit code {code}")
        if report["ended"] == "exit" and code < 0:
            headline = f"ended by signal {-code}" + _SIGNALS.get(-code, "")
        statuses: dict[str, Literal["ok", "timeout", "unknown"]] = {"timeout": "timeout", "lost": "unknown"}
        statuses |= {"exit": "ok"} if code == 0 else {}
        lines = [headline]
        if report["orphans"] and report["ended"] == "exit":
            lines.append(f"{report['orphans']} process(es) it left running were killed")
        if code != 0 and in_force != "none":
            lines += _refused(output, effects, in_force)
        is_cut = report["output_bytes"] > limits.output_bytes
        facts = {**report, "sandbox": in_force, "effects": list(effects.names), "cut": is_cut}
        text = "\n".join([*lines, *notes, output])
        return Ran(status=statuses.get(report["ended"], "error"), text=text, facts=facts)


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


# Processes.


# What is known of a command whose supervisor has died. `ended` is one of exit, timeout, output (too much), processes
# (too many), stopped (by its caller), failed (to start), lost; `exit_code` is negative after a signal.
_LOST = {"exit_code": None, "ended": "lost", "output_bytes": 0, "orphans": 0}


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

    def run(
        self, argv: tuple[str, ...], program: str, env: Mapping[str, str], plan: Plan, flight: Flight
    ) -> tuple[dict[str, Any], bytes]:
        """Run a command to its end; return the supervisor's report and the output. Takes its timeout and a little.

        Raises ToolError if commands cannot be started, or the engine is closed.
        """
        limits = self._limits
        request = {
            "program": plan.prefix[0] if plan.prefix else program,
            "argv": (*plan.prefix, program, *argv[1:]) if plan.prefix else argv,
            "env": {**env, **plan.env},
            "cwd": self._cwd,
            "timeout_s": limits.timeout_s,
            "keep": limits.output_bytes,  # of the output
            "most": limits.stop_output_mb * _MB,  # of it, beyond which the command is stopped
            "limits": {  # by their names in `resource`; NPROC counts the command's own
                "DATA": limits.memory_mb * _MB, "FSIZE": limits.file_mb * _MB, "NPROC": limits.processes, "CORE": 0
            },
            "ruleset": plan.ruleset is not None,
            "filter": plan.filter.hex(),
            "is_wrapped": bool(plan.prefix),
        }  # fmt: skip
        try:
            fds = [flight.theirs.fileno(), *([] if plan.ruleset is None else [plan.ruleset])]
            with self._lock:
                self._send(json.dumps(request).encode(), fds)
        finally:
            flight.theirs.close()
        reply = bytearray()
        flight.ours.settimeout(limits.timeout_s + _GRACE_S)
        with contextlib.suppress(OSError):
            while chunk := flight.ours.recv(_CHUNK):
                reply += chunk
        head, _, output = reply.partition(b"\n")
        with contextlib.suppress(ValueError):
            return {**_LOST, **json.loads(head)}, bytes(output)
        return {**_LOST}, b""

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
