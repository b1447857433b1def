"""Who is asked: the targets of a request, then who is next, how often each, after which wait, and when to give up."""

from __future__ import annotations

from collections import Counter, deque
from functools import partial
from typing import TYPE_CHECKING, Any

from blueprint_llm import models
from blueprint_llm.adapters.local import embedded
from blueprint_llm.config.load import BUILT_IN
from blueprint_llm.config.problems import nearest
from blueprint_llm.engine.prepare import input_tokens, input_window
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
from blueprint_llm.policy.retry import Fail, NextTarget, Retry, decide, recovery_step
from blueprint_llm.routing.rules import Question, choose, expanded, screen
from blueprint_llm.routing.targets import litellm_provider
from blueprint_llm.usage import Payer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from blueprint_llm.engine.attempt import Attempt
    from blueprint_llm.engine.runtime import RequestState, Runtime
    from blueprint_llm.policy.retry import Change, Decision
    from blueprint_llm.routing.rules import Route, Screen
    from blueprint_llm.routing.targets import Target
    from blueprint_llm.types import ChatRequest

MOST_KEYS = 10
TOO_LARGE = "request_too_large"
LIMITS = (BudgetExceededError, QuotaExceededError)
IMAGES = frozenset({"image_url", "image"})


async def plan(runtime: Runtime, request: ChatRequest) -> Route:
    """Choose and screen the targets of a request; reserve nothing. Raises InvalidRequestError."""
    question = Question(
        request=request,
        config=runtime.config,
        table=runtime.table,
        chains=runtime.chains,
        input_tokens=input_tokens(request) if runtime.config.routes else 0,  # only routes ask
        budget_used=await _budget_used(runtime, request),
    )
    has_tools, has_images = bool(request.tools), _has_image(request)
    checks: list[Screen] = [partial(lacks_key, runtime)]
    if has_tools or has_images:
        checks.append(partial(_lacks_ability, tools=has_tools, vision=has_images))
    route = choose(question)
    targets, considered = screen(route.targets, checks)
    return route._replace(targets=targets, considered=considered, checks=checks)


def lacks_key(runtime: Runtime, target: Target) -> str | None:
    """Return why there is no key for a target; None: there is one, or none is wanted."""
    if litellm_provider(target.model) == "embedded":
        return embedded.unavailable(target.model)
    available = runtime.credentials.available
    deployments = runtime.table.deployments(target)
    if target.params.get("api_key") or not deployments:
        reason = available(target.provider, model=target.model, params=target.params)
        return reason and f"{reason}{_meant(runtime, target)}"
    reasons = (
        available(target.provider, model=each.model, params={**each.params, **target.params}) for each in deployments
    )
    first = next(reasons)
    return None if first is None or None in reasons else first


def _meant(runtime: Runtime, target: Target) -> str:
    """Return the model that may have been meant, where a target without a key is of no model that is known."""
    if models.known(target.model):
        return ""
    named = {target.model, target.model.partition("/")[2]}
    configured = {*runtime.config.model_groups, *(each.model for each in runtime.config.providers.values())} - named
    near = nearest(target.model, configured, cutoff=0.8) or nearest(target.model, models.model_map(), cutoff=0.8)
    if near:
        return f"; no model {target.model!r} is known, did you mean {near!r}?"
    other = f"; no model {target.model!r} is known: write provider/model, or the name of a group"
    return "" if "/" in target.model else other


def _has_image(request: ChatRequest) -> bool:
    parts = (part for message in request.messages if isinstance(message.content, list) for part in message.content)
    return any(isinstance(part, dict) and part.get("type") in IMAGES for part in parts)


def _lacks_ability(target: Target, *, tools: bool, vision: bool) -> str | None:
    """Return what the request needs and the model is known not to have."""
    facts = models.info(target.model) or models.ModelFacts()
    if tools and target.info.get("supports_function_calling", facts.supports_tools) is False:
        return "the model takes no tools"
    if vision and target.info.get("supports_vision", facts.supports_vision) is False:
        return "the model sees no images"
    return None


async def _budget_used(runtime: Runtime, request: ChatRequest) -> dict[str, float]:
    """Return the used share of each budget that a route asks about."""
    scopes = {rule.when.budget_used.scope or "project" for rule in runtime.config.routes if rule.when.budget_used}
    if not scopes:
        return {}
    nothing = runtime.ledger.estimate(None, output_tokens=0)
    charges = []
    for scope in scopes:
        kind, _, name = scope.partition(":")
        who: dict[str, Any] = {"provider": "", "model": "", **({kind: name} if kind in {"provider", "model"} else {})}
        payer = Payer(call_id="", project=request.project, session=request.session, **who)
        charges += [c for c in runtime.ledger.charges(payer, nothing) if (c.scope, c.kind) == (scope, "usd")]
    levels = await runtime.store.levels(charges) if charges else ()
    return {level.charge.scope: level.share for level in levels}


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
        self._refused: set[tuple[str, str]] = set()
        self._held_back: list[str] = []
        self._is_over = False
        self.force = False

    def __iter__(self) -> Iterator[Target]:
        if not self._queue:
            is_own = self._state.runtime.config.source != BUILT_IN
            more = "" if is_own else "; or name a provider of yours: blueprint-llm init writes the file for it"
            raise NoTargetError(self._state.trace.route["considered"], more=more)
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

    def after(self, attempt: Attempt, error: CallError, *, until: float) -> tuple[Change, Decision]:
        """Decide what follows a failed attempt, and what is changed where the same target is asked again.

        `until` is when the target's time is up.
        """
        target, change, asked = attempt.target, attempt.change, self._state.request
        streaming, facts = self._state.runtime.config.streaming, models.info(target.model)
        decision = self._decided(target, error, until)
        if self._has_other_key(attempt, error):
            decision = Retry(wait_s=0.0)
        if not isinstance(decision, Retry):
            return change, decision
        step = recovery_step(
            error,
            change,
            reask=streaming.reask,
            max_tokens=change.max_tokens or asked.max_tokens or asked.params.get("max_completion_tokens"),
            most_tokens=facts.max_output_tokens if facts else None,
            can_continue=streaming.on_break == "resume" and models.continues(target.model),
            text=attempt.reader.text,
        )
        if step is None:
            return change, NextTarget()
        return step, Retry(wait_s=0.0) if step.is_reask(change) else decision

    def _decided(self, target: Target, error: CallError, until: float) -> Decision:
        """Return what the rules say, and whether there are too many retries already."""
        state = self._state
        state.failures.append(error)
        self._attempts[target.key] += 1
        now = state.runtime.now()
        decision = decide(
            error,
            state.runtime.retry_for(state.request, target, error.category),
            attempts=self._attempts[target.key],
            left_s=until - now,
            draw=state.runtime.draw(),
            fallback_on=state.redirects,
            others=bool(self._queue),
        )
        # A clarification for an invalid answer multiplies no outage: only plain retries count.
        if not isinstance(decision, Retry) or error.category == "malformed":
            return decision
        if held_back := state.runtime.ratio.hold_back(now):
            self._held_back.append(f"  {held_back}")
            state.trace.held_back.append(held_back.to_dict())
            return NextTarget()
        return decision

    def _has_other_key(self, attempt: Attempt, error: CallError) -> bool:
        """Leave a refused or throttled key alone. Return True if the provider has another one."""
        if attempt.credential is None or len(self._state.failures) > MOST_KEYS:
            return False
        credentials, wait_s = self._state.runtime.credentials, error.retry_after_s
        return credentials.report(attempt.credential, error.category, retry_after_s=wait_s)

    def would_serve(self, target: Target) -> None:
        """Count a target as asked that nothing was sent to, for `explain`; those behind it are then looked at, too."""
        self._attempts[target.key] += 1

    def leave(self, decision: Decision) -> None:
        """Go on to the next target, or stop."""
        self._is_over = isinstance(decision, Fail)
        error = self._state.failures[-1] if self._state.failures else None
        category = error.category if isinstance(error, CallError) else ""
        if isinstance(error, ContextDoesNotFitError):  # as what was too long for a window
            category = "context_length"
        if special := self._route.on_failure.get(category):
            self._detour(special, f"left out: after {category} its own fallbacks come")
        # A request over a limit of tokens a minute (413) says nothing of the windows behind it.
        elif isinstance(error, CallError) and error.category == "context_length" and error.code != TOO_LARGE:
            for other in [target for target in self._queue if not _has_more_room(target, error)]:
                self._queue.remove(other)
                self._skip(other, "its window is no wider than the one that was full")

    def refuse(self, target: Target, refusal: Exception) -> None:
        """Note why nothing was sent to a target; where its budget has a cheaper chain, that is next."""
        self._skip(target, str(refusal))
        if isinstance(refusal, CircuitOpen):
            if not self.force:  # a target that refuses even so is not asked for ever
                self._open.append(target)
            return
        error = refusal.error if isinstance(refusal, LimitReached) else refusal
        assert isinstance(error, BlueprintError)  # noqa: S101 - every other refusal is an error of ours
        if not isinstance(error, (ContextDoesNotFitError, NoTargetError)):  # whose words name their target
            error.args = (f"{target.provider} ({target.model}): {error}", *error.args[1:])
        self._state.failures.append(error)
        self._refused.add((target.provider, target.model))
        if isinstance(error, ContextDoesNotFitError):
            self.leave(NextTarget())
        elif isinstance(refusal, LimitReached) and refusal.chain:
            runtime = self._state.runtime
            cheaper = runtime.table.of_names(expanded(refusal.chain, runtime.chains))
            self._detour(cheaper, f"left out: a budget leads to {', '.join(refusal.chain)}")

    def _detour(self, targets: Sequence[Target], why: str) -> None:
        """Go on with these targets in the queue's place, screened like the route's.

        None that was asked already: a detour that leads back would never end.
        """
        ahead = [target for target in targets if target.key not in self._asked]
        found, considered = screen(ahead, self._route.checks)
        kept = {target.key for target in found}
        for target in self._queue:
            if target.key not in kept:
                self._skip(target, why)
        self._state.trace.consider(considered)
        self._queue = deque(found)

    def _skip(self, target: Target, why: str) -> None:
        self._state.trace.skip(target.provider, target.model, why)

    def final_error(self) -> BlueprintError:
        """Return the error that tells most: the deadline, a limit, the only failure, or all of them."""
        state, failures, notes = self._state, self._state.failures, self._notes()
        if self._left_s() <= 0:
            told = [f"  {n}. {error}" for n, error in enumerate(failures, 1)]
            text = "\n".join([f"no answer within the deadline of {state.limit_s:g} s", *told, *notes])
            return DeadlineExceededError(text, attempts=failures)
        if not failures:
            return NoTargetError(state.trace.route["considered"])
        first, last = failures[0], failures[-1]
        are_limits = all(isinstance(error, LIMITS) for error in failures)
        for kind in (ToolCallInvalidError, AnswerInvalidError):
            if isinstance(last, kind) and all(isinstance(each, kind) for each in failures):
                last.attempts = list(failures)
                return last
        if len(failures) > 1 and not are_limits:
            return ChainExhaustedError(failures, notes=notes)
        told = [f"  {error}" for error in failures[1:]]
        first.args = ("\n".join([str(first), *told, *notes]), *first.args[1:])
        return first

    def _notes(self) -> list[str]:
        """Return who was passed over and why, and what was held back; a refusal among the failures is told there."""
        skipped = (row for row in self._state.trace.route["considered"] if row["verdict"] == "skipped")
        told = [row for row in skipped if (row["provider"], row["model"]) not in self._refused]
        notes = [f"  passed over {row['provider']} ({row['model']}): {row['reason']}" for row in told]
        return [*dict.fromkeys(notes), *self._held_back]


def _has_more_room(target: Target, error: CallError) -> bool:
    """Return True if a target may take what another's window did not; unknown windows get the benefit of the doubt."""
    facts, here = models.info(error.model or ""), input_window(target, None)
    before = facts.max_input_tokens if facts else None
    return before is None or here is None or here > before
