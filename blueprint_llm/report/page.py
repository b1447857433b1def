"""The page: words and charts of figures, limits and calls, which the template lays out.

A chart stretches with the page: its places are in percent.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from datetime import UTC, datetime
from itertools import accumulate, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jinja2 import Environment, StrictUndefined

from blueprint_llm.report.figures import OUTCOMES, Figures
from blueprint_llm.usage import standing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from blueprint_llm.usage.stores.records import Level

# What the colours mean (colour, name, value), and the chart, if there is one.
Panel = tuple["Sequence[tuple[str, str, str]]", dict[str, Any] | None]

_FOLDER = Path(__file__).parent
_COLOURS = 7  # models with a colour of their own; the others share one
_CALLS = 200
_WORDS = {
    "answered": "Answered",
    "cached": "From the cache",
    "fallback": "By a fallback",
    "left": "Left early",
    "failed": "Failed",
}
_STEPS = (1, 2, 2.5, 5, 10)
_GAP = 0.26  # of a column, between bars
_LABELS = 6


def render(
    figures: Figures,
    levels: Sequence[Level] = (),
    *,
    project: str | None = None,
    note: str = "",
    traces: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """Return the whole document, of one project or all; what is no markup of the template's own is escaped.

    `note` says what the page leaves out; `traces` holds what was kept of calls that did not go smoothly, by id.
    """
    texts = {name: (_FOLDER / name).read_text(encoding="utf-8") for name in ("page.html", "style.css", "filter.js")}
    ends = (f"{datetime.fromtimestamp(at, UTC):%-d %B %Y}" for at in (figures.since, figures.until))
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    told = (usd, partly, count, counted, seconds, percent, share, spent, moment, words, standing)
    environment.filters.update({each.__name__: each for each in told})
    # The ends and indentation of the template's lines are there for its readers only.
    return environment.from_string(re.sub(r"\n\s*", "", texts["page.html"])).render(
        policy=_policy(texts["filter.js"]),
        style=texts["style.css"],
        script=texts["filter.js"],
        title=f"Usage of {project or 'all projects'}",
        span=" – ".join(dict.fromkeys(ends)),
        note=note,
        shown=figures,
        stats=figures.stats,
        panels=[_cost(figures), _latency(figures), _outcomes(figures), _savings(figures)],
        levels=levels,
        ranked=sorted(figures.stats.by_model.items(), key=lambda it: (-it[1].cost_usd, -it[1].calls, it[0])),
        calls=figures.calls[:_CALLS],
        traces=traces or {},
    )


def _policy(script: str) -> str:
    """Nothing on the page may load anything, and no script but ours may run."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def _drawn(
    figures: Figures, title: str, series: Sequence[Series], wording: Callable[[float], str], **kind: bool
) -> dict[str, Any] | None:
    return chart(title, [column.label for column in figures.columns], series, wording, **kind) if series else None


def _cost(figures: Figures) -> Panel:
    """Cost per day or hour, stacked by model; the cheapest share a colour."""
    names = [
        name
        for cost, name in sorted(((t.cost_usd, n) for n, t in figures.stats.by_model.items()), reverse=True)
        if cost
    ]
    groups = {name: [name] for name in names[:_COLOURS]}
    if rest := names[_COLOURS:]:
        groups[f"{len(rest)} others"] = rest
    models = [column.stats.by_model for column in figures.columns]
    series = [
        Series(label, f"c{n}", [sum(each[name].cost_usd for name in members if name in each) for each in models])
        for n, (label, members) in enumerate(groups.items())
    ]
    legend = [(each.colour, each.name, usd(sum(filter(None, each.values)))) for each in series]
    return legend, _drawn(figures, f"Cost per {figures.unit} by model", series, usd)


def _latency(figures: Figures) -> Panel:
    fast = Series("p50", "p50", [each.stats.latency_p50_s for each in figures.columns])
    slow = Series("p95", "p95", [each.stats.latency_p95_s for each in figures.columns])
    if not any(slow.values):
        return [], None
    whole = figures.stats
    legend = [("p50", "p50", seconds(whole.latency_p50_s)), ("p95", "p95", seconds(whole.latency_p95_s))]
    title = f"Latency per {figures.unit}, p50 and p95"
    return legend, _drawn(figures, title, [fast, slow], seconds, is_stacked=False)


def _outcomes(figures: Figures) -> Panel:
    present = {outcome: _WORDS[outcome] for outcome in OUTCOMES if figures.outcomes[outcome]}
    series = [Series(name, o, [column.outcomes[o] for column in figures.columns]) for o, name in present.items()]
    legend = [(o, name, count(figures.outcomes[o])) for o, name in present.items()]
    return legend, _drawn(figures, f"Calls per {figures.unit} by how they ended", series, count, is_count=True)


def _savings(figures: Figures) -> Panel:
    stats, values = figures.stats, [column.stats.saved_usd for column in figures.columns]
    rate = share(figures.outcomes["cached"], stats.calls)
    answers = f"{counted(stats.cache_hits, 'answer')}, {rate} of the calls, saved"
    legend = [("cached", answers, usd(stats.saved_usd))] if stats.cache_hits else []
    series = [Series("saved", "cached", values)] if stats.saved_usd else []
    return legend, _drawn(figures, f"Saved by the cache per {figures.unit}", series, usd)


class Series(NamedTuple):
    """A row of values, one a column; `colour` is a CSS class. None: there is no value."""

    name: str
    colour: str
    values: Sequence[float | None]


def chart(
    title: str,
    labels: Sequence[str],
    series: Sequence[Series],
    wording: Callable[[float], str],
    *,
    is_stacked: bool = True,
    is_count: bool = False,
) -> dict[str, Any]:
    """Return what is drawn: stacked columns, or a line for each series. Of a count there are no halves."""
    stacks = list(zip(*(each.values for each in series), strict=True))
    heights = [[value or 0 for value in stack] for stack in stacks]
    top, ticks = scale(max((sum(each) if is_stacked else max(each) for each in heights), default=0))
    slot = 100 / max(1, len(labels))
    return {
        "title": title,
        "ticks": [(_percent(100 * (1 - each / top)), wording(each)) for each in ticks if not is_count or each % 1 == 0],
        "labels": _below(labels, slot),
        "lines": [] if is_stacked else [_line(each, slot, top) for each in series],
        "columns": [
            {
                "x": _percent(slot * n),
                "width": _percent(slot),
                "hint": _hint(label, series, stack, wording),
                "bars": _bars(series, heights[n], n, slot, top) if is_stacked else [],
            }
            for n, (label, stack) in enumerate(zip(labels, stacks, strict=True))
        ],
    }


def scale(most: float) -> tuple[float, list[float]]:
    """A round top at or above `most`, and three or four round ticks from 0 to it."""
    if most <= 0:
        return 1.0, []
    size = 10 ** math.floor(math.log10(most / 3))
    step = next(factor * size for factor in _STEPS if factor * size * 4 >= most)
    steps = math.ceil(most / step - 1e-9)
    return steps * step, [n * step for n in range(steps + 1)]


def _percent(value: float) -> str:
    return f"{value:.3f}%"


def _bars(series: Sequence[Series], heights: Sequence[float], n: int, slot: float, top: float) -> list[dict[str, str]]:
    """The parts of a stacked column, the first at the bottom."""
    place = {"x": _percent(slot * (n + _GAP / 2)), "width": _percent(slot * (1 - _GAP))}
    ends = list(accumulate(heights, initial=0.0))
    return [
        {"colour": each.colour, "y": _percent(100 * (1 - high / top)), "height": _percent(100 * (high - low) / top)}
        | place
        for each, low, high in zip(series, ends, ends[1:], strict=False)
        if high > low
    ]


def _hint(label: str, series: Sequence[Series], stack: Sequence[float | None], wording: Callable[[float], str]) -> str:
    """What a column shows when it is pointed at."""
    known = [f"{each.name}: {wording(value)}" for each, value in zip(series, stack, strict=True) if value]
    return "\n".join([label, *(known or ["nothing"])])


def _line(series: Series, slot: float, top: float) -> dict[str, Any]:
    """A stroke for each run of values, for a line breaks where there is none, and a dot for each value."""
    points = [(slot * (n + 0.5), 100 * (1 - (v or 0) / top), v is not None) for n, v in enumerate(series.values)]
    runs = [list(run) for known, run in groupby(points, key=lambda point: point[2]) if known]
    strokes = [" ".join(f"{x:.3f},{y:.3f}" for x, y, _ in run) for run in runs]
    dots = [(_percent(x), _percent(y)) for run in runs for x, y, _ in run]
    return {"colour": series.colour, "strokes": strokes, "dots": dots}


def _below(labels: Sequence[str], slot: float) -> list[tuple[str, str, str]]:
    """Every few columns their label, counted from the newest; one of several days has its first only.

    The last one ends with the plot, for there is no room beyond.
    """
    last, every = len(labels) - 1, -(-len(labels) // _LABELS)
    shown = [n for n in range(len(labels)) if (last - n) % every == 0]
    places = [("100%", "end") if n == last else (_percent(slot * (n + 0.5)), "middle") for n in shown]
    return [(*place, labels[n].partition(" –")[0]) for n, place in zip(shown, places, strict=True)]


def usd(value: float | None) -> str:
    """`$1,234.50`, `$0.0042`: two digits that count below a dollar; None is unknown."""
    if value is None:
        return "unknown"
    if value == 0:
        return "$0"
    digits = 2 if abs(value) >= 1 else min(9, 1 - math.floor(math.log10(abs(value))))
    return f"${value:,.{digits}f}"


def partly(value: float, unpriced: int) -> str:
    """A sum of which `unpriced` parts are unknown: `$1.00 + unknown`, `unknown`."""
    return f"{usd(value)} + unknown" if unpriced and value else usd(None if unpriced else value)


def count(value: float) -> str:
    """`1,234`, `12.3k`, `4.5M`."""
    for unit, size, least in (("M", 10**6, 10**6), ("k", 10**3, 10**4)):
        if value >= least:
            return f"{value / size:.1f}".removesuffix(".0") + unit
    return f"{value:,.0f}"


def counted(value: int, noun: str) -> str:
    """`1 answer`, `89 answers`."""
    return f"{count(value)} {noun}{'' if value == 1 else 's'}"


def seconds(value: float | None) -> str:
    """`840 ms`, `1.84 s`; None is a dash."""
    if value is None:
        return "–"
    return f"{value * 1000:.0f} ms" if 0 <= value < 1 else f"{value:.2f} s"


def percent(share: float) -> str:
    """`12 %`, `0.4 %`."""
    return f"{share * 100:.0f} %" if share >= 0.01 or share == 0 else f"{share * 100:.1f} %"  # noqa: PLR2004 - one percent


def share(part: float, whole: float) -> str:
    """What part of a whole something is; of nothing, nothing."""
    return percent(part / whole if whole else 0.0)


def spent(kind: str, used: float, limit: float) -> str:
    """What is used of a limit, in the unit of its kind."""
    return f"{usd(used)} of {usd(limit)}" if kind == "usd" else f"{count(used)} of {count(limit)} {kind}"


def moment(at: float) -> str:
    """`27 Nov 2026, 03:10:22`, UTC."""
    return f"{datetime.fromtimestamp(at, UTC):%-d %b %Y, %H:%M:%S}"


def words(kept: Mapping[str, Any]) -> list[str]:
    """What was kept of a call's trace: whom it passed over, and why its attempts failed."""
    skipped = [row for row in kept.get("route", {}).get("considered", ()) if row["verdict"] == "skipped"]
    said = [f"skipped {row['provider']} ({row['model']}): {row['reason']}" for row in skipped]
    return said + [f"#{each['n']} {_why(each)}" for each in kept.get("attempts", ()) if each.get("category")]


def _why(attempt: Mapping[str, Any]) -> str:
    address = attempt.get("address")  # where nobody answered, status and code are LiteLLM's own
    facts = {"at": address} if address else {"HTTP": attempt.get("status"), "code": attempt.get("code")}
    why = ", ".join([attempt["category"], *(f"{name} {value}" for name, value in facts.items() if value)])
    return f"{why}: {attempt['said']}" if attempt.get("said") else why
