"""What this library relies on in LiteLLM: its exceptions, its streams, and that nothing of it is changed."""

import asyncio
import contextlib
import dataclasses
import gc
import inspect
import json
import re
import subprocess
import sys
import threading
import time

import httpx
import openai
import pytest
from driving import KEY, MESSAGES, closing_clients
from openai.types.chat import ChatCompletionChunk
from provider_answers import ANSWERS, MODELS, TOOL
from provider_answers import openai as recorded

from blueprint_llm.adapters import Call, exceptions
from blueprint_llm.adapters import litellm as boundary
from blueprint_llm.credentials import Credential, Secret
from blueprint_llm.errors import CATEGORIES, CallError, Failure
from blueprint_llm.policy.classification import classify
from blueprint_llm.testing import Answer, Cut, Empty, FaultServer, Recorded, ToolUse, numbered_text

# LiteLLM keeps connections of its own to some providers, which nothing closes.
pytestmark = [pytest.mark.usefixtures("collected"), pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")]

NAMED = {name for row in CATEGORIES.values() for name in row.classes}


def exception_classes(litellm):
    """Every exception class that LiteLLM, openai and httpx show, and those that LiteLLM lists."""
    modules = (litellm, litellm.exceptions, openai, httpx)
    shown = [value for module in modules for value in list(vars(module).values()) if inspect.isclass(value)]
    classes = {kind for kind in (*shown, *litellm.LITELLM_EXCEPTION_TYPES) if issubclass(kind, BaseException)}
    return {kind for kind in classes if kind.__module__.partition(".")[0] in {"litellm", "openai", "httpx"}}


def names_of(kind):
    """The class names along an exception's bases."""
    return tuple(base.__name__ for base in kind.__mro__)


def test_every_exception_class_has_a_category(litellm_warm):
    """No exception class of LiteLLM, openai or httpx is without a row that names it or one of its bases."""
    classes = exception_classes(litellm_warm)
    unnamed = sorted(f"{kind.__module__}.{kind.__name__}" for kind in classes if not NAMED & set(names_of(kind)))

    assert unnamed == [], f"add them to a row of errors.CATEGORIES: {unnamed}"
    assert len(classes) > 50


def test_every_named_class_exists(litellm_warm):
    """No row names a class that LiteLLM does not have any more."""
    from litellm.llms.base_llm.chat.transformation import BaseLLMException  # noqa: PLC0415 - seconds to import
    from litellm.proxy._types import ProxyException  # noqa: PLC0415 - as above

    known = {name for kind in exception_classes(litellm_warm) for name in names_of(kind)}
    known |= {BaseLLMException.__name__, ProxyException.__name__}

    assert NAMED - known - {"GuardrailInterventionNormalStringError"} == set()


CLASSES = [
    pytest.param("AuthenticationError", "refused"),
    pytest.param("PermissionDeniedError", "refused"),
    pytest.param("PaymentRequiredError", "refused"),
    pytest.param("BudgetExceededError", "refused"),
    pytest.param("NotFoundError", "not_found"),
    pytest.param("ContextWindowExceededError", "context_length"),
    pytest.param("ContentPolicyViolationError", "content_policy"),
    pytest.param("RateLimitError", "rate_limited"),
    pytest.param("Timeout", "timeout"),
    pytest.param("APIConnectionError", "unavailable"),
    pytest.param("InternalServerError", "unavailable"),
    pytest.param("ServiceUnavailableError", "unavailable"),
    pytest.param("BadGatewayError", "unavailable"),
    pytest.param("MidStreamFallbackError", "unavailable"),
    pytest.param("APIResponseValidationError", "malformed"),
    pytest.param("JSONSchemaValidationError", "malformed"),
    pytest.param("BadRequestError", "invalid_request"),
    pytest.param("UnsupportedParamsError", "invalid_request"),
    pytest.param("UnprocessableEntityError", "invalid_request"),
    pytest.param("APIError", "unknown"),
]


@pytest.mark.parametrize(("name", "category"), CLASSES)
def test_class_decides_where_nothing_else_is_known(litellm_warm, name, category):
    """By its bases alone, without a status, an exception class belongs to its row."""
    kind = getattr(litellm_warm, name, None) or getattr(litellm_warm.exceptions, name)

    assert classify(Failure(classes=names_of(kind))).category == category


def call_to(url, provider="openai", **params):
    """A call of a provider's model to a loopback server."""
    model, path = MODELS[provider]
    credential = Credential(api_key=Secret(KEY), base_url=url.removesuffix("/v1") + path)
    return Call(provider="p", model=model, messages=MESSAGES, params=params, credential=credential, timeout_s=10)


def error_of(litellm, name, status, **facts):
    """An exception as LiteLLM raises it, with the headers of its response."""
    headers = facts.pop("headers", {})
    request = httpx.Request("POST", "http://127.0.0.1/v1", headers={"authorization": f"Bearer {KEY}"})
    response = httpx.Response(status, headers=headers, request=request)
    return getattr(litellm, name)(message=f"{name}: no", model="m", llm_provider="openai", response=response, **facts)


def test_facts_of_an_exception_survive_and_nothing_else(litellm_warm):
    """Status and Retry-After come through; neither the exception nor its request does."""
    error = error_of(litellm_warm, "RateLimitError", 429, headers={"Retry-After": "7"})

    found = exceptions.call_error(error, call_to("http://127.0.0.1/v1"))

    assert (found.category, found.status, found.retry_after_s) == ("rate_limited", 429, 7.0)
    assert (found.__cause__, found.__context__) == (None, None)
    assert KEY not in repr(vars(found))


def test_error_in_mid_stream_is_unwrapped(litellm_warm):
    """What LiteLLM wraps for its own fallbacks is classified by what it wraps."""
    inner = error_of(litellm_warm, "RateLimitError", 429, headers={"retry-after": "3"})
    wrapped = litellm_warm.exceptions.MidStreamFallbackError(
        message="broke", model="m", llm_provider="openai", original_exception=inner
    )

    found = exceptions.call_error(wrapped, call_to("http://127.0.0.1/v1"), in_stream=True)

    assert (found.category, found.status, found.retry_after_s) == ("rate_limited", 429, 3.0)


def test_missing_package_is_found_in_the_cause_chain(litellm_warm):
    """An ImportError that LiteLLM wraps is an installation to mend, whatever it is wrapped in."""
    error = litellm_warm.APIConnectionError(message="it broke", llm_provider="openai", model="m")
    error.__cause__ = ModuleNotFoundError("No module named 'mcp'")

    found = exceptions.call_error(error, call_to("http://127.0.0.1/v1"))

    assert (found.category, found.code) == ("invalid_request", "missing_dependency")


def test_embedded_model_is_registered_once(litellm_warm):
    """LiteLLM knows the provider `embedded`, by one entry, and says how to get its weights."""
    for _ in range(2):
        module = boundary.module()
    entries = [entry for entry in module.custom_provider_map if entry["provider"] == "embedded"]

    with pytest.raises(litellm_warm.ServiceUnavailableError, match="blueprint-llm local pull"):
        litellm_warm.completion(model="embedded/smollm2", messages=MESSAGES)
    assert len(entries) == 1
    assert boundary.is_loaded()


async def read(stream):
    """Every chunk of a stream, and the most that LiteLLM kept at a time."""
    chunks, most = [], 0
    async for chunk in stream:
        chunks.append(chunk)
        most = max(most, len(getattr(stream._wrapper, "chunks", ())))
    return chunks, most


async def stream_to(call):
    """A stream, its chunks, and the most that LiteLLM kept at a time."""
    stream = await boundary.open_stream(call)
    try:
        return stream, *await read(stream)
    finally:
        await stream.aclose()


def text_of(chunks):
    """The text of LiteLLM's chunks."""
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


class Without:
    """An object of LiteLLM's from a release that lacks some names."""

    def __init__(self, inner, *names):
        self.__dict__.update(_inner=inner, _names=names)

    def __getattr__(self, name):
        if name in self._names:
            raise AttributeError(name)
        return getattr(self._inner, name)

    def __setattr__(self, name, value):
        assert name not in self._names
        setattr(self._inner, name, value)


@pytest.fixture
def lacking(monkeypatch):
    """Make LiteLLM's streams lack some names."""

    def lack(*names):
        made = boundary.without_keys
        monkeypatch.setattr(boundary, "without_keys", lambda answer: made(Without(answer, *names)))

    return lack


async def private_reasons(lacking):
    """Both say why the provider ended; without either, an end that LiteLLM made up counts."""
    with FaultServer(default=Answer("Hello there.")) as server:
        stream = await boundary.open_stream(call_to(server.url))
        wrapper, before = stream._wrapper, (stream._wrapper.received_finish_reason, stream.ended_by())
        await read(stream)

        assert before == (None, "invented")
        assert (wrapper.received_finish_reason, stream.ended_by()) == ("stop", "terminal")
        await stream.aclose()

    lacking("received_finish_reason", "intermittent_finish_reason")
    with FaultServer(default=Empty()) as server:
        assert (await stream_to(call_to(server.url)))[0].ended_by() == "terminal"


async def private_beginning(lacking):
    """Gemini's end can be watched; without, its every stream has one."""
    cut = Recorded(chunks=ANSWERS["gemini"]["text"][1].chunks[:2])
    found = []
    with FaultServer(default=cut) as server:
        for names in ((), ("make_call",)):
            lacking(*names)
            found.append((await stream_to(call_to(server.url, "gemini")))[0].ended_by())

    assert found == ["invented", "terminal"]


async def private_chunks(lacking):
    """What the provider said stands among the chunks that LiteLLM keeps; without them, LiteLLM's count counts."""
    with FaultServer(default=Answer("Hello there.", usage=None)) as server:
        stream, chunks, most = await stream_to(call_to(server.url))

        assert (stream.usage(), chunks[-1].usage.completion_tokens) == (None, 3)
        assert 0 < most < len(chunks) + 2
        lacking("chunks")
        assert (await stream_to(call_to(server.url)))[0].usage().completion_tokens == 3


async def private_source(lacking):
    """What the provider sent can be seen before LiteLLM drops some of it; without, that is lost and nothing else."""
    refused = recorded({"refusal": "I will not."}, {"refusal": "I will "}, {"refusal": "not."})
    found = []
    with FaultServer(default=refused) as server:
        for names in ((), ("completion_stream",)):
            lacking(*names)
            stream, chunks, _ = await stream_to(call_to(server.url))
            found.append(stream.as_whole({"choices": [{"index": 0, "message": {"content": None}}]})["choices"][0])
            assert (stream.ended_by(), chunks[-1].usage.total_tokens) == ("terminal", 21)

    assert [choice["message"].get("refusal") for choice in found] == ["I will not.", None]


async def private_parser(_lacking):
    """A client of LiteLLM's own has each chunk parsed by it: what stands around the choices is heard on the way."""
    with FaultServer(default=ANSWERS["deepseek"]["fields around"][1]) as server:
        stream = await boundary.open_stream(call_to(server.url, "deepseek"))
        assert callable(stream._wrapper.completion_stream.chunk_parser)
        chunks, _ = await read(stream)
        await stream.aclose()

    assert not any(getattr(chunk, "citations", None) for chunk in chunks)
    assert stream.as_whole({"choices": []})["citations"] == ["https://example.org/a"]


async def private_response(_lacking):
    """Cohere's client has no way to close but its response; its end and usage are where its parser is told of them."""
    _, answer = next(iter(ANSWERS["cohere"].values()))
    with FaultServer(default=dataclasses.replace(answer, pace_s=0.3)) as server:
        stream = await boundary.open_stream(call_to(server.url, "cohere"))
        await anext(stream)
        source = stream._wrapper.completion_stream
        assert not hasattr(source, "aclose")
        assert callable(source.streaming_response.aclose)
        await stream.aclose()
        await asyncio.to_thread(server.wait_until, lambda seen: seen[-1].closed_early_at)


async def private_headers(_lacking):
    """A gateway that echoes the key in a header: masked in the answer's and every chunk's parameters."""
    with FaultServer(default=Answer("Hi.", headers={"x-echo": f"Bearer {KEY}"})) as server:
        answer = await boundary.complete(call_to(server.url))
        stream, chunks, _ = await stream_to(call_to(server.url))

    assert "llm_provider-x-echo" in answer._hidden_params["additional_headers"]
    assert all("llm_provider-x-echo" in each._hidden_params["additional_headers"] for each in chunks)
    seen = [answer._hidden_params, answer._response_headers, stream.hidden_params, *(c._hidden_params for c in chunks)]
    assert KEY not in repr(seen)


async def private_mcp(_lacking):
    """LiteLLM takes the keyword, and does not look for the package mcp."""
    with pytest.MonkeyPatch.context() as patched, FaultServer(default=Answer("Hi.")) as server:
        patched.setitem(sys.modules, "mcp", None)
        answer = await boundary.complete(call_to(server.url, tools=[TOOL]))

    assert answer.choices[0].message.content == "Hi."
    assert sorted(server.requests[0].body) == ["messages", "model", "tools"]


async def private_exclusion(_lacking):
    """The Router chooses no deployment that a request excludes, and says of an error which deployment it is from."""
    shared = {"model": "openai/gpt-4o", "api_key": KEY, "mock_response": "litellm.RateLimitError"}
    listed = [{"model_name": "g", "litellm_params": shared, "model_info": {"id": name}} for name in "abc"]
    router = boundary.module().Router(model_list=listed, num_retries=0, disable_cooldowns=True)
    found = set()
    for _ in range(20):
        with pytest.raises(boundary.module().RateLimitError) as failed:
            await router.acompletion(model="g", messages=[], _excluded_deployment_ids=["a", "c"])
        found.add(failed.value.failed_deployment_id)

    assert found == {"b"}


ROWS = {
    "CustomStreamWrapper.received_finish_reason": private_reasons,
    "CustomStreamWrapper.intermittent_finish_reason": private_reasons,
    "CustomStreamWrapper.make_call": private_beginning,
    "CustomStreamWrapper.chunks": private_chunks,
    "CustomStreamWrapper.completion_stream": private_source,
    "CustomStreamWrapper.completion_stream.chunk_parser": private_parser,
    "CustomStreamWrapper.completion_stream.streaming_response": private_response,
    "CustomStreamWrapper._base_hidden_params": private_headers,
    "ModelResponse._response_headers": private_headers,
    "acompletion(_skip_mcp_handler=)": private_mcp,
    "Router.acompletion(_excluded_deployment_ids=)": private_exclusion,
}


@pytest.mark.parametrize("name", boundary.PRIVATE)
def test_private_names(litellm_warm, lacking, name):
    """Each private name that we use is there and means what we take it to mean; what is lost without it is known."""
    asyncio.run(closing_clients(ROWS[name](lacking)))


def test_every_private_name_is_listed():
    """The table of private names is complete, as far as their spelling gives them away."""
    code = inspect.getsource(boundary)
    used = set(re.findall(r"(?<![\w.])(?:wrapper|answer|stream)\.(_[a-z]\w+)|\"(_[a-z]\w+)\"", code))
    names = {name for pair in used for name in pair if name} - {"_hidden_params"}  # which LiteLLM documents

    assert {name for name in names if not any(name in row for row in boundary.PRIVATE)} == set()


LONG, SHORT = Answer(numbered_text(2000)), Answer(numbered_text(300))
THOUGHT = Recorded(
    chunks=(
        *({"choices": [{"index": 0, "delta": {"reasoning_content": f"thought{n} "}}]} for n in range(300)),
        *({"choices": [{"index": 0, "delta": {"content": f"word{n} "}}]} for n in range(300)),
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    )
)
OWN_FIELD = {"type": "reasoning.text", "index": 0}
DETAILED = Recorded(
    chunks=tuple(
        {
            **chunk,
            "choices": [{**choice, "delta": {**choice["delta"], "reasoning_details": [{**OWN_FIELD, "text": "x"}]}}],
        }
        for chunk in THOUGHT.chunks[:-1]
        for choice in chunk["choices"]
    )
    + THOUGHT.chunks[-1:]
)
ENDINGS = [
    pytest.param(LONG, True, "terminal", id="complete"),
    pytest.param(Answer(SHORT.text, usage=None), False, "terminal", id="complete, without usage"),
    pytest.param(Answer(SHORT.text, done=False), True, "terminal", id="complete, without [DONE]"),
    pytest.param(Empty(), False, "invented", id="empty"),
    pytest.param(
        Answer(SHORT.text, tool_calls=(ToolUse("now", {"a": "b" * 400}),)), True, "terminal", id="with a tool call"
    ),
]


@pytest.mark.parametrize(("step", "has_usage", "ended_by"), ENDINGS)
async def test_letting_go_loses_neither_usage_nor_end(litellm_warm, step, has_usage, ended_by):
    """Of 2,000 chunks LiteLLM keeps few; the provider's own usage, the text and the proof of the end stay right."""
    with FaultServer(default=step) as server:
        stream, chunks, most = await closing_clients(stream_to(call_to(server.url)))

    usage = stream.usage()
    assert most <= 2 * boundary.COMPACT_EVERY + 8 + sum(bool(each.choices[0].delta.tool_calls) for each in chunks[:-1])
    assert (stream.ended_by(), usage is not None) == (ended_by, has_usage)
    assert usage is None or (usage.prompt_tokens, usage.completion_tokens) == (12, 9)
    assert ended_by == "invented" or text_of(chunks) == step.text


@pytest.mark.parametrize(
    "step",
    [pytest.param(THOUGHT, id="reasoning"), pytest.param(DETAILED, id="own fields"), pytest.param(LONG, id="text")],
)
async def test_litellm_rebuilds_the_same_answer_of_what_it_keeps(litellm_warm, monkeypatch, step):
    """Where the provider counts nothing LiteLLM does, of the chunks that it keeps: the same as of all of them."""
    step = dataclasses.replace(step, usage=None) if isinstance(step, Answer) else step
    with FaultServer(default=step) as server:
        compacted = await stream_to(call_to(server.url))
        monkeypatch.setattr(boundary, "COMPACT_EVERY", 10_000)
        complete = await closing_clients(stream_to(call_to(server.url)))

    assert len(complete[0]._wrapper.chunks) > 5 * len(compacted[0]._wrapper.chunks)
    assert compacted[1][-1].usage == complete[1][-1].usage
    assert compacted[1][-1].usage.completion_tokens > 300
    assert text_of(compacted[1]) == text_of(complete[1])


async def test_a_cut_stream_raises_and_is_no_end(litellm_warm):
    """A stream whose connection just ends is broken, with nothing of a usage."""
    with FaultServer(default=Cut(200, answer=SHORT)) as server:
        stream = await boundary.open_stream(call_to(server.url))
        with pytest.raises(CallError) as failed:
            await read(stream)
        await closing_clients(stream.aclose())

    assert (failed.value.category, stream.ended_by(), stream.usage()) == ("stream_broken", "invented", None)


@pytest.mark.parametrize("provider", MODELS)
async def test_a_connection_that_just_ends_is_no_proof(litellm_warm, provider):
    """In every format, an answer without its provider's own end breaks, or its end is known to be made up.

    What Anthropic counted when it began is not taken for what the answer used.
    """
    params, answer = next(iter(ANSWERS[provider].values()))
    with FaultServer(default=Recorded(chunks=answer.chunks[:-2], done=False)) as server:
        stream = await boundary.open_stream(call_to(server.url, provider, **params))
        with contextlib.suppress(CallError):
            await read(stream)
        await closing_clients(stream.aclose())

    assert (stream.ended_by(), stream.usage()) == ("invented", None)


@pytest.mark.parametrize(("chunks", "end"), [(2, "invented"), (None, "terminal")], ids=["cut", "complete"])
def test_the_end_of_a_blocking_stream_is_watched_as_well(litellm_warm, chunks, end):
    """A program's own blocking stream of Gemini's tells its end like an awaited one."""
    params, answer = ANSWERS["gemini"]["text"]
    with FaultServer(default=Recorded(chunks=answer.chunks[:chunks])) as server:
        wire = {"api_base": server.url.removesuffix("/v1") + "/v1beta", "api_key": KEY, "stream": True}
        with litellm_warm.completion(model="gemini/gemini-2.5-flash", messages=MESSAGES, **wire, **params) as stream:
            heard = boundary.Heard(stream, "gpt-4o")
            list(stream)

    assert heard.ended_by() == end


@pytest.mark.parametrize(
    ("reason", "end"),
    [("insufficient_system_resource", "none"), ("malformed_function_call", "none"), ("model_length", "terminal")],
)
async def test_a_reason_that_litellm_calls_stop_is_told(litellm_warm, reason, end):
    """An answer that was given up has not ended; one that was cut by a limit that LiteLLM does not know says so."""
    with FaultServer(default=Answer("Hi.", finish_reason=reason)) as server:
        stream, chunks, _ = await closing_clients(stream_to(call_to(server.url)))
    whole = stream.as_whole({"choices": [{"index": 0, "message": {"content": "Hi."}}]})

    assert (chunks[-2].choices[0].finish_reason, stream.ended_by()) == ("stop", end)
    assert whole["choices"][0]["provider_specific_fields"]["native_finish_reason"] == reason


@pytest.mark.slow
def test_chunks_that_came_at_once_are_let_go(litellm_warm):
    """However many chunks lie ready, no generator waits to be closed with OpenAI's chunk in its frame."""

    async def most_alive(call):
        stream, most, number = await boundary.open_stream(call), 0, 0
        await asyncio.sleep(0.5)  # meanwhile the answer comes
        async for _ in stream:
            number += 1
            if number % 50 == 0:
                most = max(most, sum(type(each) is ChatCompletionChunk for each in gc.get_objects()))
        await stream.aclose()
        return most, number

    with FaultServer(default=SHORT) as server:
        most, number = asyncio.run(closing_clients(most_alive(call_to(server.url))))
    assert number > 300
    assert most <= 3


async def test_repetition_is_still_noticed(litellm_warm):
    """LiteLLM's own check for a model that says the same for ever works on what is kept."""
    with FaultServer(default=Answer("abcd" * 300, chunk_chars=4)) as server:
        stream = await boundary.open_stream(call_to(server.url))
        with pytest.raises(CallError) as failed:
            await read(stream)
        await closing_clients(stream.aclose())

    assert failed.value.category == "malformed"


async def test_a_callback_of_the_program_gets_the_whole_answer(litellm_warm, monkeypatch):
    """Where the program has a LiteLLM callback, it gets the complete answer, though little is kept of the stream."""
    heard = asyncio.Queue()

    class Listener(litellm_warm.integrations.custom_logger.CustomLogger):
        async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
            heard.put_nowait(response_obj.choices[0].message.content)

    monkeypatch.setattr(litellm_warm, "callbacks", [Listener()])
    with FaultServer(default=SHORT) as server:
        await stream_to(call_to(server.url))
        assert await closing_clients(asyncio.wait_for(heard.get(), 20)) == SHORT.text


async def test_a_stream_is_read_no_further_than_its_end(litellm_warm):
    """Behind the end there is only the end, also after closing, and closing twice is harmless."""
    with FaultServer(default=Answer("Hello")) as server:
        stream = await boundary.open_stream(call_to(server.url))
        await read(stream)

        assert [chunk async for chunk in stream] == []
        await stream.aclose()
        await closing_clients(stream.aclose())
        assert [chunk async for chunk in stream] == []


@pytest.mark.parametrize("provider", MODELS)
@pytest.mark.parametrize("reading", [pytest.param(False, id="between reads"), pytest.param(True, id="in mid-read")])
async def test_closing_hangs_up(litellm_warm, provider, reading):
    """Whatever the format, a stream that is closed has hung up, also one whose reader was cancelled."""
    params, answer = next(iter(ANSWERS[provider].values()))
    with FaultServer(default=dataclasses.replace(answer, pace_s=0.3)) as server:
        stream = await boundary.open_stream(call_to(server.url, provider, **params))
        await anext(stream)
        if reading:
            task = asyncio.create_task(anext(stream))
            await asyncio.sleep(0.05)
            task.cancel()
            await asyncio.wait([task])
        closing = time.monotonic()
        await stream.aclose()
        seen = await asyncio.to_thread(server.wait_until, lambda seen: seen[-1].closed_early_at)
        await closing_clients(asyncio.sleep(0))

    assert seen[-1].closed_early_at - closing < 1


@pytest.fixture
def provider(litellm_warm, monkeypatch):
    """Register a custom provider by the functions that it has."""

    def register(**functions):
        methods = {name: staticmethod(function) for name, function in functions.items()}
        kind = type("Own", (litellm_warm.CustomLLM,), methods)
        entries = [*litellm_warm.custom_provider_map, {"provider": "own", "custom_handler": kind()}]
        monkeypatch.setattr(litellm_warm, "custom_provider_map", entries)

    return register


OWN = Call(provider="p", model="own/model", messages=MESSAGES, timeout_s=10)


def piece(text, *, is_finished=False):
    """A chunk in LiteLLM's generic shape."""
    reason = {"is_finished": is_finished, "finish_reason": "stop" if is_finished else ""}
    return {"text": text, "tool_use": None, "usage": None, "index": 0, **reason}


async def test_a_provider_without_async_form_answers(litellm_warm, provider):
    """A blocking custom provider runs in a thread, and the event loop goes on meanwhile."""
    going_on, threads = threading.Event(), []

    def completion(model_response, **_):
        threads.append(threading.current_thread())
        assert going_on.wait(10)
        model_response.choices[0].message.content = "Hello"
        return model_response

    provider(completion=completion)
    asking = asyncio.create_task(boundary.complete(OWN))
    await asyncio.sleep(0.01)
    going_on.set()

    assert (await asking).choices[0].message.content == "Hello"
    assert threads != [threading.main_thread()]


async def test_a_provider_without_async_form_streams(litellm_warm, provider):
    """A blocking stream is read in threads to its proven end, and closed where it is left."""
    left = threading.Event()

    def streaming(**_):
        try:
            yield from (piece(text) for text in ("Hel", "lo"))
            yield piece("", is_finished=True)
        finally:
            left.set()

    provider(streaming=streaming)
    stream, chunks, _ = await stream_to(OWN)
    assert (text_of(chunks), stream.ended_by()) == ("Hello", "terminal")

    left.clear()
    stream = await boundary.open_stream(OWN)
    await anext(stream)
    await stream.aclose()
    assert left.wait(1)


async def test_a_blocking_stream_that_is_left_in_mid_read_closes_itself(litellm_warm, provider):
    """A thread that waits for a blocking provider cannot be stopped; it closes the stream as soon as it comes back."""
    going_on, left = threading.Event(), threading.Event()

    def streaming(**_):
        try:
            going_on.wait(10)
            yield piece("late")
        finally:
            left.set()

    provider(streaming=streaming)
    stream = await boundary.open_stream(OWN)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.05):
            await anext(stream)
    await stream.aclose()
    assert not left.is_set()
    going_on.set()

    assert await asyncio.to_thread(left.wait, 5)


async def test_a_stream_of_the_programs_own_class_is_read_as_it_is(litellm_warm, provider):
    """A blocking source that has only the name of OpenAI's class is not taken for one of its."""

    class Stream:
        def __init__(self):
            self.pieces = iter([piece("Hello"), piece("", is_finished=True)])

        def __iter__(self):
            return self

        def __next__(self):
            return next(self.pieces)

    provider(streaming=lambda **_: Stream())
    stream, chunks, _ = await stream_to(OWN)

    assert (text_of(chunks), stream.ended_by()) == ("Hello", "terminal")


async def test_a_failure_of_a_blocking_provider_is_a_call_error(litellm_warm, provider):
    """What a blocking provider raises is classified like any other's."""

    def completion(**_):
        raise litellm_warm.RateLimitError("slowly", "own", "model")

    provider(completion=completion)
    with pytest.raises(CallError) as failed:
        await boundary.complete(OWN)

    assert failed.value.category == "rate_limited"


async def test_an_async_provider_is_awaited(litellm_warm, provider):
    """A custom provider with an async form is asked on the event loop."""
    threads = []

    async def acompletion(model_response, **_):
        threads.append(threading.current_thread())
        return model_response

    provider(acompletion=acompletion)
    await boundary.complete(OWN)

    assert threads == [threading.current_thread()]


FIRST_USE = """
import asyncio, json, os, sys, threading
from blueprint_llm.adapters import Call
from blueprint_llm.adapters import litellm as boundary

def plain(litellm):
    kinds = (str, int, float, bool, list, dict, type(None))
    values = {name: value for name, value in list(vars(litellm).items()) if isinstance(value, kinds) and name[0] != "_"}
    return {name: repr(value) for name, value in values.items() if name != "custom_provider_map"}

wire = {"api_base": sys.argv[1], "api_key": "sk-test-0123456789"}
call = Call(provider="p", model="openai/gpt-4o", messages=[{"role": "user", "content": "hi"}], params=wire)
answers, threads = [], []

async def ask():
    answers.append((await boundary.complete(call)).choices[0].message.content)
    stream = await boundary.open_stream(call)
    async for chunk in stream: pass
    await stream.aclose()

async def first():
    task, blocked = asyncio.create_task(ask()), 0
    while not boundary.is_loaded():
        await asyncio.sleep(0.01)
        threads.append(threading.active_count())
    await task

workers = [threading.Thread(target=lambda: asyncio.run(first())) for _ in range(6)]
for worker in workers: worker.start()
before = None
for worker in workers: worker.join()
import litellm
entries = [entry for entry in litellm.custom_provider_map if entry["provider"] == "embedded"]
before = plain(litellm)
asyncio.run(ask())
after = plain(litellm)
changed = sorted(name for name in before if before[name] != after.get(name))
print(json.dumps([answers, len(entries), "LITELLM_LOCAL_MODEL_COST_MAP" in os.environ, len(threads) > 20, changed]))
"""


@pytest.mark.slow
def test_first_use_by_many_threads_at_once(monkeypatch):
    """LiteLLM loads once, off the event loops, which go on; environment and settings are left as they were."""
    monkeypatch.delenv("LITELLM_LOCAL_MODEL_COST_MAP")
    with FaultServer(default=Answer("Hello")) as server:
        done = subprocess.run([sys.executable, "-c", FIRST_USE, server.url], capture_output=True, text=True, check=True)

    assert json.loads(done.stdout.splitlines()[-1]) == [["Hello"] * 7, 1, False, True, []]
