"""Which model ids LiteLLM can resolve, by the JSON file in its package: nothing of LiteLLM is imported."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import orjson

from blueprint_llm.config.known_keys import PROVIDERS
from blueprint_llm.config.masking import shown
from blueprint_llm.config.problems import nearest

_FILE = "model_prices_and_context_window_backup.json"


@cache
def known_ids() -> frozenset[str]:
    """Every model id of LiteLLM's map; empty where LiteLLM is not installed."""
    spec = find_spec("litellm")
    folders = (spec.submodule_search_locations if spec else None) or []
    files = [path for folder in folders if (path := Path(folder) / _FILE).is_file()]
    return frozenset(orjson.loads(files[0].read_bytes())) - {"sample_spec"} if files else frozenset()


def is_model_id(name: str) -> bool:
    """Whether `name` can be handed to LiteLLM: `provider/model`, an own file, a fine-tuned or a known model."""
    return "/" in name or is_own_or_listed(name)


def is_own_or_listed(name: str) -> bool:
    """Whether `name` is a file for the embedded model, a fine-tuned model, or in LiteLLM's map."""
    return name.startswith(("embedded:", "ft:")) or name in known_ids()


def doubt_about(model: str, own_providers: frozenset[str] = frozenset()) -> str:
    """Why LiteLLM may not find the provider of `model`; empty where it does."""
    prefix, slash, rest = model.partition("/")
    providers = PROVIDERS | own_providers
    if (slash and prefix in providers) or "*" in model or is_own_or_listed(model):
        return ""
    if not slash:
        return f"LiteLLM knows no model {shown(model)}: write it as provider/model"
    near = nearest(prefix, providers, cutoff=0.75)
    return f"LiteLLM knows no provider {shown(prefix)}" + (f", did you mean {shown(f'{near}/{rest}')}?" if near else "")
