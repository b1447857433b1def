"""`blueprint-llm check`: says what is wrong with a configuration, everything at once.

Findings go to stdout: they are the answer. Exit code 1 when the configuration does not load or a provider fails.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import click

from blueprint_llm.cli.options import config_option, counted, json_option, print_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blueprint_llm.config import Config


@click.command("check", short_help="Say what is wrong with the configuration.")
@click.option("--online", is_flag=True, help="Also make one cheap call per provider.")
@json_option
@config_option
def command(config: str | None, *, online: bool, as_json: bool) -> None:
    """Check a configuration and list every problem with file, line, column and key path.

    Example: blueprint-llm check --config blueprint.yaml
    """
    verdict = _verdict(config, online=online)
    print_json(verdict) if as_json else click.echo(_text(verdict))
    sys.exit(0 if verdict["ok"] else 1)


def _verdict(path: str | None, *, online: bool) -> dict[str, Any]:
    from blueprint_llm.config import load_config  # noqa: PLC0415 - `--help` must not pay for pydantic
    from blueprint_llm.errors import ConfigError  # noqa: PLC0415 - likewise

    try:
        config = load_config(path)
    except ConfigError as error:
        return {"ok": False, "source": path, "problems": list(error.problems), "notices": [], "online": []}
    problems = list(_found_in_use(config))
    calls = _calls(config) if online and not problems else []
    good = not problems and all(call["ok"] for call in calls)
    return {"ok": good, "source": config.source, "problems": problems, "notices": config.notices, "online": calls}


def _found_in_use(config: Config) -> Iterator[str]:
    """What a client or a run would find when it is made: limits in LiteLLM's words, prices, a store, tool rules."""
    from blueprint_llm.config.load import place_of  # noqa: PLC0415 - as above
    from blueprint_llm.errors import ConfigError  # noqa: PLC0415 - as above
    from blueprint_llm.usage import Ledger  # noqa: PLC0415 - likewise
    from blueprint_llm.usage.pricing import Prices  # noqa: PLC0415 - likewise

    for made in (lambda: Ledger(config), lambda: Prices.load(config.pricing, folder=config.folder)):
        try:
            made()
        except ConfigError as error:
            yield from error.problems or [str(error)]
    if config.store.is_shared and find_spec("redis") is None:
        place = place_of(config, ("blueprint", "store", "url"))
        yield f"{place}: Redis is not installed: pip install 'blueprint-llm[redis]'"
    for number, rule in enumerate(config.tools.rules):
        yield from _wrong_rule(config, number, rule)


def _wrong_rule(config: Config, number: int, rule: Any) -> Iterator[str]:
    from blueprint_llm.config.load import place_of  # noqa: PLC0415 - as above
    from blueprint_llm.errors import ConfigError  # noqa: PLC0415 - likewise
    from blueprint_llm.tools.paths import Workspace  # noqa: PLC0415 - likewise
    from blueprint_llm.tools.rules import load_rules  # noqa: PLC0415 - likewise

    try:
        load_rules([rule], Workspace(config.tools.workspace))
    except ConfigError as error:
        place = place_of(config, ("blueprint", "tools", "rules", number))
        yield from (f"{place}{problem.removeprefix('tools.rules[0]')}" for problem in error.problems)


def _calls(config: Config) -> list[dict[str, Any]]:
    from blueprint_llm.cli.online import call_providers  # noqa: PLC0415 - as above

    return [asdict(finding) for finding in call_providers(config)]


def _text(verdict: dict[str, Any]) -> str:
    if count := len(verdict["problems"]):
        return "\n".join([*verdict["problems"], counted(count, "problem")])
    notices = [f"notice: {notice}" for notice in verdict["notices"]]
    calls = [f"{'ok' if call['ok'] else 'WRONG'}: {call['subject']}: {call['message']}" for call in verdict["online"]]
    return "\n".join([*notices, *calls, f"{'ok' if verdict['ok'] else 'WRONG'}: {verdict['source']}"])
