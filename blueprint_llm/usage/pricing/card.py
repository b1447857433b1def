"""What a model's tokens cost, ours and under LiteLLM's names, and what a call costs: integers, rounded at the end.

Prices are atto-USD (10^-18) per token, since published ones go below a nano-USD; costs are nano-USD (10^-9).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from blueprint_llm.usage.money import ATTO, NANO, atto

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from decimal import Decimal

    from blueprint_llm.types import UsageInfo
    from blueprint_llm.usage.pricing.bounds import Listed

_Plain = Literal["input", "output", "cache_read", "cache_write_5m", "cache_write_1h", "reasoning"]
Part = Literal[_Plain, "audio_input", "audio_output"]
PARTS: tuple[Part, ...] = get_args(Part)
# Prices as somebody publishes them, with gaps: of a part, for prompts of more than so many tokens. Beside the parts
# there are `second` and `request`: what the whole call costs by its time, and in any case.
Sheet = Mapping[tuple[str, int], int]
SECOND, REQUEST = ("second", 0), ("request", 0)
# Who publishes no cache price bills cached tokens as ordinary input, reasoning as output.
_INSTEAD = {
    **dict.fromkeys(("cache_read", "cache_write_5m", "audio_input"), "input"),
    **dict.fromkeys(("reasoning", "audio_output"), "output"),
    "cache_write_1h": "cache_write_5m",
}
_ATTO_PER_NANO = ATTO // NANO
_MICROSECONDS = 10**6


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceCard:
    """The price of one model on one day."""

    # (More than so many prompt tokens, atto-USD per token by part), ascending from 0, without gaps; empty: it is not
    # priced by the token (pictures, sound, queries).
    rates: tuple[tuple[int, Mapping[str, int]], ...] = ()
    per_second: int = 0
    per_request: int = 0
    version: str = ""  # goes on every usage row: which price, from which file or release
    source: str = ""  # who says so
    rpm: int | None = None  # requests and tokens a minute that this price comes with
    tpm: int | None = None
    # The prices under LiteLLM's names, where they stand in its map or on the deployment.
    listed: Listed | None = field(default=None, compare=False, repr=False)

    @property
    def is_own(self) -> bool:
        """Return True if the user gave it: in a file, or on the deployment."""
        return not self.version.startswith("litellm:")

    @classmethod
    def of(cls, sheet: Sheet, **facts: Any) -> PriceCard | None:
        """Return the card of a sheet with its gaps filled; None where neither time nor both directions have a price."""
        if not sheet.get(SECOND) and not {("input", 0), ("output", 0)} <= sheet.keys():
            return None
        rates = tuple((mark, _filled(sheet, mark)) for mark in sorted({0, *(above for _, above in sheet)}))
        return cls(rates=rates, per_second=sheet.get(SECOND, 0), per_request=sheet.get(REQUEST, 0), **facts)

    def per_mtok(self) -> dict[str, float] | None:
        """Return the base rates in USD per million tokens, for display."""
        return {part: self.rates[0][1][part] / (ATTO // 10**6) for part in PARTS} if self.rates else None


def _filled(sheet: Sheet, mark: int) -> dict[str, int]:
    """Return a price for every part of prompts that are longer than `mark`."""
    found = {"input": 0, "output": 0}
    for start in (0, mark):
        found |= {part: price for (part, above), price in sheet.items() if above == start}
    for part, other in _INSTEAD.items():
        found.setdefault(part, found[other])
    return found


def times(sheet: Sheet, factors: Mapping[Any, Decimal]) -> Sheet:
    """Return every price times its part's factor, or times that of `all`."""
    everything = factors.get("all", 1)
    return {key: round(price * factors.get(key[0], everything)) for key, price in sheet.items()}


def tokens_of(usage: UsageInfo) -> dict[str, int]:
    """Return an answer's tokens by part, with what only LiteLLM's own `Usage` says: sound, how long a cache lives."""
    raw = getattr(usage, "raw", None)
    prompt, completion = (_within(raw, f"{side}_tokens_details") for side in ("prompt", "completion"))
    hour = _within(_within(prompt, "cache_creation_token_details"), "ephemeral_1h_input_tokens") or 0
    read = {
        "cache_read": usage.cached_tokens,
        "cache_write_5m": max(0, usage.cache_write_tokens - hour),
        "cache_write_1h": hour,
        "audio_input": _within(prompt, "audio_tokens") or 0,
    }
    written = {"reasoning": usage.reasoning_tokens, "audio_output": _within(completion, "audio_tokens") or 0}
    text_in = max(0, usage.prompt_tokens - sum(read.values()))
    return {"input": text_in, **read, "output": max(0, usage.completion_tokens - sum(written.values())), **written}


def _within(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else getattr(value, name, None)


def cost(card: PriceCard, usage: UsageInfo, *, seconds: float = 0.0) -> int | None:
    """Return what a call cost by its tokens and its time, in nano-USD, rounded once; None: it is priced otherwise."""
    if not card.rates:
        return None
    # One tier holds for all of a prompt's tokens.
    rates = next(rates for above, rates in reversed(card.rates) if usage.prompt_tokens > above or not above)
    total = sum(count * rates[part] for part, count in tokens_of(usage).items()) + card.per_request
    return (total + _timed(card, seconds) + _ATTO_PER_NANO // 2) // _ATTO_PER_NANO


def worst_cost(card: PriceCard, input_tokens: int, output_tokens: int, *, seconds: float = 0.0) -> int:
    """Return the most that a call can cost by a price of the user's own, in nano-USD, rounded up.

    `output_tokens` is the cap of all its answers together; it takes at most so many `seconds`. A prompt shorter than
    `input_tokens` may still fall into a dearer tier, so each one is priced.
    """
    reachable = [rates for above, rates in card.rates if input_tokens > above or not above]
    dearest_in = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "audio_input")
    total = max(
        input_tokens * max(rates[part] for part in dearest_in)
        + output_tokens * max(rates["output"], rates["reasoning"], rates["audio_output"])
        for rates in reachable
    )
    return -(-(total + card.per_request + _timed(card, seconds)) // _ATTO_PER_NANO)


def _timed(card: PriceCard, seconds: float) -> int:
    return card.per_second * round(seconds * _MICROSECONDS) // _MICROSECONDS


# A key of LiteLLM's says what it prices (`input_cost_per_audio_token`), from which length of the prompt on
# (`_above_200k_tokens`), for which life of a cached prefix (`_above_1hr`) and in which service tier (`_priority`).
_KEY = re.compile(
    r"(?P<name>[a-z_]+?)(?:_above_(?P<life>\d+hr))?(?:_above_(?P<above>\d+)(?P<thousands>k?)_tokens)?"
    r"(?:_(?P<tier>priority|flex|batches|balanced|ultrafast|decisions))?"
)
# The parts of a price of ours, by name and life.
_PARTS = {
    ("input_cost_per_token", None): "input",
    ("output_cost_per_token", None): "output",
    ("cache_read_input_token_cost", None): "cache_read",
    ("cache_creation_input_token_cost", None): "cache_write_5m",
    ("cache_creation_input_token_cost", "1hr"): "cache_write_1h",
    ("output_cost_per_reasoning_token", None): "reasoning",
    ("input_cost_per_audio_token", None): "audio_input",
    ("output_cost_per_audio_token", None): "audio_output",
}
_PER_SECOND = ("cost_per_second", "input_cost_per_second", "output_cost_per_second")
_TIERS = {"batch": "batches", "flex": "flex", "priority": "priority"}
_INCLUSIVE = "xai"  # bills the dearer tier from the threshold on, the others above it


class Rate(NamedTuple):
    """What a token of some kind costs, and when that applies; `above` so many tokens of the prompt."""

    name: str
    atto: int
    tier: str | None
    above: int
    life: str | None


def rates(entry: Mapping[str, Any]) -> Iterator[Rate]:
    """Yield every price of a token in `entry`, and whatever else has a price's name."""
    inclusive = entry.get("litellm_provider") == _INCLUSIVE
    tables = [(0, entry)]
    # Each range is complete, nothing of a lower one holds in it; a search's are by results, not by tokens.
    for tier in (tier for tier in entry.get("tiered_pricing") or () if "range" in tier):
        into = tier.get("input_cost_per_token")
        cached = dict.fromkeys(("cache_read_input_token_cost", "cache_creation_input_token_cost"), into)
        tables.append((int(tier["range"][0]), {**cached, **tier}))
    for start, table in tables:
        for key, value in table.items():
            match, price = _KEY.fullmatch(key), number(value)
            if match is not None and price is not None and "cost" in key:
                above = int(match["above"] or 0) * (1000 if match["thousands"] else 1)
                above -= bool(above) and inclusive
                yield Rate(match["name"], atto(price), match["tier"], max(start, above), match["life"])


def sheet(entry: Mapping[str, Any], tags: Iterable[str] = ()) -> Sheet:
    """Return the prices in `entry`; a tier's own price counts where there is one, else the standard one."""
    tier = next((_TIERS[tag] for tag in tags if tag in _TIERS), None)
    found: dict[tuple[str, int], int] = {}
    for rate in sorted(rates(entry), key=lambda rate: rate.tier is not None):
        part = _PARTS.get((rate.name, rate.life))
        if part is not None and rate.tier in {None, tier}:
            found[part, rate.above] = rate.atto
    for key, names in ((SECOND, _PER_SECOND), (REQUEST, ("input_cost_per_request",))):
        if total := sum(atto(entry[name]) for name in names if entry.get(name)):
            found[key] = total
    return found


def prices_in(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a call's own keywords, or a deployment's settings, say about its price."""
    return {name: params[name] for name in params if "_cost" in name or name == "tiered_pricing"}


def number(value: Any) -> float | None:
    """Return a price or a size; the map has a few as text."""
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None
