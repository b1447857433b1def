"""Who is asked next: the route's targets in order, how often each, after which wait, and when to give up."""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING

from blueprint_llm import models
from blueprint_llm.engine.prepare import input_window
from blueprint_llm.engine.reservation import CircuitOpen, LimitReached
from blueprint_llm.errors import (
    AnswerInvalidError,
    BlueprintError,
    BudgetExceededError,
    CallError,
    ChainExhaustedError,
    ContextDoesNotFitError,
    DeadlineExceededError,
    NoTargetError,
    QuotaExceededError,
    ToolCallInvalidError,
)
from blueprint_llm.policy import Decision, Fail, NextTarget, Progress, Retry, decide
from blueprint_llm.routing.rules import Choice, expanded, screen

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from blueprint_llm.engine.state import RequestState
    from blueprint_llm.policy import RetryRules
    from blueprint_llm.routing.rules import Route
    from blueprint_llm.routing.targets import Target
    from blueprint_llm.types import Considered

TOO_LARGE = "request_too_large"
LIMITS = (BudgetExceededError, QuotaExceededError)


class FallbackManager:
    """Walk over the targets of a route; iterate for them, and say how each ended before asking for the next.

    Args:
        route: The targets, in order.
        state: The request: its deadline, its clock and what has failed.

    Attributes:
        force: The target comes although its circuit is open: better one try at it than none at all.
    """

    def __init__(self, route: Route, state: RequestState) -> None:
        self._route, self._state = route, state
        self._queue = deque(route.targets)
        self._attempts: Counter[str] = Counter()
        self._asked: set[str] = set()
        self._open: list[Target] = []
        self._is_over = False
        self._notes: list[str] = []
        self._note_skipped(route.considered)
        self.force = False

    def __iter__(self) -> Iterator[Target]:
        if not self._queue:
            raise NoTargetError(self._state.trace.route["considered"])
        while self._queue and not self._is_over and self._left_s() > 0:
            target = self._queue.popleft()
            self._asked.add(target.key)
            yield target
            if not self._queue and self._open and not self._attempts:
                self.force = True
                self._queue.append(self._open.pop(0))
                self._state.trace.choose(self._queue[0].provider, self._queue[0].model)

    def _left_s(self) -> float:
        return self._state.deadline - self._state.runtime.now()

    def until(self) -> float:
        """Return when the present target's time is up: half of what is left is kept for the targets behind it."""
        left_s = self._left_s()
        return self._state.deadline - (left_s / 2 if self._queue else 0.0)

    def after(self, target: Target, error: CallError, rules: RetryRules, *, until: float) -> Decision:
        """Decide what follows a failed attempt; the queue is changed where the failure leads elsewhere."""
        state = self._state
        state.failures.append(error)
        self._attempts[target.key] += 1
        now = state.runtime.now()
        progress = Progress(
            attempts=self._attempts[target.key],
            left_s=until - now,
            draw=state.runtime.draw(),
            fallback_on=state.redirects,
            others=bool(self._queue),
        )
        decision = decide(error, rules, progress)
        # A clarification for an invalid answer multiplies no outage: only plain retries count.
        if not isinstance(decision, Retry) or error.category == "malformed":
            return decision
        if held_back := state.runtime.ratio.hold_back(now):
            self._notes.append(f"  {held_back}")
            state.trace.held_back.append(held_back.to_dict())
            return NextTarget()
        return decision

    def would_serve(self, target: Target) -> None:
        """Count a target as asked that nothing was sent to, for `explain`; those behind it are then looked at, too."""
        self._attempts[target.key] += 1

    def leave(self, decision: Decision) -> None:
        """Go on to the next target, or stop."""
        self._is_over = isinstance(decision, Fail)
        error = self._state.failures[-1] if self._state.failures else None
        category = _category(error)
        if special := self._route.on_failure.get(category):
            self._detour(special, f"left out: after {category} its own fallbacks come")
        # A request over a limit of tokens a minute (413) says nothing of the windows behind it.
        elif isinstance(error, CallError) and error.category == "context_length" and error.code != TOO_LARGE:
            for other in [target for target in self._queue if not _has_more_room(target, error)]:
                self._queue.remove(other)
                self._leave_out(other, "its window is no wider than the one that was full")

    def refuse(self, target: Target, refusal: Exception) -> None:
        """Note why nothing was sent to a target; where its budget has a cheaper chain, that is next."""
        state = self._state
        state.trace.skip(target.provider, target.model, str(refusal))
        if isinstance(refusal, CircuitOpen):
            if not self.force:  # a target that refuses even so is not asked for ever
                self._open.append(target)
            self._notes.append(_passed_over(target.provider, target.model, str(refusal)))
            return
        error = refusal.error if isinstance(refusal, LimitReached) else refusal
        assert isinstance(error, BlueprintError)  # noqa: S101 - every other refusal is an error of ours
        state.failures.append(_naming(target, error))
        if isinstance(error, ContextDoesNotFitError):
            self.leave(NextTarget())
        elif isinstance(refusal, LimitReached) and refusal.chain:
            cheaper = state.runtime.table.of_names(expanded(refusal.chain, state.runtime.chains))
            self._detour(cheaper, f"left out: a budget leads to {', '.join(refusal.chain)}")

    def _detour(self, targets: Sequence[Target], why: str) -> None:
        """Go on with these targets in the queue's place, screened like the route's.

        None that was asked already: a detour that leads back would never end.
        """
        ahead = [target for target in targets if target.key not in self._asked]
        found = screen(Choice(rule=self._route.rule, targets=ahead), self._route.checks)
        kept = {target.key for target in found.targets}
        for target in self._queue:
            if target.key not in kept:
                self._leave_out(target, why)
        self._note_skipped(found.considered)
        self._state.trace.consider(found.considered)
        self._queue = deque(found.targets)

    def _leave_out(self, target: Target, why: str) -> None:
        self._notes.append(_passed_over(target.provider, target.model, why))
        self._state.trace.skip(target.provider, target.model, why)

    def _note_skipped(self, rows: Sequence[Considered]) -> None:
        skipped = (row for row in rows if row.verdict == "skipped")
        notes = (_passed_over(row.provider, row.model, row.reason) for row in skipped)
        self._notes += [note for note in notes if note not in self._notes]

    def final_error(self) -> BlueprintError:
        """Return the error that tells most: the deadline, a limit, the only failure, or all of them."""
        state, failures = self._state, self._state.failures
        if self._left_s() <= 0:
            told = "".join([*(f"\n  {n}. {error}" for n, error in enumerate(failures, 1)), *self._noted()])
            text = f"no answer within the deadline of {state.limit_s:g} s{told}"
            return DeadlineExceededError(text, attempts=failures)
        if failures and all(isinstance(error, LIMITS) for error in failures):
            return _with_notes(failures[0], [*(f"  {error}" for error in failures[1:]), *self._notes])
        last = failures[-1] if failures else None
        for kind in (ToolCallInvalidError, AnswerInvalidError):
            if isinstance(last, kind) and all(isinstance(each, kind) for each in failures):
                last.attempts = list(failures)
                return last
        if len(failures) > 1:
            return ChainExhaustedError(failures, notes=self._notes)
        return _with_notes(failures[0], self._notes)

    def _noted(self) -> list[str]:
        return [f"\n{note}" for note in self._notes]


def _naming(target: Target, error: BlueprintError) -> BlueprintError:
    """Return the error with the name of its target in front, where its words do not say it."""
    if not isinstance(error, (ContextDoesNotFitError, NoTargetError)):
        error.args = (f"{target.provider} ({target.model}): {error}", *error.args[1:])
    return error


def _with_notes(error: BlueprintError, notes: Sequence[str]) -> BlueprintError:
    error.args = ("\n".join([str(error), *notes]), *error.args[1:])
    return error


def _passed_over(provider: str, model: str, reason: str) -> str:
    return f"  passed over {provider} ({model}): {reason}"


def _category(error: BlueprintError | None) -> str:
    """Return the row of a failure; what does not even fit a window counts as what was too long for it."""
    if isinstance(error, ContextDoesNotFitError):
        return "context_length"
    return error.category if isinstance(error, CallError) else ""


def _has_more_room(target: Target, error: CallError) -> bool:
    """Return True if a target may take what another's window did not; unknown windows get the benefit of the doubt."""
    facts, here = models.info(error.model or ""), input_window(target, None)
    before = facts.max_input_tokens if facts else None
    return before is None or here is None or here > before
