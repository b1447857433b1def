"""The cache in a folder of this user: diskcache with bytes only, leases beside the entries, repaired by starting anew.

diskcache trusts its database: a row of mode 4 is unpickled, a row's filename is read and deleted wherever it points,
and every row of its table of settings becomes an attribute. Here all of that is refused (CVE-2025-69872).

An operation takes microseconds and never waits, so it happens on the event loop, again a little later where somebody
else holds a lock; where a large value is written or the database must be opened, it goes to a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import stat
import time
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

import diskcache
import filelock
from diskcache.core import DBNAME, METADATA, MODE_RAW

from blueprint_llm.cache.store import Amount, RepairedError
from blueprint_llm.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

WAIT_S = 0.5  # for other writers; a cache that answers later is not worth waiting for
RETRY_S, LONGEST_RETRY_S = 0.002, 0.02
INLINE_BYTES = 1 << 16
LARGEST = 16  # an entry takes at most this part of the cap
TRIM_MS = 100
SETTINGS: dict[str, Any] = {
    "statistics": 0,
    "tag_index": 0,
    "eviction_policy": "least-recently-stored",  # recently used would make every read a write
    "cull_limit": 10,
    "sqlite_auto_vacuum": 1,
    "sqlite_cache_size": 2048,
    "sqlite_journal_mode": "wal",
    "sqlite_mmap_size": 0,  # a mapped file that somebody truncates ends the process
    "sqlite_synchronous": 0,  # no write waits for the disk: what a power cut damages is begun anew
    "sqlite_trusted_schema": 0,
    "disk_min_file_size": 1 << 62,
    "disk_pickle_protocol": 0,
}
_PAGE, _LEAST_PAGES, _MOST_PAGES = 4096, 8, 1000
# What says that the file is locked by somebody, and what that it cannot be used now; all else says that it is damaged.
_LOCKED = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_UNAVAILABLE = frozenset(
    {
        *(sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN),
        *(sqlite3.SQLITE_PERM, sqlite3.SQLITE_NOMEM),
    }
)
_REMOTE = ("nfs", "cifs", "smb", "fuse.sshfs", "9p", "afs", "ceph", "glusterfs", "lustre")
_LEASE = "lease"
_ENTRIES = f"FROM Cache WHERE tag IS NOT '{_LEASE}'"
_READ = "SELECT mode, filename, value FROM Cache WHERE key = ? AND raw = 1 AND expire_time > ?"
_INHERITED: list[object] = []  # a forked child must neither use nor close its parent's connections

T = TypeVar("T")


class RefusedRowError(Exception):
    """A row that this cache did not write; not an OSError, which diskcache would take for a deleted file."""


class _BusyError(Exception):
    """Another thread or process is writing."""


class BytesDisk(diskcache.Disk):  # type: ignore[misc] # untyped
    """Keys and values are bytes in the database."""

    def put(self, key: object) -> tuple[memoryview, bool]:
        """Return the column of a key."""
        return sqlite3.Binary(_bytes(key)), True

    def get(self, key: object, raw: object) -> bytes:
        """Return the key of a column."""
        return _bytes(key if raw else None)

    def store(self, value: object, read: object, key: object = None) -> tuple[int, int, None, memoryview]:  # noqa: ARG002 - diskcache's signature
        """Return the columns of a value."""
        return 0, MODE_RAW, None, sqlite3.Binary(_bytes(None if read else value))

    def fetch(self, mode: object, filename: object, value: object, read: object) -> bytes:
        """Return the value of the columns."""
        return _bytes(value if mode == MODE_RAW and filename is None and not read else None)

    def remove(self, file_path: object) -> None:
        """Do nothing: a name in a row is not ours to delete."""


def _bytes(value: object) -> bytes:
    if type(value) is not bytes:
        raise RefusedRowError
    return value


class BytesCache(diskcache.Cache):  # type: ignore[misc] # untyped
    """One connection for all threads, which take turns outside; diskcache would leave one open for each.

    Nothing waits for a lock: whoever finds one comes back.

    Args:
        directory: Must exist.
        size_limit_bytes: The database and its write-ahead log together.
    """

    def __init__(self, directory: Path, size_limit_bytes: int) -> None:
        self._file = directory / DBNAME
        self._db: sqlite3.Connection | None = None
        pages = max(_LEAST_PAGES, min(_MOST_PAGES, size_limit_bytes // _PAGE // 16))
        self._most_log = pages * _PAGE
        settings = SETTINGS | {"size_limit": size_limit_bytes * 3 // 4}
        settings |= {"sqlite_wal_autocheckpoint": pages, "sqlite_journal_size_limit": self._most_log}
        try:
            self._refuse_foreign(settings.keys() | METADATA.keys())
            super().__init__(str(directory), timeout=0, disk=BytesDisk, **settings)
        except BaseException:  # also Ctrl-C: a half open connection would stay
            self.close()
            raise

    def _refuse_foreign(self, own: set[str]) -> None:
        """Raise RefusedRowError for a setting that diskcache would turn into an attribute of its own."""
        found = self._sql("SELECT name FROM sqlite_master WHERE name = 'Settings'").fetchall()
        if found and not own.issuperset(name for (name,) in self._sql("SELECT key FROM Settings")):
            raise RefusedRowError

    @property
    def _con(self) -> sqlite3.Connection:
        if self._db is None:
            self._db = sqlite3.connect(self._file, timeout=0, isolation_level=None, check_same_thread=False)
            for name, value in vars(self).items():  # what diskcache's __init__ has set; some hold for a connection only
                if name.startswith("sqlite_"):
                    self._db.execute(f"PRAGMA {name[7:]} = {value}")
        return self._db

    @property
    def _sql_retry(self) -> Callable[..., Any]:
        return self._con.execute  # diskcache would retry for a minute while it opens; here the caller comes back

    def sql(self, statement: str, values: Any = ()) -> sqlite3.Cursor:
        """Execute a statement."""
        return self._con.execute(statement, values)

    def read(self, key: bytes) -> bytes | None:
        """Return the value of `key` unless it has expired: `get`, in half the time."""
        found = self._con.execute(_READ, (key, time.time())).fetchone()
        return None if found is None else self._disk.fetch(*found, False)

    @property
    def overflows(self) -> bool:
        """Return True if entries or log take more than their part."""
        long_log = self._file.with_name(f"{DBNAME}-wal").stat().st_size > self._most_log
        return long_log or bool(self.volume() > self.size_limit)

    def trim(self) -> None:
        """Evict, and empty the log, which SQLite lets grow while others read; they are waited for."""
        self.cull()
        self.sql(f"PRAGMA busy_timeout = {TRIM_MS}")
        try:
            self.sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            self.sql("PRAGMA busy_timeout = 0")

    def close(self) -> None:
        """Close the connection; the next statement opens another."""
        db, self._db = self._db, None
        if db is not None:
            with contextlib.suppress(sqlite3.Error):
                db.close()


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
        name = key.encode()

        def get(cache: BytesCache) -> bytes | None:
            try:
                return cache.read(name)
            except RefusedRowError:
                cache.delete(name)
            text = f"the response cache {self._directory} held a row that it did not write: it was deleted"
            raise RepairedError(text)

        return await self._run(get)

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Keep `value` for `ttl_s` seconds, unless it would drive out too much else."""

        def put(cache: BytesCache) -> bool:
            with self._alone():
                cache.set(key.encode(), value, expire=ttl_s, tag=key.partition(":")[0])
                return cache.overflows

        def trim(cache: BytesCache) -> None:
            with self._alone():
                cache.trim()

        if len(value) <= self._limit // LARGEST and await self._run(put, inline=len(value) <= INLINE_BYTES):
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
        return await self._run(lambda cache: Amount(*cache.sql(sums, (time.time(),)).fetchone()))

    async def clear(self, namespace: str | None = None, older_than_s: float = 0.0) -> int:
        """Forget all entries, or those of `namespace` and stored at least `older_than_s` ago. Return how many."""
        where = f"DELETE {_ENTRIES} AND store_time <= :before AND (:tag IS NULL OR tag = :tag)"
        values = {"before": time.time() - older_than_s, "tag": namespace}

        def clear(cache: BytesCache) -> int:
            with self._alone(), cache.transact():
                return cache.sql(where, values).rowcount

        return await self._run(clear, inline=False)

    async def aclose(self) -> None:
        """Close the database; using the store again opens it again."""
        if self._pid == os.getpid():
            with self._lock:
                self._close()

    async def _run(self, work: Callable[[BytesCache], T], *, inline: bool = True) -> T:
        until, retry_s = time.monotonic() + self._wait_s, RETRY_S
        while True:
            is_open = self._cache is not None and self._pid == os.getpid()
            try:
                return self._attempt(work) if inline and is_open else await asyncio.to_thread(self._attempt, work)
            except _BusyError:
                if time.monotonic() > until:
                    raise self._unusable("is locked by another process") from None
            await asyncio.sleep(retry_s)
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
        if isinstance(error, diskcache.Timeout | filelock.Timeout) or code in _LOCKED:
            return _BusyError()
        self._close()
        if isinstance(error, OSError) or code in _UNAVAILABLE:
            return self._unusable(f"cannot be used ({error})")
        try:
            with self._alone():
                path = self._directory / DBNAME
                if path.exists() and path.stat().st_ino == self._inode:  # else another process has done so by now
                    path.replace(path.with_name(f"{DBNAME}.broken"))
                    for suffix in ("-wal", "-shm"):
                        path.with_name(DBNAME + suffix).unlink(missing_ok=True)
        except filelock.Timeout:
            return _BusyError()
        except OSError as failure:
            return self._unusable(f"is damaged and cannot be set aside ({failure})")
        return RepairedError(
            f"the response cache {self._directory} was damaged: it was set aside as {DBNAME}.broken and begun anew"
        )

    def _unusable(self, why: str) -> StoreError:
        return StoreError(f"the response cache {self._directory} {why}: mend it or set blueprint.cache.directory")

    def _alone(self) -> filelock.BaseFileLock:
        """Return the lock under which one process at a time makes, fills or removes the database.

        SQLite's own lock would do for the rows, but its log only shrinks while nobody else is writing.
        """
        return filelock.FileLock(self._directory / "lock", timeout=0, mode=0o600)

    def _open(self) -> BytesCache:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self._directory.lstat()
        is_ours = not hasattr(os, "geteuid") or found.st_uid == os.geteuid()
        if not stat.S_ISDIR(found.st_mode) or not is_ours:
            raise self._unusable("is a symbolic link or belongs to another user")
        if remote := _remote_kind(self._directory):
            raise self._unusable(f"is on {remote}, where SQLite's log does not work")
        if found.st_mode & 0o077:
            self._directory.chmod(0o700)
        with self._alone():
            path = self._directory / DBNAME
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600))
            path.chmod(0o600)  # the log and the index take their modes from it
            self._inode = path.stat().st_ino
            return BytesCache(self._directory, self._limit)

    def _close(self) -> None:
        if self._cache is not None:
            self._cache.close()
        self._cache = None


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
