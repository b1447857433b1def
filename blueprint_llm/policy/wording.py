"""Read what a provider said in an error: its own sentences, its codes, and how long it asks us to wait.

LiteLLM puts the provider's body into its message, as JSON, as a Python literal, as bytes, or JSON within JSON. Only the
fields that carry a message or a code are read: the others may hold the caller's prompt, where a phrase proves nothing.
"""

from __future__ import annotations

import ast
import contextlib
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST_MESSAGE = 16_000
_TEXT_FIELDS = frozenset({"message", "msg", "detail", "error", "error_message", "errormessage"})
_CODE_FIELDS = frozenset({"code", "type", "status", "reason", "__type", "quotaid", "error_code", "errorcode"})
_WAIT_FIELDS = {"retrydelay": 1.0, "retry_after": 1.0, "retryafter": 1.0, "retry_after_seconds": 1.0}
_WAIT_FIELDS |= {"retry_after_ms": 1e-3, "retryafterms": 1e-3}
# A usage limit's (router-for-me/CLIProxyAPI#1666), a model's that is still loading (huggingface/transformers#23793).
_WAIT_FIELDS |= {"resets_in_seconds": 1.0, "estimated_time": 1.0}
# They repeat the request, or what the model wrote.
_NOT_ITS_OWN = frozenset({"failed_generation", "input", "flagged_input", "body", "request"})
_ASIDE = "metadata"  # the caller's own, but OpenRouter puts into it what the provider behind it said
_DEEPEST = 8
_DECODER = json.JSONDecoder(strict=False)

# LiteLLM's and OpenAI's, which name exception and status: "litellm.BadRequestError: AnthropicException - ".
_PREFIX = re.compile(r"\s*(?:(?:[\w.]*(?:Error|Exception)(?: code)?|\d{3})\b\s*[:-]?\s*)+", re.ASCII)
_QUOTED = re.compile(r"""```.*?```|`[^`]*`|"[^"]*"|(?<!\w)'[^'\n]*'(?!\w)|“[^”]*”""", re.DOTALL)
_SENTENCE_END = re.compile(r"[.!?]\s+|\n+|\s-\s(?=[A-Z])")

_UNITS = {"ms": 1e-3, "millisecond": 1e-3, "s": 1.0, "sec": 1.0, "second": 1.0, "m": 60.0, "min": 60.0, "minute": 60.0}
_UNITS |= {"h": 3600.0, "hr": 3600.0, "hour": 3600.0, "d": 86400.0, "day": 86400.0}
_PART = r"(\d+(?:\.\d+)?)\s*(ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?)(?![a-z])"
_PARTS = re.compile(_PART)
_ASKED = re.compile(
    rf"\b(?:(?:try|retry)(?:ing)?(?: again| your request| the request)?|will reset) (?:in|after):? "
    rf"((?:{_PART}(?:[\s,]|and\b)*)+)"
)
_REGAIN = re.compile(r"regain access on (\d{4}-\d{2}-\d{2})(?: at (\d{2}:\d{2}) utc)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What an error message says.

    Attributes:
        sentences: The provider's own, lower case; what they quote is replaced by an ellipsis.
        codes: Its codes, types and statuses, lower case.
        wait_s: The longest wait that a field asks for, in seconds.
    """

    sentences: tuple[str, ...]
    codes: frozenset[str]
    wait_s: float | None = None


def said(message: str, body: str = "", *, codes: tuple[str, ...] = ()) -> Said:
    """Return what the provider said in LiteLLM's message and in its own body; `codes` were kept apart."""
    message = message[:LONGEST_MESSAGE]
    texts: list[str] = []
    found: list[str] = list(codes)
    waits: list[float] = []
    for name, value in (*_fields(message), *_fields(body[:LONGEST_MESSAGE])):
        if name in _WAIT_FIELDS and (seconds := _seconds(value)) is not None:
            waits.append(seconds * _WAIT_FIELDS[name])
        elif name in _CODE_FIELDS and isinstance(value, str):
            found.append(value)
        elif name in _TEXT_FIELDS and isinstance(value, str):
            texts.append(value)
    return Said(
        sentences=tuple(each for text in texts or [message] for each in _sentences(text)),
        codes=frozenset(each.lower() for each in found),
        wait_s=max(waits, default=None),
    )


def words_in(message: str) -> str:
    """Return the provider's own text in a message: that of a body, else all behind LiteLLM's prefix."""
    message = message[:LONGEST_MESSAGE]
    texts = (value for name, value in _fields(message) if name in _TEXT_FIELDS and isinstance(value, str))
    return "; ".join(filter(None, texts)) or message[_end_of_prefix(message) :]


def wait_in(what: Said, *, now: float) -> float | None:
    """Return the seconds that the provider's words ask us to wait; None where they say nothing.

    A field (Google's `RetryInfo.retryDelay`) is exact; else a sentence: "try again in 6m0s", "retry after 2 seconds",
    "regain access on 2026-04-01 at 00:00 UTC".
    """
    if what.wait_s is not None:
        return what.wait_s
    for sentence in what.sentences:
        if asked := _ASKED.search(sentence):
            return sum(float(number) * _UNITS[_unit(unit)] for number, unit in _PARTS.findall(asked[1]))
        if regain := _REGAIN.search(sentence):
            return _until(regain[1], regain[2] or "00:00", now=now)
    return None


def _until(day: str, hour: str, *, now: float) -> float | None:
    try:
        moment = datetime.strptime(f"{day} {hour}", "%Y-%m-%d %H:%M").replace(tzinfo=UTC)
    except ValueError:
        return None
    return max(0.0, moment.timestamp() - now)


def _unit(word: str) -> str:
    return word if word in _UNITS else word.removesuffix("s")


def _seconds(value: Any) -> float | None:
    """Return a field's duration: a number, `"36.5s"`, or protobuf's `{"seconds": 36, "nanos": 0}`."""
    match value:
        case bool():
            return None
        case int() | float() if 0 <= value < float("inf"):
            return float(value)
        case str() if found := re.fullmatch(r"(\d+(?:\.\d+)?)\s*s?", value.strip(), re.ASCII):
            return float(found[1])
        case {"seconds": whole}:
            return _seconds(whole)
    return None


def _sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a message without LiteLLM's prefix, quotations replaced."""
    text = _QUOTED.sub("…", text[_end_of_prefix(text) :]).replace("’", "'").lower()
    return filter(None, map(str.strip, _SENTENCE_END.split(text)))


def _end_of_prefix(text: str) -> int:
    found = _PREFIX.match(text)
    return found.end() if found else 0


def _fields(value: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield the fields of the body that a message is or holds, also of those inside it."""
    if depth > _DEEPEST:
        return
    if isinstance(value, str):
        yield from _fields(_body(value), depth + 1)
    elif isinstance(value, list):
        for each in value:
            yield from _fields(each, depth + 1)
    elif isinstance(value, dict):
        for name, each in value.items():
            lower = str(name).lower()
            if lower == _ASIDE:
                yield from _fields({"message": each.get("raw")} if isinstance(each, dict) else None, depth + 1)
                continue
            inner = () if lower in _WAIT_FIELDS or lower in _NOT_ITS_OWN else tuple(_fields(each, depth + 1))
            yield from inner or ((lower, each),)


def _body(text: str) -> Any:
    """Return the JSON document or Python literal that a message is, behind LiteLLM's prefix; None where it is none.

    A document further inside is a quotation: of the caller's schema, say.
    """
    rest = text[_end_of_prefix(text) :].strip()
    if rest[:1] in {"{", "["}:
        with contextlib.suppress(ValueError, RecursionError):
            return _DECODER.raw_decode(rest)[0]
    elif rest[:2] not in {"b'", 'b"'}:
        return None
    try:
        value = ast.literal_eval(rest)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return value.decode(errors="replace") if isinstance(value, bytes) else value
