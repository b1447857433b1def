"""`LLMClient` and `SyncLLMClient`: one core, driven by an event loop or by the calling thread."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import ValidationError

from blueprint_llm.drivers import AsyncDriver, Outcome, SyncDriver, answering_chats
from blueprint_llm.errors import InvalidRequestError
from blueprint_llm.explain import explain, list_models
from blueprint_llm.parts import Parts
from blueprint_llm.pipeline import Steps, Walk
from blueprint_llm.planning.setup import planning_walk
from blueprint_llm.types import ChatRequest, PlanningContext, RouteDecision, UsageFilter
from blueprint_llm.usage import UsageTracker

if TYPE_CHECKING:
    from blueprint_llm.adapters import Adapter
    from blueprint_llm.config import Config
    from blueprint_llm.credentials import CredentialsManager
    from blueprint_llm.events import OnEvent
    from blueprint_llm.types import ChatResponse, ModelInfo, Plan, StreamChunk, UsageStats

Source = str | Path | Mapping[str, Any] | Any


def build_request(given: Any, keywords: Mapping[str, Any]) -> ChatRequest:
    """A request from a mapping, a `ChatRequest` or keywords; keywords win. Raises InvalidRequestError."""
    if isinstance(given, ChatRequest) and not keywords:
        return given
    if isinstance(given, ChatRequest):
        given = given.model_dump(exclude_unset=True)
    elif given is not None and not isinstance(given, Mapping):
        keywords = {"messages": given, **keywords}
        given = None
    request: ChatRequest = _validated(ChatRequest, {**(given or {}), **keywords})
    return request


def build_prompt(given: Any, keywords: Mapping[str, Any]) -> ChatRequest:
    """A request of one user message from a prompt, or from a mapping with `prompt`. Raises InvalidRequestError."""
    values = {**given, **keywords} if isinstance(given, Mapping) else {"prompt": given, **keywords}
    prompt = values.pop("prompt", None)
    if not isinstance(prompt, str) or not prompt:
        raise InvalidRequestError("generate needs a prompt: generate('...') or generate({'prompt': '...'})")
    system = values.pop("system", None)
    messages = [{"role": "system", "content": system}] if system else []
    return build_request(None, {**values, "messages": [*messages, {"role": "user", "content": prompt}]})


def _validated(model: Any, values: Mapping[str, Any]) -> Any:
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        rows = error.errors(include_input=False, include_url=False)
        lines = [f"{'.'.join(map(str, row['loc'])) or 'request'}: {row['msg']}" for row in rows]
    raise InvalidRequestError("the request is not valid: " + "; ".join(lines))


class _Core:
    """What both clients share: everything that needs no driver.

    Args:
        config: A path, a mapping, a `Config`, or None: discover.
        credentials_manager: Where keys come from, in place of the configuration's.
        fallback_chain: Replaces `chains.default`.
        approver: Decides on tool calls that need a person.
        on_event: Called with every `Event`.
        project, session: On whose account calls go that name none; a session of its own by default.
        adapters: Ways to providers in place of LiteLLM, by provider name (`testing.ScriptedAdapter`).
    """

    def __init__(  # noqa: PLR0913 - keywords of the public contract
        self,
        config: Source = None,
        *,
        credentials_manager: CredentialsManager | None = None,
        fallback_chain: Sequence[str] | None = None,
        approver: Callable[..., Any] | None = None,
        on_event: OnEvent | None = None,
        project: str | None = None,
        session: str | None = None,
        adapters: Mapping[str, Adapter] | None = None,
    ) -> None:
        self._parts = Parts.build(
            config,
            credentials=credentials_manager,
            on_event=on_event,
            project=project,
            session=session,
            adapters=adapters,
        )
        self._approver = approver
        if fallback_chain is not None:
            self.set_fallback_chain(fallback_chain)

    @classmethod
    def from_config(cls, source: Source = None, **keywords: Any) -> Self:
        """A client from a path, a mapping, a `Config`, or None: discover. Raises ConfigError."""
        return cls(source, **keywords)

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self._parts.config

    def get_usage(self, where: UsageFilter | Mapping[str, Any] | None = None) -> UsageStats:
        """What was used since the last reset."""
        chosen = where if isinstance(where, UsageFilter) or where is None else _validated(UsageFilter, where)
        return UsageTracker(self._parts.store).get_usage(chosen)

    def reset_usage(self) -> None:
        """Start a new epoch for `get_usage`; lowers no budget or quota and deletes nothing."""
        UsageTracker(self._parts.store).reset_usage()

    def explain(self, request: Any = None, /, **keywords: Any) -> RouteDecision:
        """What a call would do and why; sends nothing, reserves nothing, never raises for an impossible request."""
        try:
            asked = self._parts.complete_request(build_request(request, keywords))
        except InvalidRequestError as error:
            return RouteDecision(rule="none", estimate={"worst_cost_usd": None, "error": str(error)})
        decision: RouteDecision = self._sync_driver().run(explain(self._parts, asked))
        return decision

    def list_models(self, provider: str | None = None) -> list[ModelInfo]:
        """The models that the configuration can reach; asks no network."""
        return list_models(self._parts, provider)

    def set_fallback_chain(self, names: Sequence[str]) -> None:
        """Replace `chains.default` for calls begun later. Raises ConfigError for an unknown name."""
        self._parts.set_chain(names)

    def _walk(self, request: ChatRequest, *, stream: bool) -> Walk:
        return Walk(self._parts.complete_request(request), self._parts, stream=stream)

    def _planning_walk(self, given: Any, keywords: Mapping[str, Any]) -> Steps:
        context = _planning_context(given, keywords)
        return answering_chats(planning_walk(self._parts, context), self._chat_steps)

    def _chat_steps(self, request: ChatRequest) -> Steps:
        return self._walk(request, stream=False).run()

    def _sync_driver(self) -> SyncDriver:
        return SyncDriver(self._parts.store)


def _planning_context(given: Any, keywords: Mapping[str, Any]) -> PlanningContext:
    if isinstance(given, PlanningContext) and not keywords:
        return given
    base = given.model_dump() if isinstance(given, PlanningContext) else given or {}
    context: PlanningContext = _validated(PlanningContext, {**base, **keywords})
    return context


class Stream:
    """An async stream of chunks; leaving it early closes the upstream.

    Attributes:
        response: The whole `ChatResponse`, once the stream has ended well.
    """

    def __init__(self, driver: AsyncDriver, walk: Walk) -> None:
        self._driver, self._walk, self._outcome = driver, walk, Outcome()
        self._iterator: AsyncGenerator[StreamChunk, None] | None = None

    @property
    def response(self) -> ChatResponse | None:
        """The whole answer; None until the end."""
        response: ChatResponse | None = self._outcome.value
        return response

    def __aiter__(self) -> AsyncIterator[StreamChunk]:
        """The chunks. The loop alone holds the iterator, so leaving the loop ends it at once."""
        return self._driver.iterate(self._walk.run(), self._outcome)

    async def __anext__(self) -> StreamChunk:
        """The next chunk, for `anext(stream)`."""
        if self._iterator is None:
            self._iterator = self._driver.iterate(self._walk.run(), self._outcome)
        return await anext(self._iterator)

    async def aclose(self) -> None:
        """Close the upstream of a stream that was read with `anext`."""
        if self._iterator is not None:
            await self._iterator.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class SyncStream:
    """A blocking stream of chunks; leaving it early closes the upstream.

    Attributes:
        response: The whole `ChatResponse`, once the stream has ended well.
    """

    def __init__(self, driver: SyncDriver, walk: Walk) -> None:
        self._driver, self._walk, self._outcome = driver, walk, Outcome()
        self._iterator: Generator[StreamChunk, None, None] | None = None

    @property
    def response(self) -> ChatResponse | None:
        """The whole answer; None until the end."""
        response: ChatResponse | None = self._outcome.value
        return response

    def __iter__(self) -> Iterator[StreamChunk]:
        """The chunks. The loop alone holds the iterator, so leaving the loop ends it at once."""
        return self._driver.iterate(self._walk.run(), self._outcome)

    def __next__(self) -> StreamChunk:
        """The next chunk, for `next(stream)`."""
        if self._iterator is None:
            self._iterator = self._driver.iterate(self._walk.run(), self._outcome)
        return next(self._iterator)

    def close(self) -> None:
        """Close the upstream of a stream that was read with `next`."""
        if self._iterator is not None:
            self._iterator.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LLMClient(_Core):
    """The façade, async. Every method that talks to a provider raises a `BlueprintError` with its trace."""

    async def chat(self, request: Any = None, /, **keywords: Any) -> ChatResponse:
        """Answer a request given as keywords, a mapping or a `ChatRequest`."""
        walk = self._walk(build_request(request, keywords), stream=False)
        response: ChatResponse = await self._driver().run(walk.run())
        return response

    async def generate(self, prompt: Any = None, /, **keywords: Any) -> ChatResponse:
        """Answer one prompt; the keywords are those of `chat`, and `system`."""
        return await self.chat(build_prompt(prompt, keywords))

    def stream(self, request: Any = None, /, **keywords: Any) -> Stream:
        """Answer as a stream of `StreamChunk`: `async for chunk in client.stream(...)`."""
        return Stream(self._driver(), self._walk(build_request(request, keywords), stream=True))

    async def planning_mode(self, context: Any = None, /, **keywords: Any) -> Plan:
        """A validated plan for a goal, from keywords, a mapping or a `PlanningContext`. Raises PlanError."""
        plan: Plan = await self._driver().run(self._planning_walk(context, keywords))
        return plan

    def _driver(self) -> AsyncDriver:
        return AsyncDriver(self._parts.store)

    async def aclose(self) -> None:
        """Release the store."""
        await self._parts.store.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class SyncLLMClient(_Core):
    """The façade, blocking; works inside a running event loop too."""

    def chat(self, request: Any = None, /, **keywords: Any) -> ChatResponse:
        """Answer a request given as keywords, a mapping or a `ChatRequest`."""
        walk = self._walk(build_request(request, keywords), stream=False)
        response: ChatResponse = self._sync_driver().run(walk.run())
        return response

    def generate(self, prompt: Any = None, /, **keywords: Any) -> ChatResponse:
        """Answer one prompt; the keywords are those of `chat`, and `system`."""
        return self.chat(build_prompt(prompt, keywords))

    def stream(self, request: Any = None, /, **keywords: Any) -> SyncStream:
        """Answer as a stream of `StreamChunk`: `for chunk in client.stream(...)`."""
        return SyncStream(self._sync_driver(), self._walk(build_request(request, keywords), stream=True))

    def planning_mode(self, context: Any = None, /, **keywords: Any) -> Plan:
        """A validated plan for a goal, from keywords, a mapping or a `PlanningContext`. Raises PlanError."""
        plan: Plan = self._sync_driver().run(self._planning_walk(context, keywords))
        return plan

    def close(self) -> None:
        """Release the store."""
        self._parts.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
