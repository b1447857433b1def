"""Carries out an approved plan step by step and stops at the first acceptance criterion that is not met.

The approval names the plan's hash, so a plan that changed after it was read is not run. Whether a criterion is met
is what the model that did the step reports at its end; a report that is missing counts as not met.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from typing import Any

from blueprint_llm.errors import BlueprintError, PlanError
from blueprint_llm.planning.lint import lint
from blueprint_llm.planning.steps import Keep, Perform
from blueprint_llm.types import Plan, PlanStep

_REPORT = re.compile(r'\{\s*"acceptance"\s*:\s*\[[^\]]*\]\s*\}')
_ROLE = (
    "You carry out one step of a plan with the tools you have. When you are done, check every acceptance criterion "
    'and end your last message with one line of JSON, a boolean for each criterion in order: {"acceptance": [true]}'
)

Walk = Generator[Perform | Keep, Any, Plan]


def run_walk(plan: Plan, approved_hash: str) -> Walk:
    """Runs the unfinished steps in dependency order; the plan that comes back has their statuses.

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
        yield Keep(plan=plan)
        met = yield from _perform(plan, step)
        plan = with_status(plan, step.id, "done" if met else "failed")
        yield Keep(plan=plan)
        if not met:
            break
    return plan


def with_status(plan: Plan, step_id: str, status: str) -> Plan:
    """The plan with one step's status changed; its hash stays."""
    steps = [step.model_copy(update={"status": status}) if step.id == step_id else step for step in plan.steps]
    return plan.model_copy(update={"steps": steps})


def _next(plan: Plan) -> PlanStep | None:
    done = {step.id for step in plan.steps if step.status == "done"}
    return next((step for step in plan.steps if step.id not in done and set(step.depends_on) <= done), None)


def _perform(plan: Plan, step: PlanStep) -> Generator[Perform, Any, bool]:
    try:
        result = yield Perform(step=step, messages=_messages(plan, step))
    except BlueprintError:
        return False
    return _all_met(str(result.content), len(step.acceptance))


def _messages(plan: Plan, step: PlanStep) -> list[dict[str, Any]]:
    files = [f"- {change.op} {change.path}" for change in step.files]
    criteria = [f"{n}. {text}" for n, text in enumerate(step.acceptance, 1)]
    task = [f"Plan: {plan.overview}", f"Step {step.id}: {step.title}", step.description]
    task += [*(["Files:", *files] if files else []), "Acceptance:", *criteria]
    return [{"role": "system", "content": _ROLE}, {"role": "user", "content": "\n".join(task)}]


def _all_met(text: str, count: int) -> bool:
    reports = _REPORT.findall(text)
    try:
        verdicts = json.loads(reports[-1])["acceptance"] if reports else []
    except ValueError:
        return False
    return len(verdicts) == count > 0 and all(verdict is True for verdict in verdicts)
