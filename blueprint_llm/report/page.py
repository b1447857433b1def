"""The page: panels of figures, charts, limits and calls."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blueprint_llm.report.calls import calls_panel
from blueprint_llm.report.charts import Series, bars, legend, lines
from blueprint_llm.report.figures import OUTCOMES, Figures
from blueprint_llm.report.markup import Html, join, tag
from blueprint_llm.report.wording import count, counted, moment, partly, percent, seconds, spent, usd
from blueprint_llm.usage import standing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from blueprint_llm.types import UsageTotals
    from blueprint_llm.usage.stores.records import Level

_STYLE = Path(__file__).with_name("style.css")
_SCRIPT = Path(__file__).with_name("filter.js").read_text(encoding="utf-8")
_HASH = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
# Nothing on the page may load anything, and no script but ours may run.
_POLICY = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{_HASH}'"
_COLOURS = 7  # models with a colour of their own; the others share one
_WARNING = 0.8
_REACTIONS = {"block": "blocks beyond", "warn": "warns beyond", "degrade": "degrades beyond to "}
_WORDS = {
    "answered": "Answered",
    "cached": "From the cache",
    "fallback": "By a fallback",
    "left": "Left early",
    "failed": "Failed",
}


def render(
    figures: Figures,
    levels: Sequence[Level] = (),
    *,
    project: str | None = None,
    note: str = "",
    traces: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """Return the whole document.

    Args:
        figures: What was used.
        levels: How full the limits are.
        project: The one that `figures` are of; None: all.
        note: A remark on what the page leaves out.
        traces: What was kept of calls that did not go smoothly, by call id.
    """
    title = f"Usage of {project or 'all projects'}"
    head = join(
        Html('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
        Html('<meta name="color-scheme" content="light dark">'),
        tag("title", title),
        Html(f"<style>{_STYLE.read_text(encoding='utf-8')}</style>"),
    )
    body = tag("main", _header(title, figures, note), _tiles(figures), _panels(figures, levels, traces or {}))
    script = Html(f"<script>{_SCRIPT}</script>")
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>{body}{script}</body></html>\n'


def _panels(figures: Figures, levels: Sequence[Level], traces: Mapping[str, Mapping[str, Any]]) -> Html:
    return join(
        _cost(figures),
        tag("div", _latency(figures), _outcomes(figures), class_="pair"),
        tag("div", _budgets(levels), _savings(figures), class_="pair"),
        _models(figures),
        calls_panel(figures.calls, traces),
    )


def _header(title: str, figures: Figures, note: str) -> Html:
    ends = (f"{datetime.fromtimestamp(at, UTC):%-d %B %Y}" for at in (figures.since, figures.until))
    span = " – ".join(dict.fromkeys(ends))
    written = f"Times are UTC. Written {moment(figures.until)}."
    return tag("header", tag("h1", title), tag("p", span, class_="span"), tag("p", f"{written} {note}", class_="dim"))


def _tiles(figures: Figures) -> Html:
    stats, calls = figures.stats, figures.stats.calls
    tokens = f"{count(stats.prompt_tokens)} tokens in, {count(stats.completion_tokens)} out"
    unpriced = f"{counted(stats.unpriced, 'attempt')} of unknown cost" if stats.unpriced else "every attempt priced"
    failed, fallbacks = figures.outcomes["failed"], figures.outcomes["fallback"]
    return tag(
        "section",
        _tile("Cost", partly(stats.cost_usd, stats.unpriced), unpriced),
        _tile("Calls", count(calls), tokens),
        _tile("Failed", count(failed), f"{percent(_share(failed, calls))} of the calls", "bad" if failed else None),
        _tile("Fallbacks", count(fallbacks), f"{percent(_share(fallbacks, calls))} of the calls"),
        _tile("Latency p95", seconds(stats.latency_p95_s), f"p50 {seconds(stats.latency_p50_s)}"),
        _tile("Cache saved", usd(stats.saved_usd), counted(stats.cache_hits, "answer")),
        class_="tiles",
    )


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _tile(name: str, value: str, remark: str, mood: str | None = None) -> Html:
    return tag("div", tag("h2", name), tag("strong", value, class_=mood), tag("p", remark, class_="dim"))


def _panel(title: str, *children: object, name: str) -> Html:
    return tag("section", tag("h2", title), *children, class_="panel", id=name)


def _nothing(text: str) -> Html:
    return tag("p", text, class_="nothing")


def _labels(figures: Figures) -> list[str]:
    return [column.label for column in figures.columns]


def _cost(figures: Figures) -> Html:
    """Cost per day or hour, stacked by model; the cheapest share a colour."""
    title = f"Cost per {figures.unit}"
    costs = sorted(((t.cost_usd, name) for name, t in figures.stats.by_model.items() if t.cost_usd), reverse=True)
    names = [name for _, name in costs]
    shares: list[tuple[str, tuple[str, ...]]] = [(name, (name,)) for name in names[:_COLOURS]]
    if names[_COLOURS:]:
        shares.append((f"{len(names) - _COLOURS} others", tuple(names[_COLOURS:])))
    series = [
        Series(label, f"c{n}", [_cost_of(column.stats.by_model, members) for column in figures.columns])
        for n, (label, members) in enumerate(shares)
    ]
    if not series:
        return _panel(title, _nothing("Nothing that was used had a price."), name="cost")
    entries = [(s.colour, s.name, usd(sum(filter(None, s.values)))) for s in series]
    chart = bars(_labels(figures), series, usd, f"{title} by model")
    return _panel(title, chart, legend(entries), name="cost")


def _cost_of(models: dict[str, UsageTotals], names: Sequence[str]) -> float:
    return sum(models[name].cost_usd for name in names if name in models)


def _latency(figures: Figures) -> Html:
    stats = [column.stats for column in figures.columns]
    fast = Series("p50", "p50", [each.latency_p50_s for each in stats])
    slow = Series("p95", "p95", [each.latency_p95_s for each in stats])
    if not any(slow.values):
        return _panel("Latency", _nothing("No answer came from a provider."), name="latency")
    whole = figures.stats
    entries = [("p50", "p50", seconds(whole.latency_p50_s)), ("p95", "p95", seconds(whole.latency_p95_s))]
    chart = lines(_labels(figures), [fast, slow], seconds, f"Latency per {figures.unit}, p50 and p95")
    return _panel("Latency", chart, legend(entries), name="latency")


def _outcomes(figures: Figures) -> Html:
    """How calls ended, per day, and what their attempts failed of."""
    present = [outcome for outcome in OUTCOMES if figures.outcomes[outcome]]
    if not present:
        return _panel("How calls ended", _nothing("There was no call."), name="outcomes")
    series = [Series(_WORDS[o], o, [column.outcomes[o] for column in figures.columns]) for o in present]
    entries = [(o, _WORDS[o], count(figures.outcomes[o])) for o in present]
    reasons = [tag("li", tag("code", name), " ", count(n)) for name, n in figures.categories.items()]
    failures = tag("ul", tag("li", "Attempts failed of:"), *reasons, class_="reasons") if reasons else None
    chart = bars(_labels(figures), series, count, f"Calls per {figures.unit} by how they ended", is_count=True)
    return _panel("How calls ended", chart, legend(entries), failures, name="outcomes")


def _savings(figures: Figures) -> Html:
    saved = Series("saved", "cached", [column.stats.saved_usd for column in figures.columns])
    stats = figures.stats
    if not stats.cache_hits:
        return _panel("Cache savings", _nothing("No answer came from the cache."), name="savings")
    rate = percent(_share(figures.outcomes["cached"], stats.calls))
    entries = [("cached", f"{counted(stats.cache_hits, 'answer')}, {rate} of the calls, saved", usd(stats.saved_usd))]
    chart = bars(_labels(figures), [saved], usd, f"Saved by the cache per {figures.unit}") if stats.saved_usd else None
    return _panel("Cache savings", chart, legend(entries), name="savings")


def _budgets(levels: Sequence[Level]) -> Html:
    content = [_budget(level) for level in levels] or [_nothing("No budget or quota is configured.")]
    return _panel("Budgets and quotas", *content, name="budgets")


def _budget(level: Level) -> Html:
    charge, now = level.charge, standing(level)
    share = level.share
    mood = "over" if share >= 1 else "near" if share >= _WARNING else "fine"
    marks = [tag("b", style=f"left:{100 * mark / charge.limit:.2f}%") for mark in charge.warn_at if charge.limit]
    reaction = _REACTIONS[charge.on_exceed] + ", ".join(charge.chain)
    resets = f"resets {moment(level.resets_at)}" if level.resets_at else "never resets"
    facts = f"{percent(share)} used per {charge.window}, {reaction}, {resets}"
    return tag(
        "div",
        tag("p", tag("span", charge.subject), tag("strong", spent(charge.kind, now["used"], now["limit"]))),
        tag("div", tag("i", style=f"width:{min(100, 100 * share):.2f}%"), *marks, class_="meter"),
        tag("p", facts, class_="dim"),
        class_=f"budget {mood}",
    )


def _models(figures: Figures) -> Html:
    ranked = sorted(figures.stats.by_model.items(), key=lambda item: (-item[1].cost_usd, -item[1].calls, item[0]))
    head = ("Model", "Cost", "Calls", "Errors", "Tokens in", "Tokens out", "p50", "p95")
    rows = [tag("tr", *(tag("td", cell) for cell in _model_row(name, t))) for name, t in ranked]
    if not rows:
        return _panel("Models", _nothing("No model was asked."), name="models")
    table = tag("table", tag("thead", tag("tr", *(tag("th", cell) for cell in head))), tag("tbody", *rows))
    return _panel("Models", tag("div", table, class_="wide"), name="models")


def _model_row(name: str, t: UsageTotals) -> tuple[str, ...]:
    cost = partly(t.cost_usd, t.unpriced)
    numbers = (count(t.calls), count(t.errors), count(t.prompt_tokens), count(t.completion_tokens))
    return (name, cost, *numbers, seconds(t.latency_p50_s), seconds(t.latency_p95_s))
