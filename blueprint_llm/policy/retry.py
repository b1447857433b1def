"""How long to wait before another try, and when retries have to stop for everybody's sake.

All time parameters are in seconds.
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from dataclasses import asdict, dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryRules:
    """Retries at one target; the first attempt counts.

    Attributes:
        min_s: What a wait is at least.
    """

    max_attempts: int = 3
    base_s: float = 0.5
    cap_s: float = 8.0
    jitter: bool = True
    max_retry_after_s: float = 20.0
    min_s: float = 0.0


def backoff_s(rules: RetryRules, *, retry: int, draw: float) -> float:
    """Return the wait before the `retry`-th retry (1 is the first), exponential with full jitter.

    Full jitter as in https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/.
    """
    ceiling = min(rules.cap_s, rules.base_s * 2.0 ** min(retry - 1, 60))
    return ceiling * draw if rules.jitter else ceiling


def retry_after_s(headers: Mapping[str, str], *, now: float) -> float | None:
    """Return the wait that headers ask for: `retry-after-ms`, seconds (int or float) or an HTTP date.

    Args:
        headers: Response headers, names in lower case.
        now: Unix time, for dates where the response has no `date` header.
    """
    milliseconds = _seconds(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    text = headers.get("retry-after")
    seconds = _seconds(text)
    return seconds if seconds is not None else _until(text, since=_timestamp(headers.get("date")) or now)


def _seconds(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _timestamp(text: str | None) -> float | None:
    try:
        return parsedate_to_datetime(text or "").timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def _until(text: str | None, *, since: float) -> float | None:
    moment = _timestamp(text)
    return None if moment is None else max(0.0, moment - since)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldBack:
    """A retry that the ratio did not allow, for the trace and the final error.

    Attributes:
        retries, calls: What there was within the last `window_s` seconds.
        ratio: The share of retries that is allowed.
        floor: How many retries are allowed however few calls there are.
    """

    retries: int
    calls: int
    ratio: float
    floor: int
    window_s: float

    def __str__(self) -> str:
        return (
            f"a retry was held back: {self.retries} retries beside {self.calls} calls in {self.window_s:g} s, "
            f"at most {self.ratio:g} of the calls or {self.floor} are allowed (retry.ratio)"
        )

    def to_dict(self) -> dict[str, float]:
        """Return the record for a trace."""
        return asdict(self)


@dataclass(slots=True)
class RetryRatio:
    """Retries may be at most `ratio` of recent calls, so that an outage is not multiplied.

    A floor of `floor` retries per `window_s` keeps quiet clients from being starved. Re-asks for invalid answers are no
    retries of an outage and are not asked for here.
    """

    ratio: float = 0.2
    floor: int = 10
    window_s: float = 10.0
    _calls: deque[float] = field(default_factory=deque)
    _retries: deque[float] = field(default_factory=deque)

    def record_call(self, now: float) -> None:
        """Count a call."""
        self._calls.append(now)
        _forget(self._calls, now - self.window_s)

    def hold_back(self, now: float) -> HeldBack | None:
        """Count a retry if there is room for one and return None; else return why it is held back."""
        _forget(self._calls, now - self.window_s)
        _forget(self._retries, now - self.window_s)
        calls, retries = len(self._calls), len(self._retries)
        if retries >= max(self.floor, self.ratio * calls):
            return HeldBack(retries=retries, calls=calls, ratio=self.ratio, floor=self.floor, window_s=self.window_s)
        self._retries.append(now)
        return None


def _forget(times: deque[float], before: float) -> None:
    with contextlib.suppress(IndexError):  # another thread may have forgotten the last one
        while times[0] < before:
            times.popleft()
