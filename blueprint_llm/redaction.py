"""Keep registered secrets out of every text that leaves the process.

The rule is exact: a secret is known the moment it is loaded, so its value and the encodings it travels in are looked
for, in one alternation. A text that could hide more (every character encoded, a line broken within the key) is looked
at once more without its disguise. Patterns that guess at keys run only over short texts, where a false alarm is cheap.
What is not found stands in docs/credentials.md.
"""

from __future__ import annotations

import logging
import re
import threading
import traceback
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from html import escape, unescape
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic_core import SchemaValidator, core_schema

MIN_LENGTH = 8
MASK = "[redacted]"
_SHORT_CHARS = 4096
_EXCEPTION_CHARS = 2000

# Written so that Python's `re` and Rust's `regex` read them alike.
_PATTERNS = (
    r"\b(?:sk|pk|rk|xai|gsk|hf|r8|nvapi|pplx|tvly|glpat|gh[pousr]|xox[abprs])[-_][A-Za-z0-9_-]{16,}",
    r"\bAIza[A-Za-z0-9_-]{30,}",
    r"\bAKIA[A-Z0-9]{16}",
    r"\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{5,}",
    r"(?i:\bbearer\s+[A-Za-z0-9._~+/=-]{8,})",
    r"(?i:\b(?:x-)?(?:goog-)?api[-_ ]?key[\"']?\s*[:=]\s*[\"']?[^\s\"',;}&]{8,})",
    r"[?&](?:key|token|api_key)=[^&\s\"']{8,}",
    r"://[^/\s:@]+:[^/\s@]{4,}@",
)


class Finder:
    """Finds the alternatives of a pattern that both `re` and Rust's `regex` can read.

    Almost every text holds no secret, so the common answer has to be fast. pydantic-core carries Rust's `regex`,
    which looks for a hundred literals in 200 KB in 23 us where `re` takes 3 ms; `re` runs only on texts with a hit.
    """

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._rust = SchemaValidator(core_schema.str_schema(pattern=pattern))

    def finds(self, text: str) -> bool:
        """Whether any alternative occurs. Secrets are ASCII, so other characters (lone surrogates) may be lost."""
        plain = text if text.isascii() else text.encode("ascii", "replace").decode("ascii")
        return self._rust.isinstance_python(plain)

    def mask(self, text: str, by: str | Callable[[re.Match[str]], str] = MASK) -> str:
        """The text with every occurrence masked."""
        return re.sub(self._pattern, by, text) if self.finds(text) else text


def spellings_of(value: str) -> str:
    """A pattern of the ways in which a value is written: escaped, in either case, in hexadecimal, within base64."""
    cases = (case for form in _forms(value)[:2] for case in (form.lower(), form.upper()))
    forms = dict.fromkeys((*_forms(value), *cases))  # "any case" as a flag would cost Rust its quick search
    return "|".join("".join(map(_spelling, form)) for form in forms)


def _forms(value: str) -> list[str]:
    """A value as it is, in hexadecimal, and as base64 has it.

    Base64 makes another text of it at each of three alignments; characters that its neighbours share do not count.
    """
    forms = [value, value.encode("utf-8", "surrogatepass").hex()]
    for lead, cut in ((0, 0), (1, 2), (2, 3)):
        form = b64encode(b"\0" * lead + value.encode()).decode()[cut : (lead + len(value)) * 8 // 6]
        forms += [form, form.replace("+", "-").replace("/", "_")]
    return forms


@lru_cache(256)
def _spelling(char: str) -> str:
    """One character as it is, or as JSON, Python, HTML and URLs (encoded more than once too) escape it."""
    if char.isalnum() or char in "-_":
        return char
    code = _any_case(f"{ord(char):04x}")
    url = "".join(f"%(?:25)*{_any_case(f'{byte:02x}')}" for byte in char.encode("utf-8", "surrogatepass"))
    html = rf"&#(?:[xX]0*{code.lstrip('0')}|0*{ord(char)});|{re.escape(escape(char))}"
    return rf"(?:\\*{re.escape(char)}|\\+u{code}|{html}|{url})"


def _any_case(digits: str) -> str:
    return re.sub("[a-f]", lambda hit: f"[{hit[0]}{hit[0].upper()}]", digits)


# A line that breaks within a key: as it is, quoted-printable, continued, quoted anew, or escaped in JSON.
_BREAK = r"(?:[\"']?[=\\]?\r?\n[ \t>|]*[\"']?|(?:\\+r)?\\+n[ \t]*)"
_LINE_STARTS = " \t>|\"'"
_SIGNS = ("", "=", "\\")  # of a line that goes on; or the key's own, so each is tried
_ESCAPED = re.compile(r"\\+(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2}))")
_CLOSING = "\"'`)]},;.\\\N{HORIZONTAL ELLIPSIS}"
_MOST_LAYERS = 3
_LOOSE_CHARS = 512  # of a longer value the beginning is looked for, and the word it stands in is masked


def _undisguised(text: str) -> Iterator[str]:
    """Yield `text` without percent signs, entities and escapes, and on one line, where that makes a difference."""
    plain = text
    for _ in range(_MOST_LAYERS):
        before = plain
        if "%" in plain:
            plain = unquote(plain)
        if "&" in plain:
            plain = unescape(plain)
        if "\\" in plain:
            plain = _ESCAPED.sub(lambda hit: chr(int(hit[1] or hit[2], 16)), plain)
        if plain == before:
            break
    if plain != text:
        yield plain
    lines = plain.replace("\\r\\n", "\n").replace("\\n", "\n").split("\n")
    if len(lines) > 1:
        lines = [line.lstrip(_LINE_STARTS).rstrip("\r\"'") for line in lines]
        for sign in _SIGNS:
            if not sign or any(line.endswith(sign) for line in lines):
                yield "".join([line.removesuffix(sign) for line in lines])


def _loosely(value: str) -> re.Pattern[str]:
    """A pattern of a value whose characters may each be encoded in their own way, with lines broken between them."""
    rest = r"[!-~]*" if len(value) > _LOOSE_CHARS else ""
    chars = [rf"(?:{_loose(char)})" for char in value[:_LOOSE_CHARS]]
    return re.compile(f"(?:{_BREAK})?".join(chars) + rest, re.IGNORECASE)


@lru_cache(256)
def _loose(char: str) -> str:
    code = f"{ord(char):02x}"
    named = "" if char.isalnum() else r"|&(?:amp;)*[a-z]{2,8};"
    entity = rf"&(?:amp;)*#(?:x0*{code}|0*{ord(char)});"
    return rf"\\*{re.escape(char)}|%(?:25)*{code}|{entity}{named}|\\+u00{code}|\\+x{code}"


def _shortest_cut(value: str) -> int:
    """How many of a value's first characters are masked where a line ends: fewer tell little, and occur by chance."""
    return min(12, max(6, len(value) // 2))


class Registry:
    """The values to hide. Registering is cheap (a set); the search is rebuilt on the first text after a change."""

    def __init__(self) -> None:
        self._values: set[str] = set()
        self._finder: Finder | None = None
        self._cut: Finder | None = None
        self._loose: dict[str, re.Pattern[str]] = {}
        self._lock = threading.Lock()
        self._stale = False

    def register(self, value: str) -> None:
        """Hide `value` from now on; values under 8 characters are too common in plain text to be hidden."""
        if value in self._values or len(value) < MIN_LENGTH:
            return
        with self._lock:
            self._values.add(value)
            self._stale = True
        self.register(value.rpartition(" ")[2])  # "Bearer KEY" also hides KEY

    def clear(self) -> None:
        """Forget every value (tests and controls only)."""
        with self._lock:
            self._values, self._finder, self._cut, self._loose, self._stale = set(), None, None, {}, False

    def redact(self, text: str) -> str:
        """`text` with every registered value masked."""
        if self._stale:
            self._rebuild()
        if self._finder is None or self._cut is None:
            return text
        clean = self._finder.mask(text)
        for plain in filter(self._finder.finds, _undisguised(clean)):
            clean = self._masked_loosely(clean, plain.lower())
        return self._cut.mask(clean, self._mask_cut)

    def _masked_loosely(self, text: str, plain: str) -> str:
        """`text` with what occurs in its undisguised form masked."""
        for form in (form for value in self._longest_first() for form in _forms(value)):
            if form[:_LOOSE_CHARS].lower() in plain:
                pattern = self._loose.get(form) or self._loose.setdefault(form, _loosely(form))
                text = pattern.sub(MASK, text)
        return text

    def _mask_cut(self, hit: re.Match[str]) -> str:
        """The beginning of a value that the end of a line cut off, masked; any other word as it is."""
        word = hit[0].rstrip(_CLOSING)
        is_cut = any(value.startswith(word) and len(word) >= _shortest_cut(value) for value in self._values)
        return MASK + hit[0][len(word) :] if is_cut else hit[0]

    def _longest_first(self) -> list[str]:
        return sorted(self._values, key=len, reverse=True)  # a key may be another one's beginning

    def _rebuild(self) -> None:
        with self._lock:
            values = self._longest_first()
            self._finder = Finder("|".join(map(spellings_of, values)))
            starts = dict.fromkeys(re.escape(value[: _shortest_cut(value)]) for value in values)
            self._cut = Finder(rf"(?:{'|'.join(starts)})[^\s]*(?m:$)")
            self._stale = False


_REGISTRY = Registry()
_GUESS = Finder("|".join(_PATTERNS))

register = _REGISTRY.register
redact = _REGISTRY.redact


def carries_more(url: str) -> bool:
    """Whether an address may hold a secret besides the host."""
    return "@" in url or "?" in url


def register_url(url: str) -> None:
    """Hide what an address may carry besides the host: a password, and the values of its query."""
    if carries_more(url):
        with suppress(ValueError):  # no address: whoever uses it will say so
            parts = urlsplit(url)
            login = parts.username if parts.password is None else parts.password  # a token may stand alone
            for value in (unquote(login or ""), *(value for _, value in parse_qsl(parts.query))):
                register(value)


def _redact_short(text: str) -> str:
    clean = redact(text)
    return _GUESS.mask(clean) if len(clean) <= _SHORT_CHARS else clean


def redact_value(value: Any) -> Any:
    """A copy of nested JSON with secrets masked in its strings, keys included."""
    match value:
        case str():
            return _redact_short(value)
        case Mapping():
            return {redact_value(key): redact_value(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [redact_value(item) for item in value]
        case bytes():
            return redact_value(value.decode("utf-8", "replace"))
        case None | bool() | int() | float():
            return value
        case _:
            return _redact_short(str(value))


def are_clean(*tables: Mapping[Any, Any]) -> bool:
    """Whether no name and no value of `tables` holds a secret: one search, since almost none does."""
    text = "\n".join(str(said) for table in tables for pair in table.items() for said in pair)
    return redact(text) == text and not _GUESS.finds(text)


def clean_exception_text(text: str) -> str:
    """A provider's words, fit to stand in one of our errors: masked by value and by pattern, at most 2,000 long."""
    clean = _GUESS.mask(redact(text))  # before the cut: half a key would not be recognised
    return clean if len(clean) <= _EXCEPTION_CHARS else clean[:_EXCEPTION_CHARS] + " ..."


def redact_rendered(_logger: Any, _method: str, rendered: Any) -> Any:
    """A structlog processor to stand after the renderer: what it sees is what is written."""
    return _redact_short(rendered) if isinstance(rendered, str) else redact_value(rendered)


# LiteLLM and what it calls; a filter on a logger does not see the records of its children.
LOGGERS = (
    *("LiteLLM", "LiteLLM Router", "LiteLLM Proxy", "httpx", "aiohttp.client", "asyncio"),
    *("openai", "openai._base_client", "openai._legacy_response", "openai._response"),
    *("httpcore.connection", "httpcore.http11", "httpcore.http2", "httpcore.proxy"),
)
_FAMILIES = ("litellm", "openai", "httpx", "httpcore", "aiohttp", "anthropic", "mcp")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class RedactingFilter(logging.Filter):
    """Renders a record, masks it, and drops its arguments and exception objects, which may hold requests."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Clean the record in place; none is withheld."""
        try:
            text = record.getMessage()
        except Exception:  # noqa: BLE001 - a bad format string or repr: logging would print the raw arguments to stderr
            text = f"{record.msg} (arguments could not be formatted)"
        record.msg, record.args = _redact_short(text), ()
        if record.exc_info:
            record.exc_text = record.exc_text or "".join(traceback.format_exception(*record.exc_info)).rstrip()
            record.exc_info = None
        record.exc_text = clean_traceback(record.exc_text)
        record.stack_info = clean_traceback(record.stack_info)
        for name in record.__dict__.keys() - _STANDARD:
            record.__dict__[name] = redact_value(record.__dict__[name])
        return True


def clean_traceback(text: str | None) -> str | None:
    """A formatted traceback, masked by value and by pattern."""
    return _GUESS.mask(redact(text)) if text else text


_FILTER = RedactingFilter()


def install_filter(names: Iterable[str] = LOGGERS) -> None:
    """Put the filter on `names` and on every logger of LiteLLM's family that exists by now; repeating is harmless."""
    existing = [name for name in logging.root.manager.loggerDict if name.partition(".")[0].lower() in _FAMILIES]
    for name in {*names, *existing}:
        logging.getLogger(name).addFilter(_FILTER)  # noqa: TID251 - foreign loggers, to clean what they write
