"""`blueprint-llm demo`: a streamed answer without any key, and why it came from where it came from."""

from __future__ import annotations

import click

from blueprint_llm.cli.chat import show, summary
from blueprint_llm.cli.options import open_client, say

QUESTION = "In one short sentence, what is a fallback?"


@click.command("demo")
@click.option("-y", "--yes", is_flag=True, help="Fetch the embedded model (93 MB) without asking.")
def command(*, yes: bool) -> None:
    """Ask the built-in chain: a cloud model, skipped while there is no key for it, then the embedded one.

    Example: blueprint-llm demo --yes
    """
    from blueprint_llm.config.load import TEMPLATE  # noqa: PLC0415 - --help does not need it

    _fetch(ask=not yes)
    with open_client(str(TEMPLATE)) as client:
        say(f"> {QUESTION}", bold=True)
        stream = client.stream(messages=[{"role": "user", "content": QUESTION}], max_tokens=60, temperature=0)
        show(stream)
        say("why this answer came from there:", bold=True)
        click.echo(summary(stream.response.trace) if stream.response else "")


def _fetch(*, ask: bool) -> None:
    from blueprint_llm.adapters import weights  # noqa: PLC0415 - --help does not need it
    from blueprint_llm.cli.local import ensure_weights, pull_weights  # noqa: PLC0415 - likewise

    if weights.find(weights.SMOLLM2) is None:
        ensure_weights("smollm2", interactive=True) if ask else pull_weights("smollm2")
