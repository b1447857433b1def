"""Options that several commands share, and how they print."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from blueprint_llm.client import SyncLLMClient

Command = TypeVar("Command", bound=Callable[..., Any])


def config_option(function: Command) -> Command:
    """`--config PATH`: default, discovery."""
    option = click.option("--config", "config", type=click.Path(dir_okay=False), help="Configuration file.")
    return option(function)


def json_option(function: Command) -> Command:
    """`--json`: machine-readable output."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def open_client(config: str | None, **keywords: Any) -> SyncLLMClient:
    """A blocking client of a configuration; its embedded models are freed at exit. Raises ConfigError."""
    from blueprint_llm.adapters import _litellm  # noqa: PLC0415 - --help does not need it
    from blueprint_llm.client import SyncLLMClient  # noqa: PLC0415 - likewise

    _litellm.quiet()
    return SyncLLMClient.from_config(config, **keywords)


def say(text: str, **style: Any) -> None:
    """A remark to people: on standard error, so that a pipe gets the answer only."""
    click.secho(text, err=True, **style)


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def print_table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Aligned columns on standard output."""
    table = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    for row in table:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
