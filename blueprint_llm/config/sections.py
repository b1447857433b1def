"""Check LiteLLM's sections of a file, and that every name in it leads somewhere: chains, fallbacks, models, keys.

LiteLLM is handed its sections as written, so what its Router refuses it says itself. Here is told what it could not be
handed, and what it accepts without a word though it looks wrong. The raw values are read, so that a mistake elsewhere
in the file hides nothing here. Which model ids LiteLLM can resolve is told by the JSON files in its package: nothing of
LiteLLM is imported.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from blueprint_llm.config.blocks import Blueprint, ProviderConfig
from blueprint_llm.config.environment import ENVIRON, from_environment, is_address
from blueprint_llm.config.model import number_of, own_providers, setting_in
from blueprint_llm.config.problems import hint, mapping, nearest, words
from blueprint_llm.config.secrets import FALLBACKS, is_secret_key, masked_text, shown
from blueprint_llm.config.trust import QUIET_PARAMS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from blueprint_llm.config.document import Part

TOP_LEVEL = frozenset({"model_list", "router_settings", "litellm_settings", "credential_list", "include", "blueprint"})
# What LiteLLM's proxy alone reads, beside the sections above and of `litellm_settings`.
PROXY_ONLY = words(
    """general_settings environment_variables guardrails prompts policies policy_attachments mcp_servers mcp_tools
    search_tools sandbox_tools agent_list agents assistant_settings callback_settings files_settings
    finetune_settings default_vertex_config vector_store_registry pass_through_endpoints worker_registry"""
)
PROXY_SETTINGS = words(
    """guardrails master_key default_team_settings default_internal_user_params upperbound_key_generate_params
    audit_log_callbacks store_audit_logs key_alias_pattern mcp_aliases max_internal_user_budget max_ui_session_budget
    default_max_internal_user_budget budget_reset_time responses post_call_rules
    global_prompt_directory global_bitbucket_config global_gitlab_config azure_content_safety_params"""
)
SCHEMA_NAME = "blueprint.schema.json"  # what the first line of the template names
_OURS = frozenset({"providers", "chains", "routes", "budgets", "quotas"})  # ignoring these would cost money
# Of `litellm_settings`: limits of ours.
LIMITS = frozenset({"max_budget", "budget_duration"})
# Numbers by which this library decides, too.
NUMBERS = ("num_retries", "max_fallbacks", "allowed_fails", "cooldown_time", "retry_after", "timeout", "stream_timeout")
# Providers that LiteLLM's files do not name; a test compares with the installed LiteLLM.
UNLISTED = words(
    """a2a_agent aiohttp_openai aws_textract azure_speech databricks_agent dotprompt embedded humanloop langfuse
    litellm_agent nano-gpt sagemaker_nova veniceai vertex_ai_beta"""
)
_SHELL = re.compile(r"(?:\$\{?|os\.environ\.)([A-Z]\w*_\w+)\}?")
_NO_URLS = ("gdc/", "nvidia_riva/")  # whose addresses are hosts
_MODELS, _PROVIDERS = "model_prices_and_context_window_backup.json", "provider_endpoints_support_backup.json"
NEAR = 0.84  # in 438 configurations of LiteLLM's it accuses one key, rightly: aws_secret_access_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """The names that the installed LiteLLM takes: in an entry of `model_list`, its parts, and the two settings."""

    entry: frozenset[str]
    params: frozenset[str]
    info: frozenset[str]
    router: frozenset[str]
    module: frozenset[str]


def file_schema() -> dict[str, Any]:
    """The JSON Schema of a configuration file."""
    block = Blueprint.model_json_schema()
    definitions = block.pop("$defs")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "blueprint_llm configuration",
        "type": "object",
        "properties": {"blueprint": block, **_litellm(), **{key: {} for key in sorted(PROXY_ONLY)}},
        "$defs": definitions,
    }


def _litellm() -> dict[str, Any]:
    entry = {
        "type": "object",
        "required": ["model_name", "litellm_params"],
        "properties": {
            "model_name": {"type": "string", "description": "The group this deployment belongs to."},
            "litellm_params": {
                "type": "object",
                "required": ["model"],
                "properties": {"model": {"type": "string", "description": "A LiteLLM model id: provider/model."}},
            },
            "model_info": {"type": "object"},
        },
    }
    return {
        "model_list": {"type": ["array", "null"], "items": entry},
        "router_settings": {"type": ["object", "null"]},
        "litellm_settings": {"type": ["object", "null"]},
        "credential_list": {"type": ["array", "null"], "items": {"type": "object"}},
        "include": {"type": "array", "items": {"type": "string"}},
    }


def sections_of(root: Part) -> dict[str, Any]:
    """Return LiteLLM's sections beside `model_list`, empty where they cannot be read."""
    sections: dict[str, Any] = {}
    for name in ("router_settings", "litellm_settings"):
        section = root[name]
        if section.value and not isinstance(section.value, dict):
            section.problem(f"must be a mapping, not {shown(section.value)}")
        sections[name] = mapping(section.value)
        for setting in (section[key] for key in NUMBERS):
            number = number_of(setting.value)
            if setting.value is not None and (number is None or number < 0):
                ignored = "; ignored" if number is None else ""
                setting.doubt(f"should be a number of at least 0, not {shown(setting.value)}{ignored}")
    credentials = root["credential_list"].value or []
    if not isinstance(credentials, list) or not all(isinstance(entry, dict) for entry in credentials):
        root["credential_list"].problem("must be a list of mappings with credential_name and credential_values")
        credentials = []
    return {**sections, "credential_list": credentials}


def entries_of(root: Part) -> dict[int, dict[str, Any]]:
    """Return the entries of `model_list` that have a group and a model, each under its place."""
    entries = root["model_list"]
    if not isinstance(entries.value, list | None):
        entries.problem(f"must be a list, not {shown(entries.value)}")
    return {place: entry.value for place, entry in enumerate(entries.listed()) if _is_whole(entry)}


def _is_whole(entry: Part) -> bool:
    """Return True for an entry with a group and a model, by which it is known here; report what it lacks."""
    if not isinstance(entry.value, dict):
        entry.problem(f"must be a mapping with model_name and litellm_params, not {shown(entry.value)}")
        return False
    params, info, before = entry["litellm_params"], entry["model_info"], len(entry.document.problems)
    _require_text(entry, "model_name")
    if "litellm_params" not in entry.value:
        entry.problem("litellm_params is missing")
    elif not isinstance(params.value, dict) or not params.value:
        params.problem(f"must be a mapping with a model in it, not {shown(params.value or None)}")
    else:
        _require_text(params, "model")
        for key, value in params.value.items():
            if is_secret_key(key) and type(value) in {int, float}:  # LiteLLM would say it, and show the key
                params[key].problem(f"must be text, not {shown(value, key)}: put quotes around it")
    if not isinstance(info.value, dict | None):
        info.problem(f"must be a mapping, not {shown(info.value)}")
    return len(entry.document.problems) == before


def _require_text(entry: Part, key: str) -> None:
    value = entry[key].value
    if key not in entry.value:
        near = nearest(key, entry.value, cutoff=0.75)
        entry.problem(f"{key} is missing" + (f": {shown(near)} looks like it" if near else ""))
    elif not (isinstance(value, str) and value):
        entry[key].problem(f"must be text, not {shown(value)}")


def note_unused(root: Part) -> None:
    """Note the keys of LiteLLM's proxy, and doubt the sections of nobody; what is ours stands in `blueprint:`."""
    raw = root.value
    unused = [key for key in raw if key in PROXY_ONLY]
    unused += [f"litellm_settings.{key}" for key in mapping(raw.get("litellm_settings")) if key in PROXY_SETTINGS]
    if unused:
        root.document.ignored.append(f"ignored, only LiteLLM's proxy uses it: {', '.join(map(masked_text, unused))}")
    for key in {key for key in raw if not key.startswith("x-")} - TOP_LEVEL - PROXY_ONLY:  # x-: room for anchors
        if key in _OURS or nearest(key, ["blueprint"], cutoff=0.75):
            meant = f"blueprint.{key}" if key in _OURS else "blueprint"
            root[key].problem(f"unknown key {shown(key)}, did you mean {shown(meant)}?", key=True)
        else:
            near = nearest(key, TOP_LEVEL | PROXY_ONLY, cutoff=0.75)
            text = f", did you mean {shown(near)}?" if near else "; ignored"
            root[key].doubt(f"unknown key {shown(key)}{text}", key=True)


def doubt_unknown(root: Part, known: Known) -> None:
    """Doubt what LiteLLM has no name for: every such setting; of a target, where any key may pass, near misses."""
    for entry in root["model_list"].listed():
        _doubt_near(entry, known.entry)
        _doubt_near(entry["litellm_params"], known.params)
        _doubt_near(entry["model_info"], known.info)
    for provider in root["blueprint"]["providers"].named():
        _doubt_near(provider, known.params | ProviderConfig.model_fields.keys())
    for section, names in (("router_settings", known.router), ("litellm_settings", known.module | PROXY_SETTINGS)):
        for key in mapping(root[section].value).keys() - names - LIMITS:
            root[section][key].doubt(f"unknown key {shown(key)}{hint(key, names)}", key=True)


def _doubt_near(part: Part, known: Collection[str], *, but: Collection[str] = ()) -> None:
    """Doubt keys that are no known one but look like it; prices have hundreds of names."""
    for key in mapping(part.value):
        is_known = key in known or key in but or "cost" in key
        if near := None if is_known else nearest(key, known, cutoff=NEAR):
            part[key].doubt(f"unknown key {shown(key)}, did you mean {shown(near)}?", key=True)


def check_names(root: Part) -> None:
    """Report every name in a file and its `blueprint:` block that leads nowhere, and what is there twice."""
    names, block = _Names(root), root["blueprint"]
    for provider in block["providers"].named():
        names.check_provider(provider)
    for chain in block["chains"].named():
        names.check_chain(chain)
    for entry in (*block["routes"].listed(), *block["budgets"].listed()):
        names.check_chain(entry["chain"], chains=True)
    names.check_target(block["planning"]["provider"])
    names.check_limits(block["budgets"], ("scope", "window", "on_exceed"))
    names.check_limits(block["quotas"], ("scope", "window"))
    for key in FALLBACKS:
        names.check_fallbacks(_setting(root, key))
    default, aliases = _setting(root, "default_fallbacks"), _setting(root, "model_group_alias")
    if not isinstance(default.value, str | None):
        names.doubt_targets(default)
    if not isinstance(aliases.value, dict | None):
        aliases.doubt(f"should be a mapping, not {shown(aliases.value)}; ignored")
    for alias in aliases.named():
        names.doubt_group(alias)
    for entry in root["model_list"].listed():
        names.doubt_deployment(entry["litellm_params"])


class _Names:
    """What a name in this file can refer to."""

    def __init__(self, root: Part) -> None:
        block = root["blueprint"]
        self.groups = _texts(each["model_name"] for each in root["model_list"].listed())
        self.credentials = _texts(each["credential_name"] for each in root["credential_list"].listed())
        self.chains = set(mapping(block["chains"].value))
        self.aliases = set(mapping(_setting(root, "model_group_alias").value))
        self.targets = {*mapping(block["providers"].value), *self.groups, *self.aliases}
        self.own_providers = own_providers(mapping(root["litellm_settings"].value))

    def is_group(self, name: str) -> bool:
        """Return True for a group, an alias of one, or what a wildcard group (`openai/*`) matches."""
        wild = (group for group in self.groups if "*" in group)
        return name in self.groups or name in self.aliases or any(fnmatchcase(name, each) for each in wild)

    def check_provider(self, provider: Part) -> None:
        """Report a model that is neither a group nor LiteLLM's, and doubt keys that look like ours."""
        _doubt_near(provider, ProviderConfig.model_fields.keys(), but=QUIET_PARAMS)
        self._doubt_values(provider)
        model = provider["model"]
        if isinstance(model.value, str) and model.value and not provider["custom_llm_provider"].value:
            self._check_model(model.value, model)

    def _check_model(self, model: str, place: Part) -> None:
        if self.is_group(model):
            return
        if "/" in model or _is_known(model):
            self._doubt_model(model, place)
        else:
            near = nearest(model, self.groups | self.aliases) or nearest(model, _known_ids())
            text = f", did you mean {shown(near)}?" if near else ": name a model_name of model_list or provider/model"
            place.problem(f"unknown model {shown(model)}{text}")

    def _doubt_model(self, model: str, place: Part) -> None:
        """Doubt a model whose provider LiteLLM may not find."""
        prefix, slash, rest = model.partition("/")
        if "*" in model or prefix in self.own_providers or (slash and prefix in _providers()) or _is_known(model):
            return
        if not slash:
            place.doubt(f"LiteLLM knows no model {shown(model)}: write it as provider/model")
        elif prefix not in all_providers():
            near = nearest(prefix, all_providers() | self.own_providers, cutoff=0.75)
            text = f", did you mean {shown(f'{near}/{rest}')}?" if near else ""
            place.doubt(f"LiteLLM knows no provider {shown(prefix)}{text}")

    def _doubt_values(self, params: Part) -> None:
        """Doubt addresses that are none, and variables written as a shell or a compose file has them."""
        has_urls = not str(params["model"].value).startswith(_NO_URLS)
        for part in params.named():
            value, name = part.value, part.path[-1]
            if not isinstance(value, str) or name == "model":
                continue
            if variable := _SHELL.fullmatch(value):
                part.doubt(f"this is sent as it stands: write {ENVIRON}{variable[1]} for the environment variable")
            elif has_urls and name in {"api_base", "base_url"} and not (value.startswith(ENVIRON) or is_address(value)):
                text = shown(value.rpartition("@")[2])  # before it stands a password
                part.doubt(f"should be an address like https://host:443/v1, not {text}")

    def check_target(self, place: Part, name: Any = None, *, chains: bool = False) -> None:
        """Report a name (the value there) of no provider and no group; with `chains`, a chain's name will do too."""
        name, known = name or place.value, self.targets | self.chains if chains else self.targets
        if isinstance(name, str) and name not in known and not self.is_group(name):
            place.problem(f"unknown {'chain or ' if chains else ''}provider {shown(name)}{hint(name, known)}")

    def check_chain(self, chain: Part, *, chains: bool = False) -> None:
        """Report unknown names and repetitions."""
        seen: set[str] = set()
        for place in [chain] if isinstance(chain.value, str) else chain.listed():
            if isinstance(place.value, str) and place.value in seen:
                place.problem(f"{shown(place.value)} is here twice")
            elif isinstance(place.value, str):
                self.check_target(place, chains=chains)
                seen.add(place.value)
        if chain.value == []:
            chain.problem("must name at least one provider")

    def check_limits(self, section: Part, unlike: tuple[str, ...]) -> None:
        """Report limits on unknown names, and two limits that differ in none of the keys `unlike`."""
        seen: dict[str, int] = {}
        for index, limit in enumerate(section.listed()):
            scope = limit["scope"]
            if not isinstance(scope.value, str):
                continue
            kind, _, name = scope.value.partition(":")
            if kind == "provider" and name:
                self.check_target(scope, name)
            if kind == "model" and name:
                self._check_model(name, scope)
            sign = repr([limit[key].value for key in unlike])
            if seen.setdefault(sign, index) != index:
                place = f"{section.path[-1]}[{seen[sign]}]"
                limit.problem(f"repeats {place}: the same {' and '.join(unlike)}")

    def check_fallbacks(self, fallbacks: Part) -> None:
        """Report fallbacks of another shape than LiteLLM's, and doubt those that lead to no group."""
        if not isinstance(fallbacks.value, list | None):
            fallbacks.problem(f"must be a list like [{{group: [other]}}], not {shown(fallbacks.value)}")
        for item in fallbacks.listed():
            groups = item.named()
            if len(groups) > 1 and "context_window_fallbacks" in item.path:
                item.doubt("LiteLLM expects exactly one group here")
            elif len(groups) != 1:
                item.problem("must map exactly one group to its fallbacks, like {group: [other]}")
            for targets in groups:
                self._doubt_name(targets.path[-1], targets, key=True)
                if isinstance(targets.value, str):
                    targets.doubt(f"LiteLLM reads this letter by letter: write [{targets.value}]")
                else:
                    self.doubt_targets(targets)

    def doubt_targets(self, targets: Part) -> None:
        """Doubt fallbacks that lead to no group."""
        if not isinstance(targets.value, list):
            targets.doubt(f"should be a list of groups, not {shown(targets.value)}; ignored")
        for target in targets.listed():
            self.doubt_group(target)

    def doubt_group(self, target: Part) -> None:
        """Doubt what is no name of a group: a target is one, or a mapping with one as its `model`."""
        self._doubt_name(target["model"].value if isinstance(target.value, dict) else target.value, target)

    def _doubt_name(self, name: Any, place: Part, *, key: bool = False) -> None:
        if not isinstance(name, str):
            place.doubt(f"should be the name of a group, not {shown(name)}")
        elif not self.is_group(name):
            place.doubt(f"unknown model group {shown(name)}{hint(name, self.groups)}", key=key)

    def doubt_deployment(self, params: Part) -> None:
        """Doubt a model without a known provider, and a credential that `credential_list` does not hold."""
        written, name = params["model"].value, params["litellm_credential_name"]
        model = from_environment(written) or written
        self._doubt_values(params)
        if isinstance(model, str) and not params["custom_llm_provider"].value:
            self._doubt_model(model, params["model"])
        if isinstance(name.value, str) and name.value not in self.credentials:
            name.doubt(f"unknown credential {shown(name.value)}{hint(name.value, filter(None, self.credentials))}")


def _setting(root: Part, key: str) -> Part:
    """Return the value that decides for a setting of LiteLLM's Router."""
    router, module = (mapping(root[name].value) for name in ("router_settings", "litellm_settings"))
    value, section = setting_in(router, module, key)
    return replace(root[section][key], value=value)


def _texts(parts: Iterable[Part]) -> set[str]:
    return {part.value for part in parts if isinstance(part.value, str)}


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
