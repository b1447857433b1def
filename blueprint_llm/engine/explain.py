"""Say what a call would do: the call's own steps up to the reservation, with nothing sent and nothing taken."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from blueprint_llm import models
from blueprint_llm.adapters.router import RouterAdapter
from blueprint_llm.engine.cached import key_for
from blueprint_llm.engine.endpoints import target_of
from blueprint_llm.engine.fallback import FallbackManager, lacks_key, plan
from blueprint_llm.engine.prepare import call_for, input_tokens, input_window
from blueprint_llm.engine.reservation import CircuitOpen, LimitReached, limits_of, reservation_for
from blueprint_llm.engine.runtime import RequestState
from blueprint_llm.errors import BlueprintError, ContextDoesNotFitError, CredentialsError, InvalidRequestError
from blueprint_llm.trace import AttemptTrace, Trace
from blueprint_llm.types import Considered, ModelInfo, RouteDecision
from blueprint_llm.usage import standing as limit_status
from blueprint_llm.usage.money import NANO

if TYPE_CHECKING:
    from collections.abc import Mapping

    from blueprint_llm.engine.reservation import AttemptReservation
    from blueprint_llm.engine.runtime import Runtime
    from blueprint_llm.routing.targets import Target
    from blueprint_llm.types import ChatRequest

NO_ESTIMATE: dict[str, Any] = {"worst_cost_usd": None}


async def explain(runtime: Runtime, request: ChatRequest) -> RouteDecision:
    """Return what a call would do. Sends nothing, reserves nothing, never raises for an impossible request."""
    trace = Trace(id=runtime.new_id(), policy_hash=runtime.config.digest)
    state = RequestState(runtime=runtime, request=request, trace=trace)
    state.start(request.deadline_s or runtime.config.deadline.total_s)
    served: list[Target] = []
    found: dict[str, Any] = {}
    try:
        async with asyncio.timeout_at(state.deadline):
            route = await plan(runtime, request)
            trace.set_route(route.rule, route.chain, route.considered)
            fallback = FallbackManager(route, state)
            for target in fallback if route.targets else ():
                refusal, facts = await _look(state, target, force=fallback.force)
                if refusal is None:
                    found = found if served else facts
                    served.append(target)
                    fallback.would_serve(target)
                else:
                    found = found or {**facts, "estimate": NO_ESTIMATE}
                    fallback.refuse(target, refusal)
    except (BlueprintError, TimeoutError) as error:
        told = str(error if isinstance(error, BlueprintError) else state.late(error))
        return RouteDecision(rule="none", estimate={**NO_ESTIMATE, "error": told}, trace=trace.to_dict())
    return RouteDecision(
        targets=[
            {"provider": each.provider, "model": each.model, "deployment": each.deployment or None} for each in served
        ],
        rule=route.rule,
        chain=route.chain,
        considered=[Considered(**row) for row in trace.route["considered"]],
        estimate={"input_tokens": input_tokens(request), **found.pop("estimate", NO_ESTIMATE)},
        **found,
        trace=trace.to_dict(),
    )


async def _look(state: RequestState, target: Target, *, force: bool) -> tuple[Exception | None, dict[str, Any]]:
    """Return why a call would send nothing to a target, and what it would meet there.

    In the call's order: the cache, the window, the key, the limits.
    """
    runtime, request = state.runtime, state.request
    key = key_for(runtime, request, target)
    is_kept = key is not None and await runtime.cache.lookup(key, max_age_s=request.cache_ttl_s) is not None
    facts: dict[str, Any] = {"cache": "off" if key is None else "hit" if is_kept else "miss"}
    reservations = await _reservations(state, target)
    cap = reservations[0].cap()
    try:
        call = call_for(state, target, output_tokens=cap.send)
    except (ContextDoesNotFitError, CredentialsError) as error:
        return None if is_kept else error, {**facts, "estimate": NO_ESTIMATE}
    refusals: list[Exception | None] = []
    for each in reservations:
        try:
            await each.look(call, each.cap(), force=force)
        except (LimitReached, CircuitOpen) as reached:
            refusals.append(reached)
        else:
            refusals.append(None)
    n = refusals.index(None) if None in refusals else 0  # a group goes on to the next of its deployments
    refusal, worst = refusals[n], reservations[n].worst(call, cap).usd
    if refusal is None and not force and isinstance(adapter := runtime.adapter(target), RouterAdapter):
        closed = [each.target.deployment for each, why in zip(reservations, refusals, strict=True) if why]
        filters = bool(runtime.config.router_settings.get("enable_tag_filtering"))
        reason = await adapter.refusal(request.metadata or {}, closed, filters=filters)
        refusal = CircuitOpen(reason) if reason else None
    worst_usd = None if worst is None else worst / NANO
    facts["estimate"] = {"worst_cost_usd": worst_usd, "input_window": input_window(target, request.max_tokens)}
    facts["budgets"] = [limit_status(level) for level in reservations[n].levels]
    return None if is_kept else refusal, facts


async def _reservations(state: RequestState, target: Target) -> list[AttemptReservation]:
    """Return what an attempt would reserve; of a group, deployment by deployment, as the guard inside the Router."""
    runtime = state.runtime
    row = AttemptTrace(n=1, provider=target.provider, model=target.model)
    make = partial(reservation_for, runtime, state.request, trace=state.trace, row=row)
    adapter = runtime.adapter(target)
    if not isinstance(adapter, RouterAdapter):
        return [make(target)]
    listed = [
        {**each.params, "model": each.model, "model_info": {**each.info, "id": each.id or "?"}}
        for each in runtime.table.deployments(target)
    ]
    limited = any(limits_of(runtime, _inside(runtime, target, keywords), keywords) for keywords in listed)
    attempts = await adapter.attempts(made=limited) or listed  # only the Router knows the ids that limits go by
    deployments = [(_inside(runtime, target, keywords), keywords) for keywords in attempts]
    return [make(each, limits=limits_of(runtime, each, keywords)) for each, keywords in deployments]


def _inside(runtime: Runtime, target: Target, keywords: Mapping[str, Any]) -> Target:
    """Return a deployment of a group as the guard inside the Router knows it."""
    found = target_of(runtime, {**keywords, "metadata": {"model_group": target.group}})
    model = target.model if "*" in found.model else found.model
    return replace(found, provider=target.provider, model=model, params={**found.params, **target.params})


def list_models(runtime: Runtime, provider: str | None = None) -> list[ModelInfo]:
    """Return every target of the configuration, with what LiteLLM's map says of its model; asks no network."""
    names = runtime.table.names
    if provider is not None and provider not in names:
        raise InvalidRequestError(f"unknown provider {provider!r}; known: {', '.join(names)}")
    return [_model_info(runtime, target) for target in runtime.table.of_names([provider] if provider else names)]


def _model_info(runtime: Runtime, target: Target) -> ModelInfo:
    facts = models.info(target.model) or models.ModelFacts()
    card, reason = runtime.price(target), lacks_key(runtime, target)
    return ModelInfo(
        id=target.model,
        provider=target.provider,
        max_input_tokens=target.max_context_tokens or facts.max_input_tokens,
        max_output_tokens=facts.max_output_tokens,
        supports_tools=facts.supports_tools,
        price=card.per_mtok() if card else None,
        available=reason is None,
        reason=reason,
    )
