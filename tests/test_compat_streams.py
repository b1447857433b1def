"""Streams of LiteLLM's own chunks: what is held back, what a break is, and what is left behind."""

import asyncio
import json

import litellm
import pytest
from compat_calling import HELLO, KINDS, call, has_calls, keywords_of, read, text_of
from compat_cases import PARIS, TOOL
from driving import closing_clients
from litellm.exceptions import MidStreamFallbackError

import blueprint_llm
from blueprint_llm import SyncLLMClient, errors
from blueprint_llm.compat import Completions
from blueprint_llm.engine.parts import Parts
from blueprint_llm.testing import Answer, BrokenTool, Cut, FaultServer, Recorded, Reset, Stall, Status, ToolUse

# LiteLLM makes a session per key and forgets to close those whose call failed.
pytestmark = [
    pytest.mark.usefixtures("litellm_warm", "collected"),
    pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning"),
]


@pytest.fixture(params=KINDS)
def kind(request):
    """Either function."""
    return request.param


def test_the_trace_of_a_stream(kind):
    """A stream has the trace on its own `_hidden_params`, beside LiteLLM's facts, once it has ended."""
    with FaultServer(default=HELLO) as server:
        stream, _ = read(kind, server)
        begun = blueprint_llm.completion(**keywords_of(server, stream=True))
        next(begun)

        assert json.loads(json.dumps(stream._hidden_params["blueprint"]))["attempts"][0]["ttft_s"] > 0
        assert stream._hidden_params["api_base"].startswith(server.url)
        assert "blueprint" not in begun._hidden_params
        begun.close()


def test_a_mocked_stream_is_whole(kind):
    """`mock_response` makes a stream that no provider ends, and that comes out as LiteLLM's does."""
    asked = {"mock_response": "It is simple.", "num_retries": 0}

    stream, chunks = read(kind, None, **asked)

    assert text_of(chunks) == text_of(read(kind, None, through=litellm, **asked)[1]) == "It is simple."
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert stream._hidden_params["blueprint"]["attempts"][0]["category"] is None


def test_a_stream_passes_for_litellms(kind):
    """Code that tells streams from whole answers by LiteLLM's class takes ours for one."""
    stream, _ = read(kind, None, mock_response="Hi.")

    assert isinstance(stream, litellm.CustomStreamWrapper)
    assert not isinstance(call(kind, None, mock_response="Hi."), litellm.CustomStreamWrapper)


def test_text_flows_and_calls_are_held_back(kind):
    """Text comes at once; of a tool call that is still being written nothing comes."""
    seen = []
    writing = Stall(6, answer=Answer("Let me see.", tool_calls=(PARIS,)))
    with FaultServer(default=writing) as server, pytest.raises(MidStreamFallbackError):
        read(kind, server, tools=[TOOL], seen=seen, timeout=0.5, num_retries=0)

    assert text_of(seen) == "Let me see."
    assert not any(map(has_calls, seen))


@pytest.mark.parametrize(
    "broken", [BrokenTool(), BrokenTool('{"town": "Paris"}'), Answer("", tool_calls=(ToolUse("x"),))]
)
def test_a_broken_call_never_comes_out(kind, broken):
    """What is no valid call raises one class that is ours and LiteLLM's, and not a piece of it is shown."""
    seen = []
    with FaultServer(default=broken) as server, pytest.raises(litellm.APIResponseValidationError) as caught:
        read(kind, server, tools=[TOOL], num_retries=1, seen=seen)

    assert isinstance(caught.value, errors.ToolCallInvalidError)
    assert not any(map(has_calls, seen))
    assert caught.value.verdict.tool in {"get_weather", "x"}
    assert caught.value.trace["attempts"]


def test_a_retry_asks_the_same_again(kind):
    """After a broken call the same request is made once more, and the caller sees only the good answer."""
    with FaultServer([BrokenTool(), Answer("", tool_calls=(PARIS,))]) as server:
        _, chunks = read(kind, server, tools=[TOOL], num_retries=1)

    assert server.requests[0].body == server.requests[1].body
    arguments = [chunk.choices[0].delta.tool_calls[0].function.arguments for chunk in chunks if has_calls(chunk)]
    assert json.loads("".join(arguments)) == {"city": "Paris"}


def test_trouble_before_output_is_mended_unseen(kind):
    """A stream that breaks before it said anything is made again: one role, one beginning."""
    role_only = Recorded(chunks=())
    with FaultServer([role_only, Reset(0), Answer("one two")]) as server:
        _, chunks = read(kind, server, num_retries=2)

    assert text_of(chunks) == "one two"
    assert [chunk.choices[0].delta.role for chunk in chunks].count("assistant") == 1


@pytest.mark.parametrize("fault", [Cut(2, answer=HELLO, abrupt=True), Reset(2, answer=HELLO)], ids=["cut", "reset"])
def test_a_break_after_output_is_litellms_exception(kind, fault):
    """What is out stays out: the same class is raised that LiteLLM raises, and nothing is asked again."""
    ours, theirs = [], []
    with FaultServer(default=fault) as server:
        with pytest.raises(MidStreamFallbackError) as expected:
            read(kind, server, through=litellm, seen=theirs)
        before = len(server.requests)
        with pytest.raises(MidStreamFallbackError) as caught:
            read(kind, server, num_retries=3, seen=ours)
        asked = len(server.requests) - before

    assert type(caught.value) is type(expected.value)
    assert text_of(ours) == text_of(theirs) == "Hello my "
    assert asked == 1


def test_an_unproven_end_is_a_break(kind):
    """Where LiteLLM invents a "stop" for a connection that just ended, the end is held back and the break raised."""
    ours, theirs = [], []
    with FaultServer(default=Cut(2, answer=HELLO)) as server:
        read(kind, server, through=litellm, seen=theirs)
        with pytest.raises(MidStreamFallbackError) as caught:
            read(kind, server, seen=ours)

    assert isinstance(caught.value, errors.StreamBrokenError)
    assert theirs[-1].choices[0].finish_reason == "stop"
    assert all(chunk.choices[0].finish_reason is None for chunk in ours)


def test_two_breaks_end_in_a_whole_answer(kind):
    """What came in one piece after streams that broke is one chunk of LiteLLM's."""
    with FaultServer([Cut(0), Cut(0), HELLO]) as server:
        _, chunks = read(kind, server, num_retries=3)

    assert [type(chunk) for chunk in chunks] == [litellm.ModelResponseStream]
    assert text_of(chunks) == HELLO.text
    assert chunks[0].choices[0].finish_reason == "stop"


def test_usage_comes_only_when_asked_for(kind):
    """The usage chunk is passed on to who asked for it, as LiteLLM passes it on."""
    options = {"stream_options": {"include_usage": True}}
    with FaultServer(default=HELLO) as server:
        _, without = read(kind, server)
        _, asked = read(kind, server, **options)
        _, theirs = read(kind, server, through=litellm, **options)

    assert not any(getattr(chunk, "usage", None) for chunk in without)
    assert [getattr(chunk, "usage", None) for chunk in asked] == [getattr(chunk, "usage", None) for chunk in theirs]
    assert asked[-1].usage.total_tokens == 21


def test_no_fallback_after_output(kind):
    """Once text is out no other model continues it."""
    bad, good = FaultServer(default=Reset(2, answer=HELLO)), FaultServer()

    with bad, good, pytest.raises(MidStreamFallbackError):
        read(kind, bad, fallbacks=[{"api_base": good.url}], num_retries=0)

    assert not good.requests


def test_errors_of_a_stream_are_raised_by_the_call(kind):
    """As in LiteLLM, a stream that cannot be opened fails at once, not when it is read."""
    with FaultServer(default=Status(401)) as server, pytest.raises(litellm.AuthenticationError):
        call(kind, server, stream=True)


def test_leaving_a_stream_closes_its_upstream(kind):
    """A stream that is dropped or closed in the middle hangs up, and what it took is settled."""
    parts = Parts.build({"blueprint": {"version": 1}})
    with FaultServer(default=Stall(2, answer=HELLO)) as server:
        asked = keywords_of(server, stream=True)
        if kind == "sync":
            stream = Completions(parts).completion(**asked)
            next(stream)
            del stream
        else:

            async def leave():
                stream = await Completions(parts).acompletion(**asked)
                await anext(stream)
                await stream.aclose()

            asyncio.run(closing_clients(leave()))
        assert server.wait_until(lambda requests: requests[0].closed_early_at)

    with SyncLLMClient(parts.config) as client:
        assert client.get_usage().calls == 1
    parts.close()
