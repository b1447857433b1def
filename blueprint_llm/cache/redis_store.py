"""The cache in Redis, shared by machines. An entry is a hash of its bytes and its time; a lease is a key that expires.

The client is the ledger's. The size cap is the server's: `maxmemory` with a policy that evicts.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from blueprint_llm.cache.store import Amount
from blueprint_llm.errors import StoreError
from blueprint_llm.secret import Secret, revealed
from blueprint_llm.usage.stores.redis_store import disconnect, failures, redis_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

WAIT_S = 0.5  # a cache that answers later is not worth waiting for
_BATCH = 500
_TAKE = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"


class RedisCache:
    """A store at `redis://host:port/n`, which is waited for `wait_s` seconds."""

    def __init__(self, url: str | Secret, *, prefix: str = "{blueprint}:cache", wait_s: float = WAIT_S) -> None:
        self._url, self._prefix, self._wait_s = url, prefix, wait_s

    async def get(self, key: str) -> bytes | None:
        """Return what is kept under `key`, or None."""
        async with self._client() as redis:
            # The ledger's texts are decoded.
            value: bytes | None = await redis.execute_command("HGET", self._entry(key), "value", NEVER_DECODE=True)
            return value

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Keep `value` for `ttl_s` seconds."""
        async with self._client() as redis, redis.pipeline(transaction=True) as pipeline:
            pipeline.hset(self._entry(key), mapping={"value": value, "at": time.time()})
            pipeline.pexpire(self._entry(key), max(1, int(ttl_s * 1000)))
            await pipeline.execute()

    async def drop(self, key: str) -> None:
        """Forget `key`."""
        async with self._client() as redis:
            await redis.delete(self._entry(key))

    async def lease(self, key: str, owner: str, ttl_s: float) -> bool:
        """Take the lease on `key`, or renew it."""
        async with self._client() as redis:
            return bool(await redis.eval(_TAKE, 1, f"{self._prefix}:lease:{key}", owner, int(ttl_s * 1000)))

    async def release(self, key: str, owner: str) -> None:
        """Give the lease back, if `owner` holds it."""
        async with self._client() as redis:
            await redis.eval(_RELEASE, 1, f"{self._prefix}:lease:{key}", owner)

    async def measure(self) -> Amount:
        """Return how much is kept."""
        async with self._client(is_long=True) as redis:
            sizes = [await redis.hstrlen(key, "value") for key in await self._keys(redis, "*")]
            return Amount(len(sizes), sum(sizes))

    async def clear(self, namespace: str | None = None, older_than_s: float = 0.0) -> int:
        """Forget all entries, or those of `namespace` and stored at least `older_than_s` ago. Return how many."""
        before, deleted = time.time() - older_than_s, 0
        async with self._client(is_long=True) as redis:
            for key in await self._keys(redis, f"{namespace or '*'}:*"):
                at = await redis.hget(key, "at")
                if at is not None and float(at) <= before:
                    deleted += await redis.delete(key)
        return deleted

    async def aclose(self) -> None:
        """Close this event loop's idle connections; the next operation opens others."""
        await disconnect(self._url)

    def _entry(self, key: str) -> str:
        return f"{self._prefix}:entry:{key}"

    async def _keys(self, redis: Any, pattern: str) -> set[str]:  # a scan may show a key twice
        return {key async for key in redis.scan_iter(match=self._entry(pattern), count=_BATCH)}

    @asynccontextmanager
    async def _client(self, *, is_long: bool = False) -> AsyncIterator[Any]:
        """Give this event loop's client for one operation. Raises StoreError when the server cannot be used."""
        client = redis_client(self._url)
        try:
            async with asyncio.timeout(None if is_long else self._wait_s):
                yield client
        except failures() as error:  # TimeoutError among them
            where = urlsplit(revealed(self._url))
            text = f"the response cache at {where.hostname}:{where.port or 6379} cannot be used"
            raise StoreError(f"{text} ({type(error).__name__}): start the server or mend store.url") from None
