"""The cache in a folder of this user: diskcache with bytes only, leases beside the entries, repaired by starting anew.

Reads and writes take microseconds and happen where they are asked for; a coroutine goes to a thread only when another
process is writing.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sqlite3
import stat
import time
from dataclasses import astuple
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import orjson

from blueprint_llm.cache.ops import (
    KEEP_S,
    Amount,
    Beat,
    Clear,
    Drop,
    Get,
    Held,
    Lease,
    Measure,
    Op,
    Put,
    Release,
    Standing,
    lease_step,
)
from blueprint_llm.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from blueprint_llm.cache._diskcache import BytesCache

FILE = "cache.db"
BUSY_S = 2.0
RETRY_S = 0.002
LARGEST = 16  # an entry takes at most this part of the cap
# What says that the file cannot be used now, but not that it is damaged.
_UNAVAILABLE = frozenset(
    {
        *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR),
        *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_NOMEM),
    }
)
_REMOTE = ("nfs", "cifs", "smb", "fuse.sshfs", "9p", "afs", "ceph", "glusterfs", "lustre")
_LEASE = "lease"
_ENTRIES = f"FROM Cache WHERE tag IS NOT '{_LEASE}'"


class _BusyError(Exception):
    """Another process is writing."""


class DiskCache:
    """A store in `directory` (0700, files 0600, made where missing), for any number of processes of one user."""

    def __init__(
        self, directory: Path | str, *, size_limit_bytes: int = 1 << 30, clock: Callable[[], float] = time.time
    ) -> None:
        self._directory, self._limit, self._clock = Path(directory), size_limit_bytes, clock
        self._lock = Lock()
        self._cache: BytesCache | None = None
        self._inode = 0

    def execute(self, op: Op) -> Any:
        """Run `op`, waiting up to 2 s for other writers. Raises StoreError."""
        until = time.monotonic() + BUSY_S
        while True:
            try:
                return self._attempt(op)
            except _BusyError:
                if time.monotonic() > until:
                    raise self._unusable("is locked by another process") from None
                time.sleep(RETRY_S)

    async def aexecute(self, op: Op) -> Any:
        """Run `op` at once if nobody is writing, else in a thread. Raises StoreError."""
        try:
            return self._attempt(op)
        except _BusyError:
            return await asyncio.to_thread(self.execute, op)

    def close(self) -> None:
        """Close the database; using the store again opens it again."""
        with self._lock:
            self._close()

    async def aclose(self) -> None:
        """Close the database."""
        self.close()

    def _close(self) -> None:
        if self._cache is not None:
            self._cache.close()
        self._cache = None

    def _attempt(self, op: Op) -> Any:
        with self._lock:
            try:
                if self._cache is None:
                    self._cache = self._open()
                return self._run(self._cache, op)
            except StoreError:
                raise
            except Exception as error:  # noqa: BLE001 - diskcache answers a damaged table with whatever Python raises
                trouble = self._sorted(error)
        raise trouble

    def _sorted(self, error: Exception) -> Exception:
        """What to raise instead; a damaged database is set aside first, so that the next operation works."""
        from diskcache import Timeout  # noqa: PLC0415 - loaded with the first operation

        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        if isinstance(error, Timeout | BlockingIOError) or code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            return _BusyError()
        if isinstance(error, OSError) or code in _UNAVAILABLE:
            self._close()
            return self._unusable(f"cannot be used ({error})")
        return self._set_aside()

    def _unusable(self, why: str) -> StoreError:
        return StoreError(f"the response cache {self._directory} {why}: mend it or set blueprint.cache.directory")

    def _set_aside(self) -> Exception:
        """Move the database away, unless another process has done so by now."""
        self._close()
        try:
            with self._guarded():
                path = self._directory / FILE
                if path.exists() and path.stat().st_ino == self._inode:
                    path.replace(path.with_name(f"{FILE}.broken"))
                    for suffix in ("-wal", "-shm"):
                        path.with_name(FILE + suffix).unlink(missing_ok=True)
        except BlockingIOError:
            return _BusyError()
        except OSError as error:
            return self._unusable(f"is damaged and cannot be set aside ({error})")
        return self._unusable(f"was damaged; it was set aside as {FILE}.broken and begun anew")

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """One process at a time makes, changes or removes the database; raises BlockingIOError for the others.

        SQLite's own lock would do for the rows, but its log only shrinks while nobody else is writing.
        """
        handle = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        finally:
            os.close(handle)

    def _open(self) -> BytesCache:
        from blueprint_llm.cache._diskcache import BytesCache  # noqa: PLC0415 - diskcache loads on first use

        self._make_folder()
        with self._guarded():
            path = self._directory / FILE
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
            path.chmod(0o600)  # the log and the index take their modes from it
            self._inode = path.stat().st_ino
            return BytesCache(str(self._directory), self._limit)

    def _make_folder(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self._directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise self._unusable("is a symbolic link or belongs to another user")
        if remote := _remote_kind(self._directory):
            raise self._unusable(f"is on {remote}, where SQLite's log does not work")
        if found.st_mode & 0o077:
            self._directory.chmod(0o700)

    def _run(self, cache: BytesCache, op: Op) -> Any:
        match op:
            case Get():
                return self._get(cache, op.key.encode())
            case Put():
                return self._put(cache, op)
            case Drop():
                with self._guarded():
                    return cache.delete(op.key.encode())
            case Release() | Lease() | Beat():
                return self._lease(cache, op)
            case Measure():
                sums = f"SELECT COUNT(*), COALESCE(SUM(LENGTH(value)), 0) {_ENTRIES}"
                return Amount(*cache._sql(sums).fetchone())  # noqa: SLF001 - our subclass
            case Clear():
                return self._clear(cache, op)

    def _get(self, cache: BytesCache, key: bytes) -> bytes | None:
        from blueprint_llm.cache._diskcache import RefusedRowError  # noqa: PLC0415 - loaded by then

        try:
            return cache.read(key, time.time())
        except RefusedRowError:
            with self._guarded():
                cache.delete(key)
            raise self._unusable("held a row that this cache did not write; it was deleted") from None

    def _put(self, cache: BytesCache, op: Put) -> None:
        if len(op.value) > self._limit // LARGEST:  # it would drive out too much else
            return
        namespace = op.key.partition(":")[0]
        with self._guarded():
            cache.set(op.key.encode(), op.value, expire=op.ttl_s, tag=namespace)
            cache.trim()

    def _lease(self, cache: BytesCache, op: Lease | Beat | Release) -> Standing:
        """Look first: who waits for a living holder writes nothing."""
        key = f"{_LEASE}:{op.key}".encode()
        now = self._clock()
        held = _held(cache.get(key))
        after, standing = lease_step(held, op, now)
        if after is held:
            return standing
        with self._guarded(), cache.transact():
            held = _held(cache.get(key))
            after, standing = lease_step(held, op, now)
            if after is None:
                cache.delete(key)
            elif after is not held:
                cache.set(key, orjson.dumps(astuple(after)), expire=KEEP_S, tag=_LEASE)
        return standing

    def _clear(self, cache: BytesCache, op: Clear) -> int:
        own = "1" if op.namespace is None else "tag = :tag"
        where = f"DELETE {_ENTRIES} AND store_time <= :before AND {own}"
        with self._guarded(), cache.transact():
            values = {"before": self._clock() - op.older_than_s, "tag": op.namespace}
            deleted: int = cache._sql(where, values).rowcount  # noqa: SLF001 - our subclass
        return deleted


def _held(value: bytes | None) -> Held | None:
    return None if value is None else Held(*orjson.loads(value))


def _remote_kind(directory: Path) -> str | None:
    """The kind of a file system that is not on this machine."""
    try:
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text("utf-8", "replace").splitlines()]
    except OSError:
        return None
    path = f"{directory.resolve()}/"
    holding = [(len(row[1]), row[2]) for row in mounts if path.startswith(row[1].rstrip("/") + "/")]
    kind = max(holding, default=(0, ""))[1]
    return kind if kind.startswith(_REMOTE) else None
