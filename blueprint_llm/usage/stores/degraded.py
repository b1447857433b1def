"""What `store.on_failure: memory` does: while the store fails, limits hold in this process alone.

It is said aloud (`store.degraded`, `store.recovered`), since other processes are not counted meanwhile and the
counters begin at zero. Reservations made meanwhile are charged to the store when they are settled after its return.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from blueprint_llm.errors import StoreError
from blueprint_llm.events import Event, warn
from blueprint_llm.usage.stores.protocol import waited_for
from blueprint_llm.usage.stores.sqlite import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from blueprint_llm.events import OnEvent
    from blueprint_llm.usage.stores.protocol import Store

RETRY_S = 5.0
PATIENCE_S = 2.0
_REPORTS = frozenset({"usage", "usage_by_day", "usage_daily", "rows"})


class DegradedStore:
    """`store` while it works, else memory; the store is asked again every `RETRY_S` seconds.

    It has every method of `Store`; those that are not written out are those of one or the other.
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

    async def release(self, reservation_id: str) -> None:
        """Undo a reservation, wherever it was made: the store may have failed or recovered since."""
        await self._memory.release(reservation_id)
        await self.__getattr__("release")(reservation_id)

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
