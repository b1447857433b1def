"""Plan a route, for a call or only to say what a call would do: one code for both."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from blueprint_llm import models
from blueprint_llm.adapters.local import embedded
from blueprint_llm.adapters.router import RouterAdapter
from blueprint_llm.config.problems import nearest
from blueprint_llm.engine.cached import lookup
from blueprint_llm.engine.prepare import call_for, input_tokens, input_window
from blueprint_llm.engine.reservation import reservation_for
from blueprint_llm.errors import BlueprintError, ContextDoesNotFitError, CredentialsError, InvalidRequestError
from blueprint_llm.routing.rules import Question, choose, screen
from blueprint_llm.routing.targets import Target, litellm_provider
from blueprint_llm.trace import AttemptTrace, Trace
from blueprint_llm.types import Considered, ModelInfo, RouteDecision
from blueprint_llm.usage import Payer, denial
from blueprint_llm.usage import standing as limit_status
from blueprint_llm.usage.money import NANO

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blueprint_llm.engine.runtime import Runtime
    from blueprint_llm.routing.rules import Route, Screen
    from blueprint_llm.types import ChatRequest
    from blueprint_llm.usage.stores.records import Charge, Level


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
    trace = Trace(id=runtime.new_id(), policy_hash=runtime.config.digest)
    try:
        route = await plan(runtime, request)
    except BlueprintError as error:
        return RouteDecision(rule="none", estimate={"worst_cost_usd": None, "error": str(error)}, trace=trace.to_dict())
    looks = [await _Look.at(runtime, request, target, trace) for target in route.targets]
    reasons = {look.target.key: look.reason for look in looks if look.reason}
    open_looks = [look for look in looks if not look.reason]
    if looks and all(look.is_circuit for look in looks):  # then a call still tries the first of them once
        open_looks = looks[:1]
    considered = _considered(route, reasons, {look.target.key for look in open_looks})
    trace.set_route(route.rule, route.chain, considered)
    size = input_tokens(request)
    estimate = open_looks[0].estimate if open_looks else {"worst_cost_usd": None}
    shown = open_looks or looks
    return RouteDecision(
        targets=[_target(look.target) for look in open_looks],
        rule=route.rule,
        chain=route.chain,
        considered=considered,
        estimate={"input_tokens": size, **estimate},
        cache=await lookup(runtime, request, route.targets[0]) if route.targets else "off",
        budgets=[limit_status(level) for level in shown[0].levels] if shown else [],
        trace=trace.to_dict(),
    )


class _Look:
    """What an attempt at one target would meet, up to its reservation."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.reason: str | None = None
        self.is_circuit = False
        self.levels: tuple[Level, ...] = ()
        self.estimate: dict[str, Any] = {"worst_cost_usd": None}

    @classmethod
    async def at(cls, runtime: Runtime, request: ChatRequest, target: Target, trace: Trace) -> _Look:
        """Prepare a call as an attempt does and compare it with every limit, in the attempt's order."""
        look = cls(target)
        row = AttemptTrace(n=1, provider=target.provider, model=target.model)
        reservation = reservation_for(runtime, request, target, trace=trace, row=row)
        cap = reservation.cap()
        try:
            call = call_for(runtime, request, target, trace=trace, output_tokens=cap.send)
        except (ContextDoesNotFitError, CredentialsError) as error:
            look.reason = str(error)
            return look
        worst = reservation.worst(call, cap)
        usd = None if worst.usd is None else worst.usd / NANO
        look.estimate = {"worst_cost_usd": usd, "input_window": input_window(target, request.max_tokens)}
        look.reason = runtime.ledger.unpriced(reservation.payer, worst)
        charges = runtime.ledger.charges(reservation.payer, worst)
        look.levels = await runtime.store.levels(charges) if charges else ()
        refusing = next((level for level in look.levels if _refuses(level)), None)
        breaker = (await runtime.store.breakers([target.key])).get(target.key)
        if refusing is not None:
            look.reason = str(denial(refusing))
        elif isinstance(adapter := runtime.adapter(target), RouterAdapter):
            look.reason = look.reason or adapter.refusal()
        elif breaker is not None and breaker.state == "open":
            look.reason = f"circuit open for {breaker.retry_in_s:.1f} s after failures"
            look.is_circuit = True
        return look


def _refuses(level: Level) -> bool:
    """Return True if the store would refuse the charge: it does not fit beside what is used."""
    charge = level.charge
    return charge.on_exceed != "warn" and level.used + charge.amount > charge.limit


def _considered(route: Route, reasons: dict[str, str], served: set[str]) -> list[Considered]:
    """Return the route's rows as they stand now: the first of those that can serve is chosen, the rest skipped."""
    targets = iter(route.targets)
    rows, chosen = [], False
    for row in route.considered:
        if row.verdict == "skipped":
            rows.append(row)
            continue
        key = next(targets).key
        verdict = "skipped" if key not in served else "standby" if chosen else "chosen"
        chosen = chosen or verdict == "chosen"
        rows.append(row.model_copy(update={"verdict": verdict, "reason": reasons.get(key, row.reason)}))
    return rows


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
