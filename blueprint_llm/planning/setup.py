"""Who may plan, with which means, as a client's configuration says."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from blueprint_llm import models
from blueprint_llm.config.paths import folder
from blueprint_llm.context.policy import policy_for
from blueprint_llm.engine.runtime import late
from blueprint_llm.planning.coordinator import PlanningCoordinator, PlanningSettings, PlanningTarget
from blueprint_llm.planning.plans import ModelChoice
from blueprint_llm.redaction import redact
from blueprint_llm.types import UsageInfo
from blueprint_llm.usage import Payer
from blueprint_llm.usage.money import NANO
from blueprint_llm.usage.pricing import cost

if TYPE_CHECKING:
    from blueprint_llm.engine.runtime import Runtime
    from blueprint_llm.planning.project import Chat
    from blueprint_llm.routing.targets import Target
    from blueprint_llm.types import Plan, PlanningContext
    from blueprint_llm.usage.stores.records import Level


async def make_plan(runtime: Runtime, context: PlanningContext, chat: Chat) -> Plan:
    """Plan with the configured providers, within what is left of the project's budgets. Raises PlanError."""
    limit_s = runtime.config.deadline.total_s
    try:
        async with asyncio.timeout(limit_s):
            tightest = await _tightest_budget(runtime)
    except TimeoutError as error:
        raise late(error, limit_s) from None
    configured = runtime.table.of_names(runtime.table.names)
    by_model = {target.model: target for target in configured}

    def price(model: str, input_tokens: int, output_tokens: int) -> float | None:
        card = runtime.price(by_model[model]) if model in by_model else None
        nano = cost(card, UsageInfo(prompt_tokens=input_tokens, completion_tokens=output_tokens)) if card else None
        return None if nano is None else nano / NANO

    planning = runtime.config.planning
    settings = PlanningSettings(
        choices=list(map(_choice, configured)),
        price=price,
        left_usd=None if tightest is None else max(0, tightest.charge.limit - tightest.used) / NANO,
        budget_blocks=tightest is not None and tightest.charge.on_exceed == "block",
        max_context_tokens=planning.max_context_tokens,
        summaries=planning.summaries,
        summary_folder=folder("cache") / "summaries",
        progress=lambda files: runtime.tell("planning.progress", level="debug", files=files),
    )
    # The planning provider, then the chain; each once.
    first = [planning.provider] if planning.provider else []
    chain = runtime.chains.get("planning") or runtime.chains.get("default") or ([] if first else runtime.table.names)
    targets = list(map(_planner, runtime.table.of_names(list(dict.fromkeys([*first, *chain])))))
    return await PlanningCoordinator(chat, targets, settings).plan(context)


async def _tightest_budget(runtime: Runtime) -> Level | None:
    payer = Payer(call_id="", provider="", model="", project=runtime.project, session=runtime.session)
    nothing = runtime.ledger.estimate(None, output_tokens=0)
    charges = [charge for charge in runtime.ledger.charges(payer, nothing) if charge.kind == "usd"]
    lasting = [charge for charge in charges if charge.window != "call"]
    levels = await runtime.store.levels(lasting) if lasting else ()
    return min(levels, key=lambda level: level.charge.limit - level.used, default=None)


def _planner(target: Target) -> PlanningTarget:
    facts = models.info(target.model)
    api_base, shared = target.params.get("api_base"), target.share_codebase
    return PlanningTarget(
        provider=target.provider,
        policy=policy_for(target.provider, target.model, api_base=api_base, share_codebase=shared, redact=redact),
        window_tokens=target.max_context_tokens or (facts.max_input_tokens if facts else None),
        max_output_tokens=facts.max_output_tokens if facts else None,
    )


def _choice(target: Target) -> ModelChoice:
    seen = _planner(target)
    strength = {"local": 0, "opus": 2}.get(target.role or target.provider, 0 if seen.policy.local else 1)
    return ModelChoice(
        name=target.provider,
        model=target.model,
        strength=strength,
        max_input_tokens=seen.window_tokens,
        shares_codebase=seen.policy.shares_codebase,
    )
