"""What a store can do, what it is told and what it answers: the same in a file, in memory and on Redis.

A store counts and remembers; what a call may take and what it took is decided elsewhere (`usage.ledger`). No record
carries a time: the store owns the wall clock (Redis: the server's). Amounts are integers: nano-USD, requests or tokens.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeVar

from blueprint_llm.types import UsageStats, UsageTotals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from blueprint_llm.types import UsageFilter
    from blueprint_llm.usage.stores.breaker import Breaker, BreakerReport

# `parallel`: attempts under way. What is taken of it is lent: settling and expiry alike give it back.
Kind = Literal["usd", "requests", "tokens", "parallel"]
Dimension = Literal["provider", "model", "session", "project"]
ABANDONED = "abandoned"  # the category of an attempt whose caller left
EXPIRED = "expired"
WAITING = "blueprint_llm waited for its store: "
T = TypeVar("T")


class Charge(NamedTuple):
    """One limit that a call must fit under, and what the call takes from it."""

    scope: str  # as configured (`project`)
    subject: str  # who is counted (`project:acme`): with `kind` and `window` it names the counter
    kind: Kind
    window: str  # as in the configuration, or `call`: one call's life
    amount: int  # what is reserved, or at settling what was really taken
    limit: int
    on_exceed: Literal["warn", "degrade", "block"] = "block"
    warn_at: tuple[int, ...] = ()  # amounts, ascending: reaching one is reported once a window
    chain: tuple[str, ...] = ()  # where a `degrade` sends the call

    @property
    def counter(self) -> str:
        """The counter's name without its window's start."""
        return f"{self.subject}|{self.kind}|{self.window}"


class AttemptRow(NamedTuple):
    """One attempt at one target. A tuple: every call makes two, of 23 fields."""

    id: str  # its reservation's
    call_id: str  # the user-visible call that it belongs to
    attempt: int = 1
    provider: str = ""
    model: str = ""
    session: str | None = None
    project: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cache_write_tokens: int = 0
    cost_nano: int | None = None  # nano-USD; None: unknown
    latency_s: float | None = None
    ttft_s: float | None = None
    category: str | None = None  # None: answered; else a row of the failure table, `abandoned` or `expired`
    usage_source: str = "provider"
    maybe_billed: bool = False  # the provider may have billed what we could not see
    price_version: str | None = None
    cache_hit: bool = False  # answered from the response cache
    saved_nano: int = 0  # by that
    trace_id: str | None = None
    at: float = 0.0  # Unix seconds of the reservation; the store sets it


Fact = tuple[Any, ...]  # what sums need of a row: its values of FACTS, in that order
FACTS = (
    *("call_id", "provider", "model", "session", "project", "prompt_tokens", "completion_tokens"),
    *("cost_nano", "latency_s", "category", "cache_hit", "saved_nano", "at"),
)
_DAY_S = 86400


class Reservation(NamedTuple):
    """What an attempt wants to take before it is sent."""

    id: str  # until it is settled; reserving it again takes nothing more
    charges: tuple[Charge, ...]  # every limit that counts the attempt, at the most that the attempt can take
    ttl_s: float  # it expires so long after the last heartbeat, and is then charged in full
    row: AttemptRow  # what an expiry writes
    target: str = ""  # whose breaker is asked; empty: none is
    probes: int = 1  # so many attempts at a time may try a half-open target


class Settlement(NamedTuple):
    """What an attempt really took: `charges` at their true amounts, its usage row, its report to the breaker."""

    charges: tuple[Charge, ...]
    row: AttemptRow
    report: BreakerReport | None = None


class Level(NamedTuple):
    """A charge's counter now."""

    charge: Charge
    used: int  # spent plus reserved
    spent: int
    resets_at: float | None  # Unix seconds; None: never by itself
    start: int = 0  # of its window, Unix seconds
    warned: int = 0  # what was spent when a threshold was reached last

    @property
    def share(self) -> float:
        """Used part of the limit; of a zero limit, 1."""
        return self.used / self.charge.limit if self.charge.limit else 1.0


class Crossed(NamedTuple):
    """The spent amount has reached a threshold of `warn_at` for the first time in this window."""

    level: Level
    threshold: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserved:
    """The answer to a reservation; where it was refused, nothing is taken."""

    denied: Level | None = None  # the limit that refused (a block before a degrade)
    breaker: Breaker | None = None  # the breaker that refused: open, or half open with all probes out
    exceeded: tuple[Level, ...] = ()  # limits with `on_exceed: warn` that the call goes beyond
    crossed: tuple[Crossed, ...] = ()  # thresholds reached by what was spent before

    @property
    def ok(self) -> bool:
        """Return True if the charges were taken."""
        return self.denied is None and self.breaker is None


def reserved(levels: Sequence[Level]) -> Reserved:
    """Return the answer to a reservation that finds its limits so full."""
    over = tuple(level for level in levels if level.used + level.charge.amount > level.charge.limit)
    reached = crossed(levels)
    if not (over or reached):
        return _TAKEN
    denied = min(over, key=lambda level: _GRAVEST.index(level.charge.on_exceed), default=None)
    if denied is None or denied.charge.on_exceed == "warn":
        return Reserved(exceeded=over, crossed=reached)
    return Reserved(denied=denied, crossed=reached)


_TAKEN = Reserved()
_GRAVEST = ("block", "degrade", "warn")


def crossed(levels: Sequence[Level]) -> tuple[Crossed, ...]:
    """Return the thresholds that what is spent has reached since anybody looked last."""
    return tuple(
        Crossed(level, mark) for level in levels for mark in level.charge.warn_at if level.warned < mark <= level.spent
    )


class Settled(NamedTuple):
    """The answer to a settlement. `was`: what became of the reservation before it was settled."""

    was: Literal["open", "expired", "unknown", "settled"]
    crossed: tuple[Crossed, ...] = ()


class Store(Protocol):
    """Budgets, quotas, breakers and usage; each method is one transaction.

    It works from any event loop, from several at once, and in a forked child. Every method raises StoreError where the
    store cannot be used. A cancelled `reserve` leaves nothing reserved. A cancelled `settle` or `record` is
    still carried out as soon as the store can be used, for as long as this process lives.
    """

    async def reserve(self, reservation: Reservation, *, force: bool = False) -> Reserved:
        """Ask the target's breaker and take every charge, or take nothing; `force` goes past an open breaker."""

    async def settle(self, settlement: Settlement) -> Settled:
        """Replace a reservation's amounts by the true ones, write its row, tell the breaker. A second one does nothing.

        An expired reservation is corrected; one that this store never saw is charged now.
        """

    async def heartbeat(self, reservation_id: str, ttl_s: float) -> bool:
        """Keep a reservation for another `ttl_s`. Return False if it was open no longer."""

    async def levels(self, charges: Sequence[Charge]) -> tuple[Level, ...]:
        """Return how full each charge's counter is, reserving nothing."""

    async def breakers(self, targets: Sequence[str]) -> dict[str, Breaker]:
        """Return the breakers of `targets`, changing nothing; one that nobody reported to is closed."""

    async def record(self, row: AttemptRow) -> None:
        """Write a usage row that has no reservation (a cache hit). It does not wait for a lock."""

    async def rows(self, where: UsageFilter, *, limit: int = 100) -> tuple[AttemptRow, ...]:
        """Return the newest rows of the current epoch, newest first."""

    async def facts(self, where: UsageFilter) -> list[Fact]:
        """Return what sums need of every row of the current epoch."""

    async def usage(self, where: UsageFilter) -> UsageStats:
        """Return the totals of the current epoch."""
        return await asyncio.to_thread(stats, await self.facts(where))

    async def new_epoch(self) -> None:
        """Start counting usage afresh: rows stay, budgets and quotas too."""

    async def reset_limits(self) -> None:
        """Empty every budget and quota but for what open reservations hold."""

    async def aclose(self) -> None:
        """Carry out what was booked and let go of files and connections; using the store again opens it again."""


def stats(rows: Sequence[Fact]) -> UsageStats:
    """Return the totals of `rows`, and the same by provider, model, session and project.

    A call is counted once however often it was tried (its rows share a `call_id`); each failed attempt is an error.
    Latencies are those of answered attempts that reached a provider.
    """
    # Rows are read once, however many groups they belong to: sums over some can be added to those over others.
    parts = {names: _part(group) for names, group in _grouped(rows, itemgetter(slice(1, 5))).items()}
    by = {}
    for column, name in enumerate(("by_provider", "by_model", "by_session", "by_project")):
        groups = _grouped(parts, itemgetter(column))
        by[name] = {key: _totals([parts[names] for names in found]) for key, found in groups.items() if key is not None}
    return UsageStats(**dict(_totals([*parts.values()])), **by)


def by_day(rows: Sequence[Fact]) -> dict[str, UsageTotals]:
    """Return the totals by UTC day (`2026-01-31`), oldest first."""
    days = sorted(_grouped(rows, lambda row: row[-1] // _DAY_S).items())
    return {f"{datetime.fromtimestamp(day * _DAY_S, UTC):%Y-%m-%d}": _totals([_part(found)]) for day, found in days}


def daily(rows: Sequence[Fact], dimension: str) -> dict[str, dict[str, UsageTotals]]:
    """Return the totals by UTC day for each provider, model, session or project."""
    groups = _grouped(rows, itemgetter(FACTS.index(dimension)))
    return {name: by_day(group) for name, group in groups.items() if name is not None}


def _grouped(items: Iterable[T], key: Callable[[T], Any]) -> dict[Any, list[T]]:
    groups: defaultdict[Any, list[T]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return groups


# Calls, waits, and the sums: errors, prompt and completion tokens, cost, unpriced, cache hits, saved.
_Part = tuple[set[str], list[float], tuple[int, ...]]


def _part(rows: Sequence[Fact]) -> _Part:
    calls, *_, prompt, completion, costs, latencies, categories, hits, saved, _at = zip(*rows, strict=True)
    answered = zip(latencies, categories, hits, strict=True)
    waits = [wait for wait, category, hit in answered if wait is not None and category is None and not hit]
    errors = len(rows) - categories.count(None) - categories.count(ABANDONED)
    costs_nano = sum(filter(None, costs))
    numbers = (errors, sum(prompt), sum(completion), costs_nano, costs.count(None), sum(hits), sum(saved))
    return set(calls), waits, numbers


def _totals(parts: Sequence[_Part]) -> UsageTotals:
    nothing: _Part = set(), [], (0,) * 7
    calls, waits_of, numbers = zip(nothing, *parts, strict=True)
    errors, prompt, completion, cost, unpriced, hits, saved = map(sum, zip(*numbers, strict=True))
    waits = sorted(chain.from_iterable(waits_of))
    return UsageTotals(
        calls=len(set().union(*calls)),
        errors=errors,
        prompt_tokens=prompt,
        completion_tokens=completion,
        cost_usd=cost / 1e9,
        unpriced=unpriced,
        latency_p50_s=_quantile(waits, 0.5),
        latency_p95_s=_quantile(waits, 0.95),
        cache_hits=hits,
        saved_usd=saved / 1e9,
    )


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


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
