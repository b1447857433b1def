"""Targets: the groups, providers and models that a request may go to, under the names that callers know them by."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
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
    """One model, or one group of deployments, under the name that callers know it by."""

    provider: str  # the key of `providers`, else the group, else LiteLLM's provider name
    model: str  # the LiteLLM model id; of a group its first deployment's, by which the group is judged
    group: str | None = None  # what LiteLLM's Router is asked for, where it chooses the deployment
    deployment: str = ""  # its id, once the Router has chosen it
    # what goes to LiteLLM with every call, keys not yet resolved
    params: Mapping[str, Any] = field(default_factory=dict, repr=False)
    # LiteLLM's `model_info`; of a group its first deployment's, with that one's prices
    info: Mapping[str, Any] = field(default_factory=dict)
    home: str | None = None  # the address of a group's first deployment
    role: str | None = None
    max_context_tokens: int | None = None  # most input tokens to send, where the configuration says so
    share_codebase: bool | None = None  # what the configuration says; None: decided by where the model runs
    timeout_s: float | None = None
    known: bool = True  # whether the configuration names it at all
    # what a fallback to it changes of the request (`messages`, `temperature`, ...)
    changes: Mapping[str, Any] = field(default_factory=dict, repr=False)
    key: str = field(init=False, repr=False)  # what the breaker and the ledger know this target by

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


def _of_group(name: str, first: Deployment, provider: ProviderConfig | None = None) -> Target:
    """Return a group as one target; a provider's settings are those of all its deployments."""
    prices = {key: value for key, value in first.params.items() if "cost" in key or key == "tiered_pricing"}
    return Target(
        provider=name,
        model=first.model,
        group=name,
        params=_params_of(provider) if provider else {},
        info={**prices, **first.info},
        home=first.params.get("api_base"),
        **_settings(provider),
    )


def _params_of(provider: ProviderConfig) -> dict[str, Any]:
    """Return what `providers` itself says for LiteLLM."""
    named = {"api_base": provider.api_base, "api_key": provider.api_key}
    return {**{key: value for key, value in named.items() if value}, **(provider.model_extra or {})}


def _settings(provider: ProviderConfig | None) -> dict[str, Any]:
    names = ("role", "max_context_tokens", "share_codebase", "timeout_s")
    return {name: value for name in names if (value := getattr(provider, name, None)) is not None}


class TargetTable:
    """Every name a chain may use, with its target; built once for a configuration."""

    def __init__(self, config: Config) -> None:
        self._deployments = {name: found for name, found in config.model_groups.items() if found}
        self._groups = {name: _of_group(name, found[0]) for name, found in self._deployments.items()}
        self._wildcards = {
            name: re.compile(re.escape(name).replace(r"\*", "(.*)")) for name in self._groups if "*" in name
        }
        self._aliases = {
            alias: str(value["model"] if isinstance(value, Mapping) else value)
            for alias, value in config.model_group_alias.items()
        }
        self._ids = {each.id: name for name, found in self._deployments.items() for each in found if each.id}
        self._met: dict[tuple[Any, ...], Target] = {}
        # What `providers` itself says for LiteLLM.
        self.own_params = {name: _params_of(provider) for name, provider in config.providers.items()}
        self._providers = {name: self._of_provider(name, provider) for name, provider in config.providers.items()}

    def _of_provider(self, name: str, provider: ProviderConfig) -> Target:
        if group := self.group(provider.model):
            whole = _of_group(group, self._deployments[group][0], provider)
            return replace(whole, provider=name, group=provider.model)
        return Target(provider=name, model=provider.model, params=self.own_params[name], **_settings(provider))

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

    def of_group(self, model: str) -> Target | None:
        """Return the group that `model` means, as one target; the Router is asked for `model` itself."""
        group = self.group(model)
        if group is None or model == group:
            return self._groups.get(model)
        known = self._groups[group]
        named = (model if "/" in model else f"{litellm_provider(model)}/{model}") if "*" in group else known.model
        return self.remembered(replace(known, group=model, model=named), (model,))

    def of_name(self, name: str) -> Target | None:
        """Return the target of a provider or group."""
        return self._providers.get(name) or self.of_group(name)

    def of_model(self, model: str) -> Target:
        """Return the provider that is configured with this model id, else the bare id."""
        found = next((each for each in self._providers.values() if each.model == model and each.group is None), None)
        return found or self.remembered(Target(provider=litellm_provider(model), model=model, known=False), (model,))

    def connected(self, target: Target, own: Mapping[str, Any]) -> Target:
        """Return `target` at the address and with the key of a call; the same object for the same."""
        named = own["api_key"].name() if "api_key" in own else ""
        at = (target.key, target.group or "", str(own.get("api_base")), named)
        return self.remembered(replace(target, params={**target.params, **own}), at)

    def asked(self, place: tuple[Any, ...], info: Mapping[str, Any], make: Callable[[], Target]) -> Target:
        """Return what `make` returns, or returned for an equal call: prices are remembered for the very object."""
        known = self._met.get(place)
        return known if known is not None and known.info == info else self.remembered(make(), place)

    def remembered(self, target: Target, at: tuple[Any, ...]) -> Target:
        """Return the equal target that was there before, else this one: prices are remembered for the very object."""
        known = self._met.get(at)
        if known != target:
            if len(self._met) >= MOST_MET:
                self._met.clear()
            known = self._met[at] = target
        return known

    def of_names(self, names: Iterable[str]) -> list[Target]:
        """Return the targets of several names in order, each once."""
        found = filter(None, map(self.of_name, names))
        return list({target.key: target for target in found}.values())

    def of_entries(self, entries: Iterable[str | Mapping[str, Any]]) -> list[Target]:
        """Return the targets of LiteLLM's fallbacks: names, or mappings of a `model` and what its request changes."""
        found: dict[str, Target] = {}
        for entry in entries:
            name, changes = (entry, {}) if isinstance(entry, str) else (str(entry.get("model")), entry)
            if (target := self.of_name(name)) is not None:
                changed = {key: value for key, value in changes.items() if key != "model"}
                found.setdefault(target.key, replace(target, changes=changed) if changed else target)
        return list(found.values())
