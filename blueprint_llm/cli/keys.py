"""`blueprint-llm keys`: store, show, remove and check API keys without ever printing one.

A key comes from a prompt without echo or from stdin, never from an argument: arguments stand in the process list and
in the shell's history.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from blueprint_llm.cli.options import config_option, json_option, load, on_terminal, print_json, print_table, say

if TYPE_CHECKING:
    from blueprint_llm.credentials import CredentialsManager, Finding, Secret

_id_option = click.option("--id", "identity", metavar="ID", help="Which of several keys of the provider.")
_keyring_option = click.option("--keyring", is_flag=True, help="The system's keychain instead of the credentials file.")


@click.group("keys", short_help="Store, show, remove and check API keys.")
def command() -> None:
    """Store, show, remove and check API keys; no command prints more of one than its last four characters.

    Example: blueprint-llm keys set openai
    """


@command.command("set")
@click.argument("provider")
@_id_option
@_keyring_option
@json_option
@config_option
def set_(provider: str, identity: str | None, config: str | None, *, keyring: bool, as_json: bool) -> None:
    """Store a key for PROVIDER: asked for without echo, or read from stdin.

    Example: op read op://vault/openai/key | blueprint-llm keys set openai
    """
    manager = _manager(config)
    manager.set(provider, _read_key(provider), id=identity, keyring=keyring)
    place = "the keychain" if keyring else str(manager.sources.file.path)
    if as_json:
        print_json({"provider": provider, "stored": place})
    say(f"stored a key for {provider} in {place}")
    if keyring and not manager.sources.use_keychain:
        say("the keychain is not read yet: set credentials: {keyring: true} in the block blueprint")


def _read_key(provider: str) -> Secret:
    from blueprint_llm.credentials import Secret  # noqa: PLC0415 - --help does not need it

    if on_terminal():
        return Secret(click.prompt(f"API key for {provider}", hide_input=True, err=True).strip())
    return Secret(sys.stdin.read().strip())


@command.command("list")
@json_option
@config_option
def list_(config: str | None, *, as_json: bool) -> None:
    """Show every key that is there: its id, where it comes from, at most its last four characters.

    Example: blueprint-llm keys list
    """
    rows = [asdict(row) for row in _manager(config).list()]
    if as_json:
        print_json(rows)
    elif rows:
        print_table(["PROVIDER", "ID", "SOURCE", "ENDS IN"], [list(row.values()) for row in rows])
    else:
        say("no keys: run blueprint-llm keys set PROVIDER")


@command.command("remove")
@click.argument("provider")
@_id_option
@_keyring_option
@json_option
@config_option
def remove(provider: str, identity: str | None, config: str | None, *, keyring: bool, as_json: bool) -> None:
    """Delete the keys of PROVIDER, or the one of --id.

    Example: blueprint-llm keys remove openai --id work
    """
    if not _manager(config).remove(provider, id=identity, keyring=keyring):
        raise click.ClickException(f"there is no such key of {provider!r}: see blueprint-llm keys list")
    if as_json:
        print_json({"provider": provider, "removed": True})
    say(f"removed {provider}")


@command.command("check")
@click.option("--online", is_flag=True, help="Also make one cheap call per provider.")
@json_option
@config_option
def check(config: str | None, *, online: bool, as_json: bool) -> None:
    """Check permissions, owners, folders, the keychain and every provider's key; exit code 1 if something is wrong.

    Example: blueprint-llm keys check --online
    """
    manager = _manager(config)
    findings = [*manager.check(), *(_calls(manager) if online else ())]
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        click.echo("\n".join(map(_sentence, findings)))
    sys.exit(0 if all(finding.ok for finding in findings) else 1)


def _sentence(finding: Finding) -> str:
    mend = f"\n      mend: {finding.mend}" if finding.mend else ""
    return f"{'ok   ' if finding.ok else 'WRONG'} {finding.subject}: {finding.message}{mend}"


def _manager(config: str | None) -> CredentialsManager:
    from blueprint_llm.credentials import CredentialsManager  # noqa: PLC0415 - likewise

    return CredentialsManager(load(config))


def _calls(manager: CredentialsManager) -> list[Finding]:
    from blueprint_llm.cli.online import call_providers  # noqa: PLC0415 - --help does not need it

    return call_providers(manager.config, manager)
