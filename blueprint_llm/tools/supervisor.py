"""Run commands for the engine from a small process of its own, and leave nothing of them behind.

This file is started as a script, with the standard library only. It waits for requests on a socket and forks twice for
each: a supervisor that adopts every orphan of the command (so that `setsid` escapes nothing) and kills the whole family
at its end, at the deadline, or when the engine goes away; and the command itself, limited and confined.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from typing import Any, NoReturn

_SET_SECCOMP, _SET_SUBREAPER, _SET_NO_NEW_PRIVS = 22, 36, 38  # include/uapi/linux/prctl.h
_SECCOMP_FILTER = 2
_CAPABILITIES = 0x20080522  # the third version of the header of capset
_CONTROL_FD, _FILTER_FD = 250, 9  # the second is known to `sandbox` too
_RESTRICT_SELF = 446  # landlock_restrict_self, the same number on every architecture
_MAX_REQUEST = 1 << 20
_POLL_S = 0.02
_GRACE_S = 0.1


_libc = ctypes.CDLL(None)


def serve(requests: socket.socket) -> None:
    """Fork a supervisor for every request until the engine closes the socket."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # supervisors are reaped by themselves
    while True:
        body, fds, _, _ = socket.recv_fds(requests, _MAX_REQUEST, 4)
        if not body:
            return
        if os.fork() == 0:
            requests.close()
            supervise(json.loads(body), fds)
        for fd in fds:
            os.close(fd)


def supervise(request: dict[str, Any], fds: list[int]) -> NoReturn:
    """Run one command to its end and report; `fds` are control, input, output and maybe a ruleset."""
    control = socket.socket(fileno=fds[0])
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        _prctl(_SET_SUBREAPER)
        tasks = _all_tasks()
        child = os.fork()
        if child == 0:
            _become(request, fds, tasks)
        for fd in fds[1:]:
            os.close(fd)
        report = _watch(request, control, child, tasks)
        control.sendall(json.dumps(report).encode())
    finally:
        os._exit(0)


def _prctl(option: int) -> None:
    if sys.platform == "linux":
        _libc.prctl(option, 1, 0, 0, 0)


def _become(request: dict[str, Any], fds: list[int], tasks: int) -> NoReturn:
    """Turn into the command. What fails here is told on the control socket."""
    os.dup2(fds[0], _CONTROL_FD, inheritable=False)
    try:
        os.setsid()
        for place, fd in enumerate((fds[1], fds[2], fds[2])):
            os.dup2(fd, place)
        os.chdir(request["cwd"])
        os.umask(request["umask"])
        _limit(request["limits"], tasks)
        program = bytes.fromhex(request["filter"])
        if request["ruleset"]:
            _restrict(_libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
            _restrict(_libc.syscall(_RESTRICT_SELF, fds[3], 0), "landlock_restrict_self")
        os.closerange(3, _CONTROL_FD)
        os.closerange(_CONTROL_FD + 1, 1024)
        if request["is_wrapped"]:  # bubblewrap takes the filter on itself, once it needs sockets no more
            _hand_over(program)
        elif program:
            _drop_capabilities()
            _filter_calls(program)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.execve(request["program"], request["argv"], request["env"])  # noqa: S606 - judged before
    except OSError as error:
        os.write(_CONTROL_FD, json.dumps({"failed": str(error)}).encode())
    finally:
        os._exit(127)


def _restrict(failed: int, what: str) -> None:
    if failed:
        raise OSError(f"{what} was refused")


def _hand_over(program: bytes) -> None:
    fd = os.memfd_create("filter", 0) if program else -1
    if program:
        os.write(fd, program)
        os.lseek(fd, 0, os.SEEK_SET)
        os.dup2(fd, _FILTER_FD)
        os.close(fd)


def _drop_capabilities() -> None:
    """Root keeps its name and loses its powers."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES, 0)
    _restrict(_libc.capset(header, (ctypes.c_uint32 * 6)()), "capset")


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))


def _filter_calls(program: bytes) -> None:
    wanted = _Program(len(program) // 8, program)
    _restrict(_libc.prctl(_SET_SECCOMP, _SECCOMP_FILTER, ctypes.byref(wanted), 0, 0), "seccomp")


def _limit(limits: dict[str, int], tasks: int) -> None:
    for name, value in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}", None)
        if kind is not None and (tasks or name != "NPROC"):
            # The kernel counts every task of the user, so the bound is put above what runs already.
            bound = value + tasks if name == "NPROC" else value
            hard = resource.getrlimit(kind)[1]
            bound = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
            resource.setrlimit(kind, (bound, bound))


def _watch(request: dict[str, Any], control: socket.socket, child: int, tasks: int) -> dict[str, Any]:
    """Wait for the child's end, the deadline, too many processes, or the engine; then end the whole family."""
    deadline = time.monotonic() + request["timeout_s"]
    limit = request["limits"].get("NPROC", 1 << 30)
    ears: list[Any] = [control, *_pidfd(child)]
    why = ""
    status, cpu_s = _collect(child)
    while status is None and not why:
        wait = max(0.0, min(_POLL_S, deadline - time.monotonic()))
        ready = select.select(ears, [], [], wait)[0]
        status, cpu_s = _collect(child)
        if status is None:
            why = _ending(control in ready, deadline, limit, tasks)
    if status is not None:
        _let_end()
    orphans = max(0, _kill_family(child) - (status is None))
    return {"why": why, "status": status, "orphans": orphans, "cpu_s": cpu_s}


def _ending(stopped: bool, deadline: float, limit: int, tasks: int) -> str:  # noqa: FBT001 - private
    """Why a command that still runs must end now; empty: it may go on."""
    if stopped:
        return "stopped"
    if time.monotonic() >= deadline:
        return "timeout"
    if tasks and _all_tasks() - tasks > limit and len(_family()) > limit:
        return "processes"
    return ""


def _pidfd(child: int) -> list[int]:
    try:
        return [os.pidfd_open(child)]
    except (AttributeError, OSError):
        return []


def _collect(child: int) -> tuple[int | None, float | None]:
    """Reap whoever has ended; the child's exit status (negative: a signal) and its processor time once it has."""
    while True:
        try:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return None, None
        if pid == 0:
            return None, None
        if pid == child:
            return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime


def _let_end() -> None:
    """Give what is about to end by itself, such as a sandbox's own processes, a moment to do so."""
    until = time.monotonic() + _GRACE_S
    while not _reaped_all() and time.monotonic() < until:
        time.sleep(0.002)


def _kill_family(child: int) -> int:
    """Kill every descendant, again and again until none is left; how many were found first."""
    first = -1
    if _reaped_all():
        return 0
    for _ in range(200):
        family = _family()
        first = len(family) if first < 0 else first
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)
        for pid in family:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if _reaped_all():
            break
        time.sleep(0.002)
    return max(first, 0)


def _reaped_all() -> bool:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return True
    return False


def _family() -> list[int]:
    """Every descendant of this process that still runs."""
    parents: dict[int, list[int]] = {}
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else ():  # noqa: PTH112, PTH208 - no pathlib in this small process
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123 - as above
                fields = file.read().rpartition(b")")[2].split()
                if fields[0] != b"Z":
                    parents.setdefault(int(fields[1]), []).append(int(name))
    found, stack = [], [os.getpid()]
    while stack:
        children = parents.get(stack.pop(), [])
        found += children
        stack += children
    return found


def _all_tasks() -> int:
    """How many tasks the system runs; 0 where it does not tell."""
    try:
        with open("/proc/loadavg", "rb") as file:  # noqa: PTH123 - no pathlib in this small process
            return int(file.read().split()[3].split(b"/")[1])
    except (OSError, ValueError, IndexError):
        return 0


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
