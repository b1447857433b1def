"""`litellm_settings` of a configuration, set on LiteLLM's module as its proxy sets them, and put back."""

from __future__ import annotations

import importlib.util
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blueprint_llm.config.environment import from_environment
from blueprint_llm.config.sections import LIMITS, PROXY_SETTINGS
from blueprint_llm.errors import ConfigError
from blueprint_llm.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from blueprint_llm.config.model import Config

# How LiteLLM adds to its lists of callbacks; they are added to, whatever else is on them.
CALLBACKS = {
    "callbacks": "add_litellm_callback",
    "success_callback": "add_litellm_success_callback",
    "failure_callback": "add_litellm_failure_callback",
    "input_callback": "add_litellm_input_callback",
    "service_callback": "add_litellm_service_callback",
}
# Our own plugin in the file of a proxy: here its guard is there already.
OWN = "blueprint_llm.proxy."
_LOCK = threading.Lock()


def _litellm() -> Any:
    from blueprint_llm.adapters import litellm  # noqa: PLC0415 - a client without such settings has no need of it yet

    return litellm


class ModuleSettings:
    """The settings of one configuration, on LiteLLM's module while it is in use.

    LiteLLM has one module in a process: of two configurations in use, the one that was used last decides.
    """

    def __init__(self, config: Config | None = None) -> None:
        settings = config.litellm_settings if config else {}
        self._source = config.source if config else None
        self._settings = {name: value for name, value in settings.items() if name not in PROXY_SETTINGS | LIMITS}
        self._undo: list[Callable[[], None]] = []
        self.are_due = bool(self._settings)  # they are not set yet

    def apply(self) -> None:
        """Set them, once until they are put back. Raise ConfigError for one that LiteLLM cannot take."""
        with _LOCK:
            if not self.are_due:
                return
            for name, value in self._settings.items():
                try:
                    self._undo += self._set(name, _litellm().revealed(_resolved(value)))
                except Exception as error:  # noqa: BLE001 - LiteLLM, and what it imports, raise what they like
                    problem = redact(f"litellm_settings.{name}: {error}")
                    break
            else:
                self.are_due = False
                return
        self.restore()
        raise ConfigError(problem)

    def restore(self) -> None:
        """Put back what was there before; what somebody else has set since stays."""
        with _LOCK:
            while self._undo:
                self._undo.pop()()
            self.are_due = bool(self._settings)

    def _set(self, name: str, value: Any) -> Iterator[Callable[[], None]]:
        """Set one as LiteLLM's proxy does, and yield how to put it back."""
        from blueprint_llm.adapters.known import is_setting  # noqa: PLC0415 - as above

        litellm = _litellm().module()
        if name in CALLBACKS:
            for each in value if isinstance(value, list) else [value]:
                if not (isinstance(each, str) and each.startswith(OWN)):
                    yield from _add(name, self._loaded(each))
        elif name == "cache":
            params = _litellm().revealed(_resolved(self._settings.get("cache_params"))) or {}
            if value is True:
                yield _put(name, litellm.Cache(**{"type": "redis", **params}))
        elif name == "custom_provider_map":
            mapped = [{**each, "custom_handler": self._loaded(each["custom_handler"])} for each in value]
            yield _put(name, [*litellm.custom_provider_map, *mapped])
            litellm.utils.custom_llm_setup()
        elif is_setting(name):
            yield _put(name, value)
            if name == "request_timeout":
                yield _put("request_timeout_explicitly_set", True)

    def _loaded(self, named: Any) -> Any:
        """Return the object that `module.name` means, beside the file or anywhere; other names are LiteLLM's own."""
        if not isinstance(named, str) or "." not in named:
            return named
        place, _, name = named.rpartition(".")
        file = Path(self._source or "").parent.joinpath(*place.split(".")).with_suffix(".py")
        spec = importlib.util.spec_from_file_location(place, file) if self._source and file.is_file() else None
        if spec is None or spec.loader is None:
            return getattr(importlib.import_module(place), name)
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        return getattr(loaded, name)


# What configurations in use have set or added: several may have the same.
_SET: dict[str, list[tuple[object, Any]]] = {}
_ADDED: Counter[tuple[str, str | int]] = Counter()


def _add(name: str, callback: Any) -> Iterator[Callable[[], None]]:
    """Add a callback to one of LiteLLM's lists, unless the program has done so itself; its last user removes it."""
    manager = _litellm().module().logging_callback_manager
    key = name, callback if isinstance(callback, str) else id(callback)
    if not _ADDED[key] and callback in manager.get_all_callbacks():
        return
    getattr(manager, CALLBACKS[name])(callback)
    _ADDED[key] += 1

    def undo() -> None:
        _ADDED[key] -= 1
        if not _ADDED[key]:
            manager.remove_callback_from_all_lists(callback)

    yield undo


def _put(name: str, value: Any) -> Callable[[], None]:
    """Set an attribute of LiteLLM's module; return what puts back what others say, unless the program has set it."""
    held, mark = vars(_litellm().module()), object()
    said = _SET.setdefault(name, [(None, held[name])])
    said.append((mark, value))
    held[name] = value

    def undo() -> None:
        was_last = said[-1][0] is mark
        said[:] = [each for each in said if each[0] is not mark]
        if was_last and held.get(name) is value:
            held[name] = said[-1][1]
        if len(said) == 1:
            _SET.pop(name, None)

    return undo


def _resolved(value: Any) -> Any:
    """Return a setting with what it takes from the environment; None for what is not set."""
    if isinstance(value, dict):
        return {name: _resolved(item) for name, item in value.items()}
    return [_resolved(item) for item in value] if isinstance(value, list) else from_environment(value)
