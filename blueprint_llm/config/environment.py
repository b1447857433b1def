"""What LiteLLM's parameters borrow: `os.environ/NAME` from the environment, keys from `credential_list`.

What is not there is never the default: an address that is not set would otherwise be the vendor's own host.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

Path = tuple[str | int, ...]

ENVIRON = "os.environ/"
UNSET = "unset:"  # before a reference that has to outlive LiteLLM's reading of it
LISTED = "litellm_credential_name"
# What says where a call goes: without it LiteLLM would choose.
WHERE = ("model", "api_base", "base_url", "custom_llm_provider", "aws_bedrock_runtime_endpoint")


class Reference(str):
    """`os.environ/NAME` that knows where it was written: `blueprint.yaml:5:17: model_list[0]....api_base`."""

    __slots__ = ("_path", "_place_of")
    _path: Path
    _place_of: Callable[[Path], str]

    @classmethod
    def at(cls, text: str, path: Path, place_of: Callable[[Path], str]) -> Reference:
        """Return the reference `text` at a key path; the file is searched for its place only when it is asked."""
        made = cls(text)
        made._path, made._place_of = path, place_of
        return made

    @property
    def place(self) -> str:
        """Where it was written."""
        return self._place_of(self._path)

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str(self),)


def variable_of(value: Any) -> str | None:
    """Return NAME of `os.environ/NAME`; None for anything else."""
    return value.removeprefix(ENVIRON) if isinstance(value, str) and value.startswith(ENVIRON) else None


def from_environment(value: Any) -> Any:
    """Return `value`, or what the environment says where it is `os.environ/NAME`: None where that is not set."""
    variable = variable_of(value)
    return os.environ.get(variable) if variable else value


def set_in(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters with what they take from the environment, without what is not set, as LiteLLM reads them."""
    return {name: value for name, given in params.items() if (value := from_environment(given)) is not None}


def located(value: Any, path: Path, place_of: Callable[[Path], str]) -> Any:
    """Return `value`, which stands at `path`, with every reference in it knowing its place; itself if it has none."""
    if isinstance(value, str):
        return Reference.at(value, path, place_of) if value.startswith(ENVIRON) else value
    if not isinstance(value, dict | list):
        return value
    pairs = list(value.items() if isinstance(value, dict) else enumerate(value))
    made = [(step, located(item, (*path, step), place_of)) for step, item in pairs]
    if all(new is old for (_, new), (_, old) in zip(made, pairs, strict=True)):
        return value
    return dict(made) if isinstance(value, dict) else [item for _, item in made]


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
    for name in WHERE:
        if (value := params.get(name)) is None:
            continue
        if isinstance(value, str) and value.startswith(UNSET):
            return _sentence(value.removeprefix(UNSET))
        if sentences := unset(value, environ):
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
    own = {key: value for key, value in params.items() if key != LISTED}
    if not wanted:
        return own
    found = next((item for item in credential_list if item.get("credential_name") == wanted), {})
    values = found.get("credential_values")
    return {**values, **own} if isinstance(values, Mapping) else own


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
