"""`blueprint-llm explain`: whom a request would go to, and why; nothing is sent."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from blueprint_llm.cli.options import (
    config_option,
    json_option,
    model_option,
    open_client,
    print_json,
    print_table,
    provider_option,
    say,
    text_of,
)

if TYPE_CHECKING:
    from blueprint_llm.types import RouteDecision


@click.command("explain")
@click.argument("message", nargs=-1)
@model_option
@provider_option
@click.option("-t", "--task-type", help="What `routes` rules match on.")
@json_option
@config_option
def command(message: tuple[str, ...], *, as_json: bool, config: str | None, **asked: Any) -> None:
    """Show which targets a request would try, in order, and why; sends nothing. Text may be piped in.

    Example: blueprint-llm explain --task-type lint "check this"
    """
    request = {name: value for name, value in asked.items() if value is not None}
    with open_client(config) as client:
        decision = client.explain(messages=[{"role": "user", "content": text_of(message) or "hello"}], **request)
    impossible = decision.estimate.get("error")
    if impossible and not as_json:
        raise click.ClickException(str(impossible))
    if as_json:
        wrong = {"error": {"type": "InvalidRequestError", "message": impossible}} if impossible else {}
        print_json({**decision.model_dump(mode="json"), **wrong})
        raise SystemExit(1 if impossible else 0)
    print_decision(decision)


def print_decision(decision: RouteDecision, *, err: bool = False) -> None:
    """The targets as a table, and a remark on rule, size and cost."""
    rows = [(row.verdict, row.provider, row.model, row.reason) for row in decision.considered]
    print_table(("VERDICT", "PROVIDER", "MODEL", "REASON"), rows, err=err)
    if decision.budgets:
        click.echo(err=err)
        print_table(("LIMIT", "USED", "OF", "UNIT", "RESETS"), map(_limit, decision.budgets), err=err)
    worst = decision.estimate.get("worst_cost_usd")
    cost = "unknown" if worst is None else f"at most ${worst:.6f}"
    say(f"rule: {decision.rule}; about {decision.estimate.get('input_tokens')} input tokens; cost {cost}")


def _limit(level: dict[str, Any]) -> tuple[str, ...]:
    """Return a limit that counts the request: how full it is, and when it is empty again."""
    amounts = [f"{level[name]:.6f}" if level["kind"] == "usd" else f"{level[name]:.0f}" for name in ("used", "limit")]
    resets = level.get("resets_at")
    when = f"{datetime.fromtimestamp(resets, UTC):%Y-%m-%d %H:%M:%S} UTC" if resets else "never"
    return (f"{level['scope']} per {level['window']}", *amounts, level["kind"], when)
