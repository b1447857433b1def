"""Options that several commands share, what they complete to, and how commands read and print."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from blueprint_llm.client import SyncLLMClient
    from blueprint_llm.config import Config
    from blueprint_llm.events import Event

Command = TypeVar("Command", bound=Callable[..., Any])

AS_JSON = "blueprint_llm.json"  # in click's `meta`, which a command and its groups share
SHORT_ID = 12
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
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_NUMBER = re.compile(r"\$?\d[\d,.]*( \+ unknown)?|unknown|[-?]")
_BOUND = "\N{NO-BREAK SPACE}"
_LEAST_CHARS = 12  # of a column of text before rows become records


def config_option(function: Command) -> Command:
    """`--config PATH`: default, discovery."""
    option = click.option("--config", "config", type=click.Path(dir_okay=False), help="Configuration file.")
    return option(function)


def unread_config_option(function: Command) -> Command:
    """`--config PATH` of a command that reads no configuration, so that scripts may give it to every command."""
    option = click.option("--config", expose_value=False, metavar="FILE", help="Accepted everywhere; not read here.")
    return option(function)


def json_option(function: Command) -> Command:
    """`--json`: machine-readable output, of failures too."""
    return click.option("--json", "as_json", is_flag=True, callback=note_json, help="Print JSON.")(function)


def note_json(ctx: click.Context, _option: click.Parameter, value: Any) -> Any:
    """Remember that JSON was asked for, for whoever reports a failure; an option's `callback`."""
    ctx.meta[AS_JSON] = value is True or value == "json"
    return value


def failure(error: Exception) -> dict[str, Any]:
    """Return a failure as JSON values: what it is, its facts, and the trace of the call where there was one."""
    facts = {name: getattr(error, name) for name in _FACTS if getattr(error, name, None) is not None}
    text = error.format_message() if isinstance(error, click.ClickException) else str(error)
    return {"error": {"type": type(error).__name__, "message": text, **facts}, "trace": getattr(error, "trace", {})}


def model_option(function: Command) -> Command:
    """`--model`: completes to the configuration's."""
    text = "A model_list group or a LiteLLM model id."
    return click.option("-m", "--model", help=text, shell_complete=_complete_model)(function)


def provider_option(function: Command) -> Command:
    """`--provider`: completes to the configuration's."""
    text = "A provider of the configuration: asked first."
    return click.option("-p", "--provider", help=text, shell_complete=complete_provider)(function)


def load(config: str | None) -> Config:
    """Return the configuration to use; an untrusted one in this folder is passed over, in one line."""
    from blueprint_llm.config import load_config  # noqa: PLC0415 - --help does not need it

    return load_config(config, on_untrusted=say)


def _complete_model(ctx: click.Context, _param: click.Parameter, typed: str) -> list[str]:
    return [name for name in model_names(_config(ctx)) if name.startswith(typed)]


def complete_provider(ctx: click.Context, _param: click.Parameter, typed: str) -> list[str]:
    """The providers that begin with what was typed, for an option's `shell_complete`."""
    return [name for name in provider_names(_config(ctx)) if name.startswith(typed)]


def _config(ctx: click.Context) -> Config | None:
    """The configuration that the half-typed command would use; None while it is broken."""
    from blueprint_llm.config import load_config  # noqa: PLC0415 - --help does not need it
    from blueprint_llm.errors import ConfigError  # noqa: PLC0415 - likewise

    try:
        return load_config(ctx.params.get("config"), on_untrusted=lambda _: None)
    except ConfigError:
        return None


def provider_names(config: Config | None) -> list[str]:
    """What `--provider` may be."""
    return list(config.providers or config.model_groups) if config else []


def model_names(config: Config | None) -> list[str]:
    """What the configuration calls models: its groups and the models of its providers."""
    return sorted({*config.model_groups, *(each.model for each in config.providers.values())}) if config else []


def seconds(_ctx: click.Context, _option: click.Parameter, value: str | None) -> float:
    """An age like 12h in seconds, for an option's `callback`; nothing is 0."""
    found = re.fullmatch(r"(\d+)([smhd]?)", value or "0")
    if found is None:
        raise click.BadParameter("write 90s, 15m, 12h or 7d")
    return int(found[1]) * _UNITS[found[2] or "s"]


def open_client(config: str | Config | None, **keywords: Any) -> SyncLLMClient:
    """A blocking client of a configuration; its embedded models are freed at exit. Raises ConfigError."""
    from blueprint_llm.adapters import litellm as _litellm  # noqa: PLC0415 - --help does not need it
    from blueprint_llm.client import SyncLLMClient  # noqa: PLC0415 - likewise

    _litellm.quiet()
    return SyncLLMClient.from_config(load(config) if config is None else config, **keywords)


def on_terminal() -> bool:
    """Whether a person can type."""
    return sys.stdin is not None and sys.stdin.isatty()


def text_of(words: Sequence[str]) -> str:
    """The words of a command line, after what was piped in."""
    piped = "" if sys.stdin is None or on_terminal() else sys.stdin.buffer.read().decode(errors="replace").strip()
    return "\n\n".join(filter(None, (piped, " ".join(words))))


def say(text: str, **style: Any) -> None:
    """A remark to people: on standard error, so that a pipe gets the answer only."""
    click.secho(text, err=True, **style)


def counted(number: int, noun: str) -> str:
    """The number with its noun: 1 call, 2 calls."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def print_table(head: Sequence[str], rows: Iterable[Sequence[Any]], *, err: bool = False) -> None:
    """Aligned columns on standard output, or error; numbers to the right. A narrow terminal gets narrower ones."""
    stream = sys.stderr if err else sys.stdout
    width = shutil.get_terminal_size().columns if stream.isatty() else None
    for line in table_lines(head, [[str(cell) for cell in row] for row in rows], width):
        click.echo(line, err=err)


def table_lines(head: Sequence[str], rows: Sequence[Sequence[str]], width: int | None = None) -> list[str]:
    """Return a table of at most `width` columns: text wraps, and where that is not enough each row is a record."""
    columns = list(zip(head, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    if width is None or _total(widths) <= width:
        return _aligned(head, rows, widths)
    if not head[-1]:  # a picture of what the other columns say
        return table_lines(head[:-1], [row[:-1] for row in rows], width)
    narrow = _narrowed(widths, [_is_numeric(column) for column in columns], width)
    if _total(narrow) <= width:
        return _aligned(head, [line for row in rows for line in _wrapped(row, narrow)], narrow)
    return [line for row in rows for line in _record(head, row, width)]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + 2 * (len(widths) - 1)


def _is_numeric(column: Sequence[str]) -> bool:
    return len(column) > 1 and all(_NUMBER.fullmatch(cell) or not cell for cell in column[1:]) and any(column[1:])


def _narrowed(widths: Sequence[int], numeric: Sequence[bool], width: int) -> list[int]:
    """Return the widths after taking from the widest column of text, a character at a time."""
    narrow = list(widths)
    while _total(narrow) > width:
        text = [n for n, is_number in enumerate(numeric) if not is_number and narrow[n] > _LEAST_CHARS]
        if not text:
            break
        narrow[max(text, key=narrow.__getitem__)] -= 1
    return narrow


def _wrapped(row: Sequence[str], widths: Sequence[int]) -> list[list[str]]:
    cells = [textwrap.wrap(cell, width) or [""] for cell, width in zip(row, widths, strict=True)]
    return [list(line) for line in itertools.zip_longest(*cells, fillvalue="")]


def _aligned(head: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[int]) -> list[str]:
    numeric = [_is_numeric(column) for column in zip(head, *rows, strict=True)]
    lines = []
    for row in (head, *rows):
        cells = zip(row, widths, numeric, strict=True)
        line = "  ".join(cell.rjust(width) if right else cell.ljust(width) for cell, width, right in cells)
        lines.append(line.rstrip())
    return lines


def _record(head: Sequence[str], row: Sequence[str], width: int) -> list[str]:
    """Return a row as its first cell and, below, what the others are; a name and its number stay on one line."""
    named = zip(head[1:], row[1:], strict=True)
    facts = " · ".join(_bound(f"{name.lower()} {cell}") for name, cell in named if cell)
    wrapped = textwrap.wrap(facts, width, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
    return [*(textwrap.wrap(row[0], width) or [""]), *(line.replace(_BOUND, " ") for line in wrapped)]


def _bound(fact: str) -> str:
    return fact.replace(" ", _BOUND) if len(fact) <= _LEAST_CHARS + _LEAST_CHARS else fact


def usd(value: float | None, unpriced: int = 0) -> str:
    """Return an amount in USD; what is unknown is never 0."""
    if value is None or (unpriced and not value):
        return "unknown"
    return f"{value:.6f} + unknown" if unpriced else f"{value:.6f}"


class Fallbacks:
    """Hears a client's events and says who was passed over or failed before a call was answered.

    What a call says that fails in the end is in its error.
    """

    def __init__(self) -> None:
        self._lines: list[str] = []

    def __call__(self, event: Event) -> None:
        """Take one event."""
        facts = event.facts
        if event.name == "target.skipped":
            self._lines.append(f"skipped {facts['provider']} ({facts['model']}): {facts['reason']}")
        elif event.name == "attempt.failed":
            self._lines.append(failed_line(facts))
        elif event.name.startswith("call."):
            if event.name == "call.answered" and self._lines:
                say("\n".join([*self._lines, f"answered by {facts['served_by']}"]))
            self._lines.clear()


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
