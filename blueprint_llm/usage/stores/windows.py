"""Where a limit's window begins and ends: UTC minutes, hours and days, calendar months, seconds, or no end.

Windows are fixed, never sliding: `<n>s` counts from the Unix epoch, so every process agrees without talking.
`ever`, and one `call` or `session`, have no end.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache

_SECONDS = {"minute": 60, "hour": 3600, "day": 86400}
ENDLESS = frozenset({"session", "call", "ever"})


def bounds(window: str, now: float) -> tuple[int, int | None]:
    """Start and end (exclusive) of the window that holds `now`, Unix seconds; an endless window starts at 0."""
    if window in ENDLESS:
        return 0, None
    if window == "month":
        return _month(int(now // 86400))
    length = _SECONDS.get(window) or int(window[:-1])
    start = int(now // length) * length
    return start, start + length


@lru_cache(maxsize=8)
def _month(day: int) -> tuple[int, int]:
    first = datetime.fromtimestamp(day * 86400, UTC).replace(day=1)
    following = first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
    return int(first.timestamp()), int(following.timestamp())


def timestamp(moment: datetime) -> float:
    """Unix seconds; a naive time is UTC."""
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
