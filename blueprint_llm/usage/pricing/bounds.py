"""The most that a request can cost by LiteLLM's price list: of every rate that may apply, the dearest."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from blueprint_llm.usage.estimate import PER_IMAGE
from blueprint_llm.usage.money import ATTO, NANO, atto
from blueprint_llm.usage.pricing.litellm_keys import Rate, number, rates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from blueprint_llm.usage.estimate import Demand

_TEXT_IN = frozenset(
    {
        *("input_cost_per_token", "input_cost_per_token_cache_hit", "citation_cost_per_token"),
        *("cache_read_input_token_cost", "explicit_cache_read_input_token_cost", "cache_creation_input_token_cost"),
    }
)
_IMAGE_IN = frozenset({"input_cost_per_image_token", "cache_read_input_image_token_cost"})
_AUDIO_IN = frozenset(
    {"input_cost_per_audio_token", "cache_read_input_audio_token_cost", "cache_creation_input_audio_token_cost"}
)
_VIDEO_IN = frozenset({"input_cost_per_video_token"})
_TEXT_OUT = frozenset({"output_cost_per_token", "output_cost_per_reasoning_token", "output_cost_per_image_token"})
_AUDIO_OUT = frozenset({"output_cost_per_audio_token"})
_ANY_IN, _ANY_OUT = _TEXT_IN | _IMAGE_IN | _AUDIO_IN | _VIDEO_IN, _TEXT_OUT | _AUDIO_OUT
_PER_TOKEN = _ANY_IN | _ANY_OUT
# OpenAI's surcharges for a region's address, of which one applies.
_ADDRESS_UPLIFTS = frozenset(
    {*(f"regional_processing_uplift_multiplier_{place}" for place in ("eu", "us")), "fedramp_uplift_multiplier"}
)
_USUAL_TIERS = frozenset({None, "auto", "priority", "fast"})  # the account's own setting may be priority
_WINDOW = 1_000_000  # of a model whose window is not listed
_PICTURE_TOKENS = 8192  # more than the largest picture of the dearest quality takes
_PICTURE_PIXELS = 2048 * 2048
_SPEECH_CHARS_PER_S = 4  # slow speech
_SEARCHES_OF_RESEARCH = 50
_TOKENS_PER_QUERY = 1600  # a reranking's unit is 100 documents, each of which counts 16 tokens or more
_SEARCH_ATTO = atto("0.035")  # what LiteLLM takes for a search of Google's, where its map has no fee
_SESSION_ATTO = atto("0.033")  # Azure's code interpreter, the dearest
# What is billed by something else than tokens, and how much of it a request may take.
_UNITS: Mapping[str, Callable[[Demand, float], float]] = {
    "input_cost_per_request": lambda *_: 1,
    "input_cost_per_query": lambda demand, _: 1 + demand.text_tokens // _TOKENS_PER_QUERY,
    "input_cost_per_character": lambda demand, _: max(demand.characters, demand.text_tokens),
    "input_cost_per_image": lambda demand, _: demand.images,
    "output_cost_per_image": lambda demand, _: demand.answers,
    "input_cost_per_pixel": lambda demand, _: demand.answers * _PICTURE_PIXELS,
    "output_cost_per_pixel": lambda demand, _: demand.answers * _PICTURE_PIXELS,
    "cost_per_second": lambda demand, seconds: max(seconds, demand.audio_s),
    "input_cost_per_second": lambda demand, seconds: max(seconds, demand.audio_s),
    "output_cost_per_second": lambda demand, seconds: max(
        seconds, demand.audio_s, demand.characters / _SPEECH_CHARS_PER_S
    ),
    "input_cost_per_audio_per_second": lambda demand, _: demand.audio_s,
}


class Listed:
    """A model's entry of LiteLLM's map, with a deployment's own prices in place of the map's.

    Args:
        entry: LiteLLM's keys.
        name: The model's id; some search the web without being asked, and only their name says so.
    """

    def __init__(self, entry: Mapping[str, Any], name: str = "") -> None:
        self._rates = [rate for rate in rates(entry) if rate.name in _PER_TOKEN]
        self._marks = sorted({rate.above for rate in self._rates})
        self._dearest = lru_cache(maxsize=64)(self._dearest_rates)  # a model is asked for in few ways
        self._units = list(_units(entry))
        self._window = int(number(entry.get("max_input_tokens")) or _WINDOW)
        self._makes_pictures = entry.get("mode") in {"image_generation", "image_edit"}
        fees = (entry.get("search_context_cost_per_query") or {}).values()
        fees = [*fees, entry.get("google_maps_grounding_cost_per_query")]
        self._fee = max((atto(fee) for fee in fees if number(fee)), default=_SEARCH_ATTO)
        unasked = entry.get("litellm_provider") == "perplexity" or "search" in name
        self._searches = _SEARCHES_OF_RESEARCH if entry.get("citation_cost_per_token") else int(unasked)
        own = {key: number(value) or 1 for key, value in (entry.get("provider_specific_entry") or {}).items()}
        fast = Fraction(str(own.pop("fast", 1)))
        uplifts = {key: number(value) or 1 for key, value in entry.items() if "uplift_multiplier" in key}
        always = [*own.values(), *(value for key, value in uplifts.items() if key not in _ADDRESS_UPLIFTS)]
        uplift = math.prod((Fraction(str(value)) for value in always if value > 1), start=Fraction(1))
        elsewhere = [value for key, value in uplifts.items() if key in _ADDRESS_UPLIFTS]
        there = Fraction(str(max([1, *elsewhere])))
        self._factors = {  # by: is it fast, does it go elsewhere
            (is_fast, is_elsewhere): uplift * (fast if is_fast else 1) * (there if is_elsewhere else 1)
            for is_fast in (False, True)
            for is_elsewhere in (False, True)
        }

    @property
    def is_priced(self) -> bool:
        """Return True if anything is known of its price."""
        return bool(self._rates or self._units)

    def input_bound(self, asked: Demand) -> int:
        """Return the most tokens that the prompt can have; of files a provider takes no more than its window.

        What only the provider sees (links, its own tools' reading) may fill the window.
        """
        files = min(asked.audio_tokens + asked.document_tokens, self._window)
        counted = asked.text_tokens + PER_IMAGE * asked.images + files
        return max(counted, self._window) if asked.is_open or self._searches else counted

    def worst_nano(self, asked: Demand, output_tokens: int, *, seconds: float = 0.0) -> int | None:
        """Return the most that a request can cost in nano-USD, rounded up; None: no price of it is known.

        Args:
            asked: What the request may take.
            output_tokens: The cap of all its answers together.
            seconds: The longest that it may take, for prices by time.
        """
        if not self.is_priced:
            return None
        prompt = self.input_bound(asked)
        dearest = self._dearest(asked.tier, bisect_right(self._marks, prompt), keeps_cache=asked.keeps_cache)
        output = max(output_tokens, _PICTURE_TOKENS * asked.answers) if self._makes_pictures else output_tokens
        total = dearest.of_prompt(asked, prompt) + output * (dearest.any_out if asked.speaks else dearest.text_out)
        if self._units:
            total += math.ceil(sum(price * amount(asked, seconds) for price, amount in self._units))
        total += max(asked.searches, self._searches) * self._fee + asked.sessions * _SESSION_ATTO
        factor = self._factors[asked.is_fast, asked.is_elsewhere]
        return -(-total * factor.numerator // (factor.denominator * (ATTO // NANO)))

    def nano_per_token(self, asked: Demand) -> float:
        """Return the most that one more token of the answer can cost, in nano-USD."""
        marks = bisect_right(self._marks, self.input_bound(asked))
        dearest = self._dearest(asked.tier, marks, keeps_cache=asked.keeps_cache)
        factor = self._factors[asked.is_fast, asked.is_elsewhere]
        return float((dearest.any_out if asked.speaks else dearest.text_out) * factor / (ATTO // NANO))

    def _dearest_rates(self, tier: str | None, marks: int, *, keeps_cache: bool) -> _Dearest:
        """Return the dearest rate of each kind of token; `marks` is how many tiers a prompt has reached."""
        prompt = self._marks[marks - 1] if marks else -1
        found: dict[str, int] = {}
        for rate in self._rates:
            if _may_apply(rate, tier, prompt, keeps_cache=keeps_cache):
                found[rate.name] = max(found.get(rate.name, 0), rate.atto)
        kinds = (_TEXT_IN, _TEXT_IN | _IMAGE_IN, _TEXT_IN | _AUDIO_IN, _ANY_IN, _TEXT_OUT, _ANY_OUT)
        return _Dearest(*(max((found[name] for name in names if name in found), default=0) for names in kinds))


class _Dearest(NamedTuple):
    """The dearest rates that may apply to a request, in atto-USD: of each kind of content, of what is not known, ..."""

    text_in: int
    image_in: int
    audio_in: int
    any_in: int
    text_out: int
    any_out: int

    def of_prompt(self, asked: Demand, prompt: int) -> int:
        """Return atto-USD: every kind of content at its dearest rate, and what is not known at the dearest of all."""
        images, sounds = min(PER_IMAGE * asked.images, prompt), min(asked.audio_tokens, prompt)
        rest = max(0, prompt - asked.text_tokens - images - sounds)
        return asked.text_tokens * self.text_in + images * self.image_in + sounds * self.audio_in + rest * self.any_in


def _may_apply(rate: Rate, tier: str | None, prompt: int, *, keeps_cache: bool) -> bool:
    """Return True if a request may be billed at this rate."""
    in_tier = rate.tier in {None, tier} or (rate.tier == "priority" and tier in _USUAL_TIERS)
    return in_tier and prompt >= rate.above and (keeps_cache or rate.life is None)


def _units(entry: Mapping[str, Any]) -> Iterator[tuple[int, Callable[[Demand, float], float]]]:
    """Yield the prices of whatever is not billed by the token; a picture's size may choose among several."""
    for key, value in entry.items():
        name = "output_cost_per_image" if re.fullmatch(r"output_cost_per_image_\d.*", key) else key
        if name in _UNITS and (price := number(value)) is not None:
            yield atto(price), _UNITS[name]
