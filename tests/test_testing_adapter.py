"""The scripted adapter: what is read of it, how it fails, and what is recorded."""

import asyncio
import time

import pytest

from blueprint_llm.adapters import Call
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


async def whole(adapter):
    """Ask for one answer."""
    return await adapter.complete(CALL)


async def streamed(adapter, within_s=10.0):
    """Read a stream to its end: the texts, the handle, and what went wrong."""
    texts, trouble = [], None
    handle = await adapter.open(CALL)
    try:
        async with asyncio.timeout(within_s):
            async for chunk in handle:
                texts += [choice["delta"]["content"] for choice in chunk["choices"] if choice["delta"].get("content")]
    except (CallError, TimeoutError) as error:
        trouble = error
    await handle.aclose()
    return texts, handle, trouble


async def test_an_answer_whole():
    """A whole answer is OpenAI's dict for the model of the call."""
    adapter = ScriptedAdapter([HELLO])
    answer = await whole(adapter)

    assert answer["model"] == "gpt-4o"
    assert answer["choices"][0]["message"]["content"] == "Hello there world"
    assert adapter.calls == [CALL]
    adapter.assert_done()


async def test_an_answer_streamed():
    """A stream gives its words and usage, and its end is proven."""
    adapter = ScriptedAdapter([HELLO])
    texts, handle, trouble = await streamed(adapter)

    assert (texts, trouble, handle.ended_by()) == (["Hello ", "there ", "world"], None, "terminal")
    assert handle.usage() == {"prompt_tokens": 12, "completion_tokens": 9, "total_tokens": 21}
    assert adapter.streams[0].closed


async def test_a_stream_without_usage():
    """A provider that sends no usage leaves none."""
    handle = (await streamed(ScriptedAdapter([Answer(usage=None)])))[1]

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
async def test_what_a_provider_says_at_once(walk, step, category, status):
    """An HTTP error or a closed connection is a CallError when the call is opened."""
    adapter = ScriptedAdapter([step])
    with pytest.raises(CallError) as caught:
        await walk(adapter)

    assert (caught.value.category, caught.value.status) == (category, status)
    assert (caught.value.provider, caught.value.model) == ("cloud", "gpt-4o")
    assert adapter.streams == []


async def test_retry_after_is_a_fact_of_the_error():
    """The provider's wish for a pause arrives in seconds."""
    with pytest.raises(CallError) as caught:
        await whole(ScriptedAdapter([Status(429, headers={"Retry-After-Ms": "1500"})]))

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
async def test_a_stream_that_breaks(step, texts, category):
    """A broken stream gives what came before, and raises or ends without proof."""
    got, handle, trouble = await streamed(ScriptedAdapter([step]))

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
async def test_an_answer_that_breaks(step, category):
    """Without streaming a spoiled answer is an error."""
    with pytest.raises(CallError) as caught:
        await whole(ScriptedAdapter([step]))

    assert caught.value.category == category


async def test_a_stall_ends_with_the_callers_patience():
    """A read that stalls is over when the caller's time is; what had come is there."""
    texts, handle, trouble = await streamed(ScriptedAdapter([Stall(1, answer=HELLO)]), within_s=0.2)

    assert texts == ["Hello "]
    assert isinstance(trouble, TimeoutError)
    assert handle.closed


async def test_a_whole_answer_may_stall():
    """A call that is never answered is over when the caller's time is."""
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(whole(ScriptedAdapter([Stall()])), 0.1)


async def test_waits_are_kept():
    """The first chunk waits for delay_s, each later one for pace_s."""
    start = time.monotonic()
    await streamed(ScriptedAdapter([Answer("a b c", delay_s=0.05, pace_s=0.05)]))

    assert time.monotonic() - start >= 0.15


@pytest.mark.parametrize("walk", [whole, streamed])
async def test_a_broken_tool_call_is_handed_on(walk):
    """Broken arguments are the validator's matter, not the adapter's."""
    assert await walk(ScriptedAdapter([BrokenTool()]))


async def test_a_function_of_the_call_answers():
    """State-dependent behaviour is a function of the call."""
    adapter = ScriptedAdapter(lambda call: Answer(f"for {call.provider}"))

    assert (await whole(adapter))["choices"][0]["message"]["content"] == "for cloud"


async def test_unexpected_calls_and_unused_steps_are_told():
    """A call too many is an invalid request, and assert_done lists what differs."""
    adapter = ScriptedAdapter()
    with pytest.raises(CallError, match="did not expect") as caught:
        await whole(adapter)

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
