"""What a cache's store does: keep bytes under keys for a time, and lend the lease on a key to one process.

Stores raise StoreError and nothing else; the manager turns it into a miss. Two of them need nothing: memory, and none.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Protocol

from blueprint_llm.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable


class RepairedError(StoreError):
    """The store was damaged and has been put right: the same question can be asked again at once."""


@dataclass(frozen=True, slots=True)
class Amount:
    """What a store keeps: entries, and their bytes without the store's own overhead."""

    entries: int
    bytes: int


class CacheStore(Protocol):
    """Keeps entries and leases; may be used from several event loops and threads at once."""

    async def get(self, key: str) -> bytes | None:
        """Return what is kept under `key`, or None."""

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Keep `value` for `ttl_s` seconds; a full store forgets what it stored first."""

    async def drop(self, key: str) -> None:
        """Forget `key`."""

    async def lease(self, key: str, owner: str, ttl_s: float) -> bool:
        """Take the lease on `key`, or renew it. Return False while another owner holds it."""

    async def release(self, key: str, owner: str) -> None:
        """Give the lease back, if `owner` holds it."""

    async def measure(self) -> Amount:
        """Return how much is kept."""

    async def clear(self, namespace: str | None = None, older_than_s: float = 0.0) -> int:
        """Forget all entries, or those of `namespace` and stored at least `older_than_s` ago. Return how many."""

    async def aclose(self) -> None:
        """Close files and connections; using the store again opens them again."""


class MemoryCache:
    """A store of at most `size_limit_bytes` in this process; `clock` gives Unix seconds."""

    def __init__(self, *, size_limit_bytes: int = 1 << 30, clock: Callable[[], float] = time.time) -> None:
        self._limit, self._clock, self._lock = size_limit_bytes, clock, Lock()
        self._entries: dict[str, tuple[bytes, float, float]] = {}  # value, stored at, good until
        self._bytes = 0

    async def get(self, key: str) -> bytes | None:
        """Return what is kept under `key`, or None."""
        value, _, until = self._entries.get(key, (None, 0.0, 0.0))
        return value if self._clock() < until else None

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Keep `value` for `ttl_s` seconds."""
        now = self._clock()
        with self._lock:
            self._drop(key)
            if len(value) > self._limit:
                return
            self._entries[key] = value, now, now + ttl_s
            self._bytes += len(value)
            while self._bytes > self._limit:
                self._drop(next(iter(self._entries)))

    async def drop(self, key: str) -> None:
        """Forget `key`."""
        with self._lock:
            self._drop(key)

    def _drop(self, key: str) -> None:
        value, _, _ = self._entries.pop(key, (b"", 0.0, 0.0))
        self._bytes -= len(value)

    async def lease(self, key: str, owner: str, ttl_s: float) -> bool:  # noqa: ARG002 - the protocol's signature
        """Return True: no other process shares this store, and callers of one process meet before they ask for it."""
        return True

    async def release(self, key: str, owner: str) -> None:
        """Do nothing: see `lease`."""

    async def measure(self) -> Amount:
        """Return how much is kept."""
        return Amount(len(self._entries), self._bytes)

    async def clear(self, namespace: str | None = None, older_than_s: float = 0.0) -> int:
        """Forget all entries, or those of `namespace` and stored at least `older_than_s` ago. Return how many."""
        before = self._clock() - older_than_s
        prefix = "" if namespace is None else f"{namespace}:"
        with self._lock:
            doomed = [key for key, (_, at, _) in self._entries.items() if at <= before and key.startswith(prefix)]
            for key in doomed:
                self._drop(key)
        return len(doomed)

    async def aclose(self) -> None:
        """Forget everything."""
        await self.clear()


class NoCache(MemoryCache):
    """Keeps nothing."""

    def __init__(self) -> None:
        super().__init__(size_limit_bytes=0)
