"""What becomes of a plan: it is kept on disk, a folder a plan and a file a revision, checked again, and carried out.

An approval names the plan's hash, so a plan that changed after it was read is not run. Whether a criterion is met is
what the model that did the step reports at its end; a report that is missing counts as not met.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from blueprint_llm.config.paths import folder, writing
from blueprint_llm.errors import PlanError
from blueprint_llm.planning.lint import LintFacts, lint, read_constraint
from blueprint_llm.planning.project import read_codebase
from blueprint_llm.types import Plan, PlanStep

if TYPE_CHECKING:
    from collections.abc import Callable

_REPORT = re.compile(r'\{\s*"acceptance"\s*:\s*\[[^\]]*\]\s*\}')
_ROLE = (
    "You carry out one step of a plan with the tools you have. When you are done, check every acceptance criterion "
    'and end your last message with one line of JSON, a boolean for each criterion in order: {"acceptance": [true]}'
)


def save_plan(plan: Plan, root: Path | None = None) -> tuple[Plan, Path]:
    """Save a plan as a new revision: its own number, or the next free one where that is taken.

    Args:
        plan: The plan.
        root: Where plans are kept; by default in the user's state folder.

    Raises:
        StoreError: It cannot be written.
    """
    place = (root if root is not None else folder("state") / "plans") / plan.id
    revision = plan.revision
    with writing("the plan", place):
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            current = plan.model_copy(update={"revision": revision})
            target = place / f"r{revision}.json"
            with contextlib.suppress(FileExistsError):
                write_plan(current, target, replace=False)
                return current, target
            revision += 1


def write_plan(plan: Plan, path: Path, *, replace: bool = True) -> None:
    """Write a plan whole or not at all. Raises FileExistsError where the file exists and `replace` is False."""
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(plan.model_dump_json(indent=2))
            file.flush()
            os.fsync(file.fileno())
        if replace:
            temporary.replace(path)
        else:
            path.hardlink_to(temporary)
    finally:
        temporary.unlink(missing_ok=True)


def read_plan_file(path: Path) -> Plan:
    """Return the plan in a JSON file. Raises PlanError that says what is wrong with the file."""
    try:
        return Plan.model_validate(json.loads(path.read_text("utf-8")))
    except OSError as error:
        raise PlanError(f"cannot read the plan {path}: {error.strerror}") from None
    except ValidationError as error:
        rows = [f"{'.'.join(map(str, row['loc']))}: {row['msg']}" for row in error.errors(include_input=False)]
        raise PlanError(f"{path} is not a plan: {'; '.join(rows[:5])}") from None
    except ValueError:
        raise PlanError(f"{path} is not a plan: it is not JSON") from None


def plan_facts(plan: Plan, codebase: Path | None = None) -> LintFacts:
    """Return what a saved plan can be checked against: its own requirements and constraints, and a codebase."""
    requirements = plan.metadata.get("requirements")
    rules = [read_constraint(text) for text in plan.metadata.get("constraints", ())]
    return LintFacts(
        requirements=frozenset(requirements) if requirements else None,
        retired=frozenset(plan.metadata.get("retired", ())),
        rules=tuple(rule for rule in rules if rule),
        files=read_codebase(codebase).paths if codebase else None,
    )


def run_plan(
    plan: Plan,
    approved_hash: str,
    perform: Callable[[PlanStep, list[dict[str, Any]]], str | None],
    keep: Callable[[Plan], Any],
) -> Plan:
    """Run the unfinished steps in dependency order, up to the first that is not met; return the plan as it is then.

    Args:
        plan: The plan.
        approved_hash: The hash of the plan that was approved.
        perform: Carries out a step with the messages given and returns the last answer; None: it failed.
        keep: Told the plan whenever a status has changed.

    Raises:
        PlanError: The approval is for another plan, or the plan's steps have no order.
    """
    if plan.hash != approved_hash:
        raise PlanError("this is not the plan that was approved: read it again and approve its hash")
    defects = [finding for finding in lint(plan) if finding.code in {"cycle", "duplicate_id", "dangling_dependency"}]
    if defects:
        raise PlanError("the plan cannot be run", findings=[finding.to_dict() for finding in defects])
    while (step := _next(plan)) is not None:
        plan = _with_status(plan, step.id, "in_progress")
        keep(plan)
        is_met = _is_met(step, perform(step, _step_messages(plan, step)))
        plan = _with_status(plan, step.id, "done" if is_met else "failed")
        keep(plan)
        if not is_met:
            break
    return plan


def _next(plan: Plan) -> PlanStep | None:
    done = {step.id for step in plan.steps if step.status == "done"}
    return next((step for step in plan.steps if step.id not in done and set(step.depends_on) <= done), None)


def _with_status(plan: Plan, step_id: str, status: str) -> Plan:
    """Return the plan with one step's status changed; its hash stays."""
    steps = [step.model_copy(update={"status": status}) if step.id == step_id else step for step in plan.steps]
    return plan.model_copy(update={"steps": steps})


def _step_messages(plan: Plan, step: PlanStep) -> list[dict[str, Any]]:
    """Return what the model that carries out a step is told."""
    files = [f"- {change.op} {change.path}" for change in step.files]
    criteria = [f"{n}. {text}" for n, text in enumerate(step.acceptance, 1)]
    task = [f"Plan: {plan.overview}", f"Step {step.id}: {step.title}", step.description]
    task += [*(["Files:", *files] if files else []), "Acceptance:", *criteria]
    return [{"role": "system", "content": _ROLE}, {"role": "user", "content": "\n".join(task)}]


def _is_met(step: PlanStep, answer: str | None) -> bool:
    """Return True if the last report in an answer says of every criterion that it is met."""
    reports = _REPORT.findall(answer or "")
    try:
        verdicts = json.loads(reports[-1])["acceptance"] if reports else []
    except ValueError:
        return False
    return len(verdicts) == len(step.acceptance) > 0 and all(verdict is True for verdict in verdicts)
