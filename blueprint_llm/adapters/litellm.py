"""The only module that knows LiteLLM: calls, streams, costs and the embedded model's registration.

LiteLLM is imported on the first call (2-5 s, 2,600 modules). Its retries, cache and Router are off, and no global of
it is touched but `custom_provider_map`. A failure leaves as a fresh CallError (`exceptions`): LiteLLM's own holds the
request and its headers, so it is neither chained nor re-raised, and no frame of ours that raises holds a key.

`PRIVATE` lists every name used here that LiteLLM does not document.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import itertools
import os
import tempfile
import threading
from typing import TYPE_CHECKING, Any, Self

from blueprint_llm import redaction, sync
from blueprint_llm.adapters.exceptions import call_error
from blueprint_llm.adapters.local.provider import custom_provider
from blueprint_llm.adapters.merge import PASSED_ON, Merger, as_openrouter_wants, in_one_piece, usage_of
from blueprint_llm.adapters.redirects import at_one_host, watch
from blueprint_llm.config.providers import is_loopback
from blueprint_llm.secret import Secret
from blueprint_llm.streaming.chunks import fields, sequence
from blueprint_llm.streaming.verdict import end_of, is_lost

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from blueprint_llm.adapters.contract import Call, EndedBy

COST_MAP = "LITELLM_LOCAL_MODEL_COST_MAP"
# A local server wants no key, but OpenAI's client does not start without one.
NO_KEY = "none"
# `num_retries=0` is unset to LiteLLM, and `litellm.num_retries` counts; a policy wins over both.
SINGLE = {"num_retries": 0, "max_retries": 0, "retry_policy": {"BadRequestErrorRetries": 0}}
# LiteLLM's private names, and what is lost where a release is without one. Each has a test in test_litellm_contract.
PRIVATE = {
    "CustomStreamWrapper.received_finish_reason": "a stream that just ends passes for one that its provider ended",
    "CustomStreamWrapper.intermittent_finish_reason": "an answer whose reason came before its last chunk counts as cut",
    "CustomStreamWrapper.make_call": "a stream of Gemini's that just ends passes for one that it ended; its redirects "
    "to other hosts are followed",
    "CustomStreamWrapper.chunks": "tokens that LiteLLM counts pass for the provider's; memory grows with every chunk",
    "CustomStreamWrapper.completion_stream": "every chunk leaves a generator behind, which holds it for a while",
    "CustomStreamWrapper.completion_stream.chunk_parser": "what xAI, DeepSeek and others send around the choices of a "
    "stream is lost, and every stream of Cohere's passes for one that broke",
    "CustomStreamWrapper.completion_stream.streaming_response": "a stream of Cohere's that is left does not hang up",
    "CustomStreamWrapper._base_hidden_params": "a key that a gateway echoes in a header stands in a chunk's parameters",
    "ModelResponse._response_headers": "a key that a gateway echoes in a header stands in the answer",
    "acompletion(_skip_mcp_handler=)": "a call with tools fails where the package mcp is not installed",
    "Router.acompletion(_excluded_deployment_ids=)": "a group one of whose deployments is full may refuse a call",
}
# OpenAI's, which LiteLLM makes of every other.
FINISH_REASONS = frozenset({"stop", "length", "tool_calls", "function_call", "content_filter"})
# What LiteLLM's parsers read around the choices.
_KNOWN_AROUND = frozenset({"id", "object", "created", "model", "choices", "usage"})
# Where LiteLLM keeps a provider's headers; the second place goes into every chunk of a stream.
_HIDDEN = ("_hidden_params", "_base_hidden_params")
_HEADERS = ("additional_headers", "headers")
# Their models run on the user's own machine. LiteLLM says 0, too, but asks Ollama's port first.
FREE = frozenset({"embedded", "ollama", "ollama_chat"})
# So many chunks LiteLLM may keep more before they are joined.
COMPACT_EVERY = 64
_LOADING = threading.Lock()
_QUIET = threading.Event()


def module() -> Any:
    """Return LiteLLM, imported without its network fetch of the price map, with the embedded model registered."""
    with _LOADING:  # a cache alone lets threads that come at the same time all load
        return _loaded()


def is_loaded() -> bool:
    """Return True if `module` has nothing left to do."""
    return bool(_loaded.cache_info().currsize)


@functools.cache
def _loaded() -> Any:
    had = COST_MAP in os.environ
    os.environ.setdefault(COST_MAP, "True")
    # LiteLLM asks for a temporary folder, to write there later: it shall load where nothing can be written at all, too.
    with contextlib.suppress(FileNotFoundError):
        tempfile.gettempdir()
    found, tempfile.tempdir = tempfile.tempdir, tempfile.tempdir or os.curdir
    try:
        import httpx  # noqa: PLC0415 - LiteLLM's, on the first call only
        import litellm  # noqa: PLC0415 - on the first call only
    finally:
        tempfile.tempdir = found
    if not had:
        del os.environ[COST_MAP]
    litellm.custom_provider_map.append({"provider": "embedded", "custom_handler": custom_provider(litellm)})
    redaction.install_filter()
    watch(httpx)
    # LiteLLM has its clients closed at the end of the program, from the first look at a lazy name of it on. A stream
    # through one would break: it must have ended before.
    getattr(litellm, "completion_cost")  # noqa: B009 - a look
    sync.end_first()
    if _QUIET.is_set():
        litellm.suppress_debug_info = True
    return litellm


async def complete(call: Call) -> Any:
    """Return a whole answer: LiteLLM's `ModelResponse`. Raise CallError."""
    return await _ask(call)


async def open_stream(call: Call) -> Stream:
    """Start a stream. Raise CallError."""
    options = {**(call.params.get("stream_options") or {}), "include_usage": True}
    return Stream(await _ask(call, stream=True, stream_options=options), call)


async def _ask(call: Call, **streaming: Any) -> Any:
    """Return what LiteLLM returns, without keys. Raise CallError."""
    try:
        litellm = module() if is_loaded() else await asyncio.to_thread(module)
        with at_one_host():
            if _is_blocking(litellm, call, "astreaming" if streaming else "acompletion"):  # LiteLLM reads it in threads
                answer = await asyncio.to_thread(lambda: litellm.completion(**(_keywords(call) | streaming)))
            else:
                answer = await litellm.acompletion(**(_keywords(call) | streaming))
        return without_keys(answer)
    except Exception as error:  # noqa: BLE001 - the provider boundary: anything may come out of LiteLLM
        failure = call_error(error, call)
    raise failure


def _is_blocking(litellm: Any, call: Call, method: str) -> bool:
    """Return True if the call is for a custom provider of the program that only has the blocking method."""
    provider = call.params.get("custom_llm_provider") or _model_id(call.model).partition("/")[0]
    handlers = [each["custom_handler"] for each in litellm.custom_provider_map if each["provider"] == provider]
    return bool(handlers) and getattr(type(handlers[0]), method, None) is getattr(litellm.CustomLLM, method)


def without_keys(answer: Any) -> Any:
    """Return `answer` with the provider's headers masked, which LiteLLM keeps: a gateway may echo the key in one."""
    hidden = [getattr(answer, place, None) or {} for place in _HIDDEN]
    found = [(held, name) for held in hidden for name in _HEADERS if held.get(name)]
    headers = getattr(answer, "_response_headers", None) or {}
    if not redaction.are_clean(headers, *(held[name] for held, name in found)):
        for held, name in found:
            held[name] = redaction.redact_value(held[name])
        answer._response_headers = redaction.redact_value(headers)  # noqa: SLF001 - LiteLLM has no public name for it
    return answer


def _keywords(call: Call) -> dict[str, Any]:
    """Return LiteLLM's keywords. Never bind the result to a name: it holds the key."""
    model = _model_id(call.model)
    messages = as_openrouter_wants(call.messages, model)
    wire = {"timeout": call.timeout_s, **call.params, "model": model, "messages": messages}
    wire |= {**SINGLE, "caching": False}
    if wire.get("tools"):
        wire["_skip_mcp_handler"] = True  # else a base install of LiteLLM fails for want of the mcp package
    credential = call.credential
    if credential is not None:
        wire |= {key: value for key, value in (credential.extra or {}).items() if key not in call.params}
        if credential.base_url:
            wire["api_base"] = credential.base_url
        if credential.api_key is not None:
            wire["api_key"] = credential.api_key
        elif is_loopback(credential.base_url):
            wire.setdefault("api_key", NO_KEY)
    return {name: value if name == "messages" else revealed(value) for name, value in wire.items()}


def revealed(value: Any) -> Any:
    """`value` with every Secret in it opened: LiteLLM is who it is for."""
    match value:
        case Secret():
            return value.reveal()
        case dict():
            return {name: revealed(item) for name, item in value.items()}
        case list():
            return [revealed(item) for item in value]
        case _:
            return value


def _model_id(model: str) -> str:
    return model.replace("embedded:", "embedded/", 1) if model.startswith("embedded:") else model


class _Tap:
    """The stream of an OpenAI-like provider on its way to LiteLLM, which does not pass on all of it.

    A piece without text or calls is dropped: a refusal, the signature of a thought, what nobody has invented yet. Here
    such fields are kept; so are ends that it calls "stop" for want of a word, as it keeps those of whole answers.

    LiteLLM begins a loop over its source for every chunk, to which OpenAI's `AsyncStream` answers with a new generator
    that holds its chunk until it is closed; this one answers with itself.
    """

    def __init__(self, stream: Any, prefix: str = "") -> None:
        self._stream, self._prefix, self.merger = stream, prefix, Merger()
        self._chunks: Any = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        self._chunks = self._chunks or iter(self._stream)
        return self._hear(next(self._chunks))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        if self._chunks is None:
            begins_anew = inspect.isasyncgenfunction(type(self._stream).__aiter__)
            self._chunks = self._stream if begins_anew else aiter(self._stream)
        return self._hear(await self._chunks.__anext__())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def parse(self, parse: Any, chunk: Any) -> Any:
        """Hear a chunk of LiteLLM's own client, of which its parser leaves nothing but what it knows."""
        if isinstance(chunk, dict):
            self._hear(chunk)
            self.merger.add({name: value for name, value in chunk.items() if name not in _KNOWN_AROUND})
        return parse(chunk)

    def _hear(self, chunk: Any) -> Any:
        said = fields(chunk)
        for choice in map(fields, sequence(said.get("choices"))):
            place = {"index": choice.get("index")}
            if extra := _not_passed_on(choice.get("delta")):
                self.merger.add({"choices": [{**place, "delta": extra}]})
            if (reason := choice.get("finish_reason")) and reason not in FINISH_REASONS:
                native = {"provider_specific_fields": {"native_finish_reason": reason}}
                self.merger.add({"choices": [{**place, "delta": {}, **native}]})
        if model := said.get("model"):
            self.merger.add({"model": self._prefix + model})  # LiteLLM's chunks name the one that was asked for
        if tier := said.get("service_tier"):
            self.merger.add({"service_tier": tier})  # it may come with the usage, of which LiteLLM takes nothing else
        return chunk


def _not_passed_on(delta: Any) -> dict[str, Any]:
    """Return the fields of a delta that LiteLLM may drop."""
    if not isinstance(delta, dict):
        if delta is None or delta.model_fields_set <= PASSED_ON >= (delta.model_extra or {}).keys():
            return {}
        delta = delta.model_dump()
    return {name: value for name, value in delta.items() if name not in PASSED_ON}


class _GeminiEnd:
    """What begins a stream of Gemini's, and then watches for its end: to LiteLLM each of its chunks says "stop"."""

    def __init__(self, begin: Any) -> None:
        self._begin = begin
        self.is_watching = False
        self.reason: str | None = None

    def __call__(self, **keywords: Any) -> Any:
        """Begin the stream, awaited or not: the request goes out only now."""
        with at_one_host():
            stream = self._begin(**keywords)
        return self._later(stream) if inspect.isawaitable(stream) else self._watched(stream)

    async def _later(self, stream: Awaitable[Any]) -> Any:
        with at_one_host():
            return self._watched(await stream)

    def _watched(self, stream: Any) -> Any:
        parse = getattr(stream, "chunk_parser", None)
        if parse is not None:
            self.is_watching = True
            stream.chunk_parser = functools.partial(self._parse, parse)
        return stream

    def _parse(self, parse: Any, chunk: Any) -> Any:
        for candidate in chunk.get("candidates") or [
            {"finishReason": (chunk.get("promptFeedback") or {}).get("blockReason")}
        ]:
            self.reason = str(candidate.get("finishReason") or self.reason or "").lower() or None
        return parse(chunk)


def _is_openai_like(kind: type) -> bool:
    """Return True for the classes of OpenAI's and LiteLLM's sources whose chunks are in OpenAI's format."""
    name, library = kind.__name__, kind.__module__.partition(".")[0]
    is_named = name in {"AsyncStream", "Stream"} or name.endswith("ChatCompletionStreamingHandler")
    return is_named and library in {"openai", "litellm"}


def _prefix_of(model: str) -> str:
    """Return what LiteLLM writes before the model's name in a whole answer that came through OpenAI's client."""
    provider, slash, _ = model.partition("/")
    is_named = bool(slash) and provider in module().provider_list and provider not in {"openai", "azure"}
    return f"{provider}/" if is_named else ""


def _parse_cohere(parse: Any, chunk: Any) -> Any:
    """Parse an event of Cohere's: LiteLLM looks for the end and its usage where Cohere does not send them."""
    is_end = isinstance(chunk, dict) and chunk.get("type") == "message-end"
    return parse({"event": "message-end", "data": chunk, **chunk} if is_end else chunk)


class Heard:
    """What is heard of one stream of a model beside LiteLLM's chunks; made before anything is read of it."""

    def __init__(self, wrapper: Any, model: str) -> None:
        self._wrapper = wrapper
        self._tap: _Tap | None = None
        if getattr(wrapper, "make_call", None) is not None:
            wrapper.make_call = _GeminiEnd(wrapper.make_call)
        source: Any = getattr(wrapper, "completion_stream", None)
        parse = getattr(source, "chunk_parser", None)
        if parse is not None and type(source).__name__ == "CohereV2ModelResponseIterator":
            source.chunk_parser = functools.partial(_parse_cohere, parse)
        elif parse is not None and any(map(_is_openai_like, type(source).__mro__)):
            self._tap = _Tap(source)
            source.chunk_parser = functools.partial(self._tap.parse, parse)
        elif any(map(_is_openai_like, type(source).__mro__)):
            wrapper.completion_stream = self._tap = _Tap(source, _prefix_of(model))

    def ended_by(self) -> EndedBy:
        """Return whether the provider said that it was done.

        LiteLLM makes "stop" of a connection that just ends, and of every reason that it does not know.
        """
        begin = getattr(self._wrapper, "make_call", None)
        marks = ("received_finish_reason", "intermittent_finish_reason")
        if isinstance(begin, _GeminiEnd) and begin.is_watching:
            said = begin.reason
        elif any(hasattr(self._wrapper, mark) for mark in marks):
            said = next(filter(None, (getattr(self._wrapper, mark, None) for mark in marks)), None)
        else:
            return "terminal"
        # The tap hands on the reason itself, with which a limit that LiteLLM does not know is one.
        is_known = self._tap is not None and end_of(said) == "cut"
        return "none" if is_lost(said) and not is_known else "terminal" if said else "invented"

    def aside(self) -> dict[str, Any]:
        """Return what LiteLLM passes on in part only, merged, in the shape of an answer."""
        return {} if self._tap is None else self._tap.merger.whole()

    def as_whole(self, merged: Mapping[str, Any]) -> dict[str, Any]:
        """Return the merged chunks as LiteLLM has an answer that came in one piece, nothing lost on the way."""
        if self._tap is not None:
            litellm = module()
            known = (litellm.Message, litellm.Choices)
            return in_one_piece(merged, self.aside(), *(frozenset(each.model_fields) for each in known))
        for choice in merged["choices"]:
            if choice["message"].get("tool_calls") and not choice["message"]["content"]:
                choice["message"]["content"] = None  # LiteLLM's filler; a call alone has no text
        return dict(merged)


class Stream:
    """An open stream of LiteLLM's: iterate for its chunks, then ask what proves the end.

    LiteLLM keeps every chunk of a stream (2.6 MB after 390) and rebuilds the answer from them at its end, for its
    callbacks and for the usage that it hands out last. `_compact` keeps that answer the same in less memory.
    """

    def __init__(self, wrapper: Any, call: Call) -> None:
        self._wrapper, self._call = wrapper, call
        self._heard = Heard(wrapper, call.model)
        source = getattr(wrapper, "completion_stream", None)
        self._embedded = source if hasattr(type(source), "last_usage") else None  # LiteLLM does not read its usage
        self._said: dict[str, Any] = {}  # the provider's usage
        self._counted: Any = None  # LiteLLM's
        self._seen, self._compact_at = 0, COMPACT_EVERY
        self._closed = self._is_over = self._begun = False

    @property
    def hidden_params(self) -> dict[str, Any]:
        """What LiteLLM keeps beside the chunks: headers, the deployment, the cost."""
        return dict(getattr(self._wrapper, "_hidden_params", None) or {})

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        """Return the next chunk. Raise CallError if the stream breaks."""
        if self._is_over or self._closed:
            raise StopAsyncIteration
        try:
            chunk = await self._wrapper.__anext__()
        except StopAsyncIteration:
            self._is_over = True
            raise
        except Exception as error:  # noqa: BLE001 - the provider boundary
            failure = call_error(error, self._call, in_stream=True, begun=self._begun)
        else:
            self._note(chunk)
            return chunk
        raise failure

    def _note(self, chunk: Any) -> None:
        """Remember what usage the provider sent; let go of what LiteLLM kept."""
        self._begun = True
        self._counted = getattr(chunk, "usage", None) or self._counted
        kept = getattr(self._wrapper, "chunks", None)
        if kept is None:
            kept = [chunk]
            self._seen = 0
        for each in kept[self._seen :]:
            if usage := getattr(each, "usage", None):
                self._said |= usage.model_dump(exclude_none=True)
        if len(kept) >= self._compact_at:
            _compact(kept)
            self._compact_at = len(kept) + COMPACT_EVERY
        self._seen = len(kept)
        # After an end that it made up, LiteLLM would only count tokens and tell its callbacks of an answer.
        self._is_over = self.ended_by() == "invented" and any(choice.finish_reason for choice in chunk.choices)

    def usage(self) -> Any:
        """Return the provider's usage, or None where it sent none: LiteLLM's own count is no evidence.

        What Anthropic says when a stream begins is no usage of an answer that broke off.
        """
        said = self._usage()
        return module().Usage(**said) if said else None

    def _usage(self) -> dict[str, Any]:
        if self.ended_by() == "invented":
            return {}
        if not self._said:
            apart = self._embedded and self._embedded.last_usage
            return dict(apart.model_dump(exclude_none=True)) if apart else {}
        return usage_of(self._said, {} if self._counted is None else self._counted.model_dump(exclude_none=True))

    def as_whole(self, merged: Mapping[str, Any]) -> dict[str, Any]:
        """Return the merged chunks as LiteLLM has an answer that came in one piece, nothing lost on the way."""
        usage = self._usage()
        return self._heard.as_whole({**merged, **({"usage": usage} if usage else {})})

    def ended_by(self) -> EndedBy:
        """Return whether the provider said that it was done."""
        is_made_up = self._call.params.get("mock_response") is not None  # then no connection could be lost
        return "terminal" if is_made_up else self._heard.ended_by()

    async def aclose(self) -> None:
        """Close the connection. Never raise."""
        if self._closed:
            return
        self._closed = True
        source: Any = getattr(self._wrapper, "completion_stream", None)
        with contextlib.suppress(Exception):  # closing a connection that is already broken tells nobody anything
            await self._wrapper.aclose()
            if not hasattr(source, "aclose"):  # LiteLLM's own clients of a few providers only hold its lines
                await source.streaming_response.aclose()


def _compact(kept: list[Any]) -> None:
    """Replace chunks that LiteLLM keeps by one with the same text, so that it rebuilds the same answer.

    Its check for repetition looks at the last two, and the first one names the answer.
    """
    middle: list[Any] = []
    for place, run in itertools.groupby(kept[1:-2], _place_of_plain):
        chunks = list(run)
        middle += chunks if place is None else [_joined(chunks)]
    kept[1:-2] = middle


def _place_of_plain(chunk: Any) -> int | None:
    """Return the index of the choice of a chunk that has only text, of one choice; None for any other.

    LiteLLM builds its answer of the fields that it knows: others are merged from the chunks as they pass.
    """
    if len(chunk.choices) != 1 or getattr(chunk, "usage", None) is not None:
        return None
    choice = chunk.choices[0]
    said = {name for name, value in choice.delta if value is not None and (name in PASSED_ON or name == "refusal")}
    more = {name for name, value in choice if value is not None} - {"index", "delta"}
    return None if more or not said <= {"content", "reasoning_content", "role"} else choice.index


def _joined(run: list[Any]) -> Any:
    """Return one chunk with the text of them all; those that were handed out stay as they are."""
    last = run[-1].choices[0]
    deltas = [chunk.choices[0].delta for chunk in run]
    texts = {name: [getattr(delta, name, None) for delta in deltas] for name in ("content", "reasoning_content")}
    merged = {name: "".join(filter(None, parts)) for name, parts in texts.items() if any(parts)}
    delta = type(last.delta)(**merged, role=getattr(deltas[0], "role", None))
    return run[-1].model_copy(update={"choices": [last.model_copy(update={"delta": delta})]})


def cost_of(answer: Any, *, model: str, params: Mapping[str, Any] | None = None) -> float | None:
    """Return what LiteLLM says that an answer cost, in USD, or None where it knows no price.

    Args:
        answer: LiteLLM's `ModelResponse`, as it came or merged from a stream; or its JSON.
        model: The LiteLLM model id that was sent.
        params: The call's LiteLLM keywords: a tier among them counts where the answer names none.
    """
    litellm = module()
    answer = model_response(answer) if isinstance(answer, dict) else answer
    usage = getattr(answer, "usage", None)
    prefix, _, rest = _model_id(model).partition("/")
    is_named = prefix in litellm.provider_list or prefix == "embedded"
    provider, name = (prefix, rest) if is_named else (None, model)  # LiteLLM knows whose a bare name is
    stated = getattr(usage, "cost", None)
    if usage is None or not (usage.total_tokens or stated):
        return None
    if provider in FREE and stated is None:
        return 0.0
    try:
        cost = (getattr(answer, "_hidden_params", None) or {}).get("response_cost") or litellm.completion_cost(
            completion_response=answer, model=name, custom_llm_provider=provider, optional_params=dict(params or {})
        )
    except Exception:  # noqa: BLE001 - it raises what it likes for a model that it has no price of
        return None
    names = {model, name, f"{provider}/{name}", answer.model, f"{provider}/{answer.model}"}
    return float(cost) if cost or stated is not None or _is_free(litellm, names) else None


def _is_free(litellm: Any, names: set[str]) -> bool:
    """Return True if LiteLLM's map says that a model costs nothing; where it says nothing, LiteLLM counts 0, too."""
    facts = [entry for name in names if (entry := litellm.model_cost.get(name)) is not None]
    prices = [value for entry in facts for key, value in entry.items() if "cost" in key or "pricing" in key]
    return bool(prices) and not any(prices)


def quiet() -> None:
    """Keep LiteLLM's hints off the standard output, once it loads; for our own command line, which owns its process."""
    _QUIET.set()
    if is_loaded():
        module().suppress_debug_info = True


def model_response(body: Mapping[str, Any]) -> Any:
    """Return LiteLLM's `ModelResponse` of its JSON."""
    return module().ModelResponse(**body)
