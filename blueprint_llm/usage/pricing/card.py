"""What a model's tokens cost, and what a call costs: integers throughout, no rounding before the end.

Prices are atto-USD (10^-18) per token, since published ones go below a nano-USD; costs are nano-USD (10^-9).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from blueprint_llm.usage.money import ATTO, NANO
from blueprint_llm.usage.pricing.sheet import PARTS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from blueprint_llm.types import UsageInfo
    from blueprint_llm.usage.pricing.bounds import Listed
    from blueprint_llm.usage.pricing.sheet import Sheet

_ATTO_PER_NANO = ATTO // NANO
_MICROSECONDS = 10**6


class Tokens(NamedTuple):
    """What a provider reported; `prompt` and `completion` include all the others."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    reasoning: int = 0
    audio_input: int = 0
    audio_output: int = 0


def tokens_of(usage: UsageInfo) -> Tokens:
    """Return the tokens of an answer, with what only LiteLLM's own `Usage` says: sound, and how long a cache lives."""
    raw = getattr(usage, "raw", None)
    prompt, completion = (_within(raw, f"{side}_tokens_details") for side in ("prompt", "completion"))
    hour = _within(_within(prompt, "cache_creation_token_details"), "ephemeral_1h_input_tokens") or 0
    return Tokens(
        prompt=usage.prompt_tokens,
        completion=usage.completion_tokens,
        cached=usage.cached_tokens,
        cache_write_5m=max(0, usage.cache_write_tokens - hour),
        cache_write_1h=hour,
        reasoning=usage.reasoning_tokens,
        audio_input=_within(prompt, "audio_tokens") or 0,
        audio_output=_within(completion, "audio_tokens") or 0,
    )


def _within(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else getattr(value, name, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Atto-USD per token."""

    input: int
    output: int
    cache_read: int
    cache_write_5m: int
    cache_write_1h: int
    reasoning: int
    audio_input: int
    audio_output: int

    def of(self, tokens: Tokens) -> int:
        """Atto-USD for `tokens`."""
        written = tokens.cache_write_5m + tokens.cache_write_1h
        return (
            max(0, tokens.prompt - tokens.cached - written - tokens.audio_input) * self.input
            + tokens.audio_input * self.audio_input
            + tokens.cached * self.cache_read
            + tokens.cache_write_5m * self.cache_write_5m
            + tokens.cache_write_1h * self.cache_write_1h
            + max(0, tokens.completion - tokens.reasoning - tokens.audio_output) * self.output
            + tokens.audio_output * self.audio_output
            + tokens.reasoning * self.reasoning
        )

    def worst(self, input_tokens: int, output_tokens: int) -> int:
        """Return the most that so many tokens can cost, in atto-USD."""
        dearest = max(self.input, self.cache_read, self.cache_write_5m, self.cache_write_1h, self.audio_input)
        return input_tokens * dearest + output_tokens * max(self.output, self.reasoning, self.audio_output)


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceCard:
    """The price of one model on one day.

    Attributes:
        base: For prompts below every tier; None: it is not priced by the token (pictures, sound, queries).
        tiers: (more than so many prompt tokens, rates), ascending.
        version: Goes on every usage row: which price, from which file or release.
        source: Who says so.
        rpm, tpm: Requests and tokens a minute that this price comes with.
        listed: The prices under LiteLLM's names, where they stand in its map or on the deployment.
    """

    base: Rates | None
    tiers: tuple[tuple[int, Rates], ...] = ()
    per_second: int = 0
    per_request: int = 0
    version: str = ""
    source: str = ""
    rpm: int | None = None
    tpm: int | None = None
    listed: Listed | None = field(default=None, compare=False, repr=False)

    @property
    def is_own(self) -> bool:
        """Return True if the user gave it: in a file, or on the deployment."""
        return not self.version.startswith("litellm:")

    @classmethod
    def of(cls, sheet: Sheet, *, version: str, source: str) -> PriceCard | None:
        """Return the card of a sheet with its gaps filled; None where a direction has no price."""
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

    def rates(self, prompt_tokens: int) -> Rates | None:
        """Return the rates for a prompt of that length: one tier holds for all of its tokens."""
        found = self.base
        for above, rates in self.tiers:
            if prompt_tokens > above:
                found = rates
        return found

    def per_mtok(self) -> dict[str, float] | None:
        """Return the base rates in USD per million tokens, for display."""
        if self.base is None:
            return None
        return {part: getattr(self.base, part) / (ATTO // 10**6) for part in PARTS}


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
        audio_input=prices.get("audio_input", into),
        audio_output=prices.get("audio_output", out),
    )


def cost(card: PriceCard, tokens: Tokens, *, seconds: float = 0.0) -> int | None:
    """Return what a call cost by its tokens and its time, in nano-USD, rounded once; None: it is priced otherwise."""
    rates = card.rates(tokens.prompt)
    if rates is None:
        return None
    total = rates.of(tokens) + card.per_request + _timed(card, seconds)
    return (total + _ATTO_PER_NANO // 2) // _ATTO_PER_NANO


def worst_cost(card: PriceCard, input_tokens: int, output_tokens: int, *, seconds: float = 0.0) -> int:
    """Return the most that a call can cost by a price of the user's own, in nano-USD, rounded up.

    Args:
        card: The price.
        input_tokens: At most so many; a smaller prompt may still fall into a dearer tier, so each one is priced.
        output_tokens: The output cap (times the number of answers asked for).
        seconds: The longest that the call may take, for prices by time.
    """
    reachable = [card.base, *(rates for above, rates in card.tiers if input_tokens > above)]
    total = max(rates.worst(input_tokens, output_tokens) for rates in reachable if rates is not None)
    return -(-(total + card.per_request + _timed(card, seconds)) // _ATTO_PER_NANO)


def _timed(card: PriceCard, seconds: float) -> int:
    return card.per_second * round(seconds * _MICROSECONDS) // _MICROSECONDS
