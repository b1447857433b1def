"""Targets: the deployments and models that a request may go to, under the names that callers know them by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from blueprint_llm.config.deployments import seconds_of
from blueprint_llm.credentials import providers
from blueprint_llm.wildcards import Wildcards, filled

if TYPE_CHECKING:
    import re

    from blueprint_llm.config.blocks import ProviderConfig
    from blueprint_llm.config.model import Config, Deployment

MOST_MET = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One deployment under the name that callers know it by.

    Attributes:
        provider: The key of `providers`, else the group, else LiteLLM's provider name.
        model: The LiteLLM model id.
        params: What goes to LiteLLM with every call, keys not yet resolved.
        info: LiteLLM's `model_info` of the deployment.
        max_context_tokens: Most input tokens to send, where the configuration says so.
        share_codebase: What the configuration says; None: decided by where the model runs.
        known: Whether the configuration names it at all.
        changes: What a fallback to it changes of the request (`messages`, `temperature`, ...).
        weight, rpm, tpm, order: For the order among the deployments of one group (`strategies`).
        key: What the breaker and the ledger know this target by.
    """

    provider: str
    model: str
    group: str | None = None
    deployment: str = ""
    params: Mapping[str, Any] = field(default_factory=dict, repr=False)
    info: Mapping[str, Any] = field(default_factory=dict)
    role: str | None = None
    credentials: str | None = None
    max_context_tokens: int | None = None
    share_codebase: bool | None = None
    timeout_s: float | None = None
    stream_timeout_s: float | None = None
    known: bool = True
    changes: Mapping[str, Any] = field(default_factory=dict, repr=False)
    weight: float | None = None
    rpm: int | None = None
    tpm: int | None = None
    order: int | None = None

    key: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        key = "|".join((self.provider, self.model, self.deployment, str(self.params.get("api_base") or "")))
        object.__setattr__(self, "key", key)


@lru_cache(maxsize=4096)
def litellm_provider(model: str) -> str:
    """LiteLLM's provider name of a model id."""
    return "embedded" if model.startswith("embedded:") else providers.litellm_provider(model, {})


def _of_deployment(name: str, deployment: Deployment, provider: ProviderConfig | None = None) -> Target:
    params = {**deployment.params, **(_own_params(provider) if provider else {})}
    return Target(
        provider=name,
        model=deployment.model,
        group=deployment.group,
        deployment=deployment.id,
        params=params,
        info=deployment.info,
        weight=deployment.weight,
        rpm=deployment.rpm,
        tpm=deployment.tpm,
        order=deployment.order,
        **{**_timeouts(deployment), **_settings(provider)},
    )


def _own_params(provider: ProviderConfig) -> dict[str, Any]:
    named = {"api_base": provider.api_base, "api_key": provider.api_key}
    return {**{key: value for key, value in named.items() if value}, **(provider.model_extra or {})}


def _settings(provider: ProviderConfig | None) -> dict[str, Any]:
    names = ("role", "credentials", "max_context_tokens", "share_codebase", "timeout_s")
    return {name: value for name in names if (value := getattr(provider, name, None)) is not None}


def _timeouts(deployment: Deployment) -> dict[str, float]:
    """LiteLLM's timeouts of a deployment, in seconds."""
    given = {f"{name}_s": seconds_of(deployment.params.get(name)) for name in ("timeout", "stream_timeout")}
    return {name: value for name, value in given.items() if value > 0}


class TargetTable:
    """Every name a chain may use, with its targets; built once for a configuration.

    Attributes:
        has_tags: Whether the tags of a request decide anywhere (see `tags`).
    """

    def __init__(self, config: Config) -> None:
        self._groups = {
            name: [_of_deployment(name, each) for each in deployments if each.info.get("blocked") is not True]
            for name, deployments in config.model_groups.items()
        }
        self._wildcards = Wildcards(self._groups)
        own = (target.info.get("enable_tag_filtering") for targets in self._groups.values() for target in targets)
        self.has_tags = config.enable_tag_filtering or True in own
        self._met: dict[tuple[str, ...], Target] = {}
        self._connected: dict[tuple[str, ...], tuple[Target, Target]] = {}
        self._ids = {each.id: name for name, found in config.model_groups.items() for each in found}
        self._aliases = {alias: _alias_target(value) for alias, value in config.model_group_alias.items()}
        self._own = {name: _own_params(provider) for name, provider in config.providers.items()}
        self._providers = {
            name: self._of_provider(name, provider, config) for name, provider in config.providers.items()
        }

    def _of_provider(self, name: str, provider: ProviderConfig, config: Config) -> list[Target]:
        if deployments := config.model_groups.get(provider.model):
            return [_of_deployment(name, deployment, provider) for deployment in deployments]
        return [Target(provider=name, model=provider.model, params=_own_params(provider), **_settings(provider))]

    def own_params(self, name: str) -> Mapping[str, Any]:
        """What `providers` itself says for LiteLLM, its group's deployments aside."""
        return self._own.get(name, {})

    @property
    def names(self) -> list[str]:
        """Providers, then groups."""
        return [*self._providers, *(name for name in self._groups if name not in self._providers)]

    def is_group(self, model: str) -> bool:
        """Whether `model` names a `model_list` group, an alias of one or matches a wildcard group."""
        return self.group(model) is not None

    def group(self, model: str) -> str | None:
        """The group that `model` means: its name, an alias, the id of one of its deployments, or a wildcard."""
        name = self._aliases.get(model, model)
        if name in self._groups:
            return name
        found = self._wildcard(name)
        return self._ids.get(name) or (found[0] if found else None)

    def _wildcard(self, model: str) -> tuple[str, re.Match[str]] | None:
        """The wildcard group of a model, or of it with its provider (`gpt-4o` as `openai/gpt-4o`)."""
        return self._wildcards.find(model, f"{litellm_provider(model)}/{model}") if self._wildcards else None

    def of_group(self, model: str) -> list[Target]:
        """The deployments of the group that `model` means; a wildcard stands for the asked model."""
        name = self._aliases.get(model, model)
        if name in self._groups:
            return self._groups[name]
        if name in self._ids:
            return [target for target in self._groups[self._ids[name]] if target.deployment == name]
        group, found = self._wildcard(name) or ("", None)
        if found is None:
            return []
        targets = [replace(target, model=filled(target.model, found)) for target in self._groups[group]]
        return [self._met_at((name, target.key), target) for target in targets]

    def of_name(self, name: str) -> list[Target]:
        """The targets of a provider or group."""
        return self._providers.get(name) or self.of_group(name)

    def of_model(self, model: str) -> list[Target]:
        """The provider that is configured with this model id, else the bare id."""
        same = (target for targets in self._providers.values() for target in targets if target.model == model)
        found = next(same, None)
        return [found or self._met_at((model,), Target(provider=litellm_provider(model), model=model, known=False))]

    def connected(self, target: Target, own: Mapping[str, Any]) -> Target:
        """`target` at the address and with the key of a call; the same object for the same."""
        named = own["api_key"].name() if "api_key" in own else ""
        place = (target.key, str(own.get("api_base")), named)
        base, known = self._connected.get(place, (None, target))
        if base is not target and base != target:
            _make_room(self._connected)
            known = replace(target, params={**target.params, **own})
            self._connected[place] = target, known
        return known

    def _met_at(self, place: tuple[str, ...], target: Target) -> Target:
        """The equal target that came before: prices and keys are remembered for the very object."""
        known = self._met.get(place)
        if known != target:
            _make_room(self._met)
            known = self._met[place] = target
        return known

    def of_names(self, names: Iterable[str]) -> list[Target]:
        """The targets of several names in order, each once."""
        return list({target.key: target for name in names for target in self.of_name(name)}.values())

    def of_entries(self, entries: Iterable[str | Mapping[str, Any]]) -> list[Target]:
        """The targets of LiteLLM's fallbacks: names, or mappings with a `model` and what its request changes."""
        found: dict[str, Target] = {}
        for entry in entries:
            name, changes = (entry, {}) if isinstance(entry, str) else (str(entry.get("model")), entry)
            for target in self.of_name(name):
                changed = {key: value for key, value in changes.items() if key != "model"}
                found.setdefault(target.key, replace(target, changes=changed) if changed else target)
        return list(found.values())


def by_group(targets: Iterable[Target]) -> list[list[Target]]:
    """The targets of each provider and group together; groups keep their places."""
    found: dict[tuple[str, str | None], list[Target]] = {}
    for target in targets:
        found.setdefault((target.provider, target.group), []).append(target)
    return list(found.values())


def _make_room(remembered: dict[Any, Any]) -> None:
    if len(remembered) >= MOST_MET:
        remembered.clear()


def _alias_target(value: Any) -> str:
    return str(value["model"]) if isinstance(value, Mapping) else str(value)
