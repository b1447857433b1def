"""What is kept of an answer: LiteLLM's whole response, the chunks that it came in, and what a hit needs of it at once.

An entry is three lines of JSON: what a hit needs, the response, the chunks. The chunks are decoded by whoever replays
them. In front stands a checksum over key and text, or an HMAC where others can write to the store.
"""

from __future__ import annotations

import hmac
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from blueprint_llm.types import ToolCall, UsageInfo

FINISHED = frozenset({"stop", "tool_calls", "function_call"})
# What a message can say beside its reasoning.
_SAYING = ("content", "tool_calls", "function_call", "refusal", "audio", "images")
_SCALARS = (str, int, float, bool, type(None))
_NONE = b"[{}]"  # no chunks
_CRC_BYTES, _MAC_BYTES = 4, 32


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
    """A complete answer.

    Attributes:
        whole: LiteLLM's response with all choices, in ModelResponse's JSON shape.
        chunks: LiteLLM's chunks as dumped, in the order in which they came; empty where the answer came whole.
        content: The first choice's text, also where something was put right in it.
        tool_calls: The calls that the validator let through.
        usage: As booked for the answer that was paid for; a hit itself costs nothing.
        saved_nano: What the answer cost, in nano-USD; None: unknown.
        at: When it was given, Unix seconds.
    """

    whole: dict[str, Any] = field(repr=False)
    chunks: tuple[dict[str, Any], ...] | Chunks = field(default=(), repr=False)
    content: str = field(repr=False)
    tool_calls: tuple[ToolCall, ...] = field(default=(), repr=False)
    usage: UsageInfo | None = None
    saved_nano: int | None = None
    at: float = 0.0

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
