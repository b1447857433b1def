"""The books of one attempt: take the worst case from every limit before it, keep that, book the truth after it.

To take and to book is one transaction of the store each, which also asks and tells the target's breaker.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from blueprint_llm import models
from blueprint_llm.context.tokens import message_tokens
from blueprint_llm.errors import BlueprintError, NoTargetError
from blueprint_llm.policy.clues import LASTING
from blueprint_llm.routing.targets import litellm_provider
from blueprint_llm.types import UsageInfo
from blueprint_llm.usage import Cap, Demand, Estimate, Outcome, Payer, demand, denial
from blueprint_llm.usage import standing as limit_status
from blueprint_llm.usage.ledger import of_attempt
from blueprint_llm.usage.money import NANO
from blueprint_llm.usage.pricing import cost, prices_in
from blueprint_llm.usage.stores.breaker import BreakerReport
from blueprint_llm.usage.stores.records import ABANDONED, reserved

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from blueprint_llm.adapters import Call
    from blueprint_llm.engine.reader import Answer
    from blueprint_llm.engine.runtime import Runtime
    from blueprint_llm.errors import CallError
    from blueprint_llm.routing.targets import Target
    from blueprint_llm.trace import AttemptTrace, Trace
    from blueprint_llm.types import ChatRequest
    from blueprint_llm.usage.ledger import Rule
    from blueprint_llm.usage.stores.breaker import Breaker
    from blueprint_llm.usage.stores.records import Level, Reservation

# What a request without any keyword asks for.
ONE = Demand()
# How long an account without money is left alone where the provider does not say when that changes.
OUT_OF_QUOTA_S = 600.0
# After these the provider may have billed tokens that we never saw.
MAYBE_BILLED = frozenset({"timeout", "stream_broken", "malformed"})
# English text and code, over the tokenizers in use.
CHARS_PER_TOKEN = 4
# How long a booking may keep the caller of a finished call waiting, at most.
BOOKING_S = 1.0


class LimitReached(Exception):  # noqa: N818 - a signal inside the engine
    """A limit closes this target to the request; `chain` is where it degrades to."""

    def __init__(self, error: BlueprintError, chain: tuple[str, ...] = ()) -> None:
        rows = error.considered if isinstance(error, NoTargetError) else ()
        super().__init__("; ".join(row["reason"] for row in rows) or str(error))
        self.error, self.chain = error, chain


class CircuitOpen(Exception):  # noqa: N818 - a signal inside the engine
    """The target has failed too often lately."""


class AttemptReservation:
    """What one attempt may take and took.

    Args:
        params: The request's LiteLLM keywords: its caps, tier, prices and how many answers it asks for.
        session, project: On whose account it goes.
        trace, row: The call's trace, and the attempt's row in it.
        limits: Those that come with the deployment itself.
        is_whole: The keywords are all of the call, its prompt included.

    Attributes:
        levels: How full each limit was at the last `look`.
    """

    def __init__(  # noqa: PLR0913 - who asks whom for what
        self,
        runtime: Runtime,
        target: Target,
        *,
        params: Mapping[str, Any],
        session: str | None,
        project: str | None,
        trace: Trace,
        row: AttemptTrace,
        limits: tuple[Rule, ...] = (),
        is_whole: bool = False,
    ) -> None:
        self.runtime, self.target, self.params = runtime, target, params
        self.trace, self.row, self._is_whole = trace, row, is_whole
        self.id = f"{trace.id}-{row.n}"
        self.payer = Payer(
            call_id=trace.id,
            provider=target.provider,
            model=target.model,
            session=session,
            project=project,
            group=target.group,
            deployment=target.deployment,
            litellm_provider=litellm_provider(target.model),
            own=limits,
        )
        tier = params.get("service_tier")
        tags = frozenset({tier}) if isinstance(tier, str) else frozenset[str]()
        self.card = runtime.price(target, tags, own=prices_in(params))
        self.levels: tuple[Level, ...] = ()
        self._taken: Reservation  # with its `_call`, once it is taken
        self._beat: asyncio.TimerHandle | None = None
        self._beating: asyncio.Future[None] | None = None

    def cap(self, raised: int | None = None) -> Cap:
        """Return the output cap, `raised` where an answer was cut; `send` is to be added to the request."""
        facts, given = models.info(self.target.model), (self.params, self.target.params)
        caps = (params.get(name) for params in given for name in ("max_completion_tokens", "max_tokens"))
        asked = raised or next((cap for cap in caps if type(cap) is int and cap > 0), None)
        cap = self.runtime.ledger.cap(self.payer, max_tokens=asked, facts=facts, card=self.card, asked=self._asked)
        return replace(cap, send=raised) if raised else cap

    @cached_property
    def _asked(self) -> Demand:
        return demand(self.params) if self.params else ONE

    def worst(self, call: Call, cap: Cap) -> Estimate:
        """Return the most that an attempt can take."""
        # Some regions cost more; the user's own price is the price at that address.
        address = call.credential.base_url if call.credential else self.target.params.get("api_base")
        asked = self._asked
        if not self._is_whole:
            asked = demand({**call.params, "messages": call.messages, "api_base": address})
        is_own = self.card is not None and self.card.is_own
        is_elsewhere = not is_own and bool(asked.is_elsewhere or address)
        if asked.is_elsewhere != is_elsewhere:
            asked = replace(asked, is_elsewhere=is_elsewhere)
        return self.runtime.ledger.estimate(self.card, output_tokens=cap.bound, asked=asked, seconds=call.timeout_s)

    async def take(self, call: Call, cap: Cap, *, force: bool) -> None:
        """Take the worst case from every limit; `force` asks a target whose circuit is open.

        Raises:
            LimitReached, CircuitOpen: Nothing was taken.
        """
        estimate, breaker = self._priced(call, cap), self.runtime.config.breaker
        reservation = self.runtime.ledger.reservation(
            self.id,
            self.payer,
            estimate,
            target=self.target.key,
            probes=breaker.half_open_probes,
            attempt=self.row.n,
        )
        answer = await self.runtime.store.reserve(reservation, force=force)
        self._warn([*answer.exceeded, *(crossed.level for crossed in answer.crossed)])
        _require(answer.denied, answer.breaker)
        self._taken, self._call = reservation, call
        self.row.reserved_usd = None if estimate.usd is None else estimate.usd / NANO

    async def look(self, call: Call, cap: Cap, *, force: bool) -> None:
        """Compare the worst case with every limit, take nothing, and refuse in `take`'s order and words.

        Raises:
            LimitReached, CircuitOpen: What `take` would raise at this moment.
        """
        store, key = self.runtime.store, self.target.key
        charges = self.runtime.ledger.charges(self.payer, self.worst(call, cap))
        self.levels = await store.levels(charges) if charges else ()
        self._priced(call, cap)
        seen = None if force else (await store.breakers([key]))[key]
        if seen is not None and seen.refuses(self.runtime.config.breaker.half_open_probes):
            _require(None, seen)
        _require(reserved(self.levels).denied)

    def _priced(self, call: Call, cap: Cap) -> Estimate:
        """Return the worst case. Raise LimitReached where its price is unknown and a budget wants to know it."""
        estimate = self.worst(call, cap)
        if reason := self.runtime.ledger.unpriced(self.payer, estimate):
            row = {"provider": self.target.provider, "model": self.target.model, "reason": reason}
            raise LimitReached(NoTargetError([row]))
        return estimate

    def _warn(self, levels: Iterable[Level]) -> None:
        for level in levels:
            self.trace.budget_warnings.append(limit_status(level))
            self.runtime.tell("budget.warned", level="warning", **limit_status(level))

    def stay(self) -> None:
        """Keep what was taken until it is settled: nothing of ours bounds how long that takes."""

        def beat() -> None:
            kept = self.runtime.store.heartbeat(self._taken.id, self._taken.ttl_s)
            self._beating = asyncio.ensure_future(self.runtime.book(kept, within_s=BOOKING_S))
            self.stay()

        self._beat = asyncio.get_running_loop().call_later(self.runtime.ledger.ttl_s / 3, beat)

    async def settle(
        self, answer: Answer, failure: CallError | None, *, left: bool, since: float, within_s: float
    ) -> Outcome:
        """Book the attempt, once, however it ended: in the trace, the events, the ledger and the target's breaker.

        `left`: nothing went wrong, but its caller has not waited for its end. `since`: when it was sent (the monotonic
        clock). Nothing is raised; what takes longer than `within_s`, or is cancelled, the store carries out later.
        """
        if self._beat is not None:
            self._beat.cancel()
        row, first_at = self.row, answer.first_at
        row.category = failure.category if failure else ABANDONED if left else None
        row.duration_s = round(self.runtime.now() - since, 6)
        row.ttft_s = None if first_at is None else round(first_at - since, 6)
        if failure is not None:
            row.status, row.code, row.address, row.said = failure.status, failure.code, failure.address, failure.said
            row.tokens_saved = getattr(getattr(failure, "verdict", None), "tokens_saved", None)
        outcome = self._outcome(answer)
        row.cost_usd, row.maybe_billed = outcome.cost_usd, outcome.maybe_billed
        row.usage_source = outcome.usage.source if outcome.usage else None
        if self.runtime.audience:
            self._tell(outcome)
        await self.runtime.book(self._book(outcome, failure), within_s=within_s)
        return outcome

    def _outcome(self, answer: Answer) -> Outcome:
        """Return what was taken: nothing where the provider refused, else what it says, or what was seen."""
        row, call = self.row, self._call
        timed = Outcome(category=row.category, latency_s=row.duration_s, ttft_s=row.ttft_s)
        is_answer = row.category is None or answer.verdict is not None
        if not is_answer and row.category != ABANDONED and row.category not in MAYBE_BILLED:
            return timed._replace(cost_usd=0.0)
        reported = answer.usage
        if reported and call.counted_tokens:  # how far our counts fall short, for the next request's window
            self.runtime.margins.learn(call.model, call.counted_tokens, reported.prompt_tokens)
        usage = reported or estimated(call, answer.seen_chars)
        cost_usd = self._cost_usd(answer, usage, is_whole=is_answer)
        return timed._replace(usage=usage, cost_usd=cost_usd, maybe_billed=not is_answer)

    def _cost_usd(self, answer: Answer, usage: UsageInfo, *, is_whole: bool) -> float | None:
        """Return what `usage` cost: by the user's own prices where there are any, else as LiteLLM counts it.

        Of an answer that broke off it is what the tokens seen cost. None: unknown.
        """
        card, hidden = self.card, answer.hidden
        is_own, counted = card is not None and card.is_own and bool(card.rates), hidden.get("response_cost")
        if counted and not (is_own and usage.source == "provider"):
            return float(counted)
        if hidden.get("cache_hit"):  # of LiteLLM's own cache
            return 0.0
        if usage.source != "provider" and not answer.is_text:  # pictures, speech: no price is one of tokens
            return 0.0 if self.row.reserved_usd == 0 else None
        if is_whole and not is_own and (whole := answer.priced()) is not None:
            counted = self.runtime.adapter(self.target).cost_of(whole, self._call)
            if counted is not None:
                return counted
        nano = cost(card, usage, seconds=self.row.duration_s or 0.0) if card else None
        return None if nano is None else nano / NANO

    def _tell(self, outcome: Outcome) -> None:
        """Say how the attempt ended, to whoever listens."""
        how = {None: "succeeded", ABANDONED: "abandoned"}.get(outcome.category, "failed")
        usage = outcome.usage or UsageInfo()
        tokens = {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}
        facts = {**self.row.facts(), **tokens, "trace_id": self.trace.id}
        self.runtime.tell(f"attempt.{how}", level="warning" if how == "failed" else "info", **facts)

    async def _book(self, outcome: Outcome, error: CallError | None) -> None:
        """Replace what was taken by the truth, and tell the breaker how it went."""
        settlement = self.runtime.ledger.settlement(self._taken, outcome, self._report(error, outcome))
        settled = await self.runtime.store.settle(settlement)
        self._warn(crossed.level for crossed in settled.crossed)

    def _report(self, error: CallError | None, outcome: Outcome) -> BreakerReport:
        """What an attempt says of the target's health: a refused request or a caller who left says nothing."""
        ok = None if outcome.category == ABANDONED else True if error is None else False if error.row.breaker else None
        out = error is not None and error.code in LASTING
        rules = self.runtime.config.breaker
        return BreakerReport(
            target=self.target.key,
            id=self.id,
            ok=ok,
            failures=rules.failures,
            open_s=rules.open_s,
            open_for_s=(error.retry_after_s or OUT_OF_QUOTA_S) if out and error else None,
        )


def _require(denied: Level | None, seen: Breaker | None = None) -> None:
    """Raise LimitReached for a limit that is full, CircuitOpen for a breaker that refuses."""
    if denied is not None:
        raise LimitReached(denial(denied), denied.charge.chain if denied.charge.on_exceed == "degrade" else ())
    if seen is not None:
        wait = f"for {seen.retry_in_s:.1f} s" if seen.retry_in_s else "while it is probed"
        raise CircuitOpen(f"circuit open {wait} after {seen.failures} failures in a row")


def estimated(call: Call, seen_chars: int) -> UsageInfo:
    """Return a usage from the lengths of request and answer, for a provider that sent none."""
    prompt = sum(message_tokens(message) for message in call.messages)
    completion = -(-seen_chars // CHARS_PER_TOKEN)
    return UsageInfo(
        prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion, source="estimated"
    )


def limits_of(runtime: Runtime, target: Target, keywords: Mapping[str, Any]) -> tuple[Rule, ...]:
    """Return the limits of a Router's deployment, which stand in the keywords of an attempt at it."""
    if not target.deployment:
        return ()
    most = runtime.config.router_settings.get("default_max_parallel_requests")
    default = {} if most is None else {"max_parallel_requests": most}
    given = {name: value for name, value in keywords.items() if value is not None}
    return of_attempt(target.deployment, {**default, **target.info, **given})


def reservation_for(
    runtime: Runtime,
    request: ChatRequest,
    target: Target,
    *,
    trace: Trace,
    row: AttemptTrace,
    limits: tuple[Rule, ...] = (),
) -> AttemptReservation:
    """Return the reservation of an attempt at a chat request."""
    cap = {} if request.max_tokens is None else {"max_tokens": request.max_tokens}
    return AttemptReservation(
        runtime,
        target,
        params={**cap, **request.params},
        session=request.session,
        project=request.project,
        trace=trace,
        row=row,
        limits=limits,
    )
