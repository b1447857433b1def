"""Whom to ask, in which order, and why: pure functions from a request and a configuration to a `Route`.

A rule is a function in `RULES`; the first that answers decides the order, then `screen` says for each target why it
is chosen, kept in reserve or skipped. `client.explain` and a real call go through the same code.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from blueprint_llm.config.problems import nearest
from blueprint_llm.config.secrets import protect
from blueprint_llm.errors import InvalidRequestError
from blueprint_llm.routing.targets import Target, litellm_provider
from blueprint_llm.trace import FIRST
from blueprint_llm.types import Considered

if TYPE_CHECKING:
    from blueprint_llm.config.blocks import Comparison, When
    from blueprint_llm.config.model import Config
    from blueprint_llm.routing.targets import TargetTable
    from blueprint_llm.types import ChatRequest


KEYS = frozenset({"api_key", "litellm_credential_name"})
# Of a call's own keywords, those that belong to its target; LiteLLM has two words for the address.
CONNECTION = {"base_url": "api_base", "api_base": "api_base", "api_key": "api_key"}
COMPARISONS = {"gt": operator.gt, "ge": operator.ge, "lt": operator.lt, "le": operator.le}
Screen = Callable[[Target], str | None]


class Question(NamedTuple):
    """What the rules look at."""

    request: ChatRequest
    config: Config
    table: TargetTable
    chains: Mapping[str, Sequence[str]]  # `chains` of the configuration, as changed by `set_fallback_chain`
    input_tokens: int = 0  # the estimated size of the request
    budget_used: Mapping[str, float] = {}  # shares of the budgets used, by scope


class Route(NamedTuple):
    """Targets that may be asked, in order."""

    rule: str
    targets: list[Target]
    chain: str | None = None
    on_failure: Mapping[str, list[Target]] = {}  # LiteLLM's fallbacks for special failures
    considered: Sequence[Considered] = ()  # what became of every target that was looked at
    checks: Sequence[Screen] = ()  # by which they were screened; a check answers with the reason to skip


def by_provider(question: Question) -> Route | None:
    """`provider=`: that target first, the chain follows; `model` replaces only the first target's model."""
    request, table = question.request, question.table
    if request.provider is None:
        return None
    first = table.of_name(request.provider)
    if first is None:
        raise _unknown("provider", request.provider, table.names)
    if request.model is not None:
        first = _with_model(first, request.model, table)
    rest = table.of_names(question.chains.get("default", ())) if request.fallback else []
    targets = [first, *(target for target in rest if target.provider != first.provider)]
    return Route(rule="provider", chain="default" if request.fallback else None, targets=targets)


def _with_model(target: Target, model: str, table: TargetTable) -> Target:
    """Return a provider's target with another model or group."""
    group = table.of_group(model)
    if group is None:
        params = _fitting(target.params, target, model)
        return replace(target, model=model, group=None, info={}, home=None, params=params)
    if target.group == model:
        return target
    own = table.own_params.get(target.provider, {})
    return replace(group, provider=target.provider, params=_fitting(own, target, group.model))


def _fitting(params: Mapping[str, Any], target: Target, model: str) -> Mapping[str, Any]:
    """`params` without a key that would go to another vendor than the one it is for."""
    if litellm_provider(model) == litellm_provider(target.model) or params.get("api_base"):
        return params
    return {name: value for name, value in params.items() if name not in KEYS}


def _unknown(kind: str, name: str, known: Sequence[str]) -> InvalidRequestError:
    near = nearest(name, known)
    hint = f"did you mean {near!r}?" if near else f"known: {', '.join(known) or 'none'}"
    return InvalidRequestError(f"unknown {kind} {name!r}; {hint}")


def by_model(question: Question) -> Route | None:
    """`model=`: its group and LiteLLM's fallbacks for it and nothing else, or any LiteLLM model id."""
    model = question.request.model
    if model is None:
        return None
    table, config = question.table, question.config
    group = table.group(model)
    if group is None:
        if not question.request.as_written and (not model.strip() or any(map(str.isspace, model))):
            raise _unknown("model", model, table.names)
        return Route(rule="model", targets=[table.of_model(model)])
    names = (model, group)  # an alias may have fallbacks of its own
    behind = _fallbacks(config.fallbacks, names, config.default_fallbacks) if question.request.fallback else []
    special = {
        "context_length": table.of_entries(_fallbacks(config.context_window_fallbacks, names, ())),
        "content_policy": table.of_entries(_fallbacks(config.content_policy_fallbacks, names, ())),
    }
    targets = table.of_entries([model, *behind[: config.max_fallbacks]])
    return Route(rule="model", chain=group, targets=targets, on_failure=special)


def _fallbacks(rows: Sequence[Mapping[str, Sequence[Any]]], names: Sequence[str], default: Sequence[Any]) -> list[Any]:
    """The fallbacks of the first of `names` that has any, else the generic ones."""
    return list(next((row[name] for name in (*names, "*") for row in rows if name in row), default))


def by_routes(question: Question) -> Route | None:
    """`routes`: the first rule whose every condition holds."""
    for number, route in enumerate(question.config.routes):
        if _holds(route.when, question):
            return _of_chain(f"routes[{number}]", route.chain, question)
    return None


def _holds(when: When, question: Question) -> bool:
    request, tokens = question.request, question.input_tokens
    scope = (when.budget_used and when.budget_used.scope) or "project"
    return (
        (when.task_type is None or request.task_type in when.task_type)
        and (when.planning is None or when.planning == (request.task_type == "planning"))
        and _within(when.input_tokens, tokens)
        and _within(when.context_window, tokens + (request.max_tokens or 0))
        and _within(when.budget_used, question.budget_used.get(scope, 0.0))
        and all((request.metadata or {}).get(key) == value for key, value in (when.metadata or {}).items())
    )


def _within(bounds: Comparison | None, value: float) -> bool:
    if bounds is None:
        return True
    limits = ((fits, getattr(bounds, name)) for name, fits in COMPARISONS.items())
    return all(limit is None or fits(value, limit) for fits, limit in limits)


def _of_chain(rule: str, names: Sequence[str], question: Question) -> Route:
    single = names[0] if len(names) == 1 and names[0] in question.chains else None
    targets = question.table.of_names(expanded(names, question.chains))
    return Route(rule=rule, chain=single, targets=targets)


def expanded(names: Sequence[str], chains: Mapping[str, Sequence[str]]) -> list[str]:
    """`names`, where each may also be the name of a chain."""
    return [part for name in names for part in chains.get(name, (name,))]


def by_task(question: Question) -> Route | None:
    """`task_type`: the chain of that name, else the providers that list it in `tasks`, the default chain behind."""
    task = question.request.task_type
    if task is None:
        return None
    if task in question.chains:
        return _of_chain("task_type", [task], question)
    first = [name for name, provider in question.config.providers.items() if task in provider.tasks]
    names = [*first, *question.chains.get("default", ())]
    return Route(rule="task_type", chain="default", targets=question.table.of_names(names)) if first else None


def by_default(question: Question) -> Route:
    """`chains.default`, else every name in the order of the file."""
    names = question.chains.get("default")
    targets = question.table.of_names(names if names is not None else question.table.names)
    return Route(rule="default", chain="default", targets=targets)


RULES: tuple[Callable[[Question], Route | None], ...] = (by_provider, by_model, by_routes, by_task, by_default)


def choose(question: Question) -> Route:
    """Return the answer of the first rule that has one."""
    route = next(filter(None, (rule(question) for rule in RULES)))
    if any(map(question.request.params.get, CONNECTION)):
        route = route._replace(targets=_connected(route.targets, question))
    return route if question.request.fallback else route._replace(targets=route.targets[:1], on_failure={})


def _connected(targets: list[Target], question: Question) -> list[Target]:
    """`targets` at the address and with the key of the call itself, which are for the first one's vendor only."""
    given = question.request.params
    own = {CONNECTION[name]: protect(name, given[name]) for name in CONNECTION if given.get(name)}
    if not own or not targets:
        return targets
    vendor = litellm_provider(targets[0].model)
    return [question.table.connected(each, own) if litellm_provider(each.model) == vendor else each for each in targets]


def screen(targets: Sequence[Target], checks: Sequence[Screen]) -> tuple[list[Target], list[Considered]]:
    """Return the targets that pass, and of each whether it is chosen, on standby or skipped, and why."""
    kept: list[Target] = []
    considered: list[Considered] = []
    for target in targets:
        reason = next(filter(None, (check(target) for check in checks)), None)
        considered.append(_considered(target.provider, target.model, reason, is_first=not kept))
        if reason is None:
            kept.append(target)
    return kept, considered


@lru_cache(maxsize=4096)
def _considered(provider: str, model: str, reason: str | None, *, is_first: bool) -> Considered:
    verdict: Literal["chosen", "standby", "skipped"] = "skipped" if reason else "chosen" if is_first else "standby"
    why = reason or (FIRST if is_first else "next if the ones before it fail")
    return Considered(provider=provider, model=model, verdict=verdict, reason=why)
