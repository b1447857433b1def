"""Targets: the groups, providers and models that a request may go to, under the names that callers know them by."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from blueprint_llm.credentials import providers

if TYPE_CHECKING:
    from blueprint_llm.config.blocks import ProviderConfig
    from blueprint_llm.config.model import Config, Deployment

MOST_MET = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One model, or one group of deployments, under the name that callers know it by.

    Attributes:
        provider: The key of `providers`, else the group, else LiteLLM's provider name.
        model: The LiteLLM model id; of a group its first deployment's, by which the group is judged.
        group: What LiteLLM's Router is asked for, where it chooses the deployment.
        deployment: Its id, once the Router has chosen it.
        params: What goes to LiteLLM with every call, keys not yet resolved.
        info: LiteLLM's `model_info`; of a group its first deployment's, with that one's prices.
        home: The address of a group's first deployment.
        max_context_tokens: Most input tokens to send, where the configuration says so.
        share_codebase: What the configuration says; None: decided by where the model runs.
        known: Whether the configuration names it at all.
        changes: What a fallback to it changes of the request (`messages`, `temperature`, ...).
        key: What the breaker and the ledger know this target by.
    """

    provider: str
    model: str
    group: str | None = None
    deployment: str = ""
    params: Mapping[str, Any] = field(default_factory=dict, repr=False)
    info: Mapping[str, Any] = field(default_factory=dict)
    home: str | None = None
    role: str | None = None
    credentials: str | None = None
    max_context_tokens: int | None = None
    share_codebase: bool | None = None
    timeout_s: float | None = None
    known: bool = True
    changes: Mapping[str, Any] = field(default_factory=dict, repr=False)

    key: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        place = (self.provider, self.model, self.deployment or self.group or "", str(self.params.get("api_base") or ""))
        object.__setattr__(self, "key", "|".join(place))

    @property
    def address(self) -> str | None:
        """Where its model runs, as far as the configuration says."""
        return self.params.get("api_base") or self.home


@lru_cache(maxsize=4096)
def litellm_provider(model: str) -> str:
    """Return LiteLLM's provider name of a model id."""
    return "embedded" if model.startswith("embedded:") else providers.litellm_provider(model, {})


def _of_group(name: str, first: Deployment, provider: ProviderConfig | None = None, own: str = "") -> Target:
    """Return a group as one target, under a provider's name where that is one for it."""
    prices = {key: value for key, value in first.params.items() if "cost" in key or key == "tiered_pricing"}
    return Target(
        provider=own or name,
        model=first.model,
        group=name,
        params=_own_params(provider) if provider else {},
        info={**prices, **first.info},
        home=first.params.get("api_base"),
        **_settings(provider),
    )


def _own_params(provider: ProviderConfig) -> dict[str, Any]:
    named = {"api_base": provider.api_base, "api_key": provider.api_key}
    return {**{key: value for key, value in named.items() if value}, **(provider.model_extra or {})}


def _settings(provider: ProviderConfig | None) -> dict[str, Any]:
    names = ("role", "credentials", "max_context_tokens", "share_codebase", "timeout_s")
    return {name: value for name in names if (value := getattr(provider, name, None)) is not None}


class TargetTable:
    """Every name a chain may use, with its target; built once for a configuration."""

    def __init__(self, config: Config) -> None:
        self._deployments = {name: found for name, found in config.model_groups.items() if found}
        self._groups = {name: _of_group(name, found[0]) for name, found in self._deployments.items()}
        self._wildcards = {name: _pattern(name) for name in self._groups if "*" in name}
        self._aliases = {alias: _alias_target(value) for alias, value in config.model_group_alias.items()}
        self._ids = {each.id: name for name, found in self._deployments.items() for each in found if each.id}
        self._met: dict[tuple[str, ...], Target] = {}
        self._connected: dict[tuple[str, ...], tuple[Target, Target]] = {}
        self._own = {name: _own_params(provider) for name, provider in config.providers.items()}
        self._providers = {name: self._of_provider(name, provider) for name, provider in config.providers.items()}

    def _of_provider(self, name: str, provider: ProviderConfig) -> Target:
        if group := self.group(provider.model):
            first = self._deployments[group][0]
            return replace(_of_group(group, first, provider, name), group=provider.model)
        return Target(provider=name, model=provider.model, params=_own_params(provider), **_settings(provider))

    def own_params(self, name: str) -> Mapping[str, Any]:
        """Return what `providers` itself says for LiteLLM."""
        return self._own.get(name, {})

    @property
    def names(self) -> list[str]:
        """Providers, then groups."""
        return [*self._providers, *(name for name in self._groups if name not in self._providers)]

    def group(self, model: str) -> str | None:
        """Return the group that `model` means: its name, an alias, the id of a deployment, or a wildcard."""
        name = self._aliases.get(model, model)
        if name in self._groups:
            return name
        tries = (name, f"{litellm_provider(name)}/{name}") if self._wildcards else ()
        found = (group for each in tries for group, pattern in self._wildcards.items() if pattern.fullmatch(each))
        return self._ids.get(name) or next(found, None)

    def deployments(self, target: Target) -> list[Deployment]:
        """Return the deployments behind a target; none where it is no group."""
        group = self.group(target.group) if target.group else None
        return self._deployments[group] if group else []

    def of_group(self, model: str) -> list[Target]:
        """Return the group that `model` means, as one target; the Router is asked for `model` itself."""
        group = self.group(model)
        if group is None:
            return []
        if model == group:
            return [self._groups[group]]
        known = self._groups[group]
        named = (model if "/" in model else f"{litellm_provider(model)}/{model}") if "*" in group else known.model
        return [self._met_at((model,), replace(known, group=model, model=named))]

    def of_name(self, name: str) -> list[Target]:
        """Return the target of a provider or group."""
        return [self._providers[name]] if name in self._providers else self.of_group(name)

    def of_model(self, model: str) -> list[Target]:
        """Return the provider that is configured with this model id, else the bare id."""
        same = (each for each in self._providers.values() if each.model == model and each.group is None)
        found = next(same, None)
        return [found or self._met_at((model,), Target(provider=litellm_provider(model), model=model, known=False))]

    def connected(self, target: Target, own: Mapping[str, Any]) -> Target:
        """Return `target` at the address and with the key of a call; the same object for the same."""
        named = own["api_key"].name() if "api_key" in own else ""
        place = (target.key, str(own.get("api_base")), named)
        base, known = self._connected.get(place, (None, target))
        if base is not target and base != target:
            _make_room(self._connected)
            known = replace(target, params={**target.params, **own})
            self._connected[place] = target, known
        return known

    def remembered(self, target: Target) -> Target:
        """Return the equal target that was there before, else this one."""
        return self._met_at((target.key, target.group or ""), target)

    def _met_at(self, place: tuple[str, ...], target: Target) -> Target:
        """Return the equal target that came before: prices and keys are remembered for the very object."""
        known = self._met.get(place)
        if known != target:
            _make_room(self._met)
            known = self._met[place] = target
        return known

    def of_names(self, names: Iterable[str]) -> list[Target]:
        """Return the targets of several names in order, each once."""
        return list({target.key: target for name in names for target in self.of_name(name)}.values())

    def of_entries(self, entries: Iterable[str | Mapping[str, Any]]) -> list[Target]:
        """Return the targets of LiteLLM's fallbacks: names, or mappings of a `model` and what its request changes."""
        found: dict[str, Target] = {}
        for entry in entries:
            name, changes = (entry, {}) if isinstance(entry, str) else (str(entry.get("model")), entry)
            for target in self.of_name(name):
                changed = {key: value for key, value in changes.items() if key != "model"}
                found.setdefault(target.key, replace(target, changes=changed) if changed else target)
        return list(found.values())


def _make_room(remembered: dict[Any, Any]) -> None:
    if len(remembered) >= MOST_MET:
        remembered.clear()


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(re.escape(name).replace(r"\*", "(.*)"))


def _alias_target(value: Any) -> str:
    return str(value["model"]) if isinstance(value, Mapping) else str(value)
