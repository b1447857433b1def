"""What commands print: answers on standard output, remarks on standard error; tables, JSON, progress, and failures."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import sys
import textwrap
import threading
import time
from typing import TYPE_CHECKING, Any, Self

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from blueprint_llm import Event

AS_JSON = "blueprint_llm.json"  # in click's `meta`, which a command and its groups share
SHORT_ID = 12
PATIENCE_S = 1.0  # before it is said that something takes long
# What an error may tell beside its text.
_FACTS = (
    *("category", "kind", "provider", "model", "status", "retry_after_s", "scope", "limit_usd", "used_usd", "limit"),
    *("used", "resets_at", "considered", "problems", "findings", "state_id"),
)
_REASONS = {
    "refused": "the key or the account was turned down",
    "not_found": "there is no such model or address",
    "rate_limited": "too many requests",
    "timeout": "no answer in time",
    "stream_broken": "the stream broke off",
    "malformed": "the answer is not valid",
    "unavailable": "the provider cannot be reached or is down",
    "context_length": "the request is too long for the model",
    "content_policy": "the provider refused the content",
    "invalid_request": "the provider declined the request",
    "abandoned": "its caller left",
    "expired": "nothing was heard of it",
    "unknown": "for no known reason",
}
_NUMBER = re.compile(r"\$?\d[\d,.]*( \+ unknown)?|unknown|[-?]")
_BOUND = "\N{NO-BREAK SPACE}"
_LEAST_CHARS = 12  # of a column of text before rows become records
_FRAME_S = 0.1
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_BAR_CHARS = 24


def say(text: str, **style: Any) -> None:
    """A remark to people: on standard error, so that a pipe gets the answer only."""
    click.secho(text, err=True, **style)


def counted(number: int, noun: str) -> str:
    """The number with its noun: 1 call, 2 calls."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def usd(value: float | None, unpriced: int = 0) -> str:
    """Return an amount in USD; what is unknown is never 0."""
    if value is None or (unpriced and not value):
        return "unknown"
    return f"{value:.6f} + unknown" if unpriced else f"{value:.6f}"


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def wants_json() -> bool:
    """Return True if the command line asks for JSON."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(AS_JSON))


def answer(record: Any, told: str | Callable[[], Any]) -> None:
    """Print what a command has found: as JSON where that was asked for, else the text, or by the function."""
    if wants_json():
        print_json(record)
    elif callable(told):
        told()
    else:
        click.echo(told)


def failure(error: Exception) -> dict[str, Any]:
    """Return a failure as JSON values: what it is, its facts, and the trace of the call where there was one."""
    facts = {name: getattr(error, name) for name in _FACTS if getattr(error, name, None) is not None}
    text = error.format_message() if isinstance(error, click.ClickException) else str(error)
    return {"error": {"type": type(error).__name__, "message": text, **facts}, "trace": getattr(error, "trace", {})}


def print_table(head: Sequence[str], rows: Iterable[Sequence[Any]], *, err: bool = False) -> None:
    """Aligned columns on standard output, or error; numbers to the right. A narrow terminal gets narrower ones."""
    stream = sys.stderr if err else sys.stdout
    width = shutil.get_terminal_size().columns if stream.isatty() else None
    for line in table_lines(head, [[str(cell) for cell in row] for row in rows], width):
        click.echo(line, err=err)


def table_lines(head: Sequence[str], rows: Sequence[Sequence[str]], width: int | None = None) -> list[str]:
    """Return a table of at most `width` columns: text wraps, and where that is not enough each row is a record."""
    columns = list(zip(head, *rows, strict=True))
    numbers = [any(c[1:]) and all(_NUMBER.fullmatch(cell) or not cell for cell in c[1:]) for c in columns]
    widths = [max(map(len, column)) for column in columns]
    gaps = 2 * (len(widths) - 1)
    if width is None or sum(widths) + gaps <= width:
        return [_aligned(row, widths, numbers) for row in (head, *rows)]
    if not head[-1]:  # a picture of what the other columns say
        return table_lines(head[:-1], [row[:-1] for row in rows], width)
    while sum(widths) + gaps > width:  # a character at a time from the widest column of text
        text = [n for n, size in enumerate(widths) if size > _LEAST_CHARS and not numbers[n]]
        if not text:
            return [line for row in rows for line in _record(head, row, width)]
        widths[max(text, key=widths.__getitem__)] -= 1
    lines: list[Sequence[str]] = [head]
    for row in rows:
        cells = [textwrap.wrap(cell, size) or [""] for cell, size in zip(row, widths, strict=True)]
        lines += itertools.zip_longest(*cells, fillvalue="")
    return [_aligned(line, widths, numbers) for line in lines]


def _aligned(row: Sequence[str], widths: Sequence[int], numbers: Sequence[bool]) -> str:
    cells = zip(row, widths, numbers, strict=True)
    return "  ".join(cell.rjust(size) if right else cell.ljust(size) for cell, size, right in cells).rstrip()


def _record(head: Sequence[str], row: Sequence[str], width: int) -> list[str]:
    """Return a row as its first cell and, below, what the others are; a short name and its number stay on one line."""
    facts = [f"{name.lower()} {cell}" for name, cell in zip(head[1:], row[1:], strict=True) if cell]
    short = min(2 * _LEAST_CHARS, width - 2)
    bound = [fact.replace(" ", _BOUND) if len(fact) <= short else fact for fact in facts]
    wrapped = textwrap.wrap(" · ".join(bound), width - 2, break_on_hyphens=False)
    return [*(textwrap.wrap(row[0], width) or [""]), *(f"  {line}".replace(_BOUND, " ") for line in wrapped)]


class Progress:
    """One line on standard error while a `with` block runs, if that takes over a second; with a bar after `update`.

    There is none in a pipe or on a dumb terminal, and none stays.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._share: float | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._draw, daemon=True)

    def update(self, done: int, total: int) -> None:
        """Say how far it is."""
        self._share = done / total if total else None

    def close(self) -> None:
        """Erase the line; once is enough."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def __enter__(self) -> Self:
        if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _draw(self) -> None:
        start = time.monotonic()
        if self._over.wait(PATIENCE_S):
            return
        for frame in itertools.cycle(_SPINNER):
            bar = ""
            if self._share is not None:
                full = round(self._share * _BAR_CHARS)
                bar = f" {'━' * full}{'─' * (_BAR_CHARS - full)} {self._share:4.0%}"
            _write(f"\r{frame} {self._label}{bar} {time.monotonic() - start:.0f} s\x1b[K")
            if self._over.wait(_FRAME_S):
                break
        _write("\r\x1b[K")


def _write(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


class Fallbacks:
    """Hears a client's events and says who was passed over or failed before a call was answered.

    What a call says that fails in the end is in its error.
    """

    def __init__(self) -> None:
        self._lines: list[str] = []

    def __call__(self, event: Event) -> None:
        """Take one event."""
        if event.name == "target.skipped":
            self._lines.append(skipped_line(event.facts))
        elif event.name == "attempt.failed":
            self._lines.append(failed_line(event.facts))
        elif event.name.startswith("call."):
            if event.name == "call.answered" and self._lines:
                say("\n".join([*self._lines, f"answered by {event.facts['served_by']}"]))
            self._lines.clear()


def skipped_line(row: Mapping[str, Any]) -> str:
    """Return who was passed over and why, from a row of a route."""
    return f"skipped {row['provider']} ({row['model']}): {row['reason']}"


def failed_line(attempt: Mapping[str, Any]) -> str:
    """Return who failed and why, from an attempt of a trace."""
    return f"failed {attempt['provider']} ({attempt['model']}): {why(attempt)}"


def why(attempt: Mapping[str, Any]) -> str:
    """Return why an attempt of a trace failed: in a sentence, with the status, the finer code and the address."""
    status = f"HTTP {attempt['status']}" if attempt.get("status") else None
    # Where nobody answered, status and code are LiteLLM's own.
    facts = attempt.get("address") or ", ".join(filter(None, (status, attempt.get("code"))))
    reason = f"{attempt['category']}: {_REASONS.get(attempt['category'], 'see the error')}"
    return f"{reason} ({facts})" if facts else reason


def restarted_line(chunk: Any) -> str:
    """Return what is said where a stream starts anew."""
    return f"-- the stream broke; {chunk.provider} starts the answer again ({chunk.error}) --"
