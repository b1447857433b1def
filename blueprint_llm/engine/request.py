"""One request from top to bottom: route, cache, attempts at each target, and the answer.

`RequestRun.chunks` is the whole story; a whole answer is a stream whose last chunk is all that is read.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

from blueprint_llm.config.secrets import protect
from blueprint_llm.engine import otel
from blueprint_llm.engine.attempt import Attempt
from blueprint_llm.engine.cached import KeptAnswer, entry_of, key_for, replay
from blueprint_llm.engine.fallback import FallbackManager, plan
from blueprint_llm.engine.prepare import first_token_s, own_timeout_s
from blueprint_llm.engine.reservation import CircuitOpen, LimitReached
from blueprint_llm.engine.runtime import RequestState
from blueprint_llm.errors import (
    BlueprintError,
    CallError,
    ContextDoesNotFitError,
    CredentialsError,
    DeadlineExceededError,
    InvalidRequestError,
)
from blueprint_llm.policy.retry import UNCHANGED, Fail, Retry
from blueprint_llm.trace import Trace
from blueprint_llm.types import StreamChunk
from blueprint_llm.usage.stores.records import ABANDONED
from blueprint_llm.usage.traces import keep_trace

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from blueprint_llm.cache import Entry
    from blueprint_llm.engine.runtime import Runtime
    from blueprint_llm.policy.retry import Change, Decision
    from blueprint_llm.routing.rules import Route
    from blueprint_llm.routing.targets import Target
    from blueprint_llm.types import ChatRequest, ChatResponse

# Why nothing is sent to a target: a limit, its circuit, its window, its key.
REFUSALS = (LimitReached, CircuitOpen, ContextDoesNotFitError, CredentialsError)


class RequestRun:
    """One request on its way. Raises InvalidRequestError.

    Attributes:
        response: The whole answer, once its last chunk is out.
    """

    def __init__(self, request: ChatRequest, runtime: Runtime, *, stream: bool) -> None:
        if request.params.get("stream") and not stream:
            raise InvalidRequestError("chat answers in one piece: call client.stream(...) for a stream")
        if request.params:  # a key among a call's keywords is as secret as one from a file
            request = request.model_copy(update={"params": protect("", request.params)})
        self.request, self.runtime = request, runtime
        self.response: ChatResponse | None = None
        self._output = _Output()
        self._refused: tuple[Attempt, int | None] | None = None
        trace = Trace(id=runtime.new_id(), policy_hash=runtime.config.digest)
        self.state = RequestState(runtime=runtime, request=request, trace=trace, streams=stream)

    async def answer(self) -> ChatResponse:
        """Return the whole answer. Raises BlueprintError with the trace."""
        async with aclosing(self.chunks()) as chunks:
            async for _ in chunks:
                pass
        assert self.response is not None  # noqa: S101 - without an answer the chunks end in an error
        return self.response

    async def chunks(self) -> AsyncGenerator[StreamChunk, None]:
        """Yield the answer as it comes. Raises BlueprintError with the trace."""
        state, request, failure = self.state, self.request, ABANDONED
        total_s = self.runtime.config.deadline.total_s
        state.start(request.deadline_s or max(total_s, own_timeout_s(request) or 0.0))
        self.runtime.ratio.record_call(state.began)
        try:
            route = await self._route()
            async with aclosing(self._follow(route)) as chunks:
                async for chunk in chunks:
                    for shown in self._output.of(chunk):
                        yield shown
            failure = ""
        except BlueprintError as error:
            failure = type(error).__name__
            error.trace = state.trace.to_dict()
            raise
        finally:
            self._tell(failure)

    async def _route(self) -> Route:
        try:
            async with asyncio.timeout_at(self.state.deadline if self.runtime.config.routes else None):
                route = await plan(self.runtime, self.request)
        except TimeoutError as error:
            raise self.state.late(error) from None
        self.state.trace.set_route(route.rule, route.chain, route.considered)
        self.state.redirects = frozenset(name for name, targets in route.on_failure.items() if targets)
        return route

    async def _follow(self, route: Route) -> AsyncGenerator[StreamChunk, None]:
        """Ask one target after another until one answers."""
        trace, age_s = self.state.trace, self.request.cache_ttl_s
        fallback = FallbackManager(route, self.state)
        for target in fallback:
            key = key_for(self.runtime, self.request, target)
            trace.cache = {"hit": False, "key": key}
            # Looked up before anything is reserved: a hit costs nothing, so no limit may refuse it.
            async with KeptAnswer(self.runtime, key, {"ttl": age_s, "s-maxage": age_s}, owner=trace.id) as kept:
                entry = await kept.find(self._patience(target, fallback.until())) if key else None
                if entry is not None:
                    response, replayed = await replay(self.state, target, entry)
                    for chunk in replayed:
                        self.response = response if chunk.is_done else None
                        yield chunk
                    return
                async with aclosing(self._ask(target, fallback)) as chunks:
                    async for chunk in chunks:
                        if chunk.is_done and key is not None:  # kept before the last chunk lets the caller go
                            await kept.keep(self._entry())
                        with kept.handing_over():
                            yield chunk
            if self.response is not None:
                return
        if self._refused is None:
            raise fallback.final_error()
        for chunk in self._hand_over(*self._refused):
            yield chunk

    def _patience(self, target: Target, until: float) -> float:
        """Return until when an identical call is waited for: there must be time for the target's own first token."""
        now = self.runtime.now()
        return max(now + (until - now) / 2, until - min(until, first_token_s(self.runtime, target)))

    def _entry(self) -> Entry | None:
        """Return what the cache may keep of a finished, valid answer."""
        response, answer = self._attempt.response, self._attempt.answer
        return entry_of(response, answer, at=self.runtime.clock()) if response is not None else None

    def _hand_over(self, attempt: Attempt, place: int | None) -> Iterator[StreamChunk]:
        """Yield the end of a refused answer: it is an answer, and nobody who was there for it had another one."""
        self.response = response = attempt.respond()
        if not self._output.return_to(place) and (response.content or response.reasoning):
            yield attempt.reader.chunk(delta=response.content, reasoning=response.reasoning or "")
        yield attempt.last_chunk()

    async def _load(self, target: Target) -> None:
        """Import LiteLLM off the event loop where it is not yet: once, for seconds that nobody counts."""
        adapter = self.runtime.adapter(target)
        if not adapter.ready:
            began = self.runtime.now()
            await asyncio.to_thread(adapter.load)
            self.state.extend(self.runtime.now() - began)

    async def _ask(self, target: Target, fallback: FallbackManager) -> AsyncGenerator[StreamChunk, None]:
        """Attempt one target until it answers or something else is wiser."""
        await self._load(target)
        until, change, waited_s = fallback.until(), UNCHANGED, 0.0
        while True:
            self._attempt = attempt = Attempt(
                self.state, target, until=until, change=change, waited_s=waited_s, force=fallback.force
            )
            try:
                async with aclosing(attempt.run()) as chunks:
                    async for chunk in chunks:
                        self.response = attempt.response
                        yield chunk
            except REFUSALS as refusal:
                fallback.refuse(target, refusal)
                return
            except CallError as error:
                if isinstance(error, DeadlineExceededError):  # a lock outlasted the call: no other target can help
                    raise
                if attempt.response is not None:
                    self._refused = attempt, self._output.place
                # What was streamed is not the call's own time: the deadline counts up to the first delta, and waits.
                self.state.extend(attempt.streamed_s)
                until += attempt.streamed_s
                change, decision = fallback.after(attempt, error, until=until)
                if self._is_broken_off(error, change, decision):
                    decision = Fail()
            else:
                return
            if not isinstance(decision, Retry):
                fallback.leave(decision)
                return
            waited_s = decision.wait_s
            await self.runtime.sleep(waited_s)

    def _is_broken_off(self, error: CallError, change: Change, decision: Decision) -> bool:
        """Note that what was shown is void unless it is continued. Return True if nothing may come in its place."""
        continues = isinstance(decision, Retry) and bool(change.prefix)
        is_void = self.state.streams and not continues and self._output.void(error)
        return is_void and self.runtime.config.streaming.on_break == "fail"

    def _tell(self, failure: str) -> None:
        """Say how the call ended, to whoever listens. `failure` is empty for an answer, else an error's name."""
        trace, tell, took_s = self.state.trace, self.runtime.tell, self.runtime.now() - self.state.began
        keep_trace(trace, failure)
        if self.runtime.audience:
            for row in trace.passed_over():
                facts = {name: row[name] for name in ("provider", "model", "reason")}
                tell("target.skipped", trace_id=trace.id, **facts)
            how = {"": "answered", ABANDONED: "abandoned"}.get(failure, "failed")
            facts = {"trace_id": trace.id, "served_by": trace.served_by, "duration_s": round(took_s, 6)}
            if how == "failed":
                tell("call.failed", level="warning", **facts, error=failure)
            else:
                tell(f"call.{how}", **facts)
        if otel.listened():
            otel.record_call(self.request, trace, duration_s=took_s, response=self.response, error=failure or None)


class _Output:
    """What the caller of a stream was shown; a restart is announced right before the first chunk of the new try.

    Only then is it sure that the trouble was recovered: an error is either in a chunk or raised, never both.
    """

    def __init__(self) -> None:
        self._has_shown, self._restarts = False, 0
        self._void: BlueprintError | None = None

    def void(self, error: BlueprintError) -> bool:
        """Note that what was shown is void because of `error`. Return False if nothing was."""
        if self._has_shown:
            self._void = error
        return self._has_shown

    @property
    def place(self) -> int | None:
        """Where the output is: after how many restarts; None while what it shows is void."""
        return None if self._void else self._restarts

    def return_to(self, place: int | None) -> bool:
        """Let what was shown at `place` stand after all. Return False if it is not what is shown."""
        if self._restarts == place:
            self._void = None
        return self._restarts == place

    def of(self, chunk: StreamChunk) -> Iterator[StreamChunk]:
        """Yield `chunk`, behind the announcement that what came before it is void."""
        if self._void is not None:
            yield StreamChunk(error=self._void, restart=True, provider=chunk.provider, model=chunk.model)
            self._void, self._restarts = None, self._restarts + 1
        self._has_shown = True
        yield chunk
