"""Every limit of a configuration as one kind of rule, whether it was written as ours or as LiteLLM's.

A rule is a charge of nothing on nobody yet. It is found by its scope (`project`, `provider:cloud`). A deployment's come
with each attempt at it, so 500 of them cost what one does.
"""

from __future__ import annotations

import re
from collections import defaultdict
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, NamedTuple

from blueprint_llm.errors import ConfigError
from blueprint_llm.usage.money import nano
from blueprint_llm.usage.stores.records import Charge, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from blueprint_llm.config.model import Config

Rule = Charge
_DURATION = re.compile(r"(\d*)\s*(s|mo|m|h|d|w)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "mo": 2592000}
# LiteLLM's names of a number at a time, and of its own budgets.
_NUMBERS: tuple[tuple[Kind, str, tuple[str, ...]], ...] = (
    ("requests", "minute", ("rpm", "rpm_limit")),
    ("tokens", "minute", ("tpm", "tpm_limit")),
    ("parallel", "ever", ("max_parallel_requests",)),
)


class Payer(NamedTuple):
    """On whose account an attempt goes."""

    call_id: str  # the user-visible call
    provider: str
    model: str
    session: str | None = None
    project: str | None = None
    group: str | None = None  # of `model_list`, where the target comes from one
    deployment: str = ""
    litellm_provider: str = ""  # LiteLLM's name, for `provider_budget_config`
    own: tuple[Rule, ...] = ()  # limits that come with the deployment itself


def scopes(provider: str, model: str, group: str | None, deployment: str, litellm_provider: str) -> tuple[str, ...]:
    """Return the scopes whose rules count such a payer."""
    models = sorted({model, model.partition("/")[2] or model, group or model})
    return (
        *("call", "session", "project", "global", f"provider:{provider}"),
        *(f"model:{name}" for name in models),
        *(f"deployment:{deployment}", f"litellm_provider:{litellm_provider}"),
    )


def charge_for(rule: Rule, payer: Payer, amount: int) -> Charge:
    """Return what a rule takes for `payer`."""
    scope = rule.scope
    who = {"call": payer.call_id, "session": payer.session, "project": payer.project}
    subject = f"{scope}:{who[scope] or ''}" if scope in who else scope
    if rule.window == "session" and scope != "session":
        subject = f"{subject} session:{payer.session or ''}"
    return Charge(scope, subject, rule.kind, rule.window, amount, *rule[5:])


def rules(config: Config) -> dict[str, list[Rule]]:
    """Return every limit of `config` by scope."""
    found: defaultdict[str, list[Rule]] = defaultdict(list)
    for rule in _all(config):
        found[rule.scope].append(rule)
    return dict(found)


def _rule(scope: str, kind: Kind, window: str, limit: int, **rest: Any) -> Rule:
    return Charge(scope, "", kind, "call" if scope == "call" else window, 0, limit, **rest)


def _all(config: Config) -> Iterator[Rule]:
    for budget in config.budgets:
        limit = nano(budget.limit_usd)
        marks = {max(1, round(Decimal(str(share)) * limit)) for share in budget.warn_at}
        rest = {"on_exceed": budget.on_exceed, "warn_at": tuple(sorted(marks)), "chain": tuple(budget.chain or ())}
        yield _rule(budget.scope, "usd", budget.window, limit, **rest)
    for quota in config.quotas:
        if quota.requests is not None:
            yield _rule(quota.scope, "requests", quota.window, quota.requests)
        if quota.tokens is not None:
            yield _rule(quota.scope, "tokens", quota.window, quota.tokens)
    for name, provider in config.providers.items():
        yield from of_settings(f"provider:{name}", provider.model_extra or {}, f"blueprint.providers.{name}")
    for name, limits in (config.router_settings.get("provider_budget_config") or {}).items():
        yield from of_settings(f"litellm_provider:{name}", limits, f"router_settings.provider_budget_config.{name}")
    yield from of_settings("global", config.litellm_settings, "litellm_settings")


def of_attempt(deployment: str, keywords: Mapping[str, Any]) -> tuple[Rule, ...]:
    """Return the limits of a Router's deployment out of the keywords of one attempt at it. Raise ConfigError."""
    return tuple(of_settings(f"deployment:{deployment}", keywords, f"model_list deployment {deployment}"))


def of_settings(scope: str, settings: Mapping[str, Any], where: str) -> Iterator[Rule]:
    """Yield the limits under LiteLLM's names. Raise ConfigError."""
    for kind, window, names in _NUMBERS:
        if (most := _first(settings, *names)) is not None:
            yield _rule(scope, kind, window, int(_number(most, f"{where}.{names[0]}")))
    if (limit := _first(settings, "max_budget", "budget_limit")) is not None:
        window = _window(_first(settings, "budget_duration", "time_period"), where)
        yield _rule(scope, "usd", window, nano(_number(limit, f"{where}.max_budget")))


def _first(settings: Mapping[str, Any], *names: str) -> Any:
    return next((settings[name] for name in names if settings.get(name) is not None), None)


def _window(duration: Any, where: str) -> str:
    """LiteLLM's `30d`, `1mo` as a window; without one a budget never resets."""
    if duration is None:
        return "ever"
    match = _DURATION.fullmatch(str(duration))
    if match is None:
        raise ConfigError(f"{where}.budget_duration: {duration!r} is no duration: use 30s, 30m, 12h, 7d, 2w or 1mo")
    count, unit = int(match[1] or 1), match[2]
    return "month" if (count, unit) == (1, "mo") else f"{count * _SECONDS[unit]}s"


def _number(value: Any, where: str) -> Decimal:
    try:
        return Decimal(str(value))
    except InvalidOperation:
        raise ConfigError(f"{where}: {value!r} is no number") from None
