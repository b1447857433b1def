"""Amounts as people read them."""

from __future__ import annotations

import math
from datetime import UTC, datetime


def usd(value: float | None) -> str:
    """`$1,234.50`, `$0.0042`: two digits that count below a dollar; None is unknown."""
    if value is None:
        return "unknown"
    if value == 0:
        return "$0"
    digits = 2 if abs(value) >= 1 else min(9, 1 - math.floor(math.log10(abs(value))))
    return f"${value:,.{digits}f}"


def partly(value: float, unpriced: int) -> str:
    """A sum of which `unpriced` parts are unknown: `$1.00 + unknown`, `unknown`."""
    return f"{usd(value)} + unknown" if unpriced and value else usd(None if unpriced else value)


def count(value: float) -> str:
    """`1,234`, `12.3k`, `4.5M`."""
    for unit, size, least in (("M", 10**6, 10**6), ("k", 10**3, 10**4)):
        if value >= least:
            return f"{value / size:.1f}".removesuffix(".0") + unit
    return f"{value:,.0f}"


def counted(value: int, noun: str) -> str:
    """`1 answer`, `89 answers`."""
    return f"{count(value)} {noun}{'' if value == 1 else 's'}"


def seconds(value: float | None) -> str:
    """`840 ms`, `1.84 s`; None is a dash."""
    if value is None:
        return "–"
    return f"{value * 1000:.0f} ms" if 0 < value < 1 else f"{value:.2f} s"


def percent(share: float) -> str:
    """`12 %`, `0.4 %`."""
    return f"{share * 100:.0f} %" if share >= 0.01 or share == 0 else f"{share * 100:.1f} %"  # noqa: PLR2004 - one percent


def spent(kind: str, used: float, limit: float) -> str:
    """What is used of a limit, in the unit of its kind."""
    return f"{usd(used)} of {usd(limit)}" if kind == "usd" else f"{count(used)} of {count(limit)} {kind}"


def moment(at: float) -> str:
    """`27 Nov 2026, 03:10:22`, UTC."""
    return f"{datetime.fromtimestamp(at, UTC):%-d %b %Y, %H:%M:%S}"
