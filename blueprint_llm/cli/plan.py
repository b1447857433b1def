"""`blueprint-llm plan GOAL`, and `plan lint`, `plan diff`, `plan run` for plans in files."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import blueprint_llm  # its names load on first use
from blueprint_llm.cli.options import FILE, common_options, common_options_unread, config_option, note_json, open_client
from blueprint_llm.cli.output import PATIENCE_S, Fallbacks, answer, counted, print_table, say

if TYPE_CHECKING:
    from collections.abc import Callable

    from blueprint_llm import Event, Plan, PlanStep


class _GoalGroup(click.Group):
    """What is no subcommand is a goal."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the hidden command `make` in front of a goal."""
        is_goal = bool(args) and args[0] not in {*self.commands, "--help", "-h"}
        return super().parse_args(ctx, ["make", *args] if is_goal else args)


@click.group("plan", cls=_GoalGroup, no_args_is_help=True, subcommand_metavar="GOAL | COMMAND [ARGS]...")
def plan() -> None:
    """Plan a goal, or check, compare and run plans.

    \b
    Example: blueprint-llm plan "add a health check" -r "answers 200" --codebase .

    `blueprint-llm plan make --help` lists the options of a goal.
    """  # noqa: D301 - click's mark of what is not to be wrapped


@plan.command("make", hidden=True)
@click.argument("goal")
@click.option("-r", "--requirement", "requirements", multiple=True, help="What the plan must cover; repeatable.")
@click.option("-c", "--constraint", "constraints", multiple=True, help='Like "path: src/legacy is read-only".')
@click.option("--codebase", type=click.Path(path_type=Path), help="The project's folder.")
@click.option("--previous", type=FILE, help="A plan file to revise.")
@click.option(
    "--format", "form", type=click.Choice(["table", "md", "json", "mermaid"]), default="table", callback=note_json
)
@click.option("--json", "form", flag_value="json", callback=note_json, help="The same as --format json.")
@config_option
def _make(form: str, previous: Path | None, **asked: Any) -> None:
    """Make a plan for GOAL, save it and print it.

    \b
    Example: blueprint-llm plan "add a health check" -r "answers 200" -c "path: src/legacy is read-only"
    """  # noqa: D301 - click's mark of what is not to be wrapped
    from blueprint_llm.planning import read_plan_file, save_plan

    given: dict[str, Any] = {name: list(value) if isinstance(value, tuple) else value for name, value in asked.items()}
    plans = [read_plan_file(previous)] if previous else []
    progress = _Progress(time.monotonic)
    with open_client(on_event=progress) as client:
        made = client.planning_mode(previous_plans=plans, **given)
    progress.end()
    saved, path = save_plan(made)
    _PRINTERS[form](saved)
    for finding in [*saved.metadata.get("notices", []), *saved.metadata.get("findings", [])]:
        say(f"{finding['code']}: {finding['message']}", fg="yellow")
    say(f"saved as {path}")


class _Progress(Fallbacks):
    """Says how many files were read, once reading takes over a second, and who did not answer."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock, self._start, self._shown = clock, clock(), False

    def __call__(self, event: Event) -> None:
        """Take one event."""
        super().__call__(event)
        if event.name == "planning.progress" and self._clock() - self._start > PATIENCE_S:
            say(f"\rreading the codebase: {event.facts.get('files')} files", nl=False)
            self._shown = True

    def end(self) -> None:
        """Leave the line."""
        click.echo(nl=self._shown, err=True)


def _print_table(made: Plan) -> None:
    rows = []
    for step in made.steps:
        after, covers = ", ".join(step.depends_on), ", ".join(step.covers)
        rows.append((step.id, step.title, after, covers, step.suggested_model or "", _usd(step.estimated_cost_usd)))
    print_table(("STEP", "TITLE", "AFTER", "COVERS", "MODEL", "COST"), rows)
    say(f"{made.overview}\ncost: {_usd(made.metadata.get('cost_usd'))}; hash {made.hash[:12]}")
    for text in made.metadata.get("unverified", []):
        say(f"not verified: {text}", fg="yellow")
    for text in made.metadata.get("repairs", []):
        say(f"repaired: {text}")


def _usd(cost: dict[str, float] | None) -> str:
    return f"${cost['low']:.4f}-${cost['high']:.4f}" if cost else "unknown"


_PRINTERS: dict[str, Callable[[Plan], None]] = {
    "table": _print_table,
    "md": lambda made: click.echo(made.to_markdown()),
    "json": lambda made: click.echo(made.model_dump_json(indent=2)),
    "mermaid": lambda made: click.echo(made.to_mermaid()),
}


@plan.command("lint")
@click.argument("file", type=FILE)
@click.option("--codebase", type=click.Path(path_type=Path), help="Check paths against this folder.")
@common_options_unread
def _lint(file: Path, codebase: Path | None) -> None:
    """Check a plan by rules; exit code 1 when something is wrong.

    Example: blueprint-llm plan lint plan.json --codebase .
    """
    from blueprint_llm.planning import lint, plan_facts, read_plan_file

    read = read_plan_file(file)
    findings = lint(read, plan_facts(read, codebase))
    text = "".join(f"{finding.code}: {finding.message}\n" for finding in findings)
    answer([finding.to_dict() for finding in findings], lambda: click.echo(text, nl=False))
    say(counted(len(findings), "finding") if findings else "the plan is valid")
    raise SystemExit(1 if findings else 0)


@plan.command("diff")
@click.argument("old", type=FILE)
@click.argument("new", type=FILE)
@common_options_unread
def _diff(old: Path, new: Path) -> None:
    """Say which steps were added, removed, changed and kept.

    Example: blueprint-llm plan diff old.json new.json
    """
    from blueprint_llm.planning import diff_plans, read_plan_file

    before, after = read_plan_file(old), read_plan_file(new)
    diff, rows = diff_plans(before, after), []
    for what, ids in diff.items():
        titles = {step.id: step.title for step in (before if what == "removed" else after).steps}
        rows += [(what, each, titles[each]) for each in ids]
    answer(diff, lambda: print_table(("WHAT", "STEP", "TITLE"), rows))


@plan.command("run")
@click.argument("file", type=FILE)
@click.option("--approve", metavar="HASH", help="The plan's hash, at least 12 characters; asked for when missing.")
@common_options
def _run(file: Path, approve: str | None) -> None:
    """Carry out a plan; stops at the first acceptance that is not met and keeps the statuses in FILE.

    Example: blueprint-llm plan run plan.json --approve 3f9c2d81a6b0
    """
    from blueprint_llm.cli.tools import Screen, approver
    from blueprint_llm.planning import read_plan_file, run_plan, write_plan

    read = read_plan_file(file)
    approved = _approved(read, approve)
    with open_client(approver=approver(), on_event=Fallbacks()) as client:

        def perform(step: PlanStep, messages: list[dict[str, Any]]) -> str | None:
            say(f"{step.id}: {step.title}")
            try:
                return str(client.run(messages=messages, on_chunk=Screen()).content)
            except blueprint_llm.BlueprintError as error:
                say(f"{step.id} failed: {error}", fg="red")
                return None

        finished = run_plan(read, approved, perform, keep=lambda changed: write_plan(changed, file))
    rows = [step.model_dump(include={"id", "status", "title"}) for step in finished.steps]
    shown = [(row["id"], row["status"], row["title"]) for row in rows]
    answer(rows, lambda: print_table(("STEP", "STATUS", "TITLE"), shown))
    raise SystemExit(0 if all(step.status == "done" for step in finished.steps) else 1)


def _approved(read: Plan, given: str | None) -> str:
    """The hash that is approved: the plan's own, or what was given, which then will not match."""
    if given is None:
        say(read.to_markdown())  # all of it: files and acceptance are what is approved
        agreed = False
        with suppress(click.Abort):  # nobody is there to answer
            agreed = click.confirm(f"Run this plan ({read.hash[:12]})?", err=True)
        if not agreed:
            raise click.ClickException(f"nobody approved the plan: to run it, say --approve {read.hash[:12]}")
        return read.hash
    return read.hash if len(given) >= 12 and read.hash.startswith(given) else given  # noqa: PLR2004 - see the option
