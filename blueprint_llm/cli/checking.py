"""What is wrong with a configuration: in the file, in what a client would make of it, and at its providers."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from blueprint_llm.cli.options import open_client, provider_names
from blueprint_llm.cli.output import Progress, say
from blueprint_llm.config.environment import closed, set_in, unset
from blueprint_llm.config.load import inspect_config
from blueprint_llm.credentials import CredentialsManager, Finding
from blueprint_llm.errors import BlueprintError, ConfigError, NoTargetError
from blueprint_llm.usage import Ledger
from blueprint_llm.usage.ledger import of_attempt as limits_of
from blueprint_llm.usage.pricing import Prices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from blueprint_llm.config import Config
    from blueprint_llm.config.load import Inspection
    from blueprint_llm.config.problems import Path
    from blueprint_llm.config.sections import Known


def verdict_on(path: str | None, *, online: bool) -> dict[str, Any]:
    """Return what `check` says, as JSON values: every problem and notice of the file, and a finding per provider."""
    found = inspect_config(path, on_untrusted=say, litellm=_litellm_names)
    config, problems, notices, calls = found.config, [*found.problems], [*found.notices], []
    if config:
        problems += [problem for problem in _found_in_use(config, found) if problem not in found.problems]
        names = dict.fromkeys(unset([*config.targets(), *found.references]))
        notices += [each for each in names if each not in problems]
        calls = [asdict(each) for each in call_providers(config)] if online and not problems else []
    good = not problems and all(call["ok"] for call in calls)
    source = config.source if config else path
    return {"ok": good, "source": source, "problems": problems, "notices": notices, "online": calls}


def _litellm_names() -> Known:
    from blueprint_llm.adapters.known import litellm_names  # LiteLLM takes seconds to load

    return litellm_names()


def _found_in_use(config: Config, found: Inspection) -> Iterator[str]:
    """What a client or a run would find when it is made: addresses, limits in LiteLLM's words, prices, tool rules."""
    yield from dict.fromkeys(filter(None, map(closed, config.targets())))
    if config.model_list or config.router_settings:
        yield from _declined(config, found)
    deployments = [each for group in config.model_groups.values() for each in group]
    limits = [partial(limits_of, each.group, set_in({**each.info, **each.params})) for each in deployments]
    made_later: list[Callable[[], Any]] = [partial(Ledger, config), *limits]
    for made in made_later:
        try:
            made()
        except ConfigError as error:
            yield from error.problems
    try:
        Prices.load(config.pricing, folder=config.folder)
    except ConfigError as error:
        yield from (found.told(("blueprint", "pricing", "files"), problem) for problem in error.problems)
    if config.store.is_shared and find_spec("redis") is None:
        place = found.place_of(("blueprint", "store", "url"))
        yield f"{place}: Redis is not installed: pip install 'blueprint-llm[redis]'"
    are_whole = not any("blueprint.tools.rules" in problem for problem in found.problems)
    for number, rule in enumerate(config.tools.rules):
        place = found.place_of(("blueprint", "tools", "rules", *([number] if are_whole else [])))
        yield from _wrong_rule(config, rule, place)


def _declined(config: Config, found: Inspection) -> Iterator[str]:
    """What LiteLLM's Router says against its sections, with their places."""
    from blueprint_llm.compat.router import declined  # LiteLLM takes seconds to load

    async def ask() -> list[tuple[Path, str]]:
        return list(declined(config))  # the Router starts tasks of its own, which want a loop, and end with it

    for path, words in asyncio.run(ask()):
        yield found.told(path, f"LiteLLM's Router declines this: {' '.join(words.split())}")


def _wrong_rule(config: Config, rule: Any, place: str) -> Iterator[str]:
    from blueprint_llm.tools.rules import load_rules  # few configurations have rules
    from blueprint_llm.tools.workspace import Workspace

    try:
        load_rules([rule], Workspace(config.tools.workspace))
    except ConfigError as error:
        yield from (f"{place}{problem.removeprefix('tools.rules[0]')}" for problem in error.problems)


def call_providers(config: Config, credentials: CredentialsManager | None = None) -> list[Finding]:
    """Ask each provider for one token, past the cache; a finding each."""
    names, findings = provider_names(config), []
    request = {"messages": [{"role": "user", "content": "ping"}], "max_tokens": 1, "num_retries": 0}
    with open_client(config, credentials_manager=credentials) as client, Progress("asking the providers") as progress:
        for n, name in enumerate(names, 1):
            ok, message = True, "answered"
            try:
                client.chat({**request, "provider": name, "fallback": False, "cache": False})
            except BlueprintError as error:
                ok, message = False, error.reasons if isinstance(error, NoTargetError) else str(error)
            findings.append(Finding(subject=f"{name} (online)", ok=ok, message=message))
            progress.update(n, len(names))
    return findings
