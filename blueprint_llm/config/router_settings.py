"""Reads `router_settings` and `litellm_settings` into the shapes and defaults of LiteLLM's Router (1.106).

LiteLLM's proxy sets `litellm_settings` on LiteLLM's module, where the Router looks when its own setting is missing.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from blueprint_llm.config.known_keys import LITELLM_IGNORED, LITELLM_USED, ROUTER_IGNORED, ROUTER_USED, STRATEGIES
from blueprint_llm.config.masking import shown
from blueprint_llm.config.problems import Path, Report, hint, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

_SECTIONS = ("router_settings", "litellm_settings")
_NEAR = 0.8
_MAPPINGS = (
    "model_group_alias",
    "retry_policy",
    "model_group_retry_policy",
    "allowed_fails_policy",
    "provider_budget_config",
    "routing_strategy_args",
)
_LISTS = ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks")
_COUNTS = ("num_retries", "allowed_fails", "max_fallbacks")
_SECONDS = ("cooldown_time", "timeout", "stream_timeout", "retry_after")
_FLAGS = (
    "drop_params",
    "disable_cooldowns",
    "enable_pre_call_checks",
    "enable_tag_filtering",
    "tag_filtering_match_any",
)


class Settings:
    """The two sections of one file: LiteLLM's own for its Router, and its module's behind them."""

    def __init__(self, raw: Mapping[str, Any], report: Report) -> None:
        self.sections = {name: self._section(raw, name, report) for name in _SECTIONS}
        self._report = report

    @staticmethod
    def _section(raw: Mapping[str, Any], name: str, report: Report) -> dict[str, Any]:
        value = raw.get(name) or {}
        if isinstance(value, dict):
            return value
        report.problem((name,), f"must be a mapping, not {shown(value)}")
        return {}

    def find(self, key: str) -> tuple[Any, Path]:
        """The value that decides for `key`, and where it stands; empty lists and mappings do not count."""
        for name, section in self.sections.items():
            if (value := section.get(key)) not in (None, [], {}):
                return value, (name, key)
        return None, ("router_settings", key)

    def places(self) -> dict[str, Path]:
        """Where each setting that names groups stands."""
        return {key: self.find(key)[1] for key in (*_LISTS, "default_fallbacks", "model_group_alias")}

    def fields(self) -> dict[str, Any]:
        """What a Config takes from here; absent settings are left to its defaults."""
        found: dict[str, Any] = {key: self._fallbacks(key) for key in _LISTS}
        found |= {key: self._typed(key, dict, "a mapping") for key in _MAPPINGS}
        found |= {key: self._number(key, int) for key in _COUNTS}
        found |= {key: self._number(key, float) for key in _SECONDS}
        found |= {key: self._typed(key, bool, "true or false") for key in _FLAGS}
        found["tag_routing_prefix"] = self._typed("tag_routing_prefix", str, "a text")
        found |= {"default_fallbacks": self._names(), "routing_strategy": self._strategy()}
        if found["timeout"] is None:
            found["timeout"] = self._number("request_timeout", float)
        if not found["cooldown_time"]:  # LiteLLM: `cooldown_time or 5`
            found["cooldown_time"] = None
        return self._with_generic_fallbacks({key: value for key, value in found.items() if value is not None})

    @staticmethod
    def _with_generic_fallbacks(found: dict[str, Any]) -> dict[str, Any]:
        """LiteLLM's Router keeps `default_fallbacks` as the last of its `fallbacks`, under `*`."""
        if generic := found.get("default_fallbacks"):
            found["fallbacks"] = [*found.get("fallbacks", []), {"*": generic}]
        return found

    def _fallbacks(self, key: str) -> list[dict[str, list[Any]]] | None:
        value, path = self.find(key)
        if value is None:
            return None
        if not isinstance(value, list):
            self._wrong(path, value, "a list like [{group: [other]}]")
            return None
        return [
            self._fallback(item, (*path, index)) for index, item in enumerate(value) if self._is_pair(item, path, index)
        ]

    def _is_pair(self, item: Any, path: Path, index: int) -> bool:
        if isinstance(item, dict) and len(item) == 1:
            return True
        if isinstance(item, dict) and path[-1] == "context_window_fallbacks":
            self._report.doubt((*path, index), "LiteLLM expects exactly one group here")
            return bool(item)
        self._report.problem((*path, index), "must map exactly one group to its fallbacks, like {group: [other]}")
        return False

    def _fallback(self, item: dict[str, Any], path: Path) -> dict[str, list[Any]]:
        return {group: self._targets(targets, (*path, group)) for group, targets in item.items()}

    def _targets(self, value: Any, path: Path) -> list[Any]:
        if isinstance(value, list):
            return value
        if isinstance(value, str):
            self._report.doubt(path, f"LiteLLM reads this letter by letter: write [{value}]")
            return [value]
        self._report.doubt(path, f"should be a list of groups, not {shown(value)}; ignored")
        return []

    def _names(self) -> list[str] | None:
        value, path = self.find("default_fallbacks")
        names = [value] if isinstance(value, str) else value
        if names is None or (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            return names
        self._report.doubt(path, f"should be a list of groups, not {shown(value)}; ignored")
        return None

    def _strategy(self) -> str | None:
        value, path = self.find("routing_strategy")
        name = getattr(value, "value", value)  # the Router also takes its own enum
        if name is not None and name not in STRATEGIES:
            self._report.problem(path, f"unknown strategy {shown(name)}{hint(str(name), STRATEGIES)}")
        return name if isinstance(name, str) else None

    def _typed(self, key: str, kind: type, words: str) -> Any:
        value, path = self.find(key)
        if value is None or isinstance(value, kind):
            return value
        if hasattr(value, "model_dump"):  # a policy object, where a Router is built in Python
            return value.model_dump(exclude_none=True)
        self._report.doubt(path, f"should be {words}, not {shown(value)}; ignored")
        return None

    def _number(self, key: str, kind: type) -> Any:
        value, path = self.find(key)
        if value is None:
            return None
        try:
            number = _finite(kind(value))
        except (TypeError, ValueError, OverflowError):
            self._report.doubt(path, f"should be a number of at least 0, not {shown(value)}; ignored")
            return None
        if number < 0:
            self._report.doubt(path, f"should be a number of at least 0, not {shown(value)}")
        return number

    def _wrong(self, path: Path, value: Any, words: str) -> None:
        self._report.problem(path, f"must be {words}, not {shown(value)}")

    def report_keys(self) -> list[str]:
        """Doubt keys that LiteLLM does not know; the names of those it knows and this library has no use for."""
        router, module = (self.sections[name] for name in _SECTIONS)
        for key in router.keys() - ROUTER_USED - ROUTER_IGNORED:
            known = ROUTER_USED | ROUTER_IGNORED
            self._report.doubt(("router_settings", key), f"unknown key {shown(key)}{hint(key, known)}", key=True)
        for key in module.keys() - LITELLM_USED - LITELLM_IGNORED:
            if near := nearest(key, LITELLM_USED, cutoff=_NEAR):
                text = f"unknown key {shown(key)}, did you mean {shown(near)}?"
                self._report.doubt(("litellm_settings", key), text, key=True)
        unused = [f"router_settings.{key}" for key in router if key in ROUTER_IGNORED]
        return unused + [f"litellm_settings.{key}" for key in module if key not in LITELLM_USED]


def _finite(number: float) -> float:
    if not math.isfinite(number):
        raise ValueError
    return number
