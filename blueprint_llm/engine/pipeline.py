"""The whole way of one request: route, shape, reserve, attempt, settle, decide, in that order.

`Walk.run` is a generator of `steps`; it never blocks and knows no socket or thread, so one logic serves the async
and the sync client, and a test can play the driver.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

from blueprint_llm import models
from blueprint_llm.config.secrets import protect
from blueprint_llm.engine import otel
from blueprint_llm.engine.accounts import LimitReached
from blueprint_llm.engine.cached import through_cache
from blueprint_llm.engine.dispatch import input_window, own_timeout_s
from blueprint_llm.engine.explain import plan
from blueprint_llm.engine.parts import retry_of
from blueprint_llm.engine.steps import Abandoned, Now, Offload, Step
from blueprint_llm.engine.visit import Visit
from blueprint_llm.engine.voice import VerbatimVoice, Voice
from blueprint_llm.errors import (
    BlueprintError,
    BudgetExceededError,
    CallError,
    ChainExhaustedError,
    ContextDoesNotFitError,
    DeadlineExceededError,
    InvalidRequestError,
    NoTargetError,
    QuotaExceededError,
    ToolCallInvalidError,
)
from blueprint_llm.policy import Stop
from blueprint_llm.routing import rules as routing
from blueprint_llm.trace import Trace
from blueprint_llm.types import ChatResponse
from blueprint_llm.usage.stores.ops import ABANDONED

if TYPE_CHECKING:
    from blueprint_llm.engine.parts import Parts
    from blueprint_llm.policy import RetryRules
    from blueprint_llm.routing.rules import Route
    from blueprint_llm.routing.targets import Target
    from blueprint_llm.types import ChatRequest

Steps = Generator[Step, Any, Any]
LIMITS = (BudgetExceededError, QuotaExceededError)


def _has_more_room(target: Target, error: CallError) -> bool:
    """Whether a target may take what another's window did not; unknown windows get the benefit of the doubt."""
    facts, here = models.info(error.model or ""), input_window(target, None)
    before = facts.max_input_tokens if facts else None
    return before is None or here is None or here > before


def _name(error: BaseException) -> str:
    return ABANDONED if isinstance(error, Abandoned) else type(error).__name__


def _category(error: BlueprintError | None) -> str:
    """The row of a failure; what does not even fit a window counts as what was too long for it."""
    if isinstance(error, ContextDoesNotFitError):
        return "context_length"
    return error.category if isinstance(error, CallError) else ""


def _voice(request: ChatRequest) -> Voice:
    if not request.as_written:
        return Voice()
    return VerbatimVoice(wants_usage=bool((request.params.get("stream_options") or {}).get("include_usage")))


class Walk:
    """One request on its way. Raises InvalidRequestError."""

    def __init__(self, request: ChatRequest, parts: Parts, *, stream: bool) -> None:
        if request.params.get("stream") and not stream:
            raise InvalidRequestError("chat answers in one piece: call client.stream(...) for a stream")
        if request.params and not request.as_written:  # a key among a call's keywords is as secret as one from a file
            request = request.model_copy(update={"params": protect("", request.params)})
        self.request, self.parts = request, parts
        self.voice = _voice(request) if stream else None
        self.retry = retry_of(parts, request)
        self.trace = Trace(id=parts.new_id(), policy_hash=parts.config.digest)
        self.failures: list[BlueprintError] = []
        self._failed: Counter[str] = Counter()
        self.left_alone: list[Target] = []
        self.forced = False
        self.tried: set[str] = set()
        self.visited: set[str] = set()
        self.fallback_on: frozenset[str] = frozenset()
        self.began = self.started = self.deadline = 0.0

    def run(self) -> Steps:
        """The answer, a `ChatResponse`. Raises BlueprintError with the trace."""
        self.began = self.started = yield Now()
        own_s = own_timeout_s(self.request) or 0.0
        self.deadline = self.started + (self.request.deadline_s or max(self.parts.config.deadline.total_s, own_s))
        self.parts.ratio.record_call(self.started)
        try:
            route = yield from plan(self.parts, self.request, streamed=self.voice is not None)
            self.trace.set_route(route)
            response: ChatResponse = yield from self._follow(route)
        except (BlueprintError, Abandoned) as error:
            if isinstance(error, BlueprintError):
                error.trace = self.trace.to_dict()
            self._tell((yield Now()), error=error)
            raise
        self._tell((yield Now()), response)
        return response

    def _tell(self, now: float, response: ChatResponse | None = None, error: BaseException | None = None) -> None:
        """Say how the call ended, to whoever listens."""
        took_s, what = now - self.began, None if error is None else _name(error)
        if self.parts.audience:
            how = {None: "answered", ABANDONED: "abandoned"}.get(what, "failed")
            facts = {"trace_id": self.trace.id, "served_by": self.trace.served_by, "duration_s": round(took_s, 6)}
            level = "warning" if how == "failed" else "info"
            self.parts.tell(f"call.{how}", level=level, **facts, **({"error": what} if how == "failed" else {}))
        if otel.listened():
            otel.record_call(self.request, self.trace, duration_s=took_s, response=response, error=what)

    def _follow(self, route: Route) -> Steps:
        self.fallback_on = frozenset(name for name, targets in route.on_failure.items() if targets)
        queue = deque(route.targets)
        if not queue:
            raise NoTargetError(self.trace.route["considered"])
        while queue:
            target, failed_before = queue.popleft(), len(self.failures)
            outcome = yield from self._visit(target, queue)
            if isinstance(outcome, ChatResponse):
                return outcome
            if isinstance(outcome, Stop) or (yield Now()) >= self.deadline:
                break
            last = self.failures[-1] if len(self.failures) > failed_before else None
            queue = self._redirected(outcome, last, queue, route)
            if not queue and self.left_alone and not self.tried:
                self.forced = True  # better one try at a target left alone than none at all
                queue.append(self.left_alone.pop(0))
        raise self._final((yield Now()))

    def _visit(self, target: Target, others: Sequence[Target]) -> Steps:
        """One target's turn: a `ChatResponse`, or why it is time to leave it."""
        self.visited.add(target.key)
        now = yield Now()
        # Half of the time that is left is kept for the targets behind this one.
        until = now + (self.deadline - now) / 2 if others else self.deadline
        siblings = self.parts.retried_as(target) in map(self.parts.retried_as, others)
        return (yield from through_cache(Visit(self, target, until, siblings=siblings)))

    def retry_for(self, target: Target, error: CallError) -> RetryRules:
        """How often to try `target` again after `error`: the request's own number wins over every policy."""
        return self.parts.retry_for(target, error) if self.retry is self.parts.retry else self.retry

    def failed_at(self, target: Target) -> int:
        """Count one more failed attempt at a target, or at one of its equals."""
        self._failed[self.parts.retried_as(target)] += 1
        return self._failed[self.parts.retried_as(target)]

    def load(self, target: Target) -> Generator[Step, Any, float]:
        """Import LiteLLM off the event loop where it is not yet: once, for seconds (the result) that nobody counts."""
        adapter = self.parts.adapter(target)
        if adapter.ready:
            return 0.0
        began = yield Now()
        yield Offload(function=adapter.load)
        took: float = (yield Now()) - began
        self.started, self.deadline = self.started + took, self.deadline + took
        return took

    def _redirected(
        self, outcome: Any, last: BlueprintError | None, queue: deque[Target], route: Route
    ) -> deque[Target]:
        """Where the last trouble leads: a budget's cheaper chain, LiteLLM's special fallbacks, or simply on."""
        if isinstance(outcome, LimitReached) and outcome.chain:
            return self._unvisited(self.parts.table.of_names(routing.expanded(outcome.chain, self.parts.chains)))
        if special := route.on_failure.get(_category(last)):
            return self._unvisited(special)
        if isinstance(last, CallError) and last.category == "context_length":
            return deque(target for target in queue if _has_more_room(target, last))
        return queue

    def _unvisited(self, targets: Sequence[Target]) -> deque[Target]:
        """A detour that leads back to where the walk has been would never end."""
        return deque(target for target in targets if target.key not in self.visited)

    def note_overhead(self, now: float) -> None:
        """Our own time until the first request is handed over."""
        if self.trace.overhead_us is None:
            self.trace.overhead_us = round((now - self.started) * 1e6, 1)

    def _final(self, now: float) -> BlueprintError:
        """The error that tells most: the deadline, a limit, the only failure, or all of them."""
        if now >= self.deadline:
            limit_s = self.deadline - self.started
            text = f"no answer within the deadline of {limit_s:g} s" + self._so_far()
            return DeadlineExceededError(text, attempts=self.failures)
        if self.failures and all(isinstance(error, LIMITS) for error in self.failures):
            return self.failures[0]
        last = self.failures[-1] if self.failures else None
        if isinstance(last, ToolCallInvalidError) and all(
            isinstance(each, ToolCallInvalidError) for each in self.failures
        ):
            last.attempts = list(self.failures)
            return last
        return self.failures[0] if len(self.failures) == 1 else ChainExhaustedError(self.failures)

    def _so_far(self) -> str:
        return "".join(f"\n  {n}. {error}" for n, error in enumerate(self.failures, 1))
