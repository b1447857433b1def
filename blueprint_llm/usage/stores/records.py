"""What a store is told and what it answers: frozen records, the same for every store.

None carries a time: the store owns the wall clock (Redis: the server's). Amounts are integers: nano-USD, requests or
tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

# `parallel`: attempts under way. What is taken of it is lent: settling and expiry alike give it back.
Kind = Literal["usd", "requests", "tokens", "parallel"]
Dimension = Literal["provider", "model", "session", "project"]
ABANDONED = "abandoned"
EXPIRED = "expired"


class Charge(NamedTuple):
    """One limit that a call must fit under, and what the call takes from it.

    Attributes:
        scope: The rule's scope as configured (`project`).
        subject: Who is counted (`project:acme`): with `kind` and `window` it names the counter.
        window: As in the configuration, or `call`: one call's life.
        amount: What is reserved, or at settling what was really taken.
        warn_at: Amounts, ascending: reaching one is reported once a window.
        chain: Where a `degrade` sends the call.
    """

    scope: str
    subject: str
    kind: Kind
    window: str
    amount: int
    limit: int
    on_exceed: Literal["warn", "degrade", "block"] = "block"
    warn_at: tuple[int, ...] = ()
    chain: tuple[str, ...] = ()

    @property
    def counter(self) -> str:
        """The counter's name without its window's start."""
        return f"{self.subject}|{self.kind}|{self.window}"


def is_lent(counter: str) -> bool:
    """Return True for the counters of a kind that an expiry gives back."""
    return counter.rsplit("|", 2)[1] == "parallel"


class AttemptRow(NamedTuple):
    """One attempt at one target; its `id` is its reservation's. A tuple: every call makes two, of 23 fields.

    Attributes:
        call_id: The user-visible call that the attempt belongs to.
        cost_nano: Nano-USD; None: unknown.
        category: None: answered; else a row of the failure table, `abandoned` (the caller left) or `expired`.
        maybe_billed: The provider may have billed what we could not see.
        cache_hit: Answered from the response cache; `saved_nano` is what that saved.
        at: Unix seconds of the reservation; the store sets it.
    """

    id: str
    call_id: str
    attempt: int = 1
    provider: str = ""
    model: str = ""
    session: str | None = None
    project: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cache_write_tokens: int = 0
    cost_nano: int | None = None
    latency_s: float | None = None
    ttft_s: float | None = None
    category: str | None = None
    usage_source: str = "provider"
    maybe_billed: bool = False
    price_version: str | None = None
    cache_hit: bool = False
    saved_nano: int = 0
    trace_id: str | None = None
    at: float = 0.0


class Reservation(NamedTuple):
    """What an attempt wants to take before it is sent.

    Attributes:
        id: Names the reservation until it is settled; reserving it again takes nothing more.
        charges: Every limit that counts the attempt, at the most that the attempt can take.
        ttl_s: It expires so long after the last heartbeat, and is then charged in full.
        row: The usage row that an expiry writes.
        target: Whose breaker is asked; empty: none is.
        probes: So many attempts at a time may try a half-open target.
    """

    id: str
    charges: tuple[Charge, ...]
    ttl_s: float
    row: AttemptRow
    target: str = ""
    probes: int = 1


class BreakerReport(NamedTuple):
    """What an attempt says of its target's health.

    Attributes:
        id: The reservation's id, so that a probe's slot is freed.
        ok: None: nothing; only the slot is freed.
        failures: This many in a row open the breaker.
        open_s: For so long; every failed probe doubles it.
        open_for_s: Open it at once for so long (the account's quota is used up).
    """

    target: str
    ok: bool | None
    id: str = ""
    failures: int = 3
    open_s: float = 10.0
    open_for_s: float | None = None


class Settlement(NamedTuple):
    """What an attempt really took: `charges` at their true amounts, its usage row, its report to the breaker."""

    charges: tuple[Charge, ...]
    row: AttemptRow
    report: BreakerReport | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """One target's breaker. `open_until` in Unix seconds; `retry_in_s` until a probe may go (0: now).

    `probes` attempts are trying a half-open target at the moment.
    """

    state: Literal["closed", "open", "half_open"] = "closed"
    failures: int = 0
    open_until: float | None = None
    retry_in_s: float = 0.0
    probes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """A counter now: `used` is spent plus reserved; `resets_at` in Unix seconds, None: never by itself."""

    charge: Charge
    used: int
    spent: int
    resets_at: float | None

    @property
    def share(self) -> float:
        """Used part of the limit; of a zero limit, 1."""
        return self.used / self.charge.limit if self.charge.limit else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossed:
    """The spent amount has reached a threshold of `warn_at` for the first time in this window."""

    level: Level
    threshold: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserved:
    """The answer to a reservation; where it was refused, nothing is taken.

    Attributes:
        denied: The limit that refused (a block before a degrade).
        breaker: The breaker that refused: open, or half open with all probes out.
        exceeded: Limits with `on_exceed: warn` that the call goes beyond.
        crossed: Thresholds reached by what was spent before.
    """

    denied: Level | None = None
    breaker: Breaker | None = None
    exceeded: tuple[Level, ...] = ()
    crossed: tuple[Crossed, ...] = ()

    @property
    def ok(self) -> bool:
        """Return True if the charges were taken."""
        return self.denied is None and self.breaker is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """The answer to a settlement. `was`: what became of the reservation before it was settled."""

    was: Literal["open", "expired", "unknown", "settled"]
    crossed: tuple[Crossed, ...] = ()
