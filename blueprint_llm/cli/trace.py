"""`blueprint-llm trace`: what happened to one call."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from blueprint_llm.cli.options import SHORT_ID, config_option, json_option, print_json, print_table, say, usd, why
from blueprint_llm.cli.usage import open_tracker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blueprint_llm.usage.stores.records import AttemptRow

_MOST_ROWS = 200_000
_LEAST_CHARS = 6
_HEAD = ("#", "PROVIDER", "MODEL", "RESULT", "TOOK S", "IN", "OUT", "COST USD")


@click.command("trace", short_help="Say what happened to one call.")
@click.argument("call", required=False)
@json_option
@config_option
def command(call: str | None, *, as_json: bool, config: str | None) -> None:
    """Show the route, the attempts, why they failed and the cost of CALL: a trace id or how it begins.

    Without CALL, the newest. The route is kept of calls that failed or fell back; of the others the attempts are
    known. No message text is kept; of what providers said, what repeats it is left out.

    Example: blueprint-llm trace 3f9c2d81a6b0
    """
    if call is not None and len(call) < _LEAST_CHARS:
        raise click.UsageError(f"give at least {_LEAST_CHARS} characters of the id")
    found = _found(call, config)
    print_json(found) if as_json else _print(found)


def _found(call: str | None, config: str | None) -> dict[str, Any]:
    from blueprint_llm.usage.traces import find_traces  # noqa: PLC0415 - --help does not need it

    _, tracker = open_tracker(config)
    with closing(tracker):
        rows = tracker.newest(limit=_MOST_ROWS)
    traces = find_traces(call or "")
    ids = list(dict.fromkeys(row.call_id for row in rows if row.call_id.startswith(call or "")))
    named = list(dict.fromkeys([*ids, *(trace["id"] for trace in traces)]))
    if call is None:
        named = named[:1]
    if not named:
        raise click.ClickException(f"no call {call!r} in the ledger" if call else "there was no call")
    if len(named) > 1:
        raise click.ClickException(f"{call!r} is the beginning of {len(named)} calls: {', '.join(named[:3])}")
    (name,) = named
    attempts = sorted((row for row in rows if row.call_id == name), key=lambda row: row.attempt)
    kept = next((trace for trace in traces if trace["id"] == name), {})
    return _story(name, attempts, kept)


def _story(name: str, rows: Sequence[AttemptRow], kept: dict[str, Any]) -> dict[str, Any]:
    """Join what the ledger knows of a call with what was kept of its trace."""
    words = {attempt["n"]: attempt for attempt in kept.get("attempts", ())}
    costs = [row.cost_nano for row in rows]
    return {
        "id": name,
        "at": datetime.fromtimestamp(rows[0].at, UTC).isoformat(timespec="seconds") if rows else None,
        "project": rows[0].project if rows else None,
        "session": rows[0].session if rows else None,
        "failure": kept.get("failure"),
        "served_by": kept.get("served_by") or _served_by(rows),
        "route": kept.get("route") or None,
        "attempts": [_attempt(row, words.get(row.attempt, {})) for row in rows],
        "budget_warnings": kept.get("budget_warnings", []),
        "cost_usd": None if None in costs else sum(filter(None, costs)) / 1e9,
    }


def _served_by(rows: Sequence[AttemptRow]) -> str | None:
    return next((f"{row.provider}/{row.model}" for row in reversed(rows) if row.category is None), None)


def _attempt(row: AttemptRow, kept: dict[str, Any]) -> dict[str, Any]:
    fields = ("provider", "model", "category", "prompt_tokens", "completion_tokens", "latency_s", "ttft_s")
    doubts = ("usage_source", "maybe_billed", "cache_hit")
    return {
        "n": row.attempt,
        **{name: getattr(row, name) for name in (*fields, *doubts)},
        "cost_usd": None if row.cost_nano is None else row.cost_nano / 1e9,
        **{name: kept.get(name) for name in ("status", "code", "address", "said", "waited_s")},
    }


def _print(story: dict[str, Any]) -> None:
    who = story["served_by"]
    ended = f"served by {who}" if who else "failed"
    click.echo(f"call {story['id'][:SHORT_ID]}, {story['at'] or 'never sent'}: {ended}")
    if route := story["route"]:
        chain = f", chain {route['chain']}" if route.get("chain") else ""
        click.echo(f"rule {route.get('rule')}{chain}\n")
        rows = [(row["verdict"], row["provider"], row["model"], row["reason"]) for row in route.get("considered", ())]
        print_table(("VERDICT", "PROVIDER", "MODEL", "REASON"), rows)
    if story["attempts"]:
        click.echo()
        print_table(_HEAD, map(_row, story["attempts"]))
    for attempt in story["attempts"]:
        if attempt["category"]:
            click.echo(f"#{attempt['n']} {why(attempt)}")
            if attempt["said"]:
                click.echo(f"   {attempt['said']}")
    say(f"cost in USD: {usd(story['cost_usd'])}")


def _row(attempt: dict[str, Any]) -> tuple[object, ...]:
    result = "cached" if attempt["cache_hit"] else attempt["category"] or "answered"
    took = "-" if attempt["latency_s"] is None else f"{attempt['latency_s']:.2f}"
    tokens = (attempt["prompt_tokens"], attempt["completion_tokens"])
    cost = usd(attempt["cost_usd"]) + (" ?" if attempt["maybe_billed"] else "")
    return (attempt["n"], attempt["provider"], attempt["model"], result, took, *tokens, cost)
