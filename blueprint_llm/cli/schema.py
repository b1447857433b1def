"""`blueprint-llm schema`: prints the JSON Schema of the configuration file, for editors."""

from __future__ import annotations

import click

from blueprint_llm.cli.options import print_json, unread_config_option


@click.command("schema", short_help="Print the JSON Schema of the configuration.")
@click.option("--json", expose_value=False, is_flag=True, help="JSON is what it prints anyway.")
@unread_config_option
def command() -> None:
    """Print the JSON Schema of blueprint.yaml; editors take it for completion and checks.

    Example: blueprint-llm schema > blueprint.schema.json
    """
    from blueprint_llm.config.schema import file_schema  # noqa: PLC0415 - `--help` must not pay for pydantic

    print_json(file_schema())
