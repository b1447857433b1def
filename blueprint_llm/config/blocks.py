"""The `blueprint:` block: its sections, and the values that several of them take."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from blueprint_llm.config.secrets import SecretText, WrittenText, masked, protect
from blueprint_llm.secret import Secret, revealed

if TYPE_CHECKING:
    from collections.abc import Iterable


class Section(BaseModel):
    """A frozen part of the configuration; unknown keys are mistakes, secrets never show."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        return [(name, masked(value, name or "")) for name, value in super().__repr_args__()]


def _like(pattern: str, wanted: str) -> AfterValidator:
    """Return a check that a text looks like `pattern`, which `wanted` puts into words."""

    def checked(value: str | Secret) -> str | Secret:
        if not re.fullmatch(pattern, revealed(value)):
            raise ValueError(f"must be {wanted}")
        return value

    return AfterValidator(checked)


def _with_port(value: str | Secret) -> str | Secret:
    scheme, _, place = revealed(value).partition("://")
    try:
        if scheme in {"redis", "rediss"}:
            urlsplit(f"//{place.rpartition('@')[2]}").port  # noqa: B018 - it raises; without the password
    except ValueError:
        raise ValueError("must have a port from 0 to 65535 behind the host's name") from None
    return value


def _or_one(kind: Any) -> BeforeValidator:
    """Return what takes a text for a list (of this kind) of one."""
    return BeforeValidator(
        lambda value: [value] if isinstance(value, str) else value, json_schema_input_type=str | kind
    )


_port = AfterValidator(_with_port)
_SCOPES = "call, session, project, global, provider:NAME or model:NAME"
_WINDOWS = "minute, hour, day, month, session or <n>s"
_STORES = "sqlite, sqlite:PATH, memory or redis://host:port/0"

Scope = Annotated[str, _like("call|session|project|global|(provider|model):.+", _SCOPES), Field(description=_SCOPES)]
Window = Annotated[
    str, _like(r"minute|hour|day|month|session|[1-9]\d*s", f"{_WINDOWS} (60s)"), Field(description=_WINDOWS)
]
Names = Annotated[list[str], _or_one(list[str])]
_Some = Annotated[list[str], Field(min_length=1)]
Effects = list[Literal["read", "write", "network"]]
Example = str | list[str]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


class ProviderConfig(Section):
    """A named target. Keys that are not listed here go to LiteLLM with every call (`litellm_params` style).

    Attributes:
        model: A `model_name` of `model_list`, or a LiteLLM model id.
        max_context_tokens: Most input tokens ever sent to it.
        share_codebase: Whether parts of a project may be sent; None: decided by where the model runs.
    """

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=(), allow_inf_nan=False)

    model: str = Field(min_length=1)
    role: Literal["local", "cloud", "fallback", "opus"] | None = None
    max_context_tokens: int | None = Field(default=None, ge=1)
    share_codebase: bool | None = None
    tasks: Names = Field(default_factory=list)
    credentials: str | None = None
    api_base: WrittenText | None = None
    api_key: Annotated[SecretText, AfterValidator(partial(protect, "api_key"))] | None = Field(default=None, repr=False)
    timeout_s: Positive | None = None

    @model_validator(mode="after")
    def _hide_keys(self) -> Self:
        # Only what LiteLLM is given can be a key: elsewhere stand names of the user's own choice (a chain `turnkey`).
        self.__pydantic_extra__ = protect("", self.model_extra)
        return self


class Comparison(Section):
    """Bounds on a number: every one given must hold."""

    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None
    scope: Scope | None = None


def _more_than(value: Any) -> Any:
    return {"gt": value} if isinstance(value, int | float) and not isinstance(value, bool) else value


Bounds = Annotated[Comparison, BeforeValidator(_more_than, json_schema_input_type=float | Comparison)]


class When(Section):
    """What a request must look like for a route: every condition given must hold."""

    task_type: Names | None = None
    input_tokens: Bounds | None = None
    context_window: Bounds | None = None
    budget_used: Bounds | None = None
    planning: bool | None = None
    metadata: dict[str, Any] | None = None


class Route(Section):
    """A rule: requests that match `when` take `chain` (names, or the name of a chain)."""

    when: When
    chain: Annotated[_Some, _or_one(_Some)]
    name: str | None = None


class Retry(Section):
    """Retries at one target. `max_attempts` includes the first; times in seconds."""

    max_attempts: int = Field(default=3, ge=1)
    base_s: float = Field(default=0.5, ge=0)
    cap_s: float = Field(default=8, ge=0)
    jitter: Literal["full", "none"] = "full"
    max_retry_after_s: float = Field(default=20, ge=0)
    ratio: Share = 0.2


class Deadline(Section):
    """Seconds. `total_s`: a whole call, or a stream up to its first delta plus all waits."""

    total_s: Positive = 600
    first_token_s: Positive = 60
    idle_s: Positive = 60


class Breaker(Section):
    """When a target is left alone, and how it comes back."""

    failures: int = Field(default=3, ge=1)
    open_s: Positive = 10
    half_open_probes: int = Field(default=1, ge=1)


class Budget(Section):
    """A limit in USD over a scope and a window."""

    scope: Scope
    limit_usd: float = Field(ge=0)
    window: Window = "month"
    warn_at: list[Share] = Field(default_factory=list)
    on_exceed: Literal["warn", "degrade", "block"] = "block"
    chain: Names | None = None


class Quota(Section):
    """A limit in requests or tokens over a scope and a window."""

    scope: Scope
    requests: int | None = Field(default=None, ge=0)
    tokens: int | None = Field(default=None, ge=0)
    window: Window = "minute"

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.requests is None and self.tokens is None:
            raise ValueError("must limit requests or tokens")
        return self


class Pricing(Section):
    """What an unknown price means under a USD budget, and the user's own price files."""

    unknown: Literal["block", "warn", "assume_zero"] = "block"
    files: Names = Field(default_factory=list)


class Streaming(Section):
    """What becomes of a broken stream and of a broken tool call."""

    on_break: Literal["restart", "resume", "fail"] = "restart"
    validate_tools: bool = True
    reask: int = Field(default=1, ge=0)


class Cache(Section):
    """The response cache; off unless enabled."""

    enabled: bool = False
    directory: str | None = None
    ttl_s: Positive = 86400
    size_limit_bytes: int = Field(default=1 << 30, ge=1)
    nondeterministic: bool = False
    provider_hints: Literal["pass", "auto"] = "pass"


class Planning(Section):
    """Who plans, and how much it may read. `summaries`: extra calls condense files that do not fit."""

    provider: str | None = None
    max_context_tokens: int = Field(default=150000, ge=1)
    summaries: bool = False


class Credentials(Section):
    """Where keys come from besides the environment."""

    file: str | None = None
    keyring: bool = False


class StoreConfig(Section):
    """Where state lives. `reservation_ttl_s` counts from the last heartbeat; None: `deadline.total_s` + 10."""

    url: Annotated[SecretText, _like(r"(sqlite|memory)(:[\s\S]*)?|(rediss?:/|unix:)/[\s\S]+", _STORES), _port] = (
        "sqlite"
    )
    reservation_ttl_s: Positive | None = None
    on_failure: Literal["error", "memory"] = "error"

    @property
    def kind(self) -> str:
        """What the address begins with."""
        return revealed(self.url).partition(":")[0]

    @property
    def is_shared(self) -> bool:
        """Whether other machines may use it too."""
        return self.kind in {"redis", "rediss", "unix"}


class Logging(Section):
    """How events are logged."""

    format: Literal["console", "json"] = "console"
    level: Literal["debug", "info", "warning", "error"] = "info"


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
    effects: Annotated[Effects, _or_one(Effects)] = ["read"]
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

    command: list[str] = Field(min_length=1)
    env: Annotated[dict[str, SecretText], AfterValidator(partial(protect, "env"))] = Field(default_factory=dict)
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


class Blueprint(Section):
    """The whole `blueprint:` block."""

    version: Literal[1] = 1
    project: str | None = None
    providers: dict[str, ProviderConfig] = Field(default_factory=dict)
    chains: dict[str, Names] = Field(default_factory=dict)
    routes: list[Route] = Field(default_factory=list)
    retry: Retry | None = None
    deadline: Deadline = Deadline()
    breaker: Breaker = Breaker()
    budgets: list[Budget] = Field(default_factory=list)
    quotas: list[Quota] = Field(default_factory=list)
    pricing: Pricing = Pricing()
    streaming: Streaming = Streaming()
    cache: Cache = Cache()
    tools: Tools = Tools()
    planning: Planning = Planning()
    credentials: Credentials = Credentials()
    store: StoreConfig = StoreConfig()
    logging: Logging = Logging()
    strict: bool = False
