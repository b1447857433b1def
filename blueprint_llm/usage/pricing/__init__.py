"""What a model costs: contracts first, then a deployment's own prices, our overrides, local machines, LiteLLM's map.

A model that nobody prices has no price (None), which is not the same as costing nothing.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blueprint_llm import models
from blueprint_llm.usage.pricing import files, litellm_keys
from blueprint_llm.usage.pricing.bounds import Listed
from blueprint_llm.usage.pricing.card import PriceCard, Tokens, cost, tokens_of, worst_cost

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import date

    from blueprint_llm.config.blocks import Pricing
    from blueprint_llm.usage.pricing.files import Entry, Level, PriceList
    from blueprint_llm.usage.pricing.sheet import Sheet

__all__ = ["PriceCard", "Prices", "Tokens", "cost", "shipped", "tokens_of", "worst_cost"]

_REMEMBERED = 4096


def shipped() -> Path:
    """Return the folder of the library's own price files: in the wheel, else the checkout's."""
    here = Path(__file__).parents[2]
    inside = here / "_pricing"
    return inside if inside.is_dir() else here.parent / "pricing"


class Prices:
    """All price files of a configuration, and LiteLLM's map below them."""

    def __init__(self, lists: Sequence[PriceList] = ()) -> None:
        self._lists = tuple(lists)
        self._known: dict[tuple[object, ...], tuple[PriceCard | None, object, object]] = {}

    @classmethod
    def load(cls, pricing: Pricing, *, folder: Path | None = None) -> Prices:
        """Read the shipped files and `pricing.files`, relative to `folder`; a ConfigError lists every mistake."""
        own = [(folder or Path()) / Path(name).expanduser() for name in pricing.files]
        return cls(files.load([*own, shipped() / "overrides.yaml", shipped() / "local.yaml"]))

    def price(
        self,
        provider: str,
        model: str,
        *,
        at: date,
        params: Mapping[str, Any] | None = None,
        info: Mapping[str, Any] | None = None,
        tags: frozenset[str] = frozenset(),
    ) -> PriceCard | None:
        """Return the price of a LiteLLM model id on a UTC day; None: unknown.

        Args:
            provider: The key of `providers` (or the group); entries may also name LiteLLM's provider.
            model: As sent to LiteLLM.
            at: The request's UTC date.
            params: The deployment's `litellm_params`, which may hold prices.
            info: Its `model_info`, likewise; `base_model` is the model to look up.
            tags: What the request asked for: `batch`, `flex`, `priority`, or any tag of a price file.
        """
        key = (provider, model, at, tags, id(params), id(info))
        if key not in self._known:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            settings = {**(info or {}), **(params or {})}
            self._known[key] = (self._find(_Call(provider, model, settings, tags), at), params, info)  # keeps the ids
        return self._known[key][0]

    def _find(self, call: _Call, day: date) -> PriceCard | None:
        return (
            self._filed("contract", call, day)
            or call.deployed()
            or self._filed("override", call, day)
            or self._filed("local", call, day)
            or call.listed_card()
        )

    def _filed(self, level: Level, call: _Call, day: date) -> PriceCard | None:
        found = [
            (entry.match.rank, entry, prices.version)
            for prices in self._lists
            if prices.level == level
            for entry in prices.entries
            if entry.holds_on(day) and entry.match.covers(call.names, call.providers, call.tags)
        ]
        ranked = sorted(found, key=lambda item: item[0], reverse=True)
        cards = (call.filed(entry, version) for _, entry, version in ranked)
        return next((card for card in cards if card is not None), None)


class _Call:
    """What is to be priced, under every name it goes by."""

    def __init__(self, provider: str, model: str, settings: Mapping[str, Any], tags: frozenset[str]) -> None:
        self.settings, self.tags = settings, tags
        base = str(settings.get("base_model") or model)
        self.entry = models.entry(base) or {}
        self.names = {name for full in (model, base) for name in (full, full.partition("/")[2]) if name}
        self.providers = {provider, model.partition("/")[0], str(self.entry.get("litellm_provider", ""))}

    @property
    def sheet(self) -> Sheet:
        """LiteLLM's prices."""
        return litellm_keys.sheet(self.entry, self.tags)

    def filed(self, entry: Entry, version: str) -> PriceCard | None:
        card = PriceCard.of(entry.sheet(self.sheet), version=version, source=entry.source)
        return replace(card, rpm=entry.limits.rpm, tpm=entry.limits.tpm) if card else None

    def deployed(self) -> PriceCard | None:
        """Return the deployment's own prices; what they leave open is LiteLLM's."""
        if not litellm_keys.priced(self.settings):
            return None
        sheet = litellm_keys.sheet(self.settings, self.tags).over(self.sheet)
        digest = hashlib.sha256(repr(sheet).encode()).hexdigest()[:8]
        card = PriceCard.of(sheet, version=f"deployment:{digest}", source="the deployment's own prices")
        return card and replace(card, listed=self._listed(litellm_keys.prices_in(self.settings)))

    def listed_card(self) -> PriceCard | None:
        """LiteLLM's price; also of what is not billed by the token, though only its bound can be told."""
        version, listed = f"litellm:{models.map_version()}", self._listed({})
        source = str(self.entry.get("source") or "LiteLLM's model map")
        card = PriceCard.of(self.sheet, version=version, source=source)
        if card is None and not listed.is_priced:
            return None
        return replace(card or PriceCard(base=None, version=version, source=source), listed=listed)

    def _listed(self, own: Mapping[str, Any]) -> Listed:
        return Listed({**self.entry, **own}, " ".join(self.names))
