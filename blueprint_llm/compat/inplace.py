"""LiteLLM's module with guarded functions: as a module object beside it, and in place.

Both look at LiteLLM's own namespace on each access and store nothing of ours there, so whatever other libraries and
tests patch, set or delete, in any order, LiteLLM is as it was once they and we have put it back.
"""

from __future__ import annotations

import functools
import threading
from contextlib import ExitStack
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from blueprint_llm.adapters import litellm as _litellm
from blueprint_llm.compat.guarding import CALLS, Guarding, guard_of, original, shared
from blueprint_llm.compat.router import Router

if TYPE_CHECKING:
    from blueprint_llm.engine.guarded import PolicyGuard

_LOCK = threading.RLock()
_installed: PolicyGuard | None = None
# LiteLLM's functions that ask through its module: those of ours ask through ours.
_CALLING = frozenset({"batch_completion", "batch_completion_models", "batch_completion_models_all_responses"})
# What others set through us, a mock or a wrapper around a guarded function: shown as it is, by the function's name.
_PATCHED: dict[str, Any] = {}


def _in_place(keywords: dict[str, Any]) -> PolicyGuard | None:
    """Return the guard of what is called in place.

    A call with `fallbacks` passes: LiteLLM asks each of its models through its own module, where each is guarded.
    """
    return None if keywords.get("fallbacks") else _installed


_BESIDE = Guarding(lambda keywords: shared() if _installed is None else _in_place(keywords))
_IN_PLACE = Guarding(_in_place)


def _shown(guarding: Guarding, name: str) -> Any:
    """Return LiteLLM's function `name`, guarded. Raises KeyError."""
    found = original(vars(_litellm.module())[name])
    return found if name in _PATCHED and _PATCHED[name] is found else guarding.around(name, found)


def _patch(name: str, value: Any) -> None:
    """Put `value` into LiteLLM's namespace; of a guarded function only what is guarded."""
    plain = original(value)
    vars(_litellm.module())[name] = plain
    if (getattr(plain, "__module__", None) or "").partition(".")[0] == "litellm":
        _PATCHED.pop(name, None)
    else:
        _PATCHED[name] = plain
    _leave_when_restored()


class Beside(ModuleType):
    """LiteLLM itself, with guarded functions and Router; every other name is LiteLLM's, to read, set and delete."""

    def __getattribute__(self, name: str) -> Any:
        if name in {"__class__", "__spec__", "__loader__"}:
            return super().__getattribute__(name)
        module = _litellm.module()
        if name == "__path__":  # its submodules are LiteLLM's: imported under this name they would be copies
            raise AttributeError(name)
        if name in CALLS and name in vars(module):
            return _shown(_BESIDE, name)
        found = getattr(module, name)
        if name in _CALLING and isinstance(found, FunctionType):
            return _over(found, litellm=self)
        if name == "anthropic":
            return _BESIDE_MESSAGES
        return Router if name == "Router" and found is Router.litellms() else found

    def __setattr__(self, name: str, value: Any) -> None:
        if name in CALLS:
            _patch(name, value)
        else:
            setattr(_litellm.module(), name, Router.litellms() if value is Router else value)

    def __delattr__(self, name: str) -> None:
        delattr(_litellm.module(), name)

    def __dir__(self) -> list[str]:
        return dir(_litellm.module())


def _over(function: FunctionType, **names: Any) -> Any:
    """Return a function of LiteLLM's that calls what it calls by these names of its module."""
    seen = {**function.__globals__, **names}
    copy = FunctionType(function.__code__, seen, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return functools.update_wrapper(copy, function)


class _Create:
    """A function for Anthropic's messages, which stand in a module of LiteLLM's of their own."""

    def __init__(self, name: str, operation: str) -> None:
        self._name, self._operation = name, operation

    def __get__(self, module: ModuleType | None, owner: type) -> Any:
        if module is None:
            return self
        if self._name not in _place(module):
            raise AttributeError(self._name)
        guarding = _BESIDE if module is _BESIDE_MESSAGES else _IN_PLACE
        return guarding.around(self._operation, original(_place(module)[self._name]))

    def __set__(self, module: ModuleType, value: Any) -> None:
        _place(module)[self._name] = original(value)

    def __delete__(self, module: ModuleType) -> None:
        del _place(module)[self._name]


def _place(module: ModuleType) -> dict[str, Any]:
    """Return LiteLLM's own namespace behind a module of `_Create`s."""
    return vars(_messages() if module is _BESIDE_MESSAGES else module)


class _Messages(ModuleType):
    """LiteLLM's module for Anthropic's messages, guarded: itself while installed, or what stands beside it."""

    acreate = _Create("acreate", "anthropic_messages")
    create = _Create("create", "anthropic_messages_handler")

    def __getattr__(self, name: str) -> Any:
        if self is not _BESIDE_MESSAGES:
            raise AttributeError(name)
        return self if name == "messages" else getattr(_messages(), name)


def _messages() -> ModuleType:
    module: ModuleType = _litellm.module().anthropic.messages
    return module


_BESIDE_MESSAGES = _Messages("anthropic")


class _InPlace(ModuleType):
    """The class of LiteLLM's module while it is guarded: its functions are descriptors over its own namespace."""


class _Function:
    """One calling function of LiteLLM's module."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, module: ModuleType | None, owner: type) -> Any:
        if module is None:
            return self
        try:
            return _shown(_IN_PLACE, self._name)
        except KeyError:
            raise AttributeError(self._name) from None

    def __set__(self, module: ModuleType, value: Any) -> None:
        _patch(self._name, value)

    def __delete__(self, module: ModuleType) -> None:
        if self._name not in vars(module):
            raise AttributeError(self._name)
        del vars(module)[self._name]
        _PATCHED.pop(self._name, None)


for _name in CALLS:
    setattr(_InPlace, _name, _Function(_name))


def install(config: Any = None) -> ExitStack:
    """Guard LiteLLM in place, for every library of this process that calls it through its module.

    Args:
        config: As `LLMClient` takes it; None: what `from_config(None)` finds, with the first call.

    Returns:
        A context: leaving it puts back what was before.
    """
    guard = shared() if config is None else guard_of(config)
    before = ExitStack()
    with _LOCK:
        before.callback(_put, _installed)
        _put(guard)
    return before


def uninstall() -> None:
    """Put LiteLLM back as it was; does nothing where it is not guarded."""
    _put(None)


def _put(guard: PolicyGuard | None) -> None:
    global _installed  # noqa: PLW0603 - one LiteLLM a process
    with _LOCK:
        if _installed is not None and _installed is not guard:
            _installed.runtime.settings.restore()
        _installed = guard
        if guard is not None:
            _litellm.module().__class__ = _InPlace
            _litellm.module().anthropic.__class__ = _messages().__class__ = _Messages
        else:
            _leave_when_restored()


def _leave_when_restored() -> None:
    """Give LiteLLM's module its own class back, unless something is patched that will yet be put back through ours."""
    module = _litellm.module()
    is_ours = type(module) is _InPlace
    if is_ours and _installed is None and not _PATCHED:
        module.__class__ = module.anthropic.__class__ = _messages().__class__ = ModuleType
