"""The shape of the `blueprint:` block and of a loaded configuration (API section 5).

Every record is frozen: reloading swaps one object, calls in flight keep theirs.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator

from blueprint_llm.config.masking import masked
from blueprint_llm.config.secrets import FALLBACKS, Keyed, SecretText, protect_named, protect_settings
from blueprint_llm.redaction import carries_more
from blueprint_llm.secret import Secret, revealed

if TYPE_CHECKING:
    from collections.abc import Iterable


class Section(Keyed):
    """A frozen part of the configuration; unknown keys are mistakes, secrets never show."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        return [(name, masked(value, name or "")) for name, value in super().__repr_args__()]


def _window(value: str) -> str:
    if value not in {"minute", "hour", "day", "month", "session"} and not re.fullmatch(r"[1-9]\d*s", value):
        raise ValueError("must be minute, hour, day, month, session or <n>s (60s)")
    return value


def _scope(value: str) -> str:
    if value not in {"call", "session", "project", "global"} and not re.fullmatch(r"(provider|model):.+", value):
        raise ValueError("must be call, session, project, global, provider:NAME or model:NAME")
    return value


def _many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Window = Annotated[str, AfterValidator(_window), Field(description="minute, hour, day, month, session or <n>s")]
Scope = Annotated[
    str,
    AfterValidator(_scope),
    Field(description="call, session, project, global, provider:NAME or model:NAME"),
]
Names = Annotated[list[str], BeforeValidator(_many)]
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
    held = frozenset({"api_key"})

    model: str = Field(min_length=1)
    role: Literal["local", "cloud", "fallback", "opus"] | None = None
    max_context_tokens: int | None = Field(default=None, ge=1)
    share_codebase: bool | None = None
    tasks: Names = Field(default_factory=list)
    credentials: str | None = None
    api_base: str | None = None
    api_key: SecretText | None = Field(default=None, repr=False)
    timeout_s: Positive | None = None


class Comparison(Section):
    """Bounds on a number: every one given must hold."""

    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None
    scope: Scope | None = None


def _bounds(value: Any) -> Any:
    return {"gt": value} if isinstance(value, int | float) and not isinstance(value, bool) else value


Bounds = Annotated[Comparison, BeforeValidator(_bounds)]


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
    chain: Names = Field(min_length=1)
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

    total_s: Positive = 120
    first_token_s: Positive = 20
    idle_s: Positive = 15


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


class Planning(Section):
    """Who plans, and how much it may read. `summaries`: extra calls condense files that do not fit."""

    provider: str | None = None
    max_context_tokens: int = Field(default=150000, ge=1)
    summaries: bool = False


class Credentials(Section):
    """Where keys come from besides the environment."""

    file: str | None = None
    keyring: bool = False


def _store_url(value: str | Secret) -> str | Secret:
    if revealed(value).partition(":")[0] not in {"sqlite", "memory", "redis", "rediss", "unix"}:
        raise ValueError("must be sqlite, sqlite:PATH, memory or redis://host:port/0")
    return value


class StoreConfig(Section):
    """Where state lives. `reservation_ttl_s` counts from the last heartbeat; None: `deadline.total_s` + 10."""

    url: Annotated[SecretText, AfterValidator(_store_url)] = "sqlite"
    reservation_ttl_s: Positive | None = None
    on_failure: Literal["error", "memory"] = "error"

    def protected(self) -> Self:
        """As of every record: a password in the address makes a key of it."""
        url = revealed(self.url)
        return self.model_copy(update={"url": Secret(url)}) if carries_more(url) else self

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


class Deployment(Section):
    """One entry of LiteLLM's `model_list`.

    Attributes:
        group: Its `model_name`.
        model: The LiteLLM model id (`litellm_params.model`).
        params: The other `litellm_params`, as written (`os.environ/NAME` not yet resolved).
        info: `model_info`, as written.
        id: `model_info.id`, else a fingerprint that holds over reloads and knows no secret.
        rpm, tpm: Most requests and tokens a minute.
        weight: Its share in a random choice among its group; None counts as 1.
        order: Groups ask deployments of a lower order first.
        max_budget: USD per `budget_duration` (`1d`, `30s`, ...).
    """

    held = frozenset({"params", "info"})

    group: str
    model: str
    params: dict[str, Any] = Field(default_factory=dict, repr=False)
    info: dict[str, Any] = Field(default_factory=dict)
    id: str = ""
    rpm: int | None = None
    tpm: int | None = None
    weight: float | None = None
    order: int | None = None
    max_budget: float | None = None
    budget_duration: str | None = None


class Config(Blueprint):
    """A loaded configuration: our block, and LiteLLM's `model_list` and `router_settings` in LiteLLM's shapes.

    Attributes:
        model_groups: The deployments by `model_name`.
        fallbacks: As LiteLLM's Router holds them: `default_fallbacks` are the last entry, under `*`.
        timeout: Seconds a LiteLLM call may take (`timeout`, else `request_timeout`).
        router_settings, litellm_settings: As written, also what has no field of its own.
        notices: Ignored keys and doubts, one sentence each.
        source: The file it came from; None for a mapping.
        digest: sha256 over everything above, secrets replaced: the `policy_hash` of traces.
    """

    held = frozenset({"credential_list"})

    model_groups: dict[str, list[Deployment]] = Field(default_factory=dict)
    fallbacks: list[dict[str, list[Any]]] = Field(default_factory=list)
    context_window_fallbacks: list[dict[str, list[Any]]] = Field(default_factory=list)
    content_policy_fallbacks: list[dict[str, list[Any]]] = Field(default_factory=list)
    default_fallbacks: list[str] = Field(default_factory=list)
    model_group_alias: dict[str, Any] = Field(default_factory=dict)
    num_retries: int = 2
    max_fallbacks: int = 5
    allowed_fails: int = 3
    allowed_fails_policy: dict[str, Any] = Field(default_factory=dict)
    cooldown_time: float = 5
    disable_cooldowns: bool = False
    retry_after: float = 0
    retry_policy: dict[str, Any] = Field(default_factory=dict)
    model_group_retry_policy: dict[str, Any] = Field(default_factory=dict)
    routing_strategy: str = "simple-shuffle"
    routing_strategy_args: dict[str, Any] = Field(default_factory=dict)
    provider_budget_config: dict[str, Any] = Field(default_factory=dict)
    timeout: float | None = None
    stream_timeout: float | None = None
    drop_params: bool = False
    enable_pre_call_checks: bool = False
    enable_tag_filtering: bool = False
    tag_filtering_match_any: bool = True
    tag_routing_prefix: str = ""
    router_settings: dict[str, Any] = Field(default_factory=dict)
    litellm_settings: dict[str, Any] = Field(default_factory=dict)
    credential_list: list[dict[str, Any]] = Field(default_factory=list, repr=False)
    notices: list[str] = Field(default_factory=list)
    source: str | None = None
    digest: str = ""

    def protected(self) -> Self:
        """As of every record; LiteLLM's settings and fallbacks may bring keys along, too."""
        settings = {name: protect_settings(getattr(self, name)) for name in ("router_settings", "litellm_settings")}
        fallbacks = {name: protect_named(getattr(self, name)) for name in FALLBACKS}
        return super(Config, self.model_copy(update={**settings, **fallbacks})).protected()

    @property
    def folder(self) -> Path | None:
        """Where relative paths start: at the file; None: there is none."""
        return Path(self.source).parent if self.source and Path(self.source).is_file() else None
