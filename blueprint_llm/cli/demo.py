"""`blueprint-llm demo`: what the library does, shown on a real small model and a provider that fails on purpose."""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterator


@click.command("demo")
@click.option(
    "-y", "--yes", is_flag=True, help="Fetch the embedded model (93 MB) and approve the demo's file, unasked."
)
def command(*, yes: bool) -> None:
    """Ten short scenes, each with its proof from the trace: fallback, a broken stream, a tool call caught, ...

    Example: blueprint-llm demo --yes

    It needs no key and no account, asks a provider on this machine only, and keeps nothing of what it did. The exit
    code is 0 only if every scene did what it says.
    """
    from blueprint_llm.adapters import litellm as _litellm  # noqa: PLC0415 - --help does not need it
    from blueprint_llm.cli.scenes import SCENES, NotProvenError, Stage  # noqa: PLC0415 - --help does not need it
    from blueprint_llm.testing import FaultServer  # noqa: PLC0415 - likewise

    weights = _fetch(ask=not yes)
    _litellm.quiet()
    with _own_home(weights) as home, FaultServer() as server:
        stage = Stage(server=server, workspace=home / "workspace", asks=not yes and _is_terminal())
        for number, (headline, scene) in enumerate(SCENES, 1):
            click.secho(f"\n{number}/{len(SCENES)} {headline}", bold=True)
            try:
                click.echo(click.style("proof  ", fg="green") + scene(stage))
            except NotProvenError as error:
                raise click.ClickException(f"scene {number} did not do what it says: {error}") from None
    click.secho("\nAll of it held. Next: blueprint-llm init", bold=True)


def _fetch(*, ask: bool) -> Path:
    """The model's weights, fetched once into the user's own home."""
    from blueprint_llm.adapters.local import weights  # noqa: PLC0415 - --help does not need it
    from blueprint_llm.cli.local import ensure_weights, pull_weights  # noqa: PLC0415 - likewise

    found = weights.find(weights.SMOLLM2)
    return found or (ensure_weights("smollm2", interactive=True) if ask else pull_weights("smollm2"))


@contextmanager
def _own_home(file: Path) -> Iterator[Path]:
    """A home that goes away with the demo: the user's ledger, cache and audit are not touched."""
    from blueprint_llm.adapters.local import embedded, weights  # noqa: PLC0415 - --help does not need it

    before = os.environ.get("BLUEPRINT_HOME")
    with tempfile.TemporaryDirectory(prefix="blueprint-demo-") as folder:
        os.environ["BLUEPRINT_HOME"] = folder
        try:
            weights.SMOLLM2.target.parent.mkdir(mode=0o700, parents=True)
            weights.SMOLLM2.target.symlink_to(file.absolute())
            Path(folder, "workspace").mkdir()
            yield Path(folder)
        finally:
            embedded.close_all()
            os.environ.pop("BLUEPRINT_HOME")
            if before is not None:
                os.environ["BLUEPRINT_HOME"] = before


def _is_terminal() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()
