"""One function of LiteLLM with a guard around it, and the guards: the three ways in are built on these."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Mapping
from types import FunctionType, MappingProxyType
from typing import Any
from weakref import WeakKeyDictionary

from blueprint_llm.adapters import litellm as _litellm
from blueprint_llm.adapters.exceptions import without_secrets
from blueprint_llm.adapters.redirects import at_one_host, in_guarded_call
from blueprint_llm.compat.failures import both, is_litellms
from blueprint_llm.compat.streams import opened
from blueprint_llm.config.secrets import is_secret_key, protect
from blueprint_llm.engine.guarded import PolicyGuard, Send, Watched, build
from blueprint_llm.errors import BlueprintError
from blueprint_llm.sync import Caller

GuardFor = Callable[[dict[str, Any]], PolicyGuard | None]
BLOCKING = frozenset(
    {
        *("completion", "text_completion", "embedding", "responses", "rerank", "moderation", "search", "ocr"),
        *("image_generation", "image_edit", "image_variation", "transcription", "speech", "video_generation"),
        *("generate_content", "anthropic_messages_handler", "compact_responses", "decisions", "extraction"),
        *("systemone", "video_remix", "video_edit", "video_extension"),
    }
)
ASYNC = frozenset({*(f"a{name}" for name in BLOCKING), "anthropic_messages"})
# LiteLLM's functions that ask a provider for something which is paid for.
CALLS = BLOCKING | ASYNC
# The order of arguments where a function, awaited or not, shows none of its own (`*args`).
POSITIONAL = {
    "completion": ("model", "messages"),
    **dict.fromkeys(("text_completion", "image_generation"), ("prompt", "model")),
    "embedding": ("model", "input", "dimensions", "encoding_format", "timeout"),
    **dict.fromkeys(("responses", "moderation"), ("input", "model")),
    "speech": ("model", "input", "voice"),
    "transcription": ("model", "file"),
    "image_variation": ("image", "model"),
    "rerank": ("model", "query", "documents"),
}
_NO_DEFAULTS: Mapping[str, Any] = MappingProxyType({})
# Not an attribute: `functools.wraps` copies those to wrappers that others put around a guarded function.
_ORIGINALS: WeakKeyDictionary[Any, Callable[..., Any]] = WeakKeyDictionary()
_BUILDING = threading.Lock()


def guard_of(config: Any) -> PolicyGuard:
    """Return the guard of a configuration; a guard is its own. Raises ConfigError."""
    return config if isinstance(config, PolicyGuard) else build(config)


def shared() -> PolicyGuard:
    """Return the guard of what `from_config(None)` finds, made on first use. Raises ConfigError."""
    with _BUILDING:  # a cache alone lets threads that come at the same time all build
        return _built()


@functools.cache
def _built() -> PolicyGuard:
    return build(None)


def forget() -> None:
    """Let go of the shared guard; the next call finds its configuration anew."""
    with _BUILDING:
        _built.cache_clear()


class Guarding:
    """Guarded functions, made once for each of LiteLLM's.

    Args:
        guard: Looked up for each call by its keywords; None lets it pass as it is.
        masked: LiteLLM's exceptions leave without the request that hangs on them.
        defaults: Keywords that are the guard's to see where a call has none of its own.
        redirects: Whether the caller has other targets for a refused answer, by the call's keywords.
    """

    def __init__(
        self,
        guard: GuardFor,
        *,
        masked: bool = True,
        defaults: Mapping[str, Any] = _NO_DEFAULTS,
        redirects: Callable[[dict[str, Any]], bool] = lambda _: False,
    ) -> None:
        self._guard, self._masked, self._defaults, self._redirects = guard, masked, defaults, redirects
        self._made: dict[tuple[str, str], Any] = {}

    def around(self, name: str, function: Callable[..., Any]) -> Any:
        """Return LiteLLM's function `name` with a guard around each call.

        `function` is what stands there: LiteLLM's own, or what another library put in its place.
        """
        key = (name, getattr(function, "__name__", name))
        made = self._made.get(key)
        if made is None or original(made) is not function:
            kind = self._async if name in ASYNC else self._blocking
            made = self._made[key] = functools.wraps(function)(kind(name, function, _positional(name, function)))
            _ORIGINALS[made] = function
        return made

    def _async(self, name: str, function: Callable[..., Any], names: tuple[str, ...]) -> Callable[..., Any]:
        send = functools.partial(_send, function)

        async def call(*args: Any, **keywords: Any) -> Any:
            guard = None if in_guarded_call() else self._guard(keywords)
            if guard is None:
                answer = function(*args, **keywords)
                return await answer if inspect.isawaitable(answer) else answer
            work = self._run(guard, name, send, self._by_name(name, names, args, keywords))
            del args, keywords  # no frame that an exception shows holds a key
            return await work

        return call

    def _blocking(self, name: str, function: Callable[..., Any], names: tuple[str, ...]) -> Callable[..., Any]:
        def call(*args: Any, **keywords: Any) -> Any:
            guard = None if in_guarded_call() else self._guard(keywords)
            if guard is None or keywords.get(f"a{name}"):  # LiteLLM's async functions ask their blocking ones so
                return function(*args, **keywords)
            caller = Caller()
            send = functools.partial(caller.call, functools.partial(_send_blocking, function))
            work = self._run(guard, name, send, self._by_name(name, names, args, keywords))
            del args, keywords, send
            return caller.run(work)

        return call

    def _by_name(
        self, name: str, names: tuple[str, ...], args: tuple[Any, ...], keywords: dict[str, Any]
    ) -> dict[str, Any]:
        """Return all arguments by name, behind them the defaults. Raises TypeError as the function would."""
        if len(args) > len(names):
            raise TypeError(f"{name}() takes {len(names)} positional arguments but {len(args)} were given")
        for given in names[: len(args)]:
            if given in keywords:
                raise TypeError(f"{name}() got multiple values for argument {given!r}")
        return {**self._defaults, **dict(zip(names, args, strict=False)), **keywords}

    async def _run(self, guard: PolicyGuard, name: str, send: Send, keywords: dict[str, Any]) -> Any:
        """Return LiteLLM's answer. Raises LiteLLM's exceptions, and ours as `both`."""
        if self._masked:
            _register_keys(keywords)
        try:
            answer = await guard.call(name, send, keywords, redirects=self._redirects(keywords))
            if isinstance(answer, Watched):
                answer = opened(answer, masked=self._masked)
            return _litellm.without_keys(answer) if self._masked else answer
        except BlueprintError as error:
            failure = both(error)
        except Exception as error:
            if not self._masked or not is_litellms(error):
                raise
            failure = without_secrets(error)
        finally:
            del keywords, send  # no frame that an exception shows holds a key
        raise failure


def original(function: Any) -> Any:
    """Return what stands behind a guarded function, or `function` itself."""
    return _ORIGINALS.get(function, function) if isinstance(function, FunctionType) else function


def _register_keys(keywords: dict[str, Any]) -> None:
    """Mask the keys of a call in logs and exceptions from now on."""
    for name, value in keywords.items():
        if name in {"extra_headers", "headers"} or is_secret_key(name):
            protect(name, value)


async def _send(function: Callable[..., Any], **keywords: Any) -> Any:
    with at_one_host(is_guarded=True):
        answer = function(**keywords)
        return await answer if inspect.isawaitable(answer) else answer  # a double in its place may answer at once


def _send_blocking(function: Callable[..., Any], **keywords: Any) -> Any:
    with at_one_host(is_guarded=True):
        return function(**keywords)


def _positional(name: str, function: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of the arguments that may come by position."""
    try:
        parameters = [*inspect.signature(function).parameters.values()]
    except (TypeError, ValueError):
        parameters = []
    shown = tuple(each.name for each in parameters if each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return shown or POSITIONAL.get(name.removeprefix("a"), ())
