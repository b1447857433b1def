"""The engine: a registry of tools, and the only way to run one.

Every call is judged when it arrives and again right before it runs. An approval is bound to a fingerprint of the tool,
its schema, the arguments, the policy, the effects and the files to be changed, so whatever has changed meanwhile is
asked again.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from blueprint_llm.config.paths import folder
from blueprint_llm.config.tool_blocks import Tools
from blueprint_llm.errors import ConfigError, ToolError
from blueprint_llm.redaction import redact
from blueprint_llm.secret import revealed
from blueprint_llm.tools.approval import ApprovalDecision, ApprovalRequest, DenyAll, ask, request_for
from blueprint_llm.tools.arguments import BadArgumentsError, read_arguments
from blueprint_llm.tools.audit import Audit
from blueprint_llm.tools.commands import CommandTools
from blueprint_llm.tools.execution import Executor
from blueprint_llm.tools.files import FileTools
from blueprint_llm.tools.journal import Journal
from blueprint_llm.tools.process import Spawner
from blueprint_llm.tools.registry import Registered, from_function, from_schema
from blueprint_llm.tools.rules import Judge, Judged, Mode, Policy, ToolDecision, load_rules, suggestion
from blueprint_llm.tools.sandbox import Confinement
from blueprint_llm.tools.sealed import Grants, fingerprint, load_key, state_folder
from blueprint_llm.tools.workspace import Root, Workspace
from blueprint_llm.types import Tool, ToolCall, ToolResult

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the engine takes from the world, so that tests can give it another.

    Attributes:
        clock: Unix time in seconds.
        monotonic: For durations, in seconds.
        random: Bytes for keys and names.
        redact: Takes registered secrets out of text.
        approval_timeout_s: How long an approver may take; None: as long as it likes.
    """

    clock: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    random: Callable[[int], bytes] = os.urandom
    redact: Callable[[str], str] = redact
    approval_timeout_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A call on its way to run: `approved` is the binding that a person approved."""

    call: ToolCall
    approved: str | None = None
    tainted: bool = False
    run: str = ""


class ToolEngine:
    """Tools over one workspace, under one policy.

    Args:
        rules: In place of those in `settings`.
        workspace: In place of the one in `settings`.
        mode: In place of the one in `settings`.
        settings: The `tools:` block.
        approver: Decides what the rules leave open; None: nobody does, and such calls are denied.
        surroundings: Clocks, randomness, redaction.

    Raises:
        ConfigError: When a rule is wrong or the workspace is no folder.
    """

    def __init__(
        self,
        rules: Sequence[Any] | None = None,
        workspace: str | os.PathLike[str] | None = None,
        mode: Mode | None = None,
        *,
        settings: Tools | None = None,
        approver: Any = None,
        surroundings: Surroundings | None = None,
    ) -> None:
        given = settings or Tools()
        changed = {"mode": mode or given.mode, "workspace": str(workspace or given.workspace)}
        self.settings = given.model_copy(update=changed)
        self.approver, self.world = approver, surroundings or Surroundings()
        self.workspace = Workspace(self.settings.workspace)
        root = self.workspace.root
        if not os.path.isdir(root):  # noqa: PTH112 - a plain string
            raise ConfigError(f"tools.workspace: {self.settings.workspace} is not a folder")
        policy = Policy(load_rules(given.rules if rules is None else rules, self.workspace), self.workspace)
        confinement = Confinement(root, self.settings.sandbox, policy.hides, policy.keeps)
        sandbox = self.settings.sandbox
        is_waived = sandbox.backend == "none" and not sandbox.required
        self._judge = Judge(
            policy=policy,
            mode=self.settings.mode,
            workspace=self.workspace,
            unenforced=(lambda _: []) if is_waived else confinement.doubts,
            refuses=sandbox.required,
            digest=fingerprint([self.settings.mode, root, [rule.model_dump(mode="json") for rule in policy.rules]]),
        )
        self._open(confinement)

    def _open(self, confinement: Confinement) -> None:
        root, limits = self.workspace.root, self.settings.limits
        self._spawner, self._root = Spawner(), Root(root)
        own = fingerprint(root)[:16]
        journal = Journal(folder("state") / "journal" / own, self.world.random)
        journal.recover(self._root)
        self._made_audit: Audit | None = None
        self._grants = Grants(own, self.key)
        self._executor = Executor(
            lambda: self.audit, self.world.redact, self.world.monotonic, limits.output_bytes, limits.timeout_s
        )
        self._closers: list[Callable[[], None]] = [
            confinement.close, self._root.close, self._executor.close, self._spawner.close
        ]  # fmt: skip
        self._connected: set[str] = set()
        files = FileTools(self.workspace, self._root, journal, self._judge.policy.shuts)
        commands = CommandTools(self.workspace, self.settings, self._spawner, confinement)
        self._environment = commands.environment
        built_in = (
            from_function(files.read_file),
            from_function(files.list_files),
            from_function(files.search_files),
            replace(from_function(files.write_file), claims=files.write_claims),
            replace(from_function(files.patch), claims=files.patch_claims),
            replace(from_function(commands.command), claims=commands.command_claims),
            replace(from_function(commands.run_tests), claims=commands.test_claims),
            from_function(self._executor.read_result),
        )
        self._tools = {registered.tool.name: registered for registered in built_in}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def close(self) -> None:
        """Close the workspace and end all processes, running commands too; returns when they are dead."""
        while self._closers:
            self._closers.pop()()

    async def aclose(self) -> None:
        """Close as `close` does, without blocking the loop."""
        await asyncio.to_thread(self.close)

    def key(self) -> bytes:
        """Return the key that seals approvals and the audit."""
        return load_key(state_folder("tools") / "tools.key", self.world.random)

    @property
    def audit(self) -> Audit:
        """The audit, opened on first use."""
        if self._made_audit is None:
            self._made_audit = open_audit(self.settings, self.world)
        return self._made_audit

    # Tools.

    def register_tool(
        self,
        declared: Callable[..., Any] | Tool | Mapping[str, Any] | Registered,
        handler: Callable[..., Any] | None = None,
    ) -> Tool:
        """Add a tool: a function (its signature is the schema), or a schema and its handler.

        Raises:
            ToolError: When the name is taken, or the signature cannot be a schema.
        """
        if isinstance(declared, Registered):
            made = declared
        elif handler is not None:
            made = from_schema(declared, handler)  # type: ignore[arg-type] # a function with a handler fails in it
        elif callable(declared):
            made = from_function(declared)
        else:
            raise ToolError("register_tool needs a function, or a tool and its handler")
        if made.tool.name in self._tools:
            raise ToolError(f"a tool named {made.tool.name} is registered already")
        self._tools[made.tool.name] = made
        return made.tool

    async def connect(self) -> None:
        """Start the configured MCP servers and register their tools; once.

        Raises:
            ToolError: When one does not start.
        """
        from blueprint_llm.tools.mcp import McpConnection  # noqa: PLC0415 - only where servers are configured

        for name, config in self.settings.mcp_servers.items():
            if name in self._connected:  # by an earlier run, or by one that connects right now
                continue
            self._connected.add(name)
            own = {variable: revealed(value) for variable, value in config.env.items()}
            connection = McpConnection(name, config, {**self._environment(), **own}, self.workspace.root)
            try:
                for registered in await connection.open():
                    self.register_tool(registered)
            except BaseException:
                self._connected.discard(name)
                raise
            self._closers.append(connection.close)

    async def _refresh(self, name: str) -> None:
        """Read a foreign tool's declaration again; a change is remembered, and its calls ask from then on."""
        registered = self._tools.get(name)
        if registered is None or registered.refresh is None:
            return
        with suppress(ToolError, TimeoutError):  # a server that fails will fail the call itself
            now = await registered.refresh()
            if now is None:
                del self._tools[name]
            elif now.tool != registered.tool:
                self._tools[name] = replace(now, changed=True)

    def tools(self) -> list[Tool]:
        """Return what the model may be told of."""
        return [registered.tool for registered in self._tools.values()]

    def effect(self, name: str) -> str:
        """Return the strongest thing a tool does: `read`, `write`, `execute` or `network`."""
        return self._tools[name].traits.effect

    def registered(self, name: str) -> Registered | None:
        """Return a tool by name."""
        return self._tools.get(name)

    # Judging.

    def check(self, name: str, arguments: object, *, tainted: bool = False) -> ToolDecision:
        """Return what would become of a call. Pure: it changes nothing, and never raises on what a model wrote."""
        return self._judged(name, arguments, tainted=tainted).decision

    def _judged(self, name: str, arguments: object, *, tainted: bool = False) -> Judged:
        if registered := self._tools.get(name):
            return self._judge.judge(registered, arguments, tainted=tainted)
        decision = ToolDecision(decision="deny", rule_id=None, reasons=(f"there is no tool named {name!r}",))
        return Judged(registered=from_schema(Tool(name="unknown"), lambda: None), decision=decision)

    def judge(self, call: ToolCall, *, tainted: bool = False) -> Judged:
        """Return a call as it stands now, approvals that still hold included."""
        judged = self._judged(call.name, call.arguments, tainted=tainted)
        if judged.decision.decision == "ask" and self._grants.holds(judged.grant):
            return replace(judged, decision=replace(judged.decision, decision="allow", rule_id="approved before"))
        return judged

    def would_allow(self, name: str, arguments: object) -> str:
        """Return the rule that would allow a call, as it is written in the file; empty for an unknown tool."""
        return suggestion(self._judged(name, arguments)) if name in self._tools else ""

    # Running.

    async def execute(self, call: ToolCall | Mapping[str, Any]) -> ToolResult:
        """Judge, ask where needed, and run one call.

        Raises:
            ToolError: It is no call at all, or only a part of one.
        """
        if isinstance(call, Mapping):
            inner = call.get("function", call)
            identity, name = str(call.get("id") or "call"), str(inner.get("name") or "")
            try:
                call = ToolCall(id=identity, name=name, arguments=read_arguments(inner.get("arguments", {})))
            except BadArgumentsError as error:
                return ToolResult(tool_call_id=identity, name=name, status="error", content=f"not run: {error}")
        if not isinstance(call, ToolCall):
            raise ToolError("only a complete, validated tool call can be run")
        judged = self.judge(call)
        if judged.decision.decision != "ask":
            return await self.run(Ready(call=call))
        request = request_for(call, judged)
        settled = self.settle(Ready(call=call), request, (await self.approve([request]))[0])
        return settled if isinstance(settled, ToolResult) else await self.run(settled)

    async def approve(self, batch: Sequence[ApprovalRequest]) -> list[ApprovalDecision]:
        """Ask the approver; without one everything is rejected."""
        return await ask(self.approver or DenyAll(), batch, self.world.approval_timeout_s)

    def settle(self, ready: Ready, request: ApprovalRequest, answer: ApprovalDecision) -> Ready | ToolResult:
        """Return what an answer makes of a call: ready to run as it was approved, or a refusal."""
        call = ready.call
        if answer.decision == "approve":
            if answer.scope in {"session", "always"}:
                self._grants.add(request.grant, lasting=answer.scope == "always")
            return replace(ready, approved=request.binding)
        if answer.decision == "edit" and answer.arguments is not None:
            edited = call.model_copy(update={"arguments": answer.arguments})
            return replace(ready, call=edited, approved=self.judge(edited, tainted=ready.tainted).binding)
        reason = answer.reason or ("left for later" if answer.decision == "later" else "no reason given")
        judged = self.judge(call, tainted=ready.tainted)
        why = "; ".join(judged.decision.reasons)
        told = f"rejected: {reason}" + (f" (asked because: {why})" if why else "")
        return self._executor.refuse(call, judged, told, ready.run, self.would_allow(call.name, call.arguments))

    async def run(self, ready: Ready) -> ToolResult:
        """Judge once more and run, if it is allowed or is exactly what was approved."""
        call = ready.call
        await self._refresh(call.name)
        judged = self.judge(call, tainted=ready.tainted)
        why = "; ".join(judged.decision.reasons)
        if judged.decision.decision == "deny":
            return self._executor.refuse(call, judged, why or "denied by a rule", ready.run)
        if judged.decision.decision == "ask" and ready.approved != judged.binding:
            changed = "the call, the policy or a file changed since it was approved: ask again"
            told = f"needs approval: {why}" if ready.approved is None else changed
            return self._executor.refuse(call, judged, told, ready.run, self.would_allow(call.name, call.arguments))
        return await self._executor.run(call, judged, ready.run)

    async def run_all(self, batch: Sequence[Ready], parallel: int) -> list[ToolResult]:
        """Run calls that may run side by side; the results are in call order."""
        places = asyncio.Semaphore(max(1, parallel))

        async def one(ready: Ready) -> ToolResult:
            async with places:
                return await self.run(ready)

        async with asyncio.TaskGroup() as group:  # a cancellation reaches every call, and is raised when all have ended
            running = [group.create_task(one(ready)) for ready in batch]
        return [task.result() for task in running]


def open_audit(settings: Tools, world: Surroundings | None = None) -> Audit:
    """Return the audit that a configuration names, by default one for all workspaces of the user."""
    around, state = world or Surroundings(), state_folder("tools")
    place = Path(settings.audit.path).expanduser() if settings.audit.path else state / "audit.jsonl"
    return Audit(place, load_key(state / "tools.key", around.random), around.clock, settings.audit.fsync)
