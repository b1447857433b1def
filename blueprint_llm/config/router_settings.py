"""Reads of `router_settings` and `litellm_settings` what this library decides by, in the shapes of LiteLLM's Router.

The sections themselves are kept as written. LiteLLM's proxy sets `litellm_settings` on LiteLLM's module, where the
Router looks when its own setting is missing.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from blueprint_llm.config.known_keys import LITELLM_IGNORED, LITELLM_USED, ROUTER_IGNORED, ROUTER_USED, STRATEGIES
from blueprint_llm.config.masking import shown
from blueprint_llm.config.problems import Path, Report, hint, nearest
from blueprint_llm.config.secrets import FALLBACKS

if TYPE_CHECKING:
    from collections.abc import Mapping

_SECTIONS = ("router_settings", "litellm_settings")
_NEAR = 0.8
# Of `litellm_settings`: our limits; and what LiteLLM reads of its module only, which is the program's to set.
LIMITS = frozenset({"max_budget", "budget_duration"})
MODULE_ONLY = frozenset({"modify_params"})
# A field of Config: the keys that say it, the first one first, and what its value must be.
_TYPED: dict[str, tuple[type, str]] = {
    "model_group_alias": (dict, "a mapping"),
    "enable_tag_filtering": (bool, "true or false"),
    "tag_filtering_match_any": (bool, "true or false"),
    "tag_routing_prefix": (str, "a text"),
}
# Kept as written for LiteLLM's Router, which says little of a wrong shape.
_MAPPINGS = (
    *("retry_policy", "model_group_retry_policy", "allowed_fails_policy"),
    *("provider_budget_config", "routing_strategy_args"),
)
_NUMBERS: dict[str, tuple[type, tuple[str, ...]]] = {
    **{key: (int, (key,)) for key in ("num_retries", "allowed_fails", "max_fallbacks")},
    **{key: (float, (key,)) for key in ("cooldown_time", "stream_timeout", "retry_after")},
    "timeout": (float, ("timeout", "request_timeout")),
}


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
        """Return the value that decides for `key`, and where it stands; empty lists and mappings do not count."""
        for name, section in self.sections.items():
            if (value := section.get(key)) not in (None, [], {}):
                return value, (name, key)
        return None, ("router_settings", key)

    def places(self) -> dict[str, Path]:
        """Return where each setting that names groups stands."""
        return {key: self.find(key)[1] for key in (*FALLBACKS, "default_fallbacks", "model_group_alias")}

    def fields(self) -> dict[str, Any]:
        """Return what a Config takes from here; absent settings are left to its defaults."""
        found: dict[str, Any] = {key: self._fallbacks(key) for key in FALLBACKS}
        found |= {key: self._typed(key, *wanted) for key, wanted in _TYPED.items()}
        for key in _MAPPINGS:
            self._typed(key, dict, "a mapping")
        for name, (kind, keys) in _NUMBERS.items():
            found[name] = next((number for key in keys if (number := self._number(key, kind)) is not None), None)
        found |= {"default_fallbacks": self._names(), "routing_strategy": self._strategy()}
        found["cooldown_time"] = found["cooldown_time"] or None  # LiteLLM: `cooldown_time or 5`
        if generic := found["default_fallbacks"]:  # LiteLLM's Router keeps them as its last fallbacks, under `*`
            found["fallbacks"] = [*(found["fallbacks"] or []), {"*": generic}]
        return {key: value for key, value in found.items() if value is not None}

    def _fallbacks(self, key: str) -> list[dict[str, list[Any]]] | None:
        value, path = self.find(key)
        if value is not None and not isinstance(value, list):
            self._report.problem(path, f"must be a list like [{{group: [other]}}], not {shown(value)}")
            return None
        pairs = [(item, (*path, index)) for index, item in enumerate(value or ()) if self._is_pair(item, path, index)]
        found = [
            {group: self._targets(targets, (*where, group)) for group, targets in item.items()} for item, where in pairs
        ]
        return found if value else None

    def _is_pair(self, item: Any, path: Path, index: int) -> bool:
        if isinstance(item, dict) and len(item) == 1:
            return True
        if isinstance(item, dict) and path[-1] == "context_window_fallbacks":
            self._report.doubt((*path, index), "LiteLLM expects exactly one group here")
            return bool(item)
        self._report.problem((*path, index), "must map exactly one group to its fallbacks, like {group: [other]}")
        return False

    def _targets(self, value: Any, path: Path) -> list[Any]:
        if isinstance(value, str):
            self._report.doubt(path, f"LiteLLM reads this letter by letter: write [{value}]")
            return [value]
        if not isinstance(value, list):
            self._report.doubt(path, f"should be a list of groups, not {shown(value)}; ignored")
            return []
        return value

    def _names(self) -> list[str] | None:
        value, path = self.find("default_fallbacks")
        names = [value] if isinstance(value, str) else value
        if names is None or (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            return names
        self._report.doubt(path, f"should be a list of groups, not {shown(value)}; ignored")
        return None

    def _strategy(self) -> str | None:
        value, path = self.find("routing_strategy")
        if value is not None and value not in STRATEGIES:
            self._report.problem(path, f"unknown strategy {shown(value)}{hint(str(value), STRATEGIES)}")
        return value if isinstance(value, str) else None

    def _typed(self, key: str, kind: type, words: str) -> Any:
        value, path = self.find(key)
        if value is None or isinstance(value, kind):
            return value
        self._report.doubt(path, f"should be {words}, not {shown(value)}; ignored")
        return None

    def _number(self, key: str, kind: type) -> Any:
        value, path = self.find(key)
        try:
            number = None if value is None else kind(value)
            if number is None or (math.isfinite(number) and number >= 0):
                return number
        except (TypeError, ValueError, OverflowError):
            number = None
        usable = number is not None and math.isfinite(number)
        self._report.doubt(path, f"should be a number of at least 0, not {shown(value)}{'' if usable else '; ignored'}")
        return number if usable else None

    def report_keys(self) -> list[str]:
        """Doubt keys that LiteLLM does not know; return those that it knows and that have no effect here.

        All of `router_settings` goes to LiteLLM's Router, and behind it what `litellm_settings` says to a Router.
        """
        router, module = (self.sections[name] for name in _SECTIONS)
        known = ROUTER_USED | ROUTER_IGNORED
        for key in router.keys() - known:
            self._report.doubt(("router_settings", key), f"unknown key {shown(key)}{hint(key, known)}", key=True)
        for key in module.keys() - LITELLM_USED - LITELLM_IGNORED:
            if near := nearest(key, LITELLM_USED, cutoff=_NEAR):
                text = f"unknown key {shown(key)}, did you mean {shown(near)}?"
                self._report.doubt(("litellm_settings", key), text, key=True)
        used = known | LITELLM_USED | LIMITS
        return [f"litellm_settings.{key}" for key in module if key not in used - MODULE_ONLY]
