"""The policies around one LiteLLM call: reserve, call, judge, settle, trace; its answer may come from the cache."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from blueprint_llm.adapters import Call
from blueprint_llm.adapters.exceptions import call_error
from blueprint_llm.adapters.merge import as_openrouter_wants
from blueprint_llm.adapters.views import message_of, response_of, usage_info
from blueprint_llm.cache import storable
from blueprint_llm.engine import otel
from blueprint_llm.engine.answer import GuardedAnswer
from blueprint_llm.engine.attempt import BOOKING_S, MAYBE_BILLED, OUTPUT_INVALID, estimated
from blueprint_llm.engine.cached import as_json, count_hit, entry_of
from blueprint_llm.engine.endpoints import (
    CAPS,
    CHATS,
    SPANS,
    fallbacks_of,
    prompt_of,
    target_of,
)
from blueprint_llm.engine.guard import REDIRECTS, Guard, Send, Watched
from blueprint_llm.engine.handed import completed, key_of
from blueprint_llm.engine.kept import KeptAnswer, key_for
from blueprint_llm.engine.prepare import seconds_of
from blueprint_llm.engine.reservation import CIRCUIT_OPEN, AttemptReservation, CircuitOpen, LimitReached, limits_of
from blueprint_llm.engine.runtime import Runtime
from blueprint_llm.engine.state import late
from blueprint_llm.errors import BlueprintError, CallError
from blueprint_llm.redaction import redact_value
from blueprint_llm.trace import CALLER, Account, AttemptTrace, Trace
from blueprint_llm.types import ChatMessage, ChatRequest
from blueprint_llm.usage import Cap, Outcome
from blueprint_llm.usage.stores.records import ABANDONED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from blueprint_llm.cache import Entry
    from blueprint_llm.routing.targets import Target
    from blueprint_llm.types import ChatResponse, UsageInfo


def build(config: Any) -> Guard:
    """Return the guard of a configuration, in any form that `LLMClient` takes. Raises ConfigError."""
    return PolicyGuard(Runtime.build(config))


class PolicyGuard:
    """The policies of one runtime around single LiteLLM calls.

    Args:
        runtime: The limits, prices and stores.
        account: On whose account a call goes, by its keywords.
    """

    def __init__(self, runtime: Runtime, account: Callable[[Mapping[str, Any]], Account] = lambda _: Account()) -> None:
        self.runtime, self._account = runtime, account

    async def call(self, operation: str, send: Send, keywords: dict[str, Any]) -> Any:
        """Make one call of LiteLLM's function `operation`; see `Guard.call`."""
        await self.runtime.use_settings()
        account, keywords = CALLER.get() or self._account(keywords), completed(self.runtime, keywords)
        return await _GuardedCall(self.runtime, operation, keywords, account).make(send)


class _GuardedCall:
    """One call of one LiteLLM function; of a stream, also its `Watch`.

    Where a call above is known (`CALLER` with its trace), judging the answer and keeping it are that call's.
    """

    def __init__(self, runtime: Runtime, operation: str, keywords: dict[str, Any], account: Account) -> None:
        self.runtime, self.keywords, self._operation = runtime, keywords, operation
        self._is_chat, self._is_inner = operation in CHATS, account.trace is not None
        self._force = account.force
        target = target_of(runtime, keywords)
        if account.provider:
            target = runtime.table.remembered(replace(target, provider=account.provider))
        self._target = target
        self._trace = account.trace or Trace(id=runtime.new_id(), policy_hash=runtime.config.digest)
        self._until = account.until
        self._session, self._project = account.session or runtime.session, account.project or runtime.project
        self._began = runtime.now()
        self._row = AttemptTrace(
            n=len(self._trace.attempts) + 1,
            provider=target.provider,
            model=target.model,
            at_s=round(self._began - account.began, 6) if account.trace else 0.0,
        )
        self._shown_trace: dict[str, Any] = {}
        self._call = _call_of(target, keywords, timeout_s=runtime.config.deadline.total_s)
        self._reservation = self._dearest([target, *fallbacks_of(runtime, keywords)])
        self._handed: dict[str, Any] = {}
        self._is_open = False
        self._first_at: float | None = None
        self._beat: asyncio.TimerHandle | None = None
        self._beating: asyncio.Future[None] | None = None
        is_kept = self._is_chat and not self._is_inner
        key = key_for(runtime, target, keywords, project=self._project) if is_kept else None
        self._kept = KeptAnswer(runtime, key, keywords.get("cache"), owner=f"{self._trace.id}-{self._row.n}")
        self._answer = GuardedAnswer(
            operation,
            keywords,
            target,
            validates=runtime.config.streaming.validate_tools,
            is_inner=self._is_inner,
            redirects=REDIRECTS.get(),
        )

    def _dearest(self, targets: Sequence[Target]) -> AttemptReservation:
        """Return what the call takes: LiteLLM may go on to any of a call's own `fallbacks`, so the dearest must fit."""
        found = [
            AttemptReservation(
                self.runtime,
                target,
                params=self.keywords,
                session=self._session,
                project=self._project,
                trace=self._trace,
                row=self._row,
                limits=limits_of(self.runtime, target, self.keywords),
                is_whole=True,
            )
            for target in targets
        ]
        if len(found) == 1:
            return found[0]
        return max(found, key=lambda each: each.worst(self._call, self._cap(each)).usd or 0)

    async def make(self, send: Send) -> Any:
        """Reserve, call, judge and settle; a stream is judged and settled while it is read."""
        cap, own_s = self._cap(self._reservation), seconds_of(self.keywords.get("timeout"))
        limit_s = min(own_s or self._call.timeout_s, self._call.timeout_s)  # a Router's own is ten minutes
        try:
            async with asyncio.timeout(limit_s):  # LiteLLM has its own for what follows
                entry = await self._kept.find()
                if entry is None:
                    self._handed = await key_of(self.runtime, self._target, self.keywords)
                    await self._reserve(cap)
        except TimeoutError as error:
            await self._kept.leave(None)
            raise self._told(late(error, limit_s)) from None
        except BaseException:
            await self._kept.leave(None)
            raise
        if entry is not None:
            return await self._replay(entry, send)
        self._trace.attempts.append(self._row)
        self._stay_reserved()
        try:
            answer = await send(**self._sent(cap))
            if hasattr(answer, "__anext__") or hasattr(answer, "__next__"):
                self._shown_trace.update(self._trace.to_dict())
                self._show_trace(answer)
                self._answer.hear(answer)
                self._is_open = True
                return Watched(stream=answer, watch=self)
            self._answer.take(answer)
        except BaseException as error:  # whatever ends a call settles it
            await self.settle(error)
            raise
        await self.settle(None)
        self._show_trace(answer)
        return answer

    async def _replay(self, entry: Entry, send: Send) -> Any:
        """Return a kept answer, by LiteLLM's public way to answer in a provider's place: its own objects come back."""
        await count_hit(
            self.runtime, self._target, entry, trace=self._trace, session=self._session, project=self._project
        )
        self._trace.cache["hit"] = True
        if (log := self.keywords.get("litellm_logging_obj")) is not None:
            log.model_call_details["cache_hit"] = True  # free in LiteLLM's own accounts, too
        answer = await send(**{**self.keywords, "mock_response": _litellm().model_response(entry.whole)})
        self._finish_trace(None)
        self._show_trace(answer)
        hidden = getattr(answer, "_hidden_params", None)
        if isinstance(hidden, dict):
            hidden |= {"cache_hit": True, "response_cost": 0.0}
        return answer

    async def _reserve(self, cap: Cap) -> None:
        """Reserve before anything is sent: a refusal costs nothing, and calls at once cannot pass one limit together.

        Raises:
            BlueprintError: A limit refused the call, or the deployment rests while a call above has others to ask.
        """
        refusal: BlueprintError
        try:
            await self._reservation.take(self._call, cap, force=self._force)
        except LimitReached as limit:
            refusal = limit.error
            refusal.chain = limit.chain
        except CircuitOpen as rest:
            refusal = CallError(str(rest), category="unavailable", code=CIRCUIT_OPEN, **self._answer.reader.who)
        else:
            return
        raise self._told(refusal)

    def _told(self, refusal: BlueprintError) -> BlueprintError:
        refusal.trace = self._trace.to_dict()
        return refusal

    def _stay_reserved(self) -> None:
        """Keep the reservation until the call is settled: nothing of ours bounds how long LiteLLM takes."""

        def beat() -> None:
            kept = self.runtime.book(self._reservation.keep_alive(), within_s=BOOKING_S)
            self._beating = asyncio.ensure_future(kept)
            self._stay_reserved()

        self._beat = asyncio.get_running_loop().call_later(self.runtime.ledger.ttl_s / 3, beat)

    def _cap(self, reservation: AttemptReservation) -> Cap:
        """Return the most output; an endpoint that writes no tokens has none."""
        names = CAPS.get(self._operation)
        if names is None:
            return Cap(bound=0)
        return reservation.cap(next((self.keywords[name] for name in names if self.keywords.get(name)), None))

    def _sent(self, cap: Cap) -> dict[str, Any]:
        """Return the caller's keywords, with a cap where a limit needs one, and a stream's usage asked for."""
        sent = {**self.keywords, **self._handed}
        if self._is_inner and self._is_chat:
            sent["messages"] = as_openrouter_wants(sent["messages"], self._target.model)
        names = CAPS.get(self._operation, ())
        if cap.send is not None and not any(sent.get(name) for name in names):
            sent[names[0]] = cap.send
        if self._is_chat and sent.get("stream"):
            sent["stream_options"] = {"include_usage": True, **(sent.get("stream_options") or {})}
        return sent

    @property
    def shown(self) -> bool:
        """Whether content of a stream was handed on."""
        return self._answer.shown

    def feed(self, chunk: Any) -> Sequence[Any]:
        """Return the chunks that may be handed on now. Raise CallError if the answer cannot become valid."""
        if self._first_at is None:
            self._first_at = self.runtime.now()
        return self._answer.feed(chunk)

    def finish(self) -> Sequence[Any]:
        """Return the rest of a stream that has ended. Raise CallError if it is not valid, or nothing proves its end."""
        return self._answer.finish()

    async def settle(self, error: BaseException | None) -> None:
        """Book the call, once, however it ended; nothing is raised."""
        if self._beat is not None:
            self._beat.cancel()
        failure = self._failure(error)
        if isinstance(failure, OUTPUT_INVALID):
            failure.message_received = redact_value(message_of(self._answer.whole()))
        now, row = self.runtime.now(), self._row
        row.duration_s = round(now - self._began, 6)
        row.ttft_s = None if self._first_at is None else round(self._first_at - self._began, 6)
        if failure is not None:
            row.category, row.status, row.code = failure.category, failure.status, failure.code
            row.address, row.said = failure.address, failure.said
        elif error is not None:
            row.category = ABANDONED
        outcome = self._outcome(row.category)
        self._reservation.note(outcome)
        # A call above that waits for the answer must not lose it to a ledger that is locked.
        waits_s = self.runtime.config.deadline.idle_s if self._is_open else (self._until or math.inf) - now
        within_s = min(BOOKING_S, max(0.0, waits_s / 2)) if self._is_inner else BOOKING_S
        await self.runtime.book(self._reservation.settle(outcome, failure), within_s=within_s)
        await self._kept.leave(self._entry(outcome) if error is None else None)
        self._finish_trace(error)
        self._tell(outcome, type(error).__name__ if isinstance(error, Exception) else outcome.category)

    def _entry(self, outcome: Outcome) -> Entry | None:
        """Return what the cache may keep of an answer that is complete and valid."""
        verdict = self._answer.verdict
        if self._kept.key is None or verdict is None or outcome.usage is None:
            return None
        whole = as_json(self._answer.whole())
        if not storable(whole, status=verdict.status, ended_by=verdict.ended_by):
            return None
        return entry_of(self._response(outcome, whole), whole, self._answer.reader.chunks, at=self.runtime.clock())

    def _response(self, outcome: Outcome, whole: Any = None) -> ChatResponse:
        """Return the answer as a record of ours; of the endpoints other than chat only whose it is and its usage."""
        verdict, usage = self._answer.verdict, outcome.usage
        return response_of(
            whole or {},
            provider=self._target.provider,
            model=self._target.model,
            content=verdict.text if verdict else "",
            tool_calls=verdict.tool_calls if verdict else (),
            usage=usage and usage.model_copy(update={"estimated_cost": outcome.cost_usd}),
        )

    def _tell(self, outcome: Outcome, error: str | None) -> None:
        """Say how the attempt ended, to whoever listens; a call above the guard tells of itself."""
        if self.runtime.audience:
            how = "succeeded" if error is None else "abandoned" if outcome.category == ABANDONED else "failed"
            facts = {**self._row.facts(), "trace_id": self._trace.id}
            self.runtime.tell(f"attempt.{how}", level="warning" if how == "failed" else "info", **facts)
        if otel.listened() and not self._is_inner:
            answer = self._answer.whole()
            params = {name: value for name, value in self._call.params.items() if name != "tools"}
            messages = [ChatMessage.model_construct(**message) for message in self._call.messages]
            otel.record_call(
                ChatRequest.model_construct(messages=messages, params=params, session=self._session),
                self._trace,
                duration_s=self._row.duration_s or 0.0,
                response=self._response(outcome, answer if self._is_chat else None) if error is None else None,
                error=error,
                operation=SPANS.get(self._operation, self._operation),
            )

    def _finish_trace(self, error: BaseException | None) -> None:
        if error is None:
            self._trace.served_by = f"{self._target.provider}/{self._target.model}"
        self._shown_trace.update(self._trace.to_dict())
        if isinstance(error, BlueprintError):
            error.trace = self._shown_trace

    def _failure(self, error: BaseException | None) -> CallError | None:
        """Return what went wrong in our words; None for an answer, and for a caller who left."""
        if isinstance(error, CallError):
            return error
        if not isinstance(error, Exception):
            return None
        return call_error(error, self._call, in_stream=self._is_open, begun=self._first_at is not None)

    def _outcome(self, category: str | None) -> Outcome:
        timed = Outcome(category=category, latency_s=self._row.duration_s, ttft_s=self._row.ttft_s)
        is_answer = category is None or self._answer.verdict is not None
        if not is_answer and category != ABANDONED and category not in MAYBE_BILLED:
            return timed._replace(cost_usd=0.0)
        usage = usage_info(self._answer.usage) or estimated(self._call, self._answer.seen_chars)
        cost_usd = self._cost_usd(usage, is_whole=is_answer)
        return timed._replace(usage=usage, cost_usd=cost_usd, maybe_billed=not is_answer)

    def _cost_usd(self, usage: UsageInfo, *, is_whole: bool) -> float | None:
        """Return what the call cost: by the user's own prices, else as LiteLLM counts; None where nobody knows."""
        is_own = self._reservation.card is not None and self._reservation.card.is_own
        hidden = self._answer.hidden
        counted = hidden.get("response_cost")
        if counted and not (is_own and usage.source == "provider"):
            return float(counted)
        if hidden.get("cache_hit"):  # of LiteLLM's own cache
            return 0.0
        writes = self._operation in CAPS
        if usage.source != "provider" and not writes:  # pictures, speech: their price is not one of tokens
            return None
        answer = self._answer.priced() if is_whole else None
        seconds = self._row.duration_s or 0.0
        return self._reservation.cost_usd(usage, call=self._call, answer=answer, seconds=seconds)

    def _show_trace(self, answer: Any) -> None:
        """Put the trace beside what LiteLLM tells of an answer; a stream's is complete once it has ended."""
        hidden = getattr(answer, "_hidden_params", None)
        if isinstance(hidden, dict):
            hidden["blueprint"] = self._shown_trace


def _call_of(target: Target, keywords: Mapping[str, Any], *, timeout_s: float) -> Call:
    """Return what a call of any endpoint sends, as the call of a chat: so it is bounded, and told of in errors."""
    return Call(
        provider=target.provider,
        model=target.model,
        messages=prompt_of(keywords),
        params={name: value for name, value in keywords.items() if name != "messages"},
        timeout_s=timeout_s,
    )


def _litellm() -> Any:
    from blueprint_llm.adapters import litellm  # noqa: PLC0415 - loaded by now: a call of it is on its way

    return litellm
