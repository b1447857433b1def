"""One target's answer from the response cache: found, waited for while somebody fetches it, or fetched and kept."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from blueprint_llm.adapters.merge import as_delta
from blueprint_llm.adapters.views import response_of
from blueprint_llm.cache import Entry, Facts, storable
from blueprint_llm.config.secrets import protect
from blueprint_llm.engine.prepare import first_token_s, params_for
from blueprint_llm.engine.reader import AnswerReader
from blueprint_llm.errors import StoreError
from blueprint_llm.streaming import StreamingHandler
from blueprint_llm.usage.money import nano
from blueprint_llm.usage.stores.records import AttemptRow

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence

    from blueprint_llm.cache import Flight
    from blueprint_llm.engine.attempt import Attempt
    from blueprint_llm.engine.runtime import Runtime
    from blueprint_llm.engine.state import RequestState
    from blueprint_llm.routing.targets import Target
    from blueprint_llm.trace import Trace
    from blueprint_llm.types import ChatRequest, ChatResponse, StreamChunk


def key_for(runtime: Runtime, request: ChatRequest, target: Target) -> str | None:
    """Return what the answer of `target` to `request` is kept under, if it may be; no secret is revealed for it."""
    if not runtime.cache.enabled or request.cache is False:
        return None
    tools = [tool.to_dict() for tool in request.tools or ()]
    own = protect("", request.params) if request.params else {}
    context = [part.model_dump() for part in request.context]
    checked = runtime.config.streaming.validate_tools and request.check_answer
    facts = Facts(
        model=target.model,
        account=account_of(runtime, target),
        project=request.project,
        messages=[message.to_dict() for message in request.messages],
        params={**params_for(runtime, request, target, tools, None), **own},
        options=(context, target.max_context_tokens, target.share_codebase, checked),
    )
    return runtime.cache.key_of(facts)


def account_of(runtime: Runtime, target: Target) -> tuple[Any, ...]:
    """Return what stands in a cache key for where a target's answers come from; of a group, all of its deployments."""
    own = runtime.credentials.account(target.provider, model=target.model, params=target.params)
    deployments = runtime.table.deployments(target)
    return (*own, [[each.model, protect("", each.params)] for each in deployments]) if deployments else own


class CachedAnswer:
    """One caller's turn at one key.

    Args:
        key: None: the cache has nothing to do with this request.

    Attributes:
        response: The kept answer, once it was replayed.
    """

    def __init__(self, state: RequestState, target: Target, key: str | None, *, streams: bool) -> None:
        self.state, self.runtime, self.target, self.key, self.streams = state, state.runtime, target, key, streams
        self.response: ChatResponse | None = None
        self._flight: Flight | None = None

    @asynccontextmanager
    async def flight(self, until: float) -> AsyncIterator[Entry | None]:
        """Give the kept answer, waited for where an identical call is on its way; None: fetch it in this block.

        Waiting ends while there is still time for the target's own first token, at least for half of what is left.
        """
        if self.key is None:
            yield None
            return
        cache, max_age_s = self.runtime.cache, self.state.request.cache_ttl_s
        if entry := await cache.lookup(self.key, max_age_s=max_age_s):
            yield entry
            return
        now = self.runtime.now()
        patience = max(now + (until - now) / 2, until - min(until, first_token_s(self.runtime, self.target)))
        async with cache.flight(self.key, owner=self.state.trace.id, until=patience, max_age_s=max_age_s) as flight:
            self._flight = flight
            yield flight.entry

    @contextmanager
    def handing_over(self) -> Iterator[None]:
        """Let the lease rest while the caller has a chunk in hand: how long that takes is up to the caller."""
        if self._flight is None:
            yield
            return
        self._flight.pause()
        try:
            yield
        finally:
            self._flight.resume()

    async def keep(self, attempt: Attempt) -> None:
        """Keep a finished, valid answer."""
        if self.key is None or attempt.response is None or attempt.verdict is None:
            return
        whole, verdict = as_json(attempt.answer), attempt.verdict
        if not storable(whole, status=verdict.status, ended_by=verdict.ended_by):
            return
        entry = entry_of(attempt.response, whole, attempt.reader.chunks, at=self.runtime.clock())
        await self.runtime.cache.keep(self.key, entry, ttl_s=self.state.request.cache_ttl_s)

    async def replay(self, entry: Entry) -> AsyncGenerator[StreamChunk, None]:
        """Yield the kept answer as this target's; what it saved is counted, nothing is reserved."""
        trace, target = self.state.trace, self.target
        trace.cache["hit"] = True
        trace.served_by = f"{target.provider}/{target.model}"
        self.state.note_overhead()
        await self._count(entry)
        reader = AnswerReader(StreamingHandler(), provider=target.provider, model=target.model)
        if self.streams:
            for chunk in entry.chunks or (as_delta(entry.whole),):
                for shown in reader.take(chunk):
                    yield shown
        self.response = response_of(
            entry.whole,
            provider=target.provider,
            model=target.model,
            content=entry.content,
            tool_calls=entry.tool_calls,
            usage=entry.usage,
            metadata={"trace": trace.to_dict(), "cached": True, "deployment": target.deployment or None},
        )
        yield reader.final_chunk(entry.usage, entry.tool_calls)

    async def _count(self, entry: Entry) -> None:
        request = self.state.request
        await count_hit(
            self.runtime, self.target, entry, trace=self.state.trace, session=request.session, project=request.project
        )


def entry_of(response: ChatResponse, whole: dict[str, Any], chunks: Sequence[Any], *, at: float) -> Entry:
    """Return what is kept of an answer: itself as JSON, as it came, and what a hit shows of it without LiteLLM."""
    usage = response.usage
    return Entry(
        whole=whole,
        chunks=tuple(map(as_json, chunks)),
        content=response.content,
        finish_reason=response.finish_reason,
        tool_calls=tuple(response.tool_calls),
        usage=usage and usage.model_copy(update={"estimated_cost": 0.0}),
        message=response.message,
        reasoning=response.reasoning,
        saved_nano=nano(usage.estimated_cost) if usage and usage.estimated_cost is not None else None,
        at=at,
    )


async def count_hit(
    runtime: Runtime, target: Target, entry: Entry, *, trace: Trace, session: str | None, project: str | None
) -> None:
    """Record that a call was answered from the cache, and what that saved."""
    row = AttemptRow(
        id=f"{trace.id}-cache",
        call_id=trace.id,
        provider=target.provider,
        model=target.model,
        session=session,
        project=project,
        cost_nano=0,
        cache_hit=True,
        saved_nano=entry.saved_nano or 0,
        trace_id=trace.id,
    )
    try:
        await runtime.store.record(row)
    except StoreError as error:  # an answer that is there and costs nothing is not withheld for a statistic
        runtime.tell("usage.lost", level="warning", reason=str(error))


def as_json(said: Any) -> dict[str, Any]:
    """Return an object of LiteLLM's as JSON values."""
    return said if isinstance(said, dict) else said.model_dump(mode="json", warnings=False)


async def lookup(runtime: Runtime, request: ChatRequest, target: Target) -> Any:
    """Return what a target would find in the cache: `hit`, `miss`, or `off`."""
    key = key_for(runtime, request, target)
    if key is None:
        return "off"
    return "hit" if await runtime.cache.lookup(key, max_age_s=request.cache_ttl_s) else "miss"
