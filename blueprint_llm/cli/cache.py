"""`blueprint-llm cache`: how much the response cache keeps, and making it forget."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

import click

from blueprint_llm.cli.options import config_option, counted, json_option, load, print_json, seconds

if TYPE_CHECKING:
    from blueprint_llm.cache import CacheManager
    from blueprint_llm.cache.protocol import Amount


@click.group("cache")
def command() -> None:
    """Show or clear the cached answers.

    Example: blueprint-llm cache clear --project acme --older-than 7d
    """


def _open(config: str | None) -> CacheManager:
    """Return the configured cache, also while it is off: what was kept before is still there."""
    from blueprint_llm.cache import CacheManager  # noqa: PLC0415 - --help does not need it

    loaded = load(config)
    enabled = loaded.cache.model_copy(update={"enabled": True})
    return CacheManager.of_config(loaded, cache=enabled)


@command.command("stats")
@json_option
@config_option
def stats(*, as_json: bool, config: str | None) -> None:
    """Show how many answers are kept, and their size.

    Example: blueprint-llm cache stats --json
    """

    async def measure() -> Amount:
        async with aclosing(_open(config)) as cache:
            return await cache.measure()

    amount = asyncio.run(measure())
    if as_json:
        print_json({"entries": amount.entries, "bytes": amount.bytes})
    else:
        click.echo(f"{counted(amount.entries, 'answer')}, {amount.bytes / 1e6:.2f} MB")


@command.command("clear")
@click.option("--project", help="Only this project's answers.")
@click.option("--older-than", "older_than_s", callback=seconds, metavar="AGE", help="Only those older than 12h, 7d...")
@json_option
@config_option
def clear(*, project: str | None, older_than_s: float, as_json: bool, config: str | None) -> None:
    """Forget the cached answers.

    Example: blueprint-llm cache clear --older-than 7d
    """

    async def clear() -> int:
        async with aclosing(_open(config)) as cache:
            return await cache.clear(project, older_than_s=older_than_s)

    deleted = asyncio.run(clear())
    print_json({"forgotten": deleted}) if as_json else click.echo(f"{counted(deleted, 'answer')} forgotten")
