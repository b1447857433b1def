"""Prices under LiteLLM's names, from its map or from a deployment.

A key says what it prices (`input_cost_per_audio_token`), from which length of the prompt on (`_above_200k_tokens`), for
which life of a cached prefix (`_above_1hr`) and in which service tier (`_priority`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from blueprint_llm.usage.money import atto
from blueprint_llm.usage.pricing.sheet import Sheet

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_KEY = re.compile(
    r"(?P<name>[a-z_]+?)(?:_above_(?P<life>\d+hr))?(?:_above_(?P<above>\d+)(?P<thousands>k?)_tokens)?"
    r"(?:_(?P<tier>priority|flex|batches|balanced|ultrafast|decisions))?"
)
# The parts of a price of ours, by name and life.
_PARTS = {
    ("input_cost_per_token", None): "input",
    ("output_cost_per_token", None): "output",
    ("cache_read_input_token_cost", None): "cache_read",
    ("cache_creation_input_token_cost", None): "cache_write_5m",
    ("cache_creation_input_token_cost", "1hr"): "cache_write_1h",
    ("output_cost_per_reasoning_token", None): "reasoning",
    ("input_cost_per_audio_token", None): "audio_input",
    ("output_cost_per_audio_token", None): "audio_output",
}
_PER_SECOND = ("cost_per_second", "input_cost_per_second", "output_cost_per_second")
_TIERS = {"batch": "batches", "flex": "flex", "priority": "priority"}
_INCLUSIVE = "xai"  # bills the dearer tier from the threshold on, the others above it


class Rate(NamedTuple):
    """What a token of some kind costs, and when that applies; `above` so many tokens of the prompt."""

    name: str
    atto: int
    tier: str | None
    above: int
    life: str | None


def rates(entry: Mapping[str, Any]) -> Iterator[Rate]:
    """Yield every price of a token in `entry`, and whatever else has a price's name."""
    inclusive = entry.get("litellm_provider") == _INCLUSIVE
    for start, table in _tables(entry):
        for key, value in table.items():
            match, price = _KEY.fullmatch(key), number(value)
            if match is not None and price is not None and "cost" in key:
                above = int(match["above"] or 0) * (1000 if match["thousands"] else 1)
                above -= bool(above) and inclusive
                yield Rate(match["name"], atto(price), match["tier"], max(start, above), match["life"])


def sheet(entry: Mapping[str, Any], tags: Iterable[str] = ()) -> Sheet:
    """Return the prices in `entry`; a tier's own price counts where there is one, else the standard one."""
    tier = next((_TIERS[tag] for tag in tags if tag in _TIERS), None)
    tables: dict[int, dict[str, int]] = {}
    for rate in sorted(rates(entry), key=lambda rate: rate.tier is not None):
        part = _PARTS.get((rate.name, rate.life))
        if part is not None and rate.tier in {None, tier}:
            tables.setdefault(rate.above, {})[part] = rate.atto
    return Sheet(
        base=tables.pop(0, {}),
        tiers=tables,
        per_second=sum(atto(entry[name]) for name in _PER_SECOND if entry.get(name)),
        per_request=atto(entry.get("input_cost_per_request") or 0),
    )


def priced(entry: Mapping[str, Any]) -> bool:
    """Return True if a deployment's settings hold a price of their own."""
    names = {*(name for name, _ in _PARTS), *_PER_SECOND, "tiered_pricing"}
    return any(entry.get(name) is not None for name in names)


def prices_in(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a call's own keywords say about its price, which LiteLLM lets win over the deployment's."""
    return {name: params[name] for name in params if "_cost" in name or name == "tiered_pricing"}


def number(value: Any) -> float | None:
    """Return a price or a size; the map has a few as text."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _tables(entry: Mapping[str, Any]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the entry, and each range of `tiered_pricing`, which is complete: nothing of a lower one holds in it."""
    yield 0, entry
    for tier in entry.get("tiered_pricing") or ():
        into = tier.get("input_cost_per_token")
        cached = dict.fromkeys(("cache_read_input_token_cost", "cache_creation_input_token_cost"), into)
        yield int(tier["range"][0]), {**cached, **tier}
