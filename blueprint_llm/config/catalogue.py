"""Which model ids LiteLLM knows, read from the JSON file in its package: nothing of LiteLLM is imported."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import orjson

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
    return "/" in name or name.startswith(("embedded:", "ft:")) or name in known_ids()
