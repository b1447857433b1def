"""Plan a route, for a call or only to say what a call would do: one code for both."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from blueprint_llm import models
from blueprint_llm.adapters.local import embedded
from blueprint_llm.adapters.router import RouterAdapter
from blueprint_llm.config.problems import nearest
from blueprint_llm.engine.cached import lookup
from blueprint_llm.engine.endpoints import target_of
from blueprint_llm.engine.fallback import FallbackManager
from blueprint_llm.engine.prepare import call_for, input_tokens, input_window
from blueprint_llm.engine.reservation import CircuitOpen, LimitReached, limits_of, reservation_for
from blueprint_llm.engine.state import RequestState
from blueprint_llm.errors import BlueprintError, ContextDoesNotFitError, CredentialsError, InvalidRequestError
from blueprint_llm.routing.rules import Question, choose, screen
from blueprint_llm.routing.targets import Target, litellm_provider
from blueprint_llm.trace import AttemptTrace, Trace
from blueprint_llm.types import Considered, ModelInfo, RouteDecision
from blueprint_llm.usage import Payer
from blueprint_llm.usage import standing as limit_status
from blueprint_llm.usage.money import NANO

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from blueprint_llm.engine.reservation import AttemptReservation
    from blueprint_llm.engine.runtime import Runtime
    from blueprint_llm.routing.rules import Route, Screen
    from blueprint_llm.types import ChatRequest
    from blueprint_llm.usage.stores.records import Charge, Level

NO_ESTIMATE = {"worst_cost_usd": None}


async def plan(runtime: Runtime, request: ChatRequest) -> Route:
    """Choose and screen the targets of a request; reserves nothing. Raises InvalidRequestError."""
    question = Question(
        request=request,
        config=runtime.config,
        table=runtime.table,
        chains=runtime.chains,
        input_tokens=input_tokens(request) if runtime.config.routes else 0,  # only routes ask
        budget_used=await _budget_used(runtime, request),
        planning=request.task_type == "planning",
    )
    needs = frozenset(_needs(request))
    checks: list[Screen] = [partial(_lacks_key, runtime), *([partial(_lacks_ability, needs)] if needs else [])]
    return screen(choose(question), checks)


def _lacks_key(runtime: Runtime, target: Target) -> str | None:
    if litellm_provider(target.model) == "embedded":
        return embedded.unavailable(target.model)
    available = runtime.credentials.available
    deployments = runtime.table.deployments(target)
    if target.params.get("api_key") or not deployments:
        reason = available(target.provider, model=target.model, params=target.params)
        return reason and f"{reason}{_meant(runtime, target)}"
    reasons = [
        available(target.provider, model=each.model, params={**each.params, **target.params}) for each in deployments
    ]
    return None if None in reasons else reasons[0]


def _meant(runtime: Runtime, target: Target) -> str:
    """Return the model that may have been meant, where a target without a key is of no model that is known."""
    if models.known(target.model):
        return ""
    named = {target.model, target.model.partition("/")[2]}
    configured = {*runtime.config.model_groups, *(each.model for each in runtime.config.providers.values())} - named
    near = nearest(target.model, configured, cutoff=0.8) or nearest(target.model, models.model_map(), cutoff=0.8)
    return f"; no model {target.model!r} is known, did you mean {near!r}?" if near else ""


def _needs(request: ChatRequest) -> Iterator[str]:
    """What not every model can."""
    if request.tools:
        yield "tools"
    if _has_image(request):
        yield "vision"


def _has_image(request: ChatRequest) -> bool:
    parts = (part for message in request.messages if isinstance(message.content, list) for part in message.content)
    return any(isinstance(part, dict) and part.get("type") in {"image_url", "image"} for part in parts)


def _lacks_ability(needs: frozenset[str], target: Target) -> str | None:
    """What the request needs and the model is known not to have."""
    facts = models.info(target.model) or models.ModelFacts()
    if "tools" in needs and target.info.get("supports_function_calling", facts.supports_tools) is False:
        return "the model takes no tools"
    if "vision" in needs and target.info.get("supports_vision", facts.supports_vision) is False:
        return "the model sees no images"
    return None


async def _budget_used(runtime: Runtime, request: ChatRequest) -> dict[str, float]:
    """Return the used share of each budget that a route asks about."""
    scopes = {rule.when.budget_used.scope or "project" for rule in runtime.config.routes if rule.when.budget_used}
    charges = [charge for scope in scopes for charge in _charges_of(runtime, scope, request)]
    levels = await runtime.store.levels(charges) if charges else ()
    return {level.charge.scope: level.share for level in levels}


def _charges_of(runtime: Runtime, scope: str, request: ChatRequest) -> list[Charge]:
    kind, _, name = scope.partition(":")
    named = {kind: name} if kind in {"provider", "model"} else {}
    who: dict[str, Any] = {"provider": "", "model": "", **named}
    payer = Payer(call_id="", project=request.project, session=request.session, **who)
    nothing = runtime.ledger.estimate(None, input_tokens=0, output_tokens=0)
    return [each for each in runtime.ledger.charges(payer, nothing) if each.scope == scope and each.kind == "usd"]


async def explain(runtime: Runtime, request: ChatRequest) -> RouteDecision:
    """Return what a call would do. Sends nothing, reserves nothing, never raises for an impossible request."""
    trace, now = Trace(id=runtime.new_id(), policy_hash=runtime.config.digest), runtime.now()
    until = now + (request.deadline_s or runtime.config.deadline.total_s)
    state = RequestState(runtime=runtime, request=request, trace=trace, began=now, started=now, deadline=until)
    served, looks = [], []
    try:
        async with asyncio.timeout_at(until):
            route = await plan(runtime, request)
            trace.set_route(route.rule, route.chain, route.considered)
            fallback = FallbackManager(route, state)
            for target in fallback if route.targets else ():
                looks.append(look := await _look(state, target, force=fallback.force))
                if look.refusal is None:
                    served.append(look)
                    fallback.would_serve(target)
                else:
                    fallback.refuse(target, look.refusal)
    except TimeoutError as error:
        return _impossible(trace, state.late(error))
    except BlueprintError as error:
        return _impossible(trace, error)
    first = next(iter(served or looks), None)
    return RouteDecision(
        targets=[_target(look.target) for look in served],
        rule=route.rule,
        chain=route.chain,
        considered=[Considered(**row) for row in trace.route["considered"]],
        estimate={"input_tokens": input_tokens(request), **(served[0].estimate if served else NO_ESTIMATE)},
        cache=first.cache if first else "off",
        budgets=[limit_status(level) for level in first.levels] if first else [],
        trace=trace.to_dict(),
    )


def _impossible(trace: Trace, error: BlueprintError) -> RouteDecision:
    return RouteDecision(rule="none", estimate={**NO_ESTIMATE, "error": str(error)}, trace=trace.to_dict())


class _Look(NamedTuple):
    """What an attempt at one target would meet, up to its reservation.

    Attributes:
        refusal: Why nothing would be sent.
    """

    target: Target
    refusal: Exception | None = None
    cache: Literal["hit", "miss", "off"] = "off"
    levels: tuple[Level, ...] = ()
    estimate: Mapping[str, Any] = NO_ESTIMATE


async def _look(state: RequestState, target: Target, *, force: bool) -> _Look:
    """Return what a call would meet at a target, in the call's order: the cache, the window, the key, the limits."""
    runtime, request = state.runtime, state.request
    kept = await lookup(runtime, request, target)
    reservations = await _reservations(state, target)
    cap = reservations[0].cap()
    try:
        call = call_for(runtime, request, target, trace=state.trace, output_tokens=cap.send)
    except (ContextDoesNotFitError, CredentialsError) as error:
        return _Look(target, None if kept == "hit" else error, kept)
    refusals: list[Exception | None] = []
    for reservation in reservations:
        try:
            await reservation.look(call, reservation.cap(), force=force or runtime.is_routed(target))
        except (LimitReached, CircuitOpen) as reached:
            refusals.append(reached)
        else:
            refusals.append(None)
    n = refusals.index(None) if None in refusals else 0  # the Router goes on to the next deployment of a group
    refusal, worst = refusals[n], reservations[n].worst(call, cap).usd
    if refusal is None and not force and isinstance(adapter := runtime.adapter(target), RouterAdapter):
        reason = await _router_refusal(state, target, adapter)
        refusal = CircuitOpen(reason) if reason else None
    estimate = {
        "worst_cost_usd": None if worst is None else worst / NANO,
        "input_window": input_window(target, request.max_tokens),
    }
    return _Look(target, None if kept == "hit" else refusal, kept, reservations[n].levels, estimate)


async def _router_refusal(state: RequestState, target: Target, adapter: RouterAdapter) -> str | None:
    """Return why the Router would not serve a group now: in its words, or since all of its deployments rest."""
    runtime = state.runtime
    filters = bool(runtime.config.router_settings.get("enable_tag_filtering"))
    if reason := await adapter.refusal(state.request.metadata or {}, filters=filters):
        return reason
    asked = [_inside(runtime, target, attempt).key for attempt in await adapter.attempts()]
    resting = [each for each in (await runtime.store.breakers(asked)).values() if each.state == "open"]
    if not asked or len(resting) < len(set(asked)):
        return None
    soonest = min(resting, key=lambda each: each.retry_in_s)
    return f"circuit open for {soonest.retry_in_s:.1f} s after {soonest.failures} failures in a row"


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


def _target(target: Target) -> dict[str, Any]:
    return {"provider": target.provider, "model": target.model, "deployment": target.deployment or None}


def list_models(runtime: Runtime, provider: str | None = None) -> list[ModelInfo]:
    """Return every target of the configuration, with what LiteLLM's map says of its model; asks no network."""
    names = runtime.table.names
    if provider is not None and provider not in names:
        raise InvalidRequestError(f"unknown provider {provider!r}; known: {', '.join(names)}")
    targets = runtime.table.of_names(names if provider is None else [provider])
    return [_model_info(runtime, target) for target in targets]


def _model_info(runtime: Runtime, target: Target) -> ModelInfo:
    facts = models.info(target.model) or models.ModelFacts()
    card = runtime.price(target)
    reason = _lacks_key(runtime, target)
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
