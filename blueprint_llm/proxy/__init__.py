"""Our policies in a running LiteLLM proxy: `litellm_settings: {callbacks: [blueprint_llm.proxy.hooks]}` in its YAML.

LiteLLM routes, retries, holds the keys and makes the calls; each call that it makes is an attempt of ours.
"""

from blueprint_llm.proxy.plugin import Hooks

hooks = Hooks()

__all__ = ["Hooks", "hooks"]
