"""Landlock through ctypes: a set of rules, as a descriptor that a process takes on before it runs something else.

Structures and bits from include/uapi/linux/landlock.h. Each kernel knows a version; rights that it does not know are
left out, and what is in force is told in `describe`.
"""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from functools import lru_cache
from stat import S_ISDIR
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_CREATE, _ADD_RULE = 444, 445
_PATH_BENEATH = 1
# Bits by the version that brought them: 1 execute..make_sym, 2 refer, 3 truncate, 5 ioctl_dev.
_FS_BY_VERSION = {1: (1 << 13) - 1, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
_READ = 0b1101  # execute, read file, read folder
_FILE_ONLY = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15
_TCP = 0b11  # bind, connect
_TCP_SINCE, _SCOPES_SINCE = 4, 6
_SCOPES = 0b11  # abstract sockets, signals


class _Attributes(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


@lru_cache(maxsize=1)
def version() -> int:
    """The kernel's Landlock version; 0 where it has none or refuses."""
    if sys.platform != "linux":
        return 0
    return max(0, int(ctypes.CDLL(None).syscall(_CREATE, None, 0, 1)))


def describe(known: int) -> str:
    """What Landlock of this version enforces."""
    return f"landlock {known} (files{', TCP' if known >= _TCP_SINCE else ''})"


def ruleset(*, read: Iterable[str], write: Iterable[str], network: bool, files: bool = True) -> int:
    """A descriptor of the rules.

    Args:
        read: Paths below which reading and executing is allowed; missing ones are passed over.
        write: Paths below which everything is allowed.
        network: Whether TCP stays open.
        files: False leaves files alone and closes only TCP.

    Raises:
        OSError: When the kernel refuses.
    """
    libc, known = ctypes.CDLL(None, use_errno=True), version()
    rights = sum(bits for since, bits in _FS_BY_VERSION.items() if since <= known) if files else 0
    closed = _Attributes(
        rights,
        _TCP if known >= _TCP_SINCE and not network else 0,
        _SCOPES if known >= _SCOPES_SINCE and files else 0,
    )
    size = 24 if known >= _SCOPES_SINCE else 16 if known >= _TCP_SINCE else 8
    fd: int = libc.syscall(_CREATE, ctypes.byref(closed), size, 0)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "Landlock refused the rules")
    for allowed, paths in ((_READ & rights, read), (rights, write)):
        for path in paths if files else ():
            _add(libc, fd, path, allowed)
    return fd


def _add(libc: ctypes.CDLL, fd: int, path: str, allowed: int) -> None:
    with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not S_ISDIR(os.fstat(parent).st_mode):
                allowed &= _FILE_ONLY
            rule = _PathBeneath(allowed, parent)
            if libc.syscall(_ADD_RULE, fd, _PATH_BENEATH, ctypes.byref(rule), 0):
                raise OSError(ctypes.get_errno(), f"Landlock refused a rule on {path}")
        finally:
            os.close(parent)
