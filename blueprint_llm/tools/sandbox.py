"""Have the kernel keep a command inside its fence: bubblewrap, or Landlock where that is all there is.

bubblewrap gives the command its own view of the disk, so files can be hidden and kept one by one, its own processes and
its own network. Landlock only says below which folders a process may read and write; a filter of system calls closes
the network beside it. What each of the two cannot do is told by `doubts`, and makes a command ask.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import struct
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from stat import S_ISDIR
from typing import TYPE_CHECKING, Literal

from blueprint_llm.tools.boundary import is_within, own_folders, system_secrets

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from blueprint_llm.config.tool_blocks import Sandbox
    from blueprint_llm.tools.boundary import Effects, Fence

_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/fd")
_NAMESPACES = ("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--die-with-parent")
FILTER_FD = 9  # where the supervisor puts the filter for bubblewrap

# include/uapi/linux/landlock.h
_CREATE, _ADD_RULE, _PATH_BENEATH = 444, 445, 1
_NEEDED = 6  # the version that also keeps signals and abstract sockets in; 3 brought truncation, 5 devices
_ALL_FILES = (1 << 16) - 1
_READ = 0b1101  # execute, read file, read folder
_ON_A_FILE = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15
_SCOPES = 0b11  # abstract sockets, signals

# System calls by machine: socket, then those refused outright: what opens sockets beside `socket` (io_uring_setup),
# the user's kernel keyrings (add_key, request_key, keyctl) and memory shared by number (shmget, semget, msgget).
_CALLS = {
    "x86_64": (0xC000003E, 41, (425, 248, 249, 250, 29, 64, 68)),
    "aarch64": (0xC00000B7, 198, (425, 217, 218, 219, 194, 190, 186)),
}
# What slows down or limits other processes, which Landlock does not scope: setpriority, sched_setscheduler,
# sched_setparam, sched_setaffinity, sched_setattr, ioprio_set, prlimit64 of another process is seen by its argument.
_OF_PROCESSES = {
    "x86_64": (141, 144, 142, 203, 314, 251),
    "aarch64": (140, 119, 118, 122, 274, 30),
}
_PRLIMIT = {"x86_64": 302, "aarch64": 261}
# What changes owner, mode, times and attributes of a file, which Landlock leaves alone.
_CHANGES_OF_FILES = {
    "x86_64": (90, 91, 92, 93, 94, 132, 188, 189, 190, 197, 198, 199, 235, 260, 261, 268, 280, 452, 463, 466, 469),
    "aarch64": (5, 6, 7, 14, 15, 16, 52, 53, 54, 55, 88, 452, 463, 466, 469),
}
_AF_UNIX = 1
Sockets = Literal["any", "none", "unix", "no unix"]
_ALLOW, _EACCES, _ENOSYS = 0x7FFF0000, 0x0005000D, 0x00050026


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a command is confined.

    Attributes:
        prefix: Words before the command.
        ruleset: A Landlock descriptor to take on; it belongs to whoever keeps the rulesets.
        filter: A filter of system calls; bubblewrap finds it at `FILTER_FD`.
        in_force: What the kernel enforces, for the result and the audit.
    """

    prefix: tuple[str, ...] = ()
    ruleset: int | None = None
    filter: bytes = b""
    in_force: str = "none"


def backend(settings: Sandbox) -> str:
    """Return what will confine commands: `bubblewrap`, `landlock` or `none`."""
    wanted = ["bubblewrap", "landlock"] if settings.backend == "auto" else [settings.backend]
    return next((name for name in wanted if offered(name)), "none")


def offered(name: str) -> bool:
    """Return True if this system can confine with `name`."""
    if name == "landlock":
        return landlock_version() >= _NEEDED and platform.machine() in _CALLS
    return name == "bubblewrap" and bubblewrap() is not None


@cache
def landlock_version() -> int:
    """Return the kernel's Landlock version; 0 where it has none or refuses."""
    if sys.platform != "linux":
        return 0
    return max(0, int(ctypes.CDLL(None).syscall(_CREATE, None, 0, 1)))


@lru_cache(maxsize=1)
def bubblewrap() -> str | None:
    """Return the path of a bubblewrap that works here: present, and allowed to make namespaces."""
    found = shutil.which("bwrap") if sys.platform == "linux" else None
    if found is None:
        return None
    words = [
        found,
        *_NAMESPACES,
        "--unshare-net",
        "--cap-drop",
        "ALL",
        "--ro-bind",
        "/",
        "/",
        "--proc",
        "/proc",
        "true",
    ]
    try:
        done = subprocess.run(words, check=False, capture_output=True, timeout=5)  # noqa: S603 - fixed words
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found if done.returncode == 0 else None


def describe(settings: Sandbox) -> str:
    """Return one sentence on what the kernel enforces here."""
    return {
        "bubblewrap": "bubblewrap: effects are enforced, denied files and secrets are hidden, kept files are read-only",
        "landlock": "landlock: rules with `effects: read` are enforced; write, network and hidden files ask",
        "none": "none: every command asks"
        if settings.backend != "none"
        else "none, as configured: commands run unconfined",
    }[backend(settings)]


def doubts(chosen: str, effects: Effects, unhidden: str) -> list[str]:
    """Return why the kernel cannot hold a command to its rule here.

    Args:
        chosen: The backend.
        effects: The rule's.
        unhidden: What would have to be hidden, in words; empty: nothing.
    """
    if chosen == "bubblewrap":
        return []
    if chosen == "none":
        return ["this system cannot confine commands: approved, it may do anything"]
    found = ["Landlock alone cannot keep .git/config, hooks and the like, and modes and times of all your files"]
    found = found if effects.write else []
    found += (
        ["Landlock alone cannot keep a command with network from this system's own sockets"] if effects.network else []
    )
    return found + ([f"Landlock alone cannot hide {unhidden}"] if unhidden else [])


class Rulesets:
    """Landlock's rules by what they say: making them takes longer than everything else that Landlock needs."""

    def __init__(self) -> None:
        self._made: dict[tuple[object, ...], int] = {}

    def of(self, fence: Fence, temporary: str) -> int:
        """Return a descriptor of the fence's rules; without `temporary`, of those on sockets alone."""
        key = (fence.effects, fence.shown, fence.read, fence.write, temporary) if temporary else ()
        if key not in self._made:
            self._made[key] = _ruleset(fence, temporary)
        return self._made[key]

    def close(self) -> None:
        """Close the descriptors."""
        while self._made:
            os.close(self._made.popitem()[1])


def plan(chosen: str, fence: Fence, temporary: str, rulesets: Rulesets, *, loopback: bool = False) -> Plan:
    """Return how to run a command inside the fence.

    Args:
        chosen: The backend.
        fence: What the command may touch.
        temporary: A private folder that it may write.
        rulesets: Keeps what Landlock needs.
        loopback: Whether a closed network still has a loopback of its own (bubblewrap).

    Raises:
        OSError: The kernel refuses.
    """
    effects = fence.effects
    if chosen == "bubblewrap":
        # Sockets by a path are those of the workspace; with the network open, this system's own would be in reach too.
        sockets: Sockets = "no unix" if effects.network else "any" if loopback else "unix" if effects.write else "none"
        ruleset = rulesets.of(fence, "") if effects.network and landlock_version() >= _NEEDED else None
        told = f"bubblewrap ({', '.join(effects.names)})"
        return Plan(prefix=_bubblewrap_words(fence), ruleset=ruleset, filter=_filter(sockets), in_force=told)
    if chosen == "landlock":
        told = f"landlock {landlock_version()} ({', '.join(effects.names)})"
        sockets = "no unix" if effects.network else "none"
        program = _filter(sockets, has_neighbours=True, keeps_files=not effects.write)
        return Plan(ruleset=rulesets.of(fence, temporary), filter=program, in_force=told)
    return Plan()


def _bubblewrap_words(fence: Fence) -> tuple[str, ...]:
    """Later words cover earlier ones: the system, the workspace, what is kept in it, what is hidden in it."""
    root, effects = fence.workspace, fence.effects
    words = [
        bubblewrap() or "bwrap",
        *_NAMESPACES,
        *([] if effects.network else ["--unshare-net"]),
        "--cap-drop",
        "ALL",
    ]
    filtered = platform.machine() in _CALLS
    words += ["--seccomp", str(FILTER_FD)] if filtered else []
    # To root, settings of the kernel below /proc/sys are writable without any capability.
    words += ["--proc", "/proc", "--remount-ro", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]  # noqa: S108 - a private one
    words += ["--dir", fence.home] if fence.home.startswith("/") and fence.home != "/" else []
    words += _binds("--ro-bind", fence.read)
    if effects.network:  # a link to a file of a resolver that is not below /etc
        resolver = os.path.realpath("/etc/resolv.conf")
        words += _binds("--ro-bind", [resolver] if os.path.exists(resolver) else [])  # noqa: PTH110 - a plain string
    words += ["--dir", root] if fence.shown != (root,) else []
    words += _binds("--bind" if effects.write else "--ro-bind", fence.shown)
    words += _binds("--bind", fence.write)
    words += _binds("--bind", fence.pinned)
    words += _binds("--ro-bind", fence.kept)
    words += [word for source, path in fence.masks for word in ("--ro-bind", source, path)]
    return (*words, "--chdir", root, "--")


def _binds(how: str, paths: Iterable[str]) -> list[str]:
    return [word for path in paths for word in (how, path, path)]


# Landlock.


class _Attributes(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def _ruleset(fence: Fence, temporary: str) -> int:
    """Return a descriptor of the fence's rules; without `temporary`, of those on sockets and signals alone."""
    libc = ctypes.CDLL(None, use_errno=True)
    # Signals are left to bubblewrap's own process namespace: it must be able to end what it started.
    closed = _Attributes(_ALL_FILES, 0, _SCOPES) if temporary else _Attributes(0, 0, 0b01)
    fd: int = libc.syscall(_CREATE, ctypes.byref(closed), 24, 0)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "Landlock refused the rules")
    if temporary:
        changed = fence.shown if fence.effects.write else ()
        for path in (*_readable_to_root(fence.read), *fence.shown, "/proc", "/sys"):
            _add(libc, fd, path, _READ)
        for path in (*changed, *fence.write, temporary, *_DEVICES):
            _add(libc, fd, path, _ALL_FILES)
    return fd


def _readable_to_root(paths: Sequence[str]) -> list[str]:
    """The paths, less secrets of the system: Landlock can only leave them out by naming everything beside them."""
    secrets = set(system_secrets())
    if not secrets:
        return list(paths)
    plain = [path for path in paths if path != "/etc"]
    return plain + [entry.path for entry in os.scandir("/etc") if entry.path not in secrets and entry.name != "ssl"] + [
        "/etc/ssl/certs", "/etc/ssl/openssl.cnf"
    ]  # fmt: skip


def _add(libc: ctypes.CDLL, fd: int, path: str, allowed: int) -> None:
    with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not S_ISDIR(os.fstat(parent).st_mode):
                allowed &= _ON_A_FILE
            rule = _PathBeneath(allowed, parent)
            if libc.syscall(_ADD_RULE, fd, _PATH_BENEATH, ctypes.byref(rule), 0):
                raise OSError(ctypes.get_errno(), f"Landlock refused a rule on {path}")
        finally:
            os.close(parent)


# The filter of system calls.


@cache
def _filter(sockets: Sockets, *, has_neighbours: bool = False, keeps_files: bool = False) -> bytes:
    """Return a BPF program that refuses all other sockets than these, and the calls of `_CALLS`.

    With `keeps_files`, also what changes a file without writing it; with `has_neighbours`, what acts on processes by
    their number.
    """
    machine = platform.machine()
    if machine not in _CALLS:
        return b""
    arch, socket_call, refused = _CALLS[machine]
    load, equal, at_least, end = 0x20, 0x15, 0x35, 0x06
    # Each step: code, jump if true, jump if false, value. Loads: 4 architecture, 0 call, 16 its first argument.
    steps = [(load, 0, 0, 4), (equal, 1, 0, arch), (end, 0, 0, _EACCES)]
    steps += [(load, 0, 0, 0), (at_least, 0, 1, 0x40000000), (end, 0, 0, _EACCES)]  # x32, a second numbering
    for number in refused:
        steps += [(equal, 0, 1, number), (end, 0, 0, _ENOSYS)]
    more = (
        *(_CHANGES_OF_FILES if keeps_files else {}).get(machine, ()),
        *(_OF_PROCESSES if has_neighbours else {}).get(machine, ()),
    )
    for number in more:
        steps += [(equal, 0, 1, number), (end, 0, 0, _EACCES)]
    if has_neighbours:  # a process may limit itself: its number is 0 then
        steps += [
            (equal, 0, 4, _PRLIMIT[machine]),
            (load, 0, 0, 16),
            (equal, 1, 0, 0),
            (end, 0, 0, _EACCES),
            (load, 0, 0, 0),
        ]
    steps += {
        "any": [],
        "none": [(equal, 0, 1, socket_call), (end, 0, 0, _EACCES)],
        "unix": [(equal, 0, 3, socket_call), (load, 0, 0, 16), (equal, 1, 0, _AF_UNIX), (end, 0, 0, _EACCES)],
        "no unix": [(equal, 0, 3, socket_call), (load, 0, 0, 16), (equal, 0, 1, _AF_UNIX), (end, 0, 0, _EACCES)],
    }[sockets]
    return b"".join(struct.pack("=HBBI", *step) for step in [*steps, (end, 0, 0, _ALLOW)])


def hidden_beside(fence_parts: Iterable[str]) -> list[str]:
    """Return the library's own folders and secrets of the system that lie in what a command sees."""
    parts = tuple(fence_parts)
    return [path for path in (*own_folders(), *system_secrets()) if any(is_within(path, part) for part in parts)]
