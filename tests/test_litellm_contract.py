"""What this library relies on in LiteLLM: its exceptions, its streams, and that nothing of it is changed."""

import asyncio
import gc
import inspect
import json
import subprocess
import sys
import time
from types import ModuleType, SimpleNamespace

import httpx
import openai
import pytest
from driving import KEY, MESSAGES, closing_clients
from openai.types.chat import ChatCompletionChunk

from blueprint_llm.adapters import Call, exceptions
from blueprint_llm.adapters import litellm as _litellm
from blueprint_llm.adapters.unheard import internal_switch, marked, uncounted
from blueprint_llm.credentials import Credential, Secret
from blueprint_llm.engine.steps import END
from blueprint_llm.errors import CATEGORIES, CallError, Failure
from blueprint_llm.policy import classify
from blueprint_llm.testing import Answer, Cut, Empty, FaultServer, ToolUse, numbered_text

NAMED = {name for row in CATEGORIES.values() for name in row.classes}
LONG, SHORT = Answer(numbered_text(2000)), Answer(numbered_text(300))


def exception_classes(litellm):
    """Every exception class that LiteLLM, openai and httpx show, and those that LiteLLM lists."""
    modules = (litellm, litellm.exceptions, openai, httpx)
    shown = [value for module in modules for value in vars(module).values() if inspect.isclass(value)]
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

    assert classify(Failure(classes=names_of(kind))).category.name == category


def call_to(url, **params):
    """A call to a loopback server."""
    credential = Credential(api_key=Secret(KEY), base_url=url)
    return Call(
        provider="p", model="openai/gpt-4o", messages=MESSAGES, params=params, credential=credential, timeout_s=10
    )


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
        module = _litellm.module()
    entries = [entry for entry in module.custom_provider_map if entry["provider"] == "embedded"]

    with pytest.raises(litellm_warm.ServiceUnavailableError, match="blueprint-llm local pull"):
        litellm_warm.completion(model="embedded/smollm2", messages=MESSAGES)
    assert len(entries) == 1
    assert _litellm.is_loaded()


def read(stream):
    """Every chunk of a stream, the most that LiteLLM kept at a time, and the chunks."""
    chunks, most = [], 0
    while (chunk := stream.read()) is not END:
        chunks.append(chunk)
        most = max(most, len(stream._wrapper.chunks))
    return chunks, most


async def aread(call):
    """The same for the asynchronous stream, and the stream."""
    stream, chunks, most = await _litellm.aopen_stream(call), [], 0
    while (chunk := await stream.aread()) is not END:
        chunks.append(chunk)
        most = max(most, len(stream._wrapper.chunks))
    await stream.aclose()
    return chunks, most, stream


def both(call):
    """Chunks, most kept, and stream, of the sync and of the async stream of a call."""
    stream = _litellm.open_stream(call)
    chunks, most = read(stream)
    stream.close()
    return [(chunks, most, stream), asyncio.run(closing_clients(aread(call)))]


def text_of(chunks):
    """The text of LiteLLM's chunks."""
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def test_wrapper_has_what_streams_rely_on(litellm_warm):
    """LiteLLM's stream wrapper says whether a finish reason was received, what it kept and whether it is done."""
    with FaultServer(default=Answer("Hello there.")) as server:
        stream = _litellm.open_stream(call_to(server.url))
        wrapper = stream._wrapper
        received = wrapper.received_finish_reason, wrapper.sent_last_chunk
        read(stream)

        assert received == (None, False)
        assert (wrapper.received_finish_reason, wrapper.sent_last_chunk) == ("stop", True)
        assert hasattr(wrapper, "intermittent_finish_reason")
        assert isinstance(wrapper.chunks, list)
        assert wrapper.completion_stream is not None
        stream.close()


ENDINGS = [
    pytest.param(LONG, True, "terminal", id="complete"),
    pytest.param(Answer(SHORT.text, usage=None), False, "terminal", id="complete, without usage"),
    pytest.param(Answer(SHORT.text, done=False), True, "terminal", id="complete, without [DONE]"),
    pytest.param(Cut(200, answer=SHORT), False, "invented", id="cut"),
    pytest.param(Empty(), False, "invented", id="empty"),
    pytest.param(
        Answer(SHORT.text, tool_calls=(ToolUse("now", {"a": "b" * 400}),)), True, "terminal", id="with a tool call"
    ),
]


@pytest.mark.parametrize(("step", "has_usage", "ended_by"), ENDINGS)
def test_trimming_loses_neither_usage_nor_end(litellm_warm, step, has_usage, ended_by):
    """Of 2,000 chunks LiteLLM keeps a handful; the provider's own usage and the proof of the end stay right."""
    with FaultServer(default=step) as server:
        found = both(call_to(server.url))

    for chunks, most, stream in found:
        assert most <= _litellm.Stream._KEPT + 1
        assert stream.ended_by() == ended_by
        usage = stream.usage()
        assert (usage is not None) is has_usage
        if has_usage:
            assert (usage.prompt_tokens, usage.completion_tokens) == (12, 9)
        if ended_by == "terminal":
            assert text_of(chunks) == step.text


def test_chunks_that_came_at_once_are_let_go(litellm_warm):
    """However many chunks lie ready, no generator waits to be closed with OpenAI's chunk in its frame."""

    async def most_alive(call):
        stream, most, number = await _litellm.aopen_stream(call), 0, 0
        await asyncio.sleep(0.5)  # meanwhile the answer comes
        while await stream.aread() is not END:
            number += 1
            if number % 50 == 0:
                most = max(most, sum(type(each) is ChatCompletionChunk for each in gc.get_objects()))
        await stream.aclose()
        return most, number

    with FaultServer(default=SHORT) as server:
        most, number = asyncio.run(closing_clients(most_alive(call_to(server.url))))
    assert number > 300
    assert most <= 3


def test_repetition_is_still_noticed(litellm_warm):
    """LiteLLM's own check for a model that says the same for ever works on what is kept."""
    with FaultServer(default=Answer("abcd" * 300, chunk_chars=4)) as server:
        stream = _litellm.open_stream(call_to(server.url))
        with pytest.raises(CallError) as failed:
            read(stream)
        stream.close()

    assert failed.value.category == "malformed"


LISTENING = """
import sys, threading
import litellm
from blueprint_llm import SyncLLMClient
done = threading.Event()
def listen(keywords, *_):
    if (whole := keywords.get("complete_streaming_response")) is not None:
        print(whole.choices[0].message.content)
        done.set()
litellm.success_callback = [listen]
wire = {"model": "openai/gpt-4o", "api_base": sys.argv[1], "api_key": "sk-test-0123456789"}
with SyncLLMClient({"blueprint": {"version": 1, "providers": {"p": wire}}}) as client:
    for _ in client.stream(messages=[{"role": "user", "content": "hello"}]):
        pass
assert done.wait(20)
"""


def test_nothing_is_trimmed_for_a_user_callback():
    """Where the program has a LiteLLM callback, it gets the complete answer."""
    answer = Answer(numbered_text(300))
    with FaultServer(default=answer) as server:
        command = [sys.executable, "-c", LISTENING, server.url]
        ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)

    assert ran.stdout.strip() == answer.text


def test_stream_is_read_no_further_than_its_end(litellm_warm):
    """Behind END there is only END, also after closing, and closing twice is harmless."""
    with FaultServer(default=Answer("Hello")) as server:
        stream = _litellm.open_stream(call_to(server.url))
        read(stream)

        assert stream.read() is END
        stream.close()
        stream.close()


def test_count_of_tokens_needs_no_network(litellm_warm):
    """Tokens are counted offline, an image among them."""
    image = {"type": "image_url", "image_url": {"url": "https://unreachable.invalid/cat.png"}}

    assert _litellm.count_tokens("openai/gpt-4o", [{"role": "user", "content": [image]}]) > 0


GLOBALS = """
import json, sys
import litellm

def plain():
    kinds = (str, int, float, bool, list, dict, type(None))
    values = {name: value for name, value in vars(litellm).items() if isinstance(value, kinds) and name[0] != "_"}
    return {name: repr(value) for name, value in values.items() if name != "custom_provider_map"}

before = plain()
from blueprint_llm import SyncLLMClient
config = {"blueprint": {"providers": {"p": {"model": "openai/gpt-4o", "api_base": sys.argv[1], "api_key": "k"}}}}
messages = [{"role": "user", "content": "hi"}]
with SyncLLMClient(config) as client:
    client.chat(messages=messages)
    list(client.stream(messages=messages))
after = plain()
changed = sorted(name for name in before if before[name] != after.get(name))
print(json.dumps(changed))
"""


def test_no_global_of_litellm_is_touched():
    """A program that also uses LiteLLM finds its settings, callbacks and price map as they were."""
    with FaultServer(default=Answer("Hello")) as server:
        done = subprocess.run([sys.executable, "-c", GLOBALS, server.url], capture_output=True, text=True, check=True)

    assert json.loads(done.stdout.splitlines()[-1]) == []


FIRST_USE = """
import json, os, sys, threading
from blueprint_llm import SyncLLMClient
config = {"blueprint": {"providers": {"p": {"model": "openai/gpt-4o", "api_base": sys.argv[1], "api_key": "k"}},
                        "deadline": {"total_s": 20}}}
answers = []
with SyncLLMClient(config) as client:
    def ask():
        answers.append(client.chat(messages=[{"role": "user", "content": "hi"}]).content)
    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
import litellm
entries = [entry for entry in litellm.custom_provider_map if entry["provider"] == "embedded"]
print(json.dumps([answers, len(entries), "LITELLM_LOCAL_MODEL_COST_MAP" in os.environ]))
"""


def test_first_use_by_many_threads_at_once(monkeypatch):
    """Threads that all want LiteLLM first load it once, get their answers, and leave the environment as it was."""
    monkeypatch.delenv("LITELLM_LOCAL_MODEL_COST_MAP")
    with FaultServer(default=Answer("Hello")) as server:
        done = subprocess.run([sys.executable, "-c", FIRST_USE, server.url], capture_output=True, text=True, check=True)

    assert json.loads(done.stdout.splitlines()[-1]) == [["Hello"] * 8, 1, False]


def recorded(kinds, *, listening):
    """How often LiteLLM made its record of calls in each way, with or without a callback of the program."""
    import litellm  # noqa: PLC0415 - as everywhere here

    made = []
    kind = litellm.litellm_core_utils.litellm_logging.Logging
    whole, blocking = kind._async_success_handler_body, kind.success_handler

    async def note(self, *args, **keywords):
        made.append("async")
        return await whole(self, *args, **keywords)

    def note_blocking(self, *args, **keywords):
        made.append("sync")
        return blocking(self, *args, **keywords)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(kind, "_async_success_handler_body", note)
        patched.setattr(kind, "success_handler", note_blocking)
        patched.setattr(litellm, "success_callback", [print_nothing] if listening else [])
        with FaultServer(default=Answer("Hi.")) as server:
            for ask in kinds:
                ask(server)
    return sorted(made)


def print_nothing(*_):
    """A callback of the program."""


def ask_blocking(server):
    """Our blocking way, until LiteLLM's threads are done."""
    _litellm.complete(
        Call(provider="p", model="openai/gpt-4o", messages=MESSAGES, params={"api_base": server.url, "api_key": KEY})
    )
    time.sleep(0.5)


def ask_awaiting(server):
    """Our awaiting way, until LiteLLM's tasks are done."""

    async def ask():
        wire = {"api_base": server.url, "api_key": KEY}
        await _litellm.acomplete(Call(provider="p", model="openai/gpt-4o", messages=MESSAGES, params=wire))
        await asyncio.sleep(0.5)

    asyncio.run(closing_clients(ask()))


def test_no_record_is_made_that_nobody_reads(litellm_warm):
    """Without a callback LiteLLM makes no record of our calls; with one it does, and the mark is gone after a call."""
    assert recorded([ask_blocking, ask_awaiting], listening=False) == []
    assert set(recorded([ask_blocking, ask_awaiting], listening=True)) == {"async", "sync"}
    assert internal_switch(litellm_warm).get() is False


@pytest.mark.parametrize(("listening", "counts"), [(False, False), (True, True)])
def test_no_cost_is_counted_that_nobody_reads(litellm_warm, listening, counts):
    """Without a callback LiteLLM counts no cost of our calls: the ledger's is the one that is told."""
    counted, count = [], litellm_warm.response_cost_calculator

    def note(*args, **keywords):
        counted.append(keywords["model"])
        return count(*args, **keywords)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(litellm_warm, "response_cost_calculator", note)
        recorded([ask_blocking, ask_awaiting], listening=listening)

    assert bool(counted) is counts


def test_a_litellm_that_makes_its_log_in_another_way_makes_it_itself(litellm_warm):
    """Where what we rely on is not there, a call goes on as before."""
    other = ModuleType("litellm")
    other.utils = SimpleNamespace(function_setup=lambda keywords: None)

    assert uncounted(other, "completion", {"model": "m"}) == {"model": "m"}
    assert internal_switch(other) is None
    with marked(other):
        assert internal_switch(litellm_warm).get() is False
