"""What the page shows, computed from usage rows. Pure: the time is an argument."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Literal, Self

from blueprint_llm.usage.stores.records import ABANDONED, FACTS, stats

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from blueprint_llm.types import UsageStats
    from blueprint_llm.usage.stores.records import AttemptRow

Outcome = Literal["answered", "cached", "fallback", "left", "failed"]
OUTCOMES: tuple[Outcome, ...] = ("answered", "cached", "fallback", "left", "failed")

_HOUR_S, _DAY_S = 3600, 86400
_FEWEST = {_HOUR_S: 24, _DAY_S: 14}  # columns of a chart
_MOST = 62  # more days than that share columns

_facts = attrgetter(*FACTS)


@dataclass(frozen=True, slots=True)
class Call:
    """One call: its attempts in order."""

    attempts: tuple[AttemptRow, ...]

    @property
    def last(self) -> AttemptRow:
        """The attempt that ended it."""
        return self.attempts[-1]

    @property
    def outcome(self) -> Outcome:
        """How it ended; `fallback`: answered, after another target had failed."""
        last = self.last
        if last.category is not None:
            return "left" if last.category == ABANDONED else "failed"
        targets = {(row.provider, row.model) for row in self.attempts}
        return "cached" if last.cache_hit else "fallback" if len(targets) > 1 else "answered"

    @property
    def cost_usd(self) -> float | None:
        """The cost of all its attempts; None where one is unknown."""
        costs = [row.cost_nano for row in self.attempts]
        return None if None in costs else sum(filter(None, costs)) / 1e9

    @property
    def latency_s(self) -> float | None:
        """The time its attempts took, waits between them left out."""
        known = [row.latency_s for row in self.attempts if row.latency_s is not None]
        return sum(known) if known else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One hour or day of the charts, or the few days that share a column."""

    label: str
    stats: UsageStats
    outcomes: Mapping[Outcome, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Everything the page shows but the limits. `since` and `until` are Unix seconds.

    `unit` is what the charts count by: a single day is shown by its hours.
    """

    since: float
    until: float
    unit: Literal["hour", "day"]
    stats: UsageStats
    columns: Sequence[Column]
    calls: Sequence[Call]
    outcomes: Mapping[Outcome, int]
    categories: Mapping[str, int]  # what attempts failed of, the most frequent first; leaving early is no failure

    @classmethod
    def of(cls, rows: Sequence[AttemptRow], *, until: float, since: float | None = None) -> Self:
        """The figures of `rows` up to the moment `until`; newest calls first."""
        until = max([until, *(row.at for row in rows)])  # whoever wrote them may have another clock
        begin = min((row.at for row in rows), default=until) if since is None else since
        size = _HOUR_S if until - begin < _DAY_S else _DAY_S
        ordered = sorted(rows, key=lambda row: (row.call_id, row.at, row.attempt))
        grouped = (Call(tuple(group)) for _, group in groupby(ordered, key=attrgetter("call_id")))
        calls = sorted(grouped, key=lambda call: call.attempts[0].at)
        failed_of = Counter(row.category for row in rows if row.category and row.category != ABANDONED)
        return cls(
            since=begin,
            until=until,
            unit="hour" if size == _HOUR_S else "day",
            stats=_stats(rows),
            columns=_columns(calls, begin, until, size),
            calls=calls[::-1],
            outcomes=_outcomes(calls),
            categories=dict(failed_of.most_common()),
        )


def _stats(rows: Sequence[AttemptRow]) -> UsageStats:
    return stats([_facts(row) for row in rows])


def _outcomes(calls: Sequence[Call]) -> dict[Outcome, int]:
    found = Counter(call.outcome for call in calls)
    return {outcome: found[outcome] for outcome in OUTCOMES}


def _columns(calls: Sequence[Call], since: float, until: float, size: int) -> list[Column]:
    """Every hour or day up to the last has a column, also one without a call; many days share them."""
    last = int(until // size)
    slots = max(_FEWEST[size], last - int(since // size) + 1)
    width = -(-slots // _MOST)
    first = last + 1 - width * -(-slots // width)
    groups: dict[int, list[Call]] = {slot: [] for slot in range(first, last + 1, width)}
    for call in calls:
        slot = int(call.attempts[0].at // size)
        groups[max(first, slot - (slot - first) % width)].append(call)
    return [
        Column(
            label=_label(slot * size, (slot + width - 1) * size),
            stats=_stats([row for call in group for row in call.attempts]),
            outcomes=_outcomes(group),
        )
        for slot, group in groups.items()
    ]


def _label(begin: float, end: float) -> str:
    first, last = (datetime.fromtimestamp(at, UTC) for at in (begin, end))
    if begin != end:
        return f"{first:%-d %b} – {last:%-d %b}"
    return f"{first:%H:00}" if begin % _DAY_S else f"{first:%-d %b}"
