"""What `store.on_failure: memory` does: when the store fails, limits hold in this process alone until it is back.

It is said aloud (`store.degraded`, `store.recovered`), since other processes are not counted meanwhile and the
counters begin at zero. Reservations made meanwhile are charged to the store when they are settled after its return.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from blueprint_llm.errors import StoreError
from blueprint_llm.events import Event, warn
from blueprint_llm.usage.stores.sqlite import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from blueprint_llm.events import OnEvent
    from blueprint_llm.usage.stores import Store
    from blueprint_llm.usage.stores.ops import Op

RETRY_S = 5.0


class DegradedStore:
    """`store` while it works, else memory; the store is asked again every `RETRY_S` seconds."""

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.time, on_event: OnEvent = warn) -> None:
        self._store = store
        self._memory = MemoryStore(clock=clock)
        self._on_event = on_event
        self._clock = clock
        self._retry_at = 0.0

    def execute(self, op: Op) -> Any:
        """Run `op` on the store, or in memory while it fails."""
        if self._clock() >= self._retry_at:
            try:
                return self._recovered(self._store.execute(op))
            except StoreError as error:
                self._degrade(error)
        return self._memory.execute(op)

    async def aexecute(self, op: Op) -> Any:
        """Run `op` on the store, or in memory while it fails."""
        if self._clock() >= self._retry_at:
            try:
                return self._recovered(await self._store.aexecute(op))
            except StoreError as error:
                self._degrade(error)
        return await self._memory.aexecute(op)

    def close(self) -> None:
        """Close both."""
        self._store.close()
        self._memory.close()

    async def aclose(self) -> None:
        """Close both."""
        await self._store.aclose()
        await self._memory.aclose()

    def _recovered(self, result: Any) -> Any:
        if self._retry_at:
            self._retry_at = 0.0
            self._on_event(Event(name="store.recovered", facts={}))
        return result

    def _degrade(self, error: StoreError) -> None:
        first, self._retry_at = not self._retry_at, self._clock() + RETRY_S
        if first:
            facts = {"reason": str(error), "effect": "limits are counted from zero, in this process alone"}
            self._on_event(Event(name="store.degraded", facts=facts))
