"""The sections of the `blueprint:` block, those of its tools aside, and the values that several of them take."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator

from blueprint_llm.config.secrets import Keyed, SecretText, WrittenText, masked
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
    api_base: WrittenText | None = None
    api_key: SecretText | None = Field(default=None, repr=False)
    timeout_s: Positive | None = None


class Comparison(Section):
    """Bounds on a number: every one given must hold."""

    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None
    scope: Scope | None = None


def bounds(value: Any) -> Any:
    """Read a number as `more than` it."""
    return {"gt": value} if isinstance(value, int | float) and not isinstance(value, bool) else value


Bounds = Annotated[Comparison, BeforeValidator(bounds)]


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
