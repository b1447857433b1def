"""The sections of `blueprint.tools`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from blueprint_llm.config.blocks import Names, Positive, Section
from blueprint_llm.config.secrets import SecretText

EffectNames = Annotated[
    list[Literal["read", "write", "network"]],
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
]
Example = str | list[str]


class Rule(Section):
    """One rule of the user: `allow`, `ask` or `deny` names tools, `*` means any.

    `argv` holds the first words of a command: a list in place of a word means any of them, `*` any word. `paths` are
    globs below the workspace. `effects` says what an allowed command may do: `read` (the default), `write`, `network`.
    `match` and `not_match` are examples that are checked when the rule loads.
    """

    allow: Names | None = None
    ask: Names | None = None
    deny: Names | None = None
    argv: list[Names] | None = Field(default=None, min_length=1)
    paths: Names | None = None
    effects: EffectNames = Field(default=["read"])
    why: str = ""
    id: str | None = None
    match: list[Example] = Field(default_factory=list)
    not_match: list[Example] = Field(default_factory=list)

    @model_validator(mode="before")
    @classmethod
    def _no_flags(cls, value: Any) -> Any:
        if isinstance(value, dict) and "flags" in value:
            raise ValueError("`flags` is gone: a command may use any flag, the kernel holds it to the rule's `effects`")
        return value

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if sum(names is not None for names in (self.allow, self.ask, self.deny)) != 1:
            raise ValueError("needs exactly one of allow, ask and deny")
        if "effects" in self.model_fields_set and not {"command", "run_tests", "*"} & set(self.tools):
            raise ValueError("effects are about commands: name `command` or `run_tests`")
        if "effects" in self.model_fields_set and self.deny is not None:
            raise ValueError("effects belong to allow and ask: what is denied has none")
        return self

    @property
    def tools(self) -> list[str]:
        """The tools it is about."""
        return self.allow or self.ask or self.deny or []


class Sandbox(Section):
    """How far a tool's process is confined by the kernel; `read` and `write` name paths beside the workspace.

    A secret of the workspace that `read` names (`.env.test`) is shown to commands. With `loopback`, commands whose
    network is closed have a loopback network of their own, for tests that start servers (bubblewrap only).
    """

    backend: Literal["auto", "landlock", "bubblewrap", "none"] = "auto"
    required: bool = False
    loopback: bool = False
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
    rules: list[Rule] = Field(default_factory=list)
    sandbox: Sandbox = Sandbox()
    env: ToolEnv = ToolEnv()
    limits: ToolLimits = ToolLimits()
    audit: Audit = Audit()
    loop: Loop = Loop()
    mcp_servers: dict[str, McpServer] = Field(default_factory=dict)
