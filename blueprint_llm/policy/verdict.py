"""After a failure: try here again, go on to the next target, or stop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from blueprint_llm.policy.retry import RetryRules, backoff_s

if TYPE_CHECKING:
    from blueprint_llm.errors import CallError


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a walk stands when an attempt has failed.

    Attributes:
        attempts: Attempts made, the failed one included.
        left_s: Seconds that this target still has.
        draw: A random number in [0, 1).
        fallback_on: Categories that go on to the next target although their row says stop.
    """

    attempts: int
    left_s: float
    draw: float
    fallback_on: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryHere:
    """Wait, then try the same target again."""

    wait_s: float


@dataclass(frozen=True, slots=True)
class GoOn:
    """Go on to the next target."""


@dataclass(frozen=True, slots=True)
class Stop:
    """No other attempt can help."""


Decision = RetryHere | GoOn | Stop


def decide(error: CallError, rules: RetryRules, progress: Progress) -> Decision:
    """What to do about `error`. A wait that does not fit the time left is no retry."""
    row = error.row
    if (row.retry_same or rules.insist) and progress.attempts < rules.max_attempts:
        wait_s = _wait_s(error, rules, progress)
        if wait_s is not None and wait_s < progress.left_s:
            return RetryHere(wait_s=wait_s)
    if row.next_target or row.name in progress.fallback_on:
        return GoOn()
    return Stop()


def _wait_s(error: CallError, rules: RetryRules, progress: Progress) -> float | None:
    asked = error.retry_after_s
    if asked is None:
        return backoff_s(rules, retry=progress.attempts, draw=progress.draw)
    return asked if asked <= rules.max_retry_after_s else None
