"""Where cached answers may live, and how one is chosen: a folder, Redis, or memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from blueprint_llm.cache.memory import MemoryCache, NoCache
from blueprint_llm.config.paths import folder

if TYPE_CHECKING:
    from blueprint_llm.cache.ops import Op
    from blueprint_llm.config.blocks import Cache, StoreConfig


class CacheStore(Protocol):
    """Runs operations of `ops`. Failures are StoreError; the manager turns them into misses."""

    def execute(self, op: Op) -> Any:
        """Run `op`, blocking."""

    async def aexecute(self, op: Op) -> Any:
        """Run `op`; reads of a local store happen inline, which is quicker than any thread."""

    def close(self) -> None:
        """Let go of files and connections."""

    async def aclose(self) -> None:
        """Let go of files and connections."""


def is_shared(cache: Cache, store: StoreConfig) -> bool:
    """Whether other machines use the same cache."""
    return cache.directory is None and store.is_shared


def open_store(cache: Cache, store: StoreConfig) -> CacheStore:
    """The store that the configuration means: `cache.directory`, else beside the ledger. Nothing is touched yet."""
    if not cache.enabled:
        return NoCache()
    if cache.directory is None and store.kind == "memory":
        return MemoryCache(size_limit_bytes=cache.size_limit_bytes)
    if is_shared(cache, store):
        from blueprint_llm.cache.redis_cache import RedisCache  # noqa: PLC0415 - only who uses Redis loads it

        return RedisCache(store.url)
    from blueprint_llm.cache.disk import DiskCache  # noqa: PLC0415 - it needs fcntl and sqlite3

    path = Path(cache.directory).expanduser() if cache.directory else folder("cache") / "responses"
    return DiskCache(path, size_limit_bytes=cache.size_limit_bytes)
