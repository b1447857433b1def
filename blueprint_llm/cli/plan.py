"""`blueprint-llm plan GOAL`, and `plan lint`, `plan diff`, `plan run` for plans in files."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from blueprint_llm.cli.options import (
    Fallbacks,
    config_option,
    json_option,
    note_json,
    open_client,
    print_json,
    print_table,
    say,
    unread_config_option,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from blueprint_llm.events import Event
    from blueprint_llm.types import Plan, PlanStep

_PATIENCE_S = 1.0


class _GoalGroup(click.Group):
    """What is no subcommand is a goal."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the hidden command `make` in front of a goal."""
        is_goal = bool(args) and args[0] not in {*self.commands, "--help", "-h"}
        return super().parse_args(ctx, ["make", *args] if is_goal else args)


@click.group("plan", cls=_GoalGroup, no_args_is_help=True, subcommand_metavar="GOAL | COMMAND [ARGS]...")
def command() -> None:
    """Plan a goal, or check, compare and run plans.

    \b
    Example: blueprint-llm plan "add a health check" -r "answers 200" --codebase .

    `blueprint-llm plan make --help` lists the options of a goal.
    """  # noqa: D301 - click's mark of what is not to be wrapped


@command.command("make", hidden=True)
@click.argument("goal")
@click.option("-r", "--requirement", "requirements", multiple=True, help="What the plan must cover; repeatable.")
@click.option("-c", "--constraint", "constraints", multiple=True, help='Like "path: src/legacy is read-only".')
@click.option("--codebase", type=click.Path(path_type=Path), help="The project's folder.")
@click.option("--previous", type=click.Path(path_type=Path, dir_okay=False), help="A plan file to revise.")
@click.option(
    "--format", "form", type=click.Choice(["table", "md", "json", "mermaid"]), default="table", callback=note_json
)
@click.option("--json", "form", flag_value="json", callback=note_json, help="The same as --format json.")
@config_option
def make(config: str | None, form: str, previous: Path | None, **asked: Any) -> None:
    """Make a plan for GOAL, save it and print it.

    \b
    Example: blueprint-llm plan "add a health check" -r "answers 200" -c "path: src/legacy is read-only"
    """  # noqa: D301 - click's mark of what is not to be wrapped
    from blueprint_llm.planning import PlanStore, read_plan_file  # noqa: PLC0415 - --help does not need it

    given: dict[str, Any] = {name: list(value) if isinstance(value, tuple) else value for name, value in asked.items()}
    plans = [read_plan_file(previous)] if previous else []
    progress = _Progress(time.monotonic)
    with open_client(config, on_event=progress) as client:
        plan = client.planning_mode(previous_plans=plans, **given)
    progress.end()
    saved, path = PlanStore().save(plan)
    _PRINTERS[form](saved)
    for finding in [*saved.metadata.get("notices", []), *saved.metadata.get("findings", [])]:
        say(f"{finding['code']}: {finding['message']}", fg="yellow")
    say(f"saved as {path}")


class _Progress:
    """Shows how many files were read, once reading takes over a second, and who did not answer."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._start = clock, clock()
        self._shown = False
        self._fallbacks = Fallbacks()

    def __call__(self, event: Event) -> None:
        """Take one event."""
        self._fallbacks(event)
        if event.name == "planning.progress" and self._clock() - self._start > _PATIENCE_S:
            click.echo(f"\rreading the codebase: {event.facts.get('files')} files", err=True, nl=False)
            self._shown = True

    def end(self) -> None:
        """Leave the line."""
        click.echo(nl=self._shown, err=True)


def _table(plan: Plan) -> None:
    rows = [
        (
            s.id,
            s.title,
            ", ".join(s.depends_on),
            ", ".join(s.covers),
            s.suggested_model or "",
            _usd(s.estimated_cost_usd),
        )
        for s in plan.steps
    ]
    print_table(("STEP", "TITLE", "AFTER", "COVERS", "MODEL", "COST"), rows)
    say(f"{plan.overview}\ncost: {_usd(plan.metadata.get('cost_usd'))}; hash {plan.hash[:12]}")
    for text in plan.metadata.get("unverified", []):
        say(f"not verified: {text}", fg="yellow")
    for text in plan.metadata.get("repairs", []):
        say(f"repaired: {text}")


def _usd(cost: dict[str, float] | None) -> str:
    return f"${cost['low']:.4f}-${cost['high']:.4f}" if cost else "unknown"


_PRINTERS: dict[str, Callable[[Plan], None]] = {
    "table": _table,
    "md": lambda plan: click.echo(plan.to_markdown()),
    "json": lambda plan: click.echo(plan.model_dump_json(indent=2)),
    "mermaid": lambda plan: click.echo(plan.to_mermaid()),
}

_file = click.Path(path_type=Path, dir_okay=False)


@command.command("lint")
@click.argument("file", type=_file)
@click.option("--codebase", type=click.Path(path_type=Path), help="Check paths against this folder.")
@json_option
@unread_config_option
def lint_file(file: Path, codebase: Path | None, *, as_json: bool) -> None:
    """Check a plan by rules; exit code 1 when something is wrong.

    Example: blueprint-llm plan lint plan.json --codebase .
    """
    from blueprint_llm.planning import lint, plan_facts, read_plan_file  # noqa: PLC0415 - --help does not need it

    plan = read_plan_file(file)
    findings = lint(plan, plan_facts(plan, codebase))
    if as_json:
        print_json([finding.to_dict() for finding in findings])
    for finding in findings if not as_json else ():
        click.echo(f"{finding.code}: {finding.message}")
    say(f"{len(findings)} finding{'s'[: len(findings) - 1]}" if findings else "the plan is valid")
    raise SystemExit(1 if findings else 0)


@command.command("diff")
@click.argument("old", type=_file)
@click.argument("new", type=_file)
@json_option
@unread_config_option
def diff_files(old: Path, new: Path, *, as_json: bool) -> None:
    """Say which steps were added, removed, changed and kept.

    Example: blueprint-llm plan diff old.json new.json
    """
    from blueprint_llm.planning import diff_plans, read_plan_file  # noqa: PLC0415 - --help does not need it

    before, after = read_plan_file(old), read_plan_file(new)
    diff = diff_plans(before, after).to_dict()
    if as_json:
        print_json(diff)
        return
    titles = {step.id: step.title for step in after.steps}
    removed = {step.id: step.title for step in before.steps}
    rows = [
        (what, name, (removed if what == "removed" else titles)[name]) for what, names in diff.items() for name in names
    ]
    print_table(("WHAT", "STEP", "TITLE"), rows)


@command.command("run")
@click.argument("file", type=_file)
@click.option("--approve", metavar="HASH", help="The plan's hash, at least 12 characters; asked for when missing.")
@json_option
@config_option
def run_file(file: Path, approve: str | None, config: str | None, *, as_json: bool) -> None:
    """Carry out a plan; stops at the first acceptance that is not met and keeps the statuses in FILE.

    Example: blueprint-llm plan run plan.json --approve 3f9c2d81a6b0
    """
    from blueprint_llm.cli.run import Screen, approver  # noqa: PLC0415 - --help does not need it
    from blueprint_llm.errors import BlueprintError  # noqa: PLC0415 - --help does not need it
    from blueprint_llm.planning import read_plan_file, run_plan, write_plan  # noqa: PLC0415 - --help does not need it

    plan = read_plan_file(file)
    approved = _approved(plan, approve)
    with open_client(config, approver=approver(), on_event=Fallbacks()) as client:

        def perform(step: PlanStep, messages: list[dict[str, Any]]) -> str | None:
            say(f"{step.id}: {step.title}")
            try:
                return str(client.run(messages=messages, on_chunk=Screen()).content)
            except BlueprintError as error:
                say(f"{step.id} failed: {error}", fg="red")
                return None

        finished = run_plan(plan, approved, perform, keep=lambda changed: write_plan(changed, file))
    rows = [(step.id, step.status, step.title) for step in finished.steps]
    if as_json:
        print_json([dict(zip(("id", "status", "title"), row, strict=True)) for row in rows])
    else:
        print_table(("STEP", "STATUS", "TITLE"), rows)
    raise SystemExit(0 if all(step.status == "done" for step in finished.steps) else 1)


def _approved(plan: Plan, given: str | None) -> str:
    """The hash that is approved: the plan's own, or what was given, which then will not match."""
    if given is None:
        say(plan.to_markdown())  # all of it: files and acceptance are what is approved
        click.confirm(f"Run this plan ({plan.hash[:12]})?", abort=True)
        return plan.hash
    return plan.hash if len(given) >= 12 and plan.hash.startswith(given) else given  # noqa: PLR2004 - see the option
