"""Plant a key, let things happen, look everywhere for it.

`find_canary` knows the forms in which a key travels; `Sinks` collects every place a program writes to or leaves
behind. The positive control (`redaction_off`) must make the same search find the key, or the search proves nothing.
"""

import base64
import contextlib
import html
import io
import json
import logging
import os
import pickle  # noqa: TID251 - secrets must refuse it
import re
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from unittest.mock import patch
from urllib.parse import quote, quote_plus

from blueprint_llm import redaction

# One key per shape; the tails are random enough to be in no library's source or documentation.
KEYS = {
    "sk": "sk-cnry7Qw2ZxV9bT4mKp8LrN3yHd6GfJs1",
    "plain32": "c4n4ry0f2b7d19e8a6c35b40d7e92f18",
    "aiza": "AIzaCnRy5uQ8wE2rT7yU1iO4pA9sD3fG6hJ0kLz",
    "short8": "cnRy7x2q",
    "symbols": "cnry+8/Wq==zT4/+vB9k=",
}
SYMBOLS = (r"\u{:04X}".format, r"\u{:04x}".format, "&#{};".format, "&#x{:X};".format)
_DEPTH = 8
_PACKAGE = str(Path(redaction.__file__).parent)
logger_of = logging.getLogger  # noqa: TID251 - foreign loggers are what is looked at


def forms(key):
    """The ways a key may be written, made independently of the library's own list."""
    raw = key.encode()
    found = {key, quote(key, safe=""), quote(key), quote_plus(key), quote(key, safe="").lower(), json.dumps(key)[1:-1]}
    found |= {json.dumps(key)[1:-1].replace("/", "\\/"), repr(key)[1:-1], raw.hex(), raw.hex().upper()}
    found |= {key.lower(), key.upper(), quote(quote(key, safe=""), safe=""), html.escape(key)}
    # What .NET, browsers and Go's templates make of a symbol.
    found |= {re.sub(r"[+/=]", lambda hit, form=form: form(ord(hit[0])), key) for form in SYMBOLS}
    for lead in range(3):  # the three alignments of base64, less the characters shared with neighbours
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            text = encode(b"\0" * lead + raw).decode()
            found.add(text[-(-lead * 8 // 6) : (lead + len(raw)) * 8 // 6])
    return found


def find_canary(text, key):
    """The forms of `key` that occur in a text or in bytes."""
    text = text.decode("utf-8", "replace") if isinstance(text, bytes | bytearray) else text
    return sorted(form for form in forms(key) if form in text)


def exposures(value):
    """Everything that can be learnt from an object by accident: (sink, text) pairs."""
    yield "str", _quietly(str, value)
    yield "repr", _quietly(repr, value)
    yield "format", _quietly(format, value)
    yield "vars", _quietly(lambda item: repr(_walk(item)), value)
    yield "json", _quietly(lambda item: json.dumps(item, default=vars), value)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        yield f"pickle{protocol}", _quietly(lambda item, used=protocol: pickle.dumps(item, used), value)
    if hasattr(value, "model_dump_json"):
        yield "pydantic", _quietly(lambda item: item.model_dump_json(), value) or ""
        yield "pydantic", _quietly(lambda item: repr(item.model_dump()), value) or ""
    if isinstance(value, BaseException):
        yield from _exception(value)


def _exception(error):
    for link in chain(error):
        yield "chain", f"{link!r} {link} {_quietly(lambda item: repr(_walk(vars(item))), link)}"
        captured = traceback.TracebackException.from_exception(link, capture_locals=True)
        yield "traceback with locals", "".join(captured.format())
        for frame, _ in traceback.walk_tb(link.__traceback__):
            if frame.f_code.co_filename.startswith(_PACKAGE):  # other people's frames hold what they were given
                yield "locals", repr(_walk(dict(frame.f_locals), ours=True))


def chain(error):
    """An exception and all its causes and contexts."""
    seen, waiting = [], [error]
    while waiting:
        link = waiting.pop()
        if link is not None and not any(link is other for other in seen):
            seen.append(link)
            waiting += [link.__cause__, link.__context__, *getattr(link, "exceptions", ())]
            waiting += [other for other in getattr(link, "attempts", ()) if isinstance(other, BaseException)]
    return seen


def _walk(value, depth=_DEPTH, *, ours=False, seen=None):
    """A nest of what `vars`, `__slots__` and containers show, each object once.

    Modules, classes and functions are not entered, nor is the environment: that is a sink of its own. With `ours`
    the insides of other libraries' objects are not either: LiteLLM's open stream needs the key it was given.
    """
    if depth == 0 or isinstance(value, str | bytes | int | float | bool | None):
        return value
    seen = {} if seen is None else seen
    if id(value) in seen or value is os.environ:
        return "..."
    seen[id(value)] = value  # kept alive, so that no other object gets its id

    def deeper(item):
        return _walk(item, depth - 1, ours=ours, seen=seen)

    if isinstance(value, Mapping):
        return {str(key): deeper(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [deeper(item) for item in value]
    names = {*getattr(value, "__dict__", ()), *(getattr(type(value), "__slots__", None) or ())}
    is_closed = (
        callable(value) or isinstance(value, ModuleType) or (ours and "blueprint_llm" not in type(value).__module__)
    )
    if not names or is_closed:
        return _quietly(repr, value)
    return {name: deeper(getattr(value, name, None)) for name in names}


def _quietly(function, value):
    """What `function` says; a refusal is fine, and its words are looked at too."""
    try:
        return function(value)
    except Exception as error:  # noqa: BLE001 - refusing is what a secret should do
        return f"{error!r}"


class Sinks:
    """The texts that a program leaves behind, by sink."""

    def __init__(self):
        self.texts = []

    def add(self, sink, text):
        """Keep one text."""
        self.texts.append((sink, text))

    def take(self, value):
        """Keep all exposures of an object."""
        self.texts += exposures(value)

    def take_folder(self, folder):
        """Keep the bytes of every file below a folder (cache, ledger, audit)."""
        for path in Path(folder).rglob("*"):
            if path.is_file():
                self.add(f"file {path.name}", path.read_bytes())

    def take_environment(self):
        """Keep the environment, which every child process gets."""
        self.add("environment", repr(dict(os.environ)))

    def hits(self, key):
        """(sink, form) for every place in which the key was found."""
        return [(sink, form) for sink, text in self.texts if text for form in find_canary(text, key)]


@contextlib.contextmanager
def watched() -> Iterator[Sinks]:
    """Collect what is logged at DEBUG by anybody, and printed, while the block runs."""
    sinks, log, out, err = Sinks(), io.StringIO(), io.StringIO(), io.StringIO()
    handler = logging.StreamHandler(log)
    handler.setFormatter(_EverythingFormatter())
    loggers = [logger_of(name) for name in ("", "LiteLLM", "LiteLLM Router", "openai", "httpx", "httpcore")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    loggers[0].addHandler(handler)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            yield sinks
    finally:
        loggers[0].removeHandler(handler)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for sink, stream in (("log", log), ("stdout", out), ("stderr", err)):
            sinks.add(sink, stream.getvalue())


class _EverythingFormatter(logging.Formatter):
    """Writes the message and all that a record carries, as error collectors do."""

    def format(self, record):
        fields = {name: value for name, value in vars(record).items() if name != "exc_info"}
        error = record.exc_info[1] if record.exc_info else None
        extra = "".join(text for _, text in _exception(error)) if error else ""
        return f"{super().format(record)} {fields!r} {extra}"


@contextlib.contextmanager
def redaction_off():
    """The positive control: values are not masked, filters let everything through."""
    off = {"finds": lambda self, text: False}
    with (
        patch.multiple(redaction.Finder, **off),
        patch.object(redaction.RedactingFilter, "filter", lambda self, record: True),
    ):
        yield
