"""The shape of a loaded configuration (API section 5).

Every record is frozen: reloading swaps one object, calls in flight keep theirs.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import Field

from blueprint_llm.config.blocks import Blueprint
from blueprint_llm.config.environment import from_environment, targets_of
from blueprint_llm.config.problems import listed, mapping

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

T = TypeVar("T")
Fallbacks = list[dict[str, list[Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One entry of LiteLLM's `model_list`: what a group is judged by before LiteLLM's Router chooses."""

    group: str  # its `model_name`
    model: str  # `litellm_params.model`, read from the environment where it names a variable
    params: Mapping[str, Any] = field(default_factory=dict, repr=False)  # the other `litellm_params`, as written
    info: Mapping[str, Any] = field(default_factory=dict, repr=False)  # `model_info`, as written
    id: str = ""  # `model_info.id`, where there is one


def number_of(value: Any) -> float | None:
    """Return a setting as a number, also where it is text; None where it is none."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _fallbacks(value: Any) -> Fallbacks:
    items = (item for item in listed(value) if isinstance(item, dict))
    return [{str(group): _targets(targets) for group, targets in item.items()} for item in items]


def _targets(value: Any) -> list[Any]:
    """Return fallbacks as a list: a text stands for a list of one."""
    return [value] if isinstance(value, str) else listed(value)


class _Setting(Generic[T]):
    """What LiteLLM's Router makes of a setting: of its own, else of the module's; None: neither is set."""

    def __init__(self, read: Callable[[Any], T]) -> None:
        self._read, self._name = read, ""

    def __set_name__(self, _: type, name: str) -> None:
        self._name = name

    def __get__(self, config: Any, _: object = None) -> T:
        return self._read(config.setting(self._name))


def _whole(default: int) -> _Setting[int]:
    return _Setting(lambda value: default if (number := number_of(value)) is None else int(number))


class _Settings:
    """LiteLLM's settings as properties of `Config`; they stand apart, since pydantic would take them for fields."""

    num_retries, max_fallbacks, allowed_fails = _whole(2), _whole(5), _whole(3)
    cooldown_time = _Setting(lambda value: number_of(value) or 5.0)
    retry_after = _Setting(lambda value: number_of(value) or 0.0)
    stream_timeout = _Setting(number_of)
    routing_strategy = _Setting(lambda value: str(value or "simple-shuffle"))
    model_group_alias = _Setting(mapping)
    default_fallbacks = _Setting(_targets)
    context_window_fallbacks = _Setting(_fallbacks)
    content_policy_fallbacks = _Setting(_fallbacks)


class Config(Blueprint, _Settings):
    """A loaded configuration: our block, and LiteLLM's sections as written, which LiteLLM is handed.

    What is decided here by LiteLLM's settings are properties, in LiteLLM's shapes and with its defaults.

    Attributes:
        model_list, router_settings, litellm_settings, credential_list: As written.
        model_groups: The deployments by `model_name`.
        fallbacks, context_window_fallbacks, content_policy_fallbacks, default_fallbacks, model_group_alias,
            num_retries, max_fallbacks, allowed_fails, cooldown_time, retry_after, routing_strategy, timeout,
            stream_timeout: As LiteLLM's Router holds them.
        notices: Ignored keys and doubts, one sentence each.
        source: The file it came from; None for a mapping.
        digest: sha256 over everything above, secrets replaced: the `policy_hash` of traces.
    """

    model_list: list[dict[str, Any]] = Field(default_factory=list, repr=False)
    router_settings: dict[str, Any] = Field(default_factory=dict)
    litellm_settings: dict[str, Any] = Field(default_factory=dict)
    credential_list: list[dict[str, Any]] = Field(default_factory=list, repr=False)
    notices: list[str] = Field(default_factory=list)
    source: str | None = None
    digest: str = ""

    def setting(self, name: str) -> Any:
        """Return what decides for a setting of LiteLLM's Router: its own, else the module's. None: neither is set."""
        return setting_in(self.router_settings, self.litellm_settings, name)[0]

    @cached_property
    def model_groups(self) -> dict[str, list[Deployment]]:
        """The deployments by `model_name`, in the order of the file, without those for other environments."""
        groups: dict[str, list[Deployment]] = {}
        for entry in self.model_list:
            for deployment in _deployments(entry):
                groups.setdefault(deployment.group, []).append(deployment)
        return groups

    @cached_property
    def fallbacks(self) -> Fallbacks:
        """As LiteLLM's Router holds them: `default_fallbacks` are the last entry, under `*`."""
        generic = self.default_fallbacks
        return [*_fallbacks(self.setting("fallbacks")), *([{"*": generic}] if generic else [])]

    @cached_property
    def own_providers(self) -> frozenset[str]:
        """The providers that `litellm_settings` add to LiteLLM's own: their handlers need no key."""
        return own_providers(self.litellm_settings)

    @property
    def timeout(self) -> float | None:
        """Seconds that a call may take (`timeout`, else `request_timeout`)."""
        own = number_of(self.setting("timeout"))
        return number_of(self.setting("request_timeout")) if own is None else own

    def targets(self) -> Iterator[dict[str, Any]]:
        """Yield the LiteLLM parameters of all that can be called, keys as Secrets or not yet resolved."""
        groups = {
            name: [{**each.params, "model": each.model} for each in found] for name, found in self.model_groups.items()
        }
        return targets_of(groups, (dict(provider) for provider in self.providers.values()), self.credential_list)

    @property
    def folder(self) -> Path | None:
        """Where relative paths start: at the file; None: there is none."""
        return Path(self.source).parent if self.source and Path(self.source).is_file() else None


def setting_in(router: Mapping[str, Any], module: Mapping[str, Any], name: str) -> tuple[Any, str]:
    """Return the value that decides for a setting, and its section; empty lists and mappings do not count."""
    sections = (("router_settings", router), ("litellm_settings", module))
    set_ = ((value, section) for section, held in sections if (value := held.get(name)) not in (None, [], {}))
    return next(set_, (None, "router_settings"))


def own_providers(module: Mapping[str, Any]) -> frozenset[str]:
    """Return the providers that a `custom_provider_map` adds to LiteLLM's own."""
    names = (mapping(each).get("provider") for each in listed(module.get("custom_provider_map")))
    return frozenset(name for name in names if isinstance(name, str))


def _deployments(entry: Mapping[str, Any]) -> Iterator[Deployment]:
    """Yield the deployments of one entry as LiteLLM makes them: one for each organization."""
    params, info = entry["litellm_params"], entry.get("model_info") or {}
    here, supported = os.environ.get("LITELLM_ENVIRONMENT"), info.get("supported_environments")
    if here and isinstance(supported, list) and here not in supported:
        return
    organizations = params.get("organization")
    for own in [{"organization": one} for one in organizations] if isinstance(organizations, list) else [{}]:
        yield Deployment(
            group=entry["model_name"],
            model=from_environment(params["model"]) or params["model"],
            params={key: value for key, value in {**params, **own}.items() if key != "model"},
            info=info,
            id="" if info.get("id") is None else str(info["id"]),
        )
