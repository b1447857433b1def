"""Who may plan, with which means, as a client's configuration says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blueprint_llm import models
from blueprint_llm.config.paths import folder
from blueprint_llm.context import policy_for
from blueprint_llm.engine.dispatch import input_window
from blueprint_llm.engine.steps import Store
from blueprint_llm.planning.coordinator import PlanningCoordinator, PlanningSettings, PlanningTarget
from blueprint_llm.planning.costs import ModelChoice
from blueprint_llm.planning.summaries import SummaryCache
from blueprint_llm.redaction import redact
from blueprint_llm.usage import Payer
from blueprint_llm.usage.pricing import Tokens, cost
from blueprint_llm.usage.stores.ops import Standing

if TYPE_CHECKING:
    from collections.abc import Generator

    from blueprint_llm.engine.parts import Parts
    from blueprint_llm.routing.targets import Target
    from blueprint_llm.types import Plan, PlanningContext
    from blueprint_llm.usage.stores.ops import Level

NANO = 10**9


def planning_walk(parts: Parts, context: PlanningContext) -> Generator[Any, Any, Plan]:
    """Plan with the configured providers, within what is left of the project's budgets. Raises PlanError."""
    levels = yield from _budgets(parts)
    tightest = min(levels, key=lambda level: level.charge.limit - level.used, default=None)
    settings = PlanningSettings(
        choices=[_choice(target) for target in _first_targets(parts, parts.table.names)],
        price=_Prices(parts),
        left_usd=None if tightest is None else max(0, tightest.charge.limit - tightest.used) / NANO,
        budget_blocks=tightest is not None and tightest.charge.on_exceed == "block",
        max_context_tokens=parts.config.planning.max_context_tokens,
        summaries=parts.config.planning.summaries,
        cache=SummaryCache(folder("cache") / "summaries"),
        progress=lambda files: parts.tell("planning.progress", level="debug", files=files),
    )
    targets = [_planner(target) for target in _first_targets(parts, _planners(parts))]
    return (yield from PlanningCoordinator(targets, settings).plan(context))


def _budgets(parts: Parts) -> Generator[Any, Any, tuple[Level, ...]]:
    payer = Payer(call_id="", provider="", model="", project=parts.project, session=parts.session)
    nothing = parts.ledger.estimate(None, input_tokens=0, output_tokens=0)
    charges = tuple(charge for charge in parts.ledger.charges(payer, nothing) if charge.kind == "usd")
    levels: tuple[Level, ...] = (yield Store(op=Standing(charges=charges))) if charges else ()
    return tuple(level for level in levels if level.charge.window != "call")


def _planners(parts: Parts) -> list[str]:
    """The planning provider, then the chain; each once."""
    first = [parts.config.planning.provider] if parts.config.planning.provider else []
    chain = parts.chains.get("planning") or parts.chains.get("default") or ([] if first else parts.table.names)
    return list(dict.fromkeys([*first, *chain]))


def _first_targets(parts: Parts, names: list[str]) -> list[Target]:
    return [found[0] for name in names if (found := parts.table.of_name(name))]


def _planner(target: Target) -> PlanningTarget:
    facts = models.info(target.model)
    return PlanningTarget(
        provider=target.provider,
        policy=policy_for(
            target.provider,
            target.model,
            api_base=target.params.get("api_base"),
            share_codebase=target.share_codebase,
            redact=redact,
        ),
        window_tokens=input_window(target, None),
        max_output_tokens=facts.max_output_tokens if facts else None,
    )


def _choice(target: Target) -> ModelChoice:
    policy = policy_for(
        target.provider, target.model, api_base=target.params.get("api_base"), share_codebase=target.share_codebase
    )
    strength = {"local": 0, "opus": 2}.get(target.role or target.provider, 0 if policy.local else 1)
    return ModelChoice(
        name=target.provider,
        model=target.model,
        strength=strength,
        max_input_tokens=input_window(target, None),
        shares_codebase=policy.shares_codebase,
    )


class _Prices:
    """USD of (model id, input tokens, output tokens); None where no price is known."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._targets = {target.model: target for target in _first_targets(parts, parts.table.names)}

    def __call__(self, model: str, input_tokens: int, output_tokens: int) -> float | None:
        card = self._parts.price(self._targets[model]) if model in self._targets else None
        return None if card is None else cost(card, Tokens(prompt=input_tokens, completion=output_tokens)) / NANO
