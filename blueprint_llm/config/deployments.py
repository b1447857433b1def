"""Turns LiteLLM's `model_list` into groups of deployments, as LiteLLM's own Router does (`set_model_list`).

What its Router refuses is a problem; what it accepts without a word though it looks wrong is a doubt.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from blueprint_llm.config.environment import from_environment
from blueprint_llm.config.known_keys import ENTRY, INFO, PARAMS
from blueprint_llm.config.masking import masked, shown
from blueprint_llm.config.model import Deployment
from blueprint_llm.config.problems import hint, nearest
from blueprint_llm.secret import Secret

if TYPE_CHECKING:
    from blueprint_llm.config.problems import Path, Report

_TEXTS = ("api_key", "api_base", "api_version", "custom_llm_provider", "litellm_credential_name", "budget_duration")
_COUNTS = ("rpm", "tpm", "order")
_NUMBERS = ("weight", "max_budget")
_NEAR = 0.84  # in 438 configurations of LiteLLM's it accuses one key, rightly: aws_secret_access_id


def model_groups(entries: Any, report: Report) -> dict[str, list[Deployment]]:
    """The deployments by `model_name`, in the order of the file."""
    groups: dict[str, list[Deployment]] = {}
    ids: set[str] = set()
    for index, entry in enumerate(_list(entries, ("model_list",), report)):
        for deployment in _deployments(entry, ("model_list", index), report):
            groups.setdefault(deployment.group, []).append(_unique(deployment, ids))
    return groups


def _list(value: Any, path: Path, report: Report) -> list[Any]:
    if value is None or isinstance(value, list):
        return value or []
    report.problem(path, f"must be a list, not {shown(value)}")
    return []


def _deployments(entry: Any, path: Path, report: Report) -> Iterator[Deployment]:
    """The deployments of one entry: none where it is broken or for another environment, one per organization."""
    if not isinstance(entry, Mapping):
        report.problem(path, f"must be a mapping with model_name and litellm_params, not {shown(entry)}")
        return
    group = _required_text(entry, "model_name", path, report)
    params = _mapping(entry, "litellm_params", path, report)
    _doubt_keys(entry, ENTRY, path, report, always=True)
    model = _required_text(params, "model", (*path, "litellm_params"), report) if params else None
    if not (group and model):
        return
    info = _info(entry, path, report)
    if _active_here(info):
        params = _checked_params(entry, dict(params), path, report)
        yield from (_deployment(group, one, info, report, path) for one in _per_organization(params))


def _required_text(entry: Mapping[str, Any], key: str, path: Path, report: Report) -> str | None:
    value = entry.get(key)
    if isinstance(value, str) and value:
        return value
    if key not in entry:
        near = nearest(key, entry, cutoff=0.75)
        report.problem(path, f"{key} is missing" + (f": {shown(near)} looks like it" if near else ""))
    else:
        report.problem((*path, key), f"must be text, not {shown(value)}")
    return None


def _mapping(entry: Mapping[str, Any], key: str, path: Path, report: Report) -> dict[str, Any]:
    value = entry.get(key)
    if isinstance(value, dict) and value:
        return value
    if key not in entry:
        report.problem(path, f"{key} is missing")
    else:
        report.problem((*path, key), f"must be a mapping with a model in it, not {shown(value or None)}")
    return {}


def _info(entry: Mapping[str, Any], path: Path, report: Report) -> dict[str, Any]:
    value = entry.get("model_info")
    if value is not None and not isinstance(value, dict):
        report.problem((*path, "model_info"), f"must be a mapping, not {shown(value)}")
        return {}
    _doubt_keys(value or {}, INFO, (*path, "model_info"), report)
    return value or {}


def _active_here(info: Mapping[str, Any]) -> bool:
    """Whether `supported_environments` admits $LITELLM_ENVIRONMENT; without that variable everything is active."""
    here, supported = os.environ.get("LITELLM_ENVIRONMENT"), info.get("supported_environments")
    return not here or not isinstance(supported, list) or here in supported


def _checked_params(entry: Mapping[str, Any], params: dict[str, Any], path: Path, report: Report) -> dict[str, Any]:
    for key in ("rpm", "tpm"):  # LiteLLM takes both from either place
        if params.get(key) is None and entry.get(key) is not None:
            params[key] = entry[key]
    where = (*path, "litellm_params")
    for key in _TEXTS:
        if params.get(key) is not None and not isinstance(params[key], str | Secret):
            report.problem((*where, key), f"must be text, not {shown(params[key], key)}: put quotes around it")
    _doubt_keys(params, PARAMS, where, report)
    return params


def _doubt_keys(
    keys: Mapping[str, Any], known: frozenset[str], path: Path, report: Report, *, always: bool = False
) -> None:
    """Doubt keys that look misspelt; `always` doubts every unknown one."""
    for key in keys.keys() - known:
        near = nearest(key, known, cutoff=_NEAR)
        if always:
            report.doubt((*path, key), f"unknown key {shown(key)}{hint(key, known, otherwise='allowed')}", key=True)
        elif near and "cost" not in key:
            report.doubt((*path, key), f"unknown key {shown(key)}, did you mean {shown(near)}?", key=True)


def doubt_params(params: Mapping[str, Any], also: frozenset[str], path: Path, report: Report) -> None:
    """Doubt keys that are nearly a parameter of LiteLLM's or one of `also`."""
    _doubt_keys(params, PARAMS | also, path, report)


def _per_organization(params: dict[str, Any]) -> list[dict[str, Any]]:
    organizations = params.get("organization")
    return [params | {"organization": one} for one in organizations] if isinstance(organizations, list) else [params]


def _deployment(group: str, params: dict[str, Any], info: dict[str, Any], report: Report, path: Path) -> Deployment:
    where = (*path, "litellm_params")
    return Deployment(
        group=group,
        model=from_environment(params["model"]) or params["model"],
        params={key: value for key, value in params.items() if key != "model"},
        info=info,
        id=str(info["id"]) if info.get("id") is not None else _fingerprint(group, params),
        budget_duration=params.get("budget_duration") if isinstance(params.get("budget_duration"), str) else None,
        **{key: _number(params, key, int, where, report) for key in _COUNTS},
        **{key: _number(params, key, float, where, report) for key in _NUMBERS},
    )


def seconds_of(value: Any) -> float:
    """A time in seconds, also where it is text or names an environment variable; 0: it says none."""
    try:
        return float(from_environment(value) or 0)
    except (TypeError, ValueError):
        return 0.0


def _number(params: Mapping[str, Any], key: str, kind: type, path: Path, report: Report) -> Any:
    """A limit as a number, also where it is written as text or names an environment variable."""
    value = from_environment(params.get(key))
    try:
        return None if value is None else kind(value)
    except (TypeError, ValueError, OverflowError):
        report.problem((*path, key), f"must be a number, not {shown(value)}")
        return None


def _fingerprint(group: str, params: Mapping[str, Any]) -> str:
    """An id that stays the same over reloads and does not depend on secrets."""
    text = json.dumps([group, masked(params)], sort_keys=True, default=lambda value: type(value).__name__)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _unique(deployment: Deployment, taken: set[str]) -> Deployment:
    number, unique = 1, deployment.id
    while unique in taken:
        number += 1
        unique = f"{deployment.id}-{number}"
    taken.add(unique)
    return deployment if number == 1 else deployment.model_copy(update={"id": unique})
