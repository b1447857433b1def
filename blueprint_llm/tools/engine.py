"""The engine: a registry of tools, and the only way to run one.

Every call is judged when it arrives and again right before it runs. An approval is bound to a fingerprint of the tool,
its schema, the arguments, the policy, the effects and the files to be changed, so whatever has changed meanwhile is
asked again.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blueprint_llm.config.blocks import Tools
from blueprint_llm.config.paths import folder
from blueprint_llm.errors import ConfigError, ToolError
from blueprint_llm.secret import revealed
from blueprint_llm.tools.approval import ApprovalDecision, ApprovalRequest, DenyAll, ask, request_for
from blueprint_llm.tools.commands import CommandTools, Spawner
from blueprint_llm.tools.execution import Executor, Surroundings
from blueprint_llm.tools.files import FileTools, Journal
from blueprint_llm.tools.registry import BadArgumentsError, Registered, from_function, from_schema, read_arguments
from blueprint_llm.tools.rules import Judged, Mode, Policy, ToolDecision, load_rules
from blueprint_llm.tools.sandbox import Confinement
from blueprint_llm.tools.sealed import Audit, Grants, fingerprint, load_key, state_folder
from blueprint_llm.tools.workspace import Root, Workspace
from blueprint_llm.types import Tool, ToolCall, ToolResult

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A call on its way to run: `approved` is the binding that a person approved."""

    call: ToolCall
    approved: str | None = None
    tainted: bool = False
    run: str = ""


class ToolEngine(AbstractContextManager["ToolEngine"], AbstractAsyncContextManager["ToolEngine"]):
    """Tools over one workspace, under one policy.

    `settings` is the `tools:` block; what else is given takes the place of its keys. Without an approver, what the
    rules leave open is denied. Raises ConfigError if a rule is wrong or the workspace is no folder.
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
        root, sandbox = self.workspace.root, self.settings.sandbox
        if not os.path.isdir(root):  # noqa: PTH112 - a plain string
            raise ConfigError(f"tools.workspace: {self.settings.workspace} is not a folder")
        loaded = load_rules(given.rules if rules is None else rules, self.workspace)
        self._policy = Policy(loaded, self.workspace, self.settings, lambda effects: confinement.doubts(effects))  # noqa: PLW0108 - made below, of what the policy hides
        confinement = Confinement(root, sandbox, self._policy.hides, self._policy.keeps)
        self._open(confinement)

    def _open(self, confinement: Confinement) -> None:
        own = fingerprint(self.workspace.root)[:16]
        self._spawner, self._root = Spawner(self.workspace.root, self.settings.limits), Root(self.workspace.root)
        journal = Journal(folder("state") / "journal" / own, self.world.random)
        journal.recover(self._root)
        self._grants = Grants(own, self.key)
        self._executor = Executor(lambda: self.audit, self.world, self.settings.limits)
        self._closers = [confinement.close, self._root.close, self._executor.close, self._spawner.close]
        self._connected: set[str] = set()
        files = FileTools(self.workspace, self._root, journal, self._policy.shuts)
        commands = CommandTools(self.workspace, self.settings, self._spawner, confinement)
        self._environment = commands.environment
        built_in = (
            from_function(files.read_file),
            from_function(files.list_files),
            from_function(files.search_files),
            from_function(files.write_file, files.write_claims),
            from_function(files.patch, files.patch_claims),
            from_function(commands.command, commands.claims),
            from_function(commands.run_tests, commands.claims),
            from_function(self._executor.read_result),
        )
        self._tools = {registered.tool.name: registered for registered in built_in}

    def __exit__(self, *raised: object) -> None:
        self.close()

    async def __aexit__(self, *raised: object) -> None:
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

    @cached_property
    def audit(self) -> Audit:
        """The audit, opened on first use."""
        return open_audit(self.settings, self.world)

    # Tools.

    def register_tool(
        self,
        declared: Callable[..., Any] | Tool | Mapping[str, Any] | Registered,
        handler: Callable[..., Any] | None = None,
    ) -> Tool:
        """Add a tool: a function (its signature is the schema), or a schema and its handler.

        Raises ToolError if the name is taken, or the signature cannot be a schema.
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
        """Start the configured MCP servers and register their tools; once. Raises ToolError if one does not start."""
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
            return self._policy.judge(registered, arguments, tainted=tainted)
        decision = ToolDecision(decision="deny", rule_id=None, reasons=(f"there is no tool named {name!r}",))
        return Judged(registered=from_schema(Tool(name="unknown"), lambda: None), decision=decision)

    def judge(self, ready: Ready) -> Judged:
        """Return a call as it stands now, approvals that still hold included."""
        call = ready.call
        judged = replace(self._judged(call.name, call.arguments, tainted=ready.tainted), call=call, run=ready.run)
        if judged.decision.decision == "ask" and self._grants.holds(judged.grant):
            return replace(judged, decision=replace(judged.decision, decision="allow", rule_id="approved before"))
        return judged

    def would_allow(self, name: str, arguments: object) -> str:
        """Return the rule that would allow a call, as it is written in the file; empty for an unknown tool."""
        return self._judged(name, arguments).suggestion if name in self._tools else ""

    # Running.

    async def execute(self, call: ToolCall | Mapping[str, Any]) -> ToolResult:
        """Judge, ask where needed, and run one call. Raises ToolError if it is no call at all, or a part of one."""
        if isinstance(call, Mapping):
            inner = call.get("function", call)
            identity, name = str(call.get("id") or "call"), str(inner.get("name") or "")
            try:
                call = ToolCall(id=identity, name=name, arguments=read_arguments(inner.get("arguments", {})))
            except BadArgumentsError as error:
                return ToolResult(tool_call_id=identity, name=name, status="error", content=f"not run: {error}")
        if not isinstance(call, ToolCall):
            raise ToolError("only a complete, validated tool call can be run")
        ready = Ready(call=call)
        judged = self.judge(ready)
        if judged.decision.decision != "ask":
            return await self.run(ready)
        request = request_for(judged)
        settled = self.settle(ready, request, (await self.approve([request]))[0])
        return settled if isinstance(settled, ToolResult) else await self.run(settled)

    async def approve(self, batch: Sequence[ApprovalRequest]) -> list[ApprovalDecision]:
        """Ask the approver; without one everything is rejected."""
        return await ask(self.approver or DenyAll(), batch, self.world.approval_timeout_s)

    def settle(self, ready: Ready, request: ApprovalRequest, answer: ApprovalDecision) -> Ready | ToolResult:
        """Return what an answer makes of a call: ready to run as it was approved, or a refusal."""
        if answer.decision == "approve":
            if answer.scope in {"session", "always"}:
                self._grants.add(request.grant, lasting=answer.scope == "always")
            return replace(ready, approved=request.binding)
        if answer.decision == "edit" and answer.arguments is not None:
            edited = replace(ready, call=ready.call.model_copy(update={"arguments": answer.arguments}))
            return replace(edited, approved=self.judge(edited).binding)
        judged = self.judge(ready)
        reason = answer.reason or ("left for later" if answer.decision == "later" else "no reason given")
        why = "; ".join(judged.decision.reasons)
        return self._refuse(judged, f"rejected: {reason}" + (f" (asked because: {why})" if why else ""))

    def _refuse(self, judged: Judged, reason: str) -> ToolResult:
        return self._executor.refuse(judged, reason, self.would_allow(judged.call.name, judged.call.arguments))

    async def run(self, ready: Ready) -> ToolResult:
        """Judge once more and run, if it is allowed or is exactly what was approved."""
        await self._refresh(ready.call.name)
        judged = self.judge(ready)
        why = "; ".join(judged.decision.reasons)
        if judged.decision.decision == "deny":
            return self._executor.refuse(judged, why or "denied by a rule")
        if judged.decision.decision == "ask" and ready.approved is None:
            return self._refuse(judged, f"needs approval: {why}")
        if judged.decision.decision == "ask" and ready.approved != judged.binding:
            changed = "the call, the policy or a file changed since it was approved: ask again"
            return self._refuse(judged, changed)
        return await self._executor.run(judged)

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
