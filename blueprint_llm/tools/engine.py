"""The engine: a registry of tools, and the only way to run one.

Every call is judged when it arrives and again right before it runs. An approval is bound to a fingerprint of the tool,
its schema, the arguments, the policy, the effects and the files to be changed, so whatever has changed meanwhile is
asked again.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blueprint_llm.config.blocks import Rule, Tools
from blueprint_llm.config.paths import folder
from blueprint_llm.errors import ConfigError, ToolError
from blueprint_llm.secret import revealed
from blueprint_llm.tools.approval import ApprovalDecision, ApprovalRequest, DenyAll, ask, request_for
from blueprint_llm.tools.commands import CommandTools, Spawner
from blueprint_llm.tools.execution import Executor, Surroundings
from blueprint_llm.tools.files import FileTools, Journal
from blueprint_llm.tools.registry import (
    BadArgumentsError,
    McpConnection,
    Registered,
    from_function,
    from_schema,
    read_arguments,
)
from blueprint_llm.tools.rules import Judged, Mode, Policy, ToolDecision, load_rules
from blueprint_llm.tools.sandbox import Confinement
from blueprint_llm.tools.sealed import Audit, Grants, fingerprint, load_key, state_folder
from blueprint_llm.tools.workspace import Root, Workspace
from blueprint_llm.types import Tool, ToolCall, ToolResult

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


# What a person was shown of calls, and answered, by the calls' ids.
Answers = dict[str, tuple[ApprovalRequest, ApprovalDecision]]


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
        self._rules = load_rules(given.rules if rules is None else rules, self.workspace)
        self._policy = self._policy_of(self._rules)
        self._confinement = Confinement(root, sandbox, self._policy.hides, self._policy.keeps)
        self._open(self._confinement)

    def _policy_of(self, rules: tuple[Rule, ...]) -> Policy:
        # The confinement is made of what the policy hides, so it is looked up late.
        return Policy(rules, self.workspace, self.settings, lambda allowance: self._confinement.doubts(allowance))  # noqa: PLW0108 - likewise

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
        for name, config in self.settings.mcp_servers.items():
            if name in self._connected:  # by an earlier run, or by one that connects right now
                continue
            self._connected.add(name)
            own = {variable: revealed(value) for variable, value in config.env.items()}
            connection = McpConnection(name, config, {**self._environment(), **own}, self.workspace.root)
            try:
                found = self._under_free_names(await connection.open())
            except BaseException:
                self._connected.discard(name)
                connection.close()
                raise
            self._tools |= found
            self._closers.append(connection.close)

    def _under_free_names(self, found: Sequence[Registered]) -> dict[str, Registered]:
        named = {registered.tool.name: registered for registered in found}
        if taken := sorted(named.keys() & self._tools.keys()):
            raise ToolError(f"a tool named {taken[0]} is registered already")
        return named

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
        decision = ToolDecision(decision="deny", reasons=(f"there is no tool named {name!r}",))
        return Judged(registered=from_schema(Tool(name="unknown"), lambda: None), decision=decision)

    def judge(self, ready: Ready) -> Judged:
        """Return a call as it stands now, approvals that still hold included."""
        call = ready.call
        judged = replace(self._judged(call.name, call.arguments, tainted=ready.tainted), call=call, run=ready.run)
        if judged.decision.decision == "ask" and self._grants.holds(judged.grant):
            return replace(judged, decision=replace(judged.decision, decision="allow", rule_id="approved before"))
        return judged

    def would_allow(self, name: str, arguments: object) -> str:
        """Return the rule that would allow a call, as it is written in the file; empty where none would.

        Nothing does what another rule, the kernel here or the kind of a file asks about all the same.
        """
        if name not in self._tools:
            return ""
        rule = self._judged(name, arguments).suggestion
        for tried in (rule, {key: value for key, value in rule.items() if key != "effects"}):  # reading may be enforced
            with suppress(ConfigError):  # such as a path that is no glob
                policy = self._policy_of((*self._rules, *load_rules([tried], self.workspace)))
                if policy.judge(self._tools[name], arguments).decision.decision == "allow":
                    words = (f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in tried.items())
                    return "{" + ", ".join(words) + "}"
        return ""

    # Running.

    async def execute(self, call: ToolCall | Mapping[str, Any]) -> ToolResult:
        """Judge, ask where needed, and run one call. Raises ToolError if it is no call at all, or a part of one."""
        if isinstance(call, Mapping):
            inner = call.get("function", call)
            if not isinstance(inner, Mapping):
                raise ToolError("only a complete, validated tool call can be run")
            identity, name = str(call.get("id") or "call"), str(inner.get("name") or "")
            try:
                call = ToolCall(id=identity, name=name, arguments=read_arguments(inner.get("arguments", {})))
            except BadArgumentsError as error:
                return ToolResult(tool_call_id=identity, name=name, status="error", content=f"not run: {error}")
        if not isinstance(call, ToolCall):
            raise ToolError("only a complete, validated tool call can be run")
        judged, answers = self.judge(ready := Ready(call=call)), {}
        if judged.decision.decision == "ask":
            request = request_for(judged)
            answers[call.id] = request, (await self.approve([request]))[0]
        return (await self.perform([ready], answers))[call.id]

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
        known = self._tools.get(ready.call.name)
        if known and known.refresh:  # a foreign tool: a change is remembered, and its calls ask from then on
            with suppress(ToolError, TimeoutError):  # a server that fails will fail the call itself
                now = await known.refresh()
                if now is None:
                    del self._tools[ready.call.name]
                elif now.tool != known.tool:
                    self._tools[ready.call.name] = replace(now, changed=True)
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

    async def perform(self, batch: Sequence[Ready], answers: Answers) -> dict[str, ToolResult]:
        """Run calls, those that a person was asked about as they were answered; the results by the calls' ids.

        They run in order, and side by side only where every call of a stretch is marked safe for it.
        """
        places, results = asyncio.Semaphore(self.settings.loop.parallel), {}

        async def one(ready: Ready) -> None:
            async with places:
                answer = answers.get(ready.call.id)
                settled = self.settle(ready, *answer) if answer else ready
                results[ready.call.id] = settled if isinstance(settled, ToolResult) else await self.run(settled)

        side_by_side = {name for name, registered in self._tools.items() if registered.traits.parallel}
        for is_parallel, stretch in groupby(batch, lambda ready: ready.call.name in side_by_side):
            if is_parallel:
                async with asyncio.TaskGroup() as group:  # a cancellation is raised when all have ended
                    for ready in stretch:
                        group.create_task(one(ready))
            else:
                for ready in stretch:
                    await one(ready)
        return results


def open_audit(settings: Tools, world: Surroundings | None = None) -> Audit:
    """Return the audit that a configuration names, by default one for all workspaces of the user."""
    around, state = world or Surroundings(), state_folder("tools")
    place = Path(settings.audit.path).expanduser() if settings.audit.path else state / "audit.jsonl"
    return Audit(place, load_key(state / "tools.key", around.random), around.clock, settings.audit.fsync)
