"""Open files of the workspace so that no link, however it is swapped meanwhile, leads outside.

Linux does it in one call (`openat2` with RESOLVE_BENEATH); elsewhere each folder on the way is opened by itself without
following links. Callers pass paths whose links are resolved already, so a link on the way is always a change under way.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from contextlib import contextmanager, suppress
from functools import lru_cache
from stat import S_ISREG
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

_OPENAT2 = 437  # the same number on every architecture (include/uapi/asm-generic/unistd.h)
_NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH = 0x02, 0x04, 0x08  # include/uapi/linux/openat2.h
_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
_TRIES = 64


class ConfinementError(OSError):
    """The kernel refused a path: it leads outside, through a link, or to something that is no plain file."""


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


@lru_cache(maxsize=1)
def _libc() -> ctypes.CDLL | None:
    """The C library, if its kernel knows openat2."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    libc.syscall(_OPENAT2, -1, None, None, 0)
    return None if ctypes.get_errno() in {errno.ENOSYS, errno.EPERM} else libc


@lru_cache(maxsize=64)
def _how(flags: int, mode: int) -> object:
    """A reference to the call's structure, which it keeps alive."""
    how = _How(flags | os.O_CLOEXEC, mode if flags & os.O_CREAT else 0, _BENEATH | _NO_MAGICLINKS | _NO_SYMLINKS)
    return ctypes.byref(how)


class Root:
    """The workspace as an open folder.

    Args:
        path: The folder.
        portable: Walk folder by folder even where `openat2` is there.
    """

    def __init__(self, path: str, *, portable: bool = False) -> None:
        self.fd = os.open(path, _FOLDER)
        self._libc = None if portable else _libc()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the folder."""
        with suppress(OSError):
            os.close(self.fd)

    @property
    def method(self) -> str:
        """How confinement is done: `openat2` or `walk`."""
        return "openat2" if self._libc else "walk"

    def open(self, path: str, flags: int = os.O_RDONLY, mode: int = 0o666) -> int:
        """A descriptor of `path`, which is relative and holds no `..`.

        Raises:
            ConfinementError: When a link or the outside is in the way.
            OSError: As `os.open`.
        """
        if "\0" in path:
            raise ConfinementError(errno.EINVAL, "NUL in path")
        if self._libc is None:
            return self._walk(path, flags, mode)
        how, raw, tries = _how(flags, mode), path.encode("utf-8", "surrogateescape"), _TRIES
        fd: int
        while (fd := self._libc.syscall(_OPENAT2, self.fd, raw, how, 24)) < 0:
            tries -= 1
            code = ctypes.get_errno()
            if not tries or code not in {errno.EAGAIN, errno.EINTR}:  # EAGAIN: a rename raced with the lookup
                raise _error(code, path)
        return fd

    def _walk(self, path: str, flags: int, mode: int) -> int:
        parts = path.split("/")
        if path.startswith("/") or ".." in parts:
            raise ConfinementError(errno.EXDEV, "leads out of the workspace", path)
        folder = os.dup(self.fd)
        try:
            for part in parts[:-1]:
                deeper = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
                os.close(folder)
                folder = deeper
            return os.open(parts[-1], flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=folder)
        except OSError as error:
            link = error.errno == errno.ENOTDIR  # what a link gives where only a folder is wanted
            raise _error(errno.ELOOP if link else error.errno or errno.EIO, path) from None
        finally:
            os.close(folder)

    def read(self, path: str, limit: int) -> tuple[bytes, int]:
        """The first `limit` + 1 bytes of a plain file, and its permission bits."""
        fd = self.open(path, _READ)
        mode = os.fstat(fd).st_mode
        if not S_ISREG(mode):
            os.close(fd)
            raise ConfinementError(errno.EINVAL, "is not a plain file", path)
        try:
            return _read_up_to(fd, limit + 1), mode & 0o777
        finally:
            os.close(fd)

    @contextmanager
    def folder(self, path: str, *, create: bool = False) -> Iterator[int]:
        """A descriptor of a folder, made with its parents where it is missing."""
        fd = self._made(path) if create else self.open(path, _FOLDER)
        try:
            yield fd
        finally:
            os.close(fd)

    def _made(self, path: str) -> int:
        with suppress(FileNotFoundError):
            return self.open(path, _FOLDER)
        parent, _, name = path.rpartition("/")
        with self.folder(parent or ".", create=True) as above, suppress(FileExistsError):
            os.mkdir(name, dir_fd=above)
        return self.open(path, _FOLDER)


def _read_up_to(fd: int, limit: int) -> bytes:
    chunks, left = [], limit
    while left > 0 and (chunk := os.read(fd, min(left, 1 << 20))):
        chunks.append(chunk)
        left -= len(chunk)
    return b"".join(chunks)


def _error(code: int, path: str) -> OSError:
    if code in {errno.EXDEV, errno.ELOOP}:
        return ConfinementError(code, "a link leads away, or out of the workspace", path)
    return OSError(code, os.strerror(code), path)
