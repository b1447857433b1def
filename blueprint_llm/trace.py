"""What a walk did, as plain JSON values: no secrets, no message text (API section 6)."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from blueprint_llm.types import Considered

FIRST = "first of the chain that can serve it"


@dataclass(slots=True, kw_only=True)
class AttemptTrace:
    """One attempt, `at_s` after the call began. Times in seconds, money in USD; `cost_usd` None means unknown.

    `address` is where the connection failed: scheme, host and port. `said` are the provider's words, masked, without
    what they repeat of the request.
    """

    n: int
    provider: str
    model: str
    category: str | None = None
    code: str | None = None
    status: int | None = None
    address: str | None = None
    said: str | None = None
    at_s: float = 0.0
    waited_s: float = 0.0
    duration_s: float | None = None
    ttft_s: float | None = None
    reserved_usd: float | None = None
    cost_usd: float | None = None
    usage_source: str | None = None
    maybe_billed: bool = False
    tokens_saved: int | None = None

    def facts(self) -> dict[str, Any]:
        """The attempt as an event tells it: without anybody's words."""
        return {name: value for name, value in _fields(self).items() if name != "said"}


@dataclass(slots=True, kw_only=True)
class Trace:
    """One call. `overhead_us` is our own time until the first request was handed to LiteLLM."""

    id: str
    policy_hash: str
    route: dict[str, Any] = field(default_factory=dict)
    attempts: list[AttemptTrace] = field(default_factory=list)
    cache: dict[str, Any] = field(default_factory=lambda: {"hit": False, "key": None})
    budget_warnings: list[dict[str, Any]] = field(default_factory=list)
    held_back: list[dict[str, Any]] = field(default_factory=list)
    context: list[str] = field(default_factory=list)
    served_by: str | None = None
    overhead_us: float | None = None

    def set_route(self, rule: str, chain: str | None, considered: Iterable[Considered]) -> None:
        """Note whom routing chose."""
        self.route = {"rule": rule, "chain": chain, "considered": [{**vars(row)} for row in considered]}

    def consider(self, rows: Iterable[Considered]) -> None:
        """Add targets that a detour leads to."""
        known = {(row["provider"], row["model"]) for row in self.route["considered"]}
        self.route["considered"] += [{**vars(row)} for row in rows if (row.provider, row.model) not in known]
        self._promote()

    def skip(self, provider: str, model: str, reason: str) -> None:
        """Note that a target was passed over after routing had kept it in reserve; the next one is chosen then."""
        for row in self._rows(provider, model):
            row.update(verdict="skipped", reason=reason)
        self._promote()

    def choose(self, provider: str, model: str) -> None:
        """Note that a target is asked although it was passed over: there is no other."""
        for row in self._rows(provider, model):
            row["verdict"] = "chosen"

    def _rows(self, provider: str, model: str) -> list[dict[str, Any]]:
        rows = self.route.get("considered", ())
        return [row for row in rows if (row["provider"], row["model"]) == (provider, model)]

    def _promote(self) -> None:
        """Make the first row that is left the chosen one, and it alone."""
        left = [row for row in self.route.get("considered", ()) if row["verdict"] != "skipped"]
        for row in left[1:]:
            row["verdict"] = "standby"
        if left and left[0]["verdict"] != "chosen":
            left[0].update(verdict="chosen", reason=FIRST)

    def passed_over(self) -> list[dict[str, Any]]:
        """Return the targets that were skipped before one served the call; where none did, all that were skipped."""
        rows: list[dict[str, Any]] = self.route.get("considered", [])
        served = [n for n, row in enumerate(rows) if f"{row['provider']}/{row['model']}" == self.served_by]
        return [row for row in rows[: served[0] if served else None] if row["verdict"] == "skipped"]

    def to_dict(self) -> dict[str, Any]:
        """The trace as JSON values."""
        return {**_fields(self), "attempts": [_fields(row) for row in self.attempts]}


class Account(NamedTuple):
    """On whose account calls go; None: the configuration's."""

    project: str | None = None
    session: str | None = None
    trace: Trace | None = None  # what their attempts belong in; None: a new one
    began: float = 0.0  # when the call of that trace began, seconds of the monotonic clock
    heard: list[Any] | None = None  # where the guard puts what it hears of the streams that it opens for them
    force: bool = True  # ask a target although its circuit is open
    provider: str | None = None  # the name in the configuration under which a group is asked
    until: float | None = None  # when the answer must be there (the monotonic clock, seconds)


# Set around calls that somebody above the guard makes: they go on that account.
CALLER: ContextVar[Account | None] = ContextVar("blueprint_caller", default=None)


_VALUES = {kind: attrgetter(*kind.__slots__) for kind in (AttemptTrace, Trace)}


def _fields(record: AttemptTrace | Trace) -> dict[str, Any]:
    """A record's fields as they are: the call is over, nobody else will change them."""
    return dict(zip(record.__slots__, _VALUES[type(record)](record), strict=True))
