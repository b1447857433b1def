"""What a configuration that was merely found may do, and whether the user has agreed to it.

`./blueprint.yaml` in a cloned folder is somebody else's. It can send any environment variable to any host, so it is
judged by what it is able to do, not by the names of its blocks: all that it says is an ability unless it is known to
be harmless. A key that stands in the file may go to the file's own address, and a provider's own key to that
provider's own host; everything else waits until `blueprint-llm trust` has shown it. What was agreed to is kept by
path, as digests of the abilities, in the state folder.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from blueprint_llm.config import private_file
from blueprint_llm.config.environment import references, targets_of, variable_of
from blueprint_llm.config.paths import file_in, folder
from blueprint_llm.config.problems import mapping, words
from blueprint_llm.config.providers import TABLE, litellm_provider, names_of, needs_key
from blueprint_llm.config.secrets import FALLBACKS, masked, masked_text
from blueprint_llm.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

# Settings of a target that say nothing of where it sends, what it reads or whose key it uses.
QUIET_PARAMS = words(
    """model api_key api_base base_url custom_llm_provider litellm_credential_name credentials share_codebase
    temperature max_tokens max_completion_tokens top_p top_k n stop seed presence_penalty frequency_penalty
    logit_bias user reasoning_effort verbosity response_format tool_choice parallel_tool_calls logprobs
    top_logprobs thinking modalities service_tier stream extra_headers headers extra_body drop_params
    additional_drop_params allowed_openai_params api_version organization rpm tpm weight order timeout
    stream_timeout timeout_s max_retries num_retries max_parallel_requests max_budget budget_duration
    cooldown_time tags role tasks max_context_tokens input_cost_per_token output_cost_per_token"""
)
_QUIET_SETTINGS = words(
    """num_retries max_fallbacks timeout stream_timeout request_timeout default_max_parallel_requests default_fallbacks
    fallbacks context_window_fallbacks content_policy_fallbacks model_group_alias retry_after retry_policy
    model_group_retry_policy allowed_fails allowed_fails_policy cooldown_time disable_cooldowns routing_strategy
    routing_strategy_args provider_budget_config enable_pre_call_checks enable_tag_filtering tag_filtering_match_any
    tag_routing_prefix drop_params modify_params"""
)
_QUIET_CHANGES = {"model", "messages", *QUIET_PARAMS} - {
    *("api_key", "api_base", "base_url", "custom_llm_provider", "litellm_credential_name", "credentials"),
    *("extra_headers", "headers", "extra_body"),
}
# They call with the given key and nothing else of the user's (others sign with a cloud's login, or ask it for a token).
PLAIN_KEY = TABLE.keys() - {"azure", "azure_ai", "watsonx", "datarobot", "ollama", "huggingface", "replicate"}
_RECORDS = "trusted.json"
_SHOWN_CHARS = 200


class Risk(IntEnum):
    """How far an ability reaches."""

    OWN_KEY = 0  # a provider's own key to its own host: what the built-in configuration does
    OWN_ADDRESS = 1  # an address of the file's own, with a key of the file's own
    OTHER = 2


@dataclass(frozen=True, slots=True, order=True)
class Ability:
    """One thing that a configuration can do, in words that hold no secret."""

    text: str
    risk: Risk = Risk.OTHER

    @property
    def digest(self) -> str:
        """What is recorded of it."""
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest()


class Untrusted(Exception):  # noqa: N818 - never leaves this package: `load_config` makes a ConfigError or a remark of it
    """A found file has abilities that nobody agreed to."""


def require(file: Path, abilities: Iterable[Ability]) -> None:
    """Raise Untrusted if the user has not agreed to one of `abilities`.

    A file that was never trusted may call with keys of its own; in one that was, a new address is news.
    """
    agreed = _records().get(_name(file))
    allowed = Risk.OWN_KEY if agreed is not None else Risk.OWN_ADDRESS
    new = [each for each in abilities if each.digest not in (agreed or ())]  # what `trust` marks
    if any(each.risk > allowed for each in new):
        more = f" and {len(new) - 1} more" if len(new) > 1 else ""
        raise Untrusted(f"{file} is not trusted: it {max(new, key=lambda each: each.risk).text}{more}")


def is_new(file: Path, ability: Ability) -> bool:
    """Return True if the record of `file` does not hold `ability`."""
    return ability.digest not in _records().get(_name(file), ())


def record(file: Path, abilities: Iterable[Ability]) -> None:
    """Remember that the user agreed to these abilities of `file`, and to no others. Raises ConfigError."""
    _change(lambda files: files.update({_name(file): sorted({each.digest for each in abilities})}))


def revoke(file: Path) -> None:
    """Forget that `file` was ever trusted. Raises ConfigError."""
    _change(lambda files: files.pop(_name(file), None))


def _name(file: Path) -> str:
    return str(file.parent.resolve() / file.name)


def _records() -> dict[str, list[str]]:
    """Return the agreed digests by path. Raises ConfigError where others could have written them."""
    if (path := file_in("state", _RECORDS)) is None:  # no home: nothing can have been recorded
        return {}
    try:
        content = private_file.read(path)
        files = json.loads(content)["files"] if content else {}
        return {str(name): list(digests) for name, digests in files.items()}
    except private_file.Refused as refused:
        problem = str(refused)
    except (ValueError, LookupError, TypeError, AttributeError):
        problem = f"{path} is damaged: remove it, and trust again what you trust"
    raise ConfigError(problem)


def _change(change: Callable[[dict[str, list[str]]], object]) -> None:
    path = folder("state") / _RECORDS
    try:
        with private_file.locked(path):
            files = _records()
            change(files)
            problem = private_file.replace(path, json.dumps({"version": 1, "files": files}, indent=1).encode())
    except private_file.Refused as refused:
        problem = str(refused)
    if problem:
        raise ConfigError(f"trust cannot be recorded: {problem}; or set BLUEPRINT_HOME to a folder you can write to")


def includes(name: str) -> Ability:
    """Return the ability to read another file as a part of this one."""
    return Ability(f"includes the file {masked_text(name)}")


def abilities(raw: Mapping[str, Any], included: Iterable[str] = ()) -> list[Ability]:
    """Return all that a configuration can do, by its plain values; mistakes in it are no obstacle."""
    block = mapping(raw.get("blueprint"))
    groups: dict[str, list[dict[str, Any]]] = {}
    for entry in _items(raw.get("model_list")):
        groups.setdefault(str(entry.get("model_name")), []).append(mapping(entry.get("litellm_params")))
    providers = map(mapping, mapping(block.get("providers")).values())
    found = {*map(includes, included), *_of_block(block)}
    for params in targets_of(groups, providers, _items(raw.get("credential_list"))):
        found.update(_of_target(params))
    for name in ("router_settings", "litellm_settings"):
        found.update(_of_settings(name, mapping(raw.get(name))))
    return sorted(found, key=lambda each: (-each.risk, each.text))


def _of_target(params: Mapping[str, Any]) -> Iterator[Ability]:
    model, own = params.get("model"), params.get("api_base") or params.get("base_url")
    provider = litellm_provider(str(model), params)
    if str(model).startswith("embedded:"):
        yield Ability(f"loads the model file {masked_text(str(model).removeprefix('embedded:'))}")
    is_one = "*" not in str(model).partition("/")[0] and "://" not in str(model)  # else the request says whose it is
    plain = provider in PLAIN_KEY and is_one
    place = _address(str(own)) if own else f"{masked_text(provider)}'s own host" if is_one else "any provider"
    if variable_of(own) or not plain or not isinstance(own, str | None):
        sends = Risk.OWN_KEY if not own and not needs_key(provider, None) else Risk.OTHER
    else:
        sends = Risk.OWN_ADDRESS if own else Risk.OWN_KEY
    yield Ability(f"sends requests to {place}", sends)
    yield from _of_key(params, provider, place, harmless=plain and not own)
    for name, value in params.items():
        if name in {"api_key", "api_base", "base_url"}:
            continue
        for variable in map(variable_of, references(value)):
            yield Ability(f"sends ${variable} to {place}")
        if name not in QUIET_PARAMS:
            yield Ability(f"sets {masked_text(str(name))} for {place}: {_short(value, str(name))}")
    if params.get("share_codebase") is True:
        yield Ability(f"sends parts of the codebase to {place}")


def _of_key(params: Mapping[str, Any], provider: str, place: str, *, harmless: bool) -> Iterator[Ability]:
    """Whose key goes along: a literal one is the file's own."""
    key = params.get("api_key")
    if variable := variable_of(key):
        is_usual = harmless and variable in names_of(provider).keys
        yield Ability(f"sends ${variable} to {place}", Risk.OWN_KEY if is_usual else Risk.OTHER)
    elif not key and (own := params.get("credentials")):
        yield Ability(f"sends your key {masked_text(str(own))} to {place}")
    elif not key and (provider != "embedded"):
        keyless = not (params.get("api_base") or params.get("base_url")) and not needs_key(provider, None)
        risk = Risk.OWN_KEY if harmless or keyless else Risk.OTHER
        yield Ability(f"sends your key of {masked_text(provider)} to {place}", risk)


def _of_settings(name: str, settings: Mapping[str, Any]) -> Iterator[Ability]:
    """Yield what LiteLLM is told beside its targets: callbacks, caches, modules to import, changes by fallbacks."""
    for key, value in settings.items():
        if key not in _QUIET_SETTINGS and value not in (None, False, [], {}):
            yield Ability(f"sets {name}.{masked_text(str(key))}: {_short(value, str(key))}")
    # A fallback may change the request to its group; the group's key goes along wherever it then goes.
    chains = [targets for key in FALLBACKS for item in _items(settings.get(key)) for targets in item.values()]
    for key, value in (change for targets in chains for target in _items(targets) for change in target.items()):
        if key not in _QUIET_CHANGES or [*references(value)]:
            yield Ability(f"sets {masked_text(str(key))} of a fallback: {_short(value, str(key))}")


def _of_block(block: Mapping[str, Any]) -> Iterator[Ability]:
    for file in _list(mapping(block.get("pricing")).get("files")):
        yield Ability(f"reads the price file {masked_text(str(file))}")
    if place := mapping(block.get("cache")).get("directory"):
        yield Ability(f"keeps answers in the folder {masked_text(str(place))}")
    if (url := mapping(block.get("store")).get("url")) not in (None, "sqlite", "memory"):
        yield Ability(f"keeps usage and budgets in {_address(str(url))}")
    for key, value in mapping(block.get("credentials")).items():
        if value:
            yield Ability(f"reads keys from {'the keychain' if key == 'keyring' else masked_text(str(value))}")
    tools = mapping(block.get("tools"))
    # One line a setting; each holds a mark of all of them: to take a rule away may be to allow more.
    mark = _mark(json.dumps(tools, sort_keys=True, default=str))
    for key, value in tools.items():
        yield Ability(f"sets tools.{masked_text(str(key))}: {_short(value, str(key))} (tools {mark})")


def _address(url: str) -> str:
    """An address without the login and the query that it may hold."""
    if variable := variable_of(url):
        return f"the address in ${variable}"
    try:
        parts = urlsplit(url)
        host = f"{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}"
    except ValueError:
        return masked_text(url)
    return masked_text(f"{parts.scheme}://{host}{parts.path}" if parts.netloc else url)


def _short(value: Any, key: str) -> str:
    text = json.dumps(masked(value, key), default=str, ensure_ascii=False)
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}... ({_mark(text)})"


def _mark(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _items(value: Any) -> list[dict[str, Any]]:
    return [item for item in _list(value) if isinstance(item, dict)]
