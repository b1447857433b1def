"""Checks that every name in a configuration leads somewhere: chains, routes, budgets, fallbacks, aliases.

It reads the raw values, so that a mistake elsewhere in the file hides nothing here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from blueprint_llm.config.blocks import ProviderConfig
from blueprint_llm.config.catalogue import doubt_about, is_model_id, known_ids
from blueprint_llm.config.environment import from_environment
from blueprint_llm.config.model import own_providers, setting_in
from blueprint_llm.config.problems import Path, Report, hint, listed, mapping, nearest
from blueprint_llm.config.secrets import FALLBACKS, shown
from blueprint_llm.config.sections import doubt_near
from blueprint_llm.config.trust import QUIET_PARAMS

_PROVIDER_KEYS = frozenset(ProviderConfig.model_fields)


class Names:
    """What a name in this file can refer to."""

    def __init__(self, raw: Mapping[str, Any], block: Mapping[str, Any]) -> None:
        self.providers = set(mapping(block.get("providers")))
        self.chains = set(mapping(block.get("chains")))
        entries = [entry for entry in listed(raw.get("model_list")) if isinstance(entry, Mapping)]
        self.groups = {entry["model_name"] for entry in entries if isinstance(entry.get("model_name"), str)}
        self.aliases = set(mapping(_setting(raw, "model_group_alias")[0]))
        self.credentials = {
            entry.get("credential_name") for entry in listed(raw.get("credential_list")) if isinstance(entry, Mapping)
        }
        self.own_providers = own_providers(mapping(raw.get("litellm_settings")))

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
        for index, entry in enumerate(listed(block.get(section))):
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
        doubt_near(provider.keys() - QUIET_PARAMS, _PROVIDER_KEYS, path, report)
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
    for index, name in enumerate([value] if isinstance(value, str) else listed(value)):
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
    for index, entry in enumerate(listed(block.get(section))):
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


def doubt_router(raw: Mapping[str, Any], names: Names, report: Report) -> None:
    """Report fallbacks of another shape than LiteLLM's, and doubt fallbacks and aliases that lead to no group."""
    for key in FALLBACKS:
        value, path = _setting(raw, key)
        if value is not None and not isinstance(value, list):
            report.problem(path, f"must be a list like [{{group: [other]}}], not {shown(value)}")
        for index, item in enumerate(listed(value)):
            _check_fallback(item, (*path, index), names, report)
    value, path = _setting(raw, "default_fallbacks")
    if not isinstance(value, str | None):
        _doubt_targets(value, path, names, report)
    value, path = _setting(raw, "model_group_alias")
    if not isinstance(value, dict | None):
        report.doubt(path, f"should be a mapping, not {shown(value)}; ignored")
    for alias, target in mapping(value).items():
        group = target.get("model") if isinstance(target, Mapping) else target
        _doubt_group(group, (*path, alias), names, report)


def _setting(raw: Mapping[str, Any], key: str) -> tuple[Any, Path]:
    """Return the value that decides for a setting of LiteLLM's Router, and where it stands."""
    value, section = setting_in(mapping(raw.get("router_settings")), mapping(raw.get("litellm_settings")), key)
    return value, (section, key)


def _check_fallback(item: Any, path: Path, names: Names, report: Report) -> None:
    if not isinstance(item, dict) or not item:
        report.problem(path, "must map exactly one group to its fallbacks, like {group: [other]}")
    elif len(item) > 1 and "context_window_fallbacks" in path:
        report.doubt(path, "LiteLLM expects exactly one group here")
    elif len(item) > 1:
        report.problem(path, "must map exactly one group to its fallbacks, like {group: [other]}")
    for group, targets in mapping(item).items():
        _doubt_group(group, (*path, group), names, report, key=True)
        if isinstance(targets, str):
            report.doubt((*path, group), f"LiteLLM reads this letter by letter: write [{targets}]")
        else:
            _doubt_targets(targets, (*path, group), names, report)


def _doubt_targets(targets: Any, path: Path, names: Names, report: Report) -> None:
    if not isinstance(targets, list):
        report.doubt(path, f"should be a list of groups, not {shown(targets)}; ignored")
    for index, target in enumerate(listed(targets)):
        name = target.get("model") if isinstance(target, Mapping) else target
        _doubt_group(name, (*path, index), names, report)


def _doubt_group(name: Any, path: Path, names: Names, report: Report, *, key: bool = False) -> None:
    if not isinstance(name, str):
        report.doubt(path, f"should be the name of a group, not {shown(name)}")
    elif not names.is_group(name):
        report.doubt(path, f"unknown model group {shown(name)}{hint(name, names.groups)}", key=key)


def doubt_deployments(raw: Mapping[str, Any], names: Names, report: Report) -> None:
    """Doubt models without a known provider, and credentials that `credential_list` does not hold."""
    for index, entry in enumerate(listed(raw.get("model_list"))):
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
