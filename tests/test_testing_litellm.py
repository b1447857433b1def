"""The fault server as LiteLLM sees it: each fault shows as the trouble that it stands for."""

import asyncio

import pytest

from blueprint_llm.testing import (
    Answer,
    BadLine,
    BrokenTool,
    Cut,
    Empty,
    ErrorObject,
    FaultServer,
    HtmlPage,
    NotJson,
    Refuse,
    Reset,
    Stall,
    Status,
    ToolUse,
    numbered_text,
)

HELLO = Answer("Hello there world")
ASK = {"model": "openai/gpt-4o", "messages": [{"role": "user", "content": "hi"}], "api_key": "k", "max_retries": 0}
USAGE = {"stream": True, "stream_options": {"include_usage": True}}


@pytest.fixture
def litellm(litellm_warm):
    """LiteLLM, warm."""
    return litellm_warm


def read(stream):
    """The text of a stream, and the class of what broke it."""
    text = ""
    try:
        for chunk in stream:
            text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
    except Exception as error:  # noqa: BLE001 - LiteLLM's exceptions have no useful common class
        return text, type(error).__name__
    return text, None


def test_a_completion(litellm):
    """LiteLLM reads text, tool calls and usage of a whole answer."""
    step = Answer("Hello", tool_calls=(ToolUse("now"),))
    with FaultServer([step]) as server:
        answer = litellm.completion(**ASK, api_base=server.url)

    message = answer.choices[0].message
    assert (message.content, message.tool_calls[0].function.name, answer.usage.total_tokens) == ("Hello", "now", 21)


def test_a_long_stream(litellm):
    """LiteLLM reads a long stream to a proven end, with usage."""
    with FaultServer([Answer(numbered_text(300))]) as server:
        stream = litellm.completion(**ASK, **USAGE, api_base=server.url)
        chunks = list(stream)

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == numbered_text(300)
    assert (stream.received_finish_reason, chunks[-1].usage.total_tokens) == ("stop", 21)


@pytest.mark.parametrize(
    ("step", "error"),
    [
        pytest.param(Status(429), "RateLimitError", id="429"),
        pytest.param(Status(401), "AuthenticationError", id="401"),
        pytest.param(Status(503), "ServiceUnavailableError", id="503"),
        pytest.param(HtmlPage(502), "BadGatewayError", id="html"),
        pytest.param(Refuse(), "InternalServerError", id="refused"),
    ],
)
@pytest.mark.parametrize("keywords", [pytest.param({}, id="whole"), pytest.param(USAGE, id="stream")])
def test_errors_before_an_answer(litellm, step, error, keywords):
    """What the provider says at once is raised by the call, and the request is not repeated."""
    with FaultServer([step]) as server, pytest.raises(getattr(litellm, error)):
        litellm.completion(**ASK, **keywords, api_base=server.url)

    server.assert_done()


@pytest.mark.parametrize(
    ("step", "text", "error"),
    [
        pytest.param(Cut(2, answer=HELLO), "Hello there ", "MidStreamFallbackError", id="cut"),
        pytest.param(Cut(2, answer=HELLO, abrupt=True), "Hello there ", "MidStreamFallbackError", id="abrupt cut"),
        pytest.param(Reset(2, answer=HELLO), "Hello there ", "MidStreamFallbackError", id="reset"),
        pytest.param(Stall(1, answer=HELLO), "Hello ", "Timeout", id="stall"),
        pytest.param(BadLine(1, answer=HELLO), "Hello ", "MidStreamFallbackError", id="bad line"),
        pytest.param(ErrorObject(1, answer=HELLO), "Hello ", "MidStreamFallbackError", id="error object"),
        pytest.param(Empty(), "", None, id="empty"),
        pytest.param(NotJson(), "", None, id="no JSON"),
    ],
)
def test_streams_that_break(litellm, step, text, error):
    """A broken stream raises after its text, or ends without a finish reason from the provider."""
    with FaultServer([step]) as server:
        stream = litellm.completion(**ASK, **USAGE, api_base=server.url, timeout=0.5)
        found = read(stream)

    assert found == (text, error)
    assert stream.received_finish_reason is None


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(Cut(), id="cut"),
        pytest.param(Reset(), id="reset"),
        pytest.param(BadLine(), id="bad line"),
        pytest.param(ErrorObject(), id="error object"),
        pytest.param(Empty(), id="empty"),
        pytest.param(NotJson(), id="no JSON"),
    ],
)
async def test_answers_that_break(litellm, step):
    """A spoiled answer that is not streamed is an error."""
    with FaultServer([step]) as server:
        with pytest.raises((litellm.InternalServerError, litellm.APIError)):
            await litellm.acompletion(**ASK, api_base=server.url)
        await litellm.close_litellm_async_clients()


def test_broken_arguments_arrive_broken(litellm):
    """LiteLLM hands broken tool arguments on."""
    with FaultServer([BrokenTool('{"a": ')]) as server:
        answer = litellm.completion(**ASK, api_base=server.url)

    assert answer.choices[0].message.tool_calls[0].function.arguments == '{"a": '


async def test_leaving_a_stream_is_seen(litellm):
    """A caller that closes LiteLLM's stream early has hung up."""
    with FaultServer([Answer(numbered_text(2000), pace_s=0.01)]) as server:
        stream = await litellm.acompletion(**ASK, **USAGE, api_base=server.url)
        await anext(stream)
        await stream.aclose()

        assert await asyncio.to_thread(server.wait_until, lambda seen: seen[0].closed_early_at)
        await litellm.close_litellm_async_clients()
