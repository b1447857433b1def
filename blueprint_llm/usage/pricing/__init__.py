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
            found = self._find(provider, model, {**(info or {}), **(params or {})}, tags, at)
            self._known[key] = (found, params, info)  # keeps the ids
        return self._known[key][0]

    def _find(
        self, provider: str, model: str, settings: Mapping[str, Any], tags: frozenset[str], day: date
    ) -> PriceCard | None:
        base = str(settings.get("base_model") or model)
        entry = models.entry(base) or {}
        names = {name for full in (model, base) for name in (full, full.partition("/")[2]) if name}
        providers = {provider, model.partition("/")[0], str(entry.get("litellm_provider", ""))}
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
            if not cards.priced(settings):
                return None
            sheet = {**theirs, **cards.sheet(settings, tags)}
            digest = hashlib.sha256(repr(sorted(sheet.items())).encode()).hexdigest()[:8]
            bounds = Listed({**entry, **prices_in(settings)}, " ".join(names))
            version, source = f"deployment:{digest}", "the deployment's own prices"
            return PriceCard.of(sheet, version=version, source=source, listed=bounds)

        def listed() -> PriceCard | None:
            """Return LiteLLM's price; also of what is not billed by the token, though only its bound can be told."""
            source, bounds = str(entry.get("source") or "LiteLLM's model map"), Listed(entry, " ".join(names))
            facts: dict[str, Any] = {"version": f"litellm:{models.map_version()}", "source": source, "listed": bounds}
            return PriceCard.of(theirs, **facts) or (PriceCard(**facts) if bounds.is_priced else None)

        return filed("contract") or deployed() or filed("override") or filed("local") or listed()
