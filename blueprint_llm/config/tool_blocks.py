"""The sections of `blueprint.tools`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from blueprint_llm.config.secrets import SecretText
from blueprint_llm.config.section import Names, Positive, Section


class Sandbox(Section):
    """How far a tool's process is confined by the kernel; `read` and `write` name paths beside the workspace."""

    backend: Literal["auto", "landlock", "bubblewrap", "none"] = "auto"
    required: bool = False
    network: bool = False
    read: Names = Field(default_factory=list)
    write: Names = Field(default_factory=list)


class ToolEnv(Section):
    """Which environment variables a tool's process gets."""

    pass_: Names = Field(default_factory=lambda: ["PATH", "LANG", "HOME"], alias="pass")


class ToolLimits(Section):
    """Limits of a tool's process. `output_bytes` is kept of its output; beyond `stop_output_mb` it is stopped."""

    timeout_s: Positive = 120
    output_bytes: int = Field(default=64000, ge=1)
    stop_output_mb: int = Field(default=2048, ge=1)
    memory_mb: int = Field(default=4096, ge=1)
    file_mb: int = Field(default=1024, ge=1)
    processes: int = Field(default=256, ge=1)


class Audit(Section):
    """Where tool calls are recorded, and when the record is synced to disk."""

    path: str | None = None
    fsync: Literal["intent", "all", "none"] = "intent"


class Loop(Section):
    """Limits of the agent loop."""

    max_turns: int = Field(default=30, ge=1)
    max_denials: int = Field(default=5, ge=0)
    parallel: int = Field(default=4, ge=1)


class McpServer(Section):
    """An MCP server over stdio; `env` is all it gets besides `tools.env.pass`."""

    held = frozenset({"env"})

    command: list[str] = Field(min_length=1)
    env: dict[str, SecretText] = Field(default_factory=dict)
    timeout_s: Positive = 30


class Tools(Section):
    """What tools may do (see the tools page)."""

    workspace: str = "."
    mode: Literal["manual", "whitelist", "trust"] = "manual"
    rules: list[dict[str, Any]] = Field(default_factory=list)
    sandbox: Sandbox = Sandbox()
    env: ToolEnv = ToolEnv()
    limits: ToolLimits = ToolLimits()
    audit: Audit = Audit()
    loop: Loop = Loop()
    mcp_servers: dict[str, McpServer] = Field(default_factory=dict)
