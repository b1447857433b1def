"""Sort a foreign failure into a row of `errors.CATEGORIES`, by what the provider said of it.

Class names alone do not classify: LiteLLM reports a missing key, a refused connection and an HTML 502 all as
InternalServerError 500, and one status maps to different classes per provider (measured on 1.106.2). So the
provider's own codes and sentences decide first (`clues`), then what went wrong on this side, then class and status.

LiteLLM puts the provider's body into its message, as JSON, as a Python literal, as bytes, or JSON within JSON. Only the
fields that carry a message or a code are read: the others may hold the caller's prompt, where a phrase proves nothing.
"""

from __future__ import annotations

import ast
import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from blueprint_llm.errors import CATEGORIES
from blueprint_llm.policy.clues import Clue, clue_in

if TYPE_CHECKING:
    from blueprint_llm.errors import Failure

# Classes that LiteLLM uses for anything: the status tells more.
GENERIC = frozenset({"unavailable", "invalid_request", "unknown"})
# No other target mends a broken installation or a call that LiteLLM itself could not make sense of.
MISSING = frozenset({"ImportError", "ModuleNotFoundError"})
LOCAL_FAULTS = MISSING | {"TypeError", "ValueError"}
# ValueError subclasses that speak of the answer, not of the call.
ANSWER_FAULTS = frozenset({"JSONDecodeError", "UnicodeDecodeError", "ValidationError"})
UNSUPPORTED = "UnsupportedParamsError"  # LiteLLM's own check, before anything is sent
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

GAP = "…"
# So many words in a row that stand in the request, too, were taken from it.
RUN = 4
_SHORTEST_QUOTE = 3
_SHORTEST_MESSAGE = 8
_WORDS = re.compile(r"[^\W_]+")
_QUOTATION = re.compile(r"""`([^`]*)`|"([^"]*)"|(?<!\w)'([^'\n]*)'(?!\w)|“([^”]*)”""")
_NO_TEXT = frozenset({"role", "type", "id", "tool_call_id"})


def classify(failure: Failure) -> Clue:
    """Return what `failure` means."""
    what = said(failure.message, failure.body, codes=failure.codes)
    if (clue := clue_in(what.sentences, what.codes)) is not None:
        return clue
    if (clue := _local_fault(failure)) is not None:
        return clue
    return Clue(category=_by_class_and_status(failure), elsewhere=UNSUPPORTED in failure.classes)


def wait_s(failure: Failure, *, now: float) -> float | None:
    """Return how long the provider asks us to wait: in its headers, else in its words. `now` is Unix time."""
    asked = retry_after_s(failure.headers, now=now)
    if asked is not None:
        return asked
    what = said(failure.message, failure.body, codes=failure.codes)
    clue = clue_in(what.sentences, what.codes)
    # Google says when a minute's quota is free again even where the day's is used up.
    return None if clue is not None and clue.code == "quota_exhausted" else wait_in(what, now=now)


def retry_after_s(headers: Mapping[str, str], *, now: float) -> float | None:
    """Return the wait that headers (names in lower case) ask for: `retry-after-ms`, seconds, or an HTTP date.

    `now` is Unix time, for dates where the response has no `date` header.
    """
    milliseconds, text = _number(headers.get("retry-after-ms")), headers.get("retry-after")
    if milliseconds is not None:
        return milliseconds / 1000
    if (seconds := _number(text)) is not None:
        return seconds
    moment = _timestamp(text)
    return None if moment is None else max(0.0, moment - (_timestamp(headers.get("date")) or now))


def _number(text: str | None) -> float | None:
    """Return a header's number in whatever form it is written (`.5`, `1e3`), as OpenAI's client reads it."""
    try:
        return _seconds(float(text or ""))
    except ValueError:
        return None


def _timestamp(text: str | None) -> float | None:
    try:
        return parsedate_to_datetime(text or "").timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def _local_fault(failure: Failure) -> Clue | None:
    own = failure.classes[:1]
    names = {*own, *failure.causes}
    if names & MISSING:
        return Clue(category="invalid_request", code="missing_dependency")
    if names & ANSWER_FAULTS and failure.status in {None, 200, 500}:
        return Clue(category="malformed", code="not_json")
    if LOCAL_FAULTS.intersection(own):
        return Clue(category="invalid_request", code="rejected_by_litellm")
    return None


def _by_class_and_status(failure: Failure) -> str:
    named = next((row.name for name in failure.classes for row in CATEGORIES.values() if name in row.classes), None)
    if named is not None and named not in GENERIC:
        return named
    by_status = next((row.name for row in CATEGORIES.values() if failure.status in row.statuses), None)
    return by_status or named or "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What an error message says."""

    sentences: tuple[str, ...]  # the provider's own, lower case; what they quote is replaced by an ellipsis
    codes: frozenset[str]  # its codes, types and statuses, lower case
    wait_s: float | None = None  # the longest wait that a field asks for, in seconds


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


def unquoted(said: str, messages: Any) -> str:
    """Return a provider's words with a gap where they repeat the messages that it was sent.

    That is: four words in a row, a quotation that stands in a message, or a whole short message.
    """
    texts = list(_texts(messages))
    asked = f" {' '.join(' '.join(_lower_words(text)) for text in texts)} "
    words = [(found[0].lower(), found.start(), found.end()) for found in _WORDS.finditer(said)]
    taken = [
        (words[n][1], words[n + RUN - 1][2])
        for n in range(len(words) - RUN + 1)
        if f" {' '.join(word for word, _, _ in words[n : n + RUN])} " in asked
    ]
    for found in _QUOTATION.finditer(said):
        inner = next(filter(None, found.groups()), "")
        if len(inner) >= _SHORTEST_QUOTE and f" {' '.join(_lower_words(inner))} " in asked:
            taken.append(found.span())
    for text in {text.strip() for text in texts if len(text.strip()) >= _SHORTEST_MESSAGE}:
        taken += [found.span() for found in re.finditer(re.escape(text), said, re.IGNORECASE)]
    return _without(said, sorted(taken))


def _lower_words(text: str) -> list[str]:
    return [word.lower() for word in _WORDS.findall(text)]  # lower case may have marks that are in no word


def _texts(value: Any) -> Iterator[str]:
    """Yield every text of some messages that a model or a person wrote."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, each in value.items():
            if name not in _NO_TEXT:
                yield from _texts(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _texts(each)


def _without(said: str, taken: list[tuple[int, int]]) -> str:
    parts: list[str] = []
    at = 0
    for start, end in taken:
        if start > at or not parts:
            parts += [said[at:start], GAP]
        at = max(at, end)
    return "".join([*parts, said[at:]])
