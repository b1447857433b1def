"""diskcache made safe: bytes in, bytes out, no pickle, no file beside the database, one connection.

diskcache trusts its database: a row of mode 4 is unpickled, a row's filename is read and deleted wherever it points,
and every row of its table of settings becomes an attribute. Here all of that is refused (CVE-2025-69872).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from typing import TYPE_CHECKING, Any, NoReturn

import diskcache
from diskcache.core import DBNAME, METADATA, MODE_RAW

if TYPE_CHECKING:
    from collections.abc import Callable

BUSY_S = 0.05
OPEN_S = 0.5
SETTINGS: dict[str, Any] = {
    "statistics": 0,
    "tag_index": 0,
    "eviction_policy": "least-recently-stored",  # recently used would make every read a write
    "cull_limit": 10,
    "sqlite_auto_vacuum": 1,
    "sqlite_cache_size": 2048,
    "sqlite_journal_mode": "wal",
    "sqlite_mmap_size": 0,  # a mapped file that somebody truncates ends the process
    "sqlite_synchronous": 1,
    "sqlite_trusted_schema": 0,
    "disk_min_file_size": 1 << 62,
    "disk_pickle_protocol": 0,
}
_LIMITED = ("size_limit", "sqlite_wal_autocheckpoint", "sqlite_journal_size_limit")
_PAGE = 4096
_READ = "SELECT mode, filename, value FROM Cache WHERE key = ? AND raw = 1 AND expire_time > ?"
_LEAST_PAGES = 8
# One member for every fork that led to this process: quicker to ask than the system for its id.
_FORKS: list[None] = []
os.register_at_fork(after_in_child=lambda: _FORKS.append(None))


class RefusedRowError(Exception):
    """A row that this cache did not write; not an OSError, which diskcache would take for a deleted file."""


class BytesDisk(diskcache.Disk):  # type: ignore[misc] # untyped
    """Keys and values are bytes in the database."""

    def put(self, key: object) -> tuple[memoryview, bool]:
        """The column of a key."""
        return sqlite3.Binary(_bytes(key)), True

    def get(self, key: object, raw: object) -> bytes:
        """The key of a column."""
        return _bytes(key if raw else None)

    def store(self, value: object, read: object, key: object = None) -> tuple[int, int, None, memoryview]:  # noqa: ARG002 - diskcache's signature
        """The columns of a value."""
        return 0, MODE_RAW, None, sqlite3.Binary(_bytes(None if read else value))

    def fetch(self, mode: object, filename: object, value: object, read: object) -> bytes:
        """The value of the columns."""
        return _bytes(value if mode == MODE_RAW and filename is None and not read else None)

    def filename(self, key: object = None, value: object = None) -> NoReturn:  # noqa: ARG002 - diskcache's signature
        """No value ever becomes a file."""
        raise RefusedRowError

    def remove(self, file_path: object) -> None:
        """No file is ever removed: a name in a row is not ours."""


def _bytes(value: object) -> bytes:
    if type(value) is not bytes:
        raise RefusedRowError
    return value


class BytesCache(diskcache.Cache):  # type: ignore[misc] # untyped
    """One connection for all threads, which take turns outside; diskcache would leave one open for each.

    Args:
        directory: Must exist.
        size_limit_bytes: The database and its write-ahead log together.
    """

    def __init__(self, directory: str, size_limit_bytes: int) -> None:
        self._file = os.path.join(directory, DBNAME)  # noqa: PTH118 - as diskcache
        self._db: sqlite3.Connection | None = None
        self._forks = 0
        pages = max(_LEAST_PAGES, min(1000, size_limit_bytes // _PAGE // 16))
        self._most_log = pages * _PAGE
        limits = (size_limit_bytes * 3 // 4, pages, self._most_log)
        settings = {**SETTINGS, **dict(zip(_LIMITED, limits, strict=True))}
        try:
            self._vet(settings)
            super().__init__(directory, timeout=BUSY_S, disk=BytesDisk, **settings)
        except BaseException:  # also Ctrl-C: a half open connection would stay
            self.close()
            raise

    def _vet(self, settings: dict[str, Any]) -> None:
        """Refuse settings that diskcache would turn into attributes of its own."""
        self._timeout = OPEN_S
        found = self._sql("SELECT name FROM sqlite_master WHERE name = 'Settings'").fetchall()
        names = {name for (name,) in self._sql("SELECT key FROM Settings")} if found else set()
        if not names <= settings.keys() | METADATA.keys():
            raise RefusedRowError

    @property
    def _con(self) -> sqlite3.Connection:
        if self._db is None or self._forks != len(_FORKS):  # a forked child may not use its parent's connection
            self._db, self._forks = self._connected(), len(_FORKS)
        return self._db

    def _connected(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._file, timeout=self._timeout, isolation_level=None, check_same_thread=False)
        for name, value in vars(self).items():  # what diskcache's __init__ has set; some live in the connection only
            if name.startswith("sqlite_"):
                db.execute(f"PRAGMA {name[7:]} = {value}")
        return db

    @property
    def _sql_retry(self) -> Callable[..., Any]:
        return self._patiently

    def _patiently(self, statement: str, *args: Any) -> Any:
        """Run a statement of diskcache's opening, where it would retry for a minute."""
        until = time.monotonic() + OPEN_S
        while True:
            try:
                return self._sql(statement, *args)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
            time.sleep(0.001)

    def read(self, key: bytes, now: float) -> bytes | None:
        """The value of `key` unless it has expired: `get`, in half the time."""
        found = self._con.execute(_READ, (key, now)).fetchone()
        return None if found is None else self._disk.fetch(*found, False)

    def trim(self) -> None:
        """Keep below the cap: evict, and empty the log, which SQLite lets grow while others read or write."""
        if self.volume() > self.size_limit:
            self.cull()
        if os.stat(f"{self._file}-wal").st_size > self._most_log:  # noqa: PTH116 - as diskcache
            self._sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        """Close the connection; the next statement opens another."""
        db, self._db = self._db, None
        if db is not None and self._forks == len(_FORKS):
            with contextlib.suppress(sqlite3.Error):
                db.close()
