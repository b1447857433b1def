"""`blueprint-llm check`: says what is wrong with a configuration, everything at once.

Findings go to stdout: they are the answer. Exit code 1 when the configuration does not load.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import click


@click.command(
    "check",
    epilog="Example: blueprint-llm check --config blueprint.yaml",
    short_help="Say what is wrong with the configuration.",
)
@click.option("--config", "path", metavar="PATH", help="The file to check; without it, the one in use.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(path: str | None, *, as_json: bool) -> None:
    """Check a configuration and list every problem with file, line, column and key path."""
    verdict = _verdict(path)
    click.echo(json.dumps(verdict) if as_json else _text(verdict))
    sys.exit(0 if verdict["ok"] else 1)


def _verdict(path: str | None) -> dict[str, Any]:
    from blueprint_llm.config import load_config  # noqa: PLC0415 - `--help` must not pay for pydantic
    from blueprint_llm.errors import ConfigError  # noqa: PLC0415 - likewise

    try:
        config = load_config(path)
    except ConfigError as error:
        return {"ok": False, "source": path, "problems": list(error.problems), "notices": []}
    return {"ok": True, "source": config.source, "problems": [], "notices": config.notices}


def _text(verdict: dict[str, Any]) -> str:
    if not verdict["ok"]:
        count = len(verdict["problems"])
        return "\n".join([*verdict["problems"], f"{count} problem{'' if count == 1 else 's'}"])
    return "\n".join([*(f"notice: {notice}" for notice in verdict["notices"]), f"ok: {verdict['source']}"])
