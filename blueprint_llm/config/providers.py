"""Which environment variables a provider's key and address stand in, by LiteLLM's own conventions.

A provider that is not listed follows the rule most of them follow: `<PROVIDER>_API_KEY` and `<PROVIDER>_API_BASE`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from blueprint_llm.config.problems import words

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Names:
    """Environment variables, the usual one first."""

    keys: tuple[str, ...]
    bases: tuple[str, ...]


def _names(provider: str, keys: str = "", bases: str = "") -> Names:
    stem = env_stem(provider)
    return Names(tuple(keys.split()) or (f"{stem}_API_KEY",), tuple(bases.split()) or (f"{stem}_API_BASE",))


@lru_cache(256)
def env_stem(name: str) -> str:
    """A provider's name as part of an environment variable's."""
    return re.sub(r"[^A-Z0-9]+", "_", name.upper()).strip("_")


# Read off litellm 1.106.2: main.py and utils.validate_environment.
USUAL = words("azure_ai deepseek groq mistral codestral xai cerebras deepinfra nvidia_nim sambanova ollama")
TABLE: dict[str, Names] = {
    name: _names(name, *own)
    for name, own in {
        **dict.fromkeys(sorted(USUAL), ()),
        "openai": ("", "OPENAI_BASE_URL OPENAI_API_BASE"),
        "anthropic": ("ANTHROPIC_API_KEY ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_API_BASE ANTHROPIC_BASE_URL"),
        "azure": ("AZURE_OPENAI_API_KEY AZURE_API_KEY",),
        "gemini": ("GEMINI_API_KEY GOOGLE_API_KEY",),
        "openrouter": ("OPENROUTER_API_KEY OR_API_KEY",),
        "together_ai": ("TOGETHERAI_API_KEY TOGETHER_API_KEY TOGETHER_AI_API_KEY TOGETHER_AI_TOKEN",),
        "fireworks_ai": ("FIREWORKS_AI_API_KEY FIREWORKS_API_KEY FIREWORKSAI_API_KEY FIREWORKS_AI_TOKEN",),
        "cohere": ("COHERE_API_KEY CO_API_KEY",),
        "perplexity": ("PERPLEXITYAI_API_KEY PERPLEXITY_API_KEY",),
        "replicate": ("REPLICATE_API_KEY REPLICATE_API_TOKEN",),
        "huggingface": ("HUGGINGFACE_API_KEY HF_TOKEN", "HUGGINGFACE_API_BASE HF_API_BASE"),
        "watsonx": ("WATSONX_APIKEY WATSONX_API_KEY WX_API_KEY", "WATSONX_API_BASE WATSONX_URL WX_URL WML_URL"),
        "cometapi": ("COMETAPI_KEY COMETAPI_API_KEY",),
        "datarobot": ("DATAROBOT_API_TOKEN",),
        "aleph_alpha": ("ALEPH_ALPHA_API_KEY ALEPHALPHA_API_KEY",),
        "qwencloud": ("QWENCLOUD_API_KEY DASHSCOPE_API_KEY",),
    }.items()
}
_ALIASES = {
    "ollama_chat": "ollama",
    "cohere_chat": "cohere",
    "azure_text": "azure",
    "text-completion-openai": "openai",
    "text-completion-codestral": "codestral",
}

# Own credentials chains (cloud roles, service accounts, logins), or nobody to ask for a key.
_KEYLESS = frozenset({
    "embedded", "ollama", "ollama_chat", "llamafile", "lm_studio", "hosted_vllm", "vllm", "xinference", "triton",
    "docker_model_runner", "lemonade", "bedrock", "bedrock_converse", "sagemaker", "sagemaker_chat", "vertex_ai",
    "vertex_ai_beta", "github_copilot", "chatgpt", "oci", "sap", "petals",
})  # fmt: skip

# LiteLLM takes these models without a prefix.
_BARE = (
    ("anthropic", re.compile(r"claude")),
    ("cohere", re.compile(r"command")),
    ("vertex_ai", re.compile(r"gemini|chat-bison")),
    ("deepseek", re.compile(r"deepseek-(chat|reasoner)")),
)


@lru_cache(256)
def names_of(provider: str) -> Names:
    """The variables of a LiteLLM provider."""
    return TABLE.get(_ALIASES.get(provider, provider)) or _names(provider)


def litellm_provider(model: str, params: Mapping[str, Any]) -> str:
    """LiteLLM's provider of a model id."""
    if custom := params.get("custom_llm_provider"):
        return str(custom)
    prefix, slash, _ = model.partition("/")
    if slash:
        return prefix
    return next((provider for provider, pattern in _BARE if pattern.match(model)), "openai")


def needs_key(provider: str, base_url: str | None) -> bool:
    """Whether a call without a key cannot succeed."""
    return provider not in _KEYLESS and not is_loopback(base_url)


def is_loopback(base_url: str | None) -> bool:
    """Whether an address names this machine."""
    try:
        host = urlsplit(base_url or "").hostname or ""
        return host == "localhost" or host.endswith(".localhost") or ip_address(host).is_loopback
    except ValueError:  # another host's name, or no URL at all
        return False
