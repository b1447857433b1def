"""The one Redis client of this process: ledger, breakers and cache share its connections.

A connection belongs to the event loop that made it, so there is one client for each address and running loop.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from blueprint_llm.errors import ConfigError
from blueprint_llm.secret import revealed

if TYPE_CHECKING:
    import redis.asyncio

    from blueprint_llm.secret import Secret

TIMEOUT_S = 2.0

_clients: dict[asyncio.AbstractEventLoop, dict[str, redis.asyncio.Redis]] = {}
_inherited: list[object] = []  # a forked child may neither use nor close its parent's connections


def redis_client(url: str | Secret) -> redis.asyncio.Redis:
    """Return the client for `url` on the running loop; nothing connects before it is used.

    Raises:
        ConfigError: The package is not installed.
    """
    loop = asyncio.get_running_loop()
    if loop not in _clients:
        for closed in [known for known in list(_clients) if known.is_closed()]:  # its transports hold the loop alive
            _clients.pop(closed, None)
    clients = _clients.setdefault(loop, {})
    address = revealed(url)
    if address not in clients:
        clients[address] = _redis().asyncio.Redis.from_url(address, **_settings())
    return clients[address]


async def disconnect(url: str | Secret) -> None:
    """Close the running loop's idle connections to `url`; those in use are somebody else's, and go on."""
    client = _clients.get(asyncio.get_running_loop(), {}).get(revealed(url))
    if client is not None:
        await client.connection_pool.disconnect(inuse_connections=False)


def no_script() -> type[Exception]:
    """Return what a client raises when the server does not know a script yet."""
    found: type[Exception] = _redis().exceptions.NoScriptError
    return found


def failures() -> tuple[type[Exception], ...]:
    """Return what a client raises when the server cannot be used."""
    return (_redis().exceptions.RedisError, OSError)


def _redis() -> Any:
    try:
        import redis.asyncio  # noqa: PLC0415 - only who uses Redis loads it
    except ImportError:
        raise ConfigError("store.url names Redis: pip install 'blueprint-llm[redis]'") from None
    return redis


def _settings() -> dict[str, Any]:
    from redis.asyncio.retry import Retry  # noqa: PLC0415 - only who uses Redis loads it
    from redis.backoff import NoBackoff  # noqa: PLC0415 - only who uses Redis loads it

    limits = {"socket_timeout": TIMEOUT_S, "socket_connect_timeout": TIMEOUT_S}
    return {"decode_responses": True, "retry": Retry(NoBackoff(), 1), **limits}


def _after_fork() -> None:
    _inherited.append(dict(_clients))
    _clients.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
