"""What a cache's store can be asked to do: frozen records, each one atomic step, the same for every store."""

from __future__ import annotations

from dataclasses import dataclass, field

LEASE_S = 2.0
BEAT_S = 0.5
MOST_S = 60.0  # no lease holds for longer
# A lease is remembered so much longer than it holds that nobody mistakes a dead holder for one that gave up.
KEEP_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Get:
    """The bytes under `key` that have not outlived their time, or None."""

    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Put:
    """Keep `value` under `key` for `ttl_s` seconds; the store evicts what it stored first when it is full."""

    key: str
    value: bytes = field(repr=False)
    ttl_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """Forget `key`."""

    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """Ask to be the one who fetches the answer for `key`. The result is a `Standing`.

    Attributes:
        flight: Empty: take the lease if it is free or its holder is dead. Else whom the asker waits for: only that
            holder, and only dead, is replaced.
    """

    key: str
    owner: str
    ttl_s: float = LEASE_S
    flight: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """Keep a lease for another `ttl_s`. The result is a `Standing`."""

    key: str
    owner: str
    ttl_s: float = LEASE_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Give a lease back."""

    key: str
    owner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """How much is kept. The result is `Amount`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clear:
    """Forget everything, or what is in `namespace` and stored more than `older_than_s` ago. The result: how many."""

    namespace: str | None = None
    older_than_s: float = 0.0


Op = Get | Put | Drop | Lease | Beat | Release | Measure | Clear


@dataclass(frozen=True, slots=True)
class Standing:
    """Who fetches an answer: the asker, or else `flight` (empty: nobody any more)."""

    mine: bool
    flight: str


@dataclass(frozen=True, slots=True)
class Amount:
    """What a store keeps: entries, and their bytes without its own overhead."""

    entries: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Held:
    """A lease as a store keeps it; `flight` outlives a dead holder, `until` in Unix seconds."""

    owner: str
    flight: str
    until: float


def lease_step(held: Held | None, op: Lease | Beat | Release, now: float) -> tuple[Held | None, Standing]:
    """What becomes of a lease, and what the asker is told; the lease is the same object if it stays as it was."""
    if isinstance(op, Release):
        return (None if held and held.owner == op.owner else held), Standing(mine=False, flight="")
    if not _takes(held, op, now):
        return held, Standing(mine=False, flight=held.flight if held else "")
    flight = held.flight if held else op.owner
    return Held(op.owner, flight, now + op.ttl_s), Standing(mine=True, flight=flight)


def _takes(held: Held | None, op: Lease | Beat, now: float) -> bool:
    if isinstance(op, Beat):
        return held is not None and held.owner == op.owner
    if held is None:
        return not op.flight
    is_over = not now < held.until <= now + MOST_S  # one that holds for longer was made up, or the clock was set back
    return is_over and op.flight in {"", held.flight}
