"""What a model's tokens cost, and what a call costs: integers throughout, no rounding before the end.

Prices are atto-USD (10^-18) per token, since published ones go below a nano-USD; costs are nano-USD (10^-9).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

ATTO = Decimal(10) ** 18
_NANO = 10**9
_MICROSECONDS = 10**6
PARTS = ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h", "reasoning")


class Tokens(NamedTuple):
    """What a provider reported. `prompt` includes cached and cache-writing tokens, `completion` the reasoning."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    reasoning: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Atto-USD per token."""

    input: int
    output: int
    cache_read: int
    cache_write_5m: int
    cache_write_1h: int
    reasoning: int

    def of(self, tokens: Tokens) -> int:
        """Atto-USD for `tokens`."""
        written = tokens.cache_write_5m + tokens.cache_write_1h
        return (
            max(0, tokens.prompt - tokens.cached - written) * self.input
            + tokens.cached * self.cache_read
            + tokens.cache_write_5m * self.cache_write_5m
            + tokens.cache_write_1h * self.cache_write_1h
            + max(0, tokens.completion - tokens.reasoning) * self.output
            + tokens.reasoning * self.reasoning
        )

    def worst(self, input_tokens: int, output_tokens: int) -> int:
        """The most that so many tokens can cost, in atto-USD."""
        dearest = max(self.input, self.cache_read, self.cache_write_5m, self.cache_write_1h)
        return input_tokens * dearest + output_tokens * max(self.output, self.reasoning)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """Prices as published, before gaps are filled; absent parts are missing keys.

    Attributes:
        base: Atto-USD per token by part.
        tiers: The same for prompts of more than so many tokens; they hold for the whole request.
        per_second: Atto-USD per second of the call.
        per_request: Atto-USD per call.
    """

    base: Mapping[str, int] = field(default_factory=dict)
    tiers: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    per_second: int = 0
    per_request: int = 0

    @property
    def complete(self) -> bool:
        """Whether it prices both directions, or time."""
        return bool(self.per_second) or {"input", "output"} <= set(self.base)

    def over(self, below: Sheet) -> Sheet:
        """This sheet where it says something, else `below`."""
        aboves = sorted({*below.tiers, *self.tiers})
        return Sheet(
            base={**below.base, **self.base},
            tiers={above: {**below.tiers.get(above, {}), **self.tiers.get(above, {})} for above in aboves},
            per_second=self.per_second or below.per_second,
            per_request=self.per_request or below.per_request,
        )

    def times(self, factors: Mapping[Any, Decimal]) -> Sheet:
        """Every price times its part's factor, or times that of `all`."""

        def scaled(prices: Mapping[str, int]) -> dict[str, int]:
            return {part: _scaled(price, factors.get(part, everything)) for part, price in prices.items()}

        everything = factors.get("all", Decimal(1))
        return Sheet(
            base=scaled(self.base),
            tiers={above: scaled(prices) for above, prices in self.tiers.items()},
            per_second=_scaled(self.per_second, everything),
            per_request=_scaled(self.per_request, everything),
        )


def _scaled(price: int, factor: Decimal) -> int:
    return round(price * factor)


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceCard:
    """The price of one model on one day.

    Attributes:
        base: For prompts below every tier.
        tiers: (more than so many prompt tokens, rates), ascending.
        version: Goes on every usage row: which price, from which file or release.
        source: Who says so.
        rpm, tpm: Requests and tokens a minute that this price comes with.
    """

    base: Rates
    tiers: tuple[tuple[int, Rates], ...] = ()
    per_second: int = 0
    per_request: int = 0
    version: str = ""
    source: str = ""
    rpm: int | None = None
    tpm: int | None = None

    @classmethod
    def of(cls, sheet: Sheet, *, version: str, source: str) -> PriceCard | None:
        """The card of a sheet with its gaps filled; None where a direction has no price."""
        if not sheet.complete:
            return None
        return cls(
            base=_filled(sheet.base),
            tiers=tuple((above, _filled({**sheet.base, **sheet.tiers[above]})) for above in sorted(sheet.tiers)),
            per_second=sheet.per_second,
            per_request=sheet.per_request,
            version=version,
            source=source,
        )

    def rates(self, prompt_tokens: int) -> Rates:
        """The rates for a prompt of that length: one tier holds for all of its tokens."""
        found = self.base
        for above, rates in self.tiers:
            if prompt_tokens > above:
                found = rates
        return found

    def per_mtok(self) -> dict[str, float]:
        """The base rates in USD per million tokens, for display."""
        return {part: float(getattr(self.base, part) * 10**6 / ATTO) for part in PARTS}


def _filled(prices: Mapping[str, int]) -> Rates:
    """Who publishes no cache price bills cached tokens as ordinary input, reasoning as output."""
    into, out = prices.get("input", 0), prices.get("output", 0)
    written = prices.get("cache_write_5m", into)
    return Rates(
        input=into,
        output=out,
        cache_read=prices.get("cache_read", into),
        cache_write_5m=written,
        cache_write_1h=prices.get("cache_write_1h", written),
        reasoning=prices.get("reasoning", out),
    )


def atto(usd: object) -> int:
    """USD as atto-USD, exactly as written: 2.8e-08 is twenty-eight thousand-millionths, not its nearest double."""
    return round(Decimal(str(usd)) * ATTO)


def cost(card: PriceCard, tokens: Tokens, *, seconds: float = 0.0) -> int:
    """What a call cost, in nano-USD, rounded once."""
    total = card.rates(tokens.prompt).of(tokens) + card.per_request + _timed(card, seconds)
    return (total + _NANO // 2) // _NANO


def worst_cost(card: PriceCard, input_tokens: int, output_tokens: int, *, seconds: float = 0.0) -> int:
    """The most that a call can cost, in nano-USD, rounded up.

    Args:
        card: The price.
        input_tokens: At most so many; a smaller prompt may still fall into a dearer tier, so each one is priced.
        output_tokens: The output cap (times the number of answers asked for).
        seconds: The longest that the call may take, for prices by time.
    """
    reachable = [card.base, *(rates for above, rates in card.tiers if input_tokens > above)]
    total = max(rates.worst(input_tokens, output_tokens) for rates in reachable)
    return -(-(total + card.per_request + _timed(card, seconds)) // _NANO)


def _timed(card: PriceCard, seconds: float) -> int:
    return card.per_second * round(seconds * _MICROSECONDS) // _MICROSECONDS
