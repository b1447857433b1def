"""A cache inside one process, and none at all."""

from __future__ import annotations

import time
from threading import Lock
from typing import TYPE_CHECKING, Any

from blueprint_llm.cache.ops import (
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

if TYPE_CHECKING:
    from collections.abc import Callable


class NoCache:
    """Keeps nothing, finds nothing, and lets everybody fetch."""

    def execute(self, op: Op) -> Any:
        """The answer of an empty store."""
        match op:
            case Lease(owner=owner):
                return Standing(mine=True, flight=owner)
            case Measure():
                return Amount(0, 0)
            case Clear():
                return 0
        return None

    async def aexecute(self, op: Op) -> Any:
        """The answer of an empty store."""
        return self.execute(op)

    def close(self) -> None:
        """Nothing to let go of."""

    async def aclose(self) -> None:
        """Nothing to let go of."""


class MemoryCache:
    """A store of at most `size_limit_bytes` in this process; `clock` gives Unix seconds."""

    def __init__(self, *, size_limit_bytes: int = 1 << 30, clock: Callable[[], float] = time.time) -> None:
        self._limit, self._clock, self._lock = size_limit_bytes, clock, Lock()
        self._entries: dict[str, tuple[bytes, float, float]] = {}  # value, stored at, good until
        self._leases: dict[str, Held] = {}
        self._bytes = 0

    def execute(self, op: Op) -> Any:
        """Run `op`."""
        with self._lock:
            return self._run(op, self._clock())

    async def aexecute(self, op: Op) -> Any:
        """Run `op`."""
        return self.execute(op)

    def close(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._bytes = 0

    async def aclose(self) -> None:
        """Forget everything."""
        self.close()

    def _run(self, op: Op, now: float) -> Any:
        match op:
            case Get():
                value, _, until = self._entries.get(op.key, (None, 0.0, 0.0))
                return value if now < until else None
            case Put():
                self._put(op, now)
            case Drop():
                self._drop(op.key)
            case Lease() | Beat() | Release():
                return self._lease(op, now)
            case Measure():
                return Amount(len(self._entries), self._bytes)
            case Clear():
                return self._clear(op, now)
        return None

    def _put(self, op: Put, now: float) -> None:
        self._drop(op.key)
        if len(op.value) > self._limit:
            return
        self._entries[op.key] = op.value, now, now + op.ttl_s
        self._bytes += len(op.value)
        while self._bytes > self._limit:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: str) -> None:
        value, _, _ = self._entries.pop(key, (b"", 0.0, 0.0))
        self._bytes -= len(value)

    def _lease(self, op: Lease | Beat | Release, now: float) -> Standing:
        held, standing = lease_step(self._leases.pop(op.key, None), op, now)
        if held is not None:
            self._leases[op.key] = held
        return standing

    def _clear(self, op: Clear, now: float) -> int:
        doomed = [
            key
            for key, (_, at, _) in self._entries.items()
            if at <= now - op.older_than_s and key.startswith(f"{op.namespace}:" if op.namespace else "")
        ]
        for key in doomed:
            self._drop(key)
        return len(doomed)
