"""Usage rows of cache hits, written in groups: a hit is quicker than a transaction.

The first hit in a while is written at once. Those that follow are written together a moment later, by a timer, and
before anybody asks for the usage or closes the client.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

from blueprint_llm.errors import StoreError
from blueprint_llm.usage.stores.ops import AttemptRow, Batch, WriteRow

if TYPE_CHECKING:
    from collections.abc import Callable

EVERY_S = 0.2


class Hits:
    """Rows on their way to `store`; `clock` gives monotonic seconds."""

    def __init__(self, store: Any, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._clock = store, clock
        self._rows: list[AttemptRow] = []
        self._lock = threading.Lock()
        self._written_at = -EVERY_S
        self._timer: threading.Timer | None = None

    def add(self, row: AttemptRow) -> Batch | None:
        """The operation that writes `row` and those before it, or None: the timer will."""
        with self._lock:
            self._rows.append(row)
            if self._clock() - self._written_at >= EVERY_S:
                return self._taken()
            if self._timer is None:
                self._timer = threading.Timer(EVERY_S, self.flush)
                self._timer.daemon = True
                self._timer.start()
            return None

    def flush(self) -> None:
        """Write what is left, blocking; a store that cannot be used loses a statistic, not a call."""
        with self._lock:
            op = self._taken()
        if op is not None:
            with contextlib.suppress(StoreError):
                self._store.execute(op)

    def _taken(self) -> Batch | None:
        rows, self._rows = self._rows, []
        self._written_at = self._clock()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return Batch(ops=tuple(WriteRow(row=row) for row in rows)) if rows else None
