"""`blueprint-llm run TASK`: let a model work with tools, and ask on the terminal before it acts."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from blueprint_llm.cli.options import (
    config_option,
    json_option,
    model_option,
    open_client,
    print_json,
    provider_option,
    say,
)

if TYPE_CHECKING:
    from blueprint_llm.tools import RunResult


@click.command("run")
@click.argument("task", required=False)
@model_option
@provider_option
@click.option("--resume", "state_id", help="Go on with a run that waits for approval.")
@json_option
@config_option
def command(task: str | None, *, state_id: str | None, as_json: bool, config: str | None, **target: Any) -> None:
    """Work on TASK with tools, within the rules of the configuration.

    Example: blueprint-llm run "fix the failing test"

    The exit code is 1 when a limit ended the run or it waits for approval.
    """
    from blueprint_llm.errors import ApprovalPending  # noqa: PLC0415 - --help does not need it

    if not task and not state_id:
        raise click.UsageError("give a task, or --resume ID")
    chosen = {name: value for name, value in target.items() if value}
    with open_client(config, approver=_approver()) as client:
        try:
            if state_id:
                result = client.resume(state_id, {})
            else:
                result = client.run(messages=[{"role": "user", "content": task}], **chosen)
        except ApprovalPending as pending:
            say(f"waiting for approval: blueprint-llm run --resume {pending.state_id}")
            raise SystemExit(1) from None
    _print(result, as_json=as_json)


def _approver() -> Any:
    from blueprint_llm.tools import DenyAll  # noqa: PLC0415 - --help does not need it
    from blueprint_llm.tools.terminal import TerminalApprover  # noqa: PLC0415 - as above

    if not sys.stdin.isatty():
        return DenyAll()
    return TerminalApprover(
        read=lambda prompt: input(click.style(prompt, bold=True)), write=say, colour=sys.stderr.isatty()
    )


def _print(result: RunResult, *, as_json: bool) -> None:
    if as_json:
        print_json(result.model_dump(mode="json"))
    else:
        click.echo(result.content)
        for found in result.tool_results:
            say(f"  {found.status:8} {found.name} (audit {found.audit_seq})")
    if result.stop != "done":
        say(f"stopped: {result.stop}")
        raise SystemExit(1)
