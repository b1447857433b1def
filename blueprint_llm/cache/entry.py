"""What is kept of an answer, and under what: everything that could change the answer, and nothing else.

An entry is three lines of JSON: what a hit needs at once, LiteLLM's whole response, the chunks that it came in, which
are decoded by whoever replays them. In front stands a checksum over key and text, or an HMAC where others can write to
the store. Its key is a digest behind a namespace, which keeps projects apart and lets one be cleared; whatever of a
request is not known to be harmless counts.
"""

from __future__ import annotations

import hashlib
import hmac
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import orjson

from blueprint_llm.secret import Secret
from blueprint_llm.types import ToolCall, UsageInfo

FINISHED = frozenset({"stop", "tool_calls", "function_call"})
# What a message can say beside its reasoning.
_SAYING = ("content", "tool_calls", "function_call", "refusal", "audio", "images")
_SCALARS = (str, int, float, bool, type(None))
_NONE = b"[{}]"  # no chunks
_CRC_BYTES, _MAC_BYTES = 4, 32

SCHEMA = 3
# How a call is carried, timed, retried, logged or billed, never what is answered. `stream`: one entry serves both ways.
HARMLESS = frozenset(
    {
        *("timeout", "request_timeout", "stream_timeout", "num_retries", "max_retries", "retry_policy"),
        *("metadata", "litellm_metadata", "litellm_call_id", "litellm_trace_id", "tags", "verbose", "logger_fn"),
        *("stream", "stream_options", "prompt_cache_key", "prompt_cache_retention", "cache_control_injection_points"),
        *("caching", "cache", "no-log", "cooldown_time", "allowed_fails"),
    }
)
_HINT = b'"cache_control"'
_NAMING = b"blueprint_llm: a secret in a cache key"


class Chunks:
    """A stream's chunks as they are stored: decoded anew by each reader, so that a whole answer never pays for them.

    What the first chunk says of the stream (id, model, time) and later ones repeat is written once.
    """

    __slots__ = ("text",)
    __hash__ = None  # type: ignore[assignment] # equal to any sequence of the same chunks

    def __init__(self, text: bytes) -> None:
        self.text = text

    @classmethod
    def of(cls, chunks: Chunks | Sequence[Mapping[str, Any]]) -> Chunks:
        """Pack a stream's chunks. Raises TypeError for what is no JSON."""
        if isinstance(chunks, cls):
            return chunks
        told = list(chunks)
        first = told[0] if told else {}
        common = {name: value for name, value in first.items() if isinstance(value, _SCALARS)}
        # A chunk that lacks something that is common stands in a list of its own.
        short = [_without(common, chunk) if common.keys() <= chunk.keys() else [chunk] for chunk in told]
        return cls(orjson.dumps([common, *short]))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        common, *rest = orjson.loads(self.text)
        for chunk in rest:
            yield chunk[0] if isinstance(chunk, list) else {**common, **chunk}

    def __bool__(self) -> bool:
        return self.text != _NONE

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Chunks | Sequence) and list(self) == list(other)


def _without(common: Mapping[str, Any], chunk: Mapping[str, Any]) -> dict[str, Any]:
    """Return the chunk without what is common; True is not 1, and 1.0 neither."""
    same = {name for name, value in common.items() if type(chunk[name]) is type(value) and chunk[name] == value}
    return {name: value for name, value in chunk.items() if name not in same}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A complete answer."""

    whole: dict[str, Any] = field(repr=False)  # LiteLLM's response with all choices, in ModelResponse's JSON shape
    chunks: tuple[dict[str, Any], ...] | Chunks = field(default=(), repr=False)  # as they came; none: it came whole
    content: str = field(repr=False)  # the first choice's text, also where something was put right in it
    tool_calls: tuple[ToolCall, ...] = field(default=(), repr=False)  # that the validator let through
    usage: UsageInfo | None = None  # as booked for the answer that was paid for; a hit itself costs nothing
    saved_nano: int | None = None  # what the answer cost, in nano-USD; None: unknown
    at: float = 0.0  # when it was given, Unix seconds

    def dump(self) -> bytes:
        """Return the entry as bytes. Raises TypeError or ValueError where they would not give back the same entry."""
        head = {
            "tool_calls": [call.model_dump() for call in self.tool_calls],
            "usage": None if self.usage is None else self.usage.model_dump(exclude_defaults=True),
            "saved_nano": self.saved_nano,
            "at": self.at,
            # The text stands in the response already, unless something was put right in it.
            **({} if self.content == _text_in(self.whole) else {"content": self.content}),
        }
        text = b"\n".join((orjson.dumps(head), orjson.dumps(self.whole), Chunks.of(self.chunks).text))
        if Entry.load(text) != self:  # an infinite log probability has no JSON, and would come back as null
            raise ValueError("an entry that JSON cannot hold")
        return text

    @classmethod
    def load(cls, text: bytes) -> Entry:
        """Return the entry of `dump`. Raises ValueError for anything else."""
        try:
            first, second, third = text.split(b"\n", 2)
            head, whole = orjson.loads(first), orjson.loads(second)
            calls = tuple(ToolCall(**call) for call in head.pop("tool_calls"))
            usage = head.pop("usage")
            return cls(
                whole=whole,
                chunks=() if third == _NONE else Chunks(third),
                tool_calls=calls,
                usage=None if usage is None else UsageInfo(**usage),
                **{"content": _text_in(whole), **head},
            )
        except (TypeError, KeyError, AttributeError):
            raise ValueError("no entry") from None


def _text_in(whole: Mapping[str, Any]) -> Any:
    choices = whole.get("choices") or [{}]
    return (choices[0].get("message") or {}).get("content")


def storable(whole: Mapping[str, Any], *, status: str, ended_by: str) -> bool:
    """Return True if an answer is complete beyond doubt: its end proven, every choice finished, something said.

    Args:
        whole: LiteLLM's response as JSON.
        status: The validator's: `ok` where the answer and its tool calls are valid.
        ended_by: `terminal` where the provider itself ended the stream; an answer that came whole is.
    """
    choices = whole.get("choices") or []
    finished = all(choice.get("finish_reason") in FINISHED for choice in choices)
    said = [(choice.get("message") or {}).get(name) for choice in choices for name in _SAYING]
    says_something = any(each.strip() if isinstance(each, str) else each for each in said)
    return status == "ok" and ended_by == "terminal" and finished and says_something


def seal(key: str, text: bytes, secret: bytes | None = None) -> bytes:
    """Return `text` with a checksum over it and its key in front, or an HMAC where there is a secret."""
    return _mark(key, text, secret) + text


def unseal(key: str, sealed: bytes, secret: bytes | None = None) -> bytes | None:
    """Return the text that was sealed under this key, or None if it is not that text."""
    size = _CRC_BYTES if secret is None else _MAC_BYTES
    text = sealed[size:]
    return text if hmac.compare_digest(sealed[:size], _mark(key, text, secret)) else None


def _mark(key: str, text: bytes, secret: bytes | None) -> bytes:
    if secret is None:
        return zlib.crc32(text, zlib.crc32(key.encode())).to_bytes(_CRC_BYTES, "big")
    return hmac.digest(secret, key.encode() + b"\0" + text, "sha256")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a call is known by, before its secret is read."""

    model: str
    account: tuple[Any, ...]  # what `CredentialsManager.account` says: key reference, address, extra settings
    project: str | None
    messages: list[dict[str, Any]] = field(repr=False)
    params: Mapping[str, Any] = field(repr=False)  # LiteLLM's keywords for this call, tools included
    options: tuple[Any, ...] = ()  # whatever else of ours shapes the call or judges the answer


@lru_cache(maxsize=64)
def namespace_of(project: str | None) -> str:
    """A project's part of its keys, fit for any store."""
    return hashlib.sha256((project or "").encode("utf-8", "replace")).hexdigest()[:16]


def key_of(facts: Facts, *, nondeterministic: bool = False) -> str | None:
    """Return `namespace:digest`, or None: not to be cached, since a value has no JSON form or chance decides.

    `nondeterministic` caches also where the caller asked for chance (a temperature, several answers) without a seed.
    """
    if not nondeterministic and _asks_for_chance(facts.params):
        return None
    params = {name: _number(value) for name, value in facts.params.items() if name not in HARMLESS}
    told = [SCHEMA, facts.project, facts.model, facts.account, facts.messages, params, facts.options]
    try:
        text = _dumps(told)
        if _HINT in text:
            told[4:6] = _unhinted(facts.messages), _unhinted(params)
            text = _dumps(told)
    except TypeError:
        return None
    return f"{namespace_of(facts.project)}:{hashlib.sha256(text).hexdigest()}"


def _asks_for_chance(params: Mapping[str, Any]) -> bool:
    asked = ((params.get("temperature"), 0), (params.get("n"), 1))
    above = [value > floor if isinstance(value, int | float) else value is not None for value, floor in asked]
    return params.get("seed") is None and any(above)  # what is no number might be above


def _dumps(value: Any) -> bytes:
    return orjson.dumps(value, default=_named, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)


def _named(value: Any) -> Any:
    """A value without JSON form of its own: secrets by their MAC, schema classes by their schema."""
    if isinstance(value, Secret):
        return {"secret": value.mac(_NAMING)}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple):  # a named one: orjson knows plain ones
        return list(value)
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    if hasattr(value, "model_json_schema"):
        return {"schema": value.model_json_schema()}
    raise TypeError


def _number(value: Any) -> Any:
    """1.0 as 1: to a sampler they are the same."""
    if isinstance(value, dict):
        return {name: _number(item) if isinstance(item, float) else item for name, item in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _unhinted(value: Any) -> Any:
    """Return JSON without the provider's cache hints; a tool's parameter of that name stays."""
    if isinstance(value, Mapping):
        hint = value.get("cache_control")
        is_hint = isinstance(hint, Mapping) and hint.get("type") == "ephemeral"
        return {name: _unhinted(item) for name, item in value.items() if not (is_hint and name == "cache_control")}
    return [_unhinted(item) for item in value] if isinstance(value, list | tuple) else value
