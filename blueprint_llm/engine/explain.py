"""Plan a route, for a call or only to say what a call would do: one code for both."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from blueprint_llm import models, tags
from blueprint_llm.adapters.local import embedded
from blueprint_llm.engine.accounts import NANO, Account, answers_of
from blueprint_llm.engine.cached import peek
from blueprint_llm.engine.dispatch import input_tokens, input_window
from blueprint_llm.engine.steps import Draw, Now, Step, Store
from blueprint_llm.errors import BlueprintError, InvalidRequestError
from blueprint_llm.routing.rules import Choice, Question, Route, choose, screen
from blueprint_llm.routing.targets import Target, litellm_provider
from blueprint_llm.strategies import arranged
from blueprint_llm.trace import AttemptTrace, Trace
from blueprint_llm.types import ModelInfo, RouteDecision
from blueprint_llm.usage import Payer, standing
from blueprint_llm.usage.stores.ops import BreakerStates, Standing

if TYPE_CHECKING:
    from blueprint_llm.engine.parts import Parts
    from blueprint_llm.routing.rules import Screen
    from blueprint_llm.types import ChatRequest
    from blueprint_llm.usage.stores.ops import Charge

Steps = Generator[Step, Any, Any]


def plan(parts: Parts, request: ChatRequest, *, streamed: bool = False) -> Generator[Step, Any, Route]:
    """Choose and screen the targets of a request; reserves nothing. Raises InvalidRequestError."""
    question = Question(
        request=request,
        config=parts.config,
        table=parts.table,
        chains=parts.chains,
        input_tokens=input_tokens(request) if parts.config.routes else 0,  # only routes ask
        budget_used=(yield from _budget_used(parts, request)),
        planning=request.task_type == "planning",
    )
    choice, left_out = _tagged(parts, request, choose(question))
    choice = yield from _arranged(parts, choice, streamed=streamed)
    checks = [] if request.as_written else _checks(parts, request)
    if left_out:
        choice = choice._replace(targets=[*choice.targets, *left_out])
        checks.insert(0, partial(_lacks_tag, {target.key for target in left_out}))
    if not parts.config.enable_pre_call_checks:
        return screen(choice, checks)
    checks.append(partial(_lacks_room, input_tokens(request)))
    route, wider = screen(choice, checks), choice.on_failure.get("context_length", ())
    return route if route.targets or not wider else screen(choice._replace(targets=wider), checks)


def _checks(parts: Parts, request: ChatRequest) -> list[Screen]:
    needs = frozenset(_needs(request))
    return [partial(_lacks_key, parts), *([partial(_lacks_ability, needs)] if needs else [])]


def _tagged(parts: Parts, request: ChatRequest, choice: Choice) -> tuple[Choice, list[Target]]:
    """The choice without the deployments that the request's tags leave out, and those of its targets."""
    if not parts.table.has_tags:
        return choice, []
    metadata = request.metadata or request.params.get("litellm_metadata") or request.params.get("metadata")
    given = metadata if isinstance(metadata, Mapping) else {}
    divided = partial(tags.split, config=parts.config, metadata=given, named=request.model)
    special = {name: divided(targets)[0] for name, targets in choice.on_failure.items()}
    kept, left_out = divided(choice.targets)
    return choice._replace(targets=kept, on_failure=special), left_out


def _lacks_tag(left_out: set[str], target: Target) -> str | None:
    return "the request's tags leave it out" if target.key in left_out else None


def _lacks_room(size: int, target: Target) -> str | None:
    """LiteLLM's check before a call: whether the request is too long for the deployment."""
    window = target.info.get("max_input_tokens") or input_window(target, None)
    return None if window is None or size <= window else f"about {size} tokens do not fit {window}"


def _arranged(parts: Parts, choice: Choice, *, streamed: bool) -> Generator[Step, Any, Choice]:
    """The deployments of each group in the order of the routing strategy."""
    known = parts.known((yield Now()), streamed=streamed)
    arrange = partial(arranged, draw=(yield Draw()), strategy=parts.strategy, known=known)
    special = {name: arrange(targets) for name, targets in choice.on_failure.items()}
    return choice._replace(targets=arrange(choice.targets), on_failure=special)


def _lacks_key(parts: Parts, target: Target) -> str | None:
    if litellm_provider(target.model) == "embedded":
        return embedded.unavailable(target.model)
    return parts.credentials.available(target.provider, model=target.model, params=target.params)


def _needs(request: ChatRequest) -> Iterator[str]:
    """What not every model can."""
    if request.tools:
        yield "tools"
    if _has_image(request):
        yield "vision"


def _lacks_ability(needs: frozenset[str], target: Target) -> str | None:
    """What the request needs and the model is known not to have."""
    facts = models.info(target.model) or models.ModelFacts()
    if "tools" in needs and target.info.get("supports_function_calling", facts.supports_tools) is False:
        return "the model takes no tools"
    if "vision" in needs and target.info.get("supports_vision", facts.supports_vision) is False:
        return "the model sees no images"
    return None


def _has_image(request: ChatRequest) -> bool:
    parts = (part for message in request.messages if isinstance(message.content, list) for part in message.content)
    return any(isinstance(part, dict) and part.get("type") in {"image_url", "image"} for part in parts)


def _budget_used(parts: Parts, request: ChatRequest) -> Generator[Step, Any, dict[str, float]]:
    """The used share of each budget that a route asks about."""
    scopes = {rule.when.budget_used.scope or "project" for rule in parts.config.routes if rule.when.budget_used}
    charges = tuple(charge for scope in scopes for charge in _charges_of(parts, scope, request))
    levels = (yield Store(op=Standing(charges=charges))) if charges else ()
    return {level.charge.scope: level.share for level in levels}


def _charges_of(parts: Parts, scope: str, request: ChatRequest) -> list[Charge]:
    kind, _, name = scope.partition(":")
    named = {kind: name} if kind in {"provider", "model"} else {}
    who = {"provider": "", "model": "", **named}
    payer = Payer(call_id="", project=request.project, session=request.session, **who)
    nothing = parts.ledger.estimate(None, input_tokens=0, output_tokens=0)
    return [each for each in parts.ledger.charges(payer, nothing) if each.scope == scope and each.kind == "usd"]


def explain(parts: Parts, request: ChatRequest) -> Generator[Step, Any, RouteDecision]:
    """What a call would do. Sends nothing, reserves nothing, never raises for an impossible request."""
    trace = Trace(id=parts.new_id(), policy_hash=parts.config.digest)
    try:
        route = yield from plan(parts, request)
    except BlueprintError as error:
        return RouteDecision(rule="none", estimate={"worst_cost_usd": None, "error": str(error)}, trace=trace.to_dict())
    found = yield from _past_open_breakers(route)
    trace.set_route(found)
    estimate, budgets = yield from _money(parts, request, found)
    return RouteDecision(
        targets=[_target(each) for each in found.targets],
        rule=found.rule,
        chain=found.chain,
        considered=found.considered,
        estimate=estimate,
        cache=(yield from peek(parts, request, route.targets)),
        budgets=budgets,
        trace=trace.to_dict(),
    )


def _target(target: Target) -> dict[str, Any]:
    return {"provider": target.provider, "model": target.model, "deployment": target.deployment or None}


def _past_open_breakers(route: Route) -> Generator[Step, Any, Route]:
    """The route as a call would walk it now: past targets that are left alone, unless all of them are."""
    keys = tuple(target.key for target in route.targets)
    states = (yield Store(op=BreakerStates(targets=keys))) if keys else {}
    left_alone = {
        key: f"left alone for {state.retry_in_s:.1f} s after failures"
        for key, state in states.items()
        if state.state == "open"
    }
    choice = Choice(rule=route.rule, chain=route.chain, targets=route.targets, on_failure=route.on_failure)
    found = screen(choice, [lambda target: left_alone.get(target.key)])
    rows = iter(found.considered)
    now = [(row, row if row.verdict == "skipped" else next(rows)) for row in route.considered]
    if found.targets:
        return replace(found, considered=[new for _, new in now])
    return replace(route, considered=[old.model_copy(update={"reason": new.reason}) for old, new in now])


def _money(parts: Parts, request: ChatRequest, route: Route) -> Steps:
    """The estimate for the first target, and where its limits stand."""
    size = input_tokens(request)
    if not route.targets:
        return {"input_tokens": size, "worst_cost_usd": None}, []
    target = route.targets[0]
    row = AttemptTrace(n=1, provider=target.provider, model=target.model)
    account = Account(parts, request, target, trace=Trace(id="", policy_hash=""), row=row)
    messages = [message.to_dict() for message in request.messages]
    tools = [tool.to_dict() for tool in request.tools or ()]
    worst = account.worst(messages, tools, account.cap(), answers=answers_of(request.params))
    charges = parts.ledger.charges(account.payer, worst)
    levels = (yield Store(op=Standing(charges=charges))) if charges else ()
    usd = None if worst.usd is None else worst.usd / NANO
    window = input_window(target, request.max_tokens)
    estimate = {"input_tokens": size, "worst_cost_usd": usd, "input_window": window}
    return estimate, [standing(level) for level in levels]


def list_models(parts: Parts, provider: str | None = None) -> list[ModelInfo]:
    """Every target of the configuration, with what LiteLLM's map says of its model; asks no network."""
    if provider is not None and provider not in parts.table.names:
        raise InvalidRequestError(f"unknown provider {provider!r}; known: {', '.join(parts.table.names)}")
    names = parts.table.names if provider is None else [provider]
    return [_model_info(parts, target) for target in parts.table.of_names(names)]


def _model_info(parts: Parts, target: Target) -> ModelInfo:
    facts = models.info(target.model) or models.ModelFacts()
    card = parts.price(target)
    reason = _lacks_key(parts, target)
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
