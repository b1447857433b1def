"""Read and replace files that only their owner may touch: keys, trust, whatever is sealed.

A file is judged by its opened descriptor, never by a name that could be swapped in between, and every refusal is one
sentence with the file and the command that mends it. A writer replaces the whole file or nothing. Owners and modes
are POSIX's; elsewhere the user's profile folder is private by itself.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager, suppress
from errno import ELOOP
from shlex import quote
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_BYTES = 1 << 20
LOCK_WAIT_S = 10.0

_POSIX = os.name == "posix"
# Not blocking, so that opening a FIFO returns and is refused.
_READ = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)

Stamp = tuple[int, int, int, int]


class Refused(Exception):  # noqa: N818 - never reaches a caller of ours: whoever asks makes an error of its own of it
    """A file that is not used: the sentence says why, and what mends it."""


def stamp(path: str) -> Stamp | None:
    """What changes when the file is edited, replaced or has its mode changed; None where it is missing."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


def read(path: Path) -> bytes | None:
    """Return the content, or None where there is no such file. Raises Refused."""
    try:
        handle = os.open(path, _READ)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if stamp(str(path)) is None:  # its folder may not be entered: the home of another user, as containers have it
            return None
        raise Refused(_os_problem(path, error)) from None
    try:
        found = os.fstat(handle)
        if problem := _file_problem(path, found) or folder_problem(path.parent, path.parent.stat()):
            raise Refused(problem)
        return os.read(handle, found.st_size)
    finally:
        os.close(handle)


def _file_problem(path: Path, found: os.stat_result) -> str | None:
    """Return why this file is not fit to hold keys."""
    name, mode, user = quote(str(path)), found.st_mode, os.geteuid() if _POSIX else found.st_uid
    problems = (
        (not stat.S_ISREG(mode), f"is not a regular file: move it away (mv {name} {name}.old)"),
        (found.st_size > MAX_BYTES, f"is larger than {MAX_BYTES} bytes: move it away (mv {name} {name}.old)"),
        (found.st_uid != user, f"belongs to another user: run chown {user} {name}"),
        (
            _POSIX and found.st_nlink != 1,
            f"has other names (hard links): run cp -p {name} {name}.new && mv {name}.new {name}",
        ),
        (_POSIX and mode & 0o077, f"may be read or written by others (mode {mode & 0o777:04o}): run chmod 600 {name}"),
    )
    return next((f"{path} {problem}" for is_so, problem in problems if is_so), None)


def is_ours(found: os.stat_result) -> bool:
    """Return True for what belongs to this user or to the system."""
    return not _POSIX or found.st_uid in {0, os.geteuid()}


def folder_problem(folder: Path, found: os.stat_result) -> str | None:
    """Return why others could replace a file in this folder."""
    if not is_ours(found):
        return f"{folder} belongs to another user: run chown {os.geteuid()} {quote(str(folder))}"
    if _POSIX and found.st_mode & 0o022:
        return f"{folder} may be written by others: run chmod go-w {quote(str(folder))}"
    return None


def _os_problem(path: Path, error: OSError) -> str:
    name = quote(str(path))
    if error.errno == ELOOP:
        return f'{path} is a symbolic link: run cp --remove-destination "$(readlink -f {name})" {name}'
    return f"{path} cannot be used ({error.strerror}): check it with ls -ld {name}"


@contextmanager
def locked(path: Path, *, timeout_s: float = LOCK_WAIT_S) -> Iterator[None]:
    """Hold the lock that all writers of `path` take, in a file beside it; the system frees it when a holder dies.

    Raises:
        Refused: The folder cannot be made or is not safe, or another process held the lock for `timeout_s`.
    """
    from filelock import FileLock, Timeout  # noqa: PLC0415 - 40 ms, only for those who write

    beside = path.with_name(f"{path.name}.lock")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if problem := folder_problem(path.parent, path.parent.stat()):
            raise Refused(problem)
        lock = FileLock(beside, timeout=timeout_s, mode=0o600, poll_interval=0.01)
        lock.acquire()
    except Timeout:
        raise Refused(f"another process holds {beside}: find it with fuser {quote(str(beside))}") from None
    except OSError as error:
        raise Refused(_os_problem(beside, error)) from None
    try:
        yield
    finally:
        lock.release()


def replace(path: Path, content: bytes) -> str | None:
    """Put `content` in place of the file as a whole, on disk before it returns; call it under `locked`.

    Returns the problem instead of raising it: this frame may hold keys, and a traceback would keep it.
    """
    fresh = path.with_name(f"{path.name}.new")  # one name, under the lock: the next writer removes a killed one's
    try:
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, _WRITE, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)  # noqa: PTH105 - os.replace is what a test stops
        with suppress(OSError):  # not every system opens a folder
            handle = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
    except OSError as error:
        return _os_problem(path, error)
    return None
