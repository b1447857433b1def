"""After a failure: try here again, go on to the next target, or fail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from blueprint_llm.policy.retry import RetryRules, backoff_s

if TYPE_CHECKING:
    from blueprint_llm.errors import CallError

# Codes of a provider from which nothing, or nothing more, came in time.
SILENT = frozenset({"no_response", "first_token", "stalled"})
_MOST_SILENT_ATTEMPTS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a request stands when an attempt has failed.

    Attributes:
        attempts: Attempts made at this target, the failed one included.
        left_s: Seconds that this target still has.
        draw: A random number in [0, 1).
        fallback_on: Categories that have targets of their own (`content_policy_fallbacks`), whatever their row says.
        others: Another target is left.
    """

    attempts: int
    left_s: float
    draw: float
    fallback_on: frozenset[str] = frozenset()
    others: bool = False


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


def decide(error: CallError, rules: RetryRules, progress: Progress) -> Decision:
    """Return what to do about `error`. A wait that does not fit the time left is no retry."""
    row = error.row
    if row.retry_same and progress.attempts < _most_attempts(error, rules, progress):
        wait_s = _wait_s(error, rules, progress)
        if wait_s is not None and wait_s < progress.left_s:
            return Retry(wait_s=wait_s)
    if row.next_target or error.elsewhere or row.name in progress.fallback_on:
        return NextTarget()
    return Fail()


def _most_attempts(error: CallError, rules: RetryRules, progress: Progress) -> int:
    """Return how often this target may be asked. A silent provider costs its whole limit each time."""
    if error.category != "timeout" and error.code not in SILENT:
        return rules.max_attempts
    return 1 if progress.others else min(rules.max_attempts, _MOST_SILENT_ATTEMPTS)


def _wait_s(error: CallError, rules: RetryRules, progress: Progress) -> float | None:
    asked = error.retry_after_s
    if asked is None:
        return max(rules.min_s, backoff_s(rules, retry=progress.attempts, draw=progress.draw))
    return max(rules.min_s, asked) if asked <= rules.max_retry_after_s else None
