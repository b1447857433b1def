"""LiteLLM's `model_list` as plain entries: what a Router shows, and what its changes make of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from blueprint_llm.config.model import Config, Deployment
    from blueprint_llm.routing.targets import Target

Entry = dict[str, Any]


def entry_of(given: Any) -> Entry:
    """An entry from a mapping or from LiteLLM's own `Deployment`."""
    return dict(given) if isinstance(given, dict) else dict(given.model_dump(exclude_none=True))


def entries_of(config: Config) -> list[Entry]:
    """The deployments of a configuration, each with its id."""
    return [_shown(each) for group in config.model_groups.values() for each in group]


def _shown(deployment: Deployment) -> Entry:
    params = {"model": deployment.model, **deployment.params}
    info = {**deployment.info, "id": deployment.id}
    return {"model_name": deployment.group, "litellm_params": params, "model_info": info}


def entry_of_target(name: str, target: Target) -> Entry:
    """A target under the name that it was asked for: an alias, or a model that a wildcard stands for."""
    params, info = {"model": target.model, **target.params}, {**target.info, "id": target.deployment}
    return {"model_name": name, "litellm_params": params, "model_info": info}


def id_of(entry: Entry) -> str | None:
    """The id that an entry was given, as text."""
    found = (entry.get("model_info") or {}).get("id")
    return None if found is None else str(found)


def without(entries: Iterable[Entry], model_id: str | None) -> list[Entry]:
    """The entries but the one with this id."""
    return [entry for entry in entries if id_of(entry) != model_id]


def with_id(entries: Iterable[Entry], model_id: str | None) -> Entry | None:
    """The entry with this id."""
    return next((entry for entry in entries if model_id is not None and id_of(entry) == model_id), None)


def shown_aliases(config: Config) -> list[tuple[str, str]]:
    """Each alias that is not hidden, and its group."""
    items = ((alias, value if isinstance(value, dict) else {"model": value}) for alias, value in _aliases(config))
    return [(alias, value["model"]) for alias, value in items if not value.get("hidden")]


def _aliases(config: Config) -> Sequence[tuple[str, Any]]:
    return [(alias, value) for alias, value in config.model_group_alias.items() if isinstance(value, dict | str)]
