"""Check that every name in a configuration leads somewhere: chains, routes, budgets, fallbacks, aliases, models.

The raw values are read, so that a mistake elsewhere in the file hides nothing here. Which model ids LiteLLM can resolve
is told by the JSON files in its package: nothing of LiteLLM is imported.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from blueprint_llm.config.blocks import ProviderConfig
from blueprint_llm.config.environment import from_environment
from blueprint_llm.config.model import own_providers, setting_in
from blueprint_llm.config.problems import Path as KeyPath
from blueprint_llm.config.problems import hint, listed, mapping, nearest, words
from blueprint_llm.config.secrets import FALLBACKS, shown
from blueprint_llm.config.sections import doubt_near
from blueprint_llm.config.trust import QUIET_PARAMS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from blueprint_llm.config.document import Document

_MODELS, _PROVIDERS = "model_prices_and_context_window_backup.json", "provider_endpoints_support_backup.json"
# Providers that neither file names; a test compares with the installed LiteLLM.
UNLISTED = words(
    """a2a_agent aiohttp_openai aws_textract azure_speech databricks_agent dotprompt embedded humanloop langfuse
    litellm_agent nano-gpt sagemaker_nova veniceai vertex_ai_beta"""
)
_ONE_GROUP = "must map exactly one group to its fallbacks, like {group: [other]}"


def check_names(raw: Mapping[str, Any], block: Mapping[str, Any], document: Document) -> None:
    """Report every name in a file and its `blueprint:` block that leads nowhere, and what is there twice."""
    names = _Names(raw, block, document)
    for name, provider in mapping(block.get("providers")).items():
        names.check_provider(provider, ("blueprint", "providers", name))
    for name, chain in mapping(block.get("chains")).items():
        names.check_chain(chain, ("blueprint", "chains", name))
    for section in ("routes", "budgets"):
        for path, entry in _entries(block, section):
            names.check_chain(entry.get("chain"), (*path, "chain"), chains=True)
    names.check_target(mapping(block.get("planning")).get("provider"), ("blueprint", "planning", "provider"))
    names.check_limits("budgets", ("scope", "window", "on_exceed"))
    names.check_limits("quotas", ("scope", "window"))
    for key in FALLBACKS:
        names.check_fallbacks(*_setting(raw, key))
    default, path = _setting(raw, "default_fallbacks")
    if not isinstance(default, str | None):
        names.doubt_targets(default, path)
    aliases, path = _setting(raw, "model_group_alias")
    if not isinstance(aliases, dict | None):
        document.doubt(path, f"should be a mapping, not {shown(aliases)}; ignored")
    for alias, target in mapping(aliases).items():
        names.doubt_group(target.get("model") if isinstance(target, dict) else target, (*path, alias))
    for index, entry in enumerate(listed(raw.get("model_list"))):
        names.doubt_deployment(mapping(mapping(entry).get("litellm_params")), ("model_list", index, "litellm_params"))


class _Names:
    """What a name in this file can refer to."""

    def __init__(self, raw: Mapping[str, Any], block: Mapping[str, Any], document: Document) -> None:
        self.block, self.problem, self.doubt = block, document.problem, document.doubt
        self.document = document
        self.groups = _texts(mapping(each).get("model_name") for each in listed(raw.get("model_list")))
        self.credentials = _texts(mapping(each).get("credential_name") for each in listed(raw.get("credential_list")))
        self.chains = set(mapping(block.get("chains")))
        self.aliases = set(mapping(_setting(raw, "model_group_alias")[0]))
        self.targets = {*mapping(block.get("providers")), *self.groups, *self.aliases}
        self.own_providers = own_providers(mapping(raw.get("litellm_settings")))

    def is_group(self, name: str) -> bool:
        """Return True for a group, an alias of one, or what a wildcard group (`openai/*`) matches."""
        wild = (group for group in self.groups if "*" in group)
        return name in self.groups or name in self.aliases or any(fnmatchcase(name, each) for each in wild)

    def check_provider(self, provider: Any, path: KeyPath) -> None:
        """Report a model that is neither a group nor LiteLLM's, and doubt keys that look like ours."""
        doubt_near(mapping(provider).keys() - QUIET_PARAMS, ProviderConfig.model_fields.keys(), path, self.document)
        model = mapping(provider).get("model")
        if isinstance(model, str) and model and not provider.get("custom_llm_provider"):
            self._check_model(model, (*path, "model"))

    def _check_model(self, model: str, path: KeyPath) -> None:
        if self.is_group(model):
            return
        if "/" in model or _is_known(model):
            self._doubt_model(model, path)
        else:
            near = nearest(model, self.groups | self.aliases) or nearest(model, _known_ids())
            text = f", did you mean {shown(near)}?" if near else ": name a model_name of model_list or provider/model"
            self.problem(path, f"unknown model {shown(model)}{text}")

    def _doubt_model(self, model: str, path: KeyPath) -> None:
        """Doubt a model whose provider LiteLLM may not find."""
        prefix, slash, rest = model.partition("/")
        if "*" in model or prefix in self.own_providers or (slash and prefix in _providers()) or _is_known(model):
            return
        if not slash:
            self.doubt(path, f"LiteLLM knows no model {shown(model)}: write it as provider/model")
        elif prefix not in all_providers():
            near = nearest(prefix, all_providers() | self.own_providers, cutoff=0.75)
            text = f", did you mean {shown(f'{near}/{rest}')}?" if near else ""
            self.doubt(path, f"LiteLLM knows no provider {shown(prefix)}{text}")

    def check_target(self, name: Any, path: KeyPath, *, chains: bool = False) -> None:
        """Report a name that is no provider and no group; with `chains`, the name of a chain will do too."""
        known = self.targets | self.chains if chains else self.targets
        if isinstance(name, str) and name not in known and not self.is_group(name):
            self.problem(path, f"unknown {'chain or ' if chains else ''}provider {shown(name)}{hint(name, known)}")

    def check_chain(self, chain: Any, path: KeyPath, *, chains: bool = False) -> None:
        """Report unknown names and repetitions."""
        seen: set[str] = set()
        for index, name in enumerate([chain] if isinstance(chain, str) else listed(chain)):
            where = path if isinstance(chain, str) else (*path, index)
            if isinstance(name, str) and name in seen:
                self.problem(where, f"{shown(name)} is here twice")
            elif isinstance(name, str):
                self.check_target(name, where, chains=chains)
                seen.add(name)
        if chain == []:
            self.problem(path, "must name at least one provider")

    def check_limits(self, section: str, unlike: tuple[str, ...]) -> None:
        """Report limits on unknown names, and two limits that differ in none of the keys `unlike`."""
        seen: dict[str, int] = {}
        for path, entry in _entries(self.block, section):
            if not isinstance(scope := entry.get("scope"), str):
                continue
            kind, _, name = scope.partition(":")
            if kind == "provider" and name:
                self.check_target(name, (*path, "scope"))
            if kind == "model" and name:
                self._check_model(name, (*path, "scope"))
            index, sign = int(path[-1]), repr([entry.get(key) for key in unlike])
            if seen.setdefault(sign, index) != index:
                self.problem(path, f"repeats {section}[{seen[sign]}]: the same {' and '.join(unlike)}")

    def check_fallbacks(self, value: Any, path: KeyPath) -> None:
        """Report fallbacks of another shape than LiteLLM's, and doubt those that lead to no group."""
        if value is not None and not isinstance(value, list):
            self.problem(path, f"must be a list like [{{group: [other]}}], not {shown(value)}")
        for index, item in enumerate(listed(value)):
            where = (*path, index)
            if len(mapping(item)) > 1 and "context_window_fallbacks" in path:
                self.doubt(where, "LiteLLM expects exactly one group here")
            elif len(mapping(item)) != 1:
                self.problem(where, _ONE_GROUP)
            for group, targets in mapping(item).items():
                self.doubt_group(group, (*where, group), key=True)
                if isinstance(targets, str):
                    self.doubt((*where, group), f"LiteLLM reads this letter by letter: write [{targets}]")
                else:
                    self.doubt_targets(targets, (*where, group))

    def doubt_targets(self, targets: Any, path: KeyPath) -> None:
        """Doubt fallbacks that lead to no group."""
        if not isinstance(targets, list):
            self.doubt(path, f"should be a list of groups, not {shown(targets)}; ignored")
        for index, target in enumerate(listed(targets)):
            self.doubt_group(target.get("model") if isinstance(target, dict) else target, (*path, index))

    def doubt_group(self, name: Any, path: KeyPath, *, key: bool = False) -> None:
        """Doubt what is no name of a group."""
        if not isinstance(name, str):
            self.doubt(path, f"should be the name of a group, not {shown(name)}")
        elif not self.is_group(name):
            self.doubt(path, f"unknown model group {shown(name)}{hint(name, self.groups)}", key=key)

    def doubt_deployment(self, params: Mapping[str, Any], path: KeyPath) -> None:
        """Doubt a model without a known provider, and a credential that `credential_list` does not hold."""
        written, name = params.get("model"), params.get("litellm_credential_name")
        model = from_environment(written) or written
        if isinstance(model, str) and not params.get("custom_llm_provider"):
            self._doubt_model(model, (*path, "model"))
        if isinstance(name, str) and name not in self.credentials:
            text = f"unknown credential {shown(name)}{hint(name, filter(None, self.credentials))}"
            self.doubt((*path, "litellm_credential_name"), text)


def _setting(raw: Mapping[str, Any], key: str) -> tuple[Any, KeyPath]:
    """Return the value that decides for a setting of LiteLLM's Router, and where it stands."""
    value, section = setting_in(mapping(raw.get("router_settings")), mapping(raw.get("litellm_settings")), key)
    return value, (section, key)


def _entries(block: Mapping[str, Any], section: str) -> Iterator[tuple[KeyPath, dict[str, Any]]]:
    entries = enumerate(listed(block.get(section)))
    return ((("blueprint", section, index), entry) for index, entry in entries if isinstance(entry, dict))


def _texts(values: Iterator[Any]) -> set[str]:
    return {value for value in values if isinstance(value, str)}


def _read(name: str) -> dict[str, Any]:
    """Return the content of a file in LiteLLM's package; nothing where it is not there."""
    spec = find_spec("litellm")
    folders = (spec.submodule_search_locations if spec else None) or []
    files = [path for folder in folders if (path := Path(folder) / name).is_file()]
    return orjson.loads(files[0].read_bytes()) if files else {}


@cache
def _known_ids() -> frozenset[str]:
    """Return every model id of LiteLLM's map; none where LiteLLM is not installed."""
    return frozenset(_read(_MODELS)) - {"sample_spec"}


@cache
def _providers() -> frozenset[str]:
    """Return the providers that LiteLLM documents, and a few more."""
    return frozenset(_read(_PROVIDERS).get("providers", ())) | UNLISTED


@cache
def all_providers() -> frozenset[str]:
    """Return those and every one before a model id of the map; slower."""
    return _providers() | {name.partition("/")[0] for name in _known_ids() if "/" in name}


def _is_known(model: str) -> bool:
    """Return True for a file for the embedded model, a fine-tuned model, and what is in LiteLLM's map."""
    return model.startswith(("embedded:", "ft:")) or model in _known_ids()
