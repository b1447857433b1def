"""What a request may make a provider bill for: read from a call's keywords before it is sent.

Text is bounded by its bytes, since no byte-level tokenizer makes more tokens than there are bytes. What is only named
(a link, a file id) and what a provider's own tools read is bounded by the model's window alone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

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

_PROMPTS = ("messages", "input", "prompt", "query", "documents", "system", "instructions", "suffix")
_PLAIN = frozenset({"role", "content"})
_IMAGES = frozenset({"image_url", "image", "input_image"})
_AUDIO = frozenset({"input_audio", "audio_url", "audio"})
_FILES = frozenset({"file", "input_file", "document", "video_url", "video"})
_OWN_TOOLS = frozenset({"function", "custom"})
_CACHE_KEYWORDS = ("cache_control_injection_points", "prompt_cache_retention")


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """The most that a request asks for, output tokens apart.

    Attributes:
        text_tokens: Of prompt and tool schemas.
        audio_tokens: Of sound in the prompt, and `audio_s` seconds of it.
        document_tokens: Of files in the prompt; a provider takes no more than its window.
        images: Pictures in the prompt.
        is_open: The prompt names things whose size nobody knows here, or lets the provider's tools read.
        speaks: The answer may be sound.
        searches: Calls of the provider's own search and other tools.
        sessions: Of its code interpreter.
        keeps_cache: Prompt caching for longer than minutes was asked for.
        tier: The service tier asked for; None: whatever the account is set to.
        is_fast: Anthropic's fast mode was asked for.
        is_elsewhere: It goes to an address of its own, perhaps a region's that costs more.
        answers: Answers, or pictures to be made.
        characters: Of the text that is to be spoken.
    """

    text_tokens: int = 0
    audio_tokens: int = 0
    audio_s: float = 0.0
    document_tokens: int = 0
    images: int = 0
    is_open: bool = False
    speaks: bool = False
    searches: int = 0
    sessions: int = 0
    keeps_cache: bool = False
    tier: str | None = None
    is_fast: bool = False
    is_elsewhere: bool = False
    answers: int = 1
    characters: int = 0

    @property
    def input_tokens(self) -> int:
        """All of the prompt's tokens."""
        return self.text_tokens + self.audio_tokens + self.document_tokens + PER_IMAGE * self.images


def demand(keywords: Mapping[str, Any]) -> Demand:
    """Return what a LiteLLM call of these keywords may be billed for, whatever its endpoint."""
    prompt = _Prompt()
    for name in _PROMPTS:
        prompt.add(keywords.get(name))
    prompt.add_recording(keywords.get("file"))
    pictures = keywords.get("image")
    prompt.images += len(pictures) if isinstance(pictures, list) else pictures is not None
    tools = [tool for tool in keywords.get("tools") or () if isinstance(tool, Mapping)]
    served = [tool for tool in tools if tool.get("type") not in _OWN_TOOLS and "function" not in tool]
    searches = sum(map(_searches, served)) + (SEARCHES if keywords.get("web_search_options") is not None else 0)
    modalities, tier = keywords.get("modalities") or (), keywords.get("service_tier")
    return Demand(
        text_tokens=prompt.text_tokens + (len(_json(tools)) + PER_TOOLS if tools else 0),
        audio_tokens=math.ceil(prompt.audio_s * _AUDIO_TOKENS_PER_S),
        audio_s=prompt.audio_s,
        document_tokens=prompt.document_tokens,
        images=prompt.images,
        is_open=prompt.is_open or searches > 0,
        speaks=bool({"audio", "AUDIO"} & set(modalities)) or keywords.get("audio") is not None,
        searches=searches,
        sessions=sum("code" in str(tool) for tool in served),
        keeps_cache=prompt.keeps_cache or any(keywords.get(name) for name in _CACHE_KEYWORDS),
        tier=tier if isinstance(tier, str) else None,
        is_fast=keywords.get("speed") == "fast",
        is_elsewhere=any(keywords.get(name) for name in ("api_base", "base_url")),
        answers=_count(keywords.get("n")),
        characters=len(keywords["input"]) if isinstance(keywords.get("input"), str) else 0,
    )


def _searches(tool: Mapping[str, Any]) -> int:
    """Return how often a tool of the provider's own may be used."""
    return _count(tool.get("max_uses"), otherwise=SEARCHES)


def _count(value: Any, *, otherwise: int = 1) -> int:
    """Return a number of at least 1; what is no number is for the provider to refuse."""
    try:
        return max(1, int(value))
    except (TypeError, ValueError):
        return otherwise


class _Prompt:
    """Sums over the parts of a prompt, in any of the shapes that LiteLLM takes."""

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
        if kind in _IMAGES and not (url.startswith("data:") and not url.startswith("data:image")):
            self.images += 1
        elif kind in _AUDIO or url.startswith("data:audio"):
            self._add_sound(part, url)
        elif kind in _FILES or url.startswith("data:"):
            data = _inline(part) or (url if url.startswith("data:") else None)
            self.is_open |= data is None
            self.document_tokens += _TOKENS_PER_FILE_CHAR * len(data or "")
        else:  # a message, a text, a tool's result
            inner = part.get("content")
            rest = {key: item for key, item in part.items() if key not in {"content", "role"} and item is not None}
            self.text_tokens += PER_PART + (len(_json(rest)) if rest else 0)
            self.add(inner)

    def _add_sound(self, part: Mapping[str, Any], url: str) -> None:
        data = _inline(part) or (url if url.startswith("data:") else None)
        self.is_open |= data is None
        inner = part.get("input_audio")
        form = inner.get("format") if isinstance(inner, Mapping) else None
        self.audio_s += len(data or "") / _CHARS_PER_S.get(str(form), _LEAN_CHARS_PER_S)

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
