"""Check a plan by rules that need no model: order, coverage, files, constraints, sizes, models, cost.

Each rule is one generator over a survey of the plan; adding a rule is adding it to `RULES`.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import KW_ONLY, asdict, dataclass, field
from fnmatch import fnmatchcase
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from blueprint_llm.types import FileChange, Plan, PlanStep

_PATH_RULE = re.compile(
    r"path:\s*(?:(?P<only>only)\s+(?P<where>\S+)|(?P<path>\S+)\s+is\s+(?P<what>read-only|off-limits))\s*\.?",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PathRule:
    """A constraint on paths: `only` allows writing nowhere else, `off-limits` forbids reading too."""

    path: str
    kind: str
    text: str

    def forbids(self, change: FileChange) -> bool:
        """Return True if a change breaks the rule."""
        path, writes = change.path, change.op != "read"
        inside = path == self.path or path.startswith(f"{self.path}/") or fnmatchcase(path, self.path)
        return {"only": writes and not inside, "read-only": writes and inside}.get(self.kind, inside)


def read_constraint(text: str) -> PathRule | None:
    """Return the rule behind `path: X is read-only`, `path: X is off-limits` or `path: only X`; None for free text."""
    found = _PATH_RULE.fullmatch(text.strip())
    if found is None:
        return None
    path = (found["where"] or found["path"]).strip("'\"`").removeprefix("./").rstrip("/")
    return PathRule(path=path, kind=(found["what"] or "only").lower(), text=text)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanLimits:
    """How large a plan may be."""

    max_steps: int = 50
    title_chars: int = 120
    description_chars: int = 2000
    acceptance_chars: int = 400
    max_acceptance: int = 10
    max_files: int = 30


@dataclass(frozen=True, slots=True)
class Finding:
    """One defect: `code` names its kind, `message` says what to do; the rest says where."""

    code: str
    message: str
    _: KW_ONLY
    step: str | None = None
    path: str | None = None
    requirement: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return only what is known."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class LintFacts:
    """What a plan is checked against; None means unknown and is not checked."""

    requirements: frozenset[str] | None = None  # the ids that must be covered
    retired: frozenset[str] = frozenset()  # ids that may still be named
    rules: tuple[PathRule, ...] = ()  # constraints on paths
    files: frozenset[str] | None = None  # every path of the codebase
    models: frozenset[str] | None = None  # the names a step may suggest
    left_usd: float | None = None  # what is left of the budget
    limits: PlanLimits = field(default_factory=PlanLimits)  # how large the plan may be


def lint(plan: Plan, facts: LintFacts | None = None) -> list[Finding]:
    """Return everything that is wrong with a plan, in the order of the rules."""
    survey = _Survey(plan, facts or LintFacts())
    return [finding for rule in RULES for finding in rule(survey)]


class _Survey:
    """A plan with what several rules need; a place is a step's number in it."""

    def __init__(self, plan: Plan, facts: LintFacts) -> None:
        self.plan, self.facts, self.steps = plan, facts, plan.steps
        self.position = {step.id: n for n, step in enumerate(self.steps)}
        self.cycle: list[str] = []  # the ids on a cycle; empty when there is none
        self.order: list[int] = []  # places in an order that respects dependencies; empty when the plan is cyclic
        graph = {step.id: [name for name in step.depends_on if name in self.position] for step in self.steps}
        try:
            self.order = [self.position[name] for name in TopologicalSorter(graph).static_order()]
        except CycleError as error:
            self.cycle = [str(name) for name in error.args[1]]
        self.before = [0] * len(self.steps)  # for each place the steps that come before it, as a bit set over places
        for n in self.order:
            for name in graph[self.steps[n].id]:
                self.before[n] |= self.before[self.position[name]] | 1 << self.position[name]
        # Every file of every step that is not finished; what finished ones did is on disk already.
        self.changes: list[tuple[int, PlanStep, FileChange]] = [
            (n, step, change) for n, step in enumerate(self.steps) if step.status != "done" for change in step.files
        ]


def _step_count(survey: _Survey) -> Iterator[Finding]:
    count, most = len(survey.steps), survey.facts.limits.max_steps
    if not count:
        yield Finding("no_steps", "the plan has no steps")
    if count > most:
        yield Finding("too_many_steps", f"{count} steps, at most {most} are allowed")


def _duplicate_ids(survey: _Survey) -> Iterator[Finding]:
    for name, count in Counter(step.id for step in survey.steps).items():
        if count > 1:
            yield Finding("duplicate_id", f"{count} steps have the id {name}", step=name)


def _dependencies(survey: _Survey) -> Iterator[Finding]:
    for own, name in ((step.id, name) for step in survey.steps for name in step.depends_on):
        if name == own:
            yield Finding("self_dependency", f"{own} depends on itself", step=own)
        elif name not in survey.position:
            yield Finding("dangling_dependency", f"{own} depends on {name}, which is no step of this plan", step=own)


def _cycles(survey: _Survey) -> Iterator[Finding]:
    if len(set(survey.cycle)) > 1:
        yield Finding("cycle", f"dependencies form a cycle: {' -> '.join(survey.cycle)}", step=survey.cycle[0])


def _texts(survey: _Survey) -> Iterator[Finding]:
    for step in survey.steps:
        if not step.title.strip():
            yield Finding("missing_title", f"{step.id} has no title", step=step.id)
        if not any(item.strip() for item in step.acceptance):
            message = f"{step.id} has no acceptance criterion: say how to see that it is done"
            yield Finding("missing_acceptance", message, step=step.id)


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
                yield Finding("too_large", f"{what} of {step.id} is {size}, at most {most} is allowed", step=step.id)


def _coverage(survey: _Survey) -> Iterator[Finding]:
    wanted = survey.facts.requirements
    if wanted is None:
        return
    covered = {name: step.id for step in survey.steps for name in step.covers}
    for name in sorted(covered.keys() - wanted - survey.facts.retired):
        message = f"{covered[name]} covers {name}, which is no requirement"
        yield Finding("unknown_requirement", message, step=covered[name], requirement=name)
    for name in sorted(wanted - covered.keys()):
        yield Finding("uncovered_requirement", f"no step covers {name}", requirement=name)


def _paths(survey: _Survey) -> Iterator[Finding]:
    for _, step, change in survey.changes:
        path = change.path
        if not path or path.startswith(("/", "~")) or "\\" in path or ".." in path.split("/") or path[1:2] == ":":
            message = f"{step.id}: {path!r} is not a POSIX path inside the codebase"
            yield Finding("bad_path", message, step=step.id, path=path)
        for rule in survey.facts.rules:
            if rule.forbids(change):
                message = f"{step.id} would {change.op} {path}, against the constraint {rule.text!r}"
                yield Finding("constraint_violated", message, step=step.id, path=path)


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
            found = "create_exists", f"{step.id} creates {path}, which exists: edit it"
        elif change.op != "create" and deleted and not created:
            found = "use_after_delete", f"{step.id} would {change.op} {path}, which an earlier step deletes"
        elif change.op != "create" and not exists and not created:
            why = "does not exist and no earlier step creates"
            found = "unknown_file", f"{step.id} would {change.op} {path}, which {why}"
        else:
            continue
        yield Finding(*found, step=step.id, path=path)


def _write_conflicts(survey: _Survey) -> Iterator[Finding]:
    """In dependency order, all writers of a file are ordered if and only if every neighbouring pair is."""
    place = {n: rank for rank, n in enumerate(survey.order)}
    writers: dict[str, list[int]] = defaultdict(list)
    for n, _, change in survey.changes:
        if change.op != "read" and n in place:  # steps of one id, which is a defect of its own, have no place
            writers[change.path].append(n)
    for path, found in writers.items():
        for first, second in pairwise(sorted(set(found), key=place.__getitem__) if len(found) > 1 else ()):
            if not survey.before[second] >> first & 1:
                a, b = survey.steps[first].id, survey.steps[second].id
                message = f"{a} and {b} both write {path}, and neither comes first: make one depend on the other"
                yield Finding("write_conflict", message, step=b, path=path)


def _models(survey: _Survey) -> Iterator[Finding]:
    known = survey.facts.models
    for step in survey.steps if known is not None else ():
        name = step.suggested_model
        if name is not None and name not in (known or ()):
            yield Finding("unknown_model", f"{step.id} suggests {name}, which is not configured", step=step.id)


def _cost(survey: _Survey) -> Iterator[Finding]:
    left = survey.facts.left_usd
    likely = (survey.plan.metadata.get("cost_usd") or {}).get("likely")
    if left is not None and likely is not None and likely > left:
        message = f"the plan will likely cost {likely:.4f} USD, {left:.4f} USD of the budget are left"
        yield Finding("over_budget", message)


RULES: tuple[Callable[[_Survey], Iterator[Finding]], ...] = (
    *(_step_count, _duplicate_ids, _dependencies, _cycles),
    *(_texts, _sizes, _coverage),
    *(_paths, _existence, _write_conflicts),
    *(_models, _cost),
)
