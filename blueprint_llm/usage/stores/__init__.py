"""Where budgets, usage and breakers live: one SQLite file, one Redis, or memory, behind one set of methods."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, cast

from blueprint_llm.errors import StoreError
from blueprint_llm.events import Event, warn
from blueprint_llm.secret import revealed
from blueprint_llm.usage.stores.records import Store, waited_for
from blueprint_llm.usage.stores.sqlite import MemoryStore, SqliteStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from blueprint_llm.config.blocks import StoreConfig
    from blueprint_llm.events import OnEvent

__all__ = ["DegradedStore", "MemoryStore", "SqliteStore", "Store", "open_store", "waited_for"]

RETRY_S = 5.0
PATIENCE_S = 2.0
_REPORTS = frozenset({"usage", "facts", "rows"})


def open_store(config: StoreConfig, *, clock: Callable[[], float] = time.time, on_event: OnEvent = warn) -> Store:
    """Return the store that `config.url` names; nothing is touched before its first use.

    `clock` tells Unix seconds to SQLite and memory; Redis has its server's. `on_event` is told when
    `on_failure: memory` takes effect, and when it ends.
    """
    store: Store
    if config.kind == "sqlite":
        path = revealed(config.url).removeprefix("sqlite").removeprefix(":").removeprefix("//")
        store = SqliteStore(path or None, clock=clock)
    elif config.kind == "memory":
        store = MemoryStore(clock=clock)
    else:
        from blueprint_llm.usage.stores.redis_store import RedisStore  # noqa: PLC0415 - only who uses Redis loads it

        store = RedisStore(config.url)
    if config.on_failure == "memory":
        return cast("Store", DegradedStore(store, clock=clock, on_event=on_event))
    return store


class DegradedStore:
    """What `store.on_failure: memory` does: while `store` fails, limits hold in this process alone.

    It is said aloud (`store.degraded`, `store.recovered`), since other processes are not counted meanwhile and the
    counters begin at zero. Reservations made meanwhile are charged to the store when they are settled after its return;
    it is asked again every `RETRY_S` seconds. Methods of `Store` not written out are those of one or the other.
    """

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.time, on_event: OnEvent = warn) -> None:
        self._store = store
        self._memory = MemoryStore(clock=clock)
        self._on_event = on_event
        self._clock = clock
        self._retry_at = 0.0

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        if name.startswith("_"):
            raise AttributeError(name)

        async def either(*args: Any, **keywords: Any) -> Any:
            if self._clock() >= self._retry_at:
                try:
                    # Who may go on without the store does not use up its deadline on waiting for it.
                    async with asyncio.timeout(None if name in _REPORTS else PATIENCE_S):
                        result = await getattr(self._store, name)(*args, **keywords)
                except (StoreError, TimeoutError) as error:
                    self._degrade(waited_for(error) or str(error))
                else:
                    self._recover()
                    return result
            return await getattr(self._memory, name)(*args, **keywords)

        return either

    async def heartbeat(self, reservation_id: str, ttl_s: float) -> bool:
        """Keep a reservation, wherever it was made. Return False if it was open no longer."""
        kept = await self._memory.heartbeat(reservation_id, ttl_s)
        return bool(await self.__getattr__("heartbeat")(reservation_id, ttl_s)) or kept

    async def aclose(self) -> None:
        """Close both."""
        await self._store.aclose()
        await self._memory.aclose()

    def _recover(self) -> None:
        if self._retry_at:
            self._retry_at = 0.0
            self._on_event(Event(name="store.recovered", facts={}))

    def _degrade(self, reason: str) -> None:
        first, self._retry_at = not self._retry_at, self._clock() + RETRY_S
        if first:
            facts = {"reason": reason, "effect": "limits are counted from zero, in this process alone"}
            self._on_event(Event(name="store.degraded", facts=facts))
