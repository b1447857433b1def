"""One target's turn: attempts at it, each reserved, run and settled, until it answers or something else is wiser."""

from __future__ import annotations

from collections.abc import Generator
from functools import partial
from typing import TYPE_CHECKING, Any

from blueprint_llm import models
from blueprint_llm.engine.accounts import Account, BreakerOpen, LimitReached, failed
from blueprint_llm.engine.answers import answer_of, final_chunk, usage_of
from blueprint_llm.engine.attempt import Attempt, Manner
from blueprint_llm.engine.dispatch import call_for, handler_for, own_timeout_s
from blueprint_llm.engine.steps import Abandoned, Draw, Now, Offload, Sleep, Step
from blueprint_llm.errors import BlueprintError, CallError, ContextDoesNotFitError, CredentialsError
from blueprint_llm.policy import UNCHANGED, Decision, GoOn, Means, Progress, RetryHere, Stop, climb, decide
from blueprint_llm.trace import AttemptTrace
from blueprint_llm.types import UsageInfo
from blueprint_llm.usage import Outcome, tokens_of
from blueprint_llm.usage.pricing.card import Tokens
from blueprint_llm.usage.stores.ops import ABANDONED

if TYPE_CHECKING:
    from blueprint_llm.credentials import Credential
    from blueprint_llm.engine.pipeline import Walk
    from blueprint_llm.policy import Change
    from blueprint_llm.routing.targets import Target
    from blueprint_llm.streaming import StreamVerdict

Steps = Generator[Step, Any, Any]
MOST_KEYS = 10
# What another try at the same deployment is for, with a changed request.
SAME_MODEL = frozenset({"malformed", "stream_broken"})


class Visit:
    """The attempts at one target.

    Args:
        walk: Whose request it is.
        target: Whom to ask.
        until: When to leave, on the monotonic clock.
        siblings: Equal deployments of its group are still to be asked.
    """

    def __init__(self, walk: Walk, target: Target, until: float, *, siblings: bool = False) -> None:
        self.walk, self.parts, self.target, self.until = walk, walk.parts, target, until
        self._siblings = siblings
        self.attempts = 0
        self.waited_s = 0.0
        self.change: Change = UNCHANGED
        self.last_text = ""
        self.credential: Credential | None = None
        self.answered: tuple[Attempt, StreamVerdict] | None = None

    def run(self) -> Steps:
        """A `ChatResponse`, or why it is time to leave: GoOn, Stop or LimitReached."""
        while True:
            self.attempts += 1
            try:
                return (yield from self._attempt())
            except LimitReached as limit:
                return self._closed(limit.error, limit)
            except BreakerOpen as error:
                self.walk.left_alone.append(self.target)
                return self._closed(None, GoOn(), str(error))
            except (ContextDoesNotFitError, CredentialsError) as error:
                return self._closed(error, GoOn())
            except CallError as error:
                decision = yield from self._decide(error)
            if not isinstance(decision, RetryHere):
                return decision
            self.waited_s = decision.wait_s
            if decision.wait_s:
                yield Sleep(seconds=decision.wait_s)

    def _closed(self, error: BlueprintError | None, outcome: Any, reason: str = "") -> Any:
        """Note that the target may not serve this request."""
        if error is not None:
            self.walk.failures.append(error)
        self.walk.trace.skip(self.target.provider, self.target.model, reason or str(error))
        return outcome

    def _decide(self, error: CallError) -> Steps:
        self.walk.failures.append(error)
        now, draw = (yield Now()), (yield Draw())
        decision = self._judged(error, now, draw)
        if self._has_other_key(error):
            decision = RetryHere(wait_s=0.0)
        if isinstance(decision, RetryHere) and not self.parts.ratio.allow(now):
            decision = GoOn()
        return self._told(error, decision)

    def _judged(self, error: CallError, now: float, draw: float) -> Decision:
        """What the table and LiteLLM's policies say; a retry goes to an equal deployment that was not asked yet."""
        progress = Progress(
            attempts=self.walk.failed_at(self.target),
            left_s=self.until - now,
            draw=draw,
            fallback_on=self.walk.fallback_on,
        )
        decision = decide(error, self.walk.retry_for(self.target, error), progress)
        if self._siblings and isinstance(decision, RetryHere) and error.category not in SAME_MODEL:
            return GoOn()
        return self._on_the_ladder(error, decision)

    def _has_other_key(self, error: CallError) -> bool:
        """Leave a refused or throttled key alone; whether the provider has another one."""
        if self.credential is None or self.attempts > MOST_KEYS:
            return False
        retry_after_s = error.retry_after_s
        return self.parts.credentials.report(self.credential, error.category, retry_after_s=retry_after_s)

    def _on_the_ladder(self, error: CallError, decision: Decision) -> Decision:
        """What to change before a retry; nothing more to offer means going on."""
        is_same = self.walk.request.as_written and error.category == "malformed"
        if is_same or not isinstance(decision, RetryHere):
            return decision
        change = climb(error, self.change, self._means())
        if change is None:
            return GoOn()
        mended = change.notes != self.change.notes or change.max_tokens != self.change.max_tokens
        self.change = change
        return RetryHere(wait_s=0.0) if mended else decision

    def _told(self, error: CallError, decision: Decision) -> Decision:
        """A broken stream is void unless it is continued; `on_break: fail` ends the walk."""
        voice = self.walk.voice
        if voice is None or (isinstance(decision, RetryHere) and self.change.prefix):
            return decision
        voice.broken(error)
        is_final = voice.verbatim or self.parts.config.streaming.on_break == "fail"
        return Stop() if voice.spoken and is_final else decision

    def _means(self) -> Means:
        streaming, facts = self.parts.config.streaming, models.info(self.target.model)
        asked = self.walk.request
        voice = self.walk.voice
        return Means(
            reask=streaming.reask,
            max_tokens=self.change.max_tokens or asked.max_tokens or asked.params.get("max_completion_tokens"),
            most_tokens=facts.max_output_tokens if facts else None,
            can_continue=streaming.on_break == "resume"
            and not (voice and voice.verbatim)
            and models.continues(self.target.model),
            text=self.last_text,
        )

    def _attempt(self) -> Steps:
        row = AttemptTrace(
            n=len(self.walk.trace.attempts) + 1,
            provider=self.target.provider,
            model=self.target.model,
            waited_s=self.waited_s,
        )
        account = Account(self.parts, self.walk.request, self.target, trace=self.walk.trace, row=row)
        cap = account.cap(self.change.max_tokens)
        yield from self._fetch_key()
        now = yield Now()
        call = call_for(self.walk, self.target, self.change, output_tokens=cap.send)
        self.credential = call.credential
        yield from self._reserved(account, call, cap)
        self.walk.trace.attempts.append(row)
        self.walk.tried.add(self.target.key)
        self.walk.note_overhead((yield Now()))
        return (yield from self._settled(self._prepared(call, account, now), account))

    def _fetch_key(self) -> Steps:
        """A key from a program or the keychain may take seconds: then it is fetched beside the event loop."""
        credentials, target = self.parts.credentials, self.target
        if credentials.is_slow(target.provider, model=target.model, params=target.params):
            get = partial(credentials.get, target.provider, model=target.model, params=target.params)
            yield Offload(function=get)

    def _reserved(self, account: Account, call: Any, cap: Any) -> Steps:
        try:
            yield from account.reserve(call, cap, force=self.walk.forced)
        except Abandoned:
            yield from account.settle(Outcome(category=ABANDONED, sent=False), error=None)
            raise

    def _prepared(self, call: Any, account: Account, now: float) -> Attempt:
        limits, streamed = self.parts.config.deadline, self.walk.voice is not None and self.change.streamed
        own_s = own_timeout_s(self.walk.request)
        until = min(self.until, now + (own_s or self.parts.timeout_s(self.target, streamed=streamed)))
        first = min(until, now + limits.first_token_s) if streamed and own_s is None else until
        manner = Manner(
            until=first,
            idle_s=own_s or limits.idle_s,
            streamed=streamed,
            prefix=self.change.prefix,
            beat_s=self.parts.ledger.ttl_s / 3,
            heartbeat=account.reservation.heartbeat if account.reservation else None,
        )
        handler = handler_for(self.parts, self.walk.request, call)
        return Attempt(call, self.parts.adapter(self.target), handler, manner, self.walk.voice)

    def _settled(self, attempt: Attempt, account: Account) -> Steps:
        """Run an attempt and pay for it, however it ends."""
        self.parts.traffic.begin(self.target.key)
        try:
            return (yield from self._run(attempt, account))
        finally:
            self.parts.traffic.end(self.target.key)

    def _run(self, attempt: Attempt, account: Account) -> Steps:
        try:
            verdict = yield from attempt.run()
        except CallError as error:
            seen = attempt.so_far()
            self.last_text = seen.text
            outcome = failed(error, attempt.call, seen.usage, attempt.seen_chars)
            self._note_failure(account.row, error)
            if error.category == "timeout":
                self.parts.traffic.late(self.target.key, now=(yield Now()))
            yield from self._pay(attempt, account, outcome, error)
            self._excuse(account.row, error)
            raise
        except (Abandoned, KeyboardInterrupt):  # Ctrl-C may hit our own code between two steps
            usage = usage_of(attempt.so_far().usage, attempt.call, attempt.seen_chars)
            outcome = Outcome(category=ABANDONED, tokens=tokens_of(usage), usage_source=usage.source, maybe_billed=True)
            account.row.category = ABANDONED
            yield from self._pay(attempt, account, outcome, None)
            raise
        return (yield from self._answered(attempt, account, verdict))

    def _excuse(self, row: AttemptTrace, error: CallError) -> None:
        """The deadline counts up to a stream's first delta, and every wait: what was streamed is not its time."""
        if row.duration_s is None or row.ttft_s is None:
            return
        waited_s = self.parts.config.deadline.idle_s if error.code == "stalled" else 0.0
        streamed_s = max(0.0, row.duration_s - row.ttft_s - waited_s)
        self.until += streamed_s
        self.walk.started, self.walk.deadline = self.walk.started + streamed_s, self.walk.deadline + streamed_s

    def _note_failure(self, row: AttemptTrace, error: CallError) -> None:
        row.category, row.status, row.code = error.category, error.status, error.code
        row.tokens_saved = getattr(getattr(error, "verdict", None), "tokens_saved", None)

    def _answered(self, attempt: Attempt, account: Account, verdict: StreamVerdict) -> Steps:
        self.answered = attempt, verdict
        usage = usage_of(verdict.usage, attempt.call, attempt.seen_chars)
        outcome = Outcome(tokens=tokens_of(usage), usage_source=usage.source)
        nano = yield from self._pay(attempt, account, outcome, None)
        priced = UsageInfo(**{**vars(usage), "estimated_cost": None if nano is None else nano / 1e9})
        row, spent = account.row, (usage.prompt_tokens, usage.completion_tokens)
        self.parts.traffic.answered(
            self.target.key, now=(yield Now()), duration_s=row.duration_s or 0.0, ttft_s=row.ttft_s, tokens=spent
        )
        self.walk.trace.served_by = f"{attempt.call.provider}/{attempt.call.model}"
        if self.walk.voice is not None:
            yield from self.walk.voice.emit(final_chunk(attempt.call, verdict, priced))
        return answer_of(attempt, verdict, priced, self.walk.trace, self.target)

    def _pay(self, attempt: Attempt, account: Account, outcome: Outcome, error: CallError | None) -> Steps:
        now = yield Now()
        row = account.row
        row.at_s, row.duration_s = round(attempt.sent_at - self.walk.began, 6), round(now - attempt.sent_at, 6)
        row.ttft_s = None if attempt.first_at is None else round(attempt.first_at - attempt.sent_at, 6)
        timed = outcome._replace(latency_s=row.duration_s, ttft_s=row.ttft_s)
        nano = yield from account.settle(timed, error=error)
        self._tell(row, timed)
        return nano

    def _tell(self, row: AttemptTrace, outcome: Outcome) -> None:
        """One event for an attempt, however it ended."""
        if self.parts.audience:
            how = {None: "succeeded", ABANDONED: "abandoned"}.get(outcome.category, "failed")
            seen = outcome.tokens or Tokens()
            tokens = {"prompt_tokens": seen.prompt, "completion_tokens": seen.completion}
            facts = {**row.to_dict(), **tokens, "trace_id": self.walk.trace.id}
            self.parts.tell(f"attempt.{how}", level="warning" if how == "failed" else "info", **facts)
