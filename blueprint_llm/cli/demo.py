"""`blueprint-llm demo`: what the library does, shown on a real small model and a provider that fails on purpose."""

from __future__ import annotations

import click


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
