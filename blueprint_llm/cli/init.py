"""`blueprint-llm init`: writes a commented configuration to start from, and its schema for editors beside it."""

from __future__ import annotations

import json
from pathlib import Path

import click

from blueprint_llm.cli.options import json_option, print_json, say

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("init", short_help="Write a commented blueprint.yaml.")
@click.argument("path", required=False, type=FILE)
@click.option("--force", is_flag=True, help="Overwrite a file that is already there.")
@click.option("--config", type=FILE, help="Another way to say PATH.")
@json_option
def command(path: Path | None, config: Path | None, *, force: bool, as_json: bool) -> None:
    """Write a commented configuration to PATH (blueprint.yaml); it holds what runs without any file.

    Example: blueprint-llm init && blueprint-llm check
    """
    target = path or config or Path("blueprint.yaml")
    schema = _write(target, force=force)
    _trust(target)
    if as_json:
        print_json({"config": str(target), "schema": str(schema)})
    say(f"wrote {target}: edit it, then run `blueprint-llm check`")


def _trust(path: Path) -> None:
    """Agree to what was just written; where that cannot be recorded, the file is still there to be named."""
    from blueprint_llm.config import trust  # noqa: PLC0415 - `--help` must not pay for pydantic
    from blueprint_llm.config.load import abilities_of  # noqa: PLC0415 - likewise
    from blueprint_llm.errors import BlueprintError  # noqa: PLC0415 - likewise

    try:
        trust.record(path, abilities_of(path))
    except BlueprintError as error:
        say(f"{path} has to be named with --config: {error}")


def _write(path: Path, *, force: bool) -> Path:
    from blueprint_llm.config.load import TEMPLATE  # noqa: PLC0415 - `--help` must not pay for pydantic
    from blueprint_llm.config.schema import SCHEMA_NAME, file_schema  # noqa: PLC0415 - likewise

    schema = path.with_name(SCHEMA_NAME)
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(TEMPLATE.read_text(encoding="utf-8"))
        schema.write_text(json.dumps(file_schema()), encoding="utf-8")
    except FileExistsError:
        raise click.ClickException(f"{path} is already there: use --force to overwrite it") from None
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}") from None
    return schema
