"""Checks that every name in a configuration leads somewhere: chains, routes, budgets, fallbacks, aliases.

It reads the raw values, so that a mistake elsewhere in the file hides nothing here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from blueprint_llm.config.blocks import ProviderConfig
from blueprint_llm.config.catalogue import doubt_about, is_model_id, known_ids
from blueprint_llm.config.deployments import doubt_params
from blueprint_llm.config.environment import from_environment
from blueprint_llm.config.masking import shown
from blueprint_llm.config.problems import Path, Report, hint, nearest

_PROVIDER_KEYS = frozenset(ProviderConfig.model_fields)


class Names:
    """What a name in this file can refer to."""

    def __init__(self, raw: Mapping[str, Any], block: Mapping[str, Any], aliases: Mapping[str, Any]) -> None:
        self.providers = _keys(block.get("providers"))
        self.chains = _keys(block.get("chains"))
        entries = [entry for entry in _items(raw.get("model_list")) if isinstance(entry, Mapping)]
        self.groups = {entry["model_name"] for entry in entries if isinstance(entry.get("model_name"), str)}
        self.aliases = set(aliases)
        self.credentials = {
            entry.get("credential_name") for entry in _items(raw.get("credential_list")) if isinstance(entry, Mapping)
        }
        self.own_providers = frozenset(_custom_providers(raw.get("litellm_settings")))

    def is_group(self, name: str) -> bool:
        """Whether `name` is a group, an alias of one, or matched by a wildcard group (`openai/*`)."""
        return name in self.groups or name in self.aliases or any(fnmatchcase(name, wild) for wild in self._wild())

    def _wild(self) -> Iterator[str]:
        return (group for group in self.groups if "*" in group)

    @property
    def targets(self) -> set[str]:
        """Every name that a chain may hold."""
        return self.providers | self.groups | self.aliases


def check_block(block: Mapping[str, Any], names: Names, report: Report) -> None:
    """Report every name in the `blueprint:` block that leads nowhere, and what is there twice."""
    _check_providers(block, names, report)
    for name in names.chains:
        _check_chain(block["chains"][name], ("blueprint", "chains", name), names, report)
    for section in ("routes", "budgets"):
        for index, entry in enumerate(_items(block.get(section))):
            if isinstance(entry, Mapping):
                path = ("blueprint", section, index, "chain")
                _check_chain(entry.get("chain"), path, names, report, chains=True)
    _check_planning(block.get("planning"), names, report)
    for section, unlike in (("budgets", ("scope", "window", "on_exceed")), ("quotas", ("scope", "window"))):
        _check_limits(section, unlike, block, names, report)


def _check_providers(block: Mapping[str, Any], names: Names, report: Report) -> None:
    for name in names.providers:
        provider, path = block["providers"][name], ("blueprint", "providers", name)
        if not isinstance(provider, Mapping):
            continue
        doubt_params(provider, _PROVIDER_KEYS, path, report)
        model = provider.get("model")
        if isinstance(model, str) and model and not provider.get("custom_llm_provider"):
            _check_model(model, (*path, "model"), names, report)


def _check_model(model: str, path: Path, names: Names, report: Report) -> None:
    if names.is_group(model):
        return
    if is_model_id(model):
        _doubt_model(model, path, names, report)
    else:
        known = names.groups | names.aliases
        near = nearest(model, known) or nearest(model, known_ids())
        text = f", did you mean {shown(near)}?" if near else ": name a model_name of model_list or provider/model"
        report.problem(path, f"unknown model {shown(model)}{text}")


def _check_chain(value: Any, path: Path, names: Names, report: Report, *, chains: bool = False) -> None:
    """Report unknown names and repetitions; with `chains`, the name of a chain will do too."""
    known = names.targets | (names.chains if chains else set())
    seen: set[str] = set()
    for index, name in enumerate([value] if isinstance(value, str) else _items(value)):
        where = path if isinstance(value, str) else (*path, index)
        if not isinstance(name, str):
            continue
        if name in seen:
            report.problem(where, f"{shown(name)} is here twice")
        elif name not in known and not names.is_group(name):
            report.problem(where, f"unknown {'chain or ' if chains else ''}provider {shown(name)}{hint(name, known)}")
        seen.add(name)
    if value == []:
        report.problem(path, "must name at least one provider")


def _check_planning(planning: Any, names: Names, report: Report) -> None:
    name = planning.get("provider") if isinstance(planning, Mapping) else None
    if isinstance(name, str) and name not in names.targets and not names.is_group(name):
        path = ("blueprint", "planning", "provider")
        report.problem(path, f"unknown provider {shown(name)}{hint(name, names.targets)}")


def _check_limits(
    section: str, unlike: tuple[str, ...], block: Mapping[str, Any], names: Names, report: Report
) -> None:
    """Report limits on unknown names, and two limits that differ in none of the keys `unlike`."""
    seen: dict[str, int] = {}
    for index, entry in enumerate(_items(block.get(section))):
        path = ("blueprint", section, index)
        if not isinstance(entry, Mapping) or not isinstance(entry.get("scope"), str):
            continue
        _check_scope(entry["scope"], (*path, "scope"), names, report)
        sign = repr([entry.get(key) for key in unlike])
        if seen.setdefault(sign, index) != index:
            report.problem(path, f"repeats {section}[{seen[sign]}]: the same {' and '.join(unlike)}")


def _check_scope(scope: str, path: Path, names: Names, report: Report) -> None:
    kind, _, name = scope.partition(":")
    if kind == "provider" and name and name not in names.targets and not names.is_group(name):
        report.problem(path, f"unknown provider {shown(name)}{hint(name, names.targets)}")
    if kind == "model" and name:
        _check_model(name, path, names, report)


def doubt_router(fields: Mapping[str, Any], places: Mapping[str, Path], names: Names, report: Report) -> None:
    """Doubt fallbacks and aliases that lead to no group: LiteLLM finds out when the first call fails."""
    for key in ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks"):
        for index, item in enumerate(fields.get(key, ())):
            for group, targets in item.items():
                if group != "*":  # made from default_fallbacks
                    path = (*places[key], index, group)
                    _doubt_group(group, path, names, report, key=True)
                    _doubt_targets(targets, path, names, report)
    _doubt_targets(fields.get("default_fallbacks", ()), places["default_fallbacks"], names, report)
    for alias, target in fields.get("model_group_alias", {}).items():
        group = target.get("model") if isinstance(target, Mapping) else target
        _doubt_group(group, (*places["model_group_alias"], alias), names, report)


def _doubt_targets(targets: Iterable[Any], path: Path, names: Names, report: Report) -> None:
    for index, target in enumerate(targets):
        name = target.get("model") if isinstance(target, Mapping) else target
        _doubt_group(name, (*path, index), names, report)


def _doubt_group(name: Any, path: Path, names: Names, report: Report, *, key: bool = False) -> None:
    if not isinstance(name, str):
        report.doubt(path, f"should be the name of a group, not {shown(name)}")
    elif not names.is_group(name):
        report.doubt(path, f"unknown model group {shown(name)}{hint(name, names.groups)}", key=key)


def doubt_deployments(raw: Mapping[str, Any], names: Names, report: Report) -> None:
    """Doubt models without a known provider, and credentials that `credential_list` does not hold."""
    for index, entry in enumerate(_items(raw.get("model_list"))):
        params = entry.get("litellm_params") if isinstance(entry, Mapping) else None
        if not isinstance(params, Mapping):
            continue
        path = ("model_list", index, "litellm_params")
        written, name = params.get("model"), params.get("litellm_credential_name")
        model = from_environment(written) or written
        if isinstance(model, str) and not params.get("custom_llm_provider"):
            _doubt_model(model, (*path, "model"), names, report)
        if isinstance(name, str) and name not in names.credentials:
            text = f"unknown credential {shown(name)}{hint(name, filter(None, names.credentials))}"
            report.doubt((*path, "litellm_credential_name"), text)


def _doubt_model(model: str, path: Path, names: Names, report: Report) -> None:
    if text := doubt_about(model, names.own_providers):
        report.doubt(path, text)


def _custom_providers(settings: Any) -> Iterator[str]:
    """The providers that a `custom_provider_map` adds to LiteLLM's own."""
    for entry in _items(settings.get("custom_provider_map")) if isinstance(settings, Mapping) else ():
        if isinstance(entry, Mapping) and isinstance(entry.get("provider"), str):
            yield entry["provider"]


def _keys(value: Any) -> set[str]:
    return set(value) if isinstance(value, Mapping) else set()


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
