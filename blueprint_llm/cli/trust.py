"""`blueprint-llm trust`: show what a configuration that lies in a folder may do, and agree to it."""

from __future__ import annotations

from pathlib import Path

import click

from blueprint_llm.cli.options import json_option, on_terminal, print_json, say

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("trust", short_help="Show what a found blueprint.yaml may do, and agree to it.")
@click.argument("path", metavar="[FILE]", required=False, type=FILE)
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--show", is_flag=True, help="Only show; agree to nothing.")
@click.option("--revoke", is_flag=True, help="Take it back: the file is inert again.")
@click.option("--config", type=FILE, help="Another way to say FILE.")
@json_option
def command(path: Path | None, config: Path | None, *, yes: bool, show: bool, revoke: bool, as_json: bool) -> None:
    """Show what FILE (blueprint.yaml) may do: hosts, variables, tools, stores, folders, files; then agree to it.

    A configuration that merely lies in the current folder does nothing before that; an edit by which it may do more
    needs it again. On a terminal it asks first.

    Example: blueprint-llm trust
    """
    from blueprint_llm.config import trust  # noqa: PLC0415 - `--help` must not pay for pydantic
    from blueprint_llm.config.load import FILE_NAME, abilities_of  # noqa: PLC0415 - likewise

    file = path or config or Path(FILE_NAME)
    if revoke:
        trust.revoke(file)
        print_json({"config": str(file), "trusted": False}) if as_json else say(f"{file} is not trusted any more")
        return
    abilities = abilities_of(file)
    if not as_json:
        click.echo(f"{file}:" if abilities else f"{file}: it does nothing that needs trust")
        for each in abilities:
            click.echo(f"  {'+' if trust.is_new(file, each) else ' '} {each.text}")
    asks = on_terminal() and not (yes or show or as_json)
    agreed = not show and (not asks or click.confirm("Trust it?", err=True))
    if agreed:
        trust.record(file, abilities)
    if as_json:
        print_json({"config": str(file), "abilities": [each.text for each in abilities], "trusted": agreed})
    elif not show:
        say(f"{file} is trusted" if agreed else f"{file} is not trusted")
