"""Suggests a model for each step and says what the step will cost, low, likely and high.

A step is carried out by a loop of model turns, each of which reads the files again; how many turns is the large
unknown, so the three figures are three numbers of turns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from blueprint_llm.types import Plan, PlanStep

Price = Callable[[str, int, int], float | None]

# Assumed turns of the tool loop; tokens of prompt and tool schemas a turn, and of text that a turn writes.
_TURNS: Mapping[str, int] = {"low": 2, "likely": 5, "high": 12}
_PROMPT_TOKENS, _ANSWER_TOKENS, _WRITE_TOKENS = 2000, 300, 600
_NEW_FILE_TOKENS = 1500
_STRENGTH: Mapping[str, int] = {"low": 0, "medium": 1, "high": 2}
_MEDIUM_WEIGHT, _HIGH_WEIGHT = 3, 7


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


def complexity(step: PlanStep) -> Literal["low", "medium", "high"]:
    """How hard a step is: what it writes, what it must satisfy, what it builds on."""
    writes = sum(change.op != "read" for change in step.files)
    weight = 2 * writes + len(step.acceptance) + len(step.depends_on) + len(step.covers)
    return "high" if weight >= _HIGH_WEIGHT else "medium" if weight >= _MEDIUM_WEIGHT else "low"


def with_costs(plan: Plan, choices: Sequence[ModelChoice], price: Price, sizes: Mapping[str, int]) -> Plan:
    """The plan with a model and a cost for every unfinished step, and the total in `metadata["cost_usd"]`.

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
    metadata: dict[str, Any] = {**plan.metadata, "cost_usd": total}
    return Plan.model_validate(
        {**plan.model_dump(), "steps": steps, "suggested_models": suggested, "metadata": metadata}
    )


def _costed(step: PlanStep, choices: Sequence[ModelChoice], price: Price, sizes: Mapping[str, int]) -> PlanStep:
    """Choose the cheapest model that is strong and large enough, else the strongest that fits; unknown prices last."""
    read = _PROMPT_TOKENS + sum(sizes.get(change.path, _NEW_FILE_TOKENS) for change in step.files)
    written = _ANSWER_TOKENS + _WRITE_TOKENS * sum(change.op in {"edit", "create"} for change in step.files)
    fitting = [
        choice
        for choice in choices
        if (choice.max_input_tokens or read) >= read and (choice.shares_codebase or not step.files)
    ]
    needed = min(_STRENGTH[complexity(step)], max((choice.strength for choice in fitting), default=0))
    costs = [(price(choice.model, read, written), choice.name) for choice in fitting if choice.strength >= needed]
    once, name = min(costs, key=lambda pair: (pair[0] is None, pair[0] or 0.0), default=(None, None))
    cost = None if once is None else {what: round(once * turns, 6) for what, turns in _TURNS.items()}
    return step.model_copy(update={"suggested_model": name, "estimated_cost_usd": cost})
