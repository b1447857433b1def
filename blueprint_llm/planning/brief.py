"""What a plan must honour, read once from the planning context: requirements, constraints, finished steps, limits.

A constraint of the form `path: ...` is proved by lint; every other one is passed on and marked unverified.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from blueprint_llm.types import FileChange, Plan, PlanningContext, PlanStep

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
    """How large a plan may be; the schema is written from it and the output cap follows from it."""

    max_steps: int = 50
    title_chars: int = 120
    description_chars: int = 2000
    acceptance_chars: int = 400
    max_acceptance: int = 10
    max_files: int = 30


# What a model is asked for: lint allows more, because people edit plans.
ASKED = PlanLimits(
    max_steps=12, title_chars=80, description_chars=300, acceptance_chars=120, max_acceptance=2, max_files=6
)
# Measured on plans of that shape: about 300 tokens a step of text, and 25 for each file.
_STEP_TOKENS, _FILE_TOKENS, _FRAME_TOKENS = 325, 25, 200


def output_tokens(limits: PlanLimits, *, with_files: bool) -> int:
    """Return the most tokens that a plan within the limits takes."""
    step = _STEP_TOKENS + (_FILE_TOKENS * limits.max_files if with_files else 0)
    return _FRAME_TOKENS + limits.max_steps * step


@dataclass(frozen=True, slots=True, kw_only=True)
class Brief:
    """The task in the planner's terms.

    Attributes:
        requirements: Their texts by id (`R1`, ...); a text keeps the id it had in the previous plan.
        retired: Ids that only finished steps may still name.
        rules: Constraints that lint proves.
        unverified: Constraints that code cannot prove.
        previous: The plan that is being revised.
        done: Its finished steps; they stay as they are.
    """

    goal: str
    requirements: Mapping[str, str]
    retired: frozenset[str] = frozenset()
    constraints: tuple[str, ...] = ()
    rules: tuple[PathRule, ...] = ()
    unverified: tuple[str, ...] = ()
    previous: Plan | None = None
    done: tuple[PlanStep, ...] = ()

    def step_ids(self, count: int) -> list[str]:
        """Return the ids of new steps, in order, next to those of the finished ones."""
        taken = {step.id for step in self.done}
        return [name for n in range(1, count + len(taken) + 1) if (name := f"S{n}") not in taken][:count]


def read_brief(context: PlanningContext) -> Brief:
    """Return the brief of a planning context; the last of the previous plans is the one revised."""
    previous = context.previous_plans[-1] if context.previous_plans else None
    known: Mapping[str, str] = previous.metadata.get("requirements", {}) if previous else {}
    ids = {text: name for name, text in known.items()}
    free = (name for n in itertools.count(1) if (name := f"R{n}") not in known)
    requirements = {ids.get(text) or next(free): text for text in dict.fromkeys(context.requirements)}
    rules = {text: read_constraint(text) for text in context.constraints}
    return Brief(
        goal=context.goal,
        requirements=requirements,
        retired=frozenset(known) - frozenset(requirements),
        constraints=tuple(context.constraints),
        rules=tuple(rule for rule in rules.values() if rule),
        unverified=tuple(text for text, rule in rules.items() if rule is None),
        previous=previous,
        done=tuple(step for step in previous.steps if step.status == "done") if previous else (),
    )
