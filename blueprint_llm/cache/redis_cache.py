"""The cache in Redis, shared by machines. An entry is a hash of its bytes and its time; leases are one Lua script.

An operation is a generator of commands, so the blocking and the async client run the same logic. The size cap is the
server's: `maxmemory` with a policy that evicts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from blueprint_llm.cache.ops import KEEP_S, Amount, Beat, Clear, Drop, Get, Lease, Measure, Op, Put, Release, Standing
from blueprint_llm.errors import ConfigError, StoreError
from blueprint_llm.secret import Secret, revealed

_TIMEOUT_S = 2.0
_BATCH = 500

Plan = Generator[tuple[Any, ...], Any, Any]


class RedisCache:
    """A store at `redis://host:port/n`."""

    def __init__(self, url: str | Secret, *, prefix: str = "{blueprint}:cache") -> None:
        self._url, self._prefix = url, prefix
        self._client: Any = None
        self._aclients: WeakKeyDictionary[asyncio.AbstractEventLoop, Any] = WeakKeyDictionary()

    def execute(self, op: Op) -> Any:
        """Run `op`. Raises StoreError when the server cannot be used."""
        with self._explained():
            if self._client is None:
                self._client = _redis().Redis.from_url(revealed(self._url), **_settings())
            plan, reply = self._plan(op), None
            while True:
                try:
                    command = plan.send(reply)
                except StopIteration as end:
                    return end.value
                reply = self._client.execute_command(*command)

    async def aexecute(self, op: Op) -> Any:
        """Run `op`. Raises StoreError when the server cannot be used."""
        with self._explained():
            loop = asyncio.get_running_loop()  # a connection belongs to the loop that made it
            if loop not in self._aclients:
                self._aclients[loop] = _redis().asyncio.Redis.from_url(revealed(self._url), **_settings())
            plan, reply = self._plan(op), None
            while True:
                try:
                    command = plan.send(reply)
                except StopIteration as end:
                    return end.value
                reply = await self._aclients[loop].execute_command(*command)

    def close(self) -> None:
        """Let go of the blocking connections."""
        if self._client is not None:
            self._client.close()
            self._client = None

    async def aclose(self) -> None:
        """Let go of the blocking connections and of this loop's."""
        self.close()
        client = self._aclients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (_redis().exceptions.RedisError, OSError) as error:
            where = urlsplit(revealed(self._url))
            text = f"the response cache at {where.hostname}:{where.port or 6379} cannot be used"
            raise StoreError(f"{text} ({type(error).__name__}): start the server or mend store.url") from None

    def _plan(self, op: Op) -> Plan:
        match op:
            case Get():
                return _one("HGET", self._entry(op.key), "value")
            case Put():
                return self._put(op)
            case Drop():
                return _one("DEL", self._entry(op.key))
            case Lease() | Beat() | Release():
                return self._lease(op)
            case Measure():
                return self._measure()
            case Clear():
                return self._clear(op)

    def _entry(self, key: str) -> str:
        return f"{self._prefix}:entry:{key}"

    def _put(self, op: Put) -> Plan:
        seconds, _ = yield ("TIME",)
        key = self._entry(op.key)
        script = "redis.call('HSET', KEYS[1], 'value', ARGV[1], 'at', ARGV[2]); redis.call('PEXPIRE', KEYS[1], ARGV[3])"
        yield ("EVAL", script, 1, key, op.value, seconds, max(1, int(op.ttl_s * 1000)))

    def _lease(self, op: Lease | Beat | Release) -> Plan:
        ttl_ms = 0 if isinstance(op, Release) else int(op.ttl_s * 1000)
        flight = op.flight if isinstance(op, Lease) else ""
        key = f"{self._prefix}:lease:{op.key}"
        arguments = (type(op).__name__, op.owner, ttl_ms, int(KEEP_S * 1000), flight)
        mine, found = yield ("EVAL", _script(), 1, key, *arguments)
        return Standing(mine=bool(mine), flight=found.decode())

    def _keys(self, pattern: str) -> Generator[tuple[Any, ...], Any, list[bytes]]:
        cursor: bytes | int = 0
        found: set[bytes] = set()
        while True:
            cursor, page = yield ("SCAN", cursor, "MATCH", self._entry(pattern), "COUNT", _BATCH)
            found.update(page)
            if int(cursor) == 0:
                return sorted(found)

    def _measure(self) -> Plan:
        keys = yield from self._keys("*")
        total = 0
        for key in keys:
            total += yield ("HSTRLEN", key, "value")
        return Amount(len(keys), total)

    def _clear(self, op: Clear) -> Plan:
        keys = yield from self._keys(f"{op.namespace or '*'}:*")
        now, _ = yield ("TIME",)
        deleted = 0
        for key in keys:
            at = yield ("HGET", key, "at")
            if at is not None and int(at) <= int(now) - op.older_than_s:
                deleted += yield ("DEL", key)
        return deleted


def _one(*command: Any) -> Plan:
    return (yield command)


def _redis() -> Any:
    try:
        import redis.asyncio  # noqa: PLC0415 - only who uses Redis loads it
    except ImportError:
        raise ConfigError("store.url names Redis: pip install 'blueprint-llm[redis]'") from None
    return redis


def _settings() -> dict[str, Any]:
    from redis.backoff import NoBackoff  # noqa: PLC0415 - only who uses Redis loads it
    from redis.retry import Retry  # noqa: PLC0415 - only who uses Redis loads it

    return {"retry": Retry(NoBackoff(), 1), "socket_timeout": _TIMEOUT_S, "socket_connect_timeout": _TIMEOUT_S}


@cache
def _script() -> str:
    return files("blueprint_llm.cache").joinpath("lease.lua").read_text()
