"""The ledger in one SQLite file, shared by event loops, threads and processes.

A transaction takes 50 us and never waits, so it is run where it is called, on the event loop; if anything is locked it
goes to the writer's thread instead. The first one of all goes there too, since opening a file may take long.

SQLite's files are opened and closed by SQLite alone: closing any other descriptor of them would drop the locks that
this process holds on them, for every connection that it has.
"""

from __future__ import annotations

import asyncio
import atexit
import math
import os
import sqlite3
import time
from collections import deque
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar
from weakref import WeakSet, finalize

from blueprint_llm.config.paths import folder
from blueprint_llm.errors import StoreError
from blueprint_llm.usage.stores import ledger_sql
from blueprint_llm.usage.stores.records import Store
from blueprint_llm.usage.stores.writer import WAIT_S, Busy, Job, Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from blueprint_llm.usage.stores.records import AttemptRow, Reservation, Reserved

_EXPIRE_EVERY_S = 0.25  # a look through the open reservations; an index on their expiry costs every call 10 us
_FORGET_EVERY_S = 600
_CLOSE_S = 5.0
_BRIEF_S = 0.005  # what another thread of this process has in hand is done sooner
_CHECKPOINT_EVERY = 128  # transactions; a log that is emptied early stays small, and is written over rather than grown
_LONG_LOG = 8000  # pages, 16 MB
# A row without a reservation waits so long for a transaction that takes it along: one of its own is a third of a hit.
_ROWS_S, _MOST_ROWS = 0.05, 10_000
# A commit writes whole pages: small ones are cheaper. For a new file only.
_FILE = "PRAGMA page_size = 2048; PRAGMA journal_mode = WAL"

_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_SHM_WRITE_BYTE = 120  # of the -shm file: whoever writes to a database with a write-ahead log holds it

P = ParamSpec("P")
T = TypeVar("T")
_CREATING = Lock()
# Of a server that forks past Python (uWSGI); closing them would disturb the process that made them.
_INHERITED: list[sqlite3.Connection] = []


def _nothing(_db: sqlite3.Connection, _now: float) -> None:
    """Do nothing in a transaction, which takes along what waits."""


def _transaction(
    act: Callable[Concatenate[sqlite3.Connection, float, P], T],
    *,
    undo: Callable[[sqlite3.Connection, float], None] | None = None,
    writes: bool = True,
) -> Callable[Concatenate[SqliteStore, P], Coroutine[Any, Any, T]]:
    """Return the method that runs `act` in a transaction, with the moment that it happens at."""

    async def method(self: SqliteStore, /, *args: P.args, **keywords: P.kwargs) -> T:
        return await self._transact(lambda db, now: act(db, now, *args, **keywords), undo=undo, writes=writes)

    return method


def _report(
    act: Callable[Concatenate[sqlite3.Connection, P], T],
) -> Callable[Concatenate[SqliteStore, P], Coroutine[Any, Any, T]]:
    """Return the method that reads rows on a connection of their own: a long sum holds up no call."""

    async def method(self: SqliteStore, /, *args: P.args, **keywords: P.kwargs) -> T:
        await self._transact(ledger_sql.expire)  # what is due by now shall be in the sum
        return await asyncio.to_thread(self._apart, lambda db: act(db, *args, **keywords))

    return method


class SqliteStore(Store):
    """A store in a file (mode 0600, made where it is missing); nothing is touched before its first use.

    Without a `path` it is the user's own, in the state folder. `clock` tells Unix seconds.
    """

    def __init__(self, path: Path | str | None = None, *, clock: Callable[[], float] = time.time) -> None:
        self._asked_for = path
        self._clock = clock
        self._lock = Lock()  # around every use of the connection
        self._reading = Lock()  # around the connections that reports have
        self._db: sqlite3.Connection | None = None  # closed before a fork of Python's own
        self._pid = 0
        self._forgot = self._expired = 0.0
        self._transactions = 0
        self._checkpoint: Thread | None = None
        self._rows: deque[tuple[AttemptRow, float]] = deque(maxlen=_MOST_ROWS)
        self._writer = Writer(self._locked)
        _STORES.add(self)

    async def reserve(self, reservation: Reservation, *, force: bool = False) -> Reserved:
        """Ask the breaker and take every charge, or take nothing. Cancelled, it leaves nothing reserved."""

        def act(db: sqlite3.Connection, now: float) -> Reserved:
            return ledger_sql.reserve(db, now, reservation, force=force)

        return await self._transact(act, undo=lambda db, now: ledger_sql.release(db, now, reservation.id))

    settle = _transaction(ledger_sql.settle)
    heartbeat = _transaction(ledger_sql.heartbeat)
    levels = _transaction(ledger_sql.levels, writes=False)
    breakers = _transaction(ledger_sql.breakers, writes=False)
    # Whoever was told that a reset failed shall not see it come later.
    new_epoch = _transaction(ledger_sql.new_epoch, undo=_nothing)
    reset_limits = _transaction(ledger_sql.reset_limits, undo=_nothing)
    facts = _report(ledger_sql.facts)
    rows = _report(ledger_sql.rows)

    async def record(self, row: AttemptRow) -> None:
        """Write a usage row that has no reservation: with the next transaction, at the latest `_ROWS_S` later."""
        at = self._clock()
        if not self._is_open():  # whoever begins with a row is told if the file cannot be used
            return await self._transact(lambda db, _: ledger_sql.write(db, row, at))
        self._rows.append((row, at))
        if len(self._rows) == 1:
            _OWING.add(self)
            asyncio.get_running_loop().call_later(_ROWS_S, self._write_rows)
        return None

    async def aclose(self) -> None:
        """Carry out what was booked and close the file."""
        await self._writer.drain(_CLOSE_S)
        await asyncio.to_thread(self._close)

    @property
    def _path(self) -> Path:
        return folder("state") / "ledger.sqlite" if self._asked_for is None else Path(self._asked_for)

    def _locked(self) -> str:
        with suppress(StoreError):
            return _lock_on(self._path)
        return "the ledger is locked"

    async def _transact(
        self,
        act: Callable[[sqlite3.Connection, float], T],
        *,
        undo: Callable[[sqlite3.Connection, float], None] | None = None,
        writes: bool = True,
    ) -> T:
        """Run `act` in one transaction, here and now if nobody is at the file, else in the writer's thread.

        `undo` undoes it where its caller has left before hearing of it; what has none is done all the same.
        """
        # One that has to open the file first, or to wait for somebody, is not for the loop.
        if self._writer.idle and self._lock.acquire(timeout=_BRIEF_S):
            try:
                if self._is_open():
                    return self._run(act, writes=writes)
            except Busy:
                pass
            finally:
                self._lock.release()
        back = undo and partial(self._alone, undo)
        return await self._writer.do(Job(partial(self._alone, act, writes=writes), back))

    def _alone(self, act: Callable[[sqlite3.Connection, float], T], *, writes: bool = True) -> T:
        with self._lock:
            return self._run(act, writes=writes)

    def _run(self, act: Callable[[sqlite3.Connection, float], T], *, writes: bool) -> T:
        """Run `act`, with the lock held. Raise Busy where the file is locked, else StoreError."""
        try:
            with self._explained():
                db = self._connected()
                return self._write(db, act) if writes else act(db, self._clock())
        except StoreError:
            self._drop()  # the next call opens the file anew: what was wrong may be mended by then
            raise

    def _write(self, db: sqlite3.Connection, act: Callable[[sqlite3.Connection, float], T]) -> T:
        taken = []
        try:
            db.execute("BEGIN IMMEDIATE")
            now = self._clock()
            if now - self._expired >= _EXPIRE_EVERY_S:
                self._expired = now
                ledger_sql.expire(db, now)
            if now - self._forgot >= _FORGET_EVERY_S:
                self._forgot = now
                ledger_sql.forget(db, now)
            while self._rows:
                taken.append(self._rows.popleft())
                ledger_sql.write(db, *taken[-1])
            result = act(db, now)
            db.execute("COMMIT")
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK")
                self._rows.extendleft(reversed(taken))
        if taken:
            _OWING.discard(self)
        self._count()
        return result

    def _write_rows(self) -> None:
        """See to it that rows that wait are written, where no transaction has taken them along."""
        with suppress(StoreError):  # nothing can wait any more: they are written at the process's end
            if self._rows:
                self._writer.put(Job(partial(self._alone, _nothing)))

    def _apart(self, act: Callable[[sqlite3.Connection], T]) -> T:
        until = time.monotonic() + WAIT_S
        while True:
            try:
                with self._reading, self._explained(), closing(self._open()) as reader:
                    return act(reader)
            except Busy:
                if time.monotonic() >= until:
                    raise StoreError(self._locked()) from None
                time.sleep(_BRIEF_S)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            if _code(error) in _BUSY:
                raise Busy from None
            raise _unusable(self._asked_for, error) from None

    def _is_open(self) -> bool:
        return self._db is not None and self._pid == os.getpid()

    def _connected(self) -> sqlite3.Connection:
        if self._db is None or not self._is_open():
            if self._db is not None:
                _INHERITED.append(self._db)
            self._db, path = None, self._path
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # No other thread may have it open when the descriptor is closed: it is made exclusively, while all wait.
            with _CREATING, suppress(FileExistsError):
                path.touch(mode=0o600, exist_ok=False)
            db = self._open()
            try:
                db.executescript(f"{_FILE}; {ledger_sql.SCHEMA}")
            except sqlite3.Error:
                db.close()
                raise
            self._db, self._pid = db, os.getpid()
        return self._db

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, timeout=0, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA synchronous = NORMAL")  # survives a killed process; FULL costs 14-40 times as much
        db.execute("PRAGMA wal_autocheckpoint = 0")  # SQLite would make it wait for the disk within a commit
        return db

    def _count(self) -> None:
        """Begin a checkpoint when it is due: it waits for the disk, 10-30 ms, and no call shall wait with it."""
        self._transactions += 1
        if self._transactions >= _CHECKPOINT_EVERY and not (self._checkpoint and self._checkpoint.is_alive()):
            self._transactions = 0
            self._checkpoint = Thread(target=self._empty_log, name="blueprint-checkpoint", daemon=True)
            with suppress(RuntimeError):  # the interpreter is shutting down
                self._checkpoint.start()

    def _empty_log(self) -> None:
        with suppress(sqlite3.Error), closing(self._open()) as db:  # what is wrong, the next transaction will tell
            _, pages, _ = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if pages > _LONG_LOG:  # writers that never pause would let it grow for ever
                db.execute("PRAGMA busy_timeout = 1000")
                db.execute("PRAGMA wal_checkpoint(RESTART)")

    def _close(self) -> None:
        with self._lock:
            self._let_go()

    def _let_go(self) -> None:
        """Write the rows that wait, and close the file; with the lock held."""
        with suppress(RuntimeError):  # it could not be started
            if self._checkpoint:
                self._checkpoint.join()
        self._write_left()
        self._drop()

    def _write_left(self) -> None:
        if self._rows and self._is_open():
            with suppress(StoreError, Busy):
                self._run(_nothing, writes=True)

    def _drop(self) -> None:
        """Close the connection."""
        db, self._db = self._db, None
        if db is not None and self._pid == os.getpid():
            with suppress(sqlite3.Error):
                db.close()

    def pause(self) -> None:
        """Close the file and let no thread of this process at it until `go_on`."""
        self._reading.acquire()
        self._lock.acquire()
        self._let_go()  # a child must not write the rows as well

    def go_on(self) -> None:
        """Undo `pause`."""
        self._lock.release()
        self._reading.release()


class MemoryStore(SqliteStore):
    """A store that lives and dies with this object."""

    def _is_open(self) -> bool:
        return True

    def _connected(self) -> sqlite3.Connection:
        if self._db is None:
            self._db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
            self._db.executescript(ledger_sql.SCHEMA)
            finalize(self, self._db.close)
        return self._db

    def _count(self) -> None:
        """Nothing is to be emptied."""

    def _apart(self, act: Callable[[sqlite3.Connection], T]) -> T:
        return self._alone(lambda db, _: act(db), writes=False)

    def _drop(self) -> None:
        """Keep what is held, also when closed: what failed was rolled back, a forked child has a copy of its own."""


def _code(error: Exception) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _unusable(path: Path | str | None, error: Exception) -> StoreError:
    """Return the database's or the file system's error as one that says what to do; no path: the user's own file."""
    name = "ledger.sqlite in the state folder" if path is None else path
    cure = (
        "move the file away to begin an empty one (its budgets then count from zero), or set blueprint.store.url"
        if _code(error) in _DAMAGED
        else "free the disk or make the folder writable; or keep the ledger elsewhere (BLUEPRINT_HOME, or "
        "blueprint.store.url: sqlite:PATH or memory); or set blueprint.store.on_failure: memory"
    )
    return StoreError(f"the ledger {name} cannot be used ({error}): {cure}")


def _lock_on(path: Path) -> str:
    """Return a sentence that says that the database is locked and by whom. Linux tells; elsewhere nobody is named.

    Nothing of SQLite's is opened for it: closing a descriptor of the database would drop this process's own locks.
    """
    pids: dict[int, None] = {}
    with suppress(OSError):
        held = [line.split() for line in Path("/proc/locks").read_text(encoding="ascii").splitlines()]
        for file, byte in ((path, None), (path.with_name(f"{path.name}-shm"), _SHM_WRITE_BYTE)):
            inode = str(file.stat().st_ino)
            pids |= dict.fromkeys(pid for words in held if (pid := _writer(words, inode, byte)))
    return f"the ledger {path} is locked by {' and '.join(map(_process, pids)) or 'another process'}"


def _writer(words: list[str], inode: str, byte: int | None) -> int | None:
    """Return the pid of a line like `1: POSIX ADVISORY WRITE 4711 08:01:1234 120 120` if it locks that byte."""
    match words:
        case [_, _, _, "WRITE", pid, place, first, last] if place.rpartition(":")[2] == inode:
            locks_it = byte is None or int(first) <= byte <= (math.inf if last == "EOF" else int(last))
            return int(pid) if locks_it else None
    return None


def _process(pid: int) -> str:
    if pid == os.getpid():
        return "this process"
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return f"process {pid}"
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    stopped = ", stopped" if facts.get("State", "").startswith(("T", "t")) else ""
    return f"process {pid} ({facts.get('Name', '?')}{stopped})"


_STORES: WeakSet[SqliteStore] = WeakSet()
_OWING: set[SqliteStore] = set()  # those with rows that wait: a program may end without closing its client
_FORKING: list[SqliteStore] = []


def _before_fork() -> None:
    """Close every file: a child inherits what SQLite believes of its parent's locks, but not the locks."""
    for store in list(_STORES):
        store.pause()
        _FORKING.append(store)


def _after_fork() -> None:
    while _FORKING:
        _FORKING.pop().go_on()


@atexit.register
def _write_all_left() -> None:
    for store in list(_OWING):
        with store._lock:  # noqa: SLF001 - this module's own
            store._write_left()  # noqa: SLF001


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
