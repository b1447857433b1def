"""The main table: every fault, streamed and not, through both drivers, ends right, typed and in time."""

import pytest
from driving import CALLERS, configuration

from blueprint_llm.errors import CATEGORIES, CallError, ChainExhaustedError, DeadlineExceededError
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
)

GOOD = "A good answer that is complete and right."
LONG = Answer("This text will be cut somewhere in the middle of it.")

FAULTS = [
    pytest.param(Status(429, headers={"retry-after": "0.01"}), "rate_limited", id="429"),
    pytest.param(Status(429, headers={"retry-after": "3600"}), "rate_limited", id="429 for an hour"),
    pytest.param(Status(500), "unavailable", id="500"),
    pytest.param(Status(503), "unavailable", id="503"),
    pytest.param(Status(529), "unavailable", id="529"),
    pytest.param(Status(401), "refused", id="401"),
    pytest.param(Status(402), "refused", id="402"),
    pytest.param(Status(403), "refused", id="403"),
    pytest.param(Status(404), "not_found", id="404"),
    pytest.param(Status(408), "timeout", id="408"),
    pytest.param(HtmlPage(502), "unavailable", id="an HTML 502"),
    pytest.param(Refuse(), "unavailable", id="connection closed"),
    pytest.param(Empty(), "stream_broken", id="an empty answer"),
    pytest.param(NotJson(), "stream_broken", id="200 that is no JSON"),
    pytest.param(Cut(3, answer=LONG), "stream_broken", id="cut"),
    pytest.param(Cut(3, answer=LONG, abrupt=True), "stream_broken", id="cut abruptly"),
    pytest.param(Reset(3, answer=LONG), "stream_broken", id="reset"),
    pytest.param(Stall(3, answer=LONG), "stream_broken", id="stall"),
    pytest.param(Stall(0, answer=LONG), "timeout", id="stall before the first token", marks=pytest.mark.slow),
    pytest.param(BadLine(3, answer=LONG), "stream_broken", id="bad line"),
    pytest.param(ErrorObject(3, answer=LONG), "stream_broken", id="error object"),
    pytest.param(BrokenTool(), "malformed", id="broken tool call"),
]
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]


@pytest.fixture(params=CALLERS, ids=lambda caller: caller.name)
def caller(request, litellm_warm):
    """Either client."""
    return request.param


@pytest.mark.parametrize("streamed", [pytest.param(True, id="stream"), pytest.param(False, id="whole")])
@pytest.mark.parametrize(("fault", "category"), FAULTS)
def test_fault_falls_back(caller, fault, category, streamed):
    """A healthy target behind a faulty one gives the complete answer; text is never doubled without a restart."""
    with FaultServer(default=fault) as bad, FaultServer(default=Answer(GOOD)) as good:
        ask = caller.stream if streamed else caller.chat

        heard = ask(configuration(bad.url, good.url), tools=TOOLS)

    assert heard.error is None
    assert heard.response.content == GOOD
    assert heard.response.provider == "p1"
    assert bad.requests
    failed = [row for row in heard.response.trace["attempts"] if row["provider"] == "p0"]
    assert failed
    assert all(row["category"] in CATEGORIES for row in failed)
    if streamed:
        assert heard.text == GOOD
        assert sum(chunk.is_done for chunk in heard.chunks) == 1


def first_cause(error):
    """The error of the first attempt."""
    return error.attempts[0] if isinstance(error, ChainExhaustedError | DeadlineExceededError) else error


@pytest.mark.parametrize("streamed", [pytest.param(True, id="stream"), pytest.param(False, id="whole")])
@pytest.mark.parametrize(("fault", "category"), FAULTS)
def test_fault_alone_is_a_typed_error_in_time(caller, fault, category, streamed):
    """A faulty target alone gives an error of its category within the deadline, never an answer."""
    with FaultServer(default=fault) as bad:
        config = configuration(bad.url, retry={"base_s": 0.001, "max_attempts": 2})
        ask = caller.stream if streamed else caller.chat

        heard = ask(config, tools=TOOLS, deadline_s=1.5)

    assert isinstance(heard.error, CallError)
    assert heard.response is None
    if streamed:
        assert first_cause(heard.error).category == category
        assert not any(chunk.is_done for chunk in heard.chunks)
    assert heard.error.trace["attempts"]
