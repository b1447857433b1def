"""The fault server over urllib: scripts, records and complaints; and as a program of its own."""

import gc
import io
import json
import re
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import warnings
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from blueprint_llm.testing import (
    Answer,
    Cut,
    Empty,
    FaultServer,
    Script,
    Status,
    ToolUse,
    load_script,
)
from blueprint_llm.testing.__main__ import main

HELLO = Answer("Hello there world")
TOOL = Answer("", tool_calls=(ToolUse("get_weather", {"city": "Paris"}), ToolUse("now", id="call_x")))


def fetch(server, path="/v1/chat/completions", **body):
    """A request through urllib: its status, headers and JSON."""
    content = json.dumps({"model": "gpt-4o", "messages": [], **body}).encode()
    try:
        with urllib.request.urlopen(server.url.removesuffix("/v1") + path, content, timeout=10) as reply:
            return reply.status, reply.headers, json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, json.load(error)


def test_an_answer_is_a_chat_completion():
    """A plain request gets the text, usage and the model it asked for, in OpenAI's shape."""
    with FaultServer([Answer("Hello", headers={"x-request-id": "r1"})]) as server:
        status, headers, reply = fetch(server)

    assert (status, headers["x-request-id"], reply["object"], reply["model"]) == (
        200,
        "r1",
        "chat.completion",
        "gpt-4o",
    )
    assert reply["choices"] == [
        {"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
    ]
    assert reply["usage"] == {"prompt_tokens": 12, "completion_tokens": 9, "total_tokens": 21}


def test_tool_calls_in_a_completion():
    """Tool calls carry ids, and their arguments as a string."""
    with FaultServer([TOOL]) as server:
        choice = fetch(server)[2]["choices"][0]

    assert choice["finish_reason"] == "tool_calls"
    assert [(call["id"], call["function"]) for call in choice["message"]["tool_calls"]] == [
        ("call_0", {"name": "get_weather", "arguments": '{"city": "Paris"}'}),
        ("call_x", {"name": "now", "arguments": "{}"}),
    ]


def test_usage_may_be_any_object():
    """Usage with details is sent as it stands."""
    usage = {"prompt_tokens": 5, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 4}}

    with FaultServer([Answer(usage=usage)]) as server:
        assert fetch(server)[2]["usage"] == usage


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("step", "status", "kind", "error"),
    [
        pytest.param(Status(429), 429, "rate_limit_error", "Too Many Requests", id="429"),
        pytest.param(Status(401, "bad key"), 401, "authentication_error", "bad key", id="401"),
        pytest.param(Status(503), 503, "server_error", "Service Unavailable", id="503"),
        pytest.param(Status(529), 529, "server_error", "Unknown", id="a status without a phrase"),
        pytest.param(Status(400, type="t"), 400, "t", "Bad Request", id="its own type"),
    ],
)
def test_statuses_come_in_openai_shape(step, status, kind, error, stream):
    """An HTTP error has the status, and OpenAI's error object."""
    with FaultServer([step]) as server:
        found, _, reply = fetch(server, stream=stream)

    assert (found, reply["error"]["type"], reply["error"]["message"]) == (status, kind, error)


def test_status_headers_code_and_body():
    """A status carries its headers, a provider's code, or any body at all."""
    limited = Status(429, error_code="quota", headers={"retry-after": "7", "retry-after-ms": "7000"})
    with FaultServer([limited, Status(500, body={"detail": "odd"})]) as server:
        first, second = fetch(server), fetch(server)

    assert (first[1]["retry-after"], first[1]["retry-after-ms"], first[2]["error"]["code"]) == ("7", "7000", "quota")
    assert second[2] == {"detail": "odd"}


def test_requests_are_recorded():
    """A record holds method, path, headers in lower case, and the body; its repr shows no header."""
    with FaultServer([HELLO]) as server:
        request = urllib.request.Request(
            server.url + "/chat/completions", b'{"model": "m"}', {"Authorization": "Bearer sk-canary"}
        )
        urllib.request.urlopen(request, timeout=10).close()
        seen = server.requests[0]

    assert (seen.method, seen.path, seen.body) == ("POST", "/v1/chat/completions", {"model": "m"})
    assert seen.headers["authorization"] == "Bearer sk-canary"
    assert "canary" not in repr(seen)


@pytest.mark.parametrize("content", [b"[1]", b"\xff", b""])
def test_a_body_that_is_no_object_is_recorded_as_empty(content):
    """A request without a JSON object still gets its answer."""
    with FaultServer([HELLO]) as server:
        urllib.request.urlopen(server.url + "/chat/completions", content, timeout=10).close()

        assert server.requests[0].body == {}


def test_any_prefix_is_accepted_and_other_paths_are_not():
    """Chat completions are answered under any prefix; another path is a 404 that uses up no step."""
    with FaultServer([HELLO]) as server:
        other = fetch(server, "/v1/embeddings")
        chat = fetch(server, "/openai/deployments/x/chat/completions")
        server.assert_done()

    assert (other[0], chat[0]) == (404, 200)
    assert "POST /v1/embeddings" in other[2]["error"]["message"]


def test_a_default_answers_the_rest():
    """After the steps come answers from the default, as many as are asked for."""
    with FaultServer([Status(500)], default=Answer("rest")) as server:
        statuses = [fetch(server)[0] for _ in range(3)]
        server.assert_done()

    assert statuses == [500, 200, 200]


def test_steps_may_be_added_later():
    """A step added while the server runs is used in its turn."""
    with FaultServer() as server:
        server.add(Status(503), Answer())

        assert [fetch(server)[0] for _ in range(2)] == [503, 200]
        server.assert_done()


def test_a_function_of_the_request_answers():
    """State-dependent behaviour is a function of the request."""
    with FaultServer(lambda request: Status(429) if request.body["model"] == "busy" else HELLO) as server:
        assert [fetch(server, model=model)[0] for model in ("busy", "free")] == [429, 200]
        server.assert_done()


def test_unexpected_requests_and_unused_steps_are_told():
    """A strict script answers 400 to what it did not expect, and assert_done lists what differs."""
    with FaultServer([HELLO]) as server:
        statuses = [fetch(server)[0] for _ in range(2)]
        server.add(Status(418, "unused"))

        with pytest.raises(
            AssertionError, match=r"(?s)not expected.*POST /v1/chat.*'gpt-4o'.*not used: Status\(code=418"
        ):
            server.assert_done()
    assert statuses == [200, 400]


def test_a_function_that_raises_is_told():
    """An error in the test's own function answers 400 and is repeated by assert_done."""
    with FaultServer(lambda request: request.body["missing"]) as server:
        assert fetch(server)[0] == 400
        with pytest.raises(AssertionError, match=r"KeyError\('missing'\)"):
            server.assert_done()


def test_waiting_in_vain_says_what_was_seen():
    """A condition that does not come true fails with the requests so far."""
    with FaultServer() as server, pytest.raises(AssertionError, match="the requests were"):
        server.wait_until(len, timeout_s=0.01)


def test_a_port_that_is_taken_is_an_error_at_once():
    """A server that cannot bind raises where it is started."""
    with FaultServer() as server, pytest.raises(OSError, match="address already in use"):
        FaultServer(port=urlsplit(server.url).port).__enter__()


def test_concurrent_requests_share_one_script():
    """Threads use each step exactly once."""
    with FaultServer([Status(500), *[HELLO] * 31]) as server, ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda _: fetch(server)[0], range(32)))
        server.assert_done()

    assert sorted(statuses) == [200] * 31 + [500]


def test_a_script_from_a_file(tmp_path):
    """A JSON script gives the same steps as Python."""
    path = tmp_path / "script.json"
    steps = [
        {"step": "Status", "code": 429, "headers": {"retry-after": "1"}},
        {"step": "Cut", "after_chunks": 2, "answer": {"text": "a b c"}},
        {"step": "Answer", "text": "", "tool_calls": [{"name": "now"}]},
    ]
    path.write_text(json.dumps({"steps": steps, "default": {"step": "Empty"}}))
    script = load_script(path)

    assert [script.next(None, "r") for _ in range(4)] == [
        Status(429, headers={"retry-after": "1"}),
        Cut(2, answer=Answer("a b c")),
        Answer("", tool_calls=(ToolUse("now"),)),
        Empty(),
    ]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        pytest.param({"step": "Explode"}, "unknown step.*known are Answer, .*Status", id="unknown step"),
        pytest.param({"code": 1}, "unknown step", id="no step"),
        pytest.param({"step": "Status", "cod": 1}, "Status: .*unexpected keyword argument 'cod'", id="unknown field"),
    ],
)
def test_a_mistake_in_a_script_file(tmp_path, step, message):
    """A mistake names the step or the field."""
    path = tmp_path / "script.json"
    path.write_text(json.dumps({"steps": [step]}))

    with pytest.raises(ValueError, match=message):
        load_script(path)


@pytest.fixture
def spawn(tmp_path):
    """Start the server as a program; it ends with its standard input."""
    running = []

    def start(*arguments):
        command = [sys.executable, "-m", "blueprint_llm.testing", *arguments]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        running.append(process)
        return process, process.stdout.readline().strip()

    yield start
    for process in running:
        process.communicate(timeout=20)
        assert process.returncode == 0


def test_as_a_program_it_serves_and_counts(spawn, tmp_path):
    """Another process gets the scripted steps, and a count without headers."""
    path = tmp_path / "script.json"
    path.write_text('{"steps": [{"step": "Status", "code": 429}], "default": {"step": "Answer", "text": "ok"}}')
    _, url = spawn("--script", str(path), "--port", "0")
    server = FaultServer()
    server._port = urlsplit(url).port
    statuses = [fetch(server)[0] for _ in range(2)]
    with urllib.request.urlopen(url.removesuffix("/v1") + "/__requests", timeout=10) as reply:
        report = json.load(reply)

    assert statuses == [429, 200]
    assert (report["count"], len(report["requests"])) == (2, 2)
    assert set(report["requests"][0]) == {"method", "path", "body", "at", "closed_early_at"}


def test_the_program_ends_with_its_input(monkeypatch, capsys, tmp_path):
    """The program prints its URL, and stops when nobody holds its standard input any more."""
    path = tmp_path / "script.json"
    path.write_text("{}")
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    main(["--script", str(path)])
    main([])

    assert re.fullmatch(r"(http://127\.0\.0\.1:\d+/v1\n){2}", capsys.readouterr().out)
    assert not [thread for thread in threading.enumerate() if thread.name == "fault-server"]


def test_the_report_shows_no_header():
    """`GET /__requests` tells method, path, body and times; it is itself no request of the record."""
    with FaultServer([HELLO]) as server:
        fetch(server)
        with urllib.request.urlopen(server.url.removesuffix("/v1") + "/__requests", timeout=10) as reply:
            report = json.load(reply)

        assert len(server.requests) == report["count"] == 1
    assert set(report["requests"][0]) == {"method", "path", "body", "at", "closed_early_at"}


def test_as_a_program_without_a_script_it_answers(spawn):
    """Without a script every request gets an answer."""
    _, url = spawn()

    with urllib.request.urlopen(url + "/chat/completions", b"{}", timeout=10) as reply:
        assert json.load(reply)["choices"][0]["finish_reason"] == "stop"


def test_a_script_counts_for_itself():
    """A script is a double's memory, usable without a server."""
    script = Script([HELLO])
    script.next("request", "one")

    script.assert_done()


def test_a_connection_at_the_very_end_is_closed(monkeypatch):
    """One that comes while the server stops leaves no open socket behind, of which Python would complain later."""
    with warnings.catch_warnings(action="ignore"):  # what other tests have left, under their own filters
        gc.collect()
    complained = []
    monkeypatch.setattr(sys, "unraisablehook", lambda told: complained.append(told.exc_value))
    for _ in range(30):
        with FaultServer() as server:
            port = urlsplit(server.url).port
            client = socket.create_connection(("127.0.0.1", port))
        client.close()
        gc.collect()

    assert complained == []
