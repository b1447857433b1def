"""`LLMClient` and `SyncLLMClient`: one core, driven by an event loop or by the calling thread."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from blueprint_llm.engine.drivers import AsyncDriver, SyncDriver
from blueprint_llm.engine.explain import explain, list_models
from blueprint_llm.engine.parsing import build_prompt, build_request, planning_context, validated
from blueprint_llm.engine.parts import Parts
from blueprint_llm.engine.pipeline import Steps, Walk
from blueprint_llm.engine.steps import Offload
from blueprint_llm.errors import InvalidRequestError
from blueprint_llm.streams import Stream, SyncStream
from blueprint_llm.types import ChatRequest, RouteDecision, UsageFilter
from blueprint_llm.usage import UsageTracker

if TYPE_CHECKING:
    from blueprint_llm.adapters import Adapter
    from blueprint_llm.config import Config
    from blueprint_llm.credentials import CredentialsManager
    from blueprint_llm.events import OnEvent
    from blueprint_llm.tools import RunResult, ToolEngine
    from blueprint_llm.types import (
        ChatResponse,
        ModelInfo,
        Plan,
        StreamChunk,
        Tool,
        ToolCall,
        ToolResult,
        UsageStats,
    )

Source = str | Path | Mapping[str, Any] | Any
OnChunk = Callable[["StreamChunk"], Any]


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
        chosen = where if isinstance(where, UsageFilter) or where is None else validated(UsageFilter, where)
        self._parts.hits.flush()
        return UsageTracker(self._parts.store).get_usage(chosen)

    def reset_usage(self) -> None:
        """Start a new epoch for `get_usage`; lowers no budget or quota and deletes nothing."""
        self._parts.hits.flush()
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
        context = planning_context(given, keywords)
        from blueprint_llm.engine.on_top import lowered  # noqa: PLC0415 - most clients never plan
        from blueprint_llm.planning.setup import planning_walk  # noqa: PLC0415 - likewise

        return lowered(planning_walk(self._parts, context), self._chats(stream=False), None)

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

    def _close_engine(self) -> None:
        if "_engine" in self.__dict__:
            self._engine.close()

    def _run_walk(self, given: Any, keywords: dict[str, Any], *, stream: bool) -> Steps:
        from blueprint_llm.engine.on_top import lowered  # noqa: PLC0415 - see _engine
        from blueprint_llm.tools import run_loop  # noqa: PLC0415 - see _engine

        offered = keywords.pop("tools", None)
        listed = None if offered is None else [self._offered(tool) for tool in offered]
        request = self._parts.complete_request(build_request(given, {**keywords, "tools": listed}))
        yield Offload(function=self._engine.connect)
        return (yield from lowered(run_loop(self._engine, request), self._chats(stream=stream), self._engine))

    def _offered(self, tool: Any) -> Any:
        """A function is registered on the way; a tool of that name stays."""
        known = self._engine.registered(getattr(tool, "__name__", ""))
        if not callable(tool):
            return tool
        return known.tool if known else self._engine.register_tool(tool)

    def _resume_walk(self, state_id: str, decisions: Any, *, stream: bool) -> Steps:
        from blueprint_llm.engine.on_top import lowered  # noqa: PLC0415 - see _engine
        from blueprint_llm.tools import resume_loop  # noqa: PLC0415 - see _engine

        yield Offload(function=self._engine.connect)
        loop = resume_loop(self._engine, state_id, decisions)
        return (yield from lowered(loop, self._chats(stream=stream), self._engine))

    def _chats(self, *, stream: bool) -> Callable[[ChatRequest], Steps]:
        return lambda request: self._walk(request, stream=stream).run()

    def _sync_driver(self) -> SyncDriver:
        return SyncDriver(self._parts.store)


class LLMClient(_Core):
    """The façade, async. Every method that talks to a provider raises a `BlueprintError` with its trace."""

    async def chat(self, request: Any = None, /, **keywords: Any) -> ChatResponse:
        """Answer a request given as keywords, a mapping or a `ChatRequest`."""
        request = build_request(request, keywords)
        walk = self._walk(request, stream=False)
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

    async def run(self, request: Any = None, /, *, on_chunk: OnChunk | None = None, **keywords: Any) -> RunResult:
        """Let a model work with tools until it calls none: chat, rules, approval, run, chat again.

        `tools` may hold functions; without it the registered and built-in ones are offered. With `on_chunk` every chat
        is a stream, and the function (or coroutine function) gets its chunks as they come: text, restarts, complete
        tool calls.

        Raises:
            ApprovalPending: A call waits for a person; go on with `resume`.
        """
        walk = self._run_walk(request, keywords, stream=on_chunk is not None)
        result: RunResult = await self._driver().run(walk, on_chunk)
        return result

    async def resume(self, state_id: str, decisions: Any, *, on_chunk: OnChunk | None = None) -> RunResult:
        """Go on with a run that waited; one decision for each waiting call, in order or by call id."""
        walk = self._resume_walk(state_id, decisions, stream=on_chunk is not None)
        result: RunResult = await self._driver().run(walk, on_chunk)
        return result

    async def execute_tool(self, call: ToolCall | Mapping[str, Any]) -> ToolResult:
        """Judge one call, ask where the rules want it, run it; a refusal is a result, never an exception."""
        return await self._engine.execute_async(call)

    def _driver(self) -> AsyncDriver:
        return AsyncDriver(self._parts.store)

    async def aclose(self) -> None:
        """Release the store and the tools."""
        self._close_engine()
        await self._parts.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class SyncLLMClient(_Core):
    """The façade, blocking; works inside a running event loop too."""

    def chat(self, request: Any = None, /, **keywords: Any) -> ChatResponse:
        """Answer a request given as keywords, a mapping or a `ChatRequest`."""
        request = build_request(request, keywords)
        walk = self._walk(request, stream=False)
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

    def run(self, request: Any = None, /, *, on_chunk: OnChunk | None = None, **keywords: Any) -> RunResult:
        """Let a model work with tools until it calls none: chat, rules, approval, run, chat again.

        `tools` may hold functions; without it the registered and built-in ones are offered. With `on_chunk` every chat
        is a stream, and the function gets its chunks as they come: text, restarts, complete tool calls.

        Raises:
            ApprovalPending: A call waits for a person; go on with `resume`.
        """
        walk = self._run_walk(request, keywords, stream=on_chunk is not None)
        result: RunResult = self._sync_driver().run(walk, on_chunk)
        return result

    def resume(self, state_id: str, decisions: Any, *, on_chunk: OnChunk | None = None) -> RunResult:
        """Go on with a run that waited; one decision for each waiting call, in order or by call id."""
        walk = self._resume_walk(state_id, decisions, stream=on_chunk is not None)
        result: RunResult = self._sync_driver().run(walk, on_chunk)
        return result

    def execute_tool(self, call: ToolCall | Mapping[str, Any]) -> ToolResult:
        """Judge one call, ask where the rules want it, run it; a refusal is a result, never an exception."""
        return self._engine.execute(call)

    def close(self) -> None:
        """Release the store and the tools."""
        self._close_engine()
        self._parts.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
