"""`blueprint-llm audit show|verify`: what tools did, and whether the record of it is whole."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from blueprint_llm.cli.options import config_option, counted, json_option, load, print_json, print_table

if TYPE_CHECKING:
    from blueprint_llm.tools.audit import Audit


@click.group("audit")
def command() -> None:
    """Look at the record of what tools did.

    Example: blueprint-llm audit verify
    """


@command.command("show")
@click.option("--last", type=click.IntRange(min=1), default=50, show_default=True, help="How many records.")
@json_option
@config_option
def show(*, last: int, as_json: bool, config: str | None) -> None:
    """Print the latest records; with --json, one a line.

    Example: blueprint-llm audit show --last 20
    """
    records = list(_audit(config).records())[-last:]
    if as_json:
        for record in records:
            click.echo(json.dumps(record))
        return
    print_table(["SEQ", "TIME", "EVENT", "TOOL", "DECISION", "OUTCOME", "ARGUMENTS"], map(_row, records))


@command.command("verify")
@json_option
@config_option
def verify(*, as_json: bool, config: str | None) -> None:
    """Check every record and the end of the chain; exit code 1 when anything was changed.

    Example: blueprint-llm audit verify --json
    """
    audit = _audit(config)
    found = audit.verify()
    if as_json:
        facts = {name: getattr(found, name) for name in ("ok", "records", "broken_seq", "problem")}
        print_json({"path": str(audit.path), **facts})
    else:
        verdict = "whole" if found.ok else f"BROKEN: {found.problem}"
        click.echo(f"{audit.path}: {counted(found.records, 'record')}, {verdict}")
    if not found.ok:
        raise SystemExit(1)


def _audit(config: str | None) -> Audit:
    from blueprint_llm.tools.engine import open_audit  # noqa: PLC0415 - as above

    return open_audit(load(config).tools)


def _row(record: dict[str, Any]) -> list[str]:
    from blueprint_llm.tools.show import one_line  # noqa: PLC0415 - --help does not need it

    when = datetime.fromtimestamp(record.get("at", 0), UTC).strftime("%Y-%m-%d %H:%M:%S")
    outcome = record.get("status") or record.get("reason") or ""
    cells = [record.get("seq"), when, record.get("event"), record.get("tool"), record.get("decision"), outcome]
    return [one_line(str(cell)) for cell in (*cells, str(record.get("arguments", ""))[:100])]
