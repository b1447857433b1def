"""Roles that a target can play: classes with defaults over the one LiteLLM boundary."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from blueprint_llm.context import is_local
from blueprint_llm.errors import ConfigError

if TYPE_CHECKING:
    from blueprint_llm.adapters.contract import AsyncStreamHandle, Call, StreamHandle
    from blueprint_llm.config.model import Config
    from blueprint_llm.credentials import CredentialsManager

BOUNDARY = "blueprint_llm.adapters.litellm"


class LiteLLMAdapter:
    """Send calls through LiteLLM.

    Attributes:
        default_model: Used where the configuration names none.
        share_codebase: Whether parts of a project may be sent, where the configuration does not say.
        defaults: LiteLLM keywords for every call of this role; the caller's win.
    """

    role: ClassVar[str] = "cloud"
    default_model: ClassVar[str] = "openai/gpt-4o"
    share_codebase: ClassVar[bool] = True
    defaults: ClassVar[dict[str, Any]] = {}

    def __init__(self, provider: str) -> None:
        self.provider = provider

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.provider!r})"

    @property
    def ready(self) -> bool:
        """Whether LiteLLM is loaded."""
        return BOUNDARY in sys.modules and _boundary().is_loaded()

    def load(self) -> None:
        """Import LiteLLM: seconds, once."""
        _boundary().module()

    def complete(self, call: Call) -> Any:
        """A whole answer. Raises CallError."""
        return _boundary().complete(self._with_defaults(call))

    async def acomplete(self, call: Call) -> Any:
        """A whole answer. Raises CallError."""
        return await _boundary().acomplete(self._with_defaults(call))

    def open(self, call: Call) -> StreamHandle:
        """Start a stream. Raises CallError."""
        handle: StreamHandle = _boundary().open_stream(self._with_defaults(call))
        return handle

    async def aopen(self, call: Call) -> AsyncStreamHandle:
        """Start a stream. Raises CallError."""
        handle: AsyncStreamHandle = await _boundary().aopen_stream(self._with_defaults(call))
        return handle

    def _with_defaults(self, call: Call) -> Call:
        return replace(call, params={**self.defaults, **call.params}) if self.defaults else call


def _boundary() -> Any:
    from blueprint_llm.adapters import litellm as _litellm  # noqa: PLC0415 - LiteLLM loads on the first call, not on import

    return _litellm


class LocalAdapter(LiteLLMAdapter):
    """A model on this machine: embedded, Ollama, DeepSeek or any server on the loopback. Never gets a codebase."""

    role = "local"
    default_model = "embedded/smollm2"
    share_codebase = False


class CloudAdapter(LiteLLMAdapter):
    """The provider that does the daily work (OpenAI unless configured)."""

    role = "cloud"


class FallbackAdapter(LiteLLMAdapter):
    """Another provider for when the first is down."""

    role = "fallback"
    default_model = "deepseek/deepseek-chat"


class OpusAdapter(LiteLLMAdapter):
    """The heavy model for planning and review (Anthropic unless configured)."""

    role = "opus"
    default_model = "anthropic/claude-opus-4-5"


ROLES: dict[str, type[LiteLLMAdapter]] = {
    adapter.role: adapter for adapter in (LocalAdapter, CloudAdapter, FallbackAdapter, OpusAdapter)
}


class AdapterFactory:
    """Make the adapter of a provider: by its `role`, else by a role of its name, else by where its model runs."""

    def __init__(self, config: Config, credentials: CredentialsManager | None = None) -> None:
        self.config, self.credentials = config, credentials

    def create(self, provider: str) -> LiteLLMAdapter:
        """The adapter of a key of `providers`, a `model_list` group or a LiteLLM model id.

        Raises:
            ConfigError: The configuration knows no such provider.
        """
        settings = self.config.providers.get(provider)
        if settings is not None:
            role = settings.role or (provider if provider in ROLES else _by_place(settings.model, settings.api_base))
            return ROLES[role](provider)
        if group := self.config.model_groups.get(provider):
            return ROLES[_by_place(group[0].model, group[0].params.get("api_base"))](provider)
        known = ", ".join([*self.config.providers, *self.config.model_groups])
        raise ConfigError(f"unknown provider {provider!r}: the configuration has {known or 'none'}")

    def for_model(self, provider: str, model: str, api_base: str | None = None) -> LiteLLMAdapter:
        """The adapter of a target that may stand outside the configuration."""
        if provider in self.config.providers:
            return self.create(provider)
        return ROLES[_by_place(model, api_base)](provider)


def _by_place(model: str, api_base: str | None) -> str:
    return "local" if is_local(model, api_base) else "cloud"
