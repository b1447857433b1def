"""A target's breaker as a pure function over its stored record, shared by every store.

Closed until `failures` in a row; then open; when that time is over, half open: a few probes may go, one success
closes it, a failed probe opens it again for twice as long.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import orjson

from blueprint_llm.usage.stores.ops import Admission, Breaker, BreakerProbe, BreakerReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is stored: consecutive failures, how long it was last opened, until when, and probes out (id: expiry)."""

    failures: int = 0
    open_s: float = 0.0
    until: float = 0.0
    probes: dict[str, float] = field(default_factory=dict)


CLOSED = Record()
_HEALTHY = Breaker()
_GRANTED = Admission(granted=True, probe=False, breaker=_HEALTHY)


def load(stored: bytes | str | None) -> Record:
    """The record as stored; nothing stored is a closed breaker."""
    return Record(**orjson.loads(stored)) if stored else CLOSED


def dump(record: Record) -> bytes | None:
    """The record to store; None: a closed breaker without failures needs none."""
    return None if record == CLOSED else orjson.dumps(asdict(record))


def view(record: Record, now: float) -> Breaker:
    """The record as callers see it."""
    if record is CLOSED:
        return _HEALTHY
    if not record.until:
        return Breaker(failures=record.failures)
    wait = max(0.0, record.until - now)
    return Breaker(
        state="open" if wait else "half_open", failures=record.failures, open_until=record.until, retry_in_s=wait
    )


def step(record: Record, op: BreakerProbe | BreakerReport, now: float) -> tuple[Record, Any]:
    """The record after `op`, and the operation's result."""
    if isinstance(op, BreakerProbe):
        return _probe(record, op, now)
    after = _report(record, op, now)
    return after, view(after, now)


def _probe(record: Record, op: BreakerProbe, now: float) -> tuple[Record, Admission]:
    if record is CLOSED:
        return record, _GRANTED
    seen = view(record, now)
    if seen.state != "half_open":
        return record, Admission(granted=seen.state == "closed", probe=False, breaker=seen)
    out = {holder: expiry for holder, expiry in record.probes.items() if expiry > now}
    granted = op.id in out or len(out) < op.probes
    if granted:
        out[op.id] = now + op.ttl_s
    return replace(record, probes=out), Admission(granted=granted, probe=granted, breaker=seen)


def _report(record: Record, op: BreakerReport, now: float) -> Record:
    if record is CLOSED and op.ok is not False and op.open_for_s is None:
        return CLOSED
    probing = op.id in record.probes
    probes = {holder: expiry for holder, expiry in record.probes.items() if holder != op.id}
    if op.open_for_s is not None:
        return Record(failures=record.failures + 1, open_s=op.open_s, until=max(record.until, now + op.open_for_s))
    if op.ok is None:
        return replace(record, probes=probes)
    if op.ok:  # an answer of a call that began before it opened proves as much as a probe's
        return CLOSED
    failed = replace(record, failures=record.failures + 1, probes=probes)
    if record.until:
        return _opened(failed, min(op.cap_s, record.open_s * 2), now) if probing else failed
    return _opened(failed, op.open_s, now) if failed.failures >= op.failures else failed


def _opened(record: Record, seconds: float, now: float) -> Record:
    return replace(record, open_s=seconds, until=now + seconds, probes={})
