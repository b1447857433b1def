"""What makes two requests the same: a digest over everything that could change the answer, and over nothing else.

Whatever is not known to be harmless counts. The namespace in front keeps projects apart and lets one be cleared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import orjson

from blueprint_llm.secret import Secret

SCHEMA = 3
# How a call is carried, timed, retried, logged or billed, never what is answered. `stream`: one entry serves both ways.
HARMLESS = frozenset(
    {
        *("timeout", "request_timeout", "stream_timeout", "num_retries", "max_retries", "retry_policy"),
        *("metadata", "litellm_metadata", "litellm_call_id", "litellm_trace_id", "tags", "verbose", "logger_fn"),
        *("stream", "stream_options", "prompt_cache_key", "prompt_cache_retention", "cache_control_injection_points"),
        *("caching", "cache", "no-log", "cooldown_time", "allowed_fails"),
    }
)
_HINT = b'"cache_control"'
_NAMING = b"blueprint_llm: a secret in a cache key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a call is known by, before its secret is read."""

    model: str
    account: tuple[Any, ...]  # what `CredentialsManager.account` says: key reference, address, extra settings
    project: str | None
    messages: list[dict[str, Any]] = field(repr=False)
    params: Mapping[str, Any] = field(repr=False)  # LiteLLM's keywords for this call, tools included
    options: tuple[Any, ...] = ()  # whatever else of ours shapes the call or judges the answer


@lru_cache(maxsize=64)
def namespace_of(project: str | None) -> str:
    """A project's part of its keys, fit for any store."""
    return hashlib.sha256((project or "").encode("utf-8", "replace")).hexdigest()[:16]


def key_of(facts: Facts, *, nondeterministic: bool = False) -> str | None:
    """Return `namespace:digest`, or None: not to be cached, since a value has no JSON form or chance decides.

    `nondeterministic` caches also where the caller asked for chance (a temperature, several answers) without a seed.
    """
    if not nondeterministic and _asks_for_chance(facts.params):
        return None
    params = {name: _number(value) for name, value in facts.params.items() if name not in HARMLESS}
    told = [SCHEMA, facts.project, facts.model, facts.account, facts.messages, params, facts.options]
    try:
        text = _dumps(told)
        if _HINT in text:
            told[4:6] = _unhinted(facts.messages), _unhinted(params)
            text = _dumps(told)
    except TypeError:
        return None
    return f"{namespace_of(facts.project)}:{hashlib.sha256(text).hexdigest()}"


def _asks_for_chance(params: Mapping[str, Any]) -> bool:
    asked = ((params.get("temperature"), 0), (params.get("n"), 1))
    above = [value > floor if isinstance(value, int | float) else value is not None for value, floor in asked]
    return params.get("seed") is None and any(above)  # what is no number might be above


def _dumps(value: Any) -> bytes:
    return orjson.dumps(value, default=_named, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)


def _named(value: Any) -> Any:
    """A value without JSON form of its own: secrets by their MAC, schema classes by their schema."""
    if isinstance(value, Secret):
        return {"secret": value.mac(_NAMING)}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple):  # a named one: orjson knows plain ones
        return list(value)
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    if hasattr(value, "model_json_schema"):
        return {"schema": value.model_json_schema()}
    raise TypeError


def _number(value: Any) -> Any:
    """1.0 as 1: to a sampler they are the same."""
    if isinstance(value, dict):
        return {name: _number(item) if isinstance(item, float) else item for name, item in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _unhinted(value: Any) -> Any:
    """Return JSON without the provider's cache hints; a tool's parameter of that name stays."""
    if isinstance(value, Mapping):
        hint = value.get("cache_control")
        is_hint = isinstance(hint, Mapping) and hint.get("type") == "ephemeral"
        return {name: _unhinted(item) for name, item in value.items() if not (is_hint and name == "cache_control")}
    return [_unhinted(item) for item in value] if isinstance(value, list | tuple) else value
