"""The cache in a folder of this user: diskcache with bytes only, leases beside the entries, repaired by starting anew.

An operation takes microseconds and never waits, so it happens on the event loop; where somebody else holds a lock, a
large value is written or the database must be opened, it goes to a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import stat
import time
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, TypeVar

import filelock
from diskcache import Timeout

from blueprint_llm.cache._diskcache import BytesCache, RefusedRowError
from blueprint_llm.cache.protocol import Amount, RepairedError
from blueprint_llm.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

FILE = "cache.db"
WAIT_S = 0.5  # for other writers; a cache that answers later is not worth waiting for
RETRY_S, LONGEST_RETRY_S = 0.002, 0.02
INLINE_BYTES = 1 << 16
LARGEST = 16  # an entry takes at most this part of the cap
# What says that the file cannot be used now, but not that it is damaged.
_UNAVAILABLE = frozenset(
    {
        *(sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN),
        *(sqlite3.SQLITE_PERM, sqlite3.SQLITE_NOMEM),
    }
)
_REMOTE = ("nfs", "cifs", "smb", "fuse.sshfs", "9p", "afs", "ceph", "glusterfs", "lustre")
_LEASE = "lease"
_ENTRIES = f"FROM Cache WHERE tag IS NOT '{_LEASE}'"
_INHERITED: list[BytesCache | None] = []  # a forked child must neither use nor close its parent's connections

T = TypeVar("T")


class _BusyError(Exception):
    """Another thread or process is writing."""


class DiskCache:
    """A store in `directory` (0700, files 0600, made where missing), for any number of processes of one user.

    Args:
        directory: Its database and its lock file are all that is in it.
        size_limit_bytes: Most that its files take together.
        wait_s: How long to wait for other writers.
    """

    def __init__(self, directory: Path | str, *, size_limit_bytes: int = 1 << 30, wait_s: float = WAIT_S) -> None:
        self._directory, self._limit, self._wait_s = Path(directory), size_limit_bytes, wait_s
        self._lock, self._pid = Lock(), os.getpid()
        self._cache: BytesCache | None = None
        self._inode = 0

    async def get(self, key: str) -> bytes | None:
        """Return what is kept under `key`, or None."""
        return await self._run(partial(self._get, key=key.encode()))

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Keep `value` for `ttl_s` seconds, unless it would drive out too much else."""
        if len(value) > self._limit // LARGEST:
            return

        def put(cache: BytesCache) -> bool:
            with self._alone():
                cache.set(key.encode(), value, expire=ttl_s, tag=key.partition(":")[0])
                return cache.overflows

        def trim(cache: BytesCache) -> None:
            with self._alone():
                cache.trim()

        if await self._run(put, inline=len(value) <= INLINE_BYTES):
            await self._run(trim, inline=False)

    async def drop(self, key: str) -> None:
        """Forget `key`."""
        await self._run(lambda cache: cache.delete(key.encode()))

    async def lease(self, key: str, owner: str, ttl_s: float) -> bool:
        """Take the lease on `key`, or renew it: a row that expires, as in diskcache's recipes for locks."""
        row, name = f"{_LEASE}:{key}".encode(), owner.encode()

        def take(cache: BytesCache) -> bool:
            holder = cache.read(row)  # who waits for a living holder writes nothing
            if holder is None:
                return bool(cache.add(row, name, expire=ttl_s, tag=_LEASE))
            return holder == name and bool(cache.touch(row, expire=ttl_s))

        return await self._run(take)

    async def release(self, key: str, owner: str) -> None:
        """Give the lease back, if `owner` holds it."""
        row, name = f"{_LEASE}:{key}".encode(), owner.encode()

        def release(cache: BytesCache) -> None:
            with cache.transact():
                if cache.read(row) == name:
                    cache.delete(row)

        await self._run(release)

    async def measure(self) -> Amount:
        """Return how much is kept."""
        sums = f"SELECT COUNT(*), COALESCE(SUM(LENGTH(value)), 0) {_ENTRIES} AND expire_time > ?"
        return await self._run(lambda cache: Amount(*cache._sql(sums, (time.time(),)).fetchone()))  # noqa: SLF001 - our subclass

    async def clear(self, namespace: str | None = None, older_than_s: float = 0.0) -> int:
        """Forget all entries, or those of `namespace` and stored at least `older_than_s` ago. Return how many."""
        own = "1" if namespace is None else "tag = :tag"
        values = {"before": time.time() - older_than_s, "tag": namespace}

        def clear(cache: BytesCache) -> int:
            with self._alone(), cache.transact():
                where = f"DELETE {_ENTRIES} AND store_time <= :before AND {own}"
                return int(cache._sql(where, values).rowcount)  # noqa: SLF001 - our subclass

        return await self._run(clear, inline=False)

    async def aclose(self) -> None:
        """Close the database; using the store again opens it again."""
        if self._pid == os.getpid():
            with self._lock:
                self._close()

    async def _run(self, work: Callable[[BytesCache], T], *, inline: bool = True) -> T:
        if inline and self._cache is not None and self._pid == os.getpid():
            with contextlib.suppress(_BusyError):
                return self._attempt(work)
        return await asyncio.to_thread(self._patiently, work)

    def _patiently(self, work: Callable[[BytesCache], T]) -> T:
        until, retry_s = time.monotonic() + self._wait_s, RETRY_S
        while True:
            try:
                return self._attempt(work)
            except _BusyError:
                if time.monotonic() > until:
                    raise self._unusable("is locked by another process") from None
            time.sleep(retry_s)
            retry_s = min(2 * retry_s, LONGEST_RETRY_S)

    def _attempt(self, work: Callable[[BytesCache], T]) -> T:
        if self._pid != os.getpid():  # in a forked child, where nobody would free a lock that was held
            _INHERITED.append(self._cache)
            self._lock, self._cache, self._pid = Lock(), None, os.getpid()
        if not self._lock.acquire(blocking=False):
            raise _BusyError
        try:
            if self._cache is None:
                self._cache = self._open()
            return work(self._cache)
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001 - diskcache answers a damaged table with whatever Python raises
            trouble = self._sorted(error)
        finally:
            self._lock.release()
        raise trouble

    def _sorted(self, error: Exception) -> Exception:
        """Return what to raise instead; a damaged database is set aside first, so that the next attempt works."""
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        if isinstance(error, Timeout | filelock.Timeout | _BusyError):
            return _BusyError()
        if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
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
            with self._alone():
                path = self._directory / FILE
                if path.exists() and path.stat().st_ino == self._inode:
                    path.replace(path.with_name(f"{FILE}.broken"))
                    for suffix in ("-wal", "-shm"):
                        path.with_name(FILE + suffix).unlink(missing_ok=True)
        except filelock.Timeout:
            return _BusyError()
        except OSError as error:
            return self._unusable(f"is damaged and cannot be set aside ({error})")
        return RepairedError(
            f"the response cache {self._directory} was damaged: it was set aside as {FILE}.broken and begun anew"
        )

    def _alone(self) -> filelock.BaseFileLock:
        """Return the lock under which one process at a time makes, fills or removes the database.

        SQLite's own lock would do for the rows, but its log only shrinks while nobody else is writing.
        """
        return filelock.FileLock(self._directory / "lock", timeout=0, mode=0o600)

    def _open(self) -> BytesCache:
        self._make_folder()
        with self._alone():
            path = self._directory / FILE
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600))
            path.chmod(0o600)  # the log and the index take their modes from it
            self._inode = path.stat().st_ino
            return BytesCache(str(self._directory), self._limit)

    def _make_folder(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self._directory.lstat()
        is_ours = not hasattr(os, "geteuid") or found.st_uid == os.geteuid()
        if not stat.S_ISDIR(found.st_mode) or not is_ours:
            raise self._unusable("is a symbolic link or belongs to another user")
        if remote := _remote_kind(self._directory):
            raise self._unusable(f"is on {remote}, where SQLite's log does not work")
        if found.st_mode & 0o077:
            self._directory.chmod(0o700)

    def _close(self) -> None:
        if self._cache is not None:
            self._cache.close()
        self._cache = None

    def _get(self, cache: BytesCache, *, key: bytes) -> bytes | None:
        try:
            return cache.read(key)
        except RefusedRowError:
            cache.delete(key)
        raise RepairedError(f"the response cache {self._directory} held a row that it did not write: it was deleted")


def _remote_kind(directory: Path) -> str | None:
    """Return the kind of a file system that is not on this machine."""
    try:
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text("utf-8", "replace").splitlines()]
    except OSError:
        return None
    path = f"{directory.resolve()}/"
    holding = [(len(row[1]), row[2]) for row in mounts if path.startswith(row[1].rstrip("/") + "/")]
    kind = max(holding, default=(0, ""))[1]
    return kind if kind.startswith(_REMOTE) else None
