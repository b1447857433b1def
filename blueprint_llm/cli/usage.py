"""`blueprint-llm usage`: what was spent, on whom, and how it went."""

from __future__ import annotations

import re
import tempfile
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from blueprint_llm.cli.options import config_option, json_option, load, print_json, print_table, say, seconds, usd
from blueprint_llm.cli.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from blueprint_llm.config import Config
    from blueprint_llm.types import UsageFilter, UsageTotals
    from blueprint_llm.usage import UsageTracker
    from blueprint_llm.usage.stores.records import AttemptRow

_TREND_DAYS = 14
_MOST_ROWS = 200_000
_BLOCKS = "▁▂▃▄▅▆▇█"
_HEAD = ("CALLS", "ERRORS", "TOKENS IN", "OUT", "COST USD", "P50 S", "P95 S", "CACHED")


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


@click.group("usage", invoke_without_command=True)
@click.option("--by", type=click.Choice(["provider", "model", "session", "project", "day"]), default="provider")
@click.option("--since", callback=_since, metavar="WHEN", help="Only later than 7d ago, 2026-11-01, an ISO time.")
@click.option("--project", metavar="NAME", help="Only what this project used.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a page with charts to FILE.")
@json_option
@config_option
@click.pass_context
def command(  # noqa: PLR0913 - one for each option
    ctx: click.Context,
    *,
    by: str,
    since: datetime | None,
    project: str | None,
    html: Path | None,
    as_json: bool,
    config: str | None,
) -> None:
    """Show calls, tokens, cost and latency since the last reset; the sparkline is the cost of the last 14 days.

    Example: blueprint-llm usage --by model --since 7d --html usage.html
    """
    ctx.obj = config
    if ctx.invoked_subcommand is not None:
        return
    from blueprint_llm.types import UsageFilter  # noqa: PLC0415 - --help does not need it

    loaded, tracker = open_tracker(config)
    where = UsageFilter(since=since, project=project)
    with closing(tracker):
        if html is not None:
            _write_page(html, loaded, tracker, where)
        if as_json:
            _print_json(tracker, where)
        elif html is None:
            _print_table(tracker, by, where)


def open_tracker(path: str | None) -> tuple[Config, UsageTracker]:
    """Return the configuration in use and what was used under it. Raises ConfigError."""
    from blueprint_llm.usage import UsageTracker  # noqa: PLC0415 - --help does not need it
    from blueprint_llm.usage.stores import open_store  # noqa: PLC0415 - likewise

    config = load(path)
    return config, UsageTracker(open_store(config.store))


def _print_json(tracker: UsageTracker, where: UsageFilter) -> None:
    days = {day: totals.model_dump(mode="json") for day, totals in tracker.by_day(where).items()}
    print_json({**tracker.get_usage(where).model_dump(mode="json"), "by_day": days})


def _print_table(tracker: UsageTracker, by: Any, where: UsageFilter) -> None:
    stats, days = tracker.get_usage(where), tracker.by_day(where)
    groups: dict[str, UsageTotals] = days if by == "day" else getattr(stats, f"by_{by}")
    window = _last_days(_TREND_DAYS)
    recent = where.model_copy(update={"since": max(filter(None, (where.since, _midnight(window))))})
    trends = {} if by == "day" else tracker.daily(by, recent)
    rows = [_row(name, totals, sparkline(trends.get(name, {}), window)) for name, totals in sorted(groups.items())]
    print_table((by.upper(), *_HEAD, ""), [*rows, _row("total", stats, sparkline(days, window))])


def _last_days(count: int) -> list[str]:
    today = datetime.now(UTC)
    return [f"{today - timedelta(days=ago):%Y-%m-%d}" for ago in reversed(range(count))]


def _midnight(days: list[str]) -> datetime:
    return datetime.fromisoformat(days[0]).replace(tzinfo=UTC)


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


def _write_page(path: Path, config: Config, tracker: UsageTracker, where: UsageFilter) -> None:
    from blueprint_llm.report import Figures, render  # noqa: PLC0415 - see open_tracker
    from blueprint_llm.usage import Ledger  # noqa: PLC0415 - likewise

    with Progress("drawing"):
        rows = tracker.newest(where, limit=_MOST_ROWS)
        limits = Ledger(config.model_copy(update={"project": where.project or config.project})).lasting()
        levels = tracker.standing(limits)
        now = datetime.now(UTC).timestamp()
        figures = Figures.of(rows, until=now, since=where.since.timestamp() if where.since else None)
        note = f"Of more than {_MOST_ROWS:,} attempts, the newest." if len(rows) == _MOST_ROWS else ""
        _write_whole(path, render(figures, levels, project=where.project, note=note, traces=_kept_traces(rows)))
    say(f"wrote {path}")


def _kept_traces(rows: Sequence[AttemptRow]) -> dict[str, Mapping[str, Any]]:
    """Return what was kept of the calls that the page shows, by their ids."""
    from blueprint_llm.usage.traces import find_traces  # noqa: PLC0415 - see open_tracker

    shown = {row.call_id for row in rows}
    return {trace["id"]: trace for trace in find_traces("") if trace["id"] in shown}


def _write_whole(path: Path, text: str) -> None:
    """Replace the file in one step, so that nobody ever sees half a page."""
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".usage-") as folder:
            fresh = Path(folder, path.name)
            fresh.write_text(text, encoding="utf-8")
            fresh.replace(path)
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}") from None


@command.command("reset")
@click.option("--budgets", is_flag=True, help="Also empty every budget and quota.")
@json_option
@config_option
@click.pass_obj
def reset(outer: str | None, *, budgets: bool, as_json: bool, config: str | None) -> None:
    """Start counting afresh; budgets and quotas stay as they are unless --budgets is given.

    Example: blueprint-llm usage reset --budgets
    """
    _, tracker = open_tracker(config or outer)
    with closing(tracker):
        tracker.reset_usage()
        if budgets:
            tracker.reset_limits()
    if as_json:
        print_json({"usage": "reset", "budgets": "reset" if budgets else "unchanged"})
    else:
        click.echo(f"usage starts afresh; budgets and quotas are {'empty' if budgets else 'unchanged'}")
