"""Prices under LiteLLM's names (`input_cost_per_token_above_200k_tokens`), from its map or from a deployment.

A request's service tier selects keys with its suffix; a key without that variant falls back to the standard one.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from blueprint_llm.usage.pricing.card import Sheet, atto

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_NAMES = {
    "input": "input_cost_per_token",
    "output": "output_cost_per_token",
    "cache_read": "cache_read_input_token_cost",
    "cache_write_5m": "cache_creation_input_token_cost",
    "cache_write_1h": "cache_creation_input_token_cost_above_1hr",
    "reasoning": "output_cost_per_reasoning_token",
}
_PER_SECOND = ("cost_per_second", "input_cost_per_second", "output_cost_per_second")
SUFFIXES = {"batch": "_batches", "flex": "_flex", "priority": "_priority"}
_ABOVE = re.compile(r"_above_(\d+)(k?)_tokens")
_INCLUSIVE = "xai"  # bills the dearer tier from the threshold on, the others above it


def sheet(found: Mapping[str, Any], tags: Iterable[str] = ()) -> Sheet:
    """The prices in `found`; keys that are no prices are passed over."""
    suffix = next((SUFFIXES[tag] for tag in tags if tag in SUFFIXES), "")
    ranges = _ranges(found)
    return Sheet(
        base={**_parts(found, "", suffix), **ranges.pop(0, {})},
        tiers=ranges or _thresholds(found, suffix),
        per_second=sum(atto(found[name]) for name in _PER_SECOND if found.get(name)),
        per_request=atto(found.get("input_cost_per_request") or 0),
    )


def priced(found: Mapping[str, Any]) -> bool:
    """Whether a deployment's settings hold a price of their own."""
    return any(found.get(name) is not None for name in (*_NAMES.values(), *_PER_SECOND, "tiered_pricing"))


def prices_in(params: Mapping[str, Any]) -> dict[str, Any]:
    """What a call's own keywords say about its price, which LiteLLM lets win over the deployment's."""
    return {name: params[name] for name in params if "_cost" in name or name == "tiered_pricing"}


def _parts(found: Mapping[str, Any], above: str, suffix: str) -> dict[str, int]:
    values = {part: _value(found, f"{name}{above}", suffix) for part, name in _NAMES.items()}
    return {part: atto(value) for part, value in values.items() if value is not None}


def _value(found: Mapping[str, Any], name: str, suffix: str) -> Any:
    special = found.get(name + suffix)
    return found.get(name) if special is None else special


def _thresholds(found: Mapping[str, Any], suffix: str) -> dict[int, dict[str, int]]:
    names = {match[0]: match for match in map(_ABOVE.search, found) if match}
    inclusive = found.get("litellm_provider") == _INCLUSIVE
    tiers = {
        int(match[1]) * (1000 if match[2] else 1) - inclusive: _parts(found, text, suffix)
        for text, match in names.items()
    }
    return {above: parts for above, parts in tiers.items() if parts}


def _ranges(found: Mapping[str, Any]) -> dict[int, dict[str, int]]:
    """LiteLLM's `tiered_pricing`: complete tables, each for prompts in a range."""
    tiers = {}
    for tier in found.get("tiered_pricing") or ():
        own = _parts(tier, "", "")
        into = own.get("input", 0)
        tiers[int(tier["range"][0])] = {"cache_read": into, "cache_write_5m": into, **own}
    return tiers
