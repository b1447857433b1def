"""The scripted adapter under both drivers: what a walk reads, how it fails, and what is recorded."""

import asyncio
import time

import pytest

from blueprint_llm.adapters import Call
from blueprint_llm.engine.drivers import AsyncDriver, SyncDriver
from blueprint_llm.engine.steps import END, Close, Open, Read
from blueprint_llm.errors import CallError
from blueprint_llm.testing import (
    Answer,
    BadLine,
    BrokenTool,
    Cut,
    Empty,
    ErrorObject,
    HtmlPage,
    NotJson,
    Refuse,
    Reset,
    ScriptedAdapter,
    Stall,
    Status,
)

CALL = Call(provider="cloud", model="gpt-4o", messages=[{"role": "user", "content": "hi"}])
HELLO = Answer("Hello there world")


def sync_run(walk):
    """Drive a walk on this thread."""
    return SyncDriver(store=None).run(walk)


def async_run(walk):
    """Drive a walk on a loop of its own."""
    return asyncio.run(AsyncDriver(store=None).run(walk))


@pytest.fixture(params=[sync_run, async_run], ids=["sync", "async"])
def run(request):
    """Either driver."""
    return request.param


def whole(adapter, within_s=10.0):
    """A walk that asks for one answer."""
    return (yield Open(adapter=adapter, call=CALL, stream=False, until=time.monotonic() + within_s))


def streamed(adapter, within_s=10.0):
    """A walk that reads a stream to its end: the texts, the handle, and what went wrong."""
    until = time.monotonic() + within_s
    texts, trouble = [], None
    handle = yield Open(adapter=adapter, call=CALL, stream=True, until=until)
    try:
        while (chunk := (yield Read(handle=handle, until=until))) is not END:
            texts += [choice["delta"]["content"] for choice in chunk["choices"] if choice["delta"].get("content")]
    except (CallError, TimeoutError) as error:
        trouble = error
    yield Close(handle=handle)
    return texts, handle, trouble


def test_an_answer_whole(run):
    """A whole answer is OpenAI's dict for the model of the call."""
    adapter = ScriptedAdapter([HELLO])
    answer = run(whole(adapter))

    assert answer["model"] == "gpt-4o"
    assert answer["choices"][0]["message"]["content"] == "Hello there world"
    assert adapter.calls == [CALL]
    adapter.assert_done()


def test_an_answer_streamed(run):
    """A stream gives its words and usage, and its end is proven."""
    adapter = ScriptedAdapter([HELLO])
    texts, handle, trouble = run(streamed(adapter))

    assert (texts, trouble, handle.ended_by()) == (["Hello ", "there ", "world"], None, "terminal")
    assert handle.usage() == {"prompt_tokens": 12, "completion_tokens": 9, "total_tokens": 21}
    assert adapter.streams[0].closed


def test_a_stream_without_usage(run):
    """A provider that sends no usage leaves none."""
    handle = run(streamed(ScriptedAdapter([Answer(usage=None)])))[1]

    assert handle.usage() is None


@pytest.mark.parametrize(
    ("step", "category", "status"),
    [
        pytest.param(Status(429), "rate_limited", 429, id="429"),
        pytest.param(Status(401, "bad key"), "refused", 401, id="401"),
        pytest.param(Status(503), "unavailable", 503, id="503"),
        pytest.param(HtmlPage(502), "unavailable", 502, id="html"),
        pytest.param(Refuse(), "unavailable", None, id="refused"),
    ],
)
@pytest.mark.parametrize("walk", [whole, streamed])
def test_what_a_provider_says_at_once(run, walk, step, category, status):
    """An HTTP error or a closed connection is a CallError when the call is opened."""
    adapter = ScriptedAdapter([step])
    with pytest.raises(CallError) as caught:
        run(walk(adapter))

    assert (caught.value.category, caught.value.status) == (category, status)
    assert (caught.value.provider, caught.value.model) == ("cloud", "gpt-4o")
    assert adapter.streams == []


def test_retry_after_is_a_fact_of_the_error(run):
    """The provider's wish for a pause arrives in seconds."""
    with pytest.raises(CallError) as caught:
        run(whole(ScriptedAdapter([Status(429, headers={"Retry-After-Ms": "1500"})])))

    assert caught.value.retry_after_s == 1.5


@pytest.mark.parametrize(
    ("step", "texts", "category"),
    [
        pytest.param(Cut(2, answer=HELLO), ["Hello ", "there "], None, id="cut"),
        pytest.param(Cut(1, answer=HELLO, abrupt=True), ["Hello "], "stream_broken", id="abrupt cut"),
        pytest.param(Reset(0, answer=HELLO), [], "stream_broken", id="reset"),
        pytest.param(BadLine(1, answer=HELLO), ["Hello "], "stream_broken", id="bad line"),
        pytest.param(ErrorObject(1, answer=HELLO), ["Hello "], "stream_broken", id="error object"),
        pytest.param(Empty(), [], None, id="empty"),
        pytest.param(NotJson(), [], None, id="no JSON"),
        pytest.param(HtmlPage(200), [], None, id="a page under 200"),
    ],
)
def test_a_stream_that_breaks(run, step, texts, category):
    """A broken stream gives what came before, and raises or ends without proof."""
    got, handle, trouble = run(streamed(ScriptedAdapter([step])))

    assert got == texts
    assert getattr(trouble, "category", None) == category
    assert handle.ended_by() == "invented"


@pytest.mark.parametrize(
    ("step", "category"),
    [
        pytest.param(Cut(), "unavailable", id="cut"),
        pytest.param(Reset(), "unavailable", id="reset"),
        pytest.param(ErrorObject(), "unavailable", id="error object"),
        pytest.param(BadLine(), "malformed", id="bad line"),
        pytest.param(Empty(), "malformed", id="empty"),
        pytest.param(NotJson(), "malformed", id="no JSON"),
        pytest.param(HtmlPage(200), "malformed", id="a page under 200"),
    ],
)
def test_an_answer_that_breaks(run, step, category):
    """Without streaming a spoiled answer is an error."""
    with pytest.raises(CallError) as caught:
        run(whole(ScriptedAdapter([step])))

    assert caught.value.category == category


def test_a_stall_ends_with_the_walks_patience(run):
    """A read that stalls is over when the walk's time is; what had come is there."""
    texts, handle, trouble = run(streamed(ScriptedAdapter([Stall(1, answer=HELLO)]), within_s=0.2))

    assert texts == ["Hello "]
    assert isinstance(trouble, TimeoutError)
    assert handle.closed


def test_a_whole_answer_may_stall(run):
    """A call that is never answered is over when the walk's time is."""
    with pytest.raises(TimeoutError):
        run(whole(ScriptedAdapter([Stall()]), within_s=0.1))


def test_waits_are_kept(run):
    """The first chunk waits for delay_s, each later one for pace_s."""
    start = time.monotonic()
    run(streamed(ScriptedAdapter([Answer("a b c", delay_s=0.05, pace_s=0.05)])))

    assert time.monotonic() - start >= 0.15


@pytest.mark.parametrize("walk", [whole, streamed])
def test_a_broken_tool_call_is_handed_on(run, walk):
    """Broken arguments are the validator's matter, not the adapter's."""
    assert run(walk(ScriptedAdapter([BrokenTool()])))


def test_a_function_of_the_call_answers(run):
    """State-dependent behaviour is a function of the call."""
    adapter = ScriptedAdapter(lambda call: Answer(f"for {call.provider}"))

    assert run(whole(adapter))["choices"][0]["message"]["content"] == "for cloud"


def test_unexpected_calls_and_unused_steps_are_told(run):
    """A call too many is an invalid request, and assert_done lists what differs."""
    adapter = ScriptedAdapter()
    with pytest.raises(CallError, match="did not expect") as caught:
        run(whole(adapter))

    assert caught.value.category == "invalid_request"
    with pytest.raises(AssertionError, match=r"not expected.*cloud \(gpt-4o\)"):
        adapter.assert_done()
    with pytest.raises(AssertionError, match="not used: Answer"):
        ScriptedAdapter([HELLO]).assert_done()


def test_it_is_ready_at_once():
    """There is nothing to load."""
    adapter = ScriptedAdapter(provider="cloud")
    adapter.load()

    assert adapter.ready
    assert adapter.provider == "cloud"
