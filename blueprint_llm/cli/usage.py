"""`blueprint-llm usage` and `trace`: what was spent, on whom, and how it went; what happened to one call."""

from __future__ import annotations

import re
import tempfile
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import blueprint_llm  # its names load on first use
from blueprint_llm.cli.options import FILE, common_options, load, seconds
from blueprint_llm.cli.output import SHORT_ID, Progress, answer, print_json, print_table, say, usd, wants_json, why

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from blueprint_llm import UsageFilter
    from blueprint_llm.types import UsageTotals
    from blueprint_llm.usage.stores.records import AttemptRow

_TREND_DAYS = 14
_MOST_ROWS = 200_000
_LEAST_CHARS = 6  # of a call's id
_BLOCKS = "▁▂▃▄▅▆▇█"
_USAGE = ("CALLS", "ERRORS", "TOKENS IN", "OUT", "COST USD", "P50 S", "P95 S", "CACHED")
_ROUTE = ("VERDICT", "PROVIDER", "MODEL", "REASON")
_ATTEMPTS = ("#", "PROVIDER", "MODEL", "RESULT", "TOOK S", "IN", "OUT", "COST USD")


def _since(ctx: click.Context, option: click.Parameter, value: str | None) -> datetime | None:
    """A moment: so long ago, or a day or time in ISO's form, UTC unless it says otherwise."""
    if value is None:
        return None
    if re.fullmatch(r"\d+[smhd]", value):
        return datetime.now(UTC) - timedelta(seconds=seconds(ctx, option, value))
    try:
        given = datetime.fromisoformat(value)
    except ValueError:
        raise click.BadParameter("write 7d, 12h, 2026-11-01 or 2026-11-01T09:00") from None
    return given if given.tzinfo else given.replace(tzinfo=UTC)


def _tracker(config: blueprint_llm.Config) -> blueprint_llm.UsageTracker:
    from blueprint_llm.usage.stores import open_store

    return blueprint_llm.UsageTracker(open_store(config.store))


@click.group("usage", invoke_without_command=True)
@click.option("--by", type=click.Choice(["provider", "model", "session", "project", "day"]), default="provider")
@click.option("--since", callback=_since, metavar="WHEN", help="Only later than 7d ago, 2026-11-01, an ISO time.")
@click.option("--project", metavar="NAME", help="Only what this project used.")
@click.option("--html", type=FILE, help="Write a page with charts to FILE.")
@common_options
@click.pass_context
def usage(ctx: click.Context, /, *, by: str, html: Path | None, **where: Any) -> None:
    """Show calls, tokens, cost and latency since the last reset; the sparkline is the cost of the last 14 days.

    ERRORS are attempts that failed: a call that was tried three times may have three.

    Example: blueprint-llm usage --by model --since 7d --html usage.html
    """
    if ctx.invoked_subcommand is not None:
        return
    loaded, only = load(), blueprint_llm.UsageFilter(**where)
    with closing(_tracker(loaded)) as tracker:
        if html is not None:
            _write_page(html, loaded, tracker, only)
        if wants_json():
            days = {day: totals.model_dump(mode="json") for day, totals in tracker.by_day(only).items()}
            print_json({**tracker.get_usage(only).model_dump(mode="json"), "by_day": days})
        elif html is None:
            _print_table(tracker, by, only)


def _print_table(tracker: blueprint_llm.UsageTracker, by: Any, where: UsageFilter) -> None:
    stats, days = tracker.get_usage(where), tracker.by_day(where)
    groups: dict[str, UsageTotals] = days if by == "day" else getattr(stats, f"by_{by}")
    today = datetime.now(UTC)
    window = [f"{today - timedelta(days=ago):%Y-%m-%d}" for ago in reversed(range(_TREND_DAYS))]
    midnight = datetime.fromisoformat(window[0]).replace(tzinfo=UTC)
    recent = where.model_copy(update={"since": max(filter(None, (where.since, midnight)))})
    trends = {} if by == "day" else tracker.daily(by, recent)
    rows = [_row(name, totals, sparkline(trends.get(name, {}), window)) for name, totals in sorted(groups.items())]
    print_table((by.upper(), *_USAGE, ""), [*rows, _row("total", stats, sparkline(days, window))])


def sparkline(days: Mapping[str, UsageTotals], window: list[str]) -> str:
    """The cost of each day in `window` as a block; of calls that cost nothing, their number. Empty: no call."""
    known = [days.get(day) for day in window]
    values = [each.cost_usd if each else 0.0 for each in known]
    if not any(values):
        values = [each.calls if each else 0 for each in known]
    most = max(values)
    return "".join(_BLOCKS[round(value / most * (len(_BLOCKS) - 1))] for value in values) if most else ""


def _row(name: str, totals: UsageTotals, trend: str) -> tuple[object, ...]:
    waits = ["-" if wait is None else f"{wait:.2f}" for wait in (totals.latency_p50_s, totals.latency_p95_s)]
    tokens = (totals.prompt_tokens, totals.completion_tokens)
    cost = usd(totals.cost_usd, totals.unpriced)
    return (name, totals.calls, totals.errors, *tokens, cost, *waits, totals.cache_hits, trend)


def _write_page(
    path: Path, config: blueprint_llm.Config, tracker: blueprint_llm.UsageTracker, where: UsageFilter
) -> None:
    """Write the page in one step, so that nobody ever sees half of it."""
    from blueprint_llm.report import Figures, render
    from blueprint_llm.usage import Ledger
    from blueprint_llm.usage.traces import find_traces

    with Progress("drawing"):
        rows = tracker.newest(where, limit=_MOST_ROWS)
        limits = Ledger(config.model_copy(update={"project": where.project or config.project})).lasting()
        levels = tracker.standing(limits)
        since = where.since.timestamp() if where.since else None
        figures = Figures.of(rows, until=datetime.now(UTC).timestamp(), since=since)
        note = f"Of more than {_MOST_ROWS:,} attempts, the newest." if len(rows) == _MOST_ROWS else ""
        shown = {row.call_id for row in rows}
        traces = {trace["id"]: trace for trace in find_traces("") if trace["id"] in shown}
        text = render(figures, levels, project=where.project, note=note, traces=traces)
        try:
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=".usage-") as folder:
                fresh = Path(folder, path.name)
                fresh.write_text(text, encoding="utf-8")
                fresh.replace(path)
        except OSError as error:
            raise click.ClickException(f"{path}: {error.strerror}") from None
    say(f"wrote {path}")


@usage.command("reset")
@click.option("--budgets", is_flag=True, help="Also empty every budget and quota.")
@common_options
def _reset(*, budgets: bool) -> None:
    """Start counting afresh; budgets and quotas stay as they are unless --budgets is given.

    Example: blueprint-llm usage reset --budgets
    """
    with closing(_tracker(load())) as tracker:
        tracker.reset_usage()
        if budgets:
            tracker.reset_limits()
    text = f"usage starts afresh; budgets and quotas are {'empty' if budgets else 'unchanged'}"
    answer({"usage": "reset", "budgets": "reset" if budgets else "unchanged"}, text)


@click.command("trace", short_help="Say what happened to one call.")
@click.argument("call", required=False)
@common_options
def trace(call: str | None) -> None:
    """Show the route, the attempts, why they failed and the cost of CALL: a trace id or how it begins.

    Without CALL, the newest. The route is kept of calls that failed or fell back; of the others the attempts are
    known. No message text is kept; of what providers said, what repeats it is left out.

    Example: blueprint-llm trace 3f9c2d81a6b0
    """
    from blueprint_llm.usage.traces import find_traces

    if call is not None and len(call) < _LEAST_CHARS:
        raise click.UsageError(f"give at least {_LEAST_CHARS} characters of the id")
    with closing(_tracker(load())) as tracker:
        rows = tracker.newest(limit=_MOST_ROWS)
    traces = {each["id"]: each for each in reversed(find_traces(call or ""))}  # the newest of an id stays
    ids = [row.call_id for row in rows if row.call_id.startswith(call or "")]
    named = list(dict.fromkeys([*ids, *reversed(traces)]))
    if not named:
        raise click.ClickException(f"no call {call!r} in the ledger" if call else "there was no call")
    if call and len(named) > 1:
        raise click.ClickException(f"{call!r} is the beginning of {len(named)} calls: {', '.join(named[:3])}")
    attempts = sorted((row for row in rows if row.call_id == named[0]), key=lambda row: row.attempt)
    story = _story(named[0], attempts, traces.get(named[0], {}))
    answer(story, lambda: _print_story(story))


def _story(name: str, rows: Sequence[AttemptRow], kept: dict[str, Any]) -> dict[str, Any]:
    """Join what the ledger knows of a call with what was kept of its trace."""
    words = {attempt["n"]: attempt for attempt in kept.get("attempts", ())}
    costs = [row.cost_nano for row in rows]
    answered = (f"{row.provider}/{row.model}" for row in reversed(rows) if row.category is None)
    return {
        "id": name,
        "at": datetime.fromtimestamp(rows[0].at, UTC).isoformat(timespec="seconds") if rows else None,
        "project": rows[0].project if rows else None,
        "session": rows[0].session if rows else None,
        "failure": kept.get("failure"),
        "served_by": kept.get("served_by") or next(answered, None),
        "route": kept.get("route") or None,
        "attempts": [_attempt(row, words.get(row.attempt, {})) for row in rows],
        "budget_warnings": kept.get("budget_warnings", []),
        "cost_usd": None if None in costs else sum(filter(None, costs)) / 1e9,
    }


def _attempt(row: AttemptRow, kept: dict[str, Any]) -> dict[str, Any]:
    fields = ("provider", "model", "category", "prompt_tokens", "completion_tokens", "latency_s", "ttft_s")
    doubts = ("usage_source", "maybe_billed", "cache_hit")
    return {
        "n": row.attempt,
        **{name: getattr(row, name) for name in (*fields, *doubts)},
        "cost_usd": None if row.cost_nano is None else row.cost_nano / 1e9,
        **{name: kept.get(name) for name in ("status", "code", "address", "said", "waited_s")},
    }


def _print_story(story: dict[str, Any]) -> None:
    ended = f"served by {story['served_by']}" if story["served_by"] else "failed"
    click.echo(f"call {story['id'][:SHORT_ID]}, {story['at'] or 'never sent'}: {ended}")
    if route := story["route"]:
        chain = f", chain {route['chain']}" if route.get("chain") else ""
        click.echo(f"rule {route.get('rule')}{chain}\n")
        print_table(_ROUTE, [[row[name.lower()] for name in _ROUTE] for row in route.get("considered", ())])
    if story["attempts"]:
        click.echo()
        print_table(_ATTEMPTS, map(_attempt_row, story["attempts"]))
    for attempt in story["attempts"]:
        if attempt["category"]:
            click.echo(f"#{attempt['n']} {why(attempt)}")
            if attempt["said"]:
                click.echo(f"   {attempt['said']}")
    say(f"cost in USD: {usd(story['cost_usd'])}")


def _attempt_row(attempt: dict[str, Any]) -> tuple[object, ...]:
    result = "cached" if attempt["cache_hit"] else attempt["category"] or "answered"
    took = "-" if attempt["latency_s"] is None else f"{attempt['latency_s']:.2f}"
    tokens = (attempt["prompt_tokens"], attempt["completion_tokens"])
    cost = usd(attempt["cost_usd"]) + (" ?" if attempt["maybe_billed"] else "")
    return (attempt["n"], attempt["provider"], attempt["model"], result, took, *tokens, cost)
