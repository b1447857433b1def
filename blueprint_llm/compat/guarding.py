"""One function of LiteLLM with a guard around it; the three ways in are built on `guarded`."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from types import FunctionType, MappingProxyType
from typing import Any
from weakref import WeakKeyDictionary

from blueprint_llm.adapters import litellm as _litellm
from blueprint_llm.adapters.exceptions import without_secrets
from blueprint_llm.adapters.redirects import at_one_host
from blueprint_llm.compat.blocking import Caller
from blueprint_llm.compat.failures import both, is_litellms
from blueprint_llm.compat.streams import opened
from blueprint_llm.config.secrets import is_secret_key, protect
from blueprint_llm.engine.guard import REDIRECTS, Guard, Send, Watched
from blueprint_llm.errors import BlueprintError

GuardFor = Callable[[dict[str, Any]], Guard | None]
BLOCKING = frozenset(
    [
        "completion",
        "text_completion",
        "embedding",
        "responses",
        "image_generation",
        "image_edit",
        "image_variation",
        "transcription",
        "speech",
        "rerank",
        "moderation",
        "search",
        "ocr",
        "video_generation",
        "generate_content",
    ]
)
HEADERS = ("extra_headers", "headers")
# The order of arguments where a function shows none of its own (`*args`).
POSITIONAL = {
    **dict.fromkeys(("completion", "acompletion"), ("model", "messages")),
    **dict.fromkeys(
        ("text_completion", "atext_completion", "image_generation", "aimage_generation"), ("prompt", "model")
    ),
    **dict.fromkeys(("embedding", "aembedding"), ("model", "input", "dimensions", "encoding_format", "timeout")),
    **dict.fromkeys(("responses", "aresponses", "moderation", "amoderation"), ("input", "model")),
    **dict.fromkeys(("speech", "aspeech"), ("model", "input", "voice")),
    **dict.fromkeys(("transcription", "atranscription"), ("model", "file")),
    **dict.fromkeys(("image_variation", "aimage_variation"), ("image", "model")),
    **dict.fromkeys(("rerank", "arerank"), ("model", "query", "documents")),
}
ASYNC = frozenset({*(f"a{name}" for name in BLOCKING), "anthropic_messages"})
# LiteLLM's functions that ask a provider for something which is paid for.
CALLS = BLOCKING | ASYNC


# Not an attribute: `functools.wraps` copies those to wrappers that others put around a guarded function.
_ORIGINALS: WeakKeyDictionary[Any, Callable[..., Any]] = WeakKeyDictionary()


class _Nesting:
    """Marks what LiteLLM does inside of a guarded call, until that call has ended.

    Its callbacks inherit the context and may outlive the call: what they ask for then is a call of its own.
    """

    is_open = True


_INSIDE: ContextVar[_Nesting | None] = ContextVar("blueprint_inside", default=None)


@contextlib.contextmanager
def _inside() -> Iterator[None]:
    nesting = _Nesting()
    token = _INSIDE.set(nesting)
    try:
        with at_one_host():
            yield
    finally:
        nesting.is_open = False
        _INSIDE.reset(token)


def _is_inside() -> bool:
    nesting = _INSIDE.get()
    return nesting is not None and nesting.is_open


def guarded(
    name: str,
    function: Callable[..., Any],
    guard: GuardFor,
    *,
    masked: bool = True,
    defaults: Mapping[str, Any] = MappingProxyType({}),
    redirects: Callable[[dict[str, Any]], bool] = lambda _: False,
) -> Any:
    """Return LiteLLM's function `name` with a guard around each call.

    Args:
        name: LiteLLM's name of the function.
        function: What stands there: LiteLLM's own, or what another library put in its place.
        guard: Looked up for each call by its keywords; None lets it pass as it is.
        masked: LiteLLM's exceptions leave without the request that hangs on them.
        defaults: Keywords that are the guard's to see where a call has none of its own.
        redirects: Whether the caller has other targets for a refused answer, by the call's keywords.
    """
    names = _positional(name, function)
    wrap = functools.wraps(function)
    if name in ASYNC:

        @wrap
        async def call(*args: Any, **keywords: Any) -> Any:
            chosen = None if _is_inside() else guard(keywords)
            if chosen is None:
                return await _awaited(function(*args, **keywords))
            attempt = _Attempt(chosen, name, masked=masked, redirects=redirects(keywords))
            work = attempt.run(
                functools.partial(_send, function), {**defaults, **_by_name(name, names, args, keywords)}
            )
            del args, keywords  # no frame that an exception shows holds a key
            return await work

    else:

        @wrap
        def call(*args: Any, **keywords: Any) -> Any:
            chosen = None if _is_inside() else guard(keywords)
            if chosen is None or keywords.get(f"a{name}"):  # LiteLLM's async functions ask their blocking ones so
                return function(*args, **keywords)
            caller, attempt = Caller(), _Attempt(chosen, name, masked=masked, redirects=redirects(keywords))
            send = functools.partial(caller.call, functools.partial(_send_blocking, function))
            work = attempt.run(send, {**defaults, **_by_name(name, names, args, keywords)})
            del args, keywords, send
            return caller.run(work)

    _ORIGINALS[call] = function
    return call


def original(function: Any) -> Any:
    """Return what `guarded` was given for `function`, or `function` itself."""
    return _ORIGINALS.get(function, function) if isinstance(function, FunctionType) else function


class _Attempt:
    """One guarded call.

    Args:
        guard: Whose limits and judgement apply.
        name: LiteLLM's name of the function.
        masked: LiteLLM's exceptions leave without the request that hangs on them.
        redirects: The caller has other targets for a refused answer.
    """

    def __init__(self, guard: Guard, name: str, *, masked: bool, redirects: bool) -> None:
        self._guard, self._name, self._masked, self._redirects = guard, name, masked, redirects

    async def run(self, send: Send, keywords: dict[str, Any]) -> Any:
        """Return LiteLLM's answer. Raises LiteLLM's exceptions, and ours as `both`."""
        if self._masked:
            _register_keys(keywords)
        token = REDIRECTS.set(self._redirects)
        try:
            answer = await self._guard.call(self._name, send, keywords)
            return self._shown(answer)
        except BlueprintError as error:
            failure = both(error)
        except Exception as error:
            if not self._masked or not is_litellms(error):
                raise
            failure = without_secrets(error)
        finally:
            REDIRECTS.reset(token)
            del keywords, send  # no frame that an exception shows holds a key
        raise failure

    def _shown(self, answer: Any) -> Any:
        found = opened(answer, masked=self._masked) if isinstance(answer, Watched) else answer
        return _litellm.without_keys(found) if self._masked else found


def _register_keys(keywords: dict[str, Any]) -> None:
    """Mask the keys of a call in logs and exceptions from now on."""
    for name, value in keywords.items():
        if name in HEADERS or is_secret_key(name):
            protect(name, value)


async def _send(function: Callable[..., Any], **keywords: Any) -> Any:
    with _inside():
        return await _awaited(function(**keywords))


def _send_blocking(function: Callable[..., Any], **keywords: Any) -> Any:
    with _inside():
        return function(**keywords)


async def _awaited(answer: Any) -> Any:
    """Return an answer, or what comes of it: a double in a function's place may answer at once."""
    return await answer if inspect.isawaitable(answer) else answer


def _by_name(name: str, names: tuple[str, ...], args: tuple[Any, ...], keywords: dict[str, Any]) -> dict[str, Any]:
    """Return all arguments by name. Raises TypeError as the function would."""
    if len(args) > len(names):
        raise TypeError(f"{name}() takes {len(names)} positional arguments but {len(args)} were given")
    for given in names[: len(args)]:
        if given in keywords:
            raise TypeError(f"{name}() got multiple values for argument {given!r}")
    return {**dict(zip(names, args, strict=False)), **keywords}


def _positional(name: str, function: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of the arguments that may come by position."""
    try:
        parameters = [*inspect.signature(function).parameters.values()]
    except (TypeError, ValueError):
        parameters = []
    shown = tuple(each.name for each in parameters if each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return shown or POSITIONAL.get(name, ())
