"""What a store can be asked to do, and what it answers.

Every operation is one frozen record and one transaction, the same on SQLite and on Redis. None carries a time: the
store owns the wall clock (Redis: the server's). Amounts are integers: nano-USD, requests or tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from blueprint_llm.types import UsageFilter

Kind = Literal["usd", "requests", "tokens"]
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


class AttemptRow(NamedTuple):
    """One attempt at one target; its `id` is its reservation's. A tuple: every call makes two, of 22 fields.

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


class Reserve(NamedTuple):
    """Take every charge or none. `row` is written if nobody settles within `ttl_s` of the last heartbeat."""

    id: str
    charges: tuple[Charge, ...]
    ttl_s: float
    row: AttemptRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Settle:
    """Replace a reservation's amounts by the true ones and write its row. A second settle changes nothing.

    An expired reservation is corrected; one that this store never saw is charged now.
    """

    charges: tuple[Charge, ...]
    row: AttemptRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Undo a reservation of which nothing was sent: no amount stays, no row is written."""

    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """Keep a reservation for another `ttl_s`. The result is whether it was still open."""

    id: str
    ttl_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How full each charge's counter is, reserving nothing. The result is a tuple of `Level`."""

    charges: tuple[Charge, ...]


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
    """The answer to `Reserve`.

    Attributes:
        denied: The limit that refused (a block before a degrade); nothing was counted.
        exceeded: Limits with `on_exceed: warn` that the call goes beyond.
        crossed: Thresholds reached by what was spent before.
    """

    denied: Level | None = None
    exceeded: tuple[Level, ...] = ()
    crossed: tuple[Crossed, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the charges were taken."""
        return self.denied is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """The answer to `Settle`. `was`: what became of the reservation before it was settled."""

    was: Literal["open", "expired", "unknown", "settled"]
    crossed: tuple[Crossed, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteRow:
    """Write one usage row that has no reservation (a cache hit)."""

    row: AttemptRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregate:
    """Sum the rows of the current epoch. The result is `UsageStats`."""

    where: UsageFilter


@dataclass(frozen=True, slots=True, kw_only=True)
class ByDay:
    """Sum the rows of the current epoch by UTC day. The result is `dict[str, UsageTotals]`."""

    where: UsageFilter


@dataclass(frozen=True, slots=True, kw_only=True)
class Daily:
    """`ByDay` for every value of `by`. The result is `dict[str, dict[str, UsageTotals]]`."""

    where: UsageFilter
    by: Dimension


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The newest rows of the current epoch, newest first. The result is a tuple of `AttemptRow`."""

    where: UsageFilter
    limit: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEpoch:
    """Start counting usage afresh: rows stay, budgets and quotas too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetLimits:
    """Empty every budget and quota but for what open reservations hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerStates:
    """How the breakers of `targets` stand. The result is `dict[str, Breaker]`, changing nothing."""

    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """One target's breaker. `open_until` in Unix seconds; `retry_in_s` until a probe may go (0: now)."""

    state: Literal["closed", "open", "half_open"] = "closed"
    failures: int = 0
    open_until: float | None = None
    retry_in_s: float = 0.0


class BreakerProbe(NamedTuple):
    """Ask to send to `target`: always granted when closed; half open, to `probes` holders at a time.

    A slot whose holder never reports is free again after `ttl_s`. The result is `Admission`.
    """

    target: str
    id: str
    probes: int
    ttl_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """Whether the attempt may go, and as a probe or not."""

    granted: bool
    probe: bool
    breaker: Breaker


class BreakerReport(NamedTuple):
    """Tell a breaker how an attempt ended. The result is its `Breaker` after that.

    Attributes:
        id: The probe's id, so that its slot is freed.
        ok: None: the attempt says nothing about the target's health; only its slot is freed.
        failures: This many in a row open it.
        open_s: For this long; doubled by every failed probe up to `cap_s`.
        open_for_s: Open it at once for this long (a quota of the account is exhausted).
    """

    target: str
    ok: bool | None
    id: str = ""
    failures: int = 3
    open_s: float = 10.0
    cap_s: float = 300.0
    open_for_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Several operations in one round: SQLite runs them in one transaction. The result is a tuple."""

    ops: tuple[Op, ...] = field(default=())


Op = (
    Reserve
    | Settle
    | Release
    | Heartbeat
    | Standing
    | WriteRow
    | Aggregate
    | ByDay
    | Daily
    | Rows
    | NewEpoch
    | ResetLimits
    | BreakerStates
    | BreakerProbe
    | BreakerReport
    | Batch
)
