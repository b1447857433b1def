"""The response cache around one call: what its answer is kept under, its turn at that key, and the answer replayed."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

from blueprint_llm.adapters.merge import as_delta
from blueprint_llm.adapters.views import response_of
from blueprint_llm.cache import Entry, Facts, storable
from blueprint_llm.config.secrets import protect
from blueprint_llm.engine.prepare import params_for
from blueprint_llm.engine.reader import AnswerReader
from blueprint_llm.errors import StoreError
from blueprint_llm.secret import Secret
from blueprint_llm.streaming import StreamingHandler
from blueprint_llm.usage.money import nano
from blueprint_llm.usage.stores.records import AttemptRow

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from blueprint_llm.cache import Flight
    from blueprint_llm.engine.reader import Answer
    from blueprint_llm.engine.runtime import RequestState, Runtime
    from blueprint_llm.routing.targets import Target
    from blueprint_llm.trace import Trace
    from blueprint_llm.types import ChatRequest, ChatResponse, StreamChunk

# Keywords that are LiteLLM's own business or the deployment's: they change who is asked, not what is answered.
CARRIED = frozenset(
    {
        *("model", "messages", "api_key", "api_base", "base_url", "client", "shared_session", "model_info", "id"),
        *("litellm_logging_obj", "litellm_session_id", "litellm_request_debug", "proxy_server_request"),
        *("rpm", "tpm", "max_parallel_requests", "max_budget", "budget_duration", "weight", "order", "ttl"),
        *("use_in_pass_through", "use_litellm_proxy", "use_xai_oauth", "merge_reasoning_content_in_choices"),
        *("allow_client_keepalive_override", "turn_off_message_logging", "guardrails", "extra_headers", "headers"),
        *("fallbacks", "fallback_depth", "max_fallbacks", "attempted_targets", "model_file_id_mapping"),
        "secret_fields",
    }
)


def key_for(runtime: Runtime, request: ChatRequest, target: Target) -> str | None:
    """Return what the answer of `target` to `request` is kept under, if it may be; no secret is revealed for it."""
    if not runtime.cache.enabled or request.cache is False:
        return None
    tools = [tool.to_dict() for tool in request.tools or ()]
    own = protect("", request.params) if request.params else {}
    context = [part.model_dump() for part in request.context]
    checked = runtime.config.streaming.validate_tools and request.check_answer
    account: tuple[Any, ...] = runtime.credentials.account(target.provider, model=target.model, params=target.params)
    if deployments := runtime.table.deployments(target):  # any of a group's may answer
        account = (*account, [[each.model, protect("", each.params)] for each in deployments])
    facts = Facts(
        model=target.model,
        account=account,
        project=request.project,
        messages=[message.to_dict() for message in request.messages],
        params={**params_for(runtime, request, target, tools, None), **own},
        options=(context, target.max_context_tokens, target.share_codebase, checked),
    )
    return runtime.cache.key_of(facts)


def key_of_call(runtime: Runtime, target: Target, keywords: Mapping[str, Any], *, project: str | None) -> str | None:
    """Return what the answer to a chat of LiteLLM's own is kept under, if it may be."""
    is_declined = keywords.get("caching") is False and not keywords.get("model_info")  # the Router says so always
    if not runtime.cache.enabled or keywords.get("mock_response") is not None or is_declined:
        return None
    own = keywords.get("api_key")
    if isinstance(own, str):
        account: tuple[Any, ...] = (Secret(own), keywords.get("api_base"), {})
    else:
        account = runtime.credentials.account(target.provider, model=target.model, params=target.params)
    facts = Facts(
        model=target.model,
        account=account,
        project=project,
        messages=list(keywords.get("messages") or ()),
        params={
            name: value
            for name, value in keywords.items()
            if not (name in CARRIED or name.startswith(("_", "litellm_")) or "cost" in name)
        },
        options=(runtime.config.streaming.validate_tools,),
    )
    return runtime.cache.key_of(facts)


class KeptAnswer:
    """One call's turn at its key: it finds the answer, or fetches it while identical calls wait.

    Args:
        runtime: Whose cache it is.
        key: None: the cache has nothing to do with this call.
        controls: LiteLLM's `cache={...}` of the call: `no-cache`, `no-store`, `ttl`, `s-maxage`.
        owner: Names the caller among all processes.
    """

    def __init__(self, runtime: Runtime, key: str | None, controls: Any, *, owner: str) -> None:
        self.runtime, self.key, self._owner = runtime, key, owner
        self._controls: Mapping[str, Any] = controls if isinstance(controls, dict) else {}
        self._turn: AbstractAsyncContextManager[Flight] | None = None
        self._flight: Flight | None = None

    async def find(self, until: float | None = None) -> Entry | None:
        """Return the kept answer, waited for where an identical call is on its way; None: fetch it, then `leave`."""
        if self.key is None or self._controls.get("no-cache"):
            return None
        cache, max_age_s = self.runtime.cache, self._controls.get("s-maxage", self._controls.get("s-max-age"))
        if entry := await cache.lookup(self.key, max_age_s=max_age_s):
            return entry
        until = until or self.runtime.now() + self.runtime.config.deadline.total_s / 2
        turn = cache.flight(self.key, owner=self._owner, until=until, max_age_s=max_age_s)
        self._flight = await turn.__aenter__()
        self._turn = turn
        return self._flight.entry

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

    async def keep(self, entry: Entry | None) -> None:
        """Keep what was fetched, if it may be kept."""
        if self.key is not None and entry is not None and not self._controls.get("no-store"):
            await self.runtime.cache.keep(self.key, entry, ttl_s=self._controls.get("ttl"))

    async def leave(self, entry: Entry | None) -> None:
        """Keep what was fetched, if it may be kept, and let those who wait go on."""
        await self.keep(entry)
        await self.__aexit__(None, None, None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        turn, self._turn = self._turn, None
        if turn is not None:
            await turn.__aexit__(kind, error, where)


async def replay(state: RequestState, target: Target, entry: Entry) -> tuple[ChatResponse, Iterator[StreamChunk]]:
    """Return a kept answer as this target's, and its chunks; what it saved is counted, nothing is reserved."""
    trace, request = state.trace, state.request
    trace.cache["hit"] = True
    trace.served_by = f"{target.provider}/{target.model}"
    state.note_overhead()
    await count_hit(state.runtime, target, entry, trace=trace, session=request.session, project=request.project)
    response = response_of(
        entry.whole,
        provider=target.provider,
        model=target.model,
        content=entry.content,
        tool_calls=entry.tool_calls,
        usage=entry.usage,
        metadata={"trace": trace.to_dict(), "cached": True, "deployment": target.deployment or None},
    )
    return response, _replayed(target, entry, streams=state.streams)


def _replayed(target: Target, entry: Entry, *, streams: bool) -> Iterator[StreamChunk]:
    reader = AnswerReader(StreamingHandler(), provider=target.provider, model=target.model)
    for chunk in (entry.chunks or (as_delta(entry.whole),)) if streams else ():
        yield from reader.take(chunk)
    yield reader.final_chunk(entry.usage, entry.tool_calls)


def entry_of(response: ChatResponse, answer: Answer, *, at: float) -> Entry | None:
    """Return what is kept of an answer: itself as JSON, as it came, and what a hit shows of it without LiteLLM.

    None: it is not complete and valid.
    """
    if (verdict := answer.verdict) is None:
        return None
    whole, usage = as_json(answer.whole()), response.usage
    if not storable(whole, status=verdict.status, ended_by=verdict.ended_by):
        return None
    return Entry(
        whole=whole,
        chunks=tuple(map(as_json, answer.reader.chunks)),
        content=response.content,
        tool_calls=tuple(response.tool_calls),
        usage=usage and usage.model_copy(update={"estimated_cost": 0.0}),
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
