"""Sums over usage rows, the same for every store.

A call is counted once however often it was tried (its rows share a `call_id`); each failed attempt is an error.
Latencies are those of answered attempts that reached a provider.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from blueprint_llm.stores.ops import ABANDONED
from blueprint_llm.types import UsageStats, UsageTotals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

Fact = tuple[Any, ...]  # a row's values of FACTS, in that order
FACTS = (
    *("call_id", "provider", "model", "session", "project", "prompt_tokens", "completion_tokens"),
    *("cost_nano", "latency_s", "category", "cache_hit", "saved_nano", "at"),
)
_DIMENSIONS = {"by_provider": 1, "by_model": 2, "by_session": 3, "by_project": 4}


def stats(rows: Sequence[Fact]) -> UsageStats:
    """Totals of `rows`, and the same by provider, model, session and project."""
    parts = {name: _by(rows, lambda row, at=column: row[at]) for name, column in _DIMENSIONS.items()}
    return UsageStats(**{**dict(totals(rows)), **parts})


def by_day(rows: Sequence[Fact]) -> dict[str, UsageTotals]:
    """Totals by UTC day (`2026-01-31`), oldest first."""
    return dict(sorted(_by(rows, lambda row: f"{datetime.fromtimestamp(row[12], UTC):%Y-%m-%d}").items()))


def _by(rows: Iterable[Fact], key: Callable[..., str | None]) -> dict[str, UsageTotals]:
    groups: defaultdict[str | None, list[Fact]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return {name: totals(group) for name, group in groups.items() if name is not None}


def totals(rows: Sequence[Fact]) -> UsageTotals:
    """Sums over `rows`; an unknown cost adds nothing and is counted in `unpriced`."""
    if not rows:
        return UsageTotals()
    calls, *_, prompt, completion, costs, latencies, categories, hits, saved, _at = zip(*rows, strict=True)
    waits = sorted(
        wait
        for wait, category, hit in zip(latencies, categories, hits, strict=True)
        if wait is not None and category is None and not hit
    )
    return UsageTotals(
        calls=len(set(calls)),
        errors=sum(category not in {None, ABANDONED} for category in categories),
        prompt_tokens=sum(prompt),
        completion_tokens=sum(completion),
        cost_usd=sum(cost for cost in costs if cost) / 1e9,
        unpriced=costs.count(None),
        latency_p50_s=_quantile(waits, 0.5),
        latency_p95_s=_quantile(waits, 0.95),
        cache_hits=sum(hits),
        saved_usd=sum(saved) / 1e9,
    )


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None
