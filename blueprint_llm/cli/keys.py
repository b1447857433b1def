"""`blueprint-llm keys`: store, show, remove and check API keys without ever printing one.

A key comes from a prompt without echo or from stdin, never from an argument: arguments stand in the process list and
in the shell's history.
"""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blueprint_llm.credentials import CredentialsManager, Finding, Secret

_CONFIG = click.option("--config", "path", metavar="PATH", help="The configuration; without it, the one in use.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_ID = click.option("--id", "identity", metavar="ID", help="Which of several keys of the provider.")
_KEYRING = click.option("--keyring", is_flag=True, help="The system's keychain instead of the credentials file.")


@click.group("keys", short_help="Store, show, remove and check API keys.")
def command() -> None:
    """Store, show, remove and check API keys; no command prints more of one than its last four characters."""


@command.command("set", epilog="Example: op read op://vault/openai/key | blueprint-llm keys set openai")
@click.argument("provider")
@_ID
@_KEYRING
@_CONFIG
def set_(provider: str, identity: str | None, path: str | None, *, keyring: bool) -> None:
    """Store a key for PROVIDER: asked for without echo, or read from stdin."""
    with _manager(path) as manager:
        manager.set(provider, _read_key(provider), id=identity, keyring=keyring)
        place = "the keychain" if keyring else str(manager.sources.file.path)
        click.echo(f"stored a key for {provider} in {place}", err=True)
        if keyring and not manager.sources.use_keychain:
            click.echo("the keychain is not read yet: set blueprint.credentials.keyring: true", err=True)


def _read_key(provider: str) -> Secret:
    from blueprint_llm.credentials import Secret  # noqa: PLC0415 - `--help` must not pay for it

    if sys.stdin.isatty():
        return Secret(click.prompt(f"API key for {provider}", hide_input=True, err=True).strip())
    return Secret(sys.stdin.read().strip())


@command.command("list")
@_JSON
@_CONFIG
def list_(path: str | None, *, as_json: bool) -> None:
    """Show every key that is there: its id, where it comes from, at most its last four characters."""
    with _manager(path) as manager:
        rows = [asdict(row) for row in manager.list()]
    if as_json:
        click.echo(json.dumps(rows))
    elif rows:
        click.echo(_table([[row["provider"], row["id"], row["source"], row["hint"]] for row in rows]))
    else:
        click.echo("no keys: run blueprint-llm keys set PROVIDER", err=True)


@command.command("remove")
@click.argument("provider")
@_ID
@_KEYRING
@_CONFIG
def remove(provider: str, identity: str | None, path: str | None, *, keyring: bool) -> None:
    """Delete the keys of PROVIDER, or the one of --id."""
    with _manager(path) as manager:
        if not manager.remove(provider, id=identity, keyring=keyring):
            raise click.ClickException(f"there is no such key of {provider!r}: see blueprint-llm keys list")
    click.echo(f"removed {provider}", err=True)


@command.command("check")
@click.option("--online", is_flag=True, help="Also make one cheap call per provider.")
@_JSON
@_CONFIG
def check(path: str | None, *, online: bool, as_json: bool) -> None:
    """Check permissions, owners, folders, the keychain and every provider's key; exit code 1 if something is wrong."""
    with _manager(path) as manager:
        findings = [*manager.check(), *(_calls(manager) if online else ())]
    rows = [asdict(finding) for finding in findings]
    click.echo(json.dumps(rows) if as_json else "\n".join(map(_sentence, findings)))
    sys.exit(0 if all(finding.ok for finding in findings) else 1)


def _sentence(finding: Finding) -> str:
    mend = f"\n      mend: {finding.mend}" if finding.mend else ""
    return f"{'ok   ' if finding.ok else 'WRONG'} {finding.subject}: {finding.message}{mend}"


def _calls(manager: CredentialsManager) -> Iterator[Finding]:
    from blueprint_llm.client import SyncLLMClient  # noqa: PLC0415 - the only command that calls anybody

    with SyncLLMClient(manager.config, credentials_manager=manager) as client:
        for name in manager.config.providers or manager.config.model_groups:
            yield _call(client, name)


def _call(client: Any, name: str) -> Finding:
    from blueprint_llm.credentials import Finding  # noqa: PLC0415 - see _read_key
    from blueprint_llm.errors import BlueprintError  # noqa: PLC0415 - likewise

    request = {"messages": [{"role": "user", "content": "ping"}], "provider": name, "max_tokens": 1}
    try:
        client.chat({**request, "fallback": False, "cache": False})
    except BlueprintError as error:
        return Finding(subject=f"{name} (online)", ok=False, message=str(error))
    return Finding(subject=f"{name} (online)", ok=True, message="answered")


def _table(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


@contextmanager
def _manager(path: str | None) -> Iterator[CredentialsManager]:
    """A manager for the configuration; an error of ours ends the command with its sentence."""
    from blueprint_llm.config import load_config  # noqa: PLC0415 - see _read_key
    from blueprint_llm.credentials import CredentialsManager  # noqa: PLC0415 - likewise
    from blueprint_llm.errors import BlueprintError  # noqa: PLC0415 - likewise

    try:
        yield CredentialsManager(load_config(path))
    except BlueprintError as error:
        problem = str(error)
    else:
        return
    raise click.ClickException(problem)
