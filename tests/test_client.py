"""The two clients as a caller meets them: what goes in, what goes over the wire, and what comes out."""

import asyncio
import json
import pickle  # noqa: TID251 - what process pools do to errors
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from driving import CALLERS, KEY, MESSAGES, closing_clients, configuration

from blueprint_llm import ChatMessage, ChatRequest, LLMClient, SyncLLMClient, Tool, UsageFilter
from blueprint_llm.errors import (
    BlueprintError,
    CallError,
    ChainExhaustedError,
    ConfigError,
    InvalidRequestError,
    NoTargetError,
)
from blueprint_llm.testing import Answer, Cut, FaultServer, ScriptedAdapter, Stall, Status, ToolUse

HELLO = Answer("Hello.")
USER = {"role": "user", "content": "hi"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "d", "parameters": SCHEMA}}
UNSAID = "the secret plan of the caller"


@pytest.fixture(params=CALLERS, ids=lambda caller: caller.name)
def caller(request, litellm_warm):
    """Either client."""
    return request.param


@pytest.fixture
def server(litellm_warm):
    """A server that says hello."""
    with FaultServer(default=HELLO) as server:
        yield server


@pytest.fixture(params=[pytest.param(True, id="stream"), pytest.param(False, id="whole")])
def streamed(request):
    """As a stream or whole."""
    return request.param


def ask(caller, config, *, streamed=False, **request):
    """What the caller heard."""
    return (caller.stream if streamed else caller.chat)(config, **request)


def do(caller, config, work, **keywords):
    """The result of `work(client)`, awaited where need be."""
    if caller.name == "sync":
        with SyncLLMClient(config, **keywords) as client:
            return work(client)

    async def run():
        async with LLMClient(config, **keywords) as client:
            result = work(client)
            return await result if asyncio.iscoroutine(result) else result

    return asyncio.run(closing_clients(run()))


def provider_of(url, **more):
    """A provider at a loopback server."""
    return {"model": "openai/gpt-4o", "api_base": url, "api_key": KEY, **more}


NAN, INFINITE = float("nan"), float("inf")
BAD_REQUESTS = [
    pytest.param({"messages": []}, "messages", id="no messages"),
    pytest.param({"messages": None}, "messages", id="None for messages"),
    pytest.param({"messages": "hello"}, "messages", id="a text for messages"),
    pytest.param({"messages": b"hello"}, "messages", id="bytes for messages"),
    pytest.param({"messages": [None]}, "messages.0", id="None for a message"),
    pytest.param({"messages": [{"role": "boss", "content": "x"}]}, "messages.0.role", id="an unknown role"),
    pytest.param({"messages": [{"content": "x"}]}, "messages.0.role", id="no role"),
    pytest.param({"messages": [{"role": "user", "content": 5}]}, "messages.0.content", id="a number for content"),
    pytest.param({"messages": [{"role": "user", "content": [{"type": "text", "text": b"x"}]}]}, "JSON", id="bytes"),
    pytest.param({"messages": [{"role": "user", "content": "\ud800"}]}, "surrogates", id="half a character"),
    pytest.param({"messages": [{**USER, "extra": object()}]}, "JSON", id="an object in a message"),
    pytest.param({"provider": "clowd"}, "unknown provider 'clowd'", id="an unknown provider"),
    pytest.param({"model": "  "}, "unknown model", id="an empty model"),
    pytest.param({"model": "gpt 4o"}, "unknown model", id="a model that is none"),
    pytest.param({"temperature": NAN}, "temperature", id="temperature NaN"),
    pytest.param({"temperature": "hot"}, "temperature", id="temperature hot"),
    pytest.param({"top_p": INFINITE}, "top_p", id="top_p infinite"),
    pytest.param({"seed": NAN}, "JSON", id="NaN in a parameter"),
    pytest.param({"logit_bias": {1, 2}}, "JSON", id="a set in a parameter"),
    pytest.param({"max_tokens": 0}, "max_tokens", id="no tokens"),
    pytest.param({"max_tokens": "many"}, "max_tokens", id="many tokens"),
    pytest.param({"deadline_s": 0}, "deadline_s", id="no time"),
    pytest.param({"deadline_s": NAN}, "deadline_s", id="time NaN"),
    pytest.param({"deadline_s": INFINITE}, "deadline_s", id="time without end"),
    pytest.param({"stop": 5}, "stop", id="a number to stop at"),
    pytest.param({"n": 0}, "n must be", id="no answers"),
    pytest.param({"n": "two"}, "n must be", id="a word for a number"),
    pytest.param({"tools": "get_weather"}, "tools", id="a name for tools"),
    pytest.param({"tools": [{"parameters": {}}]}, "tools.0.name", id="a tool without a name"),
    pytest.param({"tools": [{"name": "t", "parameters": "x"}]}, "tools.0.parameters", id="a text for a schema"),
    pytest.param({"tools": [{"name": "t", "parameters": {"x": object()}}]}, "not JSON", id="a schema that is no JSON"),
    pytest.param({"tools": [{"name": "t", "parameters": {"x": NAN}}]}, "not JSON", id="a schema with NaN"),
    pytest.param({"tools": [{"name": "t", "parameters": {"type": "nope"}}]}, "tool 't'", id="no JSON Schema"),
    pytest.param({"response_format": {"type": "json_schema"}}, "json_schema.schema", id="a format without a schema"),
    pytest.param(
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nope"}}}},
        "JSON Schema",
        id="a format with no JSON Schema",
    ),
    pytest.param({"response_format": "json"}, "response_format", id="a word for a format"),
    pytest.param({"metadata": "x"}, "metadata", id="a text for metadata"),
    pytest.param({"params": "x"}, "params", id="a text for params"),
]


@pytest.mark.parametrize(("request_", "words"), BAD_REQUESTS)
def test_bad_request_is_one_clear_error_and_nothing_is_sent(caller, server, streamed, request_, words):
    """Bad input raises one error that names it, asks nobody twice, and sends nothing."""
    try:
        heard = ask(caller, configuration(server.url, server.url), streamed=streamed, **request_)
        error = heard.error
    except InvalidRequestError as raised:
        error = raised

    assert isinstance(error, CallError)
    assert not isinstance(error, ChainExhaustedError)
    assert error.category == "invalid_request"
    assert words in str(error)
    assert server.requests == []


def test_chat_is_no_stream(caller, server):
    """`chat(stream=True)` says what to call instead; a body with `stream` is fine for `stream`."""
    refused = caller.chat(configuration(server.url), stream=True)
    plain = caller.chat(configuration(server.url), stream=False)
    streamed = caller.stream(configuration(server.url), stream=True)

    assert "client.stream" in str(refused.error)
    assert plain.response.content == streamed.text == "Hello."


@pytest.mark.parametrize("prompt", ["", None, 5, b"hi", {"prompt": ""}, {}], ids=repr)
def test_generate_needs_a_prompt(caller, server, prompt):
    """An empty prompt, or none, is refused with the right form to use."""
    with pytest.raises(InvalidRequestError, match="generate needs a prompt"):
        do(caller, configuration(server.url), lambda client: client.generate(prompt))

    assert server.requests == []


BAD_CONFIGS = [
    pytest.param({"blueprint": {"chains": {"default": ["nobody"]}}}, "nobody", id="an unknown name in a chain"),
    pytest.param({"blueprint": {"retry": {"max_attempts": 0}}}, "max_attempts", id="a number out of range"),
    pytest.param({"blueprint": {"retri": {}}}, "retry", id="a misspelt key"),
    pytest.param(3, "a configuration is a path or a mapping, not int", id="no configuration at all"),
    pytest.param("no-such-file.yaml", "no-such-file.yaml", id="a missing file"),
]


@pytest.mark.parametrize("kind", [LLMClient, SyncLLMClient])
@pytest.mark.parametrize(("config", "words"), BAD_CONFIGS)
def test_bad_configuration_is_one_clear_error(kind, config, words):
    """A mistake in the configuration is a ConfigError, from both ways to make a client."""
    for make in (kind, kind.from_config):
        with pytest.raises(ConfigError) as failed:
            make(config)
        assert words in str(failed.value)


@pytest.mark.parametrize("kind", [LLMClient, SyncLLMClient])
def test_broken_yaml_names_its_place(kind, tmp_path):
    """A file that is no YAML is a ConfigError with file and line."""
    file = tmp_path / "blueprint.yaml"
    file.write_text("blueprint:\n  chains: [a, b\n  x: 1\n")

    with pytest.raises(ConfigError, match=r"blueprint\.yaml:\d"):
        kind(file)


@pytest.mark.parametrize("kind", [LLMClient, SyncLLMClient])
@pytest.mark.parametrize("chain", [["nobody"], [], "nobody"], ids=repr)
def test_unknown_chain_is_refused(kind, chain):
    """A chain of unknown names, or of none, is a ConfigError, when the client is made and later."""
    with pytest.raises(ConfigError, match="set_fallback_chain"):
        kind(configuration("http://127.0.0.1:1/v1"), fallback_chain=chain)
    with pytest.raises(ConfigError, match="set_fallback_chain"):
        kind(configuration("http://127.0.0.1:1/v1")).set_fallback_chain(chain)


FORMS = [
    pytest.param(lambda c: c.chat(messages=[USER], temperature=0.5, seed=7), id="keywords"),
    pytest.param(lambda c: c.chat({"messages": [USER], "temperature": 0.5, "seed": 7}), id="a mapping"),
    pytest.param(lambda c: c.chat({"messages": [USER], "seed": 9}, temperature=0.5, seed=7), id="keywords win"),
    pytest.param(lambda c: c.chat([USER], temperature=0.5, seed=7), id="a list of messages"),
    pytest.param(
        lambda c: c.chat(ChatRequest(messages=[USER], temperature=0.5, params={"seed": 7})), id="a ChatRequest"
    ),
    pytest.param(
        lambda c: c.chat(ChatRequest(messages=[USER], temperature=0.1, seed=7), temperature=0.5),
        id="a ChatRequest and keywords",
    ),
    pytest.param(
        lambda c: c.chat(messages=[ChatMessage(role="user", content="hi")], temperature=0.5, params={"seed": 7}),
        id="a ChatMessage",
    ),
    pytest.param(lambda c: c.generate("hi", temperature=0.5, seed=7), id="a prompt"),
    pytest.param(lambda c: c.generate({"prompt": "hi", "temperature": 0.5, "seed": 7}), id="a prompt's mapping"),
]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_sends_the_same(caller, server, form):
    """Keywords, a mapping and a record make the same request."""
    do(caller, configuration(server.url), form)

    body = server.requests[0].body
    assert body == {"model": "gpt-4o", "messages": [USER], "temperature": 0.5, "seed": 7}


def test_generate_takes_a_system_message(caller, server):
    """`system=` comes before the prompt."""
    do(caller, configuration(server.url), lambda client: client.generate("hi", system="be kind"))

    assert server.requests[0].body["messages"] == [{"role": "system", "content": "be kind"}, USER]


PARAMS = {
    "seed": 7,
    "tool_choice": "auto",
    "logprobs": True,
    "top_logprobs": 2,
    "user": "u",
    "response_format": {"type": "json_object"},
    "presence_penalty": 0.5,
    "parallel_tool_calls": False,
}


def test_parameters_reach_the_wire(caller, litellm_warm, streamed):
    """Parameters that are LiteLLM's go to the provider as they are, and so do headers."""
    with FaultServer(default=Answer('{"a": 1}')) as server:
        headers = {"x-trace": "abc"}
        config = configuration(server.url)
        heard = ask(caller, config, streamed=streamed, tools=[TOOL], extra_headers=headers, stop="END", **PARAMS)

        body = server.requests[0].body

    assert heard.error is None
    assert {name: body[name] for name in PARAMS} == PARAMS
    assert body["tools"] == [TOOL]
    assert body["stop"] == ["END"]
    assert server.requests[0].headers["x-trace"] == "abc"


def test_tools_may_be_records(caller, server):
    """A `Tool` goes over the wire in OpenAI's shape."""
    tool = Tool(name="get_weather", description="d", parameters=SCHEMA)

    caller.chat(configuration(server.url), tools=[tool])

    assert server.requests[0].body["tools"] == [TOOL]


def test_settings_of_a_deployment_reach_the_wire(caller, server):
    """What a provider's configuration says for LiteLLM goes along, the caller's wins, and Router's settings stay."""
    mine = provider_of(server.url, temperature=0.1, seed=1, rpm=500, weight=3)
    config = configuration(providers={"p": mine}, chains={"default": ["p"]})

    caller.chat(config, seed=2)

    body = server.requests[0].body
    assert (body["temperature"], body["seed"]) == (0.1, 2)
    assert body.keys() == {"model", "messages", "temperature", "seed"}


def test_extras_of_messages_are_passed_on():
    """What a message has beside the known keys is handed to LiteLLM unchanged, and keys that were not set are not."""
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "long", "cache_control": {"type": "ephemeral"}}]},
        {"role": "assistant", "content": None, "thinking_blocks": [{"thinking": "x", "signature": "y"}]},
        {"role": "user", "content": "hi", "name": "ann", "cache_control": {"type": "ephemeral"}},
    ]
    adapter = ScriptedAdapter(default=HELLO)
    with SyncLLMClient(configuration("http://127.0.0.1:1/v1"), adapters={"p0": adapter}) as client:
        client.chat(messages=messages)
        client.chat(ChatRequest(messages=messages), temperature=0)

    assert [call.messages for call in adapter.calls] == [messages, messages]


def test_extras_of_messages_reach_the_wire(caller, server):
    """A key of a message that nobody knows arrives at the provider."""
    message = {**USER, "name": "ann", "x_vendor": {"deep": [1, 2]}}

    caller.chat(configuration(server.url), messages=[message])

    assert server.requests[0].body["messages"] == [message]


@pytest.mark.parametrize("options", [{}, {"stream_options": {"include_usage": False}}], ids=["unasked", "declined"])
def test_usage_is_always_asked_for(caller, server, options):
    """Every stream asks the provider for its usage, whatever the caller said."""
    heard = caller.stream(configuration(server.url), **options)

    assert server.requests[0].body["stream_options"]["include_usage"] is True
    assert heard.response.usage.source == "provider"
    assert heard.response.usage.total_tokens == 21
    assert [chunk.usage for chunk in heard.chunks if chunk.usage] == [heard.chunks[-1].usage]


def test_usage_that_was_not_sent_is_estimated(caller, litellm_warm, streamed):
    """Where the provider sends no usage it is estimated from the lengths, and marked."""
    with FaultServer(default=Answer("x" * 400, usage=None, chunk_chars=50)) as server:
        usage = ask(caller, configuration(server.url), streamed=streamed).response.usage

    assert usage.source == "estimated"
    assert usage.prompt_tokens > 0
    assert usage.completion_tokens == 100
    assert usage.estimated_cost > 0


def test_answer_says_who_served_it(caller, server, streamed):
    """The answer has its provider, model, finish reason, usage with cost, and its deployment where there is one."""
    config = configuration(server.url)
    answer = ask(caller, config, streamed=streamed).response

    assert (answer.content, answer.finish_reason, answer.provider) == ("Hello.", "stop", "p0")
    assert answer.model == "openai/gpt-4o"
    assert answer.usage.estimated_cost == pytest.approx(12 * 2.5e-6 + 9 * 1e-5)
    assert answer.metadata["cached"] is False
    assert answer.metadata["deployment"] is None


def test_raw_is_litellms_answer(caller, litellm_warm, streamed):
    """`raw` is LiteLLM's own object, also for a stream, where it is rebuilt."""
    step = Answer("Hello.", tool_calls=(ToolUse("get_weather", {"city": "Paris"}),))
    with FaultServer(default=step) as server:
        raw = ask(caller, configuration(server.url), streamed=streamed, tools=[TOOL]).response.raw

    message = raw.choices[0].message
    assert isinstance(raw, litellm_warm.ModelResponse)
    assert (message.content, raw.choices[0].finish_reason) == ("Hello.", "tool_calls")
    assert json.loads(message.tool_calls[0].function.arguments) == {"city": "Paris"}
    assert raw.usage.total_tokens == 21


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([HELLO], id="at once"),
        pytest.param([Status(500), HELLO], id="after a retry"),
        pytest.param([Status(400, UNSAID)], id="refused"),
    ],
)
def test_trace_is_plain_and_tells_no_message(caller, litellm_warm, streamed, steps):
    """The trace of an answer or an error is JSON, has every attempt, and holds neither key nor text."""
    with FaultServer(steps) as server:
        config = configuration(server.url)
        heard = ask(caller, config, streamed=streamed, messages=[{"role": "user", "content": UNSAID}])

    trace = (heard.response or heard.error).trace
    text = json.dumps(trace)
    assert UNSAID not in text
    assert KEY not in text
    assert len(trace["attempts"]) == len(steps)
    assert trace.keys() >= {"id", "policy_hash", "route", "attempts", "cache", "budget_warnings", "served_by"}
    assert trace["route"]["rule"] == "default"
    last = trace["attempts"][-1]
    assert (last["n"], last["provider"], last["duration_s"] > 0) == (len(steps), "p0", True)
    if heard.response:
        assert trace["served_by"] == "p0/openai/gpt-4o"
        assert trace["overhead_us"] > 0
        assert last["cost_usd"] > 0
        assert (last["ttft_s"] is not None) is True


def test_models_are_listed_without_network(caller):
    """Every provider's model is listed with its window, price and whether it can be called."""
    providers = {"cloud": {"model": "openai/gpt-4o", "api_key": KEY}, "none": {"model": "anthropic/claude-opus-4-5"}}
    config = {"blueprint": {"providers": providers}}
    both = do(caller, config, lambda client: client.list_models())
    one = do(caller, config, lambda client: client.list_models("cloud"))

    assert [(row.provider, row.id, row.available) for row in both] == [
        ("cloud", "openai/gpt-4o", True),
        ("none", "anthropic/claude-opus-4-5", False),
    ]
    assert "ANTHROPIC_API_KEY" in both[1].reason
    assert both[0].max_input_tokens == 128_000
    assert both[0].price["input"] == pytest.approx(2.5)
    assert one == both[:1]
    with pytest.raises(InvalidRequestError, match="unknown provider 'nope'"):
        do(caller, config, lambda client: client.list_models("nope"))


def test_usage_is_counted_filtered_and_reset(caller, litellm_warm):
    """Usage has every attempt, by provider and session, and starts anew after a reset."""
    with FaultServer(default=HELLO) as good, FaultServer(default=Status(404)) as bad:

        def count(client):
            return [
                client.get_usage(),
                client.get_usage(UsageFilter(provider="p1")),
                client.get_usage({"session": "mine"}),
                client.reset_usage(),
                client.get_usage(),
            ]

        async def work(client):
            await client.chat(messages=MESSAGES, session="mine")
            await client.chat(messages=MESSAGES, session="other")
            return count(client)

        def work_sync(client):
            client.chat(messages=MESSAGES, session="mine")
            client.chat(messages=MESSAGES, session="other")
            return count(client)

        config = configuration(bad.url, good.url)
        everything, filtered, mine, _, after = do(caller, config, work_sync if caller.name == "sync" else work)

    assert (everything.calls, everything.errors) == (2, 2)
    assert everything.by_provider["p1"].calls == filtered.calls == 2
    assert everything.prompt_tokens == 24
    assert everything.cost_usd == pytest.approx(2 * (12 * 2.5e-6 + 9 * 1e-5))
    assert mine.calls == everything.by_session["mine"].calls == 1
    assert after.calls == 0


def test_unknown_usage_filter_is_refused(caller):
    """A filter with an unknown key is one clear error."""
    with pytest.raises(InvalidRequestError, match="colour"):
        do(caller, configuration("http://127.0.0.1:1/v1"), lambda client: client.get_usage({"colour": "red"}))


OURS = {"blueprint_llm", "builtins"}


def chain_of(error):
    """An error with its causes and contexts."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def errors_of(caller):
    """An error of every shape that a call can raise."""
    with FaultServer(default=Status(404, "gone")) as one, FaultServer(default=Cut(1)) as two:
        config = configuration(one.url, two.url, retry={"max_attempts": 1})
        yield caller.chat(config, provider="p0", fallback=False).error
        yield caller.chat(config).error
        yield caller.stream(config, provider="p1", fallback=False).error
        yield caller.chat(config, provider="nobody").error
    with FaultServer(default=Stall(0)) as silent:
        yield caller.chat(configuration(silent.url), deadline_s=0.3).error
    yield caller.chat({"blueprint": {"providers": {"a": {"model": "openai/x"}}}}).error


def test_errors_survive_a_process_pool(caller, litellm_warm):
    """Every error of a call can be pickled with its facts and trace, and holds no key."""
    errors = list(errors_of(caller))
    for error in errors:
        packed = pickle.dumps(error)
        again = pickle.loads(packed)  # noqa: S301 - our own bytes

        assert type(again) is type(error)
        assert str(again) == str(error)
        assert again.trace == error.trace
        assert KEY.encode() not in packed
        assert getattr(again, "category", None) == getattr(error, "category", None)

    assert isinstance(errors[-1], NoTargetError)
    assert {type(link).__module__.partition(".")[0] for error in errors for link in chain_of(error)} <= OURS


def test_threads_share_a_client(server):
    """Forty calls and streams of one client from eight threads are all answered."""
    with SyncLLMClient(configuration(server.url, deadline={"total_s": 30})) as client:

        def work(number):
            if number % 2:
                return client.chat(messages=MESSAGES).content
            return "".join(chunk.delta for chunk in client.stream(messages=MESSAGES))

        first = work(1)  # LiteLLM makes its HTTP client now: threads that come first together make, and lose, several
        with ThreadPoolExecutor(8) as pool:
            texts = [first, *pool.map(work, range(39))]
        stats = client.get_usage()

    assert texts == ["Hello."] * 40
    assert (stats.calls, stats.errors) == (40, 0)


def test_tasks_share_a_client(server):
    """Forty calls and streams of one client at once on one event loop are all answered."""

    async def work(client, number):
        if number % 2:
            return (await client.chat(messages=MESSAGES)).content
        return "".join([chunk.delta async for chunk in client.stream(messages=MESSAGES)])

    async def run():
        async with LLMClient(configuration(server.url, deadline={"total_s": 30})) as client:
            return await asyncio.gather(*(work(client, number) for number in range(40))), client.get_usage()

    texts, stats = asyncio.run(closing_clients(run()))

    assert texts == ["Hello."] * 40
    assert (stats.calls, stats.errors) == (40, 0)


def test_async_client_outlives_an_event_loop(server):
    """One client serves event loops one after the other."""
    client = LLMClient(configuration(server.url))

    async def once():
        return (await client.chat(messages=MESSAGES)).content

    assert [asyncio.run(closing_clients(once())) for _ in range(2)] == ["Hello.", "Hello."]
    asyncio.run(client.aclose())


async def test_sync_client_works_inside_a_running_loop(server):
    """The blocking client may be used in a coroutine, whole and as a stream."""
    with SyncLLMClient(configuration(server.url)) as client:
        text = "".join(chunk.delta for chunk in client.stream(messages=MESSAGES))
        assert client.chat(messages=MESSAGES).content == text == "Hello."


def test_events_are_told(caller, litellm_warm):
    """`on_event` hears of failed attempts and failed calls, without texts."""
    events = []
    with FaultServer(default=Status(404, UNSAID)) as server, pytest.raises(BlueprintError):
        do(caller, configuration(server.url), lambda client: client.chat(messages=MESSAGES), on_event=events.append)

    names = [event.name for event in events]
    assert names[-2:] == ["attempt.failed", "call.failed"]
    assert events[-2].facts["status"] == 404
    assert UNSAID not in repr(events)


def test_retries_stop_in_an_outage():
    """In an outage, retries are at most the configured share of the calls, above a floor of ten."""
    adapter = ScriptedAdapter(default=Status(500))
    config = configuration("http://127.0.0.1:1/v1", retry={"base_s": 0, "ratio": 0.2}, breaker={"failures": 1000})
    with SyncLLMClient(config, adapters={"p0": adapter}) as client:
        for _ in range(100):
            with pytest.raises(CallError):
                client.chat(messages=MESSAGES)

    assert 110 <= len(adapter.calls) <= 122


def test_project_and_session_of_the_client_are_the_calls(caller, server):
    """Calls that name no project or session go on the client's account."""

    async def work(client):
        await client.chat(messages=MESSAGES)
        return client.get_usage()

    def work_sync(client):
        client.chat(messages=MESSAGES)
        return client.get_usage()

    chosen = work_sync if caller.name == "sync" else work
    stats = do(caller, configuration(server.url), chosen, project="acme", session="s1")

    assert (list(stats.by_project), list(stats.by_session)) == (["acme"], ["s1"])


def test_closed_client_leaves_no_thread(server):
    """After the client is closed, no thread of it but the process's one event loop is left."""
    before = set(threading.enumerate())
    with SyncLLMClient(configuration(server.url)) as client:
        client.chat(messages=MESSAGES)

    left = [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("blueprint")]
    for thread in left:
        thread.join(0.0 if thread.name == "blueprint-loop" else 5.0)
    assert {thread.name for thread in left if thread.is_alive()} <= {"blueprint-loop"}
