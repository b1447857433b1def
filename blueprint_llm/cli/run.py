"""`blueprint-llm run TASK`: let a model work with tools, and ask on the terminal before it acts."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from blueprint_llm.cli.options import (
    Fallbacks,
    config_option,
    json_option,
    model_option,
    open_client,
    print_json,
    provider_option,
    say,
    text_of,
)

if TYPE_CHECKING:
    from blueprint_llm.tools import RunResult
    from blueprint_llm.types import StreamChunk

_CALL_CHARS = 200


@click.command("run")
@click.argument("task", required=False)
@model_option
@provider_option
@click.option("--resume", "state_id", help="Go on with a run that waits for approval.")
@json_option
@config_option
def command(task: str | None, *, state_id: str | None, as_json: bool, config: str | None, **target: Any) -> None:
    """Work on TASK with tools, within the rules of the configuration. What is piped in is put before TASK.

    Example: blueprint-llm run "fix the failing test"

    The exit code is 1 when a limit ended the run, when it waits for approval, and when every tool call was denied; what
    is denied is told with the rule that would allow it.
    """
    from blueprint_llm.errors import ApprovalPending  # noqa: PLC0415 - --help does not need it

    task = None if state_id else text_of([task] if task else [])
    if not task and not state_id:
        raise click.UsageError("give a task, or --resume ID")
    chosen: dict[str, Any] = {name: value for name, value in target.items() if value}
    live = sys.stdout.isatty() and not as_json
    on_chunk = Screen() if live else None
    with open_client(config, approver=approver(), on_event=Fallbacks()) as client:
        try:
            if state_id:
                result = client.resume(state_id, {}, on_chunk=on_chunk)
            else:
                result = client.run(messages=[{"role": "user", "content": task}], on_chunk=on_chunk, **chosen)
        except ApprovalPending as pending:
            if as_json:
                raise
            say(f"waiting for approval: blueprint-llm run --resume {pending.state_id}")
            raise SystemExit(1) from None
    if not (live or as_json):  # in a pipe only the last text is the answer
        from blueprint_llm.tools.show import visible  # noqa: PLC0415 - --help does not need it

        click.echo(visible(result.content))
    _print(result, as_json=as_json)


class Screen:
    """Prints a run's chunks as they come: text on standard output, restarts and tool calls on standard error."""

    _in_line = False

    def __call__(self, chunk: StreamChunk) -> None:
        """Print one chunk."""
        from blueprint_llm.tools.show import one_line, visible  # noqa: PLC0415 - --help does not need it

        if chunk.restart:
            self._end_line()
            say(f"-- the stream broke; {chunk.provider} starts the answer again ({chunk.error}) --", fg="yellow")
        if chunk.delta:  # escaped: what a model says must not hide or repaint the question that follows it
            click.echo(visible(chunk.delta), nl=False)
            self._in_line = not chunk.delta.endswith("\n")
        if chunk.is_done:
            self._end_line()
        for call in chunk.tool_calls:
            say(f"-> {call.name} {one_line(json.dumps(call.arguments, ensure_ascii=False))}"[:_CALL_CHARS], dim=True)

    def _end_line(self) -> None:
        click.echo(nl=self._in_line)
        self._in_line = False


def approver() -> Any:
    """Whoever sits at the terminal; in a pipe nobody does, and what asks is denied."""
    from blueprint_llm.tools import DenyAll  # noqa: PLC0415 - --help does not need it
    from blueprint_llm.tools.terminal import TerminalApprover  # noqa: PLC0415 - as above

    if not sys.stdin.isatty():
        return DenyAll()
    return TerminalApprover(read=_ask, write=say, colour=sys.stderr.isatty())


def _ask(prompt: str) -> str:
    say(prompt, nl=False, bold=True)  # by itself, `input` would write it into a piped standard output
    return input()


def _print(result: RunResult, *, as_json: bool) -> None:
    from blueprint_llm.tools.show import one_line  # noqa: PLC0415 - --help does not need it

    if as_json:
        print_json(result.model_dump(mode="json"))
    else:
        for found in result.tool_results:
            say(f"  {found.status:8} {found.name} (audit {found.audit_seq})")
            if rule := found.metadata.get("rule"):
                say(f"           a rule that would allow it: {one_line(rule)}")
    if result.stop != "done":
        say(f"stopped: {result.stop}")
        raise SystemExit(1)
    if result.tool_results and all(found.status == "denied" for found in result.tool_results):
        say("every tool call was denied")
        raise SystemExit(1)
