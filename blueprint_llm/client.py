"""`LLMClient`, and `SyncLLMClient`: the same on one background event loop."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar, Unpack

from blueprint_llm import sync
from blueprint_llm.adapters.router import SharedRouter
from blueprint_llm.engine.explain import explain, list_models
from blueprint_llm.engine.keywords import RUN, refuse_misspelt
from blueprint_llm.engine.parsing import build_prompt, build_request, planning_context, sealed, validated
from blueprint_llm.engine.request import RequestRun
from blueprint_llm.engine.runtime import Runtime
from blueprint_llm.errors import InvalidRequestError, PlanError
from blueprint_llm.types import ChatRequest, RouteDecision, UsageFilter

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterator

    from blueprint_llm.adapters import Adapter
    from blueprint_llm.config import Config
    from blueprint_llm.credentials import CredentialsManager
    from blueprint_llm.engine.keywords import ChatKeywords, ClientKeywords, GenerateKeywords, PlanKeywords, Request
    from blueprint_llm.events import OnEvent
    from blueprint_llm.tools import RunResult, ToolEngine
    from blueprint_llm.types import (
        ChatResponse,
        ModelInfo,
        Plan,
        PlanningContext,
        StreamChunk,
        Tool,
        ToolCall,
        ToolResult,
        UsageStats,
    )

P = ParamSpec("P")
T = TypeVar("T")
Source = str | Path | Mapping[str, Any] | Any
OnChunk = Callable[["StreamChunk"], Any]
Chat = Callable[[ChatRequest], "Awaitable[ChatResponse]"]


def _router(runtime: Runtime) -> Any:
    from blueprint_llm.compat.router import router_of  # noqa: PLC0415 - on the first call to a group, with LiteLLM

    return router_of(runtime)


class _Client:
    """What both clients share: everything that talks to no provider.

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
        self._runtime = Runtime(
            config,
            credentials=credentials_manager,
            on_event=on_event,
            project=project,
            session=session,
            adapters=adapters,
        )
        self._runtime.router = SharedRouter(functools.partial(_router, self._runtime))
        self._approver = approver
        if fallback_chain is not None:
            self.set_fallback_chain(fallback_chain)

    @classmethod
    def from_config(cls, source: Source = None, **keywords: Unpack[ClientKeywords]) -> Self:
        """Return a client from a path, a mapping, a `Config`, or None: discover. Raises ConfigError."""
        return cls(source, **keywords)

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self._runtime.config

    def get_usage(self, where: UsageFilter | Mapping[str, Any] | None = None) -> UsageStats:
        """Return what was used since the last reset."""
        chosen = where if isinstance(where, UsageFilter) else validated(UsageFilter, where or {})
        return sync.run(self._runtime.store.usage(chosen))

    def reset_usage(self) -> None:
        """Start a new epoch for `get_usage`; lower no budget or quota and delete nothing."""
        sync.run(self._runtime.store.new_epoch())

    def explain(self, request: Request = None, /, **keywords: Unpack[ChatKeywords]) -> RouteDecision:
        """Say what a call would do and why; send nothing, reserve nothing, never raise for an impossible request."""
        try:
            asked = self._runtime.complete_request(build_request(request, sealed(keywords)))
        except InvalidRequestError as error:
            return RouteDecision(rule="none", estimate={"worst_cost_usd": None, "error": str(error)})
        return sync.run(explain(self._runtime, asked))

    def list_models(self, provider: str | None = None) -> list[ModelInfo]:
        """Return the models that the configuration can reach; ask no network."""
        return list_models(self._runtime, provider)

    def set_fallback_chain(self, names: Sequence[str]) -> None:
        """Replace `chains.default` for calls begun later. Raises ConfigError for an unknown name."""
        self._runtime.set_chain(names)

    def register_tool(self, declared: Any, handler: Callable[..., Any] | None = None) -> Tool:
        """Add a tool: a function, whose signature is the schema, or a `Tool` and its handler (sync or async).

        Raises:
            ToolError: The name is taken, or the signature cannot be a schema.
        """
        return self._engine.register_tool(declared, handler)

    @functools.cached_property
    def _engine(self) -> ToolEngine:
        from blueprint_llm.tools import ToolEngine  # noqa: PLC0415 - most clients run no tools

        return ToolEngine(settings=self.config.tools, approver=self._approver)

    def _request_run(self, request: ChatRequest, *, stream: bool) -> RequestRun:
        return RequestRun(self._runtime.complete_request(request), self._runtime, stream=stream)

    async def _chat(self, request: ChatRequest) -> ChatResponse:
        return await self._request_run(request, stream=False).answer()

    def _offered(self, tool: Any) -> Any:
        """Register a function on the way; a tool of that name stays."""
        known = self._engine.registered(getattr(tool, "__name__", ""))
        if not callable(tool):
            return tool
        return known.tool if known else self._engine.register_tool(tool)

    def _heard(self, on_chunk: OnChunk | None) -> Chat:
        """Return the chat of a tool loop: whole answers, or streams whose chunks `on_chunk` gets as they come."""
        if on_chunk is None:
            return self._chat

        async def chat(request: ChatRequest) -> ChatResponse:
            run = self._request_run(request, stream=True)
            async with aclosing(run.chunks()) as chunks:  # a listener that raises closes the upstream
                async for chunk in chunks:
                    taken = on_chunk(chunk)
                    if isinstance(taken, Coroutine):
                        await taken
            assert run.response is not None  # noqa: S101 - without an answer the stream ends in an error
            return run.response

        return chat


class LLMClient(_Client):
    """The façade, async. Every method that talks to a provider raises a `BlueprintError` with its trace."""

    async def chat(self, request: Request = None, /, **keywords: Unpack[ChatKeywords]) -> ChatResponse:
        """Answer a request given as keywords, a mapping or a `ChatRequest`."""
        return await self._chat(build_request(request, sealed(keywords)))

    async def generate(
        self, prompt: str | Mapping[str, Any] | None = None, /, **keywords: Unpack[GenerateKeywords]
    ) -> ChatResponse:
        """Answer one prompt; the keywords are those of `chat`, and `system`."""
        return await self._chat(build_prompt(prompt, sealed(keywords)))

    def stream(self, request: Request = None, /, **keywords: Unpack[ChatKeywords]) -> Stream:
        """Answer as a stream of `StreamChunk`: `async for chunk in client.stream(...)`."""
        return Stream(self._request_run(build_request(request, sealed(keywords)), stream=True))

    async def planning_mode(
        self, context: PlanningContext | Mapping[str, Any] | str | None = None, /, **keywords: Unpack[PlanKeywords]
    ) -> Plan:
        """Return a validated plan for a goal, from keywords, a mapping or a `PlanningContext`. Raises PlanError."""
        goal = planning_context(context, sealed(keywords))
        from blueprint_llm.planning.setup import make_plan  # noqa: PLC0415 - most clients never plan

        runs: list[RequestRun] = []

        async def chat(request: ChatRequest) -> ChatResponse:
            runs.append(self._request_run(request, stream=False))
            return await runs[-1].answer()

        try:
            return await make_plan(self._runtime, goal, chat)
        except PlanError as error:  # of several calls, the last tells why there is no plan
            error.trace = runs[-1].state.trace.to_dict() if runs else {}
            raise

    async def run(
        self, request: Request = None, /, *, on_chunk: OnChunk | None = None, **keywords: Unpack[ChatKeywords]
    ) -> RunResult:
        """Let a model work with tools until it calls none: chat, rules, approval, run, chat again.

        `tools` may hold functions; without it the registered and built-in ones are offered. With `on_chunk` every chat
        is a stream, and the function (or coroutine function) gets its chunks as they come: text, restarts, complete
        tool calls.

        Raises:
            ApprovalPending: A call waits for a person; go on with `resume`.
        """
        from blueprint_llm.tools import run_loop  # noqa: PLC0415 - see _engine

        given = sealed(keywords)
        refuse_misspelt(given, RUN)
        offered = given.pop("tools", None)
        listed = None if offered is None else [self._offered(tool) for tool in offered]
        asked = self._runtime.complete_request(build_request(request, {**given, "tools": listed}))
        return await run_loop(self._engine, asked, self._heard(on_chunk))

    async def resume(self, state_id: str, decisions: Any, *, on_chunk: OnChunk | None = None) -> RunResult:
        """Go on with a run that waited; one decision for each waiting call, in order or by call id."""
        from blueprint_llm.tools import resume_loop  # noqa: PLC0415 - see _engine

        return await resume_loop(self._engine, state_id, decisions, self._heard(on_chunk))

    async def execute_tool(self, call: ToolCall | Mapping[str, Any]) -> ToolResult:
        """Judge one call, ask where the rules want it, run it; a refusal is a result, never an exception."""
        return await self._engine.execute(call)

    async def aclose(self) -> None:
        """Release the store and the tools."""
        if "_engine" in self.__dict__:
            await self._engine.aclose()
        await self._runtime.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _blocking(method: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]) -> Callable[Concatenate[Any, P], T]:
    """Return a method of the async client as one that blocks, with the same signature and docstring."""

    @functools.wraps(method)
    def blocking(client: _Client, /, *args: P.args, **keywords: P.kwargs) -> T:
        return sync.run(method(client, *args, **sealed(keywords)))

    return blocking


class SyncLLMClient(_Client):
    """The façade, blocking; works inside a running event loop too."""

    chat = _blocking(LLMClient.chat)
    generate = _blocking(LLMClient.generate)
    planning_mode = _blocking(LLMClient.planning_mode)
    run = _blocking(LLMClient.run)
    resume = _blocking(LLMClient.resume)
    execute_tool = _blocking(LLMClient.execute_tool)
    close = _blocking(LLMClient.aclose)

    def stream(self, request: Request = None, /, **keywords: Unpack[ChatKeywords]) -> SyncStream:
        """Answer as a stream of `StreamChunk`: `for chunk in client.stream(...)`."""
        return SyncStream(self._request_run(build_request(request, sealed(keywords)), stream=True))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _AnyStream:
    """A stream of one request's chunks."""

    def __init__(self, run: RequestRun) -> None:
        self._request_run = run
        self._begun = False

    @property
    def response(self) -> ChatResponse | None:
        """The whole answer; None until the end."""
        return self._request_run.response


class Stream(_AnyStream):
    """An async stream of chunks; leaving it early closes the upstream."""

    _iterator: AsyncGenerator[StreamChunk, None] | None = None

    def __aiter__(self) -> AsyncIterator[StreamChunk]:
        """Return the chunks that are left. The loop alone holds the iterator, so leaving the loop ends it at once."""
        return self._iterator or self._begin()

    async def __anext__(self) -> StreamChunk:
        """Return the next chunk, for `anext(stream)`."""
        self._iterator = self._iterator or self._begin()
        return await anext(self._iterator)

    def _begin(self) -> AsyncGenerator[StreamChunk, None]:
        """Return the chunks, once: a second loop over a stream sends no second request."""
        if self._begun:
            return _nothing()
        self._begun = True
        chunks = self._request_run.chunks()
        self._chunks = weakref.ref(chunks)
        return chunks

    async def aclose(self) -> None:
        """Close the upstream, also of a loop that an exception has left: its traceback holds the chunks."""
        chunks = self._chunks() if self._begun else None
        if chunks is not None:
            await chunks.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class SyncStream(_AnyStream):
    """A blocking stream of chunks; leaving it early closes the upstream."""

    _iterator: Iterator[StreamChunk] | None = None

    def __iter__(self) -> Iterator[StreamChunk]:
        """Return the chunks that are left. The loop alone holds the iterator, so leaving the loop ends it at once."""
        return self._iterator or self._begin()

    def __next__(self) -> StreamChunk:
        """Return the next chunk, for `next(stream)`."""
        self._iterator = self._iterator or self._begin()
        return next(self._iterator)

    def _begin(self) -> Iterator[StreamChunk]:
        """Return the chunks, once: a second loop over a stream sends no second request."""
        begun, self._begun = self._begun, True
        return iter(()) if begun else sync.iterate(self._request_run.chunks())

    def close(self) -> None:
        """Close the upstream of a stream that was read with `next`."""
        if self._iterator is not None and hasattr(self._iterator, "close"):
            self._iterator.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


async def _nothing() -> AsyncGenerator[StreamChunk, None]:
    nothing: tuple[StreamChunk, ...] = ()
    for chunk in nothing:
        yield chunk
