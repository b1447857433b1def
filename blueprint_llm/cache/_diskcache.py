"""diskcache made safe: bytes in, bytes out, no pickle, no file beside the database, one connection.

diskcache trusts its database: a row of mode 4 is unpickled, a row's filename is read and deleted wherever it points,
and every row of its table of settings becomes an attribute. Here all of that is refused (CVE-2025-69872).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from typing import TYPE_CHECKING, Any

import diskcache
from diskcache.core import DBNAME, METADATA, MODE_RAW

if TYPE_CHECKING:
    from collections.abc import Callable

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
_LIMITED = ("size_limit", "sqlite_wal_autocheckpoint", "sqlite_journal_size_limit")
_PAGE = 4096
_LEAST_PAGES = 8
_READ = "SELECT mode, filename, value FROM Cache WHERE key = ? AND raw = 1 AND expire_time > ?"


class RefusedRowError(Exception):
    """A row that this cache did not write; not an OSError, which diskcache would take for a deleted file."""


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

    def __init__(self, directory: str, size_limit_bytes: int) -> None:
        self._file = os.path.join(directory, DBNAME)  # noqa: PTH118 - as diskcache
        self._db: sqlite3.Connection | None = None
        pages = max(_LEAST_PAGES, min(1000, size_limit_bytes // _PAGE // 16))
        self._most_log = pages * _PAGE
        limits = (size_limit_bytes * 3 // 4, pages, self._most_log)
        settings = {**SETTINGS, **dict(zip(_LIMITED, limits, strict=True))}
        try:
            self._refuse_foreign_settings(settings)
            super().__init__(directory, timeout=0, disk=BytesDisk, **settings)
        except BaseException:  # also Ctrl-C: a half open connection would stay
            self.close()
            raise

    def _refuse_foreign_settings(self, settings: dict[str, Any]) -> None:
        """Raise RefusedRowError for a setting that diskcache would turn into an attribute of its own."""
        found = self._sql("SELECT name FROM sqlite_master WHERE name = 'Settings'").fetchall()
        names = {name for (name,) in self._sql("SELECT key FROM Settings")} if found else set()
        if not names <= settings.keys() | METADATA.keys():
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

    def read(self, key: bytes) -> bytes | None:
        """Return the value of `key` unless it has expired: `get`, in half the time."""
        found = self._con.execute(_READ, (key, time.time())).fetchone()
        return None if found is None else self._disk.fetch(*found, False)

    @property
    def overflows(self) -> bool:
        """Whether entries or log take more than their part."""
        long_log: bool = os.stat(f"{self._file}-wal").st_size > self._most_log  # noqa: PTH116 - as diskcache
        return long_log or bool(self.volume() > self.size_limit)

    def trim(self) -> None:
        """Evict, and empty the log, which SQLite lets grow while others read; they are waited for."""
        self.cull()
        self._sql(f"PRAGMA busy_timeout = {TRIM_MS}")
        try:
            self._sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            self._sql("PRAGMA busy_timeout = 0")

    def close(self) -> None:
        """Close the connection; the next statement opens another."""
        db, self._db = self._db, None
        if db is not None:
            with contextlib.suppress(sqlite3.Error):
                db.close()
