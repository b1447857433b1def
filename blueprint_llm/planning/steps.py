"""What code does with the steps that a model wrote: it mends them, prices them, and compares them with earlier ones.

Mended is only what cannot change the meaning: ids are renumbered where every reference stays clear, and dependencies on
nothing are dropped. Nothing is ever added: no step, no coverage, no acceptance.
"""

from __future__ import annotations

from bisect import bisect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from blueprint_llm.types import Plan, PlanStep

Price = Callable[[str, int, int], float | None]

# A step is carried out by a loop of model turns, each of which reads the files again; how many turns is the large
# unknown, so the three figures are three numbers of turns. Then tokens of prompt and tool schemas a turn, and of text
# that a turn writes.
_TURNS: Mapping[str, int] = {"low": 2, "likely": 5, "high": 12}
_PROMPT_TOKENS, _ANSWER_TOKENS, _WRITE_TOKENS = 2000, 300, 600
_NEW_FILE_TOKENS = 1500
_WEIGHTS = (3, 7)  # from where on a step needs a model of strength 1, and of 2


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChoice:
    """A configured model that may carry out steps.

    Attributes:
        name: Its key of `providers`; what a step suggests.
        strength: 0 simple steps, 1 ordinary ones, 2 hard ones.
        shares_codebase: Whether it may be shown files.
    """

    name: str
    model: str
    strength: int = 1
    max_input_tokens: int | None = None
    shares_codebase: bool = True


def with_costs(plan: Plan, choices: Sequence[ModelChoice], price: Price, sizes: Mapping[str, int]) -> Plan:
    """Return the plan with a model and a cost for every unfinished step, and the total in `metadata["cost_usd"]`.

    Args:
        plan: A plan without costs.
        choices: Who may carry out steps.
        price: USD of (model id, input tokens, output tokens); None where no price is known.
        sizes: Tokens of the codebase's files by path.
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
    """Return what became of the steps by what they say, not by how they are numbered.

    A step is the same when its title is, and kept when all of its content is.
    """
    before, after = _by_title(old), _by_title(new)
    kept = {title for title, (_, content) in after.items() if title in before and before[title][1] == content}
    return PlanDiff(
        added=tuple(name for title, (name, _) in after.items() if title not in before),
        removed=tuple(name for title, (name, _) in before.items() if title not in after),
        changed=tuple(name for title, (name, _) in after.items() if title in before and title not in kept),
        kept=tuple(name for title, (name, _) in after.items() if title in kept),
    )


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
