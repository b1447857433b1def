"""The most that a request can cost: what it may make a provider bill for, and of every rate that may apply the dearest.

Text is bounded by its bytes, since no byte-level tokenizer makes more tokens than there are bytes. What is only named
(a link, a file id) and what a provider's own tools read is bounded by the model's window alone.
"""

from __future__ import annotations

import math
import os
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from blueprint_llm.streaming.chunks import sequence
from blueprint_llm.usage.money import ATTO, NANO, atto
from blueprint_llm.usage.pricing.card import number, rates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PER_PART = 16  # role, name and separators of any chat template
PER_TOOLS = 512  # Anthropic adds up to 346 tokens of its own, others less
PER_IMAGE = 5000  # the dearest measure in common use is under 5,000 tokens an image
SEARCHES = 10  # of a provider's own web search, where the request names no limit
_TOKENS_PER_FILE_CHAR = 4  # documents are compressed
_AUDIO_TOKENS_PER_S = 50  # the finest measure in common use is 32
# The fewest characters of base64 that hold a second of sound: 8 kHz of 8 bits, else the leanest codec for speech.
_CHARS_PER_S = dict.fromkeys(("wav", "pcm16", "g711_ulaw", "g711_alaw"), 10_000)
_LEAN_CHARS_PER_S = 1000
_LARGEST_UPLOAD = 25 * 2**20  # OpenAI takes no larger file
_VIDEO_S = 60  # where the request does not say how long; what providers make then is a fraction of it
_PAGES = 2000  # no provider in the map reads a longer document

_PROMPTS = frozenset(
    {
        *("messages", "input", "prompt", "query", "documents", "system", "instructions", "suffix"),
        *("contents", "config", "state", "questions", "fields"),
    }
)
_PLAIN = frozenset({"role", "content"})
_IMAGES = frozenset({"image_url", "image", "input_image"})
_AUDIO = frozenset({"input_audio", "audio_url", "audio"})
_FILES = frozenset({"file", "input_file", "document", "video_url", "video"})
_OWN_TOOLS = frozenset({"function", "custom"})
_CACHE_KEYWORDS = ("cache_control_injection_points", "prompt_cache_retention")


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """The most that a request asks for, output tokens apart."""

    text_tokens: int = 0  # of prompt and tool schemas
    audio_tokens: int = 0  # of sound in the prompt
    audio_s: float = 0.0  # the same in seconds
    document_tokens: int = 0  # of files in the prompt; a provider takes no more than its window
    images: int = 0  # in the prompt
    is_open: bool = False  # the prompt names things whose size nobody knows here, or lets the provider's tools read
    speaks: bool = False  # the answer may be sound
    searches: int = 0  # calls of the provider's own search and other tools
    sessions: int = 0  # of its code interpreter
    keeps_cache: bool = False  # prompt caching for longer than minutes was asked for
    tier: str | None = None  # the service tier asked for; None: whatever the account is set to
    is_fast: bool = False  # Anthropic's fast mode was asked for
    is_elsewhere: bool = False  # it goes to an address of its own, perhaps a region's that costs more
    answers: int = 1  # or pictures to be made
    characters: int = 0  # of the text that is to be spoken
    video_s: float = _VIDEO_S  # of video that is to be made
    pages: int = _PAGES  # of documents that are to be read
    queries: int = 1  # of a search

    @property
    def input_tokens(self) -> int:
        """All of the prompt's tokens."""
        return self.text_tokens + self.audio_tokens + self.document_tokens + PER_IMAGE * self.images


def demand(keywords: Mapping[str, Any]) -> Demand:
    """Return what a LiteLLM call of these keywords may be billed for, whatever its endpoint."""
    prompt = _Prompt()
    for name in keywords.keys() & _PROMPTS:
        prompt.add(keywords[name])
    prompt.add_recording(keywords.get("file"))
    pictures = keywords.get("image")
    prompt.images += len(pictures) if isinstance(pictures, list) else pictures is not None
    tools = [tool for tool in sequence(keywords.get("tools")) if isinstance(tool, Mapping)]
    served = [tool for tool in tools if tool.get("type") not in _OWN_TOOLS and "function" not in tool]
    searches = sum(_count(tool.get("max_uses"), otherwise=SEARCHES) for tool in served)
    if keywords.get("web_search_options") is not None:
        searches += SEARCHES
    if tools:
        prompt.text_tokens += len(_json(tools)) + PER_TOOLS
    prompt.is_open |= searches > 0
    prompt.keeps_cache |= any(keywords.get(name) for name in _CACHE_KEYWORDS)
    modalities, tier, text = sequence(keywords.get("modalities")), keywords.get("service_tier"), keywords.get("input")
    query, pages = keywords.get("query"), keywords.get("pages")
    return Demand(
        **vars(prompt),
        audio_tokens=math.ceil(prompt.audio_s * _AUDIO_TOKENS_PER_S),
        speaks="audio" in modalities or "AUDIO" in modalities or keywords.get("audio") is not None,
        searches=searches,
        sessions=sum("code" in str(tool) for tool in served),
        tier=tier if isinstance(tier, str) else None,
        is_fast=keywords.get("speed") == "fast",
        is_elsewhere=any(keywords.get(name) for name in ("api_base", "base_url")),
        answers=_count(keywords.get("n")),
        characters=len(text) if isinstance(text, str) else 0,
        video_s=_count(keywords.get("seconds"), otherwise=_VIDEO_S),
        pages=len(pages) if isinstance(pages, list) and pages else _PAGES,
        queries=len(query) if isinstance(query, list) else 1,
    )


def _count(value: Any, *, otherwise: int = 1) -> int:
    """Return a number of at least 1; what is no number is for the provider to refuse."""
    if value is None:
        return otherwise
    try:
        return max(1, math.ceil(float(value)))
    except (TypeError, ValueError, OverflowError):
        return otherwise


class _Prompt:
    """Sums over the parts of a prompt, in any of the shapes that LiteLLM takes, under the names of `Demand`."""

    def __init__(self) -> None:
        self.text_tokens = self.document_tokens = self.images = 0
        self.audio_s = 0.0
        self.is_open = self.keeps_cache = False

    def add(self, value: Any) -> None:
        """Count a text, a message, a part, or a list of them."""
        if isinstance(value, str):
            self.text_tokens += PER_PART + len(value.encode(errors="surrogatepass"))
        elif isinstance(value, Mapping):
            self._add_part(value)
        elif isinstance(value, Sequence) and not isinstance(value, bytes):
            for item in value:
                self.add(item)
        elif value is not None:
            self.text_tokens += PER_PART

    def _add_part(self, part: Mapping[str, Any]) -> None:
        if part.keys() <= _PLAIN and isinstance(part.get("content"), str):
            self.text_tokens += PER_PART
            self.add(part["content"])
            return
        control = part.get("cache_control")
        self.keeps_cache |= isinstance(control, Mapping) and control.get("ttl", "5m") != "5m"
        kind, url = str(part.get("type")), _url(part)
        is_inline = url.startswith("data:")
        if kind in _IMAGES and (not is_inline or url.startswith("data:image")):
            self.images += 1
        elif is_inline or kind in _AUDIO or kind in _FILES:
            data = _inline(part) or (url if is_inline else None)
            self.is_open |= data is None
            if kind in _AUDIO or url.startswith("data:audio"):
                inner = part.get("input_audio")
                form = inner.get("format") if isinstance(inner, Mapping) else None
                self.audio_s += len(data or "") / _CHARS_PER_S.get(str(form), _LEAN_CHARS_PER_S)
            else:
                self.document_tokens += _TOKENS_PER_FILE_CHAR * len(data or "")
        else:  # a message, a text, a tool's result
            rest = {key: item for key, item in part.items() if key not in _PLAIN and item is not None}
            self.text_tokens += PER_PART + (len(_json(rest)) if rest else 0)
            self.add(part.get("content"))

    def add_recording(self, upload: Any) -> None:
        """Count a file that is to be transcribed: bytes, `(name, bytes)`, a path or an open file."""
        if upload is None:
            return
        content = upload[1] if isinstance(upload, tuple) and len(upload) > 1 else upload
        if isinstance(content, bytes):
            size = len(content)
        elif isinstance(content, os.PathLike) and os.path.isfile(content):  # noqa: PTH113 - any kind of path
            size = os.path.getsize(content)  # noqa: PTH202 - likewise
        else:
            size = _LARGEST_UPLOAD
        self.audio_s += size * 4 / 3 / _LEAN_CHARS_PER_S


def _url(part: Mapping[str, Any]) -> str:
    value = part.get("image_url", part.get("url"))
    found = value.get("url") if isinstance(value, Mapping) else value
    return found if isinstance(found, str) else ""


def _inline(part: Mapping[str, Any]) -> str | None:
    """Return the base64 text of a part or of what is one level inside it; None: it is only named."""
    for place in (part, *(item for item in part.values() if isinstance(item, Mapping))):
        for name in ("data", "file_data"):
            if isinstance(place.get(name), str):
                return str(place[name])
    return None


def _json(value: Any) -> bytes:
    return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS)


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
    "input_cost_per_query": lambda demand, _: max(demand.queries, 1 + demand.text_tokens // _TOKENS_PER_QUERY),
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
    "output_cost_per_video_per_second": lambda demand, _: demand.video_s,
    **dict.fromkeys(("ocr_cost_per_page", "annotation_cost_per_page"), lambda demand, _: demand.pages),
}
# A key may be of one size or resolution of several.
_OF_A_SIZE = re.compile(r"(output_cost_per_(?:image|second))_\d.*")


class Listed:
    """The prices under LiteLLM's keys: a model's entry of its map, a deployment's own in place of the map's.

    Some models search the web without being asked, and only their `name` says so.
    """

    def __init__(self, entry: Mapping[str, Any], name: str = "") -> None:
        self._rates = [rate for rate in rates(entry) if rate.name in _PER_TOKEN]
        self._marks = sorted({rate.above for rate in self._rates})
        self._dearest = lru_cache(maxsize=64)(self._find)  # a model is asked for in few ways
        self._units = list(_units(entry))
        self._window = int(number(entry.get("max_input_tokens")) or _WINDOW)
        self._makes_pictures = entry.get("mode") in {"image_generation", "image_edit"}
        fees = (entry.get("search_context_cost_per_query") or {}).values()
        fees = [*fees, entry.get("google_maps_grounding_cost_per_query")]
        self._fee = max((atto(fee) for fee in fees if number(fee)), default=_SEARCH_ATTO)
        is_search = entry.get("mode") == "search"  # whose queries are priced
        unasked = not is_search and (entry.get("litellm_provider") == "perplexity" or "search" in name)
        self._searches = _SEARCHES_OF_RESEARCH if entry.get("citation_cost_per_token") else int(unasked)
        own = {key: number(value) or 1 for key, value in (entry.get("provider_specific_entry") or {}).items()}
        self._fast = Fraction(str(own.pop("fast", 1)))
        uplifts = {key: number(value) or 1 for key, value in entry.items() if "uplift_multiplier" in key}
        self._elsewhere = Fraction(str(max([1, *(uplifts.pop(key, 1) for key in _ADDRESS_UPLIFTS)])))
        always = [Fraction(str(value)) for value in (*own.values(), *uplifts.values()) if value > 1]
        self._uplift = math.prod(always, start=Fraction(1))

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

        `output_tokens` is the cap of all its answers together; it takes at most so many `seconds`.
        """
        if not self.is_priced:
            return None
        prompt = self.input_bound(asked)
        dearest = self._rates_for(asked, prompt)
        output = max(output_tokens, _PICTURE_TOKENS * asked.answers) if self._makes_pictures else output_tokens
        # Every kind of content counts at its dearest rate, what is not known at the dearest of all.
        images, sounds = min(PER_IMAGE * asked.images, prompt), min(asked.audio_tokens, prompt)
        rest = max(0, prompt - asked.text_tokens - images - sounds)
        total = asked.text_tokens * dearest.text_in + images * dearest.image_in + sounds * dearest.audio_in
        total += rest * dearest.any_in + output * (dearest.any_out if asked.speaks else dearest.text_out)
        if self._units:
            total += math.ceil(sum(price * amount(asked, seconds) for price, amount in self._units))
        total += max(asked.searches, self._searches) * self._fee + asked.sessions * _SESSION_ATTO
        return -(-total * dearest.factor.numerator // (dearest.factor.denominator * (ATTO // NANO)))

    def nano_per_token(self, asked: Demand) -> float:
        """Return the most that one more token of the answer can cost, in nano-USD."""
        dearest = self._rates_for(asked, self.input_bound(asked))
        atto = (dearest.any_out if asked.speaks else dearest.text_out) * dearest.factor.numerator
        return atto / (dearest.factor.denominator * (ATTO // NANO))

    def _rates_for(self, asked: Demand, prompt: int) -> _Dearest:
        mark = bisect_right(self._marks, prompt)
        return self._dearest(
            asked.tier,
            self._marks[mark - 1] if mark else -1,
            keeps_cache=asked.keeps_cache,
            is_fast=asked.is_fast,
            is_elsewhere=asked.is_elsewhere,
        )

    def _find(self, tier: str | None, prompt: int, *, keeps_cache: bool, is_fast: bool, is_elsewhere: bool) -> _Dearest:
        """Return the dearest rate of each kind of token that may apply; `prompt` is the tier of length it reaches."""
        found: dict[str, int] = {}
        for rate in self._rates:
            in_tier = rate.tier in {None, tier} or (rate.tier == "priority" and tier in _USUAL_TIERS)
            if in_tier and prompt >= rate.above and (keeps_cache or rate.life is None):
                found[rate.name] = max(found.get(rate.name, 0), rate.atto)
        kinds = (_TEXT_IN, _TEXT_IN | _IMAGE_IN, _TEXT_IN | _AUDIO_IN, _ANY_IN, _TEXT_OUT, _ANY_OUT)
        factor = self._uplift * (self._fast if is_fast else 1) * (self._elsewhere if is_elsewhere else 1)
        dearest = (max((found[name] for name in names if name in found), default=0) for names in kinds)
        return _Dearest._make((*dearest, factor))


class _Dearest(NamedTuple):
    """The dearest rates that may apply to a request in atto-USD, by kind of content, and what all is multiplied by."""

    text_in: int
    image_in: int
    audio_in: int
    any_in: int
    text_out: int
    any_out: int
    factor: Fraction


def _units(entry: Mapping[str, Any]) -> Iterator[tuple[int, Callable[[Demand, float], float]]]:
    """Yield the prices of whatever is not billed by the token, of a picture's and a video's sizes the dearest."""
    found: dict[str, int] = {}
    for table in (entry, *(entry.get("tiered_pricing") or ())):
        for key, value in table.items():
            name = _OF_A_SIZE.sub(r"\1", key)
            if name == "output_cost_per_second" and entry.get("mode") == "video_generation":
                name = "output_cost_per_video_per_second"
            if name == "input_cost_per_image" and entry.get("mode") == "image_generation":
                name = "output_cost_per_image"
            if name in _UNITS and (price := number(value)) is not None:
                found[name] = max(found.get(name, 0), atto(price))
    yield from ((price, _UNITS[name]) for name, price in found.items())
