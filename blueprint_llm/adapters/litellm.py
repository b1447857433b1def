"""The only module that knows LiteLLM: calls, streams and the embedded model's registration.

LiteLLM is imported on the first call (2-5 s, 2,600 modules). Its retries, cache and Router are off, and no global of
it is touched but `custom_provider_map`. A failure leaves as a fresh CallError (`exceptions`): LiteLLM's own holds the
request and its headers, so it is neither chained nor re-raised, and no frame of ours that raises holds a key.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import threading
from types import GeneratorType
from typing import TYPE_CHECKING, Any, Self

from blueprint_llm import redaction
from blueprint_llm.adapters import plain
from blueprint_llm.adapters.exceptions import call_error
from blueprint_llm.adapters.local.provider import custom_provider
from blueprint_llm.adapters.unheard import has_listeners, is_unheard, marked, uncounted
from blueprint_llm.engine.steps import END
from blueprint_llm.secret import Secret
from blueprint_llm.streaming.ending import is_lost

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator, Mapping

    from blueprint_llm.adapters.contract import Call, EndedBy

COST_MAP = "LITELLM_LOCAL_MODEL_COST_MAP"
# A local server wants no key, but OpenAI's client does not start without one.
NO_KEY = "none"
# To its blocking functions `num_retries=0` is unset, and `litellm.num_retries` counts; a policy wins over both.
SINGLE = {"num_retries": 0, "max_retries": 0, "retry_policy": {"BadRequestErrorRetries": 0}}
# Where LiteLLM keeps a provider's headers; the second place goes into every chunk of a stream.
_HIDDEN = ("_hidden_params", "_base_hidden_params")
_HEADERS = ("additional_headers", "headers")
_LOADING = threading.Lock()
_QUIET = threading.Event()


def module() -> Any:
    """LiteLLM, imported without its network fetch of the price map, with the embedded model registered."""
    with _LOADING:  # a cache alone lets threads that come at the same time all load
        return _loaded()


def is_loaded() -> bool:
    """Whether `module` has nothing left to do."""
    return bool(_loaded.cache_info().currsize)


@functools.cache
def _loaded() -> Any:
    had = COST_MAP in os.environ
    os.environ.setdefault(COST_MAP, "True")
    import litellm  # noqa: PLC0415 - on the first call only

    if not had:
        del os.environ[COST_MAP]
    litellm.custom_provider_map.append({"provider": "embedded", "custom_handler": custom_provider(litellm)})
    redaction.install_filter()
    if _QUIET.is_set():
        litellm.suppress_debug_info = True
    return litellm


def complete(call: Call) -> Any:
    """A whole answer: LiteLLM's `ModelResponse`. Raises CallError."""
    litellm = module()
    try:
        if not is_unheard(litellm, call):
            return _masked(litellm.completion(**_keywords(call)))
        with marked(litellm):
            return _masked(litellm.completion(**uncounted(litellm, "completion", _keywords(call))))
    except Exception as error:  # noqa: BLE001 - the provider boundary: anything may come out of LiteLLM
        failure = call_error(error, call)
    raise failure


async def acomplete(call: Call) -> Any:
    """A whole answer: LiteLLM's `ModelResponse`. Raises CallError."""
    litellm = module()
    try:
        if not is_unheard(litellm, call):
            return _masked(await litellm.acompletion(**_keywords(call)))
        with marked(litellm):
            return _masked(await _unheard(litellm, uncounted(litellm, "acompletion", _keywords(call))))
    except Exception as error:  # noqa: BLE001 - the provider boundary
        failure = call_error(error, call)
    raise failure


def _unheard(litellm: Any, keywords: Mapping[str, Any]) -> Awaitable[Any]:
    """The call on its way: past the thread where nothing needs it."""
    if plain.is_plain(litellm, keywords):
        return plain.acompletion(litellm, keywords)
    answer: Awaitable[Any] = litellm.acompletion(**keywords)
    return answer


def open_stream(call: Call) -> Stream:
    """Start a stream. Raises CallError."""
    litellm = module()
    try:
        return Stream(_masked(litellm.completion(**(_keywords(call) | _streaming(call)))), call, litellm)
    except Exception as error:  # noqa: BLE001 - the provider boundary
        failure = call_error(error, call)
    raise failure


async def aopen_stream(call: Call) -> Stream:
    """Start a stream. Raises CallError."""
    litellm = module()
    try:
        return Stream(_masked(await litellm.acompletion(**(_keywords(call) | _streaming(call)))), call, litellm)
    except Exception as error:  # noqa: BLE001 - the provider boundary
        failure = call_error(error, call)
    raise failure


def _masked(answer: Any) -> Any:
    """`answer` with the provider's headers masked, which LiteLLM keeps: a gateway may echo the key in one."""
    hidden = [getattr(answer, place, None) or {} for place in _HIDDEN]
    found = [(held, name) for held in hidden for name in _HEADERS if held.get(name)]
    headers = getattr(answer, "_response_headers", None) or {}
    if not redaction.are_clean(headers, *(held[name] for held, name in found)):
        for held, name in found:
            held[name] = redaction.redact_value(held[name])
        answer._response_headers = redaction.redact_value(headers)  # noqa: SLF001 - LiteLLM has no public name for it
    return answer


def _keywords(call: Call) -> dict[str, Any]:
    """LiteLLM's keywords. Never bind the result to a name: it holds the key."""
    wire = {"timeout": call.timeout_s, **call.params, "model": _model_id(call.model), "messages": call.messages}
    wire |= SINGLE | ({} if call.as_written else {"caching": False})
    if wire.get("tools"):
        wire["_skip_mcp_handler"] = True  # else a base install of LiteLLM fails for want of the mcp package
    credential = call.credential
    if credential is not None:
        wire |= {key: value for key, value in (credential.extra or {}).items() if key not in call.params}
        if credential.base_url:
            wire["api_base"] = credential.base_url
        if credential.api_key is not None:
            wire["api_key"] = credential.api_key
        elif credential.base_url and not call.as_written:
            wire.setdefault("api_key", NO_KEY)
    return {name: value if name == "messages" else _revealed(value) for name, value in wire.items()}


def _revealed(value: Any) -> Any:
    """`value` with every Secret in it opened: LiteLLM is who it is for."""
    match value:
        case Secret():
            return value.reveal()
        case dict():
            return {name: _revealed(item) for name, item in value.items()}
        case list():
            return [_revealed(item) for item in value]
        case _:
            return value


def _streaming(call: Call) -> dict[str, Any]:
    asked = call.params.get("stream_options") or {}
    return {"stream": True, "stream_options": {**asked, "include_usage": True}}


def _model_id(model: str) -> str:
    return model.replace("embedded:", "embedded/", 1) if model.startswith("embedded:") else model


class _Once:
    """One loop over a stream, however often it is begun anew.

    LiteLLM begins one for every chunk. OpenAI's `AsyncStream` answers with a new generator each time, which waits for a
    task of its own to be closed and holds its chunk until then: megabytes, where many chunks came at once.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Any:
        return self._stream.__anext__()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Stream:
    """An open LiteLLM stream for either driver.

    LiteLLM keeps every chunk of a stream (2.6 MB after 390) to rebuild the answer for its callbacks. Where none is
    set, only what its end and repetition checks read is kept: the first chunk, the last two, and those with usage.
    """

    _KEPT = 3

    def __init__(self, wrapper: Any, call: Call, litellm: Any) -> None:
        self._wrapper, self._call = wrapper, call
        self._source = getattr(wrapper, "completion_stream", None)  # LiteLLM forgets it when it is closed
        if inspect.isasyncgenfunction(getattr(type(self._source), "__aiter__", None)):
            wrapper.completion_stream = _Once(self._source)
        self._keep_all = has_listeners(litellm)
        self._last_usage: Any = None
        self._has_usage = False
        self._seen = 0
        self._closed = self._is_over = self._begun = False

    @property
    def hidden_params(self) -> dict[str, Any]:
        """What LiteLLM keeps beside the chunks: headers, the deployment, the cost."""
        return dict(getattr(self._wrapper, "_hidden_params", None) or {})

    def read(self) -> Any:
        """The next chunk, or END. Raises CallError."""
        if self._is_over:
            return END
        try:
            chunk = next(self._wrapper)
        except StopIteration:
            return END
        except Exception as error:  # noqa: BLE001 - the provider boundary
            failure = call_error(error, self._call, in_stream=True, begun=self._begun)
        else:
            self._note(chunk)
            return chunk
        raise failure

    async def aread(self) -> Any:
        """The next chunk, or END. Raises CallError."""
        if self._is_over:
            return END
        try:
            chunk = await anext(self._wrapper)
        except StopAsyncIteration:
            return END
        except Exception as error:  # noqa: BLE001 - the provider boundary
            failure = call_error(error, self._call, in_stream=True, begun=self._begun)
        else:
            self._note(chunk)
            return chunk
        raise failure

    def _note(self, chunk: Any) -> None:
        """Remember whether the provider sent usage; drop what LiteLLM kept."""
        self._begun = True
        self._last_usage = getattr(chunk, "usage", None) or self._last_usage
        kept = getattr(self._wrapper, "chunks", None)
        if kept is None:
            self._has_usage = self._last_usage is not None
            return
        self._has_usage = self._has_usage or any(map(_usage_of, kept[self._seen :]))
        if len(kept) > self._KEPT and not self._keep_all:
            kept[1:-2] = filter(_usage_of, kept[1:-2])
        self._seen = len(kept)
        # After an invented end LiteLLM would only add a usage that it counts itself, and its callbacks.
        self._is_over = self._wrapper.sent_last_chunk and self.ended_by() == "invented" and not self._keep_all

    def usage(self) -> Any:
        """The provider's usage, or None where it sent none: LiteLLM's own count is no evidence."""
        if self._has_usage:
            return self._last_usage
        return getattr(self._source, "last_usage", None)

    def ended_by(self) -> EndedBy:
        """Whether the provider said that it was done."""
        is_made_up = self._call.params.get("mock_response") is not None  # then no connection could be lost
        return "terminal" if is_made_up else end_of(self._wrapper)

    def close(self) -> None:
        """Close the connection; never raises."""
        if self._closed:
            return
        self._closed = True
        stream = getattr(self._wrapper, "completion_stream", None)
        for closable in (stream, _response_of(stream)):
            _quietly(getattr(closable, "close", None))

    async def aclose(self) -> None:
        """Close the connection; never raises."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(Exception):  # closing a connection that is already broken tells nobody anything
            await self._wrapper.aclose()


def end_of(wrapper: Any) -> EndedBy:
    """Whether the provider of LiteLLM's stream said that it was done.

    LiteLLM makes "stop" of a connection that just ends, and of every reason that it does not know.
    """
    marks = ("received_finish_reason", "intermittent_finish_reason")
    said = next(filter(None, (getattr(wrapper, mark, None) for mark in marks)), None)
    return "none" if is_lost(said) else "terminal" if said else "invented"


def _usage_of(chunk: Any) -> Any:
    return getattr(chunk, "usage", None)


def _quietly(function: Any) -> None:
    with contextlib.suppress(Exception):  # best effort on a connection that may be gone
        if function is not None:
            function()


def _response_of(stream: Any, depth: int = 4) -> Any:
    """The HTTP response under a provider's stream; providers wrap it in iterators and generators of their own."""
    if stream is None or depth == 0 or hasattr(stream, "extensions"):
        return stream
    for inner in _insides(stream):
        found = _response_of(inner, depth - 1)
        if found is not None and hasattr(found, "extensions"):
            return found
    return None


def _insides(stream: Any) -> Iterator[Any]:
    if isinstance(stream, GeneratorType):
        yield from (stream.gi_frame.f_locals.values() if stream.gi_frame else ())
        return
    for name in ("response", "_response", "streaming_response", "completion_stream", "response_iterator", "_iterator"):
        inner = getattr(stream, name, None)
        if inner is not None:
            yield inner


def quiet() -> None:
    """Keep LiteLLM's hints off the standard output, once it loads; for our own command line, which owns its process."""
    _QUIET.set()
    if is_loaded():
        module().suppress_debug_info = True


def model_response(body: Mapping[str, Any]) -> Any:
    """LiteLLM's `ModelResponse` from its JSON."""
    return module().ModelResponse(**body)


def as_chunk(whole: Any) -> Any:
    """A `ModelResponse` as the one `ModelResponseStream` of its stream."""
    module()
    from litellm.llms.base_llm.base_model_iterator import (  # noqa: PLC0415 - as above
        convert_model_response_to_streaming,
    )

    return convert_model_response_to_streaming(whole)


def count_tokens(model: str, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> int:
    """LiteLLM's count of a request's tokens, offline."""
    return int(module().token_counter(model=model, messages=messages, tools=tools, use_default_image_token_count=True))
