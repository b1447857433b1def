"""What a call may take and what it took: turns limits and prices into a store's operations, and denials into errors.

The ledger decides and remembers nothing: the store does the counting, in one transaction over every limit of a call.
A limit is a rule, a charge of nothing on nobody yet, whether it was written as ours or as LiteLLM's. It is found by its
scope (`project`, `provider:cloud`). A deployment's come with each attempt at it, so 500 of them cost what one does.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from blueprint_llm.errors import BudgetExceededError, ConfigError, QuotaExceededError
from blueprint_llm.usage.money import NANO, nano
from blueprint_llm.usage.pricing import worst_cost
from blueprint_llm.usage.pricing.bounds import Demand
from blueprint_llm.usage.stores.records import EXPIRED, AttemptRow, Charge, Kind, Level, Reservation, Settlement

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from blueprint_llm.config.model import Config
    from blueprint_llm.models import ModelFacts
    from blueprint_llm.types import UsageInfo
    from blueprint_llm.usage.pricing import PriceCard
    from blueprint_llm.usage.stores.breaker import BreakerReport

DEFAULT_OUTPUT_TOKENS = 4096
LEAST_OUTPUT_TOKENS = 256
_NOTHING = Demand()
_MOST = 2**53  # what every store counts exactly: nine million dollars
_COUNTS = ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens", "cache_write_tokens")

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Cap:
    """The most output of one answer: `bound` tokens; `send` is a `max_tokens` to add to the request, or None."""

    bound: int
    send: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The most that an attempt can take; `usd` in nano-USD, None: the price is unknown."""

    input_tokens: int
    output_tokens: int
    usd: int | None
    card: PriceCard | None = None

    def amount(self, kind: Kind) -> int:
        """Return what to reserve under a limit of `kind`."""
        return {"usd": self.usd or 0, "tokens": self.input_tokens + self.output_tokens}.get(kind, 1)


class Outcome(NamedTuple):
    """How an attempt ended."""

    usage: UsageInfo | None = None  # what the provider reported or what was seen; None: no tokens
    cost_usd: float | None = None  # LiteLLM's `completion_cost`, or by the user's own price; None: unknown
    category: str | None = None  # None: answered; else a row of the failure table, or `abandoned`
    maybe_billed: bool = False  # the provider may have billed what we could not see
    latency_s: float | None = None
    ttft_s: float | None = None

    @property
    def cost_nano(self) -> int | None:
        """Nano-USD; None: unknown. What was refused before any token was made (4xx, 429, 5xx) is free."""
        if self.cost_usd is not None:
            return min(nano(self.cost_usd), _MOST)
        refused = self.usage is None and self.category is not None and not self.maybe_billed
        return 0 if refused else None


class Ledger:
    """The limits and prices of one configuration."""

    def __init__(self, config: Config) -> None:
        self._rules: defaultdict[str, list[Rule]] = defaultdict(list)
        for rule in _rules(config):
            self._rules[rule.scope].append(rule)
        self._rules_of = lru_cache(maxsize=4096)(
            lambda *who: tuple(rule for name in _scopes(*who) for rule in self._rules.get(name, ()))
        )
        self._unknown = config.pricing.unknown
        self._project = config.project
        self.ttl_s = config.store.reservation_ttl_s or config.deadline.total_s + 10

    def cap(
        self,
        payer: Payer,
        *,
        max_tokens: int | None,
        facts: ModelFacts | None,
        card: PriceCard | None,
        asked: Demand = _NOTHING,
    ) -> Cap:
        """Return the output cap of an attempt: the caller's, else one is sent if a USD budget or token quota applies.

        A model whose output may fill its whole window gives no usable cap: then it is DEFAULT_OUTPUT_TOKENS. Of any
        limit that refuses the answer takes at most half, so that the prompt fits beside it.
        """
        if max_tokens is not None:
            return Cap(bound=max_tokens)
        most = facts.max_output_tokens if facts else None
        window = facts.max_input_tokens if facts else None
        shared = most is not None and window is not None and most >= window
        bound = min(most, DEFAULT_OUTPUT_TOKENS) if most and shared else most or DEFAULT_OUTPUT_TOKENS
        limits = [rule for rule in self._limits(payer, card) if rule.kind in {"usd", "tokens"}]
        halves = [rule.limit // 2 for rule in limits if rule.kind == "tokens"]
        bound = min([bound, *halves])
        usd = [rule.limit // 2 for rule in limits if rule.kind == "usd" and rule.on_exceed == "block"]
        per_token = _nano_per_token(card, asked) if card and usd else 0
        if per_token and min(usd) < per_token * bound * asked.answers:
            # A budget that would not even buy a short answer is left to refuse, and to say so.
            bound = max(min(bound, LEAST_OUTPUT_TOKENS), int(min(usd) / (per_token * asked.answers)))
        return Cap(bound=max(1, bound), send=max(1, bound) if limits else None)

    def estimate(
        self, card: PriceCard | None, *, output_tokens: int, asked: Demand = _NOTHING, seconds: float = 0.0
    ) -> Estimate:
        """Return the worst case: every modality, tier, cache write and tool that the request allows, at its dearest.

        `output_tokens` is the cap of one answer; the call takes at most so many `seconds`.
        """
        prompt, output = asked.input_tokens, output_tokens * asked.answers
        if card is None:
            usd = 0 if self._unknown == "assume_zero" else None
        elif card.listed is None:
            usd = worst_cost(card, prompt, output, seconds=seconds)
        else:
            prompt, usd = card.listed.input_bound(asked), card.listed.worst_nano(asked, output, seconds=seconds)
        return Estimate(
            input_tokens=min(prompt, _MOST),
            output_tokens=min(output, _MOST),
            usd=None if usd is None else min(usd, _MOST),
            card=card,
        )

    def unpriced(self, payer: Payer, estimate: Estimate) -> str | None:
        """Why an attempt without a known price may not go, if it may not: `pricing.unknown` under a USD budget."""
        if estimate.usd is not None or self._unknown != "block":
            return None
        budget = next((rule.scope for rule in self._limits(payer, None) if rule.kind == "usd"), None)
        return budget and f"no price is known and the budget of {budget} applies: add one to a file in pricing.files"

    def charges(self, payer: Payer, estimate: Estimate) -> tuple[Charge, ...]:
        """Return one charge for every limit that counts `payer`."""
        known = payer._replace(project=self._project) if self._project and not payer.project else payer
        limits = self._limits(known, estimate.card)
        return tuple(charge_for(rule, known, estimate.amount(rule.kind)) for rule in limits)

    def _limits(self, payer: Payer, card: PriceCard | None) -> tuple[Rule, ...]:
        who = (payer.provider, payer.model, payer.group, payer.deployment, payer.litellm_provider)
        found = (*self._rules_of(*who), *payer.own)
        if card is None or (card.rpm is None and card.tpm is None):
            return found
        return (*found, *of_settings(f"model:{payer.model}", {"rpm": card.rpm, "tpm": card.tpm}, "pricing.files"))

    def lasting(self) -> tuple[Charge, ...]:
        """Return a charge of nothing under every limit that outlives a session: how all of them stand can be asked."""
        payer = Payer(call_id="", provider="", model="", project=self._project)
        rules = [rule for listed in self._rules.values() for rule in listed]
        return tuple(
            charge_for(rule, payer, 0) for rule in rules if not {rule.scope, rule.window} & {"call", "session"}
        )

    def reservation(
        self, id_: str, payer: Payer, estimate: Estimate, *, target: str = "", probes: int = 1, attempt: int = 1
    ) -> Reservation:
        """Return the reservation of one attempt; if nobody settles it in time, its row says it cost its estimate.

        `target` is whose circuit breaker is asked, `attempt` the number within the call.
        """
        row = AttemptRow(
            id=id_,
            call_id=payer.call_id,
            attempt=attempt,
            provider=payer.provider,
            model=payer.model,
            session=payer.session,
            project=payer.project or self._project,
            prompt_tokens=estimate.input_tokens,
            completion_tokens=estimate.output_tokens,
            cost_nano=estimate.usd,
            category=EXPIRED,
            usage_source="estimated",
            maybe_billed=True,
            price_version=estimate.card.version if estimate.card else None,
            trace_id=payer.call_id,
        )
        return Reservation(id_, self.charges(payer, estimate), self.ttl_s, row, target, probes)

    def settlement(self, reservation: Reservation, outcome: Outcome, report: BreakerReport | None = None) -> Settlement:
        """Return the true amounts of an attempt; `row.cost_nano` is what it cost.

        An answer of unknown cost keeps what was reserved for it: a budget is never below what was billed.
        """
        usage, usd = outcome.usage, outcome.cost_nano
        tokens = usage.prompt_tokens + usage.completion_tokens if usage else 0
        spent = {"requests": 1, "tokens": tokens, "parallel": 0}
        if usd is not None:
            spent["usd"] = usd
        counts: dict[str, Any] = {name: getattr(usage, name, 0) for name in _COUNTS}  # of no usage, 0
        row = reservation.row._replace(
            **counts,
            cost_nano=usd,
            latency_s=outcome.latency_s,
            ttft_s=outcome.ttft_s,
            category=outcome.category,
            usage_source=usage.source if usage else "provider",
            maybe_billed=outcome.maybe_billed,
        )
        charges = tuple(item._replace(amount=spent.get(item.kind, item.amount)) for item in reservation.charges)
        return Settlement(charges, row, report)


def _scopes(provider: str, model: str, group: str | None, deployment: str, litellm_provider: str) -> tuple[str, ...]:
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


def _rule(scope: str, kind: Kind, window: str, limit: int, **rest: Any) -> Rule:
    return Charge(scope, "", kind, "call" if scope == "call" else window, 0, limit, **rest)


def _rules(config: Config) -> Iterator[Rule]:
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


def _nano_per_token(card: PriceCard, asked: Demand) -> float:
    """Return the dearest price of one token of the answer."""
    if card.listed is not None:
        return card.listed.nano_per_token(asked)
    many = 10**6
    return (worst_cost(card, 0, many) - worst_cost(card, 0, 0)) / many


def denial(level: Level) -> BudgetExceededError | QuotaExceededError:
    """Return the error for a limit that refused."""
    charge = level.charge
    if charge.kind == "usd":
        return BudgetExceededError(
            scope=charge.scope,
            limit_usd=charge.limit / NANO,
            used_usd=level.used / NANO,
            resets_at=level.resets_at,
            needed_usd=charge.amount / NANO,
        )
    return QuotaExceededError(
        scope=charge.scope,
        kind=charge.kind,
        limit=charge.limit,
        used=level.used,
        resets_at=level.resets_at,
        needed=charge.amount,
    )


def standing(level: Level) -> dict[str, Any]:
    """Return a limit's state as plain values for a trace or `explain`; USD where it is a budget."""
    charge, unit = level.charge, NANO if level.charge.kind == "usd" else 1
    return {
        "scope": charge.scope,
        "kind": charge.kind,
        "window": charge.window,
        "limit": charge.limit / unit,
        "used": level.used / unit,
        "share": round(level.share, 4),
        "resets_at": level.resets_at,
    }
