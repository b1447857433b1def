"""Whom to ask, in which order, and why: pure functions from a request and a configuration to a `Route`.

A rule is a function in `RULES`; the first that answers decides the order, then `screen` says for each target why it
is chosen, kept in reserve or skipped. `client.explain` and a real call go through the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from blueprint_llm.config.secrets import protect
from blueprint_llm.errors import ConfigError, InvalidRequestError
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


class Question(NamedTuple):
    """What the rules look at.

    Attributes:
        input_tokens: The estimated size of the request.
        budget_used: Shares of the budgets used, by scope.
        chains: `chains` of the configuration, as changed by `set_fallback_chain`.
    """

    request: ChatRequest
    config: Config
    table: TargetTable
    chains: Mapping[str, Sequence[str]]
    input_tokens: int = 0
    budget_used: Mapping[str, float] = {}
    planning: bool = False


class Choice(NamedTuple):
    """What a rule answers: targets in order, and LiteLLM's fallbacks for special failures."""

    rule: str
    targets: list[Target]
    chain: str | None = None
    on_failure: Mapping[str, list[Target]] = {}


def by_provider(question: Question) -> Choice | None:
    """`provider=`: that target first, the chain follows; `model` replaces only the first target's model."""
    request = question.request
    if request.provider is None:
        return None
    first = question.table.of_name(request.provider)
    if not first:
        raise InvalidRequestError(_unknown("provider", request.provider, question.table.names))
    if request.model is not None:
        first = _with_model(first, request.model, question.table)
    rest = question.table.of_names(question.chains.get("default", ())) if request.fallback else []
    known = {target.provider for target in first}
    targets = [*first, *(target for target in rest if target.provider not in known)]
    return Choice(rule="provider", chain="default" if request.fallback else None, targets=targets)


def _with_model(targets: list[Target], model: str, table: TargetTable) -> list[Target]:
    """`targets` of one provider with another model or group."""
    (target,) = targets
    if table.group(model) is None:
        params = _fitting(target.params, target, model)
        return [replace(target, model=model, group=None, info={}, home=None, params=params)]
    if target.group == model:
        return targets
    own = table.own_params(target.provider)
    return [
        replace(each, provider=target.provider, params=_fitting(own, target, each.model))
        for each in table.of_group(model)
    ]


def _fitting(params: Mapping[str, Any], target: Target, model: str) -> Mapping[str, Any]:
    """`params` without a key that would go to another vendor than the one it is for."""
    if litellm_provider(model) == litellm_provider(target.model) or params.get("api_base"):
        return params
    return {name: value for name, value in params.items() if name not in KEYS}


def _unknown(kind: str, name: str, known: Sequence[str]) -> str:
    import difflib  # noqa: PLC0415 - only an error pays for it

    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known) or 'none'}"
    return f"unknown {kind} {name!r}; {hint}"


def by_model(question: Question) -> Choice | None:
    """`model=`: its group and LiteLLM's fallbacks for it and nothing else, or any LiteLLM model id."""
    model = question.request.model
    if model is None:
        return None
    table, config = question.table, question.config
    group = table.group(model)
    if group is None:
        named = model if question.request.as_written else _plausible(model, question)
        return Choice(rule="model", targets=table.of_model(named))
    names = (model, group)  # an alias may have fallbacks of its own
    behind = _fallbacks(config.fallbacks, names, config.default_fallbacks) if question.request.fallback else []
    special = {
        "context_length": table.of_entries(_fallbacks(config.context_window_fallbacks, names, ())),
        "content_policy": table.of_entries(_fallbacks(config.content_policy_fallbacks, names, ())),
    }
    targets = table.of_entries([model, *behind[: config.max_fallbacks]])
    return Choice(rule="model", chain=group, targets=targets, on_failure=special)


def _plausible(model: str, question: Question) -> str:
    if not model.strip() or any(character.isspace() for character in model):
        raise InvalidRequestError(_unknown("model", model, question.table.names))
    return model


def _fallbacks(rows: Sequence[Mapping[str, Sequence[Any]]], names: Sequence[str], default: Sequence[Any]) -> list[Any]:
    """The fallbacks of the first of `names` that has any, else the generic ones."""
    return list(next((row[name] for name in (*names, "*") for row in rows if name in row), default))


def by_routes(question: Question) -> Choice | None:
    """`routes`: the first rule whose every condition holds."""
    for number, route in enumerate(question.config.routes):
        if _holds(route.when, question):
            return _chain_choice(f"routes[{number}]", route.chain, question)
    return None


def _holds(when: When, question: Question) -> bool:
    request = question.request
    return (
        (when.task_type is None or request.task_type in when.task_type)
        and (when.planning is None or when.planning == question.planning)
        and _within(when.input_tokens, question.input_tokens)
        and _within(when.context_window, question.input_tokens + (request.max_tokens or 0))
        and _within(when.budget_used, _used(when.budget_used, question))
        and all((request.metadata or {}).get(key) == value for key, value in (when.metadata or {}).items())
    )


def _used(bounds: Comparison | None, question: Question) -> float:
    return question.budget_used.get((bounds.scope if bounds else None) or "project", 0.0)


def _within(bounds: Comparison | None, value: float) -> bool:
    if bounds is None:
        return True
    above = (bounds.gt is None or value > bounds.gt) and (bounds.ge is None or value >= bounds.ge)
    below = (bounds.lt is None or value < bounds.lt) and (bounds.le is None or value <= bounds.le)
    return above and below


def _chain_choice(rule: str, names: Sequence[str], question: Question) -> Choice:
    single = names[0] if len(names) == 1 and names[0] in question.chains else None
    targets = question.table.of_names(expanded(names, question.chains))
    return Choice(rule=rule, chain=single, targets=targets)


def expanded(names: Sequence[str], chains: Mapping[str, Sequence[str]]) -> list[str]:
    """`names`, where each may also be the name of a chain."""
    return [part for name in names for part in chains.get(name, (name,))]


def by_task(question: Question) -> Choice | None:
    """`task_type`: the chain of that name, else the providers that list it in `tasks`, the default chain behind."""
    task = question.request.task_type
    if task is None:
        return None
    if task in question.chains:
        return _chain_choice("task_type", [task], question)
    first = [name for name, provider in question.config.providers.items() if task in provider.tasks]
    names = [*first, *question.chains.get("default", ())]
    return Choice(rule="task_type", chain="default", targets=question.table.of_names(names)) if first else None


def by_default(question: Question) -> Choice:
    """`chains.default`, else every name in the order of the file."""
    names = question.chains.get("default")
    targets = question.table.of_names(names if names is not None else question.table.names)
    return Choice(rule="default", chain="default", targets=targets)


RULES: tuple[Callable[[Question], Choice | None], ...] = (by_provider, by_model, by_routes, by_task, by_default)


def choose(question: Question) -> Choice:
    """The answer of the first rule that has one."""
    choice = next(filter(None, (rule(question) for rule in RULES)), None)
    if choice is None:  # pragma: no cover - by_default always answers
        raise ConfigError("no routing rule answered")
    if any(map(question.request.params.get, CONNECTION)):
        choice = choice._replace(targets=_connected(choice.targets, question))
    return choice if question.request.fallback else choice._replace(targets=choice.targets[:1], on_failure={})


def _connected(targets: list[Target], question: Question) -> list[Target]:
    """`targets` at the address and with the key of the call itself, which are for the first one's vendor only."""
    given = question.request.params
    own = {CONNECTION[name]: protect(name, given[name]) for name in CONNECTION if given.get(name)}
    if not own or not targets:
        return targets
    vendor = litellm_provider(targets[0].model)
    return [question.table.connected(each, own) if litellm_provider(each.model) == vendor else each for each in targets]


Screen = Callable[[Target], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Targets that may be asked, in order, what became of every one that was considered, and by which checks."""

    rule: str
    chain: str | None
    targets: list[Target]
    considered: list[Considered]
    on_failure: Mapping[str, list[Target]] = field(default_factory=dict)
    checks: Sequence[Screen] = ()


def screen(choice: Choice, checks: Sequence[Screen]) -> Route:
    """Sort the targets of `choice` into chosen, standby and skipped; a check answers with the reason to skip."""
    targets: list[Target] = []
    considered: list[Considered] = []
    for target in choice.targets:
        reason = None
        for check in checks:
            reason = reason or check(target)
        considered.append(_considered(target.provider, target.model, reason, is_first=not targets))
        if reason is None:
            targets.append(target)
    return Route(
        rule=choice.rule,
        chain=choice.chain,
        targets=targets,
        considered=considered,
        on_failure=choice.on_failure,
        checks=checks,
    )


@lru_cache(maxsize=4096)
def _considered(provider: str, model: str, reason: str | None, *, is_first: bool) -> Considered:
    verdict: Literal["chosen", "standby", "skipped"] = "skipped" if reason else "chosen" if is_first else "standby"
    why = reason or (FIRST if is_first else "next if the ones before it fail")
    return Considered(provider=provider, model=model, verdict=verdict, reason=why)
