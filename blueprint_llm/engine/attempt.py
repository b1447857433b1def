"""One LiteLLM call: reserve, send, read, and settle whatever happened.

What goes wrong leaves as a CallError, after the upstream was closed and what was used was booked.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from blueprint_llm.adapters.views import message_of, response_of, usage_info
from blueprint_llm.context import message_tokens
from blueprint_llm.engine.prepare import call_for, first_token_s, handler_for, own_timeout_s, timeout_s
from blueprint_llm.engine.reader import AnswerReader
from blueprint_llm.engine.reservation import CIRCUIT_OPEN, CircuitOpen, LimitReached, reservation_for
from blueprint_llm.errors import (
    AnswerInvalidError,
    BudgetExceededError,
    CallError,
    NoTargetError,
    QuotaExceededError,
    StreamBrokenError,
    ToolCallInvalidError,
)
from blueprint_llm.policy import UNCHANGED, Change
from blueprint_llm.redaction import redact_value
from blueprint_llm.streaming.chunks import progress
from blueprint_llm.trace import CALLER, Account, AttemptTrace
from blueprint_llm.types import UsageInfo, with_raw
from blueprint_llm.usage import Outcome
from blueprint_llm.usage.stores import waited_for
from blueprint_llm.usage.stores.records import ABANDONED

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

    from blueprint_llm.adapters import Call, StreamHandle
    from blueprint_llm.credentials import Credential
    from blueprint_llm.engine.state import RequestState
    from blueprint_llm.routing.targets import Target
    from blueprint_llm.streaming import StreamVerdict
    from blueprint_llm.types import ChatResponse, StreamChunk

T = TypeVar("T")
LIMITS = (BudgetExceededError, QuotaExceededError, NoTargetError)
OUTPUT_INVALID = (ToolCallInvalidError, AnswerInvalidError)
# After these the provider may have billed tokens that we never saw.
MAYBE_BILLED = frozenset({"timeout", "stream_broken", "malformed"})
# English text and code, over the tokenizers in use.
CHARS_PER_TOKEN = 4
BEAT_CHUNKS = 16  # looking at the clock for every chunk would be seen in its time
# How long a booking may keep the caller of a finished call waiting, at most and at least.
BOOKING_S, SHORTEST_BOOKING_S = 1.0, 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptOptions:
    """How one attempt goes.

    Attributes:
        until: When its target's time is up (the monotonic clock, seconds).
        streamed: Whether the answer is asked for as a stream.
        waited_s: How long it was waited before it.
        force: Ask although the target's circuit is open.
        change: What the recovery ladder changes of the request.
    """

    until: float
    streamed: bool
    waited_s: float = 0.0
    force: bool = False
    change: Change = UNCHANGED


class Attempt:
    """One attempt at one target.

    Attributes:
        credential: The key that was used; None before one was found.
        response: The whole answer, once it is sound and booked.
        verdict: What the validator says of it.
        refusal: The error that a refused answer is where other targets are there for that; else None.
        reader: What has arrived.
        streamed_s: For how long a stream had been flowing when it broke.
    """

    def __init__(self, state: RequestState, target: Target, options: AttemptOptions) -> None:
        self.state, self.runtime, self.target, self.options = state, state.runtime, target, options
        self.credential: Credential | None = None
        self.response: ChatResponse | None = None
        self.verdict: StreamVerdict | None = None
        self.refusal: CallError | None = None
        self.streamed_s = 0.0
        self._whole: Any = None
        self._deployment: str | None = None
        self._as_whole: Callable[[Mapping[str, Any]], dict[str, Any]] = dict
        self._usage: Any = None
        self._sent_at = 0.0
        self._first_at: float | None = None
        trace = state.trace
        self._row = AttemptTrace(
            n=len(trace.attempts) + 1, provider=target.provider, model=target.model, waited_s=options.waited_s
        )
        self._reservation = reservation_for(self.runtime, state.request, target, trace=trace, row=self._row)
        # Of a group, the guard inside the Router reserves, books and traces: attempt by attempt, after these.
        self._is_routed, self._rows_before = self.runtime.is_routed(target), len(trace.attempts)

    async def run(self) -> AsyncGenerator[StreamChunk, None]:
        """Yield the answer as it comes; the last chunk comes after the booking, so that its usage is final.

        Raises:
            CallError: The attempt failed; or the answer is a refusal, which was booked and is in `response`, and other
                targets are there for that.
            LimitReached, CircuitOpen, ContextDoesNotFitError, CredentialsError: Nothing was sent.
        """
        self._call = call = await self._prepare()
        self._sent_at = self.runtime.now()
        self.reader = AnswerReader(
            handler_for(self.runtime, self.state.request, call),
            provider=call.provider,
            model=call.model,
            prefix=self.options.change.prefix,
            keeps_chunks=self.runtime.cache.enabled and self.state.request.cache is not False,
        )
        failure: CallError | None = None
        try:
            async with aclosing(self._exchange(call)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except CallError as error:
            if error.code == CIRCUIT_OPEN:  # of the deployment that a Router chose
                raise CircuitOpen(str(error)) from None
            failure = error
            if isinstance(error, OUTPUT_INVALID):
                error.message_received = redact_value(message_of(self.answer))
            raise
        except LIMITS as refusal:  # of the guard inside a Router
            raise LimitReached(refusal, tuple(refusal.chain)) from None
        finally:
            # In a `finally`: a caller who was cancelled or has let go of the stream pays for what it used, too.
            await self._settle(failure or self.refusal)
        self.respond()
        if self.refusal is not None:
            raise self.refusal
        yield self.last_chunk()

    async def _prepare(self) -> Call:
        """Return the call, with the worst that it can cost reserved."""
        cap = self._reservation.cap(self.options.change.max_tokens)
        if self._is_routed:
            cap = replace(cap, send=self.options.change.max_tokens)
        else:
            await self._fetch_key()
        call = call_for(
            self.runtime,
            self.state.request,
            self.target,
            trace=self.state.trace,
            change=self.options.change,
            output_tokens=cap.send,
        )
        self.credential = call.credential
        if self._is_routed:
            self.state.note_overhead()
            return call
        try:
            async with asyncio.timeout_at(self.state.deadline):
                await self._reservation.take(call, cap, force=self.options.force)
        except TimeoutError as error:
            raise self.state.late(error) from None
        self.state.trace.attempts.append(self._row)
        self.state.note_overhead()
        return call

    async def _fetch_key(self) -> None:
        """Fetch a key from a program or the keychain off the event loop: that may take seconds."""
        credentials, target = self.runtime.credentials, self.target
        if target.group is None and credentials.is_slow(target.provider, model=target.model, params=target.params):
            await asyncio.to_thread(credentials.get, target.provider, model=target.model, params=target.params)

    async def _exchange(self, call: Call) -> AsyncGenerator[StreamChunk, None]:
        """Send the call, yield what its answer shows, and judge it. Raises CallError."""
        await self.runtime.use_settings()
        adapter, own_s = self.runtime.adapter(self.target), own_timeout_s(self.state.request)
        limit_s = own_s or timeout_s(self.runtime, self.target, streamed=self.options.streamed)
        until = min(self.options.until, self._sent_at + limit_s)
        if self.options.streamed:
            first = until if own_s else min(until, self._sent_at + first_token_s(self.runtime, self.target))
            handle = await self._in_time(self._on_account(adapter.open(call), first), first)
            try:
                async with aclosing(self._read(handle, first, own_s or self.runtime.config.deadline.idle_s)) as chunks:
                    async for chunk in chunks:
                        yield chunk
            finally:
                self._usage, self._as_whole = handle.usage(), handle.as_whole
                self._deployment = handle.hidden_params.get("model_id")
                await handle.aclose()
            ended_by = handle.ended_by()
            self.reader.take_aside(self.answer)
        else:
            self._whole = await self._in_time(self._on_account(adapter.complete(call), until), until)
            self._deployment = (getattr(self._whole, "_hidden_params", None) or {}).get("model_id")
            self._first_at = self.runtime.now()
            if self.state.streams:
                for shown in self.reader.take_whole(self._whole):
                    yield shown
            else:
                self.reader.read_whole(self._whole)
            self._usage, ended_by = _usage_in(self._whole), "terminal"
        verdict = self.reader.close(self._reported, ended_by)
        refusal = self.reader.require_sound(verdict)
        self.verdict, self.refusal = verdict, refusal if "content_policy" in self.state.redirects else None

    async def _on_account(self, answer: Awaitable[T], until: float) -> T:
        """Await an answer; a guard inside knows whose it is, until when, and where its attempts are traced."""
        request, state = self.state.request, self.state
        account = Account(
            request.project,
            request.session,
            state.trace,
            state.began,
            [],
            force=self.options.force,
            provider=self.target.provider if self._is_routed else None,
            until=until,
        )
        token = CALLER.set(account)
        try:
            return await answer
        finally:
            CALLER.reset(token)

    async def _in_time(self, answer: Awaitable[Any], until: float) -> Any:
        try:
            async with asyncio.timeout_at(until):
                return await answer
        except TimeoutError as error:  # raised below, without the context of LiteLLM's frames, which hold the key
            held = waited_for(error)  # by a guard inside
        raise self._late(f"no answer in time{f': waited for {held}' if held else ''}", code="no_response")

    async def _read(self, handle: StreamHandle, until: float, idle_s: float) -> AsyncGenerator[StreamChunk, None]:
        """Yield a stream's chunks. Keep-alives are no progress, everything else is."""
        beaten_at, number = self._sent_at, 0
        while True:
            try:
                async with asyncio.timeout_at(until):
                    chunk = await anext(handle, None)
            except TimeoutError:
                break
            if chunk is None:
                return
            if progress(chunk):
                now = self.runtime.now()
                self._first_at = self._first_at or now
                until = now + idle_s
            for shown in self.reader.take(chunk):
                yield shown
            number += 1
            if number % BEAT_CHUNKS == 0 and self.runtime.now() - beaten_at > self.runtime.ledger.ttl_s / 3:
                beaten_at = self.runtime.now()
                await self._reservation.keep_alive()
        if self._first_at is None:
            raise self._late("no first token in time", code="first_token")
        self.streamed_s -= idle_s  # waiting for nothing is no time of streaming
        text = f"{self.reader.name}: nothing came for {idle_s:g} s"
        raise StreamBrokenError(text, code="stalled", **self.reader.who)

    def _late(self, what: str, *, code: str) -> CallError:
        return CallError(f"{self.reader.name}: {what}", category="timeout", code=code, **self.reader.who)

    async def _settle(self, failure: CallError | None) -> None:
        """Book what the attempt took. Without a verdict or a failure, its caller has left."""
        if self._is_routed:
            self._judge_inner(failure)
            return
        now, row = self.runtime.now(), self._row
        category = failure.category if failure else None if self.verdict else ABANDONED
        row.category, row.at_s = category, round(self._sent_at - self.state.began, 6)
        row.duration_s = round(now - self._sent_at, 6)
        row.ttft_s = None if self._first_at is None else round(self._first_at - self._sent_at, 6)
        self.streamed_s += 0.0 if self._first_at is None else now - self._first_at
        if failure is not None:
            row.status, row.code, row.address, row.said = failure.status, failure.code, failure.address, failure.said
            row.tokens_saved = getattr(getattr(failure, "verdict", None), "tokens_saved", None)
        outcome = self._outcome(category, latency_s=row.duration_s)
        self._reservation.note(outcome)
        self._tell(outcome)
        within_s = max(SHORTEST_BOOKING_S, min(BOOKING_S, self.state.deadline - now))
        await self.runtime.book(self._reservation.settle(outcome, failure), within_s=within_s)

    def _judge_inner(self, failure: CallError | None) -> None:
        """Note in the last attempt's row what only we found wrong with its answer."""
        self.streamed_s += 0.0 if self._first_at is None else self.runtime.now() - self._first_at
        rows = self.state.trace.attempts[self._rows_before :]
        if failure is not None and rows and rows[-1].category is None:
            rows[-1].category, rows[-1].code = failure.category, failure.code

    def _outcome(self, category: str | None, *, latency_s: float) -> Outcome:
        """Return what was taken: nothing where the provider refused, else what it says, or what was seen."""
        timed, is_answer = Outcome(category=category, latency_s=latency_s, ttft_s=self._row.ttft_s), bool(self.verdict)
        if not is_answer and category != ABANDONED and category not in MAYBE_BILLED:
            return timed._replace(cost_usd=0.0)
        reported = self._reported
        if reported and self._call.counted_tokens:  # how far our counts fall short, for the next request's window
            self.runtime.margins.learn(self._call.model, self._call.counted_tokens, reported.prompt_tokens)
        usage = reported or estimated(self._call, self.reader.seen_chars)
        answer = self.answer if is_answer else None
        cost_usd = self._reservation.cost_usd(usage, call=self._call, answer=answer, seconds=latency_s)
        return timed._replace(usage=usage, cost_usd=cost_usd, maybe_billed=not is_answer)

    @cached_property
    def _reported(self) -> UsageInfo | None:
        """The provider's usage; asked for only once it is known."""
        return usage_info(self._usage)

    @property
    def answer(self) -> Any:
        """LiteLLM's whole answer: as it came, or merged from its chunks (then in JSON's types)."""
        if self._whole is None:
            self._whole = self._as_whole(self.reader.merged(self._usage))
        return self._whole

    def last_chunk(self) -> StreamChunk:
        """Return the one chunk with `is_done`."""
        assert self.response is not None  # noqa: S101 - it comes behind the response
        return self.reader.final_chunk(self.response.usage, self.response.tool_calls)

    def respond(self) -> ChatResponse:
        """Return the whole answer, with the trace as it stands now."""
        call, verdict, trace, row = self._call, self.verdict, self.state.trace, self._row
        assert verdict is not None  # noqa: S101 - an exchange that ends well has judged its answer
        model, cost_usd = call.model, row.cost_usd
        if self._is_routed:
            rows = trace.attempts[self._rows_before :]
            model = rows[-1].model if rows else model
            known = [each.cost_usd for each in rows if each.cost_usd is not None]
            cost_usd = sum(known) if known else None
        trace.served_by = f"{call.provider}/{model}"
        usage = self._reported or estimated(self._call, self.reader.seen_chars)
        priced = with_raw(usage.model_copy(update={"estimated_cost": cost_usd}), usage.raw)
        self.response = response_of(
            self.answer,
            provider=call.provider,
            model=model,
            content=verdict.text if verdict.structured is None else verdict.structured,
            tool_calls=verdict.tool_calls,
            usage=priced,
            metadata={"trace": trace.to_dict(), "cached": False, "deployment": self._deployment},
        )
        return self.response

    def _tell(self, outcome: Outcome) -> None:
        """Say how the attempt ended, to whoever listens."""
        if not self.runtime.audience:
            return
        how = {None: "succeeded", ABANDONED: "abandoned"}.get(outcome.category, "failed")
        usage = outcome.usage or UsageInfo()
        tokens = {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}
        facts = {**self._row.facts(), **tokens, "trace_id": self.state.trace.id}
        self.runtime.tell(f"attempt.{how}", level="warning" if how == "failed" else "info", **facts)


def _usage_in(answer: Any) -> Any:
    return answer.get("usage") if isinstance(answer, dict) else getattr(answer, "usage", None)


def estimated(call: Call, seen_chars: int) -> UsageInfo:
    """Return a usage from the lengths of request and answer, for a provider that sent none."""
    prompt = sum(message_tokens(message) for message in call.messages)
    completion = -(-seen_chars // CHARS_PER_TOKEN)
    return UsageInfo(
        prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion, source="estimated"
    )
