"""The workspace: the one folder that tools may touch, where a path in it leads, and how its files are opened.

A path is judged twice: by name, to decide (`Workspace`); and when it is opened, so that no link, however it is swapped
meanwhile, leads outside (`Root`). Linux opens beneath a folder in one call (`openat2` with RESOLVE_BENEATH); elsewhere
each folder on the way is opened by itself without following links. Callers of `Root` pass paths whose links are
resolved already, so a link on the way is always a change under way.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import struct
import sys
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from stat import S_ISLNK, S_ISREG
from typing import TYPE_CHECKING

from blueprint_llm.tools.words import is_hidden

if TYPE_CHECKING:
    from collections.abc import Iterator

_OPENAT2 = 437  # the same number on every architecture (include/uapi/asm-generic/unistd.h)
_NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH = 0x02, 0x04, 0x08  # include/uapi/linux/openat2.h
_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
_TRIES = 64


class PathDeniedError(ValueError):
    """A path that no tool may touch; the message says why."""


_DEVICES = re.compile(r"(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9])(?:\..*)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """Where a path leads."""

    path: str  # POSIX, relative to the workspace, all links resolved; `.` for the workspace itself
    named: str  # the same before links were resolved
    links: int = 1  # hard links of a regular file

    @property
    def names(self) -> tuple[str, ...]:
        """Both spellings, for rules that must not be dodged through a link."""
        return (self.path,) if self.path == self.named else (self.path, self.named)


class Workspace:
    """A folder, given by its real path."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.path.realpath(root)
        self._given = os.path.abspath(root)  # noqa: PTH100 - purely textual: links in it are wanted

    def locate(self, path: str) -> Located:
        """Return where `path` leads. Raises PathDeniedError if it is outside, or read differently by some system."""
        if not path:
            raise PathDeniedError("the path is empty")
        if not (path.isascii() and path.isprintable()) and any(is_hidden(char) for char in path):
            raise PathDeniedError(f"{path!a} holds an invisible character")
        if "\\" in path or ":" in path:
            raise PathDeniedError(
                f"{path!r} holds a backslash or a colon, which other systems read as a folder or a stream"
            )
        for part in Path(path).parts:
            if part not in {".", ".."} and (part[-1] in ". " or _DEVICES.fullmatch(part.casefold())):
                raise PathDeniedError(f"{path!r} names a device, or ends in a dot or space that other systems drop")
        return self.resolve(path)

    def resolve(self, path: str) -> Located:
        """Return where `path` leads, without judging how it is spelled. Raises PathDeniedError if that is outside."""
        named = self.relative(path)
        if ".." not in path and (place := self._plain(named)):
            return place
        try:
            real = os.path.realpath(os.path.join(self.root, path))  # noqa: PTH118 - `..` counts after links, as in the kernel
        except OSError as error:  # a link that is no link any more: somebody exchanges it right now
            raise PathDeniedError(f"{path!r}: {error.strerror}") from None
        if real != self.root and not real.startswith(self.root.rstrip("/") + "/"):
            raise PathDeniedError(f"{path!r} leads out of the workspace")
        place = self._plain(real[len(self.root) :].strip("/") or ".")
        if place is None:
            raise PathDeniedError(f"{path!r} is a loop of links")
        return replace(place, named=named)

    def _plain(self, inside: str) -> Located | None:
        """The place of a path that has no link on its way; None where it has one."""
        real, links = self.root, 1
        for part in inside.split("/"):
            real = f"{real}/{part}"
            try:
                found = os.lstat(real)
            except (FileNotFoundError, NotADirectoryError):
                return Located(path=inside, named=inside)
            except OSError as error:
                raise PathDeniedError(f"{inside!r}: {error.strerror}") from None
            if S_ISLNK(found.st_mode):
                return None
            links = found.st_nlink if S_ISREG(found.st_mode) else 1
        return Located(path=inside, named=inside, links=links)

    def relative(self, path: str) -> str:
        """Return `path` (or a pattern) as text, relative to the root. Raises PathDeniedError if it leads outside."""
        if "\0" in path:
            raise PathDeniedError(f"{path!r} holds a NUL")
        clean = os.path.normpath(path or ".")
        for root in {self._given, self.root} if clean.startswith("/") else ():
            if clean == root or clean.startswith(root.rstrip("/") + "/"):
                return clean[len(root) :].strip("/") or "."
        if clean == ".." or clean.startswith(("/", "../")):
            raise PathDeniedError(f"{path!r} leads out of the workspace")
        return clean


@lru_cache(maxsize=1024)
def glob(pattern: str) -> re.Pattern[str]:
    """A path pattern as a regular expression: `**` crosses folders, `*` and `?` do not."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern.removeprefix("./"))
    wild = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(wild.get(part, re.escape(part)) for part in parts) + r"\Z", re.DOTALL)


class ConfinementError(OSError):
    """The kernel refused a path: it leads outside, through a link, or to something that is no plain file."""


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
def _how(flags: int, mode: int) -> bytes:
    resolve = _BENEATH | _NO_MAGICLINKS | _NO_SYMLINKS
    return struct.pack("=QQQ", flags | os.O_CLOEXEC, mode if flags & os.O_CREAT else 0, resolve)


class Root(AbstractContextManager["Root"]):
    """The workspace as an open folder. With `portable`, walk folder by folder even where `openat2` is there."""

    def __init__(self, path: str, *, portable: bool = False) -> None:
        self.fd = os.open(path, _FOLDER)
        self._libc = None if portable else _libc()

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the folder."""
        with suppress(OSError):
            os.close(self.fd)

    def open(self, path: str, flags: int = os.O_RDONLY, mode: int = 0o666) -> int:
        """Return a descriptor of `path`, which is relative and holds no `..`.

        Raises ConfinementError if a link or the outside is in the way, else OSError as `os.open`.
        """
        if "\0" in path:
            raise ConfinementError(errno.EINVAL, "NUL in path")
        if self._libc is None:
            return self._walk(path, flags, mode)
        how, raw, tries = _how(flags, mode), path.encode("utf-8", "surrogateescape"), _TRIES
        fd: int
        while (fd := self._libc.syscall(_OPENAT2, self.fd, raw, how, len(how))) < 0:
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
            chunks, left = [], limit + 1
            while left > 0 and (chunk := os.read(fd, min(left, 1 << 20))):
                chunks.append(chunk)
                left -= len(chunk)
            return b"".join(chunks), mode & 0o777
        finally:
            os.close(fd)

    @contextmanager
    def folder(self, path: str, *, create: bool = False) -> Iterator[int]:
        """A descriptor of a folder, made with its parents where it is missing."""
        try:
            fd = self.open(path, _FOLDER)
        except FileNotFoundError:
            if not create:
                raise
            parent, _, name = path.rpartition("/")
            with self.folder(parent or ".", create=True) as above, suppress(FileExistsError):
                os.mkdir(name, dir_fd=above)
            fd = self.open(path, _FOLDER)
        try:
            yield fd
        finally:
            os.close(fd)


def _error(code: int, path: str) -> OSError:
    if code in {errno.EXDEV, errno.ELOOP}:
        return ConfinementError(code, "a link leads away, or out of the workspace", path)
    return OSError(code, os.strerror(code), path)
