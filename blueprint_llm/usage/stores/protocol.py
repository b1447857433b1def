"""What a store can do: each method is one transaction, the same in a file, in memory and on Redis.

A store counts and remembers; what a call may take and what it took is decided elsewhere (`usage.ledger`). It works from
any event loop, from several at once, and in a forked child.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blueprint_llm.types import UsageFilter, UsageStats, UsageTotals
    from blueprint_llm.usage.stores.records import (
        AttemptRow,
        Breaker,
        Charge,
        Dimension,
        Level,
        Reservation,
        Reserved,
        Settled,
        Settlement,
    )

WAITING = "blueprint_llm waited for its store: "


class Store(Protocol):
    """Budgets, quotas, breakers and usage. Every method raises StoreError where the store cannot be used.

    A cancelled `reserve` leaves nothing reserved. A cancelled `settle`, `release` or `record` is still carried out as
    soon as the store can be used, for as long as this process lives.
    """

    async def reserve(self, reservation: Reservation, *, force: bool = False) -> Reserved:
        """Ask the target's breaker and take every charge, or take nothing; `force` goes past an open breaker."""

    async def settle(self, settlement: Settlement) -> Settled:
        """Replace a reservation's amounts by the true ones, write its row, tell the breaker. A second one does nothing.

        An expired reservation is corrected; one that this store never saw is charged now.
        """

    async def release(self, reservation_id: str) -> None:
        """Undo a reservation of which nothing was sent: its amounts and its probe's slot are free again."""

    async def heartbeat(self, reservation_id: str, ttl_s: float) -> bool:
        """Keep a reservation for another `ttl_s`. Return False if it was open no longer."""

    async def levels(self, charges: Sequence[Charge]) -> tuple[Level, ...]:
        """Return how full each charge's counter is, reserving nothing."""

    async def breakers(self, targets: Sequence[str]) -> dict[str, Breaker]:
        """Return the breakers of `targets`, changing nothing; one that nobody reported to is closed."""

    async def record(self, row: AttemptRow) -> None:
        """Write a usage row that has no reservation (a cache hit). It does not wait for a lock."""

    async def usage(self, where: UsageFilter) -> UsageStats:
        """Return the totals of the current epoch."""

    async def usage_by_day(self, where: UsageFilter) -> dict[str, UsageTotals]:
        """Return the totals of the current epoch by UTC day, oldest first."""

    async def usage_daily(self, where: UsageFilter, by: Dimension) -> dict[str, dict[str, UsageTotals]]:
        """Return `usage_by_day` for every value of `by`."""

    async def rows(self, where: UsageFilter, *, limit: int = 100) -> tuple[AttemptRow, ...]:
        """Return the newest rows of the current epoch, newest first."""

    async def new_epoch(self) -> None:
        """Start counting usage afresh: rows stay, budgets and quotas too."""

    async def reset_limits(self) -> None:
        """Empty every budget and quota but for what open reservations hold."""

    async def aclose(self) -> None:
        """Carry out what was booked and let go of files and connections; using the store again opens it again."""


def waited_for(error: BaseException | None) -> str | None:
    """Return what a call that was cancelled or timed out had been waiting for in the store, None if for nothing.

    `asyncio.timeout` raises its TimeoutError from the CancelledError on which the store left its note.
    """
    while error is not None:
        for note in getattr(error, "__notes__", ()):
            if note.startswith(WAITING):
                return str(note.removeprefix(WAITING))
        error = error.__cause__
    return None
