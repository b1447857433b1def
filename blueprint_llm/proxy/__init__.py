"""Our policies in a running LiteLLM proxy: `litellm_settings: {callbacks: [blueprint_llm.proxy.hooks]}` in its YAML."""

from blueprint_llm.proxy.plugin import Hooks, config_source

hooks = Hooks()
if config_source() is not None:  # a mistake in the file stops the proxy at its start, not its every call
    hooks.load()

__all__ = ["Hooks", "hooks"]
