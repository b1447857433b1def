"""Sums over usage rows, the same for every store.

A call is counted once however often it was tried (its rows share a `call_id`); each failed attempt is an error.
Latencies are those of answered attempts that reached a provider.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from blueprint_llm.types import UsageStats, UsageTotals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

ABANDONED = "abandoned"  # the category of an attempt whose caller left
Fact = tuple[Any, ...]  # a row's values of FACTS, in that order
FACTS = (
    *("call_id", "provider", "model", "session", "project", "prompt_tokens", "completion_tokens"),
    *("cost_nano", "latency_s", "category", "cache_hit", "saved_nano", "at"),
)
T = TypeVar("T")
_DAY_S = 86400


def stats(rows: Sequence[Fact]) -> UsageStats:
    """Return the totals of `rows`, and the same by provider, model, session and project."""
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


class _Part(NamedTuple):
    calls: set[str]
    waits: list[float]
    numbers: tuple[int, ...]  # errors, prompt and completion tokens, cost, unpriced, cache hits, saved


def _part(rows: Sequence[Fact]) -> _Part:
    calls, *_, prompt, completion, costs, latencies, categories, hits, saved, _at = zip(*rows, strict=True)
    answered = zip(latencies, categories, hits, strict=True)
    waits = [wait for wait, category, hit in answered if wait is not None and category is None and not hit]
    errors = len(rows) - categories.count(None) - categories.count(ABANDONED)
    costs_nano = sum(filter(None, costs))
    numbers = (errors, sum(prompt), sum(completion), costs_nano, costs.count(None), sum(hits), sum(saved))
    return _Part(set(calls), waits, numbers)


def _totals(parts: Sequence[_Part]) -> UsageTotals:
    numbers = [(0,) * 7, *(part.numbers for part in parts)]
    errors, prompt, completion, cost, unpriced, hits, saved = map(sum, zip(*numbers, strict=True))
    waits = sorted(chain.from_iterable(part.waits for part in parts))
    return UsageTotals(
        calls=len(set().union(*(part.calls for part in parts))),
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
