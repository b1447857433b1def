"""USD as integers: nano-USD for amounts, atto-USD for the price of one token, since published ones go below a nano."""

from __future__ import annotations

from decimal import Decimal

NANO = 10**9
ATTO = 10**18


def nano(usd: object) -> int:
    """Return USD as whole nano-USD."""
    return round(Decimal(str(usd)) * NANO)


def atto(usd: object) -> int:
    """Return USD as atto-USD, exactly as written: 2.8e-08 is twenty-eight billionths, not its nearest double."""
    return round(Decimal(str(usd)) * ATTO)
