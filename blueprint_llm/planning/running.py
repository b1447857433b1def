"""Carries out an approved plan: which step is next, what its model is told, and whether it is done.

The approval names the plan's hash, so a plan that changed after it was read is not run. Whether a criterion is met
is what the model that did the step reports at its end; a report that is missing counts as not met.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from blueprint_llm.errors import PlanError
from blueprint_llm.planning.lint import lint

if TYPE_CHECKING:
    from collections.abc import Callable

    from blueprint_llm.types import Plan, PlanStep

_REPORT = re.compile(r'\{\s*"acceptance"\s*:\s*\[[^\]]*\]\s*\}')
_ROLE = (
    "You carry out one step of a plan with the tools you have. When you are done, check every acceptance criterion "
    'and end your last message with one line of JSON, a boolean for each criterion in order: {"acceptance": [true]}'
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
        plan = with_status(plan, step.id, "in_progress")
        keep(plan)
        met = is_met(step, perform(step, step_messages(plan, step)))
        plan = with_status(plan, step.id, "done" if met else "failed")
        keep(plan)
        if not met:
            break
    return plan


def with_status(plan: Plan, step_id: str, status: str) -> Plan:
    """Return the plan with one step's status changed; its hash stays."""
    steps = [step.model_copy(update={"status": status}) if step.id == step_id else step for step in plan.steps]
    return plan.model_copy(update={"steps": steps})


def _next(plan: Plan) -> PlanStep | None:
    done = {step.id for step in plan.steps if step.status == "done"}
    return next((step for step in plan.steps if step.id not in done and set(step.depends_on) <= done), None)


def step_messages(plan: Plan, step: PlanStep) -> list[dict[str, Any]]:
    """Return what the model that carries out a step is told."""
    files = [f"- {change.op} {change.path}" for change in step.files]
    criteria = [f"{n}. {text}" for n, text in enumerate(step.acceptance, 1)]
    task = [f"Plan: {plan.overview}", f"Step {step.id}: {step.title}", step.description]
    task += [*(["Files:", *files] if files else []), "Acceptance:", *criteria]
    return [{"role": "system", "content": _ROLE}, {"role": "user", "content": "\n".join(task)}]


def is_met(step: PlanStep, answer: str | None) -> bool:
    """Return True if the last report in an answer says of every criterion that it is met."""
    reports = _REPORT.findall(answer or "")
    try:
        verdicts = json.loads(reports[-1])["acceptance"] if reports else []
    except ValueError:
        return False
    return len(verdicts) == len(step.acceptance) > 0 and all(verdict is True for verdict in verdicts)
