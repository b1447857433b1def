"""What was used: sums over the attempts that a store remembers, across restarts and processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from blueprint_llm.config.blocks import StoreConfig
from blueprint_llm.types import UsageFilter, UsageStats
from blueprint_llm.usage.stores import Store, open_store
from blueprint_llm.usage.stores.ops import (
    Aggregate,
    AttemptRow,
    ByDay,
    Charge,
    Daily,
    Dimension,
    Level,
    NewEpoch,
    ResetLimits,
    Rows,
    Standing,
    WriteRow,
)

if TYPE_CHECKING:
    from blueprint_llm.types import UsageTotals

_EVERYTHING = UsageFilter()


class UsageTracker:
    """The usage in `store`; without one, in the user's own ledger file. `a...` are the same for coroutines."""

    def __init__(self, store: Store | None = None) -> None:
        self._store = store or open_store(StoreConfig())

    def get_usage(self, where: UsageFilter | None = None) -> UsageStats:
        """Totals since the last reset. A call tried three times is one call; its two failures are `errors`."""
        return cast("UsageStats", self._store.execute(Aggregate(where=where or _EVERYTHING)))

    async def aget_usage(self, where: UsageFilter | None = None) -> UsageStats:
        """Totals since the last reset."""
        return cast("UsageStats", await self._store.aexecute(Aggregate(where=where or _EVERYTHING)))

    def by_day(self, where: UsageFilter | None = None) -> dict[str, UsageTotals]:
        """Totals by UTC day, oldest first."""
        return cast("dict[str, UsageTotals]", self._store.execute(ByDay(where=where or _EVERYTHING)))

    def daily(self, by: Dimension, where: UsageFilter | None = None) -> dict[str, dict[str, UsageTotals]]:
        """Totals by UTC day, oldest first, for every provider, model, session or project."""
        op = Daily(where=where or _EVERYTHING, by=by)
        return cast("dict[str, dict[str, UsageTotals]]", self._store.execute(op))

    def standing(self, charges: tuple[Charge, ...]) -> tuple[Level, ...]:
        """How full the counters of `charges` are (those of `Ledger.lasting`, to see every limit)."""
        return cast("tuple[Level, ...]", self._store.execute(Standing(charges=charges)) if charges else ())

    def newest(self, where: UsageFilter | None = None, *, limit: int = 100) -> tuple[AttemptRow, ...]:
        """The newest attempts, newest first."""
        return cast("tuple[AttemptRow, ...]", self._store.execute(Rows(where=where or _EVERYTHING, limit=limit)))

    def record(self, row: AttemptRow) -> None:
        """Write one attempt that no reservation stands for (a cache hit)."""
        self._store.execute(WriteRow(row=row))

    async def arecord(self, row: AttemptRow) -> None:
        """Write one attempt that no reservation stands for (a cache hit)."""
        await self._store.aexecute(WriteRow(row=row))

    def reset_usage(self) -> None:
        """Count afresh; no row is deleted, no budget or quota lowered."""
        self._store.execute(NewEpoch())

    async def areset_usage(self) -> None:
        """Count afresh; no row is deleted, no budget or quota lowered."""
        await self._store.aexecute(NewEpoch())

    def reset_limits(self) -> None:
        """Empty every budget and quota but for what calls on their way hold."""
        self._store.execute(ResetLimits())
