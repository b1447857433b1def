"""`blueprint-llm cache`: how much the response cache keeps, and making it forget."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from blueprint_llm.cli.options import config_option, json_option, print_json

if TYPE_CHECKING:
    from blueprint_llm.cache import CacheManager

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _seconds(_ctx: click.Context, _option: click.Parameter, value: str | None) -> float:
    found = re.fullmatch(r"(\d+)([smhd]?)", value or "0")
    if found is None:
        raise click.BadParameter("write 90s, 15m, 12h or 7d")
    return int(found[1]) * UNITS[found[2] or "s"]


@click.group("cache")
def command() -> None:
    """Show or clear the cached answers.

    Example: blueprint-llm cache clear --project acme --older-than 7d
    """


def _open(config: str | None) -> CacheManager:
    """The configured cache, also while it is off: what was kept before is still there."""
    from blueprint_llm.cache import CacheManager  # noqa: PLC0415 - --help does not need it
    from blueprint_llm.config import load_config  # noqa: PLC0415 - as above

    loaded = load_config(config)
    enabled = loaded.cache.model_copy(update={"enabled": True})
    return CacheManager.of_config(loaded, cache=enabled)


@command.command("stats")
@json_option
@config_option
def stats(*, as_json: bool, config: str | None) -> None:
    """Show how many answers are kept, and their size."""
    cache = _open(config)
    amount = cache.measure()
    cache.close()
    if as_json:
        print_json({"entries": amount.entries, "bytes": amount.bytes})
    else:
        click.echo(f"{amount.entries} answers, {amount.bytes / 1e6:.2f} MB")


@command.command("clear")
@click.option("--project", help="Only this project's answers.")
@click.option("--older-than", "older_than_s", callback=_seconds, metavar="AGE", help="Only those older than 12h, 7d...")
@config_option
def clear(*, project: str | None, older_than_s: float, config: str | None) -> None:
    """Forget the cached answers."""
    cache = _open(config)
    deleted = cache.clear(project, older_than_s=older_than_s)
    cache.close()
    click.echo(f"{deleted} answers forgotten")
