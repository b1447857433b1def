"""What a call may take and what it took: turns limits and prices into a store's operations, and denials into errors.

The ledger decides and remembers nothing: the store does the counting, in one transaction over every limit of a call.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from blueprint_llm.errors import BudgetExceededError, QuotaExceededError
from blueprint_llm.usage.limits import NANO, Payer, Rule, per_minute, rules
from blueprint_llm.usage.pricing import Tokens, cost, worst_cost
from blueprint_llm.usage.stores.ops import EXPIRED, AttemptRow, Charge, Heartbeat, Kind, Level, Reserve, Settle

if TYPE_CHECKING:
    from blueprint_llm.config.model import Config
    from blueprint_llm.models import ModelFacts
    from blueprint_llm.types import UsageInfo
    from blueprint_llm.usage.pricing import PriceCard

DEFAULT_OUTPUT_TOKENS = 4096


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
        """What to reserve under a limit of `kind`."""
        return {"usd": self.usd or 0, "requests": 1, "tokens": self.input_tokens + self.output_tokens}[kind]


class Outcome(NamedTuple):
    """How an attempt ended.

    Attributes:
        tokens: What the provider reported or what was seen; None: nothing was billed (not sent, 4xx, 429, 5xx).
        category: None: answered; else a row of the failure table, or `abandoned`.
        sent: False: nothing left this machine, so not even a request counts.
        maybe_billed: The provider may have billed what we could not see.
    """

    tokens: Tokens | None = None
    category: str | None = None
    sent: bool = True
    usage_source: str = "provider"
    maybe_billed: bool = False
    latency_s: float | None = None
    ttft_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """A reservation to be made: `op` is for the store; what settling needs later is kept beside it."""

    op: Reserve
    estimate: Estimate

    def heartbeat(self) -> Heartbeat:
        """Keeps it for another time to live."""
        return Heartbeat(id=self.op.id, ttl_s=self.op.ttl_s)


class Ledger:
    """The limits and prices of one configuration."""

    def __init__(self, config: Config) -> None:
        self._rules = rules(config)
        self._of_selectors = lru_cache(maxsize=4096)(self._selected)
        self._unknown = config.pricing.unknown
        self._project = config.project
        self.ttl_s = config.store.reservation_ttl_s or config.deadline.total_s + 10

    def cap(self, payer: Payer, *, max_tokens: int | None, facts: ModelFacts | None, card: PriceCard | None) -> Cap:
        """The output cap of an attempt: the caller's, else one is sent if a USD budget or token quota applies.

        A model whose output may fill its whole window gives no usable cap: then it is DEFAULT_OUTPUT_TOKENS.
        """
        if max_tokens is not None:
            return Cap(bound=max_tokens)
        most = facts.max_output_tokens if facts else None
        window = facts.max_input_tokens if facts else None
        shared = most is not None and window is not None and most >= window
        bound = min(most, DEFAULT_OUTPUT_TOKENS) if most and shared else most or DEFAULT_OUTPUT_TOKENS
        limits = [rule for rule in self._limits(payer, card) if rule.kind != "requests"]
        tokens = [rule.limit // 2 for rule in limits if rule.kind == "tokens"]  # the prompt has to fit beside it
        bound = max(1, min([bound, *tokens]))
        return Cap(bound=bound, send=bound if limits else None)

    def estimate(
        self, card: PriceCard | None, *, input_tokens: int, output_tokens: int, answers: int = 1, seconds: float = 0.0
    ) -> Estimate:
        """The worst case: the dearest reachable tier, cache writes and reasoning, every answer at its cap.

        Args:
            card: The price; None: unknown.
            input_tokens: At most so many.
            output_tokens: The cap of one answer.
            answers: The request's `n`.
            seconds: The longest that it may take, for prices by time.
        """
        output = output_tokens * answers
        usd = worst_cost(card, input_tokens, output, seconds=seconds) if card else self._unpriced
        return Estimate(input_tokens=input_tokens, output_tokens=output, usd=usd, card=card)

    @property
    def _unpriced(self) -> int | None:
        return 0 if self._unknown == "assume_zero" else None

    def unpriced(self, payer: Payer, estimate: Estimate) -> str | None:
        """Why an attempt without a known price may not go, if it may not: `pricing.unknown` under a USD budget."""
        if estimate.usd is not None or self._unknown != "block":
            return None
        budget = next((rule.scope for rule in self._limits(payer, None) if rule.kind == "usd"), None)
        return budget and f"no price is known and the budget of {budget} applies: add one to a file in pricing.files"

    def charges(self, payer: Payer, estimate: Estimate) -> tuple[Charge, ...]:
        """One charge for every limit that counts `payer`."""
        known = payer._replace(project=self._project) if self._project and not payer.project else payer
        return tuple(rule.charge(known, estimate.amount(rule.kind)) for rule in self._limits(known, estimate.card))

    def _limits(self, payer: Payer, card: PriceCard | None) -> tuple[Rule, ...]:
        found = self._of_selectors(payer.selectors())
        if card is None or (card.rpm is None and card.tpm is None):
            return found
        return (*found, *per_minute(f"model:{payer.model}", card.rpm, card.tpm))

    def _selected(self, selectors: tuple[str, ...]) -> tuple[Rule, ...]:
        return tuple(rule for name in selectors for rule in self._rules.get(name, ()))

    def lasting(self) -> tuple[Charge, ...]:
        """A charge of nothing under every limit that outlives a session: how all of them stand can be asked."""
        payer = Payer(call_id="", provider="", model="", project=self._project)
        rules = [rule for listed in self._rules.values() for rule in listed]
        return tuple(rule.charge(payer, 0) for rule in rules if not {rule.scope, rule.window} & {"call", "session"})

    def reserve(self, id_: str, payer: Payer, estimate: Estimate, *, attempt: int = 1, trace: str = "") -> Reservation:
        """The reservation of one attempt. Nobody settling it in time, its row says it was billed its estimate."""
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
            trace_id=trace or payer.call_id,
        )
        op = Reserve(id=id_, charges=self.charges(payer, estimate), ttl_s=self.ttl_s, row=row)
        return Reservation(op=op, estimate=estimate)

    def settle(self, reservation: Reservation, outcome: Outcome) -> Settle:
        """The true amounts of an attempt; `settle.row.cost_nano` is what it cost."""
        tokens = outcome.tokens or Tokens()
        usd = self._cost(reservation.estimate.card, outcome)
        taken = {"usd": usd or 0, "requests": int(outcome.sent), "tokens": tokens.prompt + tokens.completion}
        row = reservation.op.row._replace(
            prompt_tokens=tokens.prompt,
            completion_tokens=tokens.completion,
            cached_tokens=tokens.cached,
            reasoning_tokens=tokens.reasoning,
            cache_write_tokens=tokens.cache_write_5m + tokens.cache_write_1h,
            cost_nano=usd,
            latency_s=outcome.latency_s,
            ttft_s=outcome.ttft_s,
            category=outcome.category,
            usage_source=outcome.usage_source,
            maybe_billed=outcome.maybe_billed,
        )
        return Settle(charges=tuple(item._replace(amount=taken[item.kind]) for item in reservation.op.charges), row=row)

    def _cost(self, card: PriceCard | None, outcome: Outcome) -> int | None:
        if outcome.tokens is None:
            return 0
        return cost(card, outcome.tokens, seconds=outcome.latency_s or 0.0) if card else self._unpriced


def tokens_of(usage: UsageInfo) -> Tokens:
    """A provider's usage in the words of the price list; cache writes are taken for 5-minute ones."""
    return Tokens(
        prompt=usage.prompt_tokens,
        completion=usage.completion_tokens,
        cached=usage.cached_tokens,
        cache_write_5m=usage.cache_write_tokens,
        reasoning=usage.reasoning_tokens,
    )


def denial(level: Level) -> BudgetExceededError | QuotaExceededError:
    """The error for a limit that refused."""
    charge = level.charge
    if charge.kind == "usd":
        limit, used = charge.limit / NANO, level.used / NANO
        return BudgetExceededError(scope=charge.scope, limit_usd=limit, used_usd=used, resets_at=level.resets_at)
    return QuotaExceededError(
        scope=charge.scope, kind=charge.kind, limit=charge.limit, used=level.used, resets_at=level.resets_at
    )


def standing(level: Level) -> dict[str, Any]:
    """A limit's state as plain values for a trace or `explain`; USD where it is a budget."""
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
