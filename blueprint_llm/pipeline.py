"""The whole way of one request: route, shape, reserve, attempt, settle, decide, in that order.

`Walk.run` is a generator of `steps`; it never blocks and knows no socket or thread, so one logic serves the async
and the sync client, and a test can play the driver.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from blueprint_llm import models, routing
from blueprint_llm.accounts import Account, BreakerOpen, LimitReached, failed
from blueprint_llm.answers import answer_of, final_chunk, usage_of
from blueprint_llm.attempt import Attempt, Clocks, Voice
from blueprint_llm.dispatch import call_for, handler_for, input_window
from blueprint_llm.errors import (
    BlueprintError,
    BudgetExceededError,
    CallError,
    ChainExhaustedError,
    ContextDoesNotFitError,
    CredentialsError,
    DeadlineExceededError,
    NoTargetError,
    QuotaExceededError,
)
from blueprint_llm.explain import plan
from blueprint_llm.policy import GoOn, Progress, RetryHere, Stop, decide
from blueprint_llm.steps import Abandoned, Draw, Now, Offload, Sleep, Step
from blueprint_llm.stores.ops import ABANDONED
from blueprint_llm.trace import AttemptTrace, Trace
from blueprint_llm.types import ChatResponse
from blueprint_llm.usage import Outcome, tokens_of

if TYPE_CHECKING:
    from blueprint_llm.adapters import Call
    from blueprint_llm.parts import Parts
    from blueprint_llm.routing import Route, Target
    from blueprint_llm.streaming import StreamVerdict
    from blueprint_llm.types import ChatRequest

Steps = Generator[Step, Any, Any]
LIMITS = (BudgetExceededError, QuotaExceededError)


def _has_more_room(target: Target, error: CallError) -> bool:
    """Whether a target may take what another's window did not; unknown windows get the benefit of the doubt."""
    facts, here = models.info(error.model or ""), input_window(target, None)
    before = facts.max_input_tokens if facts else None
    return before is None or here is None or here > before


class Walk:
    """One request on its way."""

    def __init__(self, request: ChatRequest, parts: Parts, *, stream: bool) -> None:
        self.request, self.parts = request, parts
        self.voice = Voice() if stream else None
        self.trace = Trace(id=parts.new_id(), policy_hash=parts.config.digest)
        self.failures: list[BlueprintError] = []
        self.left_alone: list[Target] = []
        self.forced = False
        self.tried: set[str] = set()
        self.started = self.deadline = 0.0

    def run(self) -> Steps:
        """The answer, a `ChatResponse`. Raises BlueprintError with the trace."""
        self.started = yield Now()
        self.deadline = self.started + (self.request.deadline_s or self.parts.config.deadline.total_s)
        try:
            route = yield from plan(self.parts, self.request)
            self.trace.set_route(route)
            return (yield from self._follow(route))
        except BlueprintError as error:
            error.trace = self.trace.to_dict()
            self.parts.tell("call.failed", level="warning", error=type(error).__name__, trace_id=self.trace.id)
            raise

    def _follow(self, route: Route) -> Steps:
        queue = deque(routing.shuffled(route.targets, (yield Draw())))
        if not queue:
            raise NoTargetError(self.trace.route["considered"])
        yield from self._load(queue[0])
        while queue:
            target = queue.popleft()
            outcome = yield from self._visit(target, others=len(queue))
            if isinstance(outcome, ChatResponse):
                return outcome
            if isinstance(outcome, Stop) or (yield Now()) >= self.deadline:
                break
            queue = self._redirected(outcome, queue, route)
            if not queue and self.left_alone and not self.tried:
                self.forced = True  # better one try at a target left alone than none at all
                queue.append(self.left_alone.pop(0))
        raise self._final((yield Now()))

    def _load(self, target: Target) -> Steps:
        """Import LiteLLM off the event loop where it is not yet; that once takes seconds, which no deadline counts."""
        adapter = self.parts.adapter(target)
        if not adapter.ready:
            began = yield Now()
            yield Offload(function=adapter.load)
            took = (yield Now()) - began
            self.started, self.deadline = self.started + took, self.deadline + took

    def _redirected(self, outcome: Any, queue: deque[Target], route: Route) -> deque[Target]:
        """Where the last trouble leads: a budget's cheaper chain, LiteLLM's special fallbacks, or simply on."""
        if isinstance(outcome, LimitReached) and outcome.chain:
            named = self.parts.table.of_names(outcome.chain)
            return deque(target for target in named if target.key not in self.tried)
        last = self.failures[-1] if self.failures else None
        special = route.on_failure.get(last.category) if isinstance(last, CallError) else None
        if special:
            return deque(target for target in special if target.key not in self.tried)
        if isinstance(last, CallError) and last.category == "context_length":
            return deque(target for target in queue if _has_more_room(target, last))
        return queue

    def _visit(self, target: Target, *, others: int) -> Steps:
        """Try one target while that is wise: a `ChatResponse`, or why it is time to leave it."""
        now = yield Now()
        # Half of what is left is kept for the targets behind this one.
        until = now + (self.deadline - now) / 2 if others else self.deadline
        attempts, waited = 0, 0.0
        while True:
            attempts += 1
            try:
                return (yield from self._attempt(target, until, waited, force=self.forced))
            except LimitReached as limit:
                return self._closed(target, limit.error, limit)
            except BreakerOpen as error:
                self.left_alone.append(target)
                return self._closed(target, None, GoOn(), str(error))
            except (ContextDoesNotFitError, CredentialsError) as error:
                return self._closed(target, error, GoOn())
            except CallError as error:
                decision = yield from self._decide(error, attempts, until)
            if not isinstance(decision, RetryHere):
                return decision
            waited = decision.wait_s
            yield Sleep(seconds=waited)

    def _closed(self, target: Target, error: BlueprintError | None, outcome: Any, reason: str = "") -> Any:
        """Note that a target may not serve this request."""
        if error is not None:
            self.failures.append(error)
        self.trace.skip(target.provider, target.model, reason or str(error))
        return outcome

    def _decide(self, error: CallError, attempts: int, until: float) -> Steps:
        self.failures.append(error)
        if self.voice is not None:
            self.voice.broken(error)
            if self.voice.spoken and self.parts.config.streaming.on_break == "fail":
                return Stop()
        now, draw = (yield Now()), (yield Draw())
        decision = decide(error, self.parts.retry, Progress(attempts=attempts, left_s=until - now, draw=draw))
        if isinstance(decision, RetryHere) and not self.parts.ratio.allow(now):
            decision = GoOn()
        return decision

    def _attempt(self, target: Target, until: float, waited: float, *, force: bool) -> Steps:
        number = len(self.trace.attempts) + 1
        row = AttemptTrace(n=number, provider=target.provider, model=target.model, waited_s=waited)
        account = Account(self.parts, self.request, target, trace=self.trace, row=row)
        cap = account.cap()
        now = yield Now()
        left_s = max(until - now, 0.001)
        call = call_for(self.parts, self.request, target, self.trace, output_tokens=cap.send, timeout_s=left_s)
        yield from account.reserve(call, cap, force=force)
        self.trace.attempts.append(row)
        self.tried.add(target.key)
        attempt = self._prepared(call, target, account, until, now)
        if self.trace.overhead_us is None:
            self.trace.overhead_us = round(((yield Now()) - self.started) * 1e6, 1)
        return (yield from self._settled(attempt, account))

    def _prepared(self, call: Call, target: Target, account: Account, until: float, now: float) -> Attempt:
        limits = self.parts.config.deadline
        first = min(until, now + limits.first_token_s) if self.voice is not None else until
        clocks = Clocks(until=first, idle_s=limits.idle_s, beat_s=self.parts.ledger.ttl_s / 3)
        reservation = account.reservation
        return Attempt(
            call,
            self.parts.adapter(target),
            handler_for(self.request, call),
            clocks,
            voice=self.voice,
            heartbeat=reservation.heartbeat if reservation else None,
        )

    def _settled(self, attempt: Attempt, account: Account) -> Steps:
        """Run an attempt and pay for it, however it ends."""
        try:
            verdict = yield from attempt.run()
        except CallError as error:
            outcome = failed(error, attempt.call, attempt.handler.usage, attempt.handler.text)
            yield from self._pay(attempt, account, outcome, error)
            self._note_failure(account.row, error)
            raise
        except Abandoned:
            usage = usage_of(attempt.handler.usage, attempt.call, attempt.handler.text)
            outcome = Outcome(category=ABANDONED, tokens=tokens_of(usage), usage_source=usage.source, maybe_billed=True)
            yield from self._pay(attempt, account, outcome, None)
            raise
        return (yield from self._answered(attempt, account, verdict))

    def _note_failure(self, row: AttemptTrace, error: CallError) -> None:
        row.category, row.status, row.code = error.category, error.status, error.code
        facts = {"provider": row.provider, "model": row.model, "category": error.category, "status": error.status}
        self.parts.tell("attempt.failed", level="warning", **facts)

    def _answered(self, attempt: Attempt, account: Account, verdict: StreamVerdict) -> Steps:
        usage = usage_of(verdict.usage, attempt.call, verdict.text)
        outcome = Outcome(tokens=tokens_of(usage), usage_source=usage.source)
        nano = yield from self._pay(attempt, account, outcome, None)
        priced = usage.model_copy(update={"estimated_cost": None if nano is None else nano / 1e9})
        self.trace.served_by = f"{attempt.call.provider}/{attempt.call.model}"
        if self.voice is not None:
            yield from self.voice.emit(final_chunk(attempt.call, verdict, priced))
        return answer_of(attempt, verdict, priced, self.trace, account.target)

    def _pay(self, attempt: Attempt, account: Account, outcome: Outcome, error: CallError | None) -> Steps:
        now = yield Now()
        row = account.row
        row.duration_s = round(now - attempt.sent_at, 6)
        row.ttft_s = None if attempt.first_at is None else round(attempt.first_at - attempt.sent_at, 6)
        timed = replace(outcome, latency_s=row.duration_s, ttft_s=row.ttft_s)
        return (yield from account.settle(timed, error=error))

    def _final(self, now: float) -> BlueprintError:
        """The error that tells most: the deadline, a limit, the only failure, or all of them."""
        if now >= self.deadline:
            limit_s = self.deadline - self.started
            text = f"no answer within the deadline of {limit_s:g} s" + self._so_far()
            return DeadlineExceededError(text, attempts=self.failures)
        if self.failures and all(isinstance(error, LIMITS) for error in self.failures):
            return self.failures[0]
        return self.failures[0] if len(self.failures) == 1 else ChainExhaustedError(self.failures)

    def _so_far(self) -> str:
        return "".join(f"\n  {n}. {error}" for n, error in enumerate(self.failures, 1))
