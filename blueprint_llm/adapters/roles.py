"""Roles that a target can play: classes with defaults over the one LiteLLM boundary."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, ClassVar

from blueprint_llm.context.policy import is_local
from blueprint_llm.errors import ConfigError

if TYPE_CHECKING:
    from blueprint_llm.adapters.contract import Call, StreamHandle
    from blueprint_llm.config.model import Config
    from blueprint_llm.credentials import CredentialsManager

BOUNDARY = "blueprint_llm.adapters.litellm"


class LiteLLMAdapter:
    """Send calls through LiteLLM."""

    role: ClassVar[str] = "cloud"

    def __init__(self, provider: str) -> None:
        self.provider = provider

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.provider!r})"

    @property
    def ready(self) -> bool:
        """Return True if LiteLLM is loaded."""
        return BOUNDARY in sys.modules and _boundary().is_loaded()

    def load(self) -> None:
        """Import LiteLLM: seconds, once."""
        _boundary().module()

    async def complete(self, call: Call) -> Any:
        """Return a whole answer. Raise CallError."""
        return await _boundary().complete(call)

    async def open(self, call: Call) -> StreamHandle:
        """Start a stream. Raise CallError."""
        handle: StreamHandle = await _boundary().open_stream(call)
        return handle

    def cost_of(self, answer: Any, call: Call) -> float | None:
        """Return what LiteLLM says that an answer cost in USD, or None where no price is known."""
        cost_usd: float | None = _boundary().cost_of(answer, model=call.model, params=call.params)
        return cost_usd


def _boundary() -> Any:
    from blueprint_llm.adapters import litellm as _litellm  # noqa: PLC0415 - LiteLLM loads on the first call, not on import

    return _litellm


class LocalAdapter(LiteLLMAdapter):
    """A model on this machine: embedded, Ollama, DeepSeek or any server on the loopback. Never gets a codebase."""

    role = "local"


class CloudAdapter(LiteLLMAdapter):
    """The provider that does the daily work (OpenAI unless configured)."""

    role = "cloud"


class FallbackAdapter(LiteLLMAdapter):
    """Another provider for when the first is down."""

    role = "fallback"


class OpusAdapter(LiteLLMAdapter):
    """The heavy model for planning and review (Anthropic unless configured)."""

    role = "opus"


ROLES: dict[str, type[LiteLLMAdapter]] = {
    adapter.role: adapter for adapter in (LocalAdapter, CloudAdapter, FallbackAdapter, OpusAdapter)
}


class AdapterFactory:
    """Make the adapter of a provider: by its `role`, else by a role of its name, else by where its model runs."""

    def __init__(self, config: Config, credentials: CredentialsManager | None = None) -> None:
        self.config, self.credentials = config, credentials

    def create(self, provider: str) -> LiteLLMAdapter:
        """Return the adapter of a key of `providers` or a `model_list` group. Raise ConfigError for any other."""
        settings = self.config.providers.get(provider)
        if settings is not None:
            role = settings.role or (provider if provider in ROLES else _by_place(settings.model, settings.api_base))
            return ROLES[role](provider)
        if group := self.config.model_groups.get(provider):
            return ROLES[_by_place(group[0].model, group[0].params.get("api_base"))](provider)
        known = ", ".join([*self.config.providers, *self.config.model_groups])
        raise ConfigError(f"unknown provider {provider!r}: the configuration has {known or 'none'}")

    def for_model(self, provider: str, model: str, api_base: str | None = None) -> LiteLLMAdapter:
        """Return the adapter of a target that may stand outside the configuration."""
        if provider in self.config.providers:
            return self.create(provider)
        return ROLES[_by_place(model, api_base)](provider)


def _by_place(model: str, api_base: str | None) -> str:
    return "local" if is_local(model, api_base) else "cloud"
