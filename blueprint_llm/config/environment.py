"""What LiteLLM's parameters borrow: `os.environ/NAME` from the environment, keys from `credential_list`.

What is not there is never the default: an address that is not set would otherwise be the vendor's own host.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

ENVIRON = "os.environ/"
UNSET = "unset:"  # before a reference that has to outlive LiteLLM's reading of it
LISTED = "litellm_credential_name"
# What says where a call goes: without it LiteLLM would choose.
WHERE = ("model", "api_base", "base_url", "custom_llm_provider", "aws_bedrock_runtime_endpoint")


def variable_of(value: Any) -> str | None:
    """Return NAME of `os.environ/NAME`; None for anything else."""
    return value.removeprefix(ENVIRON) if isinstance(value, str) and value.startswith(ENVIRON) else None


def is_address(value: str) -> bool:
    """Return True for a URL with a scheme, a host and, if any, a port that there is."""
    try:
        parts = urlsplit(value)
        parts.port  # noqa: B018 - it raises
    except ValueError:
        return False
    return bool("://" in value and parts.hostname)


def from_environment(value: Any) -> Any:
    """Return `value`, or what the environment says where it is `os.environ/NAME`: None where that is not set."""
    variable = variable_of(value)
    return os.environ.get(variable) if variable else value


def set_in(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters with what they take from the environment, without what is not set, as LiteLLM reads them."""
    return {name: value for name, given in params.items() if (value := from_environment(given)) is not None}


def references(value: Any) -> Iterator[str]:
    """Yield every `os.environ/NAME` in a nested value."""
    if isinstance(value, str):
        if value.startswith(ENVIRON):
            yield value
    elif isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from references(item)


def unset(value: Any, environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return a sentence for each reference in `value` whose variable is not set."""
    return [_sentence(each) for each in references(value) if not environ.get(each.removeprefix(ENVIRON))]


def closed(params: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> str | None:
    """Return why a target with these LiteLLM parameters cannot be called: what its address needs is not set."""
    if variable_of(params.get("model")):  # a model is read as the configuration is loaded: it was not set then
        return _sentence(params["model"])
    for value in (params.get(name) for name in WHERE):
        if isinstance(value, str) and value.startswith(UNSET):
            return _sentence(value.removeprefix(UNSET))
        if value is not None and (sentences := unset(value, environ)):
            return sentences[0]
    return None


def marked(params: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return parameters whose addresses that are not set say so to `closed` even after LiteLLM has read them."""
    lost = {name: params[name] for name in WHERE if isinstance(params.get(name), str) and unset(params[name], environ)}
    return {**params, **{name: f"{UNSET}{value}" for name, value in lost.items() if name != "model"}}


def _sentence(reference: str) -> str:
    place = getattr(reference, "place", "")
    return f"{place}{': ' if place else ''}the environment variable {reference.removeprefix(ENVIRON)} is not set"


def with_listed(
    credential_list: Iterable[Mapping[str, Any]], params: Mapping[str, Any], name: str | None = None
) -> dict[str, Any]:
    """Return `params`, completed from the entry of LiteLLM's `credential_list` that they (or `name`) borrow."""
    wanted = params.get(LISTED) or name
    entries = credential_list if wanted else ()
    found = next((item for item in entries if item.get("credential_name") == wanted), {}).get("credential_values")
    own = {key: value for key, value in params.items() if key != LISTED}
    return {**found, **own} if isinstance(found, Mapping) else own


def targets_of(
    groups: Mapping[str, Iterable[Mapping[str, Any]]],
    providers: Iterable[Mapping[str, Any]],
    credential_list: Sequence[Mapping[str, Any]],
) -> Iterator[dict[str, Any]]:
    """Yield the LiteLLM parameters of all that can be called, groups and borrowed credentials merged as a call does."""
    for deployments in groups.values():
        yield from (with_listed(credential_list, params) for params in deployments)
    for provider in providers:
        for params in groups.get(str(provider.get("model")), [{}]):
            merged = {**params, **provider, "model": params.get("model", provider.get("model"))}
            yield with_listed(credential_list, merged, provider.get("credentials"))
