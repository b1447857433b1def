"""The fault server over raw sockets: what is really on the wire, and who hung up."""

import asyncio
import contextlib
import json
import socket
import struct
import threading
import time
from urllib.parse import urlsplit

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
    Recorded,
    Refuse,
    Reset,
    Stall,
    Status,
    ToolUse,
    numbered_text,
)

HELLO = Answer("Hello there world")
TOOL = Answer("", tool_calls=(ToolUse("get_weather", {"city": "Paris"}), ToolUse("now", id="call_x")))


def request_bytes(*, stream, path="/v1/chat/completions", close=True, **body):
    """A chat request as a client would send it."""
    content = json.dumps({"model": "gpt-4o", "messages": [], "stream": stream, **body}).encode()
    connection = b"connection: close\r\n" if close else b""
    return b"POST %s HTTP/1.1\r\nhost: x\r\n%scontent-length: %d\r\n\r\n%s" % (
        path.encode(),
        connection,
        len(content),
        content,
    )


def port_of(server):
    """The port that a server listens on."""
    return urlsplit(server.url).port


def dial(server):
    """A connection to the server that never hangs a test."""
    return socket.create_connection(("127.0.0.1", port_of(server)), timeout=10)


def read_all(connection):
    """Everything until the server closes, and whether it was a reset."""
    received = bytearray()
    try:
        while piece := connection.recv(65536):
            received += piece
    except ConnectionResetError:
        return bytes(received), "reset"
    return bytes(received), "closed"


def exchange(step, *, stream, **body):
    """One request to a server with one step: the reply's head, its body, and how the connection ended."""
    with FaultServer([step]) as server, dial(server) as connection:
        connection.sendall(request_bytes(stream=stream, **body))
        received, end = read_all(connection)
        server.assert_done()
    head, _, content = received.partition(b"\r\n\r\n")
    return head.decode(), content, end


def events(content):
    """The payloads of a body of server-sent events, whether it is complete or not."""
    return [line[6:] for line in content.decode().split("\n") if line.startswith("data: ")]


def texts(content):
    """The text deltas in a body of server-sent events."""
    choices = [
        choice for event in events(content) if event.startswith('{"id"') for choice in json.loads(event)["choices"]
    ]
    return [choice["delta"]["content"] for choice in choices if "content" in choice["delta"]]


def test_a_stream_is_chunks_finish_usage_and_done():
    """A stream gives words, the finish reason, the usage that was asked for, and [DONE]."""
    head, content, end = exchange(HELLO, stream=True, stream_options={"include_usage": True})
    *chunks, finish, usage, done = events(content)

    assert "text/event-stream" in head
    assert "transfer-encoding: chunked" in head
    assert texts(content) == ["Hello ", "there ", "world"]
    assert len(chunks) == 3
    assert json.loads(finish)["choices"][0] == {"index": 0, "delta": {}, "finish_reason": "stop"}
    assert (json.loads(usage)["choices"], json.loads(usage)["usage"]["total_tokens"]) == ([], 21)
    assert (done, content[-5:], end) == ("[DONE]", b"0\r\n\r\n", "closed")


@pytest.mark.parametrize(
    ("step", "body"),
    [
        pytest.param(HELLO, {}, id="not asked for"),
        pytest.param(Answer(usage=None), {"stream_options": {"include_usage": True}}, id="the provider sends none"),
    ],
)
def test_a_stream_without_usage(step, body):
    """No usage is sent unless it is asked for and there is some."""
    assert not [event for event in events(exchange(step, stream=True, **body)[1]) if '"usage"' in event]


def test_chunk_length_model_finish_and_missing_done():
    """An answer may be cut by characters, name another model and reason, and end without [DONE]."""
    step = Answer("abcdefg", chunk_chars=3, model="other", finish_reason="length", done=False)
    content = exchange(step, stream=True)[1]

    assert texts(content) == ["abc", "def", "g"]
    assert json.loads(events(content)[-1])["model"] == "other"
    assert json.loads(events(content)[-1])["choices"][0]["finish_reason"] == "length"


def test_tool_calls_in_a_stream():
    """A streamed call starts with id and name, and its arguments follow in pieces."""
    content = exchange(TOOL, stream=True)[1]
    deltas = [json.loads(event)["choices"][0]["delta"] for event in events(content)[:-2]]
    calls = [delta["tool_calls"][0] for delta in deltas]

    assert deltas[0]["role"] == "assistant"
    assert [call["id"] for call in calls if "id" in call] == ["call_0", "call_x"]
    assert "".join(call["function"]["arguments"] for call in calls if call["index"] == 0) == '{"city": "Paris"}'
    assert len(calls) == 6


def test_every_chunk_of_a_numbered_text_differs():
    """A long text has no repeated chunk: LiteLLM gives up on a stream that repeats itself."""
    found = texts(exchange(Answer(numbered_text(500)), stream=True)[1])

    assert len(found) == len(set(found)) == 500


@pytest.mark.parametrize(
    ("step", "got", "last", "end"),
    [
        pytest.param(Cut(2, answer=HELLO), ["Hello ", "there "], b"0\r\n\r\n", "closed", id="cut looks complete"),
        pytest.param(Cut(0, answer=HELLO), [], b"0\r\n\r\n", "closed", id="cut before the first chunk"),
        pytest.param(
            Cut(9, answer=HELLO), ["Hello ", "there ", "world"], b"0\r\n\r\n", "closed", id="cut before finish"
        ),
        pytest.param(Cut(1, abrupt=True, answer=HELLO), ["Hello "], b"\n\n\r\n", "closed", id="abrupt cut"),
        pytest.param(Reset(2, answer=HELLO), ["Hello ", "there "], b"\n\n\r\n", "reset", id="reset"),
    ],
)
def test_a_stream_that_breaks(step, got, last, end):
    """A broken stream stops after so many chunks, without finish reason or [DONE], in the way asked for."""
    _, content, ended = exchange(step, stream=True)

    assert (texts(content), ended) == (got, end)
    assert content.endswith(last)
    assert "[DONE]" not in events(content)
    assert '"finish_reason":"stop"' not in content.decode()


@pytest.mark.parametrize(
    ("step", "end"),
    [pytest.param(Cut(answer=HELLO), "closed", id="cut"), pytest.param(Reset(answer=HELLO), "reset", id="reset")],
)
def test_a_document_that_breaks(step, end):
    """Without streaming, the body is shorter than its announced length."""
    head, content, ended = exchange(step, stream=False)
    length = int(head.lower().partition("content-length: ")[2].split("\r\n")[0])

    assert (0 < len(content) < length, ended) == (True, end)


def test_a_bad_line_is_followed_by_the_rest():
    """One line of the stream is no JSON; the other chunks and the end are there."""
    found = events(exchange(BadLine(1, answer=HELLO), stream=True)[1])

    with pytest.raises(json.JSONDecodeError):
        json.loads(found[1])
    assert (len(found), found[-1]) == (6, "[DONE]")


def test_a_bad_document_is_complete_but_no_json():
    """Without streaming, the body has its announced length and is no JSON."""
    head, content, _ = exchange(BadLine(), stream=False)

    assert f"content-length: {len(content)}" in head
    with pytest.raises(json.JSONDecodeError):
        json.loads(content)


@pytest.mark.parametrize("stream", [False, True])
def test_an_error_object_under_status_200(stream):
    """An error object ends the answer, though the status said 200."""
    head, content, _ = exchange(ErrorObject(1, answer=HELLO, message="overloaded", code="o"), stream=stream)
    error = json.loads(events(content)[-1] if stream else content)["error"]

    assert head.startswith("HTTP/1.1 200")
    assert (error["message"], error["type"], error["code"]) == ("overloaded", "server_error", "o")
    assert texts(content) == (["Hello "] if stream else [])


@pytest.mark.parametrize(
    ("step", "stream", "status", "kind", "body"),
    [
        pytest.param(Empty(), False, 200, "application/json", b"", id="empty body"),
        pytest.param(Empty(), True, 200, "text/event-stream", b"[DONE]", id="empty stream"),
        pytest.param(HtmlPage(), False, 502, "text/html", b"<h1>502 Bad Gateway</h1>", id="html"),
        pytest.param(HtmlPage(200), True, 200, "text/html", b"<h1>200 OK</h1>", id="html to a stream"),
        pytest.param(NotJson(), False, 200, "text/plain", b"upstream connect error", id="text"),
        pytest.param(NotJson("x"), True, 200, "text/plain", b"x", id="text to a stream"),
    ],
)
def test_answers_that_are_none(step, stream, status, kind, body):
    """Pages, texts and nothing at all come under their status and content type."""
    head, content, _ = exchange(step, stream=stream)

    assert head.startswith(f"HTTP/1.1 {status} ")
    assert f"content-type: {kind}" in head
    assert body in content
    assert texts(content) == []


@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_sends_nothing(stream):
    """The connection is closed without a byte."""
    assert exchange(Refuse(), stream=stream) == ("", b"", "closed")


@pytest.mark.parametrize("reason", ["tool_calls", "length"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_broken_tool_call(stream, reason):
    """The arguments are sent as the model wrote them, under either finish reason."""
    content = exchange(BrokenTool('{"a": ', finish_reason=reason), stream=stream)[1].decode()

    assert r'"{\"a\": "' in content
    assert f'"finish_reason":"{reason}"' in content


@pytest.mark.parametrize("stream", [False, True])
def test_a_stall_lasts_until_the_client_leaves(stream):
    """A stalled answer stays open, and the client's departure is recorded."""
    with FaultServer([Stall(1, answer=HELLO)]) as server, dial(server) as connection:
        connection.sendall(request_bytes(stream=stream))
        received = connection.recv(65536)
        assert server.requests[0].closed_early_at is None
        connection.close()
        request = server.wait_until(lambda seen: seen[0].closed_early_at)[0]

    assert received.startswith(b"HTTP/1.1 200")
    assert request.at <= request.closed_early_at <= time.monotonic()


def test_a_client_that_resets_has_left_too():
    """A reset by the client in mid-stream is a departure."""
    with FaultServer([Answer(numbered_text(900), pace_s=0.005)]) as server, dial(server) as connection:
        connection.sendall(request_bytes(stream=True))
        connection.recv(1024)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

        assert server.wait_until(lambda seen: seen[0].closed_early_at)


def test_a_client_that_stays_has_not_left():
    """A request that was answered in full is no early close, however the client ends."""
    with FaultServer(default=Answer(pace_s=0.001)) as server:
        for _ in range(20):
            with dial(server) as connection:
                connection.sendall(request_bytes(stream=True, close=False))
                while b"[DONE]" not in connection.recv(65536):
                    pass

    assert [request.closed_early_at for request in server.requests] == [None] * 20


def test_a_server_that_stops_ends_its_stalls():
    """Leaving the context closes connections that still hang, and this is not the client's doing."""
    with FaultServer([Stall()]) as server:
        connection = dial(server)
        connection.sendall(request_bytes(stream=True))
        server.wait_until(len)

    with connection:
        read_all(connection)
    assert server.requests[0].closed_early_at is None
    assert not [thread for thread in threading.enumerate() if thread.name == "fault-server"]


def test_waits_are_kept():
    """The first byte waits for delay_s, each later chunk for pace_s."""
    start = time.monotonic()
    exchange(Answer("a b c", delay_s=0.05, pace_s=0.05), stream=True)
    streamed = time.monotonic()
    exchange(Status(500, delay_s=0.05), stream=False)

    assert streamed - start >= 0.15
    assert time.monotonic() - streamed >= 0.05


def test_one_connection_serves_many_requests():
    """A connection stays open between requests, streamed or not."""
    with FaultServer(default=HELLO) as server, dial(server) as connection:
        for stream in (True, False, True):
            connection.sendall(request_bytes(stream=stream, close=False))
            received = b""
            while not received.endswith((b"0\r\n\r\n", b"}")):
                received += connection.recv(65536)

    assert len(server.requests) == 3


async def test_two_hundred_slow_streams_at_once():
    """Many slow streams are served side by side, each complete."""

    async def one(port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_bytes(stream=True))
        content = await reader.read()
        writer.close()
        return texts(content)

    with FaultServer(default=Answer(numbered_text(8), pace_s=0.02)) as server:
        found = await asyncio.gather(*(one(port_of(server)) for _ in range(200)))

    assert {"".join(words) for words in found} == {numbered_text(8)}
    assert len(server.requests) == 200


def test_three_hundred_streams_are_open_together():
    """So many connections hang at the same time, and each departure is seen."""
    with FaultServer(default=Stall()) as server, contextlib.ExitStack() as stack:
        for _ in range(300):
            connection = stack.enter_context(dial(server))
            connection.sendall(request_bytes(stream=True))
        requests = server.wait_until(lambda seen: len(seen) == 300)
        assert not any(request.closed_early_at for request in requests)
        stack.close()

        assert server.wait_until(lambda seen: all(request.closed_early_at for request in seen))


def test_a_status_may_have_any_body():
    """A body given as text is sent as it is."""
    assert exchange(Status(500, body="plain"), stream=False)[1] == b"plain"


RECORDED = Recorded({"whole": True}, ({"type": "a", "n": 1}, {"type": "b", "n": 2}))
FORMATS = [
    pytest.param("/v1/chat/completions", True, ['data: {"type":"a","n":1}', "data: [DONE]"], id="OpenAI's stream"),
    pytest.param("/v1/messages", True, ["event: a", 'data: {"type":"a","n":1}'], id="Anthropic's stream"),
    pytest.param(
        "/v1beta/models/m:streamGenerateContent?alt=sse", False, ['data: {"type":"a","n":1}'], id="Gemini's stream"
    ),
    pytest.param("/api/chat", True, ['{"type":"a","n":1}', '{"type":"b","n":2}'], id="Ollama's stream"),
    pytest.param("/v1/messages", False, ['{"whole":true}'], id="Anthropic's whole"),
    pytest.param("/v1beta/models/m:generateContent", True, ['{"whole":true}'], id="Gemini's whole"),
    pytest.param("/api/chat", False, ['{"whole":true}'], id="Ollama's whole"),
]


@pytest.mark.parametrize(("path", "stream", "lines"), FORMATS)
def test_a_recording_goes_out_in_the_format_of_its_path(path, stream, lines):
    """What was recorded is repeated as the provider that has such a path would send it."""
    content = exchange(RECORDED, stream=stream, path=path)[1].decode()

    assert all(line in content.replace("\r", "").split("\n") for line in lines)
    assert ("[DONE]" in content) is ("chat/completions" in path)


def test_a_recording_may_break_off():
    """A fault in the middle spoils a recording like any other answer."""
    content = exchange(Cut(1, answer=RECORDED), stream=True, path="/v1/messages")[1].decode()

    assert '"n":1' in content
    assert '"n":2' not in content
