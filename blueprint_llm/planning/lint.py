"""Checks a plan by rules that need no model: order, coverage, files, constraints, sizes, models, cost.

Each rule is one generator over a survey of the plan; adding a rule is adding it to `RULES`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from typing import TYPE_CHECKING

from blueprint_llm.planning.brief import PathRule, PlanLimits
from blueprint_llm.planning.findings import Finding

if TYPE_CHECKING:
    from blueprint_llm.types import FileChange, Plan, PlanStep


@dataclass(frozen=True, slots=True, kw_only=True)
class LintFacts:
    """What a plan is checked against; None means unknown and is not checked.

    Attributes:
        requirements: The ids that must be covered.
        retired: Ids that may still be named.
        files: Every path of the codebase.
        models: The names a step may suggest.
        left_usd: What is left of the budget.
    """

    requirements: frozenset[str] | None = None
    retired: frozenset[str] = frozenset()
    rules: tuple[PathRule, ...] = ()
    files: frozenset[str] | None = None
    models: frozenset[str] | None = None
    left_usd: float | None = None
    limits: PlanLimits = field(default_factory=PlanLimits)


def lint(plan: Plan, facts: LintFacts | None = None) -> list[Finding]:
    """Everything that is wrong with a plan, in the order of the rules."""
    survey = _Survey(plan, facts or LintFacts())
    return [finding for rule in RULES for finding in rule(survey)]


class _Survey:
    """A plan with what several rules need: positions, order and who writes what."""

    def __init__(self, plan: Plan, facts: LintFacts) -> None:
        self.plan, self.facts = plan, facts
        self.steps = plan.steps
        self.position = {step.id: n for n, step in enumerate(self.steps)}

    @cached_property
    def cycle(self) -> list[str]:
        """The ids on a cycle; empty when there is none."""
        try:
            self._sorter.prepare()
        except CycleError as error:
            return [str(name) for name in error.args[1]]
        return []

    @cached_property
    def _sorter(self) -> TopologicalSorter[str]:
        return TopologicalSorter({step.id: [d for d in step.depends_on if d in self.position] for step in self.steps})

    @cached_property
    def order(self) -> list[int]:
        """The positions in an order that respects dependencies; empty when the plan is cyclic."""
        if self.cycle:
            return []
        ordered: list[int] = []
        while self._sorter.is_active():
            ready = self._sorter.get_ready()
            ordered += [self.position[name] for name in ready]
            self._sorter.done(*ready)
        return ordered

    @cached_property
    def ancestors(self) -> list[int]:
        """For each step the steps before it, as a bit set over positions."""
        before = [0] * len(self.steps)
        for n in self.order:
            for name in self.steps[n].depends_on:
                if (m := self.position.get(name)) is not None:
                    before[n] |= before[m] | (1 << m)
        return before

    @cached_property
    def writers(self) -> dict[str, list[int]]:
        """For each path the positions of the open steps that change it, in dependency order."""
        found: dict[str, list[int]] = {}
        for n in self.order:
            for change in self.steps[n].files if self.steps[n].status != "done" else ():
                if change.op != "read":
                    found.setdefault(change.path, []).append(n)
        return found

    @cached_property
    def makers(self) -> dict[tuple[str, str], int]:
        """For each (path, op) of creations and deletions the steps that do it, as a bit set."""
        found: dict[tuple[str, str], int] = {}
        for n, _, change in self.files():
            if change.op in {"create", "delete"}:
                found[change.path, change.op] = found.get((change.path, change.op), 0) | 1 << n
        return found

    def before(self, n: int, path: str, op: str) -> bool:
        """Whether a step before `n` does `op`, a creation or deletion, to a path."""
        made = self.makers.get((path, op))
        return bool(made and self.ancestors[n] & made)

    def files(self) -> Iterator[tuple[int, PlanStep, FileChange]]:
        """Every file of every step that is not finished; what finished ones did is on disk already."""
        return ((n, s, change) for n, s in enumerate(self.steps) if s.status != "done" for change in s.files)


def _step_count(survey: _Survey) -> Iterator[Finding]:
    count, most = len(survey.steps), survey.facts.limits.max_steps
    if not count:
        yield Finding(code="no_steps", message="the plan has no steps")
    if count > most:
        yield Finding(code="too_many_steps", message=f"{count} steps, at most {most} are allowed")


def _duplicate_ids(survey: _Survey) -> Iterator[Finding]:
    if len(survey.position) < len(survey.steps):
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
        yield Finding(
            code="cycle", step=survey.cycle[0], message=f"dependencies form a cycle: {' -> '.join(survey.cycle)}"
        )


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
    known = wanted | survey.facts.retired
    covered = {name for step in survey.steps for name in step.covers}
    for step in survey.steps:
        for name in step.covers:
            if name not in known:
                message = f"{step.id} covers {name}, which is no requirement"
                yield Finding(code="unknown_requirement", step=step.id, requirement=name, message=message)
    for name in sorted(wanted - covered):
        yield Finding(code="uncovered_requirement", requirement=name, message=f"no step covers {name}")


def _paths(survey: _Survey) -> Iterator[Finding]:
    for _, step, change in survey.files():
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
    for n, step, change in survey.files():
        path, exists = change.path, change.path in known
        created, deleted = survey.before(n, path, "create"), survey.before(n, path, "delete")
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
    for path, writers in survey.writers.items():
        for first, second in pairwise(writers):
            if first != second and not survey.ancestors[second] >> first & 1:
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
    _step_count,
    _duplicate_ids,
    _dependencies,
    _cycles,
    _texts,
    _sizes,
    _coverage,
    _paths,
    _existence,
    _write_conflicts,
    _models,
    _cost,
)
