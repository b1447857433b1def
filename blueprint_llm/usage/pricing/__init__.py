"""What a model costs: contracts first, then a deployment's own prices, our overrides, local machines, LiteLLM's map.

A model that nobody prices has no price (None), which is not the same as costing nothing.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blueprint_llm import models
from blueprint_llm.usage.pricing import card as cards
from blueprint_llm.usage.pricing import files
from blueprint_llm.usage.pricing.bounds import Listed
from blueprint_llm.usage.pricing.card import PriceCard, cost, prices_in, worst_cost

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import date

    from blueprint_llm.config.blocks import Pricing
    from blueprint_llm.usage.pricing.card import Sheet
    from blueprint_llm.usage.pricing.files import Filed, Level

__all__ = ["PriceCard", "Prices", "cost", "prices_in", "shipped", "worst_cost"]

_REMEMBERED = 4096


def shipped() -> Path:
    """Return the folder of the library's own price files: in the wheel, else the checkout's."""
    here = Path(__file__).parents[2]
    inside = here / "_pricing"
    return inside if inside.is_dir() else here.parent / "pricing"


class Prices:
    """All price files of a configuration, and LiteLLM's map below them."""

    def __init__(self, filed: Sequence[Filed] = ()) -> None:
        # The most specific of a level first.
        self._filed = sorted(filed, key=lambda item: item.entry.match.rank, reverse=True)
        self._known: dict[tuple[object, ...], tuple[PriceCard | None, object, object, object]] = {}

    @classmethod
    def load(cls, pricing: Pricing, *, folder: Path | None = None) -> Prices:
        """Read the shipped files and `pricing.files`, relative to `folder`; a ConfigError lists every mistake."""
        own = [(folder or Path()) / Path(name).expanduser() for name in pricing.files]
        return cls(files.load([*own, shipped() / "overrides.yaml", shipped() / "local.yaml"]))

    def price(
        self,
        provider: str,  # the key of `providers` (or the group); entries may also name LiteLLM's provider
        model: str,  # as sent to LiteLLM
        *,
        at: date,  # the request's, in UTC
        params: Mapping[str, Any] | None = None,  # the deployment's `litellm_params`, which may hold prices
        info: Mapping[str, Any] | None = None,  # its `model_info`, likewise; `base_model` is the model to look up
        # what the request asked for: `batch`, `flex`, `priority`, or any tag of a price file
        tags: frozenset[str] = frozenset(),
    ) -> PriceCard | None:
        """Return the price of a LiteLLM model id on a UTC day; None: unknown."""
        base = str((params or {}).get("base_model") or (info or {}).get("base_model") or model)
        entry = models.priced(base)  # another one, once the program has registered it anew
        key = (provider, model, at, tags, id(params), id(info), id(entry))
        if key not in self._known:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            settings, facts = {**(info or {}), **(params or {})}, models.of_any_size(base, entry)
            found = self._find(provider, (model, base), facts, settings, tags, at)
            self._known[key] = (found, params, info, entry)  # keeps the ids
        return self._known[key][0]

    def _find(
        self,
        provider: str,
        models_asked: tuple[str, str],
        entry: Mapping[str, Any],
        settings: Mapping[str, Any],
        tags: frozenset[str],
        day: date,
    ) -> PriceCard | None:
        names = {name for full in models_asked for name in (full, full.partition("/")[2]) if name}
        providers = {provider, models_asked[0].partition("/")[0], str(entry.get("litellm_provider", ""))}
        theirs = cards.sheet(entry, tags)

        def filed(level: Level) -> PriceCard | None:
            for item in self._filed:
                entry = item.entry
                if item.level == level and entry.prices(names, providers, tags, day):
                    facts = {"version": item.version, "source": entry.source, **entry.limits.model_dump()}
                    if (card := PriceCard.of(entry.sheet(theirs), **facts)) is not None:
                        return card
            return None

        def deployed() -> PriceCard | None:
            """Return the deployment's own prices; what they leave open is LiteLLM's."""
            own = {name: price for name, price in prices_in(settings).items() if price is not None}
            if not own:
                return None
            sheet = {**theirs, **cards.sheet(settings, tags)}
            digest = hashlib.sha256(repr((sorted(sheet.items()), own)).encode()).hexdigest()[:8]
            facts = {"version": f"deployment:{digest}", "source": "the deployment's own prices"}
            return _told(sheet, Listed({**entry, **own}, " ".join(names)), **facts)

        def listed() -> PriceCard | None:
            source = str(entry.get("source") or "LiteLLM's model map")
            bounds = Listed(entry, " ".join(names))
            return _told(theirs, bounds, version=f"litellm:{models.map_version()}", source=source)

        return filed("contract") or deployed() or filed("override") or filed("local") or listed()


def _told(sheet: Sheet, bounds: Listed, **facts: Any) -> PriceCard | None:
    """Return prices under LiteLLM's names; of what is not billed by the token only the bound can be told."""
    card = PriceCard.of(sheet, listed=bounds, **facts)
    return card or (PriceCard(listed=bounds, **facts) if bounds.is_priced else None)
