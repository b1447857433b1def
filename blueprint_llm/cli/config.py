"""`blueprint-llm init`, `check`, `trust`, `schema`: write a configuration, see what is wrong, agree to it; `demo`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from blueprint_llm.cli import options as given
from blueprint_llm.cli.output import answer, counted, print_json, say, wants_json


@click.command("init", short_help="Write a commented blueprint.yaml.")
@click.argument("path", required=False, type=given.FILE)
@click.option("--force", is_flag=True, help="Overwrite a file that is already there.")
@click.option("--config", type=given.FILE, help="Another way to say PATH.")
@given.json_option
def init(path: Path | None, config: Path | None, *, force: bool) -> None:
    """Write a commented configuration to PATH (blueprint.yaml); it holds what runs without any file.

    Example: blueprint-llm init && blueprint-llm check
    """
    from blueprint_llm.config import trust
    from blueprint_llm.config.load import TEMPLATE, abilities_of
    from blueprint_llm.config.sections import SCHEMA_NAME, file_schema
    from blueprint_llm.errors import BlueprintError

    target = path or config or Path("blueprint.yaml")
    schema_file = target.with_name(SCHEMA_NAME)
    try:
        with target.open("w" if force else "x", encoding="utf-8") as file:
            file.write(TEMPLATE.read_text(encoding="utf-8"))
        schema_file.write_text(json.dumps(file_schema()), encoding="utf-8")
    except FileExistsError:
        raise click.ClickException(f"{target} is already there: use --force to overwrite it") from None
    except OSError as error:
        raise click.ClickException(f"{target}: {error.strerror}") from None
    try:
        trust.record(target, abilities_of(target))
    except BlueprintError as error:  # where that cannot be recorded, the file is still there to be named
        say(f"{target} has to be named with --config: {error}")
    if wants_json():
        print_json({"config": str(target), "schema": str(schema_file)})
    say(f"wrote {target}: edit it, then run `blueprint-llm check`")


@click.command("check", short_help="Say what is wrong with the configuration.")
@given.online_option
@given.common_options
def check(*, online: bool) -> None:
    """Check a configuration and list every problem with file, line, column and key path, and every notice.

    Example: blueprint-llm check --config blueprint.yaml
    """
    from blueprint_llm.cli.checking import verdict_on

    verdict = verdict_on(given.config_file(), online=online)
    answer(verdict, _text(verdict))
    sys.exit(0 if verdict["ok"] else 1)


def _text(verdict: dict[str, Any]) -> str:
    """Return the findings, which go to standard output: they are the answer."""
    lines = [*verdict["problems"], *(f"notice: {notice}" for notice in verdict["notices"])]
    lines += [f"{'ok' if call['ok'] else 'WRONG'}: {call['subject']}: {call['message']}" for call in verdict["online"]]
    if count := len(verdict["problems"]):
        return "\n".join([*lines, counted(count, "problem")])
    return "\n".join([*lines, f"{'ok' if verdict['ok'] else 'WRONG'}: {verdict['source']}"])


@click.command("trust", short_help="Show what a found blueprint.yaml may do, and agree to it.")
@click.argument("path", metavar="[FILE]", required=False, type=given.FILE)
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--show", is_flag=True, help="Only show; agree to nothing.")
@click.option("--revoke", is_flag=True, help="Take it back: the file is inert again.")
@click.option("--config", type=given.FILE, help="Another way to say FILE.")
@given.json_option
def trust(path: Path | None, config: Path | None, *, yes: bool, show: bool, revoke: bool) -> None:
    """Show what FILE (blueprint.yaml) may do: hosts, variables, tools, stores, folders, files; then agree to it.

    A configuration that merely lies in the current folder does nothing before that; an edit by which it may do more
    needs it again. On a terminal it asks first.

    Example: blueprint-llm trust
    """
    from blueprint_llm.config import trust
    from blueprint_llm.config.load import FILE_NAME, abilities_of

    file = path or config or Path(FILE_NAME)
    if revoke:
        trust.revoke(file)
        answer({"config": str(file), "trusted": False}, lambda: say(f"{file} is not trusted any more"))
        return
    abilities, as_json = abilities_of(file), wants_json()
    if not as_json:
        click.echo(f"{file}:" if abilities else f"{file}: it does nothing that needs trust")
        for each in abilities:
            click.echo(f"  {'+' if trust.is_new(file, each) else ' '} {each.text}")
    asks = given.on_terminal() and not (yes or show or as_json)
    agreed = not show and (not asks or click.confirm("Trust it?", err=True))
    if agreed:
        trust.record(file, abilities)
    if as_json:
        print_json({"config": str(file), "abilities": [each.text for each in abilities], "trusted": agreed})
    elif not show:
        say(f"{file} is trusted" if agreed else f"{file} is not trusted")


@click.command("schema", short_help="Print the JSON Schema of the configuration.")
@click.option("--json", expose_value=False, is_flag=True, help="JSON is what it prints anyway.")
@given.unread_config_option
def schema() -> None:
    """Print the JSON Schema of blueprint.yaml; editors take it for completion and checks.

    Example: blueprint-llm schema > blueprint.schema.json
    """
    from blueprint_llm.config.sections import file_schema

    print_json(file_schema())


@click.command("demo")
@click.option(
    "-y", "--yes", is_flag=True, help="Fetch the embedded model (93 MB) and approve the demo's file, unasked."
)
def demo(*, yes: bool) -> None:
    """Ten short scenes, each with its proof from the trace: fallback, a broken stream, a tool call caught, ...

    Example: blueprint-llm demo --yes

    It needs no key and no account, asks a provider on this machine only, and keeps nothing of what it did. The exit
    code is 0 only if every scene did what it says.
    """
    from blueprint_llm.cli.scenes import play

    play(asks=not yes)
