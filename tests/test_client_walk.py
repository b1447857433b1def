"""One call's way through trouble, over the wire: deadlines, waits, who is asked next, breakers, and the ladder."""

import contextlib
import json
import socket
import threading
import time

import pytest
from asking import KINDS, asking
from driving import CALLERS, KEY, MESSAGES, closing_clients, configuration

from blueprint_llm import LLMClient, SyncLLMClient
from blueprint_llm.errors import CallError, DeadlineExceededError, StreamBrokenError, ToolCallInvalidError
from blueprint_llm.testing import (
    Answer,
    BrokenTool,
    Cut,
    ErrorObject,
    FaultServer,
    ScriptedAdapter,
    Stall,
    Status,
    ToolUse,
    numbered_text,
)

GOOD = "A good answer that is complete and right."
LONG = Answer("This text will be cut somewhere in the middle of it.")
PATIENT = {"total_s": 30, "first_token_s": 20, "idle_s": 15}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}]
CALL = Answer("", tool_calls=(ToolUse("get_weather", {"city": "Paris"}),))
ONCE = {"base_s": 0.001, "max_attempts": 1}


@pytest.fixture(params=CALLERS, ids=lambda caller: caller.name)
def caller(request, litellm_warm):
    """Either client."""
    return request.param


@pytest.fixture(params=[pytest.param(True, id="stream"), pytest.param(False, id="whole")])
def streamed(request):
    """As a stream or whole."""
    return request.param


def ask(caller, config, *, streamed=False, **request):
    """What the caller heard."""
    return (caller.stream if streamed else caller.chat)(config, **request)


class Drip:
    """A server that answers 200 and then sends next to nothing, for ever.

    Args:
        pace_s: The wait between two bytes.
        first: What it says before that.
    """

    def __init__(self, *, pace_s, first=b""):
        self._pace_s, self._first = pace_s, first
        self._over = threading.Event()

    def __enter__(self):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
                self._threads[-1].start()

    def _serve(self, connection):
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + self._first)
            while not self._over.wait(self._pace_s):
                connection.sendall(b":")


def test_deadline_holds_over_a_chain_that_never_answers(caller, streamed):
    """Three providers that never answer: the deadline ends the call, and each of them was asked."""
    with FaultServer(default=Stall(0)) as one, FaultServer(default=Stall(0)) as two, FaultServer(default=Stall(0)) as n:
        config = configuration(one.url, two.url, n.url, deadline=PATIENT, retry=ONCE)
        heard = ask(caller, config, streamed=streamed, deadline_s=1.5)
        asked = [len(server.requests) for server in (one, two, n)]

    assert isinstance(heard.error, DeadlineExceededError)
    assert asked == [1, 1, 1]
    assert [error.category for error in heard.error.attempts] == ["timeout"] * 3


def test_deadline_holds_against_a_drip(caller, streamed):
    """A server that keeps the connection alive with a byte now and then does not outlast the deadline."""
    with Drip(pace_s=0.1) as server:
        heard = ask(caller, configuration(server.url, deadline=PATIENT), streamed=streamed, deadline_s=0.7)

    assert isinstance(heard.error, DeadlineExceededError)


def test_silence_after_the_first_delta_ends_a_stream(caller):
    """A stream that drips but says nothing more is broken after `idle_s`."""
    with Drip(pace_s=0.05, first=b'data: {"choices": [{"index": 0, "delta": {"content": "Hi"}}]}\n\n') as server:
        limits = {"total_s": 5, "first_token_s": 2, "idle_s": 0.3}
        heard = ask(caller, configuration(server.url, deadline=limits, retry=ONCE), streamed=True)

    assert isinstance(heard.error, StreamBrokenError)
    assert heard.error.code == "stalled"
    assert heard.text == "Hi"


def test_own_deadline_may_be_longer(caller):
    """A call that brings a longer deadline gets it, the transport's own limits included."""
    with FaultServer(default=Answer(GOOD, delay_s=1.4)) as server:
        limits = {"total_s": 0.3, "first_token_s": 0.3, "idle_s": 0.3}
        heard = caller.chat(configuration(server.url, deadline=limits), deadline_s=10)

    assert heard.error is None
    assert heard.response.content == GOOD


def test_long_stream_outlives_the_total_deadline(caller):
    """`total_s` ends with the first delta: a stream may take longer."""
    with FaultServer(default=Answer(numbered_text(30), pace_s=0.05)) as server:
        limits = {"total_s": 0.8, "first_token_s": 0.8, "idle_s": 0.5}
        heard = ask(caller, configuration(server.url, deadline=limits), streamed=True)

    assert heard.error is None
    assert heard.text == numbered_text(30)


def test_stream_that_breaks_late_still_falls_back(caller):
    """The time that a stream has streamed is not the deadline's: when it breaks, the next target has its turn."""
    slow = Answer(numbered_text(40), pace_s=0.05)
    with FaultServer(default=Cut(25, answer=slow)) as bad, FaultServer(default=Answer(GOOD)) as good:
        limits = {"total_s": 1.0, "first_token_s": 1.0, "idle_s": 0.5}
        config = configuration(bad.url, good.url, deadline=limits, retry=ONCE)
        heard = caller.stream(config)

    assert heard.error is None
    assert heard.text == heard.response.content == GOOD


def test_wait_that_is_too_long_goes_on_at_once(caller, streamed):
    """A Retry-After above the limit sends the walk to the next target without a wait."""
    with (
        FaultServer(default=Status(429, headers={"retry-after": "21"})) as bad,
        FaultServer(default=Answer(GOOD)) as good,
    ):
        heard = ask(caller, configuration(bad.url, good.url, deadline=PATIENT), streamed=streamed)
        asked = len(bad.requests)

    assert heard.response.content == GOOD
    assert asked == 1
    assert [attempt["waited_s"] for attempt in heard.response.trace["attempts"]] == [0, 0]


@pytest.mark.parametrize(
    ("headers", "least_s"), [({"retry-after": "0.4"}, 0.4), ({"retry-after-ms": "300"}, 0.3)], ids=["seconds", "ms"]
)
def test_wait_that_was_asked_for_is_kept(caller, headers, least_s):
    """A Retry-After within the limit is waited for, not longer, and the same target is asked again."""
    with FaultServer([Status(429, headers=headers), Answer(GOOD)]) as server:
        heard = caller.chat(configuration(server.url))
        first, second = server.requests

    assert heard.response.content == GOOD
    assert least_s <= second.at - first.at
    assert heard.response.trace["attempts"][1]["waited_s"] == pytest.approx(least_s)


ONE_REQUEST_EACH = [pytest.param(code, True, id=str(code)) for code in (401, 402, 403, 404)]
NOWHERE_ELSE = [pytest.param(code, False, id=str(code)) for code in (400, 422)]


@pytest.mark.parametrize(("status", "goes_on"), ONE_REQUEST_EACH + NOWHERE_ELSE)
def test_refusal_is_never_repeated(caller, streamed, status, goes_on):
    """401, 402, 403 and 404 go to the next target after one request; 400 and 422 go nowhere."""
    with FaultServer(default=Status(status, "no")) as bad, FaultServer(default=Answer(GOOD)) as good:
        heard = ask(caller, configuration(bad.url, good.url), streamed=streamed)
        asked = len(bad.requests), len(good.requests)

    assert asked == (1, int(goes_on))
    if goes_on:
        assert heard.response.content == GOOD
    else:
        assert (heard.error.category, heard.error.status, heard.error.provider) == ("invalid_request", status, "p0")


def test_content_refusal_is_never_repeated(caller, streamed):
    """What a provider refuses for its content is asked once, and nowhere else."""
    body = {
        "error": {
            "message": "Your request was rejected.",
            "code": "content_policy_violation",
            "type": "invalid_request_error",
        }
    }
    with FaultServer(default=Status(400, body=body)) as bad, FaultServer(default=Answer(GOOD)) as good:
        heard = ask(caller, configuration(bad.url, good.url), streamed=streamed)
        asked = len(bad.requests), len(good.requests)

    assert asked == (1, 0)
    assert heard.error.category == "content_policy"


def test_account_without_money_is_left_alone(caller):
    """`insufficient_quota`, even as 429, is not retried, and the account is circuit open for the calls behind."""
    broke = Status(429, "You exceeded your quota", type="insufficient_quota", error_code="insufficient_quota")
    with FaultServer(default=broke) as bad, FaultServer(default=Answer(GOOD)) as good:
        config = configuration(bad.url, good.url)
        answers = [caller.chat(config).response for _ in range(3)]
        asked = len(bad.requests)

    assert [answer.content for answer in answers] == [GOOD] * 3
    assert asked == 1
    assert "circuit open" in answers[2].trace["route"]["considered"][0]["reason"]


def failed(client, *, streamed):
    """The error of a question to an open client."""
    with pytest.raises(CallError) as caught:
        (client.stream if streamed else client.chat)(messages=MESSAGES)
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("targets", [1, 2])
def test_a_retry_that_is_held_back_is_told(kind, streamed, targets, litellm_warm):
    """Past the floor of ten, a retry that finds no room is not made: trace and error say so, with the numbers."""
    with FaultServer(default=Status(503)) as bad:
        config = configuration(*[bad.url] * targets, breaker={"failures": 1000})
        with asking(kind, config) as client:
            errors = [failed(client, streamed=streamed) for _ in range(6)]
        asked = len(bad.requests)

    first, last = errors[0], errors[-1]
    assert first.trace["held_back"] == []
    assert "held back" not in str(first)
    row = {"retries": 10, "calls": 6, "ratio": 0.2, "floor": 10, "window_s": 10.0}
    assert last.trace["held_back"] == [row] * targets
    assert str(last).count("a retry was held back: 10 retries beside 6 calls in 10 s") == targets
    assert asked == 6 * targets + 10


def test_asking_again_for_an_invalid_answer_is_never_held_back(litellm_warm):
    """Re-asks are no retries of an outage: many in a row are made, and none is counted."""
    broken = BrokenTool('{"city": 5}')
    with FaultServer([broken, CALL] * 15) as server, asking("sync", configuration(server.url)) as client:
        answers = [client.chat(messages=MESSAGES, tools=TOOLS) for _ in range(15)]
        asked = len(server.requests)

    assert asked == 30
    assert [answer.trace["held_back"] for answer in answers] == [[]] * 15


@pytest.mark.parametrize("kind", KINDS)
def test_targets_passed_over_stand_in_the_error(kind, streamed, litellm_warm):
    """An error of the only target that was asked names those that were not, and why."""
    with FaultServer(default=Status(503)) as bad, FaultServer([Answer(GOOD)], default=Status(503)) as flaky:
        config = configuration(bad.url, flaky.url, retry=ONCE, breaker={"failures": 1})
        config["blueprint"]["providers"]["p2"] = {"model": "anthropic/claude-sonnet-4-5"}
        config["blueprint"]["chains"]["default"].append("p2")
        with asking(kind, config) as client:
            client.chat(messages=MESSAGES)
            error = failed(client, streamed=streamed)

    first, *passed_over = str(error).splitlines()
    assert "p1 (openai/gpt-4o): HTTP 503" in first
    assert [line.partition("): ")[0] for line in sorted(passed_over)] == [
        "  passed over p0 (openai/gpt-4o",
        "  passed over p2 (anthropic/claude-sonnet-4-5",
    ]
    assert "circuit open for" in str(error)
    assert "no API key" in str(error)


class Weather:
    """What a server answers while it is down, and then."""

    def __init__(self):
        self.up = False

    def __call__(self, _):
        """The step of the moment."""
        return Answer(GOOD) if self.up else Status(500)


def wait(seconds):
    """Let a breaker's time pass."""
    time.sleep(seconds)


def test_breaker_opens_and_closes_over_an_outage(litellm_warm):
    """A target that fails is circuit open, probed when its time is over, and trusted again once it answers."""
    weather = Weather()
    with FaultServer(weather) as flaky, FaultServer(default=Answer("other")) as other:
        breaker = {"failures": 2, "open_s": 0.5}
        config = configuration(flaky.url, other.url, retry=ONCE, breaker=breaker)
        with SyncLLMClient(config) as client, SyncLLMClient(config) as neighbour:

            def texts(calls, of=client):
                return [of.chat(messages=MESSAGES).content for _ in range(calls)]

            assert texts(5) == ["other"] * 5
            assert len(flaky.requests) == 2  # it opened after two failures in a row
            assert texts(2, neighbour) == ["other"] * 2
            assert len(flaky.requests) == 2  # the neighbour knows from the store
            wait(0.6)
            assert texts(3) == ["other"] * 3
            assert len(flaky.requests) == 3  # one probe, which failed: open for twice as long
            weather.up = True
            wait(0.6)
            assert texts(1) == ["other"]
            wait(0.6)
            assert texts(3, neighbour) == texts(3) == [GOOD] * 3
            assert len(flaky.requests) == 9


def test_only_target_is_tried_although_its_breaker_is_open(caller):
    """A chain whose only target is circuit open tries it once all the same."""
    with FaultServer([Status(500), Answer(GOOD)]) as server:
        config = configuration(server.url, retry=ONCE, breaker={"failures": 1, "open_s": 60})
        failed, answered = caller.chat(config), caller.chat(config)

    assert failed.error.category == "unavailable"
    assert answered.response.content == GOOD


def test_chain_is_replaced_for_later_calls(litellm_warm):
    """`set_fallback_chain` decides whom later calls ask; a stream in flight keeps its chain."""
    with (
        FaultServer(default=Cut(3, answer=LONG)) as bad,
        FaultServer(default=Answer(GOOD)) as good,
        FaultServer(default=Answer("third")) as third,
        SyncLLMClient(configuration(bad.url, good.url, third.url, retry=ONCE)) as client,
    ):
        stream = client.stream(messages=MESSAGES)
        next(stream)
        client.set_fallback_chain(["p2"])
        rest = list(stream)
        later = client.chat(messages=MESSAGES)

    assert stream.response.content == GOOD
    assert rest[-1].is_done
    assert later.content == "third"


def restarts(heard):
    """The chunks that announce a new beginning."""
    return [chunk for chunk in heard.chunks if chunk.restart]


def test_broken_stream_restarts(caller):
    """`on_break: restart` announces the error once, right before the first chunk of the new answer."""
    with FaultServer([Cut(3, answer=LONG), Answer(GOOD)]) as server:
        heard = caller.stream(configuration(server.url))

    (restart,) = restarts(heard)
    assert (restart.delta, restart.error.category, restart.is_done) == ("", "stream_broken", False)
    assert heard.text == heard.response.content == GOOD
    assert sum(chunk.is_done for chunk in heard.chunks) == 1


def test_stream_that_said_nothing_falls_back_unseen(caller):
    """Trouble before the first word is recovered without a chunk."""
    with FaultServer([Cut(0, answer=LONG), Answer(GOOD)]) as server:
        heard = caller.stream(configuration(server.url))

    assert restarts(heard) == []
    assert not any(chunk.error for chunk in heard.chunks)
    assert heard.text == GOOD


def test_broken_stream_may_fail(caller):
    """`on_break: fail` raises once text is out, and asks nobody else; before that it falls back unseen."""
    with FaultServer([Cut(3, answer=LONG), Cut(0, answer=LONG), Answer(GOOD)]) as server:
        config = configuration(server.url, streaming={"on_break": "fail"})
        broken, unseen = caller.stream(config), caller.stream(config)
        asked = len(server.requests)

    assert isinstance(broken.error, StreamBrokenError)
    assert not any(chunk.error or chunk.restart for chunk in broken.chunks)
    assert unseen.text == GOOD
    assert asked == 3


def resuming(url):
    """A provider whose model goes on with a given beginning."""
    providers = {"p0": {"model": "deepseek/deepseek-chat", "api_base": url, "api_key": KEY}}
    return configuration(providers=providers, chains={"default": ["p0"]}, streaming={"on_break": "resume"})


def test_broken_stream_may_be_resumed(caller):
    """`on_break: resume` hands the model its own beginning; the text goes on without a restart, twice if need be."""
    text = "one two three four five six"
    steps = [Cut(2, answer=Answer(text)), Cut(2, answer=Answer(" three four five six")), Answer(" four five six")]
    with FaultServer(steps) as server:
        heard = caller.stream(resuming(server.url))
        bodies = [request.body["messages"][len(MESSAGES) :] for request in server.requests]

    assert heard.error is None
    assert restarts(heard) == []
    assert heard.text == heard.response.content == text
    assert [[message["content"] for message in added] for added in bodies] == [[], ["one two"], ["one two three"]]


def test_resumed_stream_that_ends_elsewhere_restarts(caller):
    """A beginning that its model cannot finish is void when another target takes over."""
    with FaultServer(default=Cut(2, answer=LONG)) as bad, FaultServer(default=Answer(GOOD)) as good:
        config = resuming(bad.url)
        config["blueprint"]["providers"]["p1"] = {"model": "openai/gpt-4o", "api_base": good.url, "api_key": KEY}
        config["blueprint"]["chains"]["default"] = ["p0", "p1"]
        heard = caller.stream(config)

    assert len(restarts(heard)) == 1
    assert heard.text == heard.response.content == GOOD


def test_call_cut_by_length_gets_more_room(caller, streamed):
    """A tool call that the output limit cut is asked for again with twice the limit, in the words the caller used."""
    with FaultServer([BrokenTool(finish_reason="length"), CALL] * 2) as server:
        config = configuration(server.url)
        plain = ask(caller, config, streamed=streamed, tools=TOOLS, max_tokens=100)
        newer = ask(caller, config, streamed=streamed, tools=TOOLS, max_completion_tokens=100)
        bodies = [request.body for request in server.requests]

    assert plain.response.tool_calls[0].arguments == newer.response.tool_calls[0].arguments == {"city": "Paris"}
    assert [body.get("max_tokens") for body in bodies] == [100, 200, None, None]
    assert [body.get("max_completion_tokens") for body in bodies] == [None, None, 100, 200]
    assert [body["messages"] for body in bodies] == [MESSAGES] * 4


def test_malformed_call_is_asked_for_again(caller, streamed):
    """A malformed call leads to one request with a short clarification; the broken call is not in its history."""
    broken = BrokenTool('{"city": 5}')
    with FaultServer([broken, CALL]) as server:
        heard = ask(caller, configuration(server.url), streamed=streamed, tools=TOOLS)
        second = server.requests[1].body["messages"]

    (call,) = heard.response.tool_calls
    assert (call.name, call.arguments) == ("get_weather", {"city": "Paris"})
    assert second[:-1] == MESSAGES
    assert second[-1]["role"] == "user"
    assert "get_weather" in second[-1]["content"]
    assert "/city" in second[-1]["content"]
    assert "tool_calls" not in json.dumps(second)
    if streamed:
        assert [chunk.tool_calls for chunk in heard.chunks if chunk.tool_calls] == [(call,)]


def test_malformed_call_is_asked_for_once_more_only(caller, streamed):
    """After `streaming.reask` clarifications the walk goes on to the next target, or raises the verdict."""
    with FaultServer(default=BrokenTool('{"city": 5}')) as bad, FaultServer(default=CALL) as good:
        alone = ask(caller, configuration(bad.url), streamed=streamed, tools=TOOLS)
        asked_alone = len(bad.requests)
        both = ask(caller, configuration(bad.url, good.url), streamed=streamed, tools=TOOLS)
        never = ask(caller, configuration(bad.url, streaming={"reask": 0}), streamed=streamed, tools=TOOLS)

        assert len(bad.requests) - asked_alone == 3

    error = alone.error.attempts[0]
    assert isinstance(error, ToolCallInvalidError)
    assert (error.verdict.tool, error.verdict.path) == ("get_weather", "/city")
    assert asked_alone == 2
    assert both.response.provider == "p1"
    assert isinstance(never.error, ToolCallInvalidError)


def test_stream_that_breaks_twice_is_asked_for_whole(caller):
    """After two broken streams the third request of a target is not streamed, and its text comes in one piece."""
    with FaultServer([Cut(3, answer=LONG), ErrorObject(2, answer=LONG), Answer(GOOD)]) as server:
        heard = caller.stream(configuration(server.url))
        asked_to_stream = [bool(request.body.get("stream")) for request in server.requests]

    assert asked_to_stream == [True, True, False]
    assert heard.text == heard.response.content == GOOD
    assert [chunk.delta for chunk in heard.chunks][-2:] == [GOOD, ""]


def test_trouble_behind_a_resumed_prefix_is_not_doubled():
    """Text that was shown is never emitted a second time, whatever the model repeats of its white space."""
    steps = [Cut(2, answer=Answer("one two three")), Answer(" three")]
    adapter = ScriptedAdapter(steps)
    with SyncLLMClient(resuming("http://127.0.0.1:1/v1"), adapters={"p0": adapter}) as client:
        stream = client.stream(messages=MESSAGES)
        shown = "".join(chunk.delta for chunk in stream)

    assert shown == stream.response.content


async def test_sync_and_async_share_a_store(litellm_warm):
    """What one client learns of a target, another of the other kind knows at once."""
    with FaultServer(default=Status(500)) as bad, FaultServer(default=Answer(GOOD)) as good:
        config = configuration(bad.url, good.url, retry=ONCE, breaker={"failures": 1, "open_s": 60})
        with SyncLLMClient(config) as blocking:
            blocking.chat(messages=MESSAGES)

        async def ask_again():
            async with LLMClient(config) as client:
                return (await client.chat(messages=MESSAGES)).content, client.get_usage().calls

        content, calls = await closing_clients(ask_again())
        asked = len(bad.requests)

    assert (content, calls, asked) == (GOOD, 2, 1)


def test_every_failure_is_a_call_error_with_facts(caller, streamed):
    """An error tells provider, model, status, kind and what the attempts were."""
    with FaultServer(default=Status(503, "overloaded")) as server:
        error = ask(caller, configuration(server.url, retry=ONCE), streamed=streamed).error

    assert isinstance(error, CallError)
    assert (error.provider, error.model, error.status) == ("p0", "openai/gpt-4o", 503)
    assert (error.category, error.kind) == ("unavailable", "retriable")
    assert "overloaded" in str(error)


def test_a_reask_waits_for_nothing():
    """A clarification for an invalid call is sent at once, however long a retry of an outage would wait."""
    steps, waited = iter([BrokenTool('{"city": 5}'), CALL]), []
    adapter = ScriptedAdapter(lambda _call: next(steps))
    config = configuration("http://127.0.0.1:1", retry={"base_s": 1, "jitter": "none"})

    async def sleep(seconds):
        waited.append(seconds)

    with SyncLLMClient(config, adapters={"p0": adapter}) as client:
        client._runtime.sleep = sleep
        answer = client.chat(messages=MESSAGES, tools=TOOLS)

    assert [call.arguments for call in answer.tool_calls] == [{"city": "Paris"}]
    assert waited == [0.0]
