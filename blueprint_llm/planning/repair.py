"""Mends in a plan only what cannot change its meaning, and says what it mended.

Ids are renumbered where every reference stays clear, and dependencies on nothing are dropped. Nothing is ever added:
no step, no coverage, no acceptance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blueprint_llm.types import PlanStep


def repair(steps: Sequence[PlanStep], ids: Sequence[str], known: frozenset[str]) -> tuple[list[PlanStep], list[str]]:
    """Return the steps under `ids`, their dependencies cleared, and a note for every change.

    Args:
        steps: The new steps, as the model wrote them.
        ids: The ids they should have.
        known: Ids of finished steps, which they may depend on.
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
