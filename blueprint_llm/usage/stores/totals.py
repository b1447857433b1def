"""Sums over usage rows, the same for every store.

A call is counted once however often it was tried (its rows share a `call_id`); each failed attempt is an error.
Latencies are those of answered attempts that reached a provider.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from blueprint_llm.types import UsageStats, UsageTotals
from blueprint_llm.usage.stores.records import ABANDONED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

Fact = tuple[Any, ...]  # a row's values of FACTS, in that order
FACTS = (
    *("call_id", "provider", "model", "session", "project", "prompt_tokens", "completion_tokens"),
    *("cost_nano", "latency_s", "category", "cache_hit", "saved_nano", "at"),
)
_DAY_S = 86400
_DIMENSIONS = {"by_provider": 0, "by_model": 1, "by_session": 2, "by_project": 3}


def stats(rows: Sequence[Fact]) -> UsageStats:
    """Totals of `rows`, and the same by provider, model, session and project."""
    parts = {names: _Part.of(group) for names, group in _grouped(rows, itemgetter(slice(1, 5))).items()}
    by = {name: _merged(parts, column) for name, column in _DIMENSIONS.items()}
    return UsageStats(**{**dict(_Part.sum(parts.values()).totals()), **by})


def by_day(rows: Sequence[Fact]) -> dict[str, UsageTotals]:
    """Totals by UTC day (`2026-01-31`), oldest first."""
    days = _grouped(rows, lambda row: row[-1] // _DAY_S)
    return {
        f"{datetime.fromtimestamp(day * _DAY_S, UTC):%Y-%m-%d}": _Part.of(days[day]).totals() for day in sorted(days)
    }


def daily(rows: Sequence[Fact], dimension: str) -> dict[str, dict[str, UsageTotals]]:
    """Totals by UTC day for each provider, model, session or project."""
    groups = _grouped(rows, itemgetter(FACTS.index(dimension)))
    return {name: by_day(group) for name, group in groups.items() if name is not None}


def _grouped(rows: Iterable[Any], key: Callable[[Any], Any]) -> dict[Any, list[Any]]:
    groups: defaultdict[Any, list[Any]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return groups


def _merged(parts: Mapping[tuple[str | None, ...], _Part], column: int) -> dict[str, UsageTotals]:
    groups = _grouped(parts.items(), lambda item: item[0][column])
    return {name: _Part.sum(part for _, part in group).totals() for name, group in groups.items() if name is not None}


@dataclass(slots=True)
class _Part:
    """Sums over some rows that can be added to those over others: rows are read once, however many groups there are."""

    calls: set[str]
    waits: list[float]
    numbers: tuple[int, ...]

    @classmethod
    def of(cls, rows: Sequence[Fact]) -> _Part:
        calls, *_, prompt, completion, costs, latencies, categories, hits, saved, _at = zip(*rows, strict=True)
        waits = [
            wait
            for wait, category, hit in zip(latencies, categories, hits, strict=True)
            if wait is not None and category is None and not hit
        ]
        errors = len(rows) - categories.count(None) - categories.count(ABANDONED)
        cost = sum(filter(None, costs))
        numbers = (errors, sum(prompt), sum(completion), cost, costs.count(None), sum(hits), sum(saved))
        return cls(set(calls), waits, numbers)

    @classmethod
    def sum(cls, parts: Iterable[_Part]) -> _Part:
        whole = cls(set(), [], (0,) * 7)
        columns = [whole.numbers]
        for part in parts:
            whole.calls |= part.calls
            whole.waits += part.waits
            columns.append(part.numbers)
        whole.numbers = tuple(map(sum, zip(*columns, strict=True)))
        return whole

    def totals(self) -> UsageTotals:
        errors, prompt, completion, cost, unpriced, hits, saved = self.numbers
        waits = sorted(self.waits)
        return UsageTotals(
            calls=len(self.calls),
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
