"""Which model ids LiteLLM can resolve, by the JSON files in its package: nothing of LiteLLM is imported."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import orjson

from blueprint_llm.config.problems import nearest, words
from blueprint_llm.config.secrets import shown

_MODELS, _PROVIDERS = "model_prices_and_context_window_backup.json", "provider_endpoints_support_backup.json"
# Providers that neither file names; a test compares with the installed LiteLLM.
UNLISTED = words(
    """a2a_agent aiohttp_openai aws_textract azure_speech databricks_agent dotprompt embedded humanloop langfuse
    litellm_agent nano-gpt sagemaker_nova veniceai vertex_ai_beta"""
)


def _read(name: str) -> dict[str, Any]:
    """Return the content of a file in LiteLLM's package; nothing where it is not there."""
    spec = find_spec("litellm")
    folders = (spec.submodule_search_locations if spec else None) or []
    files = [path for folder in folders if (path := Path(folder) / name).is_file()]
    return orjson.loads(files[0].read_bytes()) if files else {}


@cache
def known_ids() -> frozenset[str]:
    """Every model id of LiteLLM's map; empty where LiteLLM is not installed."""
    return frozenset(_read(_MODELS)) - {"sample_spec"}


@cache
def providers() -> frozenset[str]:
    """The providers that LiteLLM documents, and a few more."""
    return frozenset(_read(_PROVIDERS).get("providers", ())) | UNLISTED


@cache
def all_providers() -> frozenset[str]:
    """Those and every one before a model id of the map; slower."""
    return providers() | {name.partition("/")[0] for name in known_ids() if "/" in name}


def is_model_id(name: str) -> bool:
    """Whether `name` can be handed to LiteLLM: `provider/model`, an own file, a fine-tuned or a known model."""
    return "/" in name or is_own_or_listed(name)


def is_own_or_listed(name: str) -> bool:
    """Whether `name` is a file for the embedded model, a fine-tuned model, or in LiteLLM's map."""
    return name.startswith(("embedded:", "ft:")) or name in known_ids()


def doubt_about(model: str, own_providers: frozenset[str] = frozenset()) -> str:
    """Why LiteLLM may not find the provider of `model`; empty where it does."""
    prefix, slash, rest = model.partition("/")
    if "*" in model or (slash and (prefix in providers() or prefix in own_providers)) or is_own_or_listed(model):
        return ""
    if not slash:
        return f"LiteLLM knows no model {shown(model)}: write it as provider/model"
    if prefix in all_providers():
        return ""
    near = nearest(prefix, all_providers() | own_providers, cutoff=0.75)
    return f"LiteLLM knows no provider {shown(prefix)}" + (f", did you mean {shown(f'{near}/{rest}')}?" if near else "")
