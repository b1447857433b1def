"""What becomes of the plan that a model wrote: it is mended, priced, compared, kept, checked again, and carried out.

Mended is only what cannot change the meaning: ids are renumbered where every reference stays clear, and dependencies on
nothing are dropped. Nothing is ever added: no step, no coverage, no acceptance.

An approval names the plan's hash, so a plan that changed after it was read is not run. Whether a criterion is met is
what the model that did the step reports at its end; a report that is missing counts as not met.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from blueprint_llm.config.paths import folder, writing
from blueprint_llm.errors import PlanError
from blueprint_llm.planning.lint import LintFacts, lint, read_constraint
from blueprint_llm.planning.project import read_codebase
from blueprint_llm.types import Plan, PlanStep

# USD of (model id, input tokens, output tokens); None where no price is known.
Price = Callable[[str, int, int], float | None]

# A step is carried out by a loop of model turns, each of which reads the files again; how many turns is the large
# unknown, so the three figures are three numbers of turns. Then tokens of prompt and tool schemas a turn, and of text
# that a turn writes.
_TURNS: Mapping[str, int] = {"low": 2, "likely": 5, "high": 12}
_PROMPT_TOKENS, _ANSWER_TOKENS, _WRITE_TOKENS = 2000, 300, 600
_NEW_FILE_TOKENS = 1500
_WEIGHTS = (3, 7)  # from where on a step needs a model of strength 1, and of 2
_REPORT = re.compile(r'\{\s*"acceptance"\s*:\s*\[[^\]]*\]\s*\}')
_ROLE = (
    "You carry out one step of a plan with the tools you have. When you are done, check every acceptance criterion "
    'and end your last message with one line of JSON, a boolean for each criterion in order: {"acceptance": [true]}'
)


def repair(steps: Sequence[PlanStep], ids: Sequence[str], known: frozenset[str]) -> tuple[list[PlanStep], list[str]]:
    """Return the steps under `ids`, their dependencies cleared, and a note for every change.

    `known` are the ids of finished steps, which they may depend on.
    """
    old = [step.id for step in steps]
    referred = {name for step in steps for name in step.depends_on}
    if any(old.count(name) > 1 for name in referred):  # nobody can tell which one is meant: lint has to refuse
        ids = old
    names = dict(zip(old, ids, strict=False))
    notes = [f"renumbered {a} to {b}" for a, b in zip(old, ids, strict=False) if a != b]
    present = known | set(ids[: len(steps)])
    mended = []
    for step, own in zip(steps, ids, strict=False):
        wanted = dict.fromkeys(names.get(name, name) for name in step.depends_on)
        kept = [name for name in wanted if name != own and name in present]
        notes += [f"{own}: dropped the dependency on {name}" for name in wanted if name not in kept]
        mended.append(step.model_copy(update={"id": own, "depends_on": kept}))
    return mended, notes


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChoice:
    """A configured model that may carry out steps."""

    name: str  # its key of `providers`; what a step suggests
    model: str
    strength: int = 1  # 0 simple steps, 1 ordinary ones, 2 hard ones
    max_input_tokens: int | None = None
    shares_codebase: bool = True  # whether it may be shown files


def with_costs(plan: Plan, choices: Sequence[ModelChoice], price: Price, sizes: Mapping[str, int]) -> Plan:
    """Return the plan with a model and a cost for every unfinished step, and the total in `metadata["cost_usd"]`.

    `sizes` are the tokens of the codebase's files by path.
    """
    steps = [step if step.status == "done" else _costed(step, choices, price, sizes) for step in plan.steps]
    open_costs = [step.estimated_cost_usd for step in steps if step.status != "done"]
    known = [cost for cost in open_costs if cost is not None]
    complete = bool(known) and len(known) == len(open_costs)
    total = {name: sum(cost[name] for cost in known) for name in _TURNS} if complete else None
    suggested = {step.id: step.suggested_model for step in steps if step.suggested_model}
    own = {"steps": steps, "suggested_models": suggested, "metadata": {**plan.metadata, "cost_usd": total}}
    return Plan.model_validate({**plan.model_dump(), **own})


def _costed(step: PlanStep, choices: Sequence[ModelChoice], price: Price, sizes: Mapping[str, int]) -> PlanStep:
    """Choose the cheapest model that is strong and large enough, else the strongest that fits; unknown prices last."""
    read = _PROMPT_TOKENS + sum(sizes.get(change.path, _NEW_FILE_TOKENS) for change in step.files)
    written = _ANSWER_TOKENS + _WRITE_TOKENS * sum(change.op in {"edit", "create"} for change in step.files)
    fitting = [
        choice
        for choice in choices
        if (choice.max_input_tokens or read) >= read and (choice.shares_codebase or not step.files)
    ]
    # How hard a step is shows in what it writes, what it must satisfy and what it builds on.
    writes = sum(change.op != "read" for change in step.files)
    weight = 2 * writes + len(step.acceptance) + len(step.depends_on) + len(step.covers)
    needed = min(bisect(_WEIGHTS, weight), max((choice.strength for choice in fitting), default=0))
    costs = [(price(choice.model, read, written), choice.name) for choice in fitting if choice.strength >= needed]
    once, name = min(costs, key=lambda pair: (pair[0] is None, pair[0] or 0.0), default=(None, None))
    cost = None if once is None else {what: round(once * turns, 6) for what, turns in _TURNS.items()}
    return step.model_copy(update={"suggested_model": name, "estimated_cost_usd": cost})


def diff_plans(old: Plan, new: Plan) -> dict[str, list[str]]:
    """Return the ids of steps by what became of them: by what they say, not by how they are numbered.

    A step is the same when its title is, and kept when all of its content is.
    """
    before, after = _by_title(old), _by_title(new)
    kept = {title for title, (_, content) in after.items() if title in before and before[title][1] == content}
    return {
        "added": [name for title, (name, _) in after.items() if title not in before],
        "removed": [name for title, (name, _) in before.items() if title not in after],
        "changed": [name for title, (name, _) in after.items() if title in before and title not in kept],
        "kept": [name for title, (name, _) in after.items() if title in kept],
    }


def _by_title(plan: Plan) -> dict[tuple[str, int], tuple[str, tuple[object, ...]]]:
    """Return the ids of steps and their content by title; the second of one title is its own."""
    titles = {step.id: " ".join(step.title.casefold().split()) for step in plan.steps}
    seen: Counter[str] = Counter()
    found: dict[tuple[str, int], tuple[str, tuple[object, ...]]] = {}
    for step in plan.steps:
        title = titles[step.id]
        files = sorted((change.path, change.op) for change in step.files)
        depends = sorted(titles.get(name, name) for name in step.depends_on)
        content = step.description, depends, sorted(step.covers), files, step.acceptance
        found[title, seen[title]] = step.id, content
        seen[title] += 1
    return found


def save_plan(plan: Plan, root: Path | None = None) -> tuple[Plan, Path]:
    """Save a plan as a new revision: its own number, or the next free one where that is taken. Raises StoreError.

    `root` is where plans are kept; by default in the user's state folder.
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

    `perform` carries out a step with the messages given and returns the last answer (None: it failed); `keep` is told
    the plan whenever a status has changed. Raises PlanError if the approval is for another plan, or its steps have no
    order.
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
