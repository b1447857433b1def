"""After a failure: try here again, and what to change before that, go on to the next target, or fail.

All time parameters are in seconds.
"""

from __future__ import annotations

import contextlib
from collections import deque
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blueprint_llm.errors import CallError

# Codes of a provider from which nothing, or nothing more, came in time.
SILENT = frozenset({"no_response", "first_token", "stalled"})
_MOST_SILENT_ATTEMPTS = 2
FIRST_CAP = 4096
_MOST_BREAKS = 2  # streams that break are asked for in one piece after the second


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryRules:
    """Retries at one target; the first attempt counts, and a wait is at least `min_s`."""

    max_attempts: int = 3
    base_s: float = 0.5
    cap_s: float = 8.0
    jitter: bool = True
    max_retry_after_s: float = 20.0
    min_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Wait, then try the same target again."""

    wait_s: float


@dataclass(frozen=True, slots=True)
class NextTarget:
    """Go on to the next target."""


@dataclass(frozen=True, slots=True)
class Fail:
    """No other attempt can help."""


Decision = Retry | NextTarget | Fail


def decide(  # noqa: PLR0913 - each is a fact of its own of one decision
    error: CallError,
    rules: RetryRules,
    *,
    attempts: int,  # those made at this target, the failed one included
    left_s: float,  # that this target still has
    draw: float,  # a random number in [0, 1)
    # categories that have targets of their own (`content_policy_fallbacks`), whatever their row says
    fallback_on: frozenset[str] = frozenset(),
    others: bool = False,  # another target is left
) -> Decision:
    """Return what to do about `error`. A wait that does not fit the time left is no retry."""
    row, most, asked_s = error.row, rules.max_attempts, error.retry_after_s
    if error.category == "timeout" or error.code in SILENT:  # each try costs the target's whole limit
        most = 1 if others else min(most, _MOST_SILENT_ATTEMPTS)
    if row.retry_same and attempts < most and (asked_s is None or asked_s <= rules.max_retry_after_s):
        wait_s = backoff_s(rules, retry=attempts, draw=draw) if asked_s is None else asked_s
        if (wait_s := max(rules.min_s, wait_s)) < left_s:
            return Retry(wait_s=wait_s)
    return NextTarget() if row.next_target or error.elsewhere or row.name in fallback_on else Fail()


def backoff_s(rules: RetryRules, *, retry: int, draw: float) -> float:
    """Return the wait before the `retry`-th retry (1 is the first), exponential with full jitter.

    Full jitter as in https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/.
    """
    ceiling = min(rules.cap_s, rules.base_s * 2.0 ** min(retry - 1, 60))
    return ceiling * draw if rules.jitter else ceiling


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldBack:
    """A retry that the ratio did not allow, for the trace and the final error: what there was in `window_s` seconds."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """How the next request differs from the caller's."""

    max_tokens: int | None = None  # a higher output cap
    notes: tuple[str, ...] = ()  # clarifications, as user messages behind the caller's
    streamed: bool = True  # else the answer is asked for in one piece
    prefix: str = ""  # text that has already been shown: the model is to continue it
    breaks: int = 0  # streams that have broken so far

    def is_reask(self, before: Change) -> bool:
        """Return True if this step asks again for an invalid answer.

        That is no retry of an outage: it needs no wait, and the retry ratio does not count it.
        """
        return (self.notes, self.max_tokens) != (before.notes, before.max_tokens)


UNCHANGED = Change()


def recovery_step(  # noqa: PLR0913 - as above: facts of one decision
    error: CallError,
    change: Change,
    *,
    reask: int = 1,  # so many clarifications there may be
    max_tokens: int | None = None,  # the cap of the failed request; None: none was sent
    most_tokens: int | None = None,  # that the model can write, where known
    can_continue: bool = False,  # the model continues a given beginning, and the configuration wants that
    text: str = "",  # what had been written when the stream broke
) -> Change | None:
    """Return the next step of the recovery ladder, or None when the same model has nothing more to offer.

    Each step is taken at most as often as it may help: a higher output cap for a call that was cut by length, a short
    machine-made clarification for what was malformed, one request without streaming after streams that broke twice. A
    broken call never enters the history as a tool call.
    """
    verdict: Any = getattr(error, "verdict", None)
    if error.category == "stream_broken":
        prefix = change.prefix + text if can_continue and text.strip() else ""
        streamed = bool(prefix) or change.breaks + 1 < _MOST_BREAKS
        return replace(change, prefix=prefix, breaks=change.breaks + 1, streamed=streamed) if change.streamed else None
    if error.category != "malformed" or verdict is None:
        return change
    if error.code == "truncated_length" and change.max_tokens is None:
        before = max_tokens or FIRST_CAP
        if (cap := min(before * 2, most_tokens or before * 2)) > before:
            return replace(change, max_tokens=cap)
    if len(change.notes) < reask and verdict.retriable:
        return replace(change, notes=(*change.notes, verdict.clarification()))
    return None
