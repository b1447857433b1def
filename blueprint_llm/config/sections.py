"""LiteLLM's sections of a file: which there are, whether they can be read, and which of their keys nobody knows.

They are handed to LiteLLM as written, so what its Router refuses it says itself. Here is told what it could not be
handed, and what it accepts without a word though it looks wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blueprint_llm.config.blocks import ProviderConfig
from blueprint_llm.config.model import number_of
from blueprint_llm.config.problems import hint, mapping, nearest, words
from blueprint_llm.config.secrets import is_secret_key, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from blueprint_llm.config.problems import Path, Report

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


def sections_of(raw: Mapping[str, Any], report: Report) -> dict[str, Any]:
    """Return LiteLLM's sections beside `model_list`, empty where they cannot be read."""
    settings = {name: _mapping(raw.get(name), (name,), report) for name in ("router_settings", "litellm_settings")}
    for name, section in settings.items():
        for key in NUMBERS:
            if (value := section.get(key)) is not None and ((number := number_of(value)) is None or number < 0):
                text = f"should be a number of at least 0, not {shown(value)}{'; ignored' if number is None else ''}"
                report.doubt((name, key), text)
    return {**settings, "credential_list": _credentials(raw.get("credential_list"), report)}


def entries_of(raw: Mapping[str, Any], report: Report) -> dict[int, dict[str, Any]]:
    """Return the entries of `model_list` that have a group and a model, each under its place."""
    value = raw.get("model_list")
    if not isinstance(value, list | None):
        report.problem(("model_list",), f"must be a list, not {shown(value)}")
        return {}
    return {place: entry for place, entry in enumerate(value or ()) if _is_whole(entry, ("model_list", place), report)}


def _mapping(value: Any, path: Path, report: Report) -> dict[str, Any]:
    if not value or isinstance(value, dict):
        return value or {}
    report.problem(path, f"must be a mapping, not {shown(value)}")
    return {}


def _credentials(value: Any, report: Report) -> list[dict[str, Any]]:
    if not value or (isinstance(value, list) and all(isinstance(entry, dict) for entry in value)):
        return value or []
    report.problem(("credential_list",), "must be a list of mappings with credential_name and credential_values")
    return []


def _is_whole(entry: Any, path: Path, report: Report) -> bool:
    """Return True for an entry with a group and a model, by which it is known here; report what it lacks."""
    if not isinstance(entry, dict):
        report.problem(path, f"must be a mapping with model_name and litellm_params, not {shown(entry)}")
        return False
    params, info, before = entry.get("litellm_params"), entry.get("model_info"), len(report.problems)
    _require_text(entry, "model_name", path, report)
    if "litellm_params" not in entry:
        report.problem(path, "litellm_params is missing")
    elif not isinstance(params, dict) or not params:
        where = (*path, "litellm_params")
        report.problem(where, f"must be a mapping with a model in it, not {shown(params or None)}")
    else:
        _require_text(params, "model", (*path, "litellm_params"), report)
        for key, value in params.items():
            if is_secret_key(key) and type(value) in {int, float}:  # LiteLLM would say it, and show the key
                where = (*path, "litellm_params", key)
                report.problem(where, f"must be text, not {shown(value, key)}: put quotes around it")
    if info is not None and not isinstance(info, dict):
        report.problem((*path, "model_info"), f"must be a mapping, not {shown(info)}")
    return len(report.problems) == before


def _require_text(entry: Mapping[str, Any], key: str, path: Path, report: Report) -> None:
    value = entry.get(key)
    if key not in entry:
        near = nearest(key, entry, cutoff=0.75)
        report.problem(path, f"{key} is missing" + (f": {shown(near)} looks like it" if near else ""))
    elif not (isinstance(value, str) and value):
        report.problem((*path, key), f"must be text, not {shown(value)}")


def doubt_unknown(raw: Mapping[str, Any], block: Mapping[str, Any], known: Known, report: Report) -> None:
    """Doubt what LiteLLM has no name for: every such setting; of a target, where any key may pass, near misses."""
    for index, entry in _parts(raw.get("model_list")):
        doubt_near(entry, known.entry, ("model_list", index), report)
        for part, names in (("litellm_params", known.params), ("model_info", known.info)):
            doubt_near(mapping(entry.get(part)), names, ("model_list", index, part), report)
    for name, provider in _parts(block.get("providers")):
        names = known.params | ProviderConfig.model_fields.keys()
        doubt_near(provider, names, ("blueprint", "providers", name), report)
    for section, names in (("router_settings", known.router), ("litellm_settings", known.module | PROXY_SETTINGS)):
        for key in _unknown(mapping(raw.get(section)), names | LIMITS):
            report.doubt((section, key), f"unknown key {shown(key)}{hint(key, names)}", key=True)


def doubt_near(keys: Iterable[str], known: frozenset[str], path: Path, report: Report) -> None:
    """Doubt keys that are no known one but look like it; prices have hundreds of names."""
    for key in _unknown(keys, known):
        near = nearest(key, known, cutoff=NEAR) if "cost" not in key else None
        if near:
            report.doubt((*path, key), f"unknown key {shown(key)}, did you mean {shown(near)}?", key=True)


def _unknown(keys: Iterable[str], known: frozenset[str]) -> Iterator[str]:
    return (key for key in keys if key not in known)


def _parts(holder: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Yield the mappings in a list or a mapping, each with its place there."""
    items = enumerate(holder) if isinstance(holder, list) else mapping(holder).items()
    return ((place, part) for place, part in items if isinstance(part, dict))
