"""Options that several commands share, what they complete to, and how commands read and print."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from blueprint_llm.client import SyncLLMClient
    from blueprint_llm.config import Config

Command = TypeVar("Command", bound=Callable[..., Any])

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_NUMBER = re.compile(r"\$?\d[\d,.]*|[-?]")


def config_option(function: Command) -> Command:
    """`--config PATH`: default, discovery."""
    option = click.option("--config", "config", type=click.Path(dir_okay=False), help="Configuration file.")
    return option(function)


def unread_config_option(function: Command) -> Command:
    """`--config PATH` of a command that reads no configuration, so that scripts may give it to every command."""
    option = click.option("--config", expose_value=False, metavar="FILE", help="Accepted everywhere; not read here.")
    return option(function)


def json_option(function: Command) -> Command:
    """`--json`: machine-readable output."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def model_option(function: Command) -> Command:
    """`--model`: completes to the configuration's."""
    text = "A model_list group or a LiteLLM model id."
    return click.option("-m", "--model", help=text, shell_complete=_complete_model)(function)


def provider_option(function: Command) -> Command:
    """`--provider`: completes to the configuration's."""
    text = "A provider of the configuration: asked first."
    return click.option("-p", "--provider", help=text, shell_complete=complete_provider)(function)


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
        return load_config(ctx.params.get("config"))
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
    return SyncLLMClient.from_config(config, **keywords)


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
    """Aligned columns on standard output, or error; numbers to the right."""
    body = [[str(cell) for cell in row] for row in rows]
    columns = list(zip(head, *body, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numeric = [bool(body) and all(map(_NUMBER.fullmatch, column[1:])) for column in columns]
    for row in (head, *body):
        cells = zip(row, widths, numeric, strict=True)
        line = "  ".join(cell.rjust(width) if right else cell.ljust(width) for cell, width, right in cells)
        click.echo(line.rstrip(), err=err)
