"""The page: what the template shows of figures, limits and calls, in words."""

from __future__ import annotations

import base64
import hashlib
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, StrictUndefined

from blueprint_llm.report.charts import Series, chart
from blueprint_llm.report.figures import OUTCOMES, Figures
from blueprint_llm.report.wording import count, counted, moment, partly, percent, seconds, spent, usd
from blueprint_llm.usage import standing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from blueprint_llm.report.figures import Call
    from blueprint_llm.types import UsageTotals
    from blueprint_llm.usage.stores.records import AttemptRow, Level

_FOLDER = Path(__file__).parent
_COLOURS = 7  # models with a colour of their own; the others share one
_WARNING = 0.8
_CALLS = 200
_REACTIONS = {"block": "blocks beyond", "warn": "warns beyond", "degrade": "degrades beyond to "}
_WORDS = {
    "answered": "Answered",
    "cached": "From the cache",
    "fallback": "By a fallback",
    "left": "Left early",
    "failed": "Failed",
}
_MODEL = ("Model", "Cost", "Calls", "Errors", "Tokens in", "Tokens out", "p50", "p95")
_ATTEMPT = ("#", "Provider", "Model", "Result", "Took", "First token", "Tokens in", "out", "Cost")


def render(
    figures: Figures,
    levels: Sequence[Level] = (),
    *,
    project: str | None = None,
    note: str = "",
    traces: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """Return the whole document; what is no markup of the template's own is escaped.

    Args:
        figures: What was used.
        levels: How full the limits are.
        project: The one that `figures` are of; None: all.
        note: A remark on what the page leaves out.
        traces: What was kept of calls that did not go smoothly, by call id.
    """
    texts = {name: (_FOLDER / name).read_text(encoding="utf-8") for name in ("page.html", "style.css", "filter.js")}
    ends = (f"{datetime.fromtimestamp(at, UTC):%-d %B %Y}" for at in (figures.since, figures.until))
    ranked = sorted(figures.stats.by_model.items(), key=lambda item: (-item[1].cost_usd, -item[1].calls, item[0]))
    calls, rest = figures.calls[:_CALLS], len(figures.calls) > _CALLS
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(_unbroken(texts["page.html"]))
    return template.render(
        policy=_policy(texts["filter.js"]),
        style=texts["style.css"],
        script=texts["filter.js"],
        title=f"Usage of {project or 'all projects'}",
        span=" – ".join(dict.fromkeys(ends)),
        written=f"Times are UTC. Written {moment(figures.until)}. {note}",
        tiles=_tiles(figures),
        figures=[_cost(figures), _latency(figures), _outcomes(figures), _savings(figures)],
        budgets=[_budget(level) for level in levels],
        model_head=_MODEL,
        models=[_model(name, totals) for name, totals in ranked],
        endings=dict.fromkeys(call.outcome for call in calls),
        shown=f"{len(calls)} calls {f'of {count(len(figures.calls))}' if rest else ''}",
        attempt_head=_ATTEMPT,
        calls=[_call(call, (traces or {}).get(call.last.call_id, {})) for call in calls],
    )


def _policy(script: str) -> str:
    """Nothing on the page may load anything, and no script but ours may run."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def _unbroken(template: str) -> str:
    """Join the lines of the template, whose ends and indentation are there for its readers only."""
    return re.sub(r"\n\s*", "", template)


def _tiles(figures: Figures) -> list[tuple[str, str, str, str]]:
    """Name, value, remark and mood of the numbers on top."""
    stats, calls = figures.stats, figures.stats.calls
    tokens = f"{count(stats.prompt_tokens)} tokens in, {count(stats.completion_tokens)} out"
    unpriced = f"{counted(stats.unpriced, 'attempt')} of unknown cost" if stats.unpriced else "every attempt priced"
    failed, fallbacks = figures.outcomes["failed"], figures.outcomes["fallback"]
    return [
        ("Cost", partly(stats.cost_usd, stats.unpriced), unpriced, ""),
        ("Calls", count(calls), tokens, ""),
        ("Failed", count(failed), f"{percent(_share(failed, calls))} of the calls", "bad" if failed else ""),
        ("Fallbacks", count(fallbacks), f"{percent(_share(fallbacks, calls))} of the calls", ""),
        ("Latency p95", seconds(stats.latency_p95_s), f"p50 {seconds(stats.latency_p50_s)}", ""),
        ("Cache saved", usd(stats.saved_usd), counted(stats.cache_hits, "answer"), ""),
    ]


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _figure(name: str, title: str, nothing: str, legend: Any = (), drawn: Any = None, failures: Any = ()) -> Any:
    """A panel with a chart and what its colours mean (colour, name, value); without a legend it says `nothing`."""
    return {"name": name, "title": title, "nothing": nothing, "legend": legend, "chart": drawn, "failures": failures}


def _drawn(
    figures: Figures, title: str, series: Sequence[Series], wording: Callable[[float], str], **kind: bool
) -> dict[str, Any] | None:
    return chart(title, [column.label for column in figures.columns], series, wording, **kind) if series else None


def _cost(figures: Figures) -> Any:
    """Cost per day or hour, stacked by model; the cheapest share a colour."""
    title = f"Cost per {figures.unit}"
    costs = sorted(((t.cost_usd, name) for name, t in figures.stats.by_model.items() if t.cost_usd), reverse=True)
    names = [name for _, name in costs]
    shares: list[tuple[str, Sequence[str]]] = [(name, [name]) for name in names[:_COLOURS]]
    if names[_COLOURS:]:
        shares.append((f"{len(names) - _COLOURS} others", names[_COLOURS:]))
    series = [
        Series(label, f"c{n}", [_cost_of(column.stats.by_model, members) for column in figures.columns])
        for n, (label, members) in enumerate(shares)
    ]
    legend = [(each.colour, each.name, usd(sum(filter(None, each.values)))) for each in series]
    drawn = _drawn(figures, f"{title} by model", series, usd)
    return _figure("cost", title, "Nothing that was used had a price.", legend, drawn)


def _cost_of(models: Mapping[str, UsageTotals], names: Sequence[str]) -> float:
    return sum(models[name].cost_usd for name in names if name in models)


def _latency(figures: Figures) -> Any:
    nothing, stats, whole = "No answer came from a provider.", [each.stats for each in figures.columns], figures.stats
    fast = Series("p50", "p50", [each.latency_p50_s for each in stats])
    slow = Series("p95", "p95", [each.latency_p95_s for each in stats])
    if not any(slow.values):
        return _figure("latency", "Latency", nothing)
    legend = [("p50", "p50", seconds(whole.latency_p50_s)), ("p95", "p95", seconds(whole.latency_p95_s))]
    drawn = _drawn(figures, f"Latency per {figures.unit}, p50 and p95", [fast, slow], seconds, is_stacked=False)
    return _figure("latency", "Latency", nothing, legend, drawn)


def _outcomes(figures: Figures) -> Any:
    """How calls ended, per day, and what their attempts failed of."""
    present = [outcome for outcome in OUTCOMES if figures.outcomes[outcome]]
    series = [Series(_WORDS[o], o, [column.outcomes[o] for column in figures.columns]) for o in present]
    legend = [(o, _WORDS[o], count(figures.outcomes[o])) for o in present]
    failures = [(name, count(n)) for name, n in figures.categories.items()]
    drawn = _drawn(figures, f"Calls per {figures.unit} by how they ended", series, count, is_count=True)
    return _figure("outcomes", "How calls ended", "There was no call.", legend, drawn, failures)


def _savings(figures: Figures) -> Any:
    stats, legend, drawn = figures.stats, [], None
    if stats.cache_hits:
        rate = percent(_share(figures.outcomes["cached"], stats.calls))
        answers = f"{counted(stats.cache_hits, 'answer')}, {rate} of the calls, saved"
        legend = [("cached", answers, usd(stats.saved_usd))]
    if stats.saved_usd:
        saved = Series("saved", "cached", [column.stats.saved_usd for column in figures.columns])
        drawn = _drawn(figures, f"Saved by the cache per {figures.unit}", [saved], usd)
    return _figure("savings", "Cache savings", "No answer came from the cache.", legend, drawn)


def _budget(level: Level) -> dict[str, Any]:
    charge, now, share = level.charge, standing(level), level.share
    reaction = _REACTIONS[charge.on_exceed] + ", ".join(charge.chain)
    resets = f"resets {moment(level.resets_at)}" if level.resets_at else "never resets"
    return {
        "subject": charge.subject,
        "mood": "over" if share >= 1 else "near" if share >= _WARNING else "fine",
        "spent": spent(charge.kind, now["used"], now["limit"]),
        "width": f"{min(100, 100 * share):.2f}",
        "marks": [f"{100 * mark / charge.limit:.2f}" for mark in charge.warn_at if charge.limit],
        "facts": f"{percent(share)} used per {charge.window}, {reaction}, {resets}",
    }


def _model(name: str, t: UsageTotals) -> tuple[str, ...]:
    cost = partly(t.cost_usd, t.unpriced)
    numbers = (count(t.calls), count(t.errors), count(t.prompt_tokens), count(t.completion_tokens))
    return (name, cost, *numbers, seconds(t.latency_p50_s), seconds(t.latency_p95_s))


def _call(call: Call, kept: Mapping[str, Any]) -> dict[str, Any]:
    """A call with its trace: whom it passed over, its attempts, what they cost, and why they failed."""
    last = call.last
    accounts = {"trace": last.trace_id, "project": last.project, "session": last.session, "prices": last.price_version}
    skipped = [row for row in kept.get("route", {}).get("considered", ()) if row["verdict"] == "skipped"]
    said = [f"skipped {row['provider']} ({row['model']}): {row['reason']}" for row in skipped]
    said += [f"#{each['n']} {_why(each)}" for each in kept.get("attempts", ()) if each.get("category")]
    return {
        "outcome": call.outcome,
        "at": moment(call.attempts[0].at),
        "result": last.category if call.outcome == "failed" else {"left": "left early"}.get(call.outcome, call.outcome),
        "who": f"{last.provider} · {last.model}",
        "retries": f"{len(call.attempts)} attempts" if len(call.attempts) > 1 else "",
        "took": seconds(call.latency_s),
        "cost": usd(call.cost_usd),
        "attempts": [_attempt(row) for row in call.attempts],
        "words": said,
        "facts": [(name, value) for name, value in accounts.items() if value],
    }


def _attempt(row: AttemptRow) -> tuple[str, ...]:
    tokens = (count(row.prompt_tokens), count(row.completion_tokens))
    times = (seconds(row.latency_s), seconds(row.ttft_s))
    result = f"cache hit, saved {usd(row.saved_nano / 1e9)}" if row.cache_hit else row.category or "answered"
    cost = usd(None if row.cost_nano is None else row.cost_nano / 1e9)
    doubts = ["estimated"] * (row.usage_source == "estimated") + ["maybe billed"] * row.maybe_billed
    doubted = f"{cost} ({', '.join(doubts)})" if doubts else cost
    return (str(row.attempt), row.provider, row.model, result, *times, *tokens, doubted)


def _why(attempt: Mapping[str, Any]) -> str:
    address = attempt.get("address")  # where nobody answered, status and code are LiteLLM's own
    facts = {"at": address} if address else {"HTTP": attempt.get("status"), "code": attempt.get("code")}
    why = ", ".join([attempt["category"], *(f"{name} {value}" for name, value in facts.items() if value)])
    return f"{why}: {attempt['said']}" if attempt.get("said") else why
