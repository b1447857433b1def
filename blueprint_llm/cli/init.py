"""`blueprint-llm init`: writes a commented configuration to start from, and its schema for editors beside it."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command(
    "init",
    epilog="Example: blueprint-llm init && blueprint-llm check",
    short_help="Write a commented blueprint.yaml.",
)
@click.argument("path", default="blueprint.yaml", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--force", is_flag=True, help="Overwrite a file that is already there.")
def command(path: Path, *, force: bool) -> None:
    """Write a commented configuration to PATH; it holds what runs without any file."""
    from blueprint_llm.config.load import TEMPLATE  # noqa: PLC0415 - `--help` must not pay for pydantic
    from blueprint_llm.config.schema import SCHEMA_NAME, file_schema  # noqa: PLC0415 - likewise

    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(TEMPLATE.read_text(encoding="utf-8"))
        path.with_name(SCHEMA_NAME).write_text(json.dumps(file_schema()), encoding="utf-8")
    except FileExistsError:
        raise click.ClickException(f"{path} is already there: use --force to overwrite it") from None
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}") from None
    click.echo(f"wrote {path}: edit it, then run `blueprint-llm check`", err=True)
