"""Who holds a SQLite database locked, as far as the operating system tells, and what its errors mean for the user."""

from __future__ import annotations

import math
import os
import sqlite3
from contextlib import suppress
from pathlib import Path

from blueprint_llm.errors import StoreError

_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_SHM_WRITE_BYTE = 120  # of the -shm file: whoever writes to a database with a write-ahead log holds it


def is_busy(error: Exception) -> bool:
    """Return True if the database is only locked at the moment."""
    return _code(error) in _BUSY


def _code(error: Exception) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def explained(path: Path | str | None, error: Exception) -> StoreError:
    """Return the database's or the file system's error as one that says what to do; no path: the user's own file."""
    name = "ledger.sqlite in the state folder" if path is None else path
    cure = (
        "move the file away to begin an empty one (its budgets then count from zero), or set blueprint.store.url"
        if _code(error) in _DAMAGED
        else "free the disk or make the folder writable; or keep the ledger elsewhere (BLUEPRINT_HOME, or "
        "blueprint.store.url: sqlite:PATH or memory); or set blueprint.store.on_failure: memory"
    )
    return StoreError(f"the ledger {name} cannot be used ({error}): {cure}")


def locked(path: Path) -> str:
    """Return a sentence that says that the database is locked and by whom. Linux tells; elsewhere nobody is named.

    Nothing of SQLite's is opened for it: closing a descriptor of the database would drop this process's own locks.
    """
    pids: dict[int, None] = {}
    with suppress(OSError):
        held = [line.split() for line in Path("/proc/locks").read_text(encoding="ascii").splitlines()]
        for file, byte in ((path, None), (path.with_name(f"{path.name}-shm"), _SHM_WRITE_BYTE)):
            inode = str(file.stat().st_ino)
            pids |= dict.fromkeys(pid for words in held if (pid := _writer(words, inode, byte)))
    return f"the ledger {path} is locked by {' and '.join(map(_named, pids)) or 'another process'}"


def _writer(words: list[str], inode: str, byte: int | None) -> int | None:
    """Return the pid of a line like `1: POSIX ADVISORY WRITE 4711 08:01:1234 120 120` if it locks that byte."""
    match words:
        case [_, _, _, "WRITE", pid, place, first, last] if place.rpartition(":")[2] == inode:
            locks_it = byte is None or int(first) <= byte <= (math.inf if last == "EOF" else int(last))
            return int(pid) if locks_it else None
    return None


def _named(pid: int) -> str:
    if pid == os.getpid():
        return "this process"
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return f"process {pid}"
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    stopped = ", stopped" if facts.get("State", "").startswith(("T", "t")) else ""
    return f"process {pid} ({facts.get('Name', '?')}{stopped})"
