"""Run commands for the engine from a small process of its own, and leave nothing of them behind.

This file is started as a script, with the standard library only. It keeps a pair of processes waiting for a request, so
that none has to be forked first: a supervisor, and its child, which becomes the command, limited and confined. The
supervisor adopts every orphan of the command (so that `setsid` escapes nothing), keeps the first and the last of its
output, and kills the whole family at its end, at the deadline, or when the engine goes away.
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
_MAX_REQUEST = 1 << 18  # more than a socket's buffer takes
_CHUNK = 1 << 16
_POLL_S = 0.02
_GRACE_S = 0.1


_libc = ctypes.CDLL(None)


def serve(requests: socket.socket) -> None:
    """Keep a supervisor waiting for the next request until the engine closes the socket."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # supervisors are reaped by themselves
    while True:
        waiting, taken = os.pipe()
        if os.fork() == 0:
            os.close(waiting)
            supervise(requests, taken)
        os.close(taken)
        os.read(waiting, 1)  # ends when the supervisor has taken a request, or died
        os.close(waiting)
        with contextlib.suppress(BlockingIOError):
            if not requests.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                return


def supervise(requests: socket.socket, taken: int) -> NoReturn:
    """Wait for a request, have the child run its command to its end, and report."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        if sys.platform == "linux":
            _libc.prctl(_SET_SUBREAPER, 1, 0, 0, 0)
        ours, theirs = socket.socketpair()
        pipe, end = os.pipe()
        child = os.fork()
        if child == 0:
            requests.close()
            os.close(taken)
            ours.close()
            _become(theirs, end)
        theirs.close()
        os.close(end)
        body, fds, _, _ = socket.recv_fds(requests, _MAX_REQUEST, 4)
        os.close(taken)
        requests.close()
        if body:
            socket.send_fds(ours, [body[:1]], fds)
            ours.sendall(body[1:])
            ours.close()
            for fd in fds[1:]:
                os.close(fd)
            with socket.socket(fileno=fds[0]) as control:
                control.sendall(_watch(json.loads(body), fds[0], child, pipe))
                control.shutdown(socket.SHUT_WR)
    finally:
        os._exit(0)


def _become(waiting: socket.socket, output: int) -> NoReturn:
    """Wait for a request and turn into its command. What fails here is told on the control socket."""
    head, fds, _, _ = socket.recv_fds(waiting, 1, 4)
    if not head:  # the engine has gone
        os._exit(0)
    with waiting.makefile("rb") as lines:
        request = json.loads(head + lines.read())
    os.dup2(fds[0], _CONTROL_FD, inheritable=False)
    try:
        os.setsid()
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(request["cwd"])
        os.umask(0o022)
        _limit(request["limits"], _all_tasks())
        program = bytes.fromhex(request["filter"])
        if request["ruleset"]:
            _restrict(_libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
            _restrict(_libc.syscall(_RESTRICT_SELF, fds[1], 0), "landlock_restrict_self")
        os.closerange(3, _CONTROL_FD)
        os.closerange(_CONTROL_FD + 1, 1024)
        if request["is_wrapped"]:  # bubblewrap takes the filter on itself, once it needs sockets and mounts no more
            if program:
                fd = os.memfd_create("filter", 0)
                os.write(fd, program)
                os.lseek(fd, 0, os.SEEK_SET)
                os.dup2(fd, _FILTER_FD)
                os.close(fd)
        elif program:
            header = (ctypes.c_uint32 * 2)(_CAPABILITIES, 0)  # root keeps its name and loses its powers
            _restrict(_libc.capset(header, (ctypes.c_uint32 * 6)()), "capset")
            wanted = _Program(len(program) // 8, program)
            _restrict(_libc.prctl(_SET_SECCOMP, _SECCOMP_FILTER, ctypes.byref(wanted), 0, 0), "seccomp")
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.execve(request["program"], request["argv"], request["env"])  # noqa: S606 - judged before
    except OSError as error:
        os.write(_CONTROL_FD, json.dumps({"ended": "failed", "exit_code": 127, "note": str(error)}).encode() + b"\n")
    finally:
        os._exit(127)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))


def _restrict(failed: int, what: str) -> None:
    if failed:
        raise OSError(f"{what} was refused")


def _limit(limits: dict[str, int], tasks: int) -> None:
    for name, value in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}", None)
        if kind is not None and (tasks or name != "NPROC"):
            # The kernel counts every task of the user, so the bound is put above what runs already.
            bound = value + tasks if name == "NPROC" else value
            hard = resource.getrlimit(kind)[1]
            bound = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
            resource.setrlimit(kind, (bound, bound))


class _Output:
    """The first and the last bytes of a pipe."""

    def __init__(self, pipe: int, keep: int) -> None:
        os.set_blocking(pipe, False)
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


def _watch(request: dict[str, Any], control: int, child: int, pipe: int) -> bytes:
    """Wait for the child's end, the deadline, too much, or the engine; end the whole family; return the report."""
    deadline = time.monotonic() + request["timeout_s"]
    limit, tasks = request["limits"].get("NPROC", 1 << 30), _all_tasks()
    output, ears = _Output(pipe, request["keep"]), [control, pipe]
    with contextlib.suppress(AttributeError, OSError):
        ears.append(os.pidfd_open(child))
    why, status = "", _reap(child)[0]
    while status is None and not why:
        ready = select.select(ears, [], [], max(0.0, min(_POLL_S, deadline - time.monotonic())))[0]
        if pipe in ready and not output.drain(64):
            ears.remove(pipe)
        if (status := _reap(child)[0]) is not None:
            break
        if control in ready:
            why = "stopped"
        elif time.monotonic() >= deadline:
            why = "timeout"
        elif output.total > request["most"]:
            why = "output"
        elif tasks and _all_tasks() - tasks > limit and len(_family()) > limit:
            why = "processes"
    if status is not None:  # what is about to end by itself, such as a sandbox's own processes, gets a moment to do so
        until = time.monotonic() + _GRACE_S
        while not _reap(child)[1] and time.monotonic() < until:
            output.drain(64)
            time.sleep(0.002)
    orphans = max(0, _kill_family(child) - (status is None))
    output.drain(1 << 10)
    report = {"ended": why or "exit", "exit_code": status, "output_bytes": output.total, "orphans": orphans}
    return json.dumps(report).encode() + b"\n" + output.text()


def _reap(child: int) -> tuple[int | None, bool]:
    """Reap who has ended; return the child's exit status (negative: a signal) if it is among them; is nobody left?"""
    status = None
    try:
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            status = os.waitstatus_to_exitcode(found[1]) if found[0] == child else status
    except ChildProcessError:
        return status, True
    return status, False


def _kill_family(child: int) -> int:
    """Kill every descendant, again and again until none is left; how many were found first."""
    first = 0
    for turn in range(200):
        if _reap(child)[1]:
            break
        time.sleep(0.002 if turn else 0)
        family = _family()
        first = first if turn else len(family)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)
        for pid in family:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
    return first


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
