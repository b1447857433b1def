"""`blueprint-llm run`, `tools` and `audit`: let a model work with tools; see what they may do, and what they did."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

import blueprint_llm  # its names load on first use
from blueprint_llm.cli.options import common_options, load, model_option, open_client, provider_option, text_of
from blueprint_llm.cli.output import (
    Fallbacks,
    answer,
    counted,
    print_json,
    print_table,
    restarted_line,
    say,
    wants_json,
)

if TYPE_CHECKING:
    from blueprint_llm.tools import RunResult, ToolEngine
    from blueprint_llm.tools.sealed import Audit

_CALL_CHARS = 200
_ARGUMENT_CHARS = 100


@click.command("run")
@click.argument("task", required=False)
@model_option
@provider_option
@click.option("--resume", "state_id", help="Go on with a run that waits for approval.")
@common_options
def run(task: str | None, *, state_id: str | None, **target: Any) -> None:
    """Work on TASK with tools, within the rules of the configuration. What is piped in is put before TASK.

    Example: blueprint-llm run "fix the failing test"

    The exit code is 1 when a limit ended the run, when it waits for approval, and when every tool call was denied; what
    is denied is told with the rule that would allow it.
    """
    from blueprint_llm.tools.words import visible

    task = None if state_id else text_of([task] if task else [])
    if not task and not state_id:
        raise click.UsageError("give a task, or --resume ID")
    chosen: dict[str, Any] = {name: value for name, value in target.items() if value}
    as_json = wants_json()
    live = sys.stdout.isatty() and not as_json
    on_chunk = Screen() if live else None
    with open_client(approver=approver(), on_event=Fallbacks()) as client:
        try:
            if state_id:
                result = client.resume(state_id, {}, on_chunk=on_chunk)
            else:
                result = client.run(messages=[{"role": "user", "content": task}], on_chunk=on_chunk, **chosen)
        except blueprint_llm.ApprovalPending as pending:
            if as_json:
                raise
            say(f"waiting for approval: blueprint-llm run --resume {pending.state_id}")
            raise SystemExit(1) from None
    if as_json:
        print_json(result.model_dump(mode="json"))
    elif not live:  # in a pipe only the last text is the answer
        click.echo(visible(result.content))
    _say_what_was_done(result, as_json=as_json)


class Screen:
    """Prints a run's chunks as they come: text on standard output, restarts and tool calls on standard error."""

    _in_line = False

    def __call__(self, chunk: blueprint_llm.StreamChunk) -> None:
        """Print one chunk."""
        from blueprint_llm.tools.words import one_line, visible

        if chunk.restart:
            self._end_line()
            say(restarted_line(chunk), fg="yellow")
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
    from blueprint_llm.tools import DenyAll
    from blueprint_llm.tools.approval import TerminalApprover

    if not sys.stdin.isatty():
        return DenyAll()
    return TerminalApprover(read=_ask, write=say, colour=sys.stderr.isatty())


def _ask(prompt: str) -> str:
    say(prompt, nl=False, bold=True)  # by itself, `input` would write it into a piped standard output
    return input()


def _say_what_was_done(result: RunResult, *, as_json: bool) -> None:
    """Say how each tool call went and why the run stopped; exit with 1 where it did not do what was asked."""
    from blueprint_llm.tools.words import one_line

    for found in result.tool_results if not as_json else ():
        say(f"  {found.status:8} {found.name} (audit {found.audit_seq})")
        if rule := found.metadata.get("rule"):
            say(f"           a rule that would allow it: {one_line(rule)}")
    if result.stop != "done":
        say(f"stopped: {result.stop}")
        raise SystemExit(1)
    if result.tool_results and all(found.status == "denied" for found in result.tool_results):
        say("every tool call was denied")
        raise SystemExit(1)


@click.group("tools")
def tools() -> None:
    """Look at tools and rules; nothing is run.

    Example: blueprint-llm tools list
    """


def _engine() -> ToolEngine:
    from blueprint_llm.tools.engine import ToolEngine

    return ToolEngine(settings=load().tools)


@tools.command("list")
@common_options
def _list() -> None:
    """Print the tools that a run offers.

    Example: blueprint-llm tools list --json
    """
    from blueprint_llm import sync

    with _engine() as engine:
        sync.run(engine.connect())
        found = [(item.name, engine.effect(item.name), item.description) for item in engine.tools()]
    records = [dict(zip(("name", "effect", "description"), row, strict=True)) for row in found]
    answer(records, lambda: print_table(["TOOL", "EFFECT", "DESCRIPTION"], found))


@tools.command("check", context_settings={"ignore_unknown_options": True})
@click.argument("tool")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@common_options
def _check(tool: str, arguments: tuple[str, ...]) -> None:
    """Say what would become of a call: TOOL and its arguments as JSON, or `command` and its words.

    Example: blueprint-llm tools check command -- git diff --output=x

    For a command it also says its effects, and what the kernel here enforces. The exit code is 0 for allow, 1 for ask
    and deny.
    """
    from blueprint_llm.tools import sandbox
    from blueprint_llm.tools.words import one_line

    is_command = tool == "command" and not (len(arguments) == 1 and arguments[0].startswith("{"))
    given: object = {"argv": list(arguments)} if is_command else "".join(arguments)
    with _engine() as engine:
        found = engine.check(tool, given)
        rule = engine.would_allow(tool, given) if found.decision == "ask" else ""
        kernel = sandbox.describe(engine.settings.sandbox) if found.effects else ""
    facts = {"decision": found.decision, "rule_id": found.rule_id, "reasons": found.reasons}
    by = f" by {found.rule_id}" if found.rule_id else ""
    lines = [found.decision + by, *(f"  {one_line(reason)}" for reason in found.reasons)]
    lines += [f"  effects: {', '.join(found.effects)}", f"  kernel: {kernel}"] if found.effects else []
    lines += [f"  a rule that would allow it: {one_line(rule)}"] if rule else []
    answer({**facts, "effects": found.effects, "kernel": kernel, "would_allow": rule}, "\n".join(lines))
    if found.decision != "allow":
        raise SystemExit(1)


@click.group("audit")
def audit() -> None:
    """Look at the record of what tools did.

    Example: blueprint-llm audit verify
    """


def _audit() -> Audit:
    from blueprint_llm.tools.engine import open_audit

    return open_audit(load().tools)


@audit.command("show")
@click.option("--last", type=click.IntRange(min=1), default=50, show_default=True, help="How many records.")
@common_options
def _show(*, last: int) -> None:
    """Print the latest records; with --json, one a line.

    Example: blueprint-llm audit show --last 20
    """
    records = list(_audit().records())[-last:]
    if wants_json():
        for record in records:
            click.echo(json.dumps(record))
        return
    print_table(["SEQ", "TIME", "EVENT", "TOOL", "DECISION", "OUTCOME", "ARGUMENTS"], map(_row, records))


def _row(record: dict[str, Any]) -> list[str]:
    from blueprint_llm.tools.words import one_line

    when = f"{datetime.fromtimestamp(record.get('at', 0), UTC):%Y-%m-%d %H:%M:%S}"
    outcome = record.get("status") or record.get("reason") or ""
    cells = [record.get("seq"), when, record.get("event"), record.get("tool"), record.get("decision"), outcome]
    return [one_line(str(cell)) for cell in (*cells, str(record.get("arguments", ""))[:_ARGUMENT_CHARS])]


@audit.command("verify")
@common_options
def _verify() -> None:
    """Check every record and the end of the chain; exit code 1 when anything was changed.

    Example: blueprint-llm audit verify --json
    """
    record = _audit()
    found = record.verify()
    facts = {name: getattr(found, name) for name in ("ok", "records", "broken_seq", "problem")}
    verdict = "whole" if found.ok else f"BROKEN: {found.problem}"
    text = f"{record.path}: {counted(found.records, 'record')}, {verdict}"
    answer({"path": str(record.path), **facts}, text)
    if not found.ok:
        raise SystemExit(1)
