"""A target's circuit breaker as pure functions over its stored record, shared by every store.

Closed until `failures` in a row; then open; when that time is over, half open: a few probes may go, one success
closes it, a failed probe opens it again for twice as long.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Literal, NamedTuple

import orjson

LONGEST_S = 300.0


class BreakerReport(NamedTuple):
    """What an attempt says of its target's health."""

    target: str
    ok: bool | None  # None: nothing; only the probe's slot is freed
    id: str = ""  # the reservation's
    failures: int = 3  # this many in a row open the breaker
    open_s: float = 10.0  # for so long; every failed probe doubles it
    open_for_s: float | None = None  # open it at once for so long (the account's quota is used up)


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """One target's record; all is stored but `now`."""

    failures: int = 0  # in a row
    open_s: float = 0.0  # how long it was last opened
    until: float = 0.0  # Unix seconds
    probes: dict[str, float] = field(default_factory=dict)  # those out: id and expiry
    now: float = field(default=0.0, compare=False)  # the moment at which it is looked at

    @property
    def state(self) -> Literal["closed", "open", "half_open"]:
        """Return how it stands."""
        return "closed" if not self.until else "open" if self.until > self.now else "half_open"

    @property
    def retry_in_s(self) -> float:
        """Return how long it is until a probe may go; 0: it may."""
        return max(0.0, self.until - self.now) if self.until else 0.0

    def refuses(self, probes: int) -> bool:
        """Return True if a new attempt may not go, where `probes` at a time may try a half-open target."""
        out = sum(expiry > self.now for expiry in self.probes.values())
        return self.state == "open" or (self.state == "half_open" and out >= probes)

    def without(self, holder: str) -> Breaker:
        """Return it without the probe of `holder`."""
        return replace(self, probes={id_: expiry for id_, expiry in self.probes.items() if id_ != holder})


CLOSED = Breaker()


def load(stored: bytes | str | None, now: float) -> Breaker:
    """Return the record as stored, at a moment; nothing stored is a closed breaker."""
    return Breaker(**orjson.loads(stored), now=now) if stored else CLOSED


def dump(breaker: Breaker) -> bytes | None:
    """Return the record to store; None: a closed breaker without failures needs none."""
    facts = asdict(breaker)
    del facts["now"]
    return None if breaker == CLOSED else orjson.dumps(facts)


def admit(before: Breaker, holder: str, *, probes: int, ttl_s: float) -> Breaker | None:
    """Return the record with the attempt's probe out; None: it refuses the attempt.

    A slot whose holder never reports is free again after the reservation's time to live.
    """
    if before.state == "closed":
        return before
    out = {id_: expiry for id_, expiry in before.probes.items() if expiry > before.now}
    if before.refuses(probes) and (before.state == "open" or holder not in out):
        return None
    return replace(before, probes={**out, holder: before.now + ttl_s})


def report(before: Breaker, told: BreakerReport, now: float) -> Breaker:
    """Return the record after an attempt's report."""
    failures, is_open = before.failures + 1, bool(before.until)
    if told.open_for_s is not None:
        return Breaker(failures=failures, open_s=told.open_s, until=max(before.until, now + told.open_for_s), now=now)
    if told.ok:  # an answer of a call that began before it opened proves as much as a probe's
        return CLOSED
    if told.ok is None:
        return before.without(told.id)
    if told.id in before.probes if is_open else failures >= told.failures:
        seconds = min(LONGEST_S, before.open_s * 2) if is_open else told.open_s
        return Breaker(failures=failures, open_s=seconds, until=now + seconds, now=now)
    return replace(before, failures=failures)
