"""Read and replace a file that only its owner may touch.

Everything is checked on the opened descriptor, never on a path that could be swapped in between, and every refusal is
one sentence with the file and the command that mends it. A writer replaces the whole file or nothing.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from contextlib import contextmanager, suppress
from errno import ELOOP
from shlex import quote
from typing import TYPE_CHECKING

from blueprint_llm.errors import CredentialsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MAX_BYTES = 1 << 20
LOCK_WAIT_S = 10.0
_LOCK_STEP_S = 0.01

Stamp = tuple[int, int, int, int]


def stamp(path: str) -> Stamp | None:
    """What changes when the file is edited, replaced or has its mode changed; None where it is missing."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


def read(path: Path) -> bytes | None:
    """The content, or None where the file is missing.

    Raises:
        CredentialsError: The file or its folder is not safe, or cannot be read.
    """
    try:
        with _folder(path) as folder:
            return _read_at(folder, path)
    except FileNotFoundError:
        return None
    except OSError as error:
        problem = _os_problem(path, error)
    raise CredentialsError(problem)


def _read_at(folder: int, path: Path) -> bytes:
    # Not blocking, so that opening a FIFO returns and is refused below.
    handle = os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    try:
        found = os.fstat(handle)
        if problem := file_problem(path, found):
            raise CredentialsError(problem)
        return os.read(handle, found.st_size)
    finally:
        os.close(handle)


def file_problem(path: Path, found: os.stat_result) -> str | None:
    """Why this file is not fit to hold keys."""
    name = quote(str(path))
    if not stat.S_ISREG(found.st_mode):
        return f"{path} is not a regular file: move it away (mv {name} {name}.old)"
    if found.st_uid != os.geteuid():
        return f"{path} belongs to another user: run chown {os.geteuid()} {name}"
    if found.st_nlink != 1:
        return f"{path} has other names (hard links): run cp -p {name} {name}.new && mv {name}.new {name}"
    if found.st_mode & 0o077:
        return f"{path} may be read or written by others (mode {found.st_mode & 0o777:04o}): run chmod 600 {name}"
    if found.st_size > MAX_BYTES:
        return f"{path} is larger than {MAX_BYTES} bytes: move it away (mv {name} {name}.old)"
    return None


def folder_problem(folder: Path, found: os.stat_result) -> str | None:
    """Why others could replace a file in this folder."""
    if found.st_uid not in {0, os.geteuid()}:
        return f"{folder} belongs to another user: run chown {os.geteuid()} {quote(str(folder))}"
    if found.st_mode & 0o022:
        return f"{folder} may be written by others: run chmod go-w {quote(str(folder))}"
    return None


def _os_problem(path: Path, error: OSError) -> str:
    name = quote(str(path))
    if error.errno == ELOOP:
        return f'{path} is a symbolic link: run cp --remove-destination "$(readlink -f {name})" {name}'
    return f"{path} cannot be used ({error.strerror}): check it with ls -ld {name}"


@contextmanager
def _folder(path: Path) -> Iterator[int]:
    handle = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if problem := folder_problem(path.parent, os.fstat(handle)):
            raise CredentialsError(problem)
        yield handle
    finally:
        os.close(handle)


@contextmanager
def locked(
    path: Path, *, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
) -> Iterator[None]:
    """Hold the lock that all writers of `path` take, in a file beside it; the system frees it when a holder dies.

    Raises:
        CredentialsError: The folder is not safe, or another process held the lock for 10 s.
    """
    handle = _open_lock(path)
    try:
        _take(handle, path, clock, sleep)
        yield
    finally:
        os.close(handle)


def _open_lock(path: Path) -> int:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _folder(path) as folder:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            return os.open(f"{path.name}.lock", flags, 0o600, dir_fd=folder)
    except OSError as error:
        problem = _os_problem(path.with_name(f"{path.name}.lock"), error)
    raise CredentialsError(problem)


def _take(handle: int, path: Path, clock: Callable[[], float], sleep: Callable[[float], None]) -> None:
    until = clock() + LOCK_WAIT_S
    while not _try_lock(handle):
        if clock() >= until:
            raise CredentialsError(f"another process holds {path}.lock: find it with fuser {quote(f'{path}.lock')}")
        sleep(_LOCK_STEP_S)


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def replace(path: Path, content: bytes) -> str | None:
    """Put `content` in place of the file as a whole, on disk before it returns; call it under `locked`.

    Returns the problem instead of raising it: this frame holds keys, and a traceback would keep it.
    """
    try:
        with _folder(path) as folder:
            _replace_at(folder, path.name, content)
    except OSError as error:
        return _os_problem(path, error)
    return None


def _replace_at(folder: int, name: str, content: bytes) -> None:
    fresh = f"{name}.new"  # one name, under the lock: what a killed writer left is removed by the next one
    with suppress(FileNotFoundError):
        os.unlink(fresh, dir_fd=folder)
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(handle)
    os.replace(fresh, name, src_dir_fd=folder, dst_dir_fd=folder)
    os.fsync(folder)
