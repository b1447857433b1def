"""`blueprint-llm usage`: what was spent, on whom, and how it went."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blueprint_llm.cli.options import config_option, json_option, open_client, print_json, print_table

if TYPE_CHECKING:
    from blueprint_llm.types import UsageTotals


@click.group("usage", invoke_without_command=True)
@click.option("--by", type=click.Choice(["provider", "model", "session", "project"]), default="provider")
@json_option
@config_option
@click.pass_context
def command(ctx: click.Context, *, by: str, as_json: bool, config: str | None) -> None:
    """Show calls, tokens and cost since the last reset.

    Example: blueprint-llm usage --by model
    """
    ctx.obj = config
    if ctx.invoked_subcommand is not None:
        return
    with open_client(config) as client:
        stats = client.get_usage()
    if as_json:
        print_json(stats.model_dump(mode="json"))
        return
    groups: dict[str, UsageTotals] = getattr(stats, f"by_{by}")
    rows = [_row(name, totals) for name, totals in sorted(groups.items())]
    print_table((by.upper(), "CALLS", "ERRORS", "TOKENS IN", "OUT", "COST USD", "P50 S"), [*rows, _row("total", stats)])


def _row(name: str, totals: UsageTotals) -> tuple[object, ...]:
    p50 = "-" if totals.latency_p50_s is None else f"{totals.latency_p50_s:.2f}"
    tokens = (totals.prompt_tokens, totals.completion_tokens)
    return (name, totals.calls, totals.errors, *tokens, f"{totals.cost_usd:.6f}", p50)


@command.command("reset")
@click.pass_obj
def reset(config: str | None) -> None:
    """Start counting afresh; budgets and quotas stay as they are."""
    with open_client(config) as client:
        client.reset_usage()
    click.echo("usage starts afresh; budgets and quotas are unchanged")
