"""`blueprint-llm models`: what the configuration can reach, and what it cannot and why."""

from __future__ import annotations

import click

from blueprint_llm.cli.options import (
    complete_provider,
    config_option,
    json_option,
    open_client,
    print_json,
    print_table,
)


@click.command("models")
@click.option("-p", "--provider", help="Only this provider.", shell_complete=complete_provider)
@json_option
@config_option
def command(*, provider: str | None, as_json: bool, config: str | None) -> None:
    """List the configured models; asks no network.

    Example: blueprint-llm models --provider cloud
    """
    with open_client(config) as client:
        models = client.list_models(provider)
    if as_json:
        print_json([model.model_dump(mode="json") for model in models])
        return
    rows = [(m.provider, m.id, m.max_input_tokens or "?", "yes" if m.available else f"no: {m.reason}") for m in models]
    print_table(("PROVIDER", "MODEL", "INPUT TOKENS", "AVAILABLE"), rows)
