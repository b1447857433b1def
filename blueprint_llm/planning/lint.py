"""Checks a plan by rules that need no model: order, coverage, files, constraints, sizes, models, cost.

Each rule is one generator over a survey of the plan; adding a rule is adding it to `RULES`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from blueprint_llm.planning.brief import PathRule, PlanLimits

if TYPE_CHECKING:
    from blueprint_llm.types import FileChange, Plan, PlanStep


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One defect: `code` names its kind, `message` says what to do; the rest says where."""

    code: str
    message: str
    step: str | None = None
    path: str | None = None
    requirement: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return only what is known."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class LintFacts:
    """What a plan is checked against; None means unknown and is not checked.

    Attributes:
        requirements: The ids that must be covered.
        retired: Ids that may still be named.
        rules: Constraints on paths.
        files: Every path of the codebase.
        models: The names a step may suggest.
        left_usd: What is left of the budget.
        limits: How large the plan may be.
    """

    requirements: frozenset[str] | None = None
    retired: frozenset[str] = frozenset()
    rules: tuple[PathRule, ...] = ()
    files: frozenset[str] | None = None
    models: frozenset[str] | None = None
    left_usd: float | None = None
    limits: PlanLimits = field(default_factory=PlanLimits)


def lint(plan: Plan, facts: LintFacts | None = None) -> list[Finding]:
    """Return everything that is wrong with a plan, in the order of the rules."""
    survey = _Survey(plan, facts or LintFacts())
    return [finding for rule in RULES for finding in rule(survey)]


class _Survey:
    """A plan with what several rules need.

    Attributes:
        position: The place of each step by its id.
        cycle: The ids on a cycle; empty when there is none.
        order: The places in an order that respects dependencies; empty when the plan is cyclic.
        before: For each place the steps that come before it, as a bit set over places.
        changes: Every file of every step that is not finished; what finished ones did is on disk already.
    """

    def __init__(self, plan: Plan, facts: LintFacts) -> None:
        self.plan, self.facts, self.steps = plan, facts, plan.steps
        self.position = {step.id: n for n, step in enumerate(self.steps)}
        self.cycle: list[str] = []
        self.order: list[int] = []
        graph = {step.id: [name for name in step.depends_on if name in self.position] for step in self.steps}
        try:
            self.order = [self.position[name] for name in TopologicalSorter(graph).static_order()]
        except CycleError as error:
            self.cycle = [str(name) for name in error.args[1]]
        self.before = [0] * len(self.steps)
        for n in self.order:
            for name in graph[self.steps[n].id]:
                self.before[n] |= self.before[self.position[name]] | 1 << self.position[name]
        self.changes: list[tuple[int, PlanStep, FileChange]] = [
            (n, step, change) for n, step in enumerate(self.steps) if step.status != "done" for change in step.files
        ]


def _step_count(survey: _Survey) -> Iterator[Finding]:
    count, most = len(survey.steps), survey.facts.limits.max_steps
    if not count:
        yield Finding(code="no_steps", message="the plan has no steps")
    if count > most:
        yield Finding(code="too_many_steps", message=f"{count} steps, at most {most} are allowed")


def _duplicate_ids(survey: _Survey) -> Iterator[Finding]:
    for name, count in Counter(step.id for step in survey.steps).items():
        if count > 1:
            yield Finding(code="duplicate_id", step=name, message=f"{count} steps have the id {name}")


def _dependencies(survey: _Survey) -> Iterator[Finding]:
    for step in survey.steps:
        for name in step.depends_on:
            if name == step.id:
                yield Finding(code="self_dependency", step=step.id, message=f"{step.id} depends on itself")
            elif name not in survey.position:
                message = f"{step.id} depends on {name}, which is no step of this plan"
                yield Finding(code="dangling_dependency", step=step.id, message=message)


def _cycles(survey: _Survey) -> Iterator[Finding]:
    if len(set(survey.cycle)) > 1:
        message = f"dependencies form a cycle: {' -> '.join(survey.cycle)}"
        yield Finding(code="cycle", step=survey.cycle[0], message=message)


def _texts(survey: _Survey) -> Iterator[Finding]:
    for step in survey.steps:
        if not step.title.strip():
            yield Finding(code="missing_title", step=step.id, message=f"{step.id} has no title")
        if not any(item.strip() for item in step.acceptance):
            message = f"{step.id} has no acceptance criterion: say how to see that it is done"
            yield Finding(code="missing_acceptance", step=step.id, message=message)


def _sizes(survey: _Survey) -> Iterator[Finding]:
    limits = survey.facts.limits
    for step in survey.steps:
        sizes = (
            ("title", len(step.title), limits.title_chars),
            ("description", len(step.description), limits.description_chars),
            ("acceptance", max(map(len, step.acceptance), default=0), limits.acceptance_chars),
            ("number of acceptance criteria", len(step.acceptance), limits.max_acceptance),
            ("number of files", len(step.files), limits.max_files),
        )
        for what, size, most in sizes:
            if size > most:
                message = f"{what} of {step.id} is {size}, at most {most} is allowed"
                yield Finding(code="too_large", step=step.id, message=message)


def _coverage(survey: _Survey) -> Iterator[Finding]:
    wanted = survey.facts.requirements
    if wanted is None:
        return
    covered = {name: step.id for step in survey.steps for name in step.covers}
    for name in sorted(covered.keys() - wanted - survey.facts.retired):
        message = f"{covered[name]} covers {name}, which is no requirement"
        yield Finding(code="unknown_requirement", step=covered[name], requirement=name, message=message)
    for name in sorted(wanted - covered.keys()):
        yield Finding(code="uncovered_requirement", requirement=name, message=f"no step covers {name}")


def _paths(survey: _Survey) -> Iterator[Finding]:
    for _, step, change in survey.changes:
        path = change.path
        if not path or path.startswith(("/", "~")) or "\\" in path or ".." in path.split("/") or path[1:2] == ":":
            message = f"{step.id}: {path!r} is not a POSIX path inside the codebase"
            yield Finding(code="bad_path", step=step.id, path=path, message=message)
        for rule in survey.facts.rules:
            if rule.forbids(change):
                message = f"{step.id} would {change.op} {path}, against the constraint {rule.text!r}"
                yield Finding(code="constraint_violated", step=step.id, path=path, message=message)


def _existence(survey: _Survey) -> Iterator[Finding]:
    known = survey.facts.files
    if known is None or survey.cycle:
        return
    made: dict[str, dict[str, int]] = {"create": defaultdict(int), "delete": defaultdict(int)}  # steps as a bit set
    for n, _, change in survey.changes:
        if change.op in made:
            made[change.op][change.path] |= 1 << n
    for n, step, change in survey.changes:
        path, exists = change.path, change.path in known
        created = path in made["create"] and survey.before[n] & made["create"][path]
        deleted = path in made["delete"] and survey.before[n] & made["delete"][path]
        if change.op == "create" and exists and not deleted:
            message = f"{step.id} creates {path}, which exists: edit it"
            yield Finding(code="create_exists", step=step.id, path=path, message=message)
        elif change.op != "create" and deleted and not created:
            message = f"{step.id} would {change.op} {path}, which an earlier step deletes"
            yield Finding(code="use_after_delete", step=step.id, path=path, message=message)
        elif change.op != "create" and not exists and not created:
            message = f"{step.id} would {change.op} {path}, which does not exist and no earlier step creates"
            yield Finding(code="unknown_file", step=step.id, path=path, message=message)


def _write_conflicts(survey: _Survey) -> Iterator[Finding]:
    """In dependency order, all writers of a file are ordered if and only if every neighbouring pair is."""
    place = {n: rank for rank, n in enumerate(survey.order)}
    writers: dict[str, list[int]] = defaultdict(list)
    for n, _, change in survey.changes if place else ():
        if change.op != "read":
            writers[change.path].append(n)
    for path, found in writers.items():
        for first, second in pairwise(sorted(set(found), key=place.__getitem__) if len(found) > 1 else ()):
            if not survey.before[second] >> first & 1:
                a, b = survey.steps[first].id, survey.steps[second].id
                message = f"{a} and {b} both write {path}, and neither comes first: make one depend on the other"
                yield Finding(code="write_conflict", step=b, path=path, message=message)


def _models(survey: _Survey) -> Iterator[Finding]:
    known = survey.facts.models
    for step in survey.steps if known is not None else ():
        if step.suggested_model is not None and step.suggested_model not in (known or ()):
            message = f"{step.id} suggests {step.suggested_model}, which is not configured"
            yield Finding(code="unknown_model", step=step.id, message=message)


def _cost(survey: _Survey) -> Iterator[Finding]:
    left = survey.facts.left_usd
    likely = (survey.plan.metadata.get("cost_usd") or {}).get("likely")
    if left is not None and likely is not None and likely > left:
        message = f"the plan will likely cost {likely:.4f} USD, {left:.4f} USD of the budget are left"
        yield Finding(code="over_budget", message=message)


Rule = Callable[[_Survey], Iterator[Finding]]

RULES: tuple[Rule, ...] = (
    *(_step_count, _duplicate_ids, _dependencies, _cycles),
    *(_texts, _sizes, _coverage),
    *(_paths, _existence, _write_conflicts),
    *(_models, _cost),
)
