"""What a cache's store does: keep bytes under keys for a time, and lend the lease on a key to one process.

Stores raise StoreError and nothing else; the manager turns it into a miss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from blueprint_llm.errors import StoreError

# A lease whose holder has not renewed it for so long is free: its process was killed, stopped or is stuck.
LEASE_S = 2.0


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
