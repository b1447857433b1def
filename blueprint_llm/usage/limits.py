"""Every limit of a configuration as one kind of rule, whether it was written as ours or as LiteLLM's.

A rule is found by its selector (`project`, `provider:cloud`). A deployment's come with each attempt at it, so 500 of
them cost what one does.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from blueprint_llm.errors import ConfigError
from blueprint_llm.usage.money import NANO, nano
from blueprint_llm.usage.stores.records import Charge, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from blueprint_llm.config.blocks import Budget, Quota
    from blueprint_llm.config.model import Config

_MINUTE = "minute"
_DURATION = re.compile(r"(\d*)\s*(s|mo|m|h|d|w)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "mo": 2592000}


class Payer(NamedTuple):
    """On whose account an attempt goes.

    Attributes:
        call_id: The user-visible call.
        group: The `model_list` group, where the target comes from one.
        deployment: The deployment's id.
        litellm_provider: LiteLLM's name of the provider, for `provider_budget_config`.
        own: Limits that come with the deployment itself.
    """

    call_id: str
    provider: str
    model: str
    session: str | None = None
    project: str | None = None
    group: str | None = None
    deployment: str = ""
    litellm_provider: str = ""
    own: tuple[Rule, ...] = ()

    def selectors(self) -> tuple[str, ...]:
        """Return the rules that count this payer, by selector."""
        return _selectors(self.provider, self.model, self.group, self.deployment, self.litellm_provider)


@lru_cache(maxsize=4096)
def _selectors(provider: str, model: str, group: str | None, deployment: str, litellm_provider: str) -> tuple[str, ...]:
    models = sorted({model, model.partition("/")[2] or model, group or model})
    return (
        *("call", "session", "project", "global", f"provider:{provider}"),
        *(f"model:{name}" for name in models),
        *(f"deployment:{deployment}", f"litellm_provider:{litellm_provider}"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One limit: `limit` in nano-USD, requests, tokens or attempts at a time, `warn_at` in the same."""

    scope: str
    kind: Kind
    window: str
    limit: int
    on_exceed: Literal["warn", "degrade", "block"] = "block"
    warn_at: tuple[int, ...] = ()
    chain: tuple[str, ...] = ()

    def charge(self, payer: Payer, amount: int) -> Charge:
        """Return what this rule takes for `payer`."""
        return Charge(
            scope=self.scope,
            subject=self._subject(payer),
            kind=self.kind,
            window="call" if self.scope == "call" else self.window,
            amount=amount,
            limit=self.limit,
            on_exceed=self.on_exceed,
            warn_at=self.warn_at,
            chain=self.chain,
        )

    def _subject(self, payer: Payer) -> str:
        who = {"call": payer.call_id, "session": payer.session, "project": payer.project}
        subject = f"{self.scope}:{who[self.scope] or ''}" if self.scope in who else self.scope
        alone = self.window == "session" and self.scope not in {"session", "call"}
        return f"{subject} session:{payer.session or ''}" if alone else subject


def rules(config: Config) -> dict[str, list[Rule]]:
    """Every limit of `config` by selector."""
    found: defaultdict[str, list[Rule]] = defaultdict(list)
    for rule in _all(config):
        found[rule.scope].append(rule)
    return dict(found)


def per_minute(scope: str, rpm: Any, tpm: Any, where: str = "") -> Iterator[Rule]:
    """LiteLLM's requests and tokens a minute."""
    if rpm is not None:
        yield Rule(scope=scope, kind="requests", window=_MINUTE, limit=int(_number(rpm, f"{where}.rpm")))
    if tpm is not None:
        yield Rule(scope=scope, kind="tokens", window=_MINUTE, limit=int(_number(tpm, f"{where}.tpm")))


def _all(config: Config) -> Iterator[Rule]:
    yield from map(_of_budget, config.budgets)
    for quota in config.quotas:
        yield from _of_quota(quota)
    for name, provider in config.providers.items():
        yield from _of_settings(f"provider:{name}", provider.model_extra or {}, f"blueprint.providers.{name}")
    for name, limits in (config.router_settings.get("provider_budget_config") or {}).items():
        yield from _of_settings(f"litellm_provider:{name}", limits, f"router_settings.provider_budget_config.{name}")
    yield from _of_settings("global", config.litellm_settings, "litellm_settings")


def _of_budget(budget: Budget) -> Rule:
    limit = nano(budget.limit_usd)
    return Rule(
        scope=budget.scope,
        kind="usd",
        window=budget.window,
        limit=limit,
        on_exceed=budget.on_exceed,
        warn_at=tuple(sorted({max(1, round(Decimal(str(share)) * limit)) for share in budget.warn_at})),
        chain=tuple(budget.chain or ()),
    )


def _of_quota(quota: Quota) -> Iterator[Rule]:
    if quota.requests is not None:
        yield Rule(scope=quota.scope, kind="requests", window=quota.window, limit=quota.requests)
    if quota.tokens is not None:
        yield Rule(scope=quota.scope, kind="tokens", window=quota.window, limit=quota.tokens)


def of_attempt(deployment: str, keywords: Mapping[str, Any]) -> tuple[Rule, ...]:
    """Return the limits of a Router's deployment out of the keywords of one attempt at it. Raise ConfigError."""
    return tuple(_of_settings(f"deployment:{deployment}", keywords, f"model_list deployment {deployment}"))


def _of_settings(scope: str, settings: Mapping[str, Any], where: str) -> Iterator[Rule]:
    """LiteLLM's keys: rpm, tpm, max_parallel_requests, max_budget and budget_duration, and its budgets' own names."""
    rpm, tpm = settings.get("rpm", settings.get("rpm_limit")), settings.get("tpm", settings.get("tpm_limit"))
    yield from per_minute(scope, rpm, tpm, where)
    parallel = settings.get("max_parallel_requests")
    if parallel is not None:
        most = int(_number(parallel, f"{where}.max_parallel_requests"))
        yield Rule(scope=scope, kind="parallel", window="ever", limit=most)
    limit = settings.get("max_budget", settings.get("budget_limit"))
    if limit is not None:
        period = settings.get("budget_duration", settings.get("time_period"))
        limit_nano = round(_number(limit, f"{where}.max_budget") * NANO)
        yield Rule(scope=scope, kind="usd", window=_window(period, where), limit=limit_nano)


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
