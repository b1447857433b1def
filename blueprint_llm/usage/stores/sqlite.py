"""The ledger in one SQLite file, shared by threads and processes.

Writers queue at a file lock before they ask SQLite for its own: waiting there is fair and short, where SQLite's busy
handler sleeps in growing steps (longest wait measured: 34 ms against 760). A coroutine tries the queue without
waiting and goes to a thread only when somebody else is in it.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from blueprint_llm.errors import StoreError
from blueprint_llm.usage.stores import breaker, ledger_sql, totals
from blueprint_llm.usage.stores.checkpoints import Checkpoints
from blueprint_llm.usage.stores.ops import (
    Aggregate,
    Batch,
    Breaker,
    BreakerProbe,
    BreakerReport,
    BreakerStates,
    ByDay,
    Daily,
    Heartbeat,
    NewEpoch,
    Op,
    Release,
    Reserve,
    ResetLimits,
    Rows,
    Settle,
    Standing,
    WriteRow,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_READS = (Standing, BreakerStates, Aggregate, ByDay, Daily, Rows)
_REPORTS = (Aggregate, ByDay, Daily, Rows)
_EXPIRE_EVERY_S = 0.25  # a look through the open reservations; an index on their expiry costs every call 10 us
_FORGET_EVERY_S = 600
_BUSY_S = 10.0
# SQLite's own checkpoints (see `checkpoints`) come only where ours do not: at 16 MB.
_CHECKPOINT = "PRAGMA wal_autocheckpoint = 8000"
# A commit writes whole pages: small ones are cheaper. For a new file only.
_FILE = "PRAGMA page_size = 2048; PRAGMA journal_mode = WAL"


class SqliteStore:
    """A store in the file `path` (mode 0600, made where it is missing); `clock` gives Unix seconds."""

    def __init__(self, path: Path | str, *, clock: Callable[[], float] = time.time) -> None:
        self._path = Path(path)
        self._clock = clock
        self._lock = Lock()
        self._db: sqlite3.Connection | None = None
        self._queue = -1
        self._pid = 0
        self._forgot = self._expired = 0.0
        self._checkpoints: Checkpoints | None = None

    def execute(self, op: Op) -> Any:
        """Run `op` in one transaction; raises StoreError when the file cannot be used."""
        if isinstance(op, _REPORTS):
            return self._report(op)
        with self._lock:
            return self._transact(op, wait=True)

    async def aexecute(self, op: Op) -> Any:
        """Run `op` at once if nobody is at the file, else in a thread."""
        if not isinstance(op, _REPORTS) and self._lock.acquire(blocking=False):
            try:
                return self._transact(op, wait=False)
            except BlockingIOError:
                pass
            finally:
                self._lock.release()
        return await asyncio.to_thread(self.execute, op)

    def close(self) -> None:
        """Close the file; using the store again opens it again."""
        with self._lock:
            if self._db is not None and self._pid == os.getpid():
                self._db.close()
                if self._checkpoints is not None:
                    self._checkpoints.close()
            if self._queue >= 0:
                os.close(self._queue)
            self._db, self._queue, self._checkpoints = None, -1, None

    async def aclose(self) -> None:
        """Close the file."""
        self.close()

    def _transact(self, op: Op, *, wait: bool) -> Any:
        try:
            db = self._connected()
            if isinstance(op, _READS):
                return _run(db, op, self._clock())
            return self._write(db, op, wait=wait)
        except BlockingIOError:
            raise
        except (sqlite3.Error, OSError) as error:
            raise self._problem(error) from None

    def _write(self, db: sqlite3.Connection, op: Op, *, wait: bool) -> Any:
        """One transaction, after standing in the queue; BlockingIOError: it is not empty, and `wait` is false."""
        if self._queue >= 0:
            fcntl.flock(self._queue, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            db.execute("BEGIN IMMEDIATE")
            now = self._clock()
            self._tidy(db, now)
            result = _run(db, op, now)
            db.execute("COMMIT")
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK")
            if self._queue >= 0:
                fcntl.flock(self._queue, fcntl.LOCK_UN)
        if self._checkpoints:
            self._checkpoints.count()
        return result

    def _report(self, op: Op) -> Any:
        """Sum rows on a connection of their own: a long sum holds up no call."""
        with self._lock:
            self._expired = 0.0  # what is due by now shall be in the sum
            self._transact(Batch(), wait=True)
        try:
            with closing(self._open()) as reader:
                return _run(reader, op, self._clock())
        except (sqlite3.Error, OSError) as error:
            raise self._problem(error) from None

    def _connected(self) -> sqlite3.Connection:
        if self._db is None or self._pid != os.getpid():  # a forked child may not use its parent's connection
            self._make_files()
            self._db, self._pid = self._open(), os.getpid()
            fcntl.flock(self._queue, fcntl.LOCK_EX)
            self._db.executescript(f"{_FILE}; {ledger_sql.SCHEMA}")
            fcntl.flock(self._queue, fcntl.LOCK_UN)
            self._checkpoints = Checkpoints(self._open())
        return self._db

    def _make_files(self) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        lock = self._path.with_name(f"{self._path.name}.lock")
        self._queue = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        db.execute(_CHECKPOINT)
        db.execute("PRAGMA synchronous = NORMAL")  # survives a killed process; FULL costs 14-40 times as much
        return db

    def _tidy(self, db: sqlite3.Connection, now: float) -> None:
        if now - self._expired >= _EXPIRE_EVERY_S:
            self._expired = now
            ledger_sql.expire(db, now)
        if now - self._forgot >= _FORGET_EVERY_S:
            self._forgot = now
            ledger_sql.forget(db, now)

    def _problem(self, error: Exception) -> StoreError:
        """The database's or the file system's error as one that says what to do."""
        return StoreError(
            f"the ledger {self._path} cannot be used ({error}): free the disk or mend its permissions, or move the "
            "file away to begin an empty one (its budgets then count from zero); or set blueprint.store.url"
        )


class MemoryStore(SqliteStore):
    """A store that lives and dies with this object."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__(":memory:", clock=clock)

    def _report(self, op: Op) -> Any:
        with self._lock:
            self._expired = 0.0
            return self._transact(Batch(ops=(op,)), wait=True)[0]

    def _connected(self) -> sqlite3.Connection:
        if self._db is None:
            self._pid = os.getpid()
            self._db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
            self._db.executescript(ledger_sql.SCHEMA)
        return self._db


def _run(db: sqlite3.Connection, op: Op, now: float) -> Any:
    act = _ACTS.get(type(op))
    if act is None:
        raise TypeError(f"{op!r} is no operation of a store")
    return act(db, op, now)


def _breakers(db: sqlite3.Connection, targets: tuple[str, ...], now: float) -> dict[str, Breaker]:
    stored = dict(db.execute("SELECT target, record FROM breaker").fetchall())
    return {target: breaker.view(breaker.load(stored.get(target)), now) for target in targets}


def _step_breaker(db: sqlite3.Connection, op: BreakerProbe | BreakerReport, now: float) -> Any:
    row = db.execute("SELECT record FROM breaker WHERE target = ?", (op.target,)).fetchone()
    before = breaker.load(row and row[0])
    after, result = breaker.step(before, op, now)
    if after is not before and after != before:
        record = breaker.dump(after)
        db.execute("DELETE FROM breaker WHERE target = ?", (op.target,))
        if record is not None:
            db.execute("INSERT INTO breaker VALUES (?, ?)", (op.target, record))
    return result


_ACTS: dict[type, Callable[[sqlite3.Connection, Any, float], Any]] = {
    Batch: lambda db, op, now: tuple([_run(db, item, now) for item in op.ops]),
    Reserve: ledger_sql.reserve,
    Settle: ledger_sql.settle,
    BreakerProbe: _step_breaker,
    BreakerReport: _step_breaker,
    Release: lambda db, op, _: ledger_sql.release(db, op.id),
    Heartbeat: lambda db, op, now: ledger_sql.heartbeat(db, op.id, now + op.ttl_s),
    Standing: lambda db, op, now: ledger_sql.standing(db, op.charges, now),
    WriteRow: lambda db, op, now: ledger_sql.write(db, op.row, now),
    BreakerStates: lambda db, op, now: _breakers(db, op.targets, now),
    Aggregate: lambda db, op, _: totals.stats(ledger_sql.facts(db, op.where)),
    ByDay: lambda db, op, _: totals.by_day(ledger_sql.facts(db, op.where)),
    Daily: lambda db, op, _: totals.daily(ledger_sql.facts(db, op.where), op.by),
    Rows: lambda db, op, _: ledger_sql.newest(db, op.where, op.limit),
    NewEpoch: lambda db, _, now: ledger_sql.new_epoch(db, now),
    ResetLimits: lambda db, *_: ledger_sql.reset_limits(db),
}
