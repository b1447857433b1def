"""What LiteLLM's model map knows of a model, read as JSON: nothing here imports LiteLLM.

The map has thousands of entries under several spellings; `entry` finds the one that LiteLLM itself would price a model
id by: the id as written, else without its leading parts where the entry belongs to the same provider.
Once LiteLLM is loaded, `priced` looks into the map that it has in memory, with what the program registered there.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping

_FILE = "model_prices_and_context_window_backup.json"
_SAME = {
    "ollama_chat": "ollama",
    "azure_text": "azure",
    "text-completion-openai": "openai",
    "openai": "text-completion-openai",
}
# A fine-tuned model costs what its base's do; a dated deployment of Azure's what the model does.
_FINE_TUNED = re.compile(r"(ft:[^:/]+):.*")
_DATED = re.compile(r"(azure/.+)-\d{4}-\d\d-\d\d")
# Models that make pictures have entries by quality, size and steps, some have no other.
_SIZED = re.compile(r"((standard|hd|low|medium|x?high|max|auto)/)?\d+-x-\d+/((max|\d+)-steps/)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """A model's abilities; None: the map does not say."""

    max_input_tokens: int | None = None
    max_output_tokens: int | None = None
    supports_tools: bool | None = None
    supports_vision: bool | None = None


# What one slot of the embedded model's window takes: prompt and answer together.
EMBEDDED = ModelFacts(max_input_tokens=4096, max_output_tokens=4096, supports_tools=True)


@lru_cache(maxsize=1)
def model_map() -> Mapping[str, Mapping[str, Any]]:
    """LiteLLM's map, read once (about 20 ms); empty where LiteLLM is not installed."""
    spec = find_spec("litellm")
    path = Path(spec.origin).with_name(_FILE) if spec and spec.origin else None
    if path is None or not path.is_file():
        return {}
    entries: dict[str, dict[str, Any]] = orjson.loads(path.read_bytes())
    entries.pop("sample_spec", None)
    return {name: entries.get(facts.get("alias_of", name), facts) for name, facts in entries.items()}


@lru_cache(maxsize=1)
def _by_lower_case() -> Mapping[str, Mapping[str, Any]]:
    return {name.lower(): facts for name, facts in model_map().items()}


@lru_cache(maxsize=1)
def map_version() -> str:
    """LiteLLM's version, which is the map's."""
    try:
        return version("litellm")
    except PackageNotFoundError:
        return "absent"


@lru_cache(maxsize=4096)
def entry(model_id: str) -> Mapping[str, Any] | None:
    """Return the map's entry for a LiteLLM model id; None: not listed."""
    known_as = _FINE_TUNED.sub(r"\1", model_id.removeprefix("litellm_proxy/"))
    undated = _DATED.fullmatch(known_as)
    return (
        _find(model_map(), known_as)
        or _find(_by_lower_case(), known_as.lower())
        or (entry(undated[1]) if undated else None)
    )


def priced(model_id: str) -> Mapping[str, Any] | None:
    """Return the entry by which LiteLLM would price a model id by now; None: not listed."""
    registered = vars(sys.modules["litellm"]).get("model_cost") if "litellm" in sys.modules else None
    return (registered and _find(registered, model_id)) or entry(model_id)


def of_any_size(model_id: str, found: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return the entry that was `found` for a model, with the prices of its dearest picture."""
    sized, facts = _find(_by_size(), model_id) or {}, found or {}
    prices = {key: max(sized[key], facts.get(key) or 0) for key in sized if "_cost_per_" in key}
    return {**facts, **{key: price for key, price in prices.items() if key in facts}} if found else sized


@lru_cache(maxsize=1)
def _by_size() -> Mapping[str, Mapping[str, Any]]:
    """Return the dearest prices of a picture, of models that are listed by quality, size and steps."""
    found: dict[str, dict[str, Any]] = {}
    for name, facts in model_map().items():
        if _SIZED.search(name):
            entry = found.setdefault(_SIZED.sub("", name), dict(facts))
            entry |= {key: max(facts[key], entry.get(key, 0)) for key in facts if "_cost_per_" in key}
    return found


def _find(entries: Mapping[str, Mapping[str, Any]], model_id: str) -> Mapping[str, Any] | None:
    if model_id in entries:
        return entries[model_id]
    prefix, _, rest = model_id.partition("/")
    for owner in dict.fromkeys((prefix, _SAME.get(prefix, prefix))):
        if f"{owner}/{rest}" in entries:
            return entries[f"{owner}/{rest}"]
        name = rest
        while name:
            found = entries.get(name)
            if found is not None and _belongs(found, owner):
                return found
            name = name.partition("/")[2]
    return None


def _belongs(found: Mapping[str, Any], prefix: str) -> bool:
    """Return True if an entry is `prefix`'s own; `vertex_ai-anthropic_models` is a family of one."""
    owner = str(found.get("litellm_provider", ""))
    return owner == prefix or owner.startswith((f"{prefix}-", f"{prefix}_"))


def known(model_id: str) -> bool:
    """Return True if LiteLLM's map lists the model."""
    return entry(model_id) is not None


@lru_cache(maxsize=4096)
def info(model_id: str) -> ModelFacts | None:
    """Return what the map says of a model; None: not listed."""
    if model_id.startswith("embedded"):
        return EMBEDDED
    found = entry(model_id)
    if found is None:
        return None
    return ModelFacts(
        max_input_tokens=_whole(found, "max_input_tokens"),
        max_output_tokens=_whole(found, "max_output_tokens", "max_tokens"),
        supports_tools=found.get("supports_function_calling"),
        supports_vision=found.get("supports_vision"),
    )


def continues(model_id: str) -> bool:
    """Return True if the model continues an assistant message that a request ends with."""
    return bool((entry(model_id) or {}).get("supports_assistant_prefill"))


def reasons(model_id: str) -> bool:
    """Return True if the map says that the model reasons before it answers."""
    return bool((entry(model_id) or {}).get("supports_reasoning"))


def _whole(found: Mapping[str, Any], *names: str) -> int | None:
    """Return the first of `names` that is a number (the map has a few strings in their place)."""
    values = (found.get(name) for name in names)
    return next((int(value) for value in values if isinstance(value, int | float) and value > 0), None)
