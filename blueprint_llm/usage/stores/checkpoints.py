"""Moves what is in a database's log into its file, on a thread.

That waits for the disk, 10-30 ms. SQLite would do it inside the commit that fills the log: the call, and with it a
whole event loop, would wait too, and every process that stands in the queue behind it.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from threading import Thread
from weakref import WeakSet

# Transactions from one to the next. A log that is emptied early stays small, and is written over rather than grown.
EVERY = 128


class Checkpoints:
    """One thread at a time, on the connection `db`, which is its own."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._thread: Thread | None = None
        self._written = 0
        _KNOWN.add(self)

    def count(self) -> None:
        """Note one transaction, and begin a checkpoint when it is due; one that cannot be made is made later."""
        self._written += 1
        if self._written >= EVERY and not (self._thread and self._thread.is_alive()):
            self._written = 0
            self._thread = Thread(target=self._make, name="blueprint-checkpoint", daemon=True)
            with contextlib.suppress(RuntimeError):  # the interpreter is shutting down
                self._thread.start()

    def _make(self) -> None:
        with contextlib.suppress(sqlite3.Error):  # what is wrong with the file, the next transaction will tell
            self._db.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def wait(self) -> None:
        """Until no checkpoint is being made."""
        if self._thread and self._thread.is_alive():
            self._thread.join()

    def close(self) -> None:
        """Wait for the thread and close the connection."""
        self.wait()
        self._db.close()


_KNOWN: WeakSet[Checkpoints] = WeakSet()


def _before_fork() -> None:
    """A child would inherit SQLite's locks as the thread holds them, and wait for them for ever."""
    for each in list(_KNOWN):
        each.wait()


os.register_at_fork(before=_before_fork)
