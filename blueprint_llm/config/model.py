"""The shape of the `blueprint:` block and of a loaded configuration (API section 5).

Every record is frozen: reloading swaps one object, calls in flight keep theirs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field

from blueprint_llm.config.blocks import (
    Breaker,
    Budget,
    Cache,
    Credentials,
    Deadline,
    Logging,
    Planning,
    Pricing,
    ProviderConfig,
    Quota,
    Retry,
    Route,
    StoreConfig,
    Streaming,
)
from blueprint_llm.config.environment import targets_of
from blueprint_llm.config.secrets import FALLBACKS, WrittenText, protect_named, protect_settings
from blueprint_llm.config.section import Names, Section
from blueprint_llm.config.tool_blocks import Tools

if TYPE_CHECKING:
    from collections.abc import Iterator


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
    model: WrittenText
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
    cooldown_time: float = 5
    retry_after: float = 0
    routing_strategy: str = "simple-shuffle"
    timeout: float | None = None
    stream_timeout: float | None = None
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

    def targets(self) -> Iterator[dict[str, Any]]:
        """Yield the LiteLLM parameters of all that can be called, keys as Secrets or not yet resolved."""
        groups = {
            name: [{**each.params, "model": each.model} for each in found] for name, found in self.model_groups.items()
        }
        return targets_of(groups, (dict(provider) for provider in self.providers.values()), self.credential_list)

    @property
    def folder(self) -> Path | None:
        """Where relative paths start: at the file; None: there is none."""
        return Path(self.source).parent if self.source and Path(self.source).is_file() else None
