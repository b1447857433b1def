"""Read LiteLLM's sections of a file, and tell which of their keys nobody knows.

They are handed to LiteLLM as written, so what its Router refuses it says itself. Here is told what it could not be
handed, and what it accepts without a word though it looks wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blueprint_llm.config.blocks import ProviderConfig
from blueprint_llm.config.model import number_of
from blueprint_llm.config.problems import hint, listed, mapping, nearest, words
from blueprint_llm.config.secrets import is_secret_key, masked_text, shown

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from blueprint_llm.config.document import Document
    from blueprint_llm.config.problems import Path

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
_OURS = frozenset({"providers", "chains", "routes", "budgets", "quotas"})  # ignoring these would cost money
# Of `litellm_settings`: limits of ours.
LIMITS = frozenset({"max_budget", "budget_duration"})
# Numbers by which this library decides, too.
NUMBERS = ("num_retries", "max_fallbacks", "allowed_fails", "cooldown_time", "retry_after", "timeout", "stream_timeout")
NEAR = 0.84  # in 438 configurations of LiteLLM's it accuses one key, rightly: aws_secret_access_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """The names that the installed LiteLLM takes: in an entry of `model_list`, its parts, and the two settings."""

    entry: frozenset[str]
    params: frozenset[str]
    info: frozenset[str]
    router: frozenset[str]
    module: frozenset[str]


def sections_of(raw: Mapping[str, Any], document: Document) -> dict[str, Any]:
    """Return LiteLLM's sections beside `model_list`, empty where they cannot be read."""
    sections: dict[str, Any] = {}
    for name in ("router_settings", "litellm_settings"):
        section = raw.get(name) or {}
        if not isinstance(section, dict):
            document.problem((name,), f"must be a mapping, not {shown(section)}")
        sections[name] = mapping(section)
        for key in NUMBERS:
            if (value := sections[name].get(key)) is not None and ((number := number_of(value)) is None or number < 0):
                text = f"should be a number of at least 0, not {shown(value)}{'; ignored' if number is None else ''}"
                document.doubt((name, key), text)
    credentials = raw.get("credential_list") or []
    if not isinstance(credentials, list) or not all(isinstance(entry, dict) for entry in credentials):
        text = "must be a list of mappings with credential_name and credential_values"
        document.problem(("credential_list",), text)
        credentials = []
    return {**sections, "credential_list": credentials}


def entries_of(raw: Mapping[str, Any], document: Document) -> dict[int, dict[str, Any]]:
    """Return the entries of `model_list` that have a group and a model, each under its place."""
    value = raw.get("model_list")
    if not isinstance(value, list | None):
        document.problem(("model_list",), f"must be a list, not {shown(value)}")
    entries = enumerate(listed(value))
    return {place: entry for place, entry in entries if _is_whole(entry, ("model_list", place), document)}


def _is_whole(entry: Any, path: Path, document: Document) -> bool:
    """Return True for an entry with a group and a model, by which it is known here; report what it lacks."""
    if not isinstance(entry, dict):
        document.problem(path, f"must be a mapping with model_name and litellm_params, not {shown(entry)}")
        return False
    params, info, before = entry.get("litellm_params"), entry.get("model_info"), len(document.problems)
    where = (*path, "litellm_params")
    _require_text(entry, "model_name", path, document)
    if "litellm_params" not in entry:
        document.problem(path, "litellm_params is missing")
    elif not isinstance(params, dict) or not params:
        document.problem(where, f"must be a mapping with a model in it, not {shown(params or None)}")
    else:
        _require_text(params, "model", where, document)
        for key, value in params.items():
            if is_secret_key(key) and type(value) in {int, float}:  # LiteLLM would say it, and show the key
                document.problem((*where, key), f"must be text, not {shown(value, key)}: put quotes around it")
    if info is not None and not isinstance(info, dict):
        document.problem((*path, "model_info"), f"must be a mapping, not {shown(info)}")
    return len(document.problems) == before


def _require_text(entry: Mapping[str, Any], key: str, path: Path, document: Document) -> None:
    value = entry.get(key)
    if key not in entry:
        near = nearest(key, entry, cutoff=0.75)
        document.problem(path, f"{key} is missing" + (f": {shown(near)} looks like it" if near else ""))
    elif not (isinstance(value, str) and value):
        document.problem((*path, key), f"must be text, not {shown(value)}")


def note_unused(raw: Mapping[str, Any], document: Document) -> None:
    """Note the keys of LiteLLM's proxy, and doubt the sections of nobody; what is ours stands in `blueprint:`."""
    unused = [key for key in raw if key in PROXY_ONLY]
    unused += [f"litellm_settings.{key}" for key in mapping(raw.get("litellm_settings")) if key in PROXY_SETTINGS]
    if unused:
        document.ignored.append(f"ignored, only LiteLLM's proxy uses it: {', '.join(map(masked_text, unused))}")
    for key in {key for key in raw if not key.startswith("x-")} - TOP_LEVEL - PROXY_ONLY:  # x-: room for anchors
        if key in _OURS or nearest(key, ["blueprint"], cutoff=0.75):
            meant = f"blueprint.{key}" if key in _OURS else "blueprint"
            document.problem((key,), f"unknown key {shown(key)}, did you mean {shown(meant)}?", key=True)
        else:
            near = nearest(key, TOP_LEVEL | PROXY_ONLY, cutoff=0.75)
            text = f", did you mean {shown(near)}?" if near else "; ignored"
            document.doubt((key,), f"unknown key {shown(key)}{text}", key=True)


def doubt_unknown(raw: Mapping[str, Any], block: Mapping[str, Any], known: Known, document: Document) -> None:
    """Doubt what LiteLLM has no name for: every such setting; of a target, where any key may pass, near misses."""
    for index, entry in enumerate(map(mapping, listed(raw.get("model_list")))):
        doubt_near(entry, known.entry, ("model_list", index), document)
        for part, names in (("litellm_params", known.params), ("model_info", known.info)):
            doubt_near(mapping(entry.get(part)), names, ("model_list", index, part), document)
    for name, provider in mapping(block.get("providers")).items():
        names = known.params | ProviderConfig.model_fields.keys()
        doubt_near(mapping(provider), names, ("blueprint", "providers", name), document)
    for section, names in (("router_settings", known.router), ("litellm_settings", known.module | PROXY_SETTINGS)):
        for key in mapping(raw.get(section)).keys() - names - LIMITS:
            document.doubt((section, key), f"unknown key {shown(key)}{hint(key, names)}", key=True)


def doubt_near(keys: Iterable[str], known: Collection[str], path: Path, document: Document) -> None:
    """Doubt keys that are no known one but look like it; prices have hundreds of names."""
    for key in keys:
        near = nearest(key, known, cutoff=NEAR) if key not in known and "cost" not in key else None
        if near:
            document.doubt((*path, key), f"unknown key {shown(key)}, did you mean {shown(near)}?", key=True)
