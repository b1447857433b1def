"""One LiteLLM call: reserve, send, read, and settle whatever happened.

What goes wrong leaves as a CallError, after the upstream was closed and what was used was booked.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from blueprint_llm.adapters.router import CIRCUIT_OPEN
from blueprint_llm.adapters.views import message_of, response_of
from blueprint_llm.engine.prepare import call_for, first_token_s, handler_for, own_timeout_s, timeout_s
from blueprint_llm.engine.reader import Answer, AnswerReader
from blueprint_llm.engine.reservation import BOOKING_S, CircuitOpen, LimitReached, estimated, reservation_for
from blueprint_llm.errors import (
    AnswerInvalidError,
    BudgetExceededError,
    CallError,
    NoTargetError,
    QuotaExceededError,
    StreamBrokenError,
    ToolCallInvalidError,
)
from blueprint_llm.policy.retry import UNCHANGED, Change
from blueprint_llm.redaction import redact_value
from blueprint_llm.streaming.chunks import progress
from blueprint_llm.trace import CALLER, Account, AttemptTrace
from blueprint_llm.types import with_raw
from blueprint_llm.usage.stores import waited_for

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable

    from blueprint_llm.adapters import Call, StreamHandle
    from blueprint_llm.credentials import Credential
    from blueprint_llm.engine.runtime import RequestState
    from blueprint_llm.routing.targets import Target
    from blueprint_llm.streaming import StreamVerdict
    from blueprint_llm.types import ChatResponse, StreamChunk, UsageInfo

LIMITS = (BudgetExceededError, QuotaExceededError, NoTargetError)
OUTPUT_INVALID = (ToolCallInvalidError, AnswerInvalidError)
# How long a booking may keep the caller of a finished call waiting, at least.
SHORTEST_BOOKING_S = 0.1


class Attempt:
    """One attempt at one target.

    Args:
        state: The request.
        target: Who is asked.
        until: When its time is up (the monotonic clock, seconds).
        change: What the recovery ladder changes of the request.
        waited_s: How long it was waited before.
        force: Ask although the target's circuit is open.

    Attributes:
        credential: The key that was used; None before one was found.
        answer: What has come of LiteLLM's own.
        response: The whole answer, once it is sound and booked.
        refusal: The error that a refused answer is where other targets are there for that; else None.
        reader: Reads the answer.
        streamed_s: For how long a stream had been flowing when it broke.
    """

    def __init__(
        self,
        state: RequestState,
        target: Target,
        *,
        until: float,
        change: Change = UNCHANGED,
        waited_s: float = 0.0,
        force: bool = False,
    ) -> None:
        self.state, self.runtime, self.target = state, state.runtime, target
        self.change, self._until, self._force = change, until, force
        self._streamed = state.streams and change.streamed
        self.credential: Credential | None = None
        self.response: ChatResponse | None = None
        self.refusal: CallError | None = None
        self.streamed_s = 0.0
        self._deployment: str | None = None
        self._verdict: StreamVerdict | None = None
        self._usage: UsageInfo | None = None
        self._sent_at = 0.0
        self.answer = Answer()
        self.answer.as_whole = dict
        trace, n = state.trace, len(state.trace.attempts) + 1
        self._row = AttemptTrace(n=n, provider=target.provider, model=target.model, waited_s=waited_s)
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
        self._row.at_s = round(self._sent_at - self.state.began, 6)
        self.reader = self.answer.reader = AnswerReader(
            handler_for(self.runtime, self.state.request, call),
            provider=call.provider,
            model=call.model,
            prefix=self.change.prefix,
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
                error.message_received = redact_value(message_of(self.answer.whole()))
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
        cap = self._reservation.cap(self.change.max_tokens)
        if self._is_routed:
            cap = replace(cap, send=self.change.max_tokens)
        else:
            await self._fetch_key()
        call = call_for(self.state, self.target, change=self.change, output_tokens=cap.send)
        self.credential = call.credential
        if not self._is_routed:
            try:
                async with asyncio.timeout_at(self.state.deadline):
                    await self._reservation.take(call, cap, force=self._force)
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
        limit_s = own_s or timeout_s(self.runtime, self.target, streamed=self._streamed)
        until = min(self._until, self._sent_at + limit_s)
        if self._streamed:
            first = until if own_s else min(until, self._sent_at + first_token_s(self.runtime, self.target))
            if not self._is_routed:
                self._reservation.stay()  # what is streamed is not the call's own time, so no deadline bounds it
            handle = await self._answered(adapter.open(call), first)
            try:
                async with aclosing(self._read(handle, first, own_s or self.runtime.config.deadline.idle_s)) as chunks:
                    async for chunk in chunks:
                        yield chunk
            finally:
                self.answer.told, self.answer.as_whole = handle.usage(), handle.as_whole
                self._deployment = handle.hidden_params.get("model_id")
                await handle.aclose()
            ended_by = handle.ended_by()
            self.reader.take_aside(self.answer.whole())
        else:
            whole = await self._answered(adapter.complete(call), until)
            self.answer.came, self.answer.told = whole, _part(whole, "usage")
            self._deployment = (_part(whole, "_hidden_params") or {}).get("model_id")
            self.answer.first_at = self.runtime.now()
            if self.state.streams:
                for shown in self.reader.take_whole(whole):
                    yield shown
            else:
                self.reader.read_whole(whole)
            ended_by = "terminal"
        self._verdict, refusal = self.answer.judge(ended_by)
        self.refusal = refusal if "content_policy" in self.state.redirects else None

    async def _answered(self, answer: Awaitable[Any], until: float) -> Any:
        """Await an answer; a guard inside knows whose it is, until when, and where its attempts are traced."""
        request, state = self.state.request, self.state
        account = Account(
            request.project,
            request.session,
            state.trace,
            state.began,
            [],
            force=self._force,
            provider=self.target.provider if self._is_routed else None,
            until=until,
        )
        token = CALLER.set(account)
        try:
            async with asyncio.timeout_at(until):
                return await answer
        except TimeoutError as error:  # raised below, without the context of LiteLLM's frames, which hold the key
            held = waited_for(error)  # by a guard inside
        finally:
            CALLER.reset(token)
        raise self._late(f"no answer in time{f': waited for {held}' if held else ''}", code="no_response")

    async def _read(self, handle: StreamHandle, until: float, idle_s: float) -> AsyncGenerator[StreamChunk, None]:
        """Yield a stream's chunks. Keep-alives are no progress, everything else is."""
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
                self.answer.first_at = self.answer.first_at or now
                until = now + idle_s
            for shown in self.reader.take(chunk):
                yield shown
        if self.answer.first_at is None:
            raise self._late("no first token in time", code="first_token")
        self.streamed_s -= idle_s  # waiting for nothing is no time of streaming
        text = f"{self.reader.name}: nothing came for {idle_s:g} s"
        raise StreamBrokenError(text, code="stalled", **self.reader.who)

    def _late(self, what: str, *, code: str) -> CallError:
        return CallError(f"{self.reader.name}: {what}", category="timeout", code=code, **self.reader.who)

    async def _settle(self, failure: CallError | None) -> None:
        """Book what the attempt took. Without a verdict or a failure, its caller has left."""
        now, answer = self.runtime.now(), self.answer
        self.streamed_s += 0.0 if answer.first_at is None else now - answer.first_at
        if not self._is_routed:
            within_s = max(SHORTEST_BOOKING_S, min(BOOKING_S, self.state.deadline - now))
            took = await self._reservation.settle(
                answer, failure, left=not (failure or self._verdict), since=self._sent_at, within_s=within_s
            )
            self._usage = took.usage
        elif failure is not None:  # booked inside; only what we alone found wrong is noted
            rows = self.state.trace.attempts[self._rows_before :]
            if rows and rows[-1].category is None:
                rows[-1].category, rows[-1].code = failure.category, failure.code

    def last_chunk(self) -> StreamChunk:
        """Return the one chunk with `is_done`."""
        assert self.response is not None  # noqa: S101 - it comes behind the response
        return self.reader.final_chunk(self.response.usage, self.response.tool_calls)

    def respond(self) -> ChatResponse:
        """Return the whole answer, with the trace as it stands now."""
        call, verdict, trace, row = self._call, self._verdict, self.state.trace, self._row
        assert verdict is not None  # noqa: S101 - an exchange that ends well has judged its answer
        model, cost_usd = call.model, row.cost_usd
        if self._is_routed:
            rows = trace.attempts[self._rows_before :]
            model = rows[-1].model if rows else model
            known = [each.cost_usd for each in rows if each.cost_usd is not None]
            cost_usd = sum(known) if known else None
        trace.served_by = f"{call.provider}/{model}"
        usage = self._usage or self.answer.usage or estimated(call, self.answer.seen_chars)
        priced = with_raw(usage.model_copy(update={"estimated_cost": cost_usd}), usage.raw)
        self.response = response_of(
            self.answer.whole(),
            provider=call.provider,
            model=model,
            content=verdict.text if verdict.structured is None else verdict.structured,
            tool_calls=verdict.tool_calls,
            usage=priced,
            metadata={"trace": trace.to_dict(), "cached": False, "deployment": self._deployment},
        )
        return self.response


def _part(answer: Any, name: str) -> Any:
    return answer.get(name) if isinstance(answer, dict) else getattr(answer, name, None)
