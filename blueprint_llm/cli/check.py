"""`blueprint-llm check`: says what is wrong with a configuration, everything at once.

Findings go to stdout: they are the answer. Exit code 1 when the configuration does not load or a provider fails.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import click

from blueprint_llm.cli.options import config_option, counted, json_option, print_json, say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from blueprint_llm.config import Config
    from blueprint_llm.config.load import Inspection
    from blueprint_llm.config.problems import Path
    from blueprint_llm.config.sections import Known


@click.command("check", short_help="Say what is wrong with the configuration.")
@click.option("--online", is_flag=True, help="Also make one cheap call per provider.")
@json_option
@config_option
def command(config: str | None, *, online: bool, as_json: bool) -> None:
    """Check a configuration and list every problem with file, line, column and key path, and every notice.

    Example: blueprint-llm check --config blueprint.yaml
    """
    verdict = _verdict(config, online=online)
    print_json(verdict) if as_json else click.echo(_text(verdict))
    sys.exit(0 if verdict["ok"] else 1)


def _verdict(path: str | None, *, online: bool) -> dict[str, Any]:
    from blueprint_llm.config.load import inspect_config  # noqa: PLC0415 - `--help` must not pay for pydantic

    found = inspect_config(path, on_untrusted=say, litellm=_litellm_names)
    in_use = list(_found_in_use(found.config, found)) if found.config else []
    problems = [*found.problems, *(problem for problem in in_use if problem not in found.problems)]
    unset = _unset(found.config) if found.config else ()
    notices = [*found.notices, *(each for each in unset if each not in problems)]
    calls = _calls(found.config) if online and found.config and not problems else []
    good = not problems and all(call["ok"] for call in calls)
    source = found.config.source if found.config else path
    return {"ok": good, "source": source, "problems": problems, "notices": notices, "online": calls}


def _litellm_names() -> Known:
    from blueprint_llm.adapters.known import litellm_names  # noqa: PLC0415 - LiteLLM takes seconds to load

    return litellm_names()


def _declined(config: Config, found: Inspection) -> Iterator[str]:
    """What LiteLLM's Router says against its sections, with their places."""
    from blueprint_llm.compat.router import declined  # noqa: PLC0415 - as above

    async def ask() -> list[tuple[Path, str]]:
        return list(declined(config))  # the Router starts tasks of its own, which want a loop, and end with it

    for path, words in asyncio.run(ask()):
        yield found.told(path, f"LiteLLM's Router declines this: {' '.join(words.split())}")


def _found_in_use(config: Config, found: Inspection) -> Iterator[str]:
    """What a client or a run would find when it is made: addresses, limits in LiteLLM's words, prices, tool rules."""
    from blueprint_llm.config.environment import closed, set_in  # noqa: PLC0415 - as above
    from blueprint_llm.errors import ConfigError  # noqa: PLC0415 - likewise
    from blueprint_llm.usage import Ledger  # noqa: PLC0415 - likewise
    from blueprint_llm.usage.limits import of_attempt as limits_of  # noqa: PLC0415 - likewise
    from blueprint_llm.usage.pricing import Prices  # noqa: PLC0415 - likewise

    yield from dict.fromkeys(filter(None, map(closed, config.targets())))
    if config.model_list or config.router_settings:
        yield from _declined(config, found)
    deployments = [each for group in config.model_groups.values() for each in group]
    limits = [partial(limits_of, each.group, set_in({**each.info, **each.params})) for each in deployments]
    prices = partial(Prices.load, config.pricing, folder=config.folder)
    made_later: list[Callable[[], Any]] = [partial(Ledger, config), *limits, prices]
    for made in made_later:
        try:
            made()
        except ConfigError as error:
            yield from error.problems or [str(error)]
    if config.store.is_shared and find_spec("redis") is None:
        place = found.place_of(("blueprint", "store", "url"))
        yield f"{place}: Redis is not installed: pip install 'blueprint-llm[redis]'"
    are_whole = not any("blueprint.tools.rules" in problem for problem in found.problems)
    for number, rule in enumerate(config.tools.rules):
        place = found.place_of(("blueprint", "tools", "rules", *([number] if are_whole else [])))
        yield from _wrong_rule(config, rule, place)


def _wrong_rule(config: Config, rule: Any, place: str) -> Iterator[str]:
    from blueprint_llm.errors import ConfigError  # noqa: PLC0415 - as above
    from blueprint_llm.tools.rules import load_rules  # noqa: PLC0415 - likewise
    from blueprint_llm.tools.workspace import Workspace  # noqa: PLC0415 - likewise

    try:
        load_rules([rule], Workspace(config.tools.workspace))
    except ConfigError as error:
        yield from (f"{place}{problem.removeprefix('tools.rules[0]')}" for problem in error.problems)


def _unset(config: Config) -> dict[str, None]:
    """What targets name in the environment and is not there: a sentence each, once."""
    from blueprint_llm.config.environment import unset  # noqa: PLC0415 - as above

    return dict.fromkeys(sentence for params in config.targets() for sentence in unset(params))


def _calls(config: Config) -> list[dict[str, Any]]:
    from blueprint_llm.cli.online import call_providers  # noqa: PLC0415 - as above

    return [asdict(finding) for finding in call_providers(config)]


def _text(verdict: dict[str, Any]) -> str:
    lines = [*verdict["problems"], *(f"notice: {notice}" for notice in verdict["notices"])]
    lines += [f"{'ok' if call['ok'] else 'WRONG'}: {call['subject']}: {call['message']}" for call in verdict["online"]]
    if count := len(verdict["problems"]):
        return "\n".join([*lines, counted(count, "problem")])
    return "\n".join([*lines, f"{'ok' if verdict['ok'] else 'WRONG'}: {verdict['source']}"])
