"""Prices as somebody publishes them, with gaps: atto-USD per token by part, for prompts of any length."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from decimal import Decimal

PARTS = (
    "input",
    "output",
    "cache_read",
    "cache_write_5m",
    "cache_write_1h",
    "reasoning",
    "audio_input",
    "audio_output",
)


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
        """Return True if it prices both directions, or time."""
        return bool(self.per_second) or {"input", "output"} <= set(self.base)

    def over(self, below: Sheet) -> Sheet:
        """Return this sheet where it says something, else `below`."""
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

        everything = factors.get("all", 1)
        return Sheet(
            base=scaled(self.base),
            tiers={above: scaled(prices) for above, prices in self.tiers.items()},
            per_second=_scaled(self.per_second, everything),
            per_request=_scaled(self.per_request, everything),
        )


def _scaled(price: int, factor: Decimal | int) -> int:
    return round(price * factor)
