"""A target's circuit breaker as pure functions over its stored record, shared by every store.

Closed until `failures` in a row; then open; when that time is over, half open: a few probes may go, one success
closes it, a failed probe opens it again for twice as long.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

import orjson

from blueprint_llm.usage.stores.records import Breaker

if TYPE_CHECKING:
    from blueprint_llm.usage.stores.records import BreakerReport, Reservation

LONGEST_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is stored: consecutive failures, how long it was last opened, until when, and probes out (id: expiry)."""

    failures: int = 0
    open_s: float = 0.0
    until: float = 0.0
    probes: dict[str, float] = field(default_factory=dict)


CLOSED = Record()
_HEALTHY = Breaker()


def load(stored: bytes | str | None) -> Record:
    """Return the record as stored; nothing stored is a closed breaker."""
    return Record(**orjson.loads(stored)) if stored else CLOSED


def dump(record: Record) -> bytes | None:
    """Return the record to store; None: a closed breaker without failures needs none."""
    return None if record == CLOSED else orjson.dumps(asdict(record))


def view(record: Record, now: float) -> Breaker:
    """Return the record as callers see it."""
    if record is CLOSED:
        return _HEALTHY
    if not record.until:
        return Breaker(failures=record.failures)
    wait = max(0.0, record.until - now)
    return Breaker(
        state="open" if wait else "half_open",
        failures=record.failures,
        open_until=record.until,
        retry_in_s=wait,
        probes=sum(expiry > now for expiry in record.probes.values()),
    )


def refuses(seen: Breaker, probes: int) -> bool:
    """Return True if a new attempt may not go, where `probes` at a time may try a half-open target."""
    return seen.state == "open" or (seen.state == "half_open" and seen.probes >= probes)


def admit(record: Record, wanted: Reservation, now: float) -> tuple[Record, Breaker | None]:
    """Return the record with the attempt's probe out, and the breaker if it refuses the attempt.

    A slot whose holder never reports is free again after the reservation's time to live.
    """
    seen = view(record, now)
    if seen.state == "closed":
        return record, None
    out = {holder: expiry for holder, expiry in record.probes.items() if expiry > now}
    if refuses(seen, wanted.probes) and (seen.state == "open" or wanted.id not in out):
        return record, seen
    return replace(record, probes={**out, wanted.id: now + wanted.ttl_s}), None


def report(record: Record, told: BreakerReport, now: float) -> Record:
    """Return the record after an attempt's report."""
    if record is CLOSED and told.ok is not False and told.open_for_s is None:
        return CLOSED
    freed = free(record, told.id)
    if told.open_for_s is not None:
        return Record(failures=record.failures + 1, open_s=told.open_s, until=max(record.until, now + told.open_for_s))
    if told.ok is None:
        return freed
    if told.ok:  # an answer of a call that began before it opened proves as much as a probe's
        return CLOSED
    failed = replace(freed, failures=record.failures + 1)
    if record.until:
        was_probe = told.id in record.probes
        return _opened(failed, min(LONGEST_S, record.open_s * 2), now) if was_probe else failed
    return _opened(failed, told.open_s, now) if failed.failures >= told.failures else failed


def free(record: Record, holder: str) -> Record:
    """Return the record without the probe of `holder`."""
    return replace(record, probes={id_: expiry for id_, expiry in record.probes.items() if id_ != holder})


def _opened(record: Record, seconds: float, now: float) -> Record:
    return replace(record, open_s=seconds, until=now + seconds, probes={})
