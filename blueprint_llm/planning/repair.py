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
    """The steps under `ids`, their dependencies cleared, and a note for every change.

    Args:
        steps: The new steps, as the model wrote them.
        ids: The ids they should have.
        known: Ids of finished steps, which they may depend on.
    """
    names, notes = _new_names(steps, ids)
    mended = []
    for n, step in enumerate(steps):
        own = ids[n] if names is not None else step.id
        wanted = [(names or {}).get(name, name) for name in step.depends_on]
        present = known | (set(ids[: len(steps)]) if names is not None else {other.id for other in steps})
        kept = [name for name in dict.fromkeys(wanted) if name != own and name in present]
        notes += [f"{own}: dropped the dependency on {name}" for name in dict.fromkeys(wanted) if name not in kept]
        mended.append(step.model_copy(update={"id": own, "depends_on": kept}))
    return mended, notes


def _new_names(steps: Sequence[PlanStep], ids: Sequence[str]) -> tuple[dict[str, str] | None, list[str]]:
    """Old id to new; None where a doubled id is referred to, because then nobody can tell which one is meant."""
    old = [step.id for step in steps]
    doubled = {name for name in old if old.count(name) > 1}
    if doubled & {name for step in steps for name in step.depends_on}:
        return None, []
    names = dict(zip(old, ids, strict=False))
    return names, [f"renumbered {a} to {b}" for a, b in zip(old, ids, strict=False) if a != b]
