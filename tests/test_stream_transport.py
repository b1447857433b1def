"""What goes wrong below a stream: each fault has a code of its own, and the first wrong character ends the call."""

import pytest
from driving import CALLERS, configuration

from blueprint_llm.errors import StreamBrokenError, ToolCallInvalidError
from blueprint_llm.testing import Answer, BadLine, Cut, Empty, ErrorObject, FaultServer, Reset, Stall, ToolUse

HALF = Answer("This text will be cut somewhere in the middle of it.")
WRITE = {
    "type": "function",
    "function": {
        "name": "write",
        "parameters": {
            "type": "object",
            "properties": {"mode": {"enum": ["new", "append"]}, "text": {"type": "string"}},
            "required": ["mode", "text"],
        },
    },
}


@pytest.fixture(params=CALLERS, ids=lambda caller: caller.name)
def caller(request, litellm_warm):
    """Either client."""
    return request.param


def alone(server, **blueprint):
    """One provider that is asked once."""
    return configuration(server.url, retry={"max_attempts": 1}, **blueprint)


@pytest.mark.parametrize(
    ("step", "code"),
    [
        pytest.param(BadLine(3, answer=HALF), "not_json", id="bad line"),
        pytest.param(ErrorObject(3, answer=HALF), "error_object", id="error object"),
        pytest.param(Empty(), "empty_stream", id="nothing but DONE"),
        pytest.param(Stall(3, answer=HALF), "stalled", id="stalled"),
        pytest.param(Cut(3, answer=HALF), "missing_finish", id="no terminal event"),
        pytest.param(Cut(3, answer=HALF, abrupt=True), "connection_lost", id="cut inside the transfer encoding"),
        pytest.param(Reset(3, answer=HALF), "connection_lost", id="reset"),
    ],
)
def test_each_fault_of_the_transport_has_its_code(caller, step, code):
    """A stream that breaks is `stream_broken`, and its code says how."""
    with FaultServer(default=step) as server:
        heard = caller.stream(alone(server))

    assert isinstance(heard.error, StreamBrokenError)
    assert (heard.error.category, heard.error.code) == ("stream_broken", code)
    assert heard.error.trace["attempts"][0]["code"] == code


def test_the_first_wrong_character_closes_the_stream(caller):
    """The server is left in mid-answer, what it sent is paid for at an estimate, and the trace says what was saved."""
    call = ToolUse("write", {"mode": "delete", "text": "words that nobody needs any more " * 30})
    answer = Answer("", tool_calls=(call,), pace_s=0.05, usage=None)
    with FaultServer(default=answer) as server:
        heard = caller.stream(alone(server, streaming={"reask": 0}), tools=[WRITE], max_tokens=400)

        assert server.wait_until(lambda seen: seen[0].closed_early_at is not None)
    (row,) = heard.error.trace["attempts"]
    assert isinstance(heard.error, ToolCallInvalidError)
    assert (heard.error.verdict.path, heard.error.code) == ("/mode", "schema_enum")
    assert 350 < row["tokens_saved"] < 400
    assert (row["usage_source"], row["category"]) == ("estimated", "malformed")
    assert row["cost_usd"] > 0
    assert not [each for chunk in heard.chunks for each in chunk.tool_calls]
