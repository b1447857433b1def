"""`blueprint-llm schema`: prints the JSON Schema of the configuration file, for editors."""

from __future__ import annotations

import json

import click


@click.command(
    "schema",
    epilog="Example: blueprint-llm schema > blueprint.schema.json",
    short_help="Print the JSON Schema of the configuration.",
)
def command() -> None:
    """Print the JSON Schema of blueprint.yaml; editors take it for completion and checks."""
    from blueprint_llm.config.schema import file_schema  # noqa: PLC0415 - `--help` must not pay for pydantic

    click.echo(json.dumps(file_schema(), indent=2))
