"""The money side of one attempt: reserve before, settle after, whatever happened in between.

Each is one round to the store, which also asks and tells the target's breaker.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from blueprint_llm import models
from blueprint_llm.context import message_tokens
from blueprint_llm.engine.steps import Step, Store
from blueprint_llm.errors import BlueprintError, CallError, NoTargetError
from blueprint_llm.routing.targets import litellm_provider
from blueprint_llm.types import UsageInfo
from blueprint_llm.usage import Cap, Outcome, Payer, denial, standing, tokens_of, upper_bound
from blueprint_llm.usage.pricing.litellm_keys import prices_in
from blueprint_llm.usage.stores.ops import ABANDONED, Batch, BreakerProbe, BreakerReport, Release

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from blueprint_llm.adapters import Call
    from blueprint_llm.engine.parts import Parts
    from blueprint_llm.routing.targets import Target
    from blueprint_llm.trace import AttemptTrace, Trace
    from blueprint_llm.types import ChatRequest
    from blueprint_llm.usage import Estimate, Reservation
    from blueprint_llm.usage.stores.ops import Admission, Reserved

NANO = 10**9
# How long an account without money is left alone where the provider does not say when that changes.
OUT_OF_QUOTA_S = 600.0
# English text and code, over the tokenizers in use.
CHARS_PER_TOKEN = 4
OUT_OF_QUOTA = frozenset({"insufficient_quota", "billing_hard_limit", "billing_not_active", "credit_balance"})
# After these the provider may have billed tokens that we never saw.
MAYBE_BILLED = frozenset({"timeout", "stream_broken", "malformed"})


class LimitReached(Exception):  # noqa: N818 - a signal inside the walk
    """A limit closes this target to the request; `chain` is where it degrades to."""

    def __init__(self, error: BlueprintError, chain: tuple[str, ...] = ()) -> None:
        super().__init__(str(error))
        self.error, self.chain = error, chain


class BreakerOpen(Exception):  # noqa: N818 - a signal inside the walk
    """The target has failed too often lately."""


class Account:
    """What one attempt may take and took."""

    def __init__(self, parts: Parts, request: ChatRequest, target: Target, *, trace: Trace, row: AttemptTrace) -> None:
        self.parts, self.request, self.target = parts, request, target
        self.trace, self.row = trace, row
        self.id = f"{trace.id}-{row.n}"
        self.payer = Payer(
            call_id=trace.id,
            provider=target.provider,
            model=target.model,
            session=request.session,
            project=request.project,
            group=target.group,
            deployment=target.deployment,
            litellm_provider=litellm_provider(target.model),
        )
        tier = request.params.get("service_tier")
        tags = frozenset({tier}) if isinstance(tier, str) else frozenset[str]()
        self.card = parts.price(target, tags, own=prices_in(request.params))
        self.reservation: Reservation | None = None

    def cap(self, raised: int | None = None) -> Cap:
        """The output cap, `raised` where an answer was cut; `send` is to be added to the request."""
        facts, given = models.info(self.target.model), (self.request.params, self.target.params)
        caps = (params.get(name) for params in given for name in ("max_completion_tokens", "max_tokens"))
        asked = raised or self.request.max_tokens or next((cap for cap in caps if type(cap) is int and cap > 0), None)
        cap = self.parts.ledger.cap(self.payer, max_tokens=asked, facts=facts, card=self.card)
        return replace(cap, send=raised) if raised else cap

    def worst(
        self, messages: list[dict[str, Any]], tools: Any, cap: Cap, *, answers: int = 1, seconds: float = 0.0
    ) -> Estimate:
        """The most that an attempt can take."""
        bound = upper_bound(messages, tools)
        return self.parts.ledger.estimate(
            self.card, input_tokens=bound, output_tokens=cap.bound, answers=answers, seconds=seconds
        )

    def reserve(self, call: Call, cap: Cap, *, force: bool) -> Generator[Step, Any, None]:
        """Take the worst case from every limit. Raises LimitReached, BreakerOpen or NoTargetError."""
        ledger = self.parts.ledger
        tools, answers = call.params.get("tools") or (), answers_of(call.params)
        estimate = self.worst(call.messages, tools, cap, answers=answers, seconds=call.timeout_s)
        if reason := ledger.unpriced(self.payer, estimate):
            raise LimitReached(NoTargetError([self._named(reason)]))
        self.reservation = ledger.reserve(self.id, self.payer, estimate, attempt=self.row.n, trace=self.trace.id)
        admission, reserved = yield Store(op=Batch(ops=(self._probe(), self.reservation.op)))
        self._warn(reserved)
        yield from self._require(admission, reserved, force=force)
        self.row.reserved_usd = None if estimate.usd is None else estimate.usd / NANO

    def _named(self, reason: str) -> dict[str, str]:
        return {"provider": self.target.provider, "model": self.target.model, "reason": reason}

    def _probe(self) -> BreakerProbe:
        probes = self.parts.config.breaker.half_open_probes
        return BreakerProbe(target=self.target.key, id=self.id, probes=probes, ttl_s=self.parts.ledger.ttl_s)

    def _require(self, admission: Admission, reserved: Reserved, *, force: bool) -> Generator[Step, Any, None]:
        if reserved.denied is not None:
            yield Store(op=self._report(None))  # frees the probe's slot
            level = reserved.denied
            raise LimitReached(denial(level), level.charge.chain if level.charge.on_exceed == "degrade" else ())
        if not admission.granted and not force:
            yield Store(op=Release(id=self.id))
            raise BreakerOpen(f"left alone after {admission.breaker.failures} failures in a row")

    def _warn(self, reserved: Reserved) -> None:
        levels = [*reserved.exceeded, *(crossed.level for crossed in reserved.crossed)]
        for level in levels:
            self.trace.budget_warnings.append(standing(level))
            self.parts.tell("budget.warned", level="warning", **standing(level))

    def settle(self, outcome: Outcome, *, error: CallError | None) -> Generator[Step, Any, int | None]:
        """Replace the reservation by what was taken; the result is the cost in nano-USD, None: unknown."""
        if self.reservation is None:
            return None
        settle = self.parts.ledger.settle(self.reservation, outcome)
        settled, _ = yield Store(op=Batch(ops=(settle, self._report(error, outcome))))
        for crossed in settled.crossed:
            self.trace.budget_warnings.append(standing(crossed.level))
            self.parts.tell("budget.warned", level="warning", **standing(crossed.level))
        nano = settle.row.cost_nano
        self.row.cost_usd = None if nano is None else nano / NANO
        self.row.usage_source, self.row.maybe_billed = outcome.usage_source, outcome.maybe_billed
        return nano

    def _report(self, error: CallError | None, outcome: Outcome | None = None) -> BreakerReport:
        rules = self.parts.breaker_for(self.target, error)
        said = None if outcome is None or outcome.category == ABANDONED else _health(error)
        out = error is not None and error.code in OUT_OF_QUOTA
        pause_s = (error.retry_after_s or OUT_OF_QUOTA_S) if out and error else None
        return BreakerReport(
            target=self.target.key,
            id=self.id,
            ok=said,
            failures=rules.failures,
            open_s=rules.open_s,
            open_for_s=pause_s,
        )


def answers_of(params: Mapping[str, Any]) -> int:
    """How many answers are asked for; what is no number is for the provider to refuse."""
    try:
        return max(1, int(params.get("n") or 1))
    except (TypeError, ValueError):
        return 1


def _health(error: CallError | None) -> bool | None:
    """What an attempt says of the target's health: a refused request says nothing."""
    if error is None:
        return True
    return False if error.row.breaker else None


def estimated(call: Call, chars: int) -> UsageInfo:
    """A usage from the lengths of request and answer, for a provider that sent none."""
    prompt = sum(message_tokens(message) for message in call.messages)
    completion = -(-chars // CHARS_PER_TOKEN)
    total = prompt + completion
    return UsageInfo(prompt_tokens=prompt, completion_tokens=completion, total_tokens=total, source="estimated")


def failed(error: CallError, call: Call, usage: UsageInfo | None, chars: int) -> Outcome:
    """What a failed attempt may have taken: nothing where the provider refused, else what was seen."""
    if error.category not in MAYBE_BILLED:
        return Outcome(category=error.category)
    seen = usage or estimated(call, chars)
    return Outcome(category=error.category, tokens=tokens_of(seen), usage_source=seen.source, maybe_billed=True)
