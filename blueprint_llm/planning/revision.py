"""Compares two plans by what their steps say, not by how they are numbered."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from blueprint_llm.types import Plan, PlanStep


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanDiff:
    """Ids of steps: `removed` in the old plan, the others in the new one."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, list[str]]:
        """Lists for JSON."""
        return {key: list(value) for key, value in asdict(self).items()}


def diff_plans(old: Plan, new: Plan) -> PlanDiff:
    """What became of the steps; a step is the same when its title is, and kept when all of its content is."""
    before, after = _by_title(old), _by_title(new)
    both = after.keys() & before.keys()
    names_old, names_new = _titles(old), _titles(new)
    kept = {t for t in both if _content(before[t], names_old) == _content(after[t], names_new)}
    return PlanDiff(
        added=tuple(step.id for title, step in after.items() if title not in before),
        removed=tuple(step.id for title, step in before.items() if title not in after),
        changed=tuple(step.id for title, step in after.items() if title in both - kept),
        kept=tuple(step.id for title, step in after.items() if title in kept),
    )


def _title(step: PlanStep) -> str:
    return " ".join(step.title.casefold().split())


def _titles(plan: Plan) -> dict[str, str]:
    return {step.id: _title(step) for step in plan.steps}


def _by_title(plan: Plan) -> dict[tuple[str, int], PlanStep]:
    """Steps by title; the second of one title is its own."""
    found: dict[tuple[str, int], PlanStep] = {}
    for step in plan.steps:
        n = sum(title == _title(step) for title, _ in found)
        found[_title(step), n] = step
    return found


def _content(step: PlanStep, titles: dict[str, str]) -> tuple[object, ...]:
    files = sorted((change.path, change.op) for change in step.files)
    depends = sorted(titles.get(name, name) for name in step.depends_on)
    return step.description, depends, sorted(step.covers), files, step.acceptance
