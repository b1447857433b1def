"""What was used: sums over the attempts that a store remembers, across restarts and processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blueprint_llm.config.blocks import StoreConfig
from blueprint_llm.sync import run
from blueprint_llm.types import UsageFilter
from blueprint_llm.usage.stores import open_store
from blueprint_llm.usage.stores.records import by_day, daily

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blueprint_llm.types import UsageStats, UsageTotals
    from blueprint_llm.usage.stores import Store
    from blueprint_llm.usage.stores.records import AttemptRow, Charge, Dimension, Level

_EVERYTHING = UsageFilter()


class UsageTracker:
    """The usage in `store`; without one, in the user's own ledger file. Its methods block; the store's do not."""

    def __init__(self, store: Store | None = None) -> None:
        self._store = store or open_store(StoreConfig())

    def get_usage(self, where: UsageFilter | None = None) -> UsageStats:
        """Return totals since the last reset. A call tried three times is one call; its two failures are `errors`."""
        return run(self._store.usage(where or _EVERYTHING))

    def by_day(self, where: UsageFilter | None = None) -> dict[str, UsageTotals]:
        """Return totals by UTC day, oldest first."""
        return by_day(run(self._store.facts(where or _EVERYTHING)))

    def daily(self, by: Dimension, where: UsageFilter | None = None) -> dict[str, dict[str, UsageTotals]]:
        """Return totals by UTC day, oldest first, for every provider, model, session or project."""
        return daily(run(self._store.facts(where or _EVERYTHING)), by)

    def standing(self, charges: Sequence[Charge]) -> tuple[Level, ...]:
        """Return how full the counters of `charges` are (those of `Ledger.lasting`, to see every limit)."""
        return run(self._store.levels(charges)) if charges else ()

    def newest(self, where: UsageFilter | None = None, *, limit: int = 100) -> tuple[AttemptRow, ...]:
        """Return the newest attempts, newest first."""
        return run(self._store.rows(where or _EVERYTHING, limit=limit))

    def record(self, row: AttemptRow) -> None:
        """Write one attempt that no reservation stands for (a cache hit)."""
        run(self._store.record(row))

    def reset_usage(self) -> None:
        """Count afresh; no row is deleted, no budget or quota lowered."""
        run(self._store.new_epoch())

    def reset_limits(self) -> None:
        """Empty every budget and quota but for what calls under way hold."""
        run(self._store.reset_limits())

    def close(self) -> None:
        """Let go of the store's files and connections."""
        run(self._store.aclose())
