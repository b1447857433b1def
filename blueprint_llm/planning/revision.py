"""Compares two plans by what their steps say, not by how they are numbered."""

from __future__ import annotations

from collections import Counter
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
        """Return lists for JSON."""
        return {key: list(value) for key, value in asdict(self).items()}


def diff_plans(old: Plan, new: Plan) -> PlanDiff:
    """Return what became of the steps; a step is the same when its title is, and kept when all of its content is."""
    before, after = _by_title(old), _by_title(new)
    kept = {title for title, (_, content) in after.items() if title in before and before[title][1] == content}
    return PlanDiff(
        added=tuple(step.id for title, (step, _) in after.items() if title not in before),
        removed=tuple(step.id for title, (step, _) in before.items() if title not in after),
        changed=tuple(step.id for title, (step, _) in after.items() if title in before and title not in kept),
        kept=tuple(step.id for title, (step, _) in after.items() if title in kept),
    )


def _by_title(plan: Plan) -> dict[tuple[str, int], tuple[PlanStep, tuple[object, ...]]]:
    """Return steps and their content by title; the second of one title is its own."""
    titles = {step.id: " ".join(step.title.casefold().split()) for step in plan.steps}
    seen: Counter[str] = Counter()
    found: dict[tuple[str, int], tuple[PlanStep, tuple[object, ...]]] = {}
    for step in plan.steps:
        files = sorted((change.path, change.op) for change in step.files)
        depends = sorted(titles.get(name, name) for name in step.depends_on)
        content = step.description, depends, sorted(step.covers), files, step.acceptance
        found[titles[step.id], seen[titles[step.id]]] = step, content
        seen[titles[step.id]] += 1
    return found
