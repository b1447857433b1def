"""The money side of one attempt: take the worst case from every limit before it, book the truth after it.

Each is one transaction of the store, which also asks and tells the target's breaker.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from blueprint_llm import models
from blueprint_llm.errors import BlueprintError, NoTargetError
from blueprint_llm.policy import LASTING
from blueprint_llm.routing.targets import litellm_provider
from blueprint_llm.usage import Cap, Demand, Estimate, Outcome, Payer, demand, denial
from blueprint_llm.usage import standing as limit_status
from blueprint_llm.usage.limits import of_attempt
from blueprint_llm.usage.money import NANO
from blueprint_llm.usage.pricing import cost, tokens_of
from blueprint_llm.usage.pricing.litellm_keys import prices_in
from blueprint_llm.usage.stores import breaker
from blueprint_llm.usage.stores.ledger_sql import refusing
from blueprint_llm.usage.stores.records import ABANDONED, BreakerReport, Reserved

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from blueprint_llm.adapters import Call
    from blueprint_llm.engine.runtime import Runtime
    from blueprint_llm.errors import CallError
    from blueprint_llm.routing.targets import Target
    from blueprint_llm.trace import AttemptTrace, Trace
    from blueprint_llm.types import ChatRequest, UsageInfo
    from blueprint_llm.usage.limits import Rule
    from blueprint_llm.usage.stores.records import Level, Reservation

# What a request without any keyword asks for.
ONE = Demand()
# How long an account without money is left alone where the provider does not say when that changes.
OUT_OF_QUOTA_S = 600.0
# The code of a CallError of an attempt inside a Router that was not made because the deployment's circuit is open.
CIRCUIT_OPEN = "circuit_open"


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
        self._taken: Reservation | None = None

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
        address, asked = self._address(call), self._asked
        if not self._is_whole:
            asked = demand({**call.params, "messages": call.messages, "api_base": address})
        elif address and not asked.is_elsewhere:
            asked = replace(asked, is_elsewhere=True)
        if self.card is not None and self.card.is_own:
            asked = replace(asked, is_elsewhere=False)  # the user's own price is the price at that address
        return self.runtime.ledger.estimate(self.card, output_tokens=cap.bound, asked=asked, seconds=call.timeout_s)

    def _address(self, call: Call) -> str | None:
        """Return where the call goes: some regions cost more."""
        return call.credential.base_url if call.credential else self.target.params.get("api_base")

    async def take(self, call: Call, cap: Cap, *, force: bool) -> None:
        """Take the worst case from every limit; `force` asks a target whose circuit is open.

        Raises:
            LimitReached, CircuitOpen: Nothing was taken.
        """
        estimate, probes = self._priced(call, cap), self.runtime.config.breaker.half_open_probes
        reservation = self.runtime.ledger.reservation(
            self.id,
            self.payer,
            estimate,
            target=self.target.key,
            probes=probes,
            attempt=self.row.n,
            trace=self.trace.id,
        )
        reserved = await self.runtime.store.reserve(reservation, force=force)
        self._warn([*reserved.exceeded, *(crossed.level for crossed in reserved.crossed)])
        self._require(reserved)
        self._taken = reservation
        self.row.reserved_usd = None if estimate.usd is None else estimate.usd / NANO

    async def look(self, call: Call, cap: Cap, *, force: bool) -> None:
        """Compare the worst case with every limit, take nothing, and refuse in `take`'s order and words.

        Raises:
            LimitReached, CircuitOpen: What `take` would raise at this moment.
        """
        store, probes = self.runtime.store, self.runtime.config.breaker.half_open_probes
        charges = self.runtime.ledger.charges(self.payer, self.worst(call, cap))
        self.levels = await store.levels(charges) if charges else ()
        self._priced(call, cap)
        seen = None if force else (await store.breakers([self.target.key]))[self.target.key]
        if seen is not None and breaker.refuses(seen, probes):
            self._require(Reserved(breaker=seen))
        over = {each.charge: each for each in self.levels if each.used + each.charge.amount > each.charge.limit}
        if denied := refusing([*over]):
            self._require(Reserved(denied=over[denied]))

    def _priced(self, call: Call, cap: Cap) -> Estimate:
        """Return the worst case. Raise LimitReached where its price is unknown and a budget wants to know it."""
        estimate = self.worst(call, cap)
        if reason := self.runtime.ledger.unpriced(self.payer, estimate):
            row = {"provider": self.target.provider, "model": self.target.model, "reason": reason}
            raise LimitReached(NoTargetError([row]))
        return estimate

    def _require(self, reserved: Reserved) -> None:
        if (level := reserved.denied) is not None:
            raise LimitReached(denial(level), level.charge.chain if level.charge.on_exceed == "degrade" else ())
        if (seen := reserved.breaker) is not None:
            wait = f"for {seen.retry_in_s:.1f} s" if seen.retry_in_s else "while it is probed"
            raise CircuitOpen(f"circuit open {wait} after {seen.failures} failures in a row")

    def _warn(self, levels: Iterable[Level]) -> None:
        for level in levels:
            self.trace.budget_warnings.append(limit_status(level))
            self.runtime.tell("budget.warned", level="warning", **limit_status(level))

    async def keep_alive(self) -> None:
        """Keep the reservation for another time to live."""
        if self._taken is not None:
            await self.runtime.store.heartbeat(self._taken.id, self._taken.ttl_s)

    def cost_usd(self, usage: UsageInfo, *, call: Call, answer: Any, seconds: float) -> float | None:
        """Return what an answer cost: by the user's own prices where there are any, else as LiteLLM counts it.

        Without an answer (it broke off) it is what the tokens seen cost. None: unknown.
        """
        card = self.card
        if answer is not None and not (card and card.is_own):
            counted = self.runtime.adapter(self.target).cost_of(answer, call)
            if counted is not None:
                return counted
        nano = cost(card, tokens_of(usage), seconds=seconds) if card else None
        return None if nano is None else nano / NANO

    def note(self, outcome: Outcome) -> None:
        """Write into the trace what the attempt cost."""
        self.row.cost_usd = outcome.cost_usd
        self.row.usage_source = outcome.usage.source if outcome.usage else None
        self.row.maybe_billed = outcome.maybe_billed

    async def settle(self, outcome: Outcome, error: CallError | None) -> None:
        """Replace what was taken by the truth, and tell the breaker how it went."""
        if self._taken is None:
            return
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
