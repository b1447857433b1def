"""Streams of LiteLLM's own chunks: what is held back, what a break is, and what is left behind."""

import asyncio
import gc
import time

import litellm
import pytest
from compat_calling import HELLO, KINDS, call, has_calls, keywords_of, read, text_of
from compat_cases import PARIS, TOOL, chunk
from driving import closing_clients
from guarding import CountingGuard
from litellm.exceptions import MidStreamFallbackError

from blueprint_llm import errors
from blueprint_llm import litellm as guarded
from blueprint_llm.compat import guarding as guards
from blueprint_llm.compat.streams import opened
from blueprint_llm.engine.guarded import Watched
from blueprint_llm.testing import Answer, BrokenTool, Cut, FaultServer, Recorded, Reset, Stall, Status, ToolUse

# LiteLLM makes a session per key and forgets to close those whose call failed.
pytestmark = [
    pytest.mark.usefixtures("litellm_warm", "collected"),
    pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning"),
]
BROKEN = [
    pytest.param(BrokenTool(), id="no JSON"),
    pytest.param(BrokenTool('{"town": "Paris"}'), id="not its schema"),
    pytest.param(Answer("", tool_calls=(ToolUse("x"),)), id="no such tool"),
]


@pytest.fixture(params=KINDS)
def kind(request):
    """Either function."""
    return request.param


@pytest.fixture(autouse=True)
def guard(monkeypatch):
    """The guard that the functions share."""
    counting = CountingGuard()
    monkeypatch.setattr(guards, "build", lambda config: counting)
    guards.forget()
    return counting


def test_a_stream_is_litellms_own_object(kind):
    """Code that tells streams from whole answers by LiteLLM's class, or looks into them, finds what it knows."""
    with FaultServer(default=HELLO) as server:
        stream, chunks = read(kind, server)

    assert isinstance(stream, litellm.CustomStreamWrapper)
    assert stream.response_uptil_now == text_of(chunks) == HELLO.text
    assert stream.custom_llm_provider == "openai"
    assert type(stream).__name__ == "CustomStreamWrapper"


def test_text_flows_and_calls_are_held_back(kind, guard):
    """Text comes at once; of a tool call that is still being written nothing comes."""
    seen = []
    writing = Cut(6, answer=Answer("Let me see.", tool_calls=(PARIS,)), abrupt=True)
    with FaultServer(default=writing) as server, pytest.raises(MidStreamFallbackError) as caught:
        read(kind, server, tools=[TOOL], seen=seen)

    assert text_of(seen) == "Let me see."
    assert not any(map(has_calls, seen))
    assert not caught.value.is_pre_first_chunk
    assert guard.endings == ["MidStreamFallbackError"]


def test_a_break_while_a_call_is_held_back_is_before_the_first_chunk(kind):
    """LiteLLM had read chunks, but nothing was shown: its Router may fall back."""
    seen = []
    writing = Cut(3, answer=Answer("", tool_calls=(PARIS,)), abrupt=True)
    with FaultServer(default=writing) as server, pytest.raises(MidStreamFallbackError) as caught:
        read(kind, server, tools=[TOOL], seen=seen)

    assert seen == []
    assert caught.value.is_pre_first_chunk


def test_a_sound_call_comes_out_unchanged_and_in_order(kind):
    """What was held back are LiteLLM's chunks, one by one, each as it came."""
    step = Answer("Let me see.", tool_calls=(PARIS, ToolUse("get_weather", {"city": "Rome"}, id="call_b")))
    with FaultServer(default=step) as server:
        _, theirs = read(kind, server, tools=[TOOL], through=litellm)
        _, ours = read(kind, server, tools=[TOOL])

    assert [each.choices[0].model_dump() for each in ours] == [each.choices[0].model_dump() for each in theirs]
    assert sum(map(has_calls, ours)) > 4


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_call_never_comes_out(kind, broken, guard):
    """What is no valid call raises one class that is ours and LiteLLM's, and not a piece of it is shown."""
    seen = []
    with FaultServer(default=broken) as server, pytest.raises(MidStreamFallbackError) as caught:
        read(kind, server, tools=[TOOL], seen=seen)

    assert isinstance(caught.value, errors.ToolCallInvalidError)
    assert isinstance(caught.value.original_exception, litellm.APIResponseValidationError)
    assert isinstance(caught.value.original_exception, errors.ToolCallInvalidError)
    assert not any(map(has_calls, seen))
    assert caught.value.is_pre_first_chunk == (text_of(seen) == "")
    assert caught.value.verdict is caught.value.original_exception.verdict is not None
    assert guard.endings == ["ToolCallInvalidError"]


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_whole_call_is_raised(kind, broken, guard):
    """The same in an answer that came whole."""
    with FaultServer(default=broken) as server, pytest.raises(litellm.APIResponseValidationError) as caught:
        call(kind, server, tools=[TOOL])

    assert isinstance(caught.value, errors.ToolCallInvalidError)
    assert guard.endings == ["ToolCallInvalidError"]


def test_a_call_that_breaks_early_hangs_up(kind):
    """A call that cannot become valid closes the upstream while it is still sending."""
    endless = ToolUse("get_weather", '{"city": Paris' + " " * 4000)
    with FaultServer(default=Answer("", tool_calls=(endless,), pace_s=0.01)) as server:
        asked = keywords_of(server, tools=[TOOL], stream=True)

        def hung_up():
            return server.wait_until(lambda requests: requests[0].closed_early_at)

        if kind == "sync":
            stream = guarded.completion(**asked)
            with pytest.raises(errors.ToolCallInvalidError):
                list(stream)
            assert hung_up()  # while the program still holds the stream
        else:

            async def run():
                stream = await guarded.acompletion(**asked)
                with pytest.raises(errors.ToolCallInvalidError):
                    await anext(stream)
                return stream, await asyncio.to_thread(hung_up)

            assert asyncio.run(closing_clients(run()))[1]


def test_text_behind_a_held_call_waits_too(kind):
    """Chunks never overtake one another: what follows a call that is not complete is held with it."""
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city"'}}
    rest = {"index": 0, "function": {"arguments": ': "Paris"}'}}
    chunks = [
        chunk(role="assistant", tool_calls=[call]),
        chunk(content="one moment"),
        chunk(tool_calls=[rest]),
        chunk(finish="tool_calls"),
    ]
    with FaultServer([Recorded(chunks=tuple(chunks)), Recorded(chunks=tuple(chunks[:2]))]) as server:
        _, whole = read(kind, server, tools=[TOOL])
        seen = []
        with pytest.raises(MidStreamFallbackError):
            read(kind, server, tools=[TOOL], seen=seen)

    assert [bool(each.choices[0].delta.tool_calls) for each in whole] == [True, False, True, False]
    assert seen == []


@pytest.mark.parametrize("fault", [Cut(2, answer=HELLO, abrupt=True), Reset(2, answer=HELLO)], ids=["cut", "reset"])
def test_a_break_after_output_is_litellms_exception(kind, fault, guard):
    """What is out stays out: the same class is raised that LiteLLM raises, with the same facts."""
    ours, theirs = [], []
    with FaultServer(default=fault) as server:
        with pytest.raises(MidStreamFallbackError) as expected:
            read(kind, server, through=litellm, seen=theirs)
        with pytest.raises(MidStreamFallbackError) as caught:
            read(kind, server, seen=ours)

    assert type(caught.value) is type(expected.value)
    assert text_of(ours) == text_of(theirs) == "Hello my "
    assert (caught.value.is_pre_first_chunk, caught.value.generated_content) == (False, "Hello my ")
    assert guard.endings == ["MidStreamFallbackError"]


def test_errors_of_a_stream_are_raised_by_the_call(kind, guard):
    """As in LiteLLM, a stream that cannot be opened fails at once, not when it is read."""
    with FaultServer(default=Status(401)) as server, pytest.raises(litellm.AuthenticationError):
        call(kind, server, stream=True)

    assert guard.endings == ["AuthenticationError"]


def test_usage_comes_as_from_litellm(kind):
    """The usage chunk is passed on to who asked for it."""
    options = {"stream_options": {"include_usage": True}}
    with FaultServer(default=HELLO) as server:
        _, ours = read(kind, server, **options)
        _, theirs = read(kind, server, through=litellm, **options)

    assert [getattr(each, "usage", None) for each in ours] == [getattr(each, "usage", None) for each in theirs]
    assert ours[-1].usage.total_tokens == 21


def test_a_stream_is_settled_before_its_last_chunk(kind, guard):
    """Who stops reading at the finish reason has a call that is booked."""
    ended = []

    def look(chunk):
        if chunk.choices[0].finish_reason:
            ended.append(guard.endings)

    async def run():
        async for chunk in await guarded.acompletion(**keywords_of(server, stream=True)):
            look(chunk)

    with FaultServer(default=HELLO) as server:
        if kind == "sync":
            for chunk in guarded.completion(**keywords_of(server, stream=True)):
                look(chunk)
        else:
            asyncio.run(closing_clients(run()))

    assert ended == [["ok"]]


@pytest.mark.parametrize("way", ["close", "drop", "with"])
def test_leaving_a_stream_closes_its_upstream_and_settles(kind, way, guard):
    """A stream that is closed or dropped in the middle hangs up, and what it took is settled, once."""
    with FaultServer(default=Stall(2, answer=HELLO)) as server:
        asked = keywords_of(server, stream=True)
        if kind == "sync":
            leave(guarded.completion(**asked), way)
        else:
            asyncio.run(closing_clients(aleave(asked, way)))
        assert way == "drop" or server.wait_until(lambda requests: requests[0].closed_early_at)

    # LiteLLM's logging holds a stream for a moment, and in a circle.
    wait_for(lambda: gc.collect() >= 0 and guard.endings == ["GeneratorExit"])


def test_a_left_text_completion_hangs_up(kind, guard):
    """LiteLLM's stream of a text completion cannot be closed; what it reads from is."""
    with FaultServer(default=Stall(2, answer=HELLO)) as server:
        asked = {name: value for name, value in keywords_of(server, stream=True).items() if name != "messages"}

        async def run():
            stream = await guarded.atext_completion(**asked, prompt="hi")
            await anext(stream)
            await stream.aclose()

        if kind == "sync":
            stream = guarded.text_completion(**asked, prompt="hi")
            next(stream)
            stream.close()
        else:
            asyncio.run(closing_clients(run()))
        assert server.wait_until(lambda requests: requests[0].closed_early_at)

    assert guard.endings == ["GeneratorExit"]


def leave(stream, way):
    """Read one chunk of a blocking stream and leave it."""
    next(stream)
    if way == "close":
        stream.close()
    elif way == "with":
        with stream:
            pass


async def aleave(asked, way):
    """The same for an async one."""
    stream = await guarded.acompletion(**asked)
    await anext(stream)
    if way == "close":
        await stream.aclose()
    elif way == "with":
        async with stream:
            pass


def wait_for(condition, timeout_s=10.0):
    """Wait until a condition holds, which a background loop brings about."""
    until = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < until:
        time.sleep(0.005)
    assert condition()


def test_a_cancelled_reader_settles(guard):
    """A task that is cancelled while it waits for a chunk leaves a call that is settled."""

    async def run():
        stream = await guarded.acompletion(**keywords_of(server, stream=True))
        await anext(stream)
        await anext(stream)
        reading = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0.05)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        return list(guard.endings)

    with FaultServer(default=Stall(2, answer=HELLO)) as server:
        assert asyncio.run(closing_clients(run())) == ["CancelledError"]


def test_a_read_stream_stays_at_its_end(kind):
    """Asked again, a stream that has ended says so, also after an error."""
    with FaultServer([HELLO, BrokenTool()]) as server:
        if kind == "sync":
            stream = guarded.completion(**keywords_of(server, stream=True))
            list(stream)
            assert next(stream, "end") == "end"
            stream = guarded.completion(**keywords_of(server, stream=True, tools=[TOOL]))
            with pytest.raises(errors.ToolCallInvalidError):
                list(stream)
            assert next(stream, "end") == "end"
        else:

            async def run():
                stream = await guarded.acompletion(**keywords_of(server, stream=True))
                [chunk async for chunk in stream]
                return await anext(stream, "end")

            assert asyncio.run(closing_clients(run())) == "end"


def test_generators_are_watched_too(guard):
    """What cannot change its class, a generator, is relayed: its chunks, its attributes and its end are the same."""

    class Watch:
        shown = False
        ended = ()

        def feed(self, chunk):
            return [chunk]

        def finish(self):
            return ["rest"]

        async def settle(self, error):
            self.ended = (*self.ended, error)

    async def frames():
        yield b"one"
        yield b"two"

    async def run():
        stream = opened(Watched(frames(), one, one.settle), masked=True)
        assert stream.ag_running is False
        return [frame async for frame in stream]

    one, other = Watch(), Watch()

    assert asyncio.run(run()) == [b"one", b"two", "rest"]
    assert list(opened(Watched(iter_frames(), other, other.settle), masked=True)) == [b"one", "rest"]
    assert one.ended == other.ended == (None,)


def iter_frames():
    """A blocking generator."""
    yield b"one"


def test_streams_of_text_completions_pass_and_settle(kind, guard):
    """Text completions stream through the guard as they come."""
    asked = {"model": "openai/gpt-4o", "prompt": "hi", "mock_response": "Hello there.", "stream": True}

    def ask(library):
        if kind == "sync":
            return [each.choices[0].text for each in library.text_completion(**asked)]

        async def run():
            return [each.choices[0].text async for each in await library.atext_completion(**asked)]

        return asyncio.run(closing_clients(run()))

    assert ask(guarded) == ask(litellm) != []
    assert guard.endings == ["ok"]


def test_a_fallback_of_a_stream(guard):
    """`fallbacks` of a streamed call are LiteLLM's, inside of one guarded call (async: its blocking ones fail)."""
    with FaultServer(default=Status(401)) as bad, FaultServer(default=HELLO) as good:
        others = [{"model": "openai/gpt-4.1", "api_base": good.url}]
        _, chunks = read("async", bad, fallbacks=others, max_retries=0)

    assert text_of(chunks) == HELLO.text
    assert [each.body["model"] for each in bad.requests + good.requests] == ["gpt-4o", "gpt-4.1"]
    assert guard.endings == ["ok"]
