"""Plain calls, which need no thread: the same answers and failures as LiteLLM's own, and LiteLLM's way for the rest."""

import asyncio
import functools
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from types import FunctionType, ModuleType
from unittest.mock import AsyncMock

import pytest
from driving import KEY, MESSAGES, closing_clients

from blueprint_llm.adapters import Call, plain
from blueprint_llm.adapters import litellm as _litellm
from blueprint_llm.adapters.unheard import CALLBACKS
from blueprint_llm.credentials import Credential, Secret
from blueprint_llm.errors import CallError
from blueprint_llm.testing import Answer, FaultServer, HtmlPage, NotJson, Refuse, Reset, Status, ToolUse

# What no two calls share.
VOLATILE = {"litellm_call_id", "_response_ms", "litellm_overhead_time_ms", "additional_headers", "headers"}
COUNTED = {"response_cost"}  # by our ledger, on the way out
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}]


@pytest.fixture
def litellm(litellm_warm, monkeypatch):
    """LiteLLM with all that it imports for a call."""
    imported = threading.Event()
    imported.set()
    monkeypatch.setattr(plain, "_IMPORTED", imported)
    for name in CALLBACKS:  # a Router of LiteLLM's in an earlier test leaves some behind
        monkeypatch.setattr(litellm_warm, name, [])
    return litellm_warm


@pytest.fixture
def own_way(litellm, monkeypatch):
    """Which of LiteLLM's own calls were prepared in a thread, by model."""
    prepared, whole = [], litellm.main.completion

    def note(*args, **keywords):
        if threading.current_thread() is not threading.main_thread():
            prepared.append(keywords["model"])
        return whole(*args, **keywords)

    monkeypatch.setattr(litellm.main, "completion", note)
    return prepared


def asked(url, **params):
    """A call of a server, as our clients make it."""
    wire = {"api_base": url, "api_key": KEY, **params}
    return Call(provider="p", model="openai/gpt-4o", messages=MESSAGES, params=wire, as_written=True)


def ask(url, **params):
    """The answer."""
    return asyncio.run(closing_clients(_litellm.acomplete(asked(url, **params))))


def ask_litellm(litellm, url, **params):
    """LiteLLM's answer to the same call."""
    wire = {"model": "openai/gpt-4o", "messages": MESSAGES, "api_base": url, "api_key": KEY, "max_retries": 0}
    wire |= {"num_retries": 0, "timeout": asked(url).timeout_s}
    return asyncio.run(closing_clients(litellm.acompletion(**wire, **params)))


def test_a_plain_call_waits_for_no_thread(litellm):
    """A program whose work fills the event loop's executor still gets its answers."""
    release = threading.Event()

    async def run(url):
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(max_workers=1))
        await _litellm.acomplete(asked(url))  # OpenAI's client looks once, in a thread, what machine this is
        busy = loop.run_in_executor(None, release.wait)
        try:
            return await asyncio.wait_for(_litellm.acomplete(asked(url)), 10)
        finally:
            release.set()
            await busy

    with FaultServer(default=Answer("Hi.")) as server:
        answer = asyncio.run(closing_clients(run(server.url)))

    assert answer.choices[0].message.content == "Hi."


@pytest.mark.parametrize(
    "params", [{}, {"n": 2}, {"tools": TOOLS}, {"max_tokens": 9, "user": "u"}, {"model_info": {"id": "x"}}]
)
def test_a_plain_answer_is_litellms(litellm, own_way, params):
    """The answer, its hidden parameters and its time are there as after LiteLLM's own call."""
    given = Answer("", tool_calls=(ToolUse("get_weather"),)) if "tools" in params else Answer("Hi.")
    with FaultServer(default=given) as server:
        ours = ask(server.url, **params)
        assert own_way == []
        theirs = ask_litellm(litellm, server.url, **params)
        requests = [{**request.body} for request in server.requests]

    hidden = ours._hidden_params, theirs._hidden_params
    assert own_way == ["openai/gpt-4o"]
    assert requests[0] == requests[1]
    assert ours.model_dump(exclude={"id", "created"}) == theirs.model_dump(exclude={"id", "created"})
    assert set(hidden[0]) == set(hidden[1])
    for name in set(hidden[0]) - VOLATILE - COUNTED:
        assert hidden[0][name] == hidden[1][name], name
    assert ours._response_ms > 0
    assert set(ours._hidden_params["additional_headers"]) == set(theirs._hidden_params["additional_headers"])


FAILURES = [
    *map(Status, (400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 504, 529)),
    Status(429, error_code="insufficient_quota", headers={"retry-after": "7"}),
    Status(400, "This model's maximum context length is 4097 tokens", error_code="context_length_exceeded"),
    *(HtmlPage(), NotJson(), Refuse(), Reset()),
]


FACTS = (
    *("message", "status_code", "llm_provider", "model", "code", "type", "param", "litellm_debug_info"),
    *("max_retries", "num_retries", "timeout"),
)


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
def test_a_plain_failure_is_litellms(litellm, own_way, failure):
    """Each HTTP status, and each broken connection, is the same exception with the same facts."""
    with FaultServer(default=failure) as server:
        with pytest.raises(CallError) as ours:
            ask(server.url)
        assert own_way == []
        with pytest.raises(Exception) as theirs:  # noqa: PT011 - any class: it is what is compared
            ask_litellm(litellm, server.url)

    error = ours.value.litellm_error
    assert type(error) is type(theirs.value)
    for fact in FACTS:
        assert getattr(error, fact, None) == getattr(theirs.value, fact, None), fact


def test_a_plain_call_leaves_no_context_behind(litellm, monkeypatch):
    """What LiteLLM sets while it prepares a call ends with that, as it would in a thread."""
    mark, whole = ContextVar("mark", default="unset"), litellm.main.completion

    def marking(**keywords):
        mark.set("set")
        return whole(**keywords)

    async def run(url):
        await _litellm.acomplete(asked(url))
        return mark.get()

    monkeypatch.setattr(litellm.main, "completion", marking)
    with FaultServer(default=Answer("Hi.")) as server:
        assert asyncio.run(closing_clients(run(server.url))) == "unset"


def test_a_plain_call_can_be_cancelled(litellm):
    """Who no longer waits hangs up: the server sees it."""

    async def run(url):
        task = asyncio.create_task(_litellm.acomplete(asked(url)))
        await asyncio.to_thread(server.wait_until, len)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with FaultServer(default=Answer("Hi.", delay_s=20)) as server:
        asyncio.run(closing_clients(run(server.url)))
        server.wait_until(lambda requests: requests[0].closed_early_at)


@pytest.mark.parametrize("is_first", [True, False])
def test_a_call_that_is_given_up_shows_no_key(litellm, monkeypatch, is_first):
    """No frame of ours in the traceback of a call that was cancelled holds the key."""
    if is_first:
        monkeypatch.setattr(plain, "_IMPORTED", threading.Event())

    async def run(url):
        call = Call(provider="p", model="openai/gpt-4o", messages=MESSAGES, credential=own, params={"api_base": url})
        await asyncio.wait_for(_litellm.acomplete(call), 0.5)

    own = Credential(provider="p", api_key=Secret(KEY))
    with FaultServer(default=Answer("Hi.", delay_s=20)) as server, pytest.raises(TimeoutError) as late:
        asyncio.run(closing_clients(run(server.url)))

    frames = [frame for frame, _ in traceback.walk_tb(late.value.__cause__.__traceback__)]
    ours = [frame for frame in frames if "blueprint_llm" in frame.f_code.co_filename]
    assert any(frame.f_code.co_filename == plain.__file__ for frame in ours)
    assert not [frame for frame in ours if KEY in repr(frame.f_locals)]


def test_the_first_call_imports_in_a_thread(litellm, own_way, monkeypatch):
    """What LiteLLM imports for its first call holds up no event loop; a call that fails counts as none."""
    monkeypatch.setattr(plain, "_IMPORTED", threading.Event())
    with FaultServer([Status(400)], default=Answer("Hi.")) as server:
        with pytest.raises(CallError):
            ask(server.url)
        for _ in range(3):
            ask(server.url)

    assert len(own_way) == 2


def plainly(litellm, **keywords):
    """Whether a call with these keywords is plain."""
    return plain.is_plain(litellm, {"model": "openai/gpt-4o", "messages": MESSAGES, **keywords})


@pytest.mark.parametrize("model", ["openai/gpt-4o", "gpt-4o", "openai/my-own"])
def test_openai_is_plain(litellm, model):
    """Whatever its API serves, as LiteLLM's names say it."""
    assert plainly(litellm, model=model)


@pytest.mark.parametrize(
    "keywords",
    [
        *({"model": name} for name in ("anthropic/claude-x", "vertex_ai/gemini-x", "bedrock/x", "nobody-knows")),
        {"model": "gpt-4o", "api_base": "https://api.groq.com/openai/v1"},
        {"fallbacks": ["openai/gpt-4o-mini"]},
        {"mock_response": "Hi."},
        {"prompt_id": "greeting"},
        {"custom_llm_provider": "azure"},
        {"stream": True},
        {"response_format": {"type": "json_object", "enforce_validation": True}},
        {"anything": "new"},
    ],
    ids=str,
)
def test_what_may_ask_for_more_is_not_plain(litellm, keywords):
    """Other providers, LiteLLM's own features, and keywords that nobody has looked at."""
    assert plainly(litellm)
    assert not plainly(litellm, **keywords)


@pytest.mark.parametrize("name", plain.SETTINGS)
def test_a_setting_of_the_program_is_heeded(litellm, monkeypatch, name):
    """Each is one that LiteLLM has, and under it a call goes LiteLLM's way."""
    monkeypatch.setattr(litellm, name, {"a": "b"})

    assert not plainly(litellm)


def test_debugging_is_heeded(litellm, monkeypatch):
    """Who debugs LiteLLM sees all that it logs."""
    monkeypatch.setattr(litellm.utils, "is_debugging_on", lambda: True)

    assert not plainly(litellm)


def test_a_tracer_of_litellms_own_is_heeded(litellm, monkeypatch):
    """Who has Datadog trace LiteLLM gets a span for each `acompletion`."""
    monkeypatch.setattr(plain, "_has_the_parts", plain._has_the_parts.__wrapped__)
    monkeypatch.setattr(litellm.litellm_core_utils.dd_tracing, "should_use_dd_tracer", True)

    assert not plainly(litellm)


def test_a_double_of_litellms_function_is_called(litellm, monkeypatch):
    """What stands in its place, a test's double or a tracer's wrapper, gets the call."""
    seen = []

    async def double(**keywords):
        seen.append(keywords["model"])
        return litellm.ModelResponse(choices=[{"message": {"role": "assistant", "content": "Double."}}])

    monkeypatch.setattr(litellm, "acompletion", double)

    assert ask("http://127.0.0.1:9").choices[0].message.content == "Double."
    assert seen == ["openai/gpt-4o"]


OTHER_PARTS = [
    *((name, None) for name in ("is_debugging_on", "update_response_metadata", "_is_async_request")),
    ("update_response_metadata", lambda result, logging_obj: None),
    ("_is_async_request", lambda kwargs: False),
]


@pytest.mark.parametrize(("name", "part"), OTHER_PARTS)
def test_a_litellm_of_other_parts_goes_its_own_way(litellm, monkeypatch, name, part):
    """Where a part that we rely on is missing or another one, the call is LiteLLM's."""
    monkeypatch.setattr(plain, "_has_the_parts", plain._has_the_parts.__wrapped__)
    assert plainly(litellm)
    monkeypatch.setattr(litellm.utils, name, part)

    assert not plainly(litellm)


def test_a_double_in_a_module_of_its_own_is_one(litellm, monkeypatch):
    """A module of the program may have an `acompletion`, too."""
    theirs = ModuleType("theirs")
    theirs.acompletion = FunctionType((lambda: None).__code__, {"__name__": "theirs"})
    monkeypatch.setitem(sys.modules, "theirs", theirs)
    monkeypatch.setattr(litellm, "acompletion", theirs.acompletion)

    assert theirs.acompletion.__module__ == "theirs"
    assert not plainly(litellm)


@pytest.mark.parametrize(
    "function", [functools.partial(print), object(), AsyncMock()], ids=lambda it: type(it).__name__
)
def test_a_double_of_any_kind_is_one(litellm, monkeypatch, function):
    """Whatever stands there, a call is not plain."""
    monkeypatch.setattr(litellm, "acompletion", function)

    assert not plainly(litellm)
