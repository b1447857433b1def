"""What a call may take and what it took: turns limits and prices into a store's operations, and denials into errors.

The ledger decides and remembers nothing: the store does the counting, in one transaction over every limit of a call.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from blueprint_llm.errors import BudgetExceededError, QuotaExceededError
from blueprint_llm.usage.limits import Payer, Rule, charge_for, of_settings, rules, scopes
from blueprint_llm.usage.money import NANO, nano
from blueprint_llm.usage.pricing import worst_cost
from blueprint_llm.usage.pricing.bounds import Demand
from blueprint_llm.usage.stores.records import EXPIRED, AttemptRow, Charge, Kind, Level, Reservation, Settlement

if TYPE_CHECKING:
    from blueprint_llm.config.model import Config
    from blueprint_llm.models import ModelFacts
    from blueprint_llm.types import UsageInfo
    from blueprint_llm.usage.pricing import PriceCard
    from blueprint_llm.usage.stores.breaker import BreakerReport

DEFAULT_OUTPUT_TOKENS = 4096
LEAST_OUTPUT_TOKENS = 256
_NOTHING = Demand()
_COUNTS = ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens", "cache_write_tokens")


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
    sent: bool = True  # False: nothing left this machine, so not even a request counts
    maybe_billed: bool = False  # the provider may have billed what we could not see
    latency_s: float | None = None
    ttft_s: float | None = None

    @property
    def cost_nano(self) -> int | None:
        """Nano-USD; None: unknown. What was refused before any token was made (4xx, 429, 5xx, not sent) is free."""
        if self.cost_usd is not None:
            return nano(self.cost_usd)
        refused = self.usage is None and self.category is not None and not self.maybe_billed
        return 0 if refused else None


class Ledger:
    """The limits and prices of one configuration."""

    def __init__(self, config: Config) -> None:
        self._rules = rules(config)
        self._rules_of = lru_cache(maxsize=4096)(
            lambda *who: tuple(rule for name in scopes(*who) for rule in self._rules.get(name, ()))
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
        return Estimate(input_tokens=prompt, output_tokens=output, usd=usd, card=card)

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
        spent = {"requests": int(outcome.sent), "tokens": tokens, "parallel": 0}
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
