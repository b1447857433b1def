"""The drop-in functions under this library's policies: limits, checks, retries, the trace, and what wins."""

import asyncio
import json
import pickle  # noqa: TID251 - what process pools do to errors
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import litellm
import pytest
import yaml
from canary import KEYS, redaction_off, watched
from compat_cases import CALL, HI, PARIS, TOOL
from driving import KEY, closing_clients
from echoing_server import echoing_server

import blueprint_llm
from blueprint_llm import SyncLLMClient, errors
from blueprint_llm.compat import Completions, functions
from blueprint_llm.parts import Parts
from blueprint_llm.testing import Answer, BrokenTool, Cut, FaultServer, Recorded, Reset, Stall, Status, ToolUse

HELLO = Answer("Hello my dear friend.")
BUDGET = {"budgets": [{"scope": "project", "limit_usd": 0.000001}]}
CACHE = {"cache": {"enabled": True}}
OTHER_KEY = "sk-other-0123456789abcdef"


@pytest.fixture(autouse=True)
def fresh_functions(litellm_warm):
    """The functions find their configuration anew in each test."""
    functions.forget()
    yield
    functions.forget()


@pytest.fixture(params=["sync", "async"])
def kind(request):
    """Either function."""
    return request.param


@pytest.fixture
def configure(monkeypatch, tmp_path):
    """Write the configuration that the functions find."""

    def write(**blueprint):
        groups = blueprint.pop("model_list", [])
        document = {"model_list": groups, "blueprint": {"version": 1, "retry": {"base_s": 0.001}, **blueprint}}
        (tmp_path / "blueprint.yaml").write_text(yaml.safe_dump(document))
        monkeypatch.chdir(tmp_path)

    return write


def keywords_of(server, **keywords):
    """The keywords of a call."""
    return {"model": "openai/gpt-4o", "messages": HI, "api_base": server.url, "api_key": KEY, **keywords}


def call(kind, server, *, through=blueprint_llm, **keywords):
    """A whole answer."""
    asked = keywords_of(server, **keywords)
    if kind == "sync":
        return through.completion(**asked)
    return asyncio.run(closing_clients(through.acompletion(**asked)))


def read(kind, server, *, through=blueprint_llm, seen=None, **keywords):
    """A stream and its chunks, which also go to `seen` as they come."""
    seen, asked = [] if seen is None else seen, keywords_of(server, stream=True, **keywords)
    if kind == "sync":
        stream = through.completion(**asked)
        seen.extend(stream)
        return stream, seen

    async def run():
        stream = await through.acompletion(**asked)
        async for chunk in stream:
            seen.append(chunk)
        return stream, seen

    return asyncio.run(closing_clients(run()))


def text_of(chunks):
    """The text of a stream."""
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def has_calls(chunk):
    """Whether a chunk carries tool calls."""
    return any(choice.delta.tool_calls for choice in chunk.choices)


def test_importing_a_function_imports_no_litellm():
    """LiteLLM is loaded by the first call, not by the import, nor by looking at our own names."""
    program = (
        "import sys\nfrom blueprint_llm import acompletion, completion\nimport blueprint_llm, inspect\n"
        "inspect.signature(completion); dir(blueprint_llm); hasattr(blueprint_llm, '__path__x__')\n"
        "from blueprint_llm import models, routing\n"
        "print([name for name in ('litellm', 'openai', 'httpx') if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_other_names_are_litellms():
    """With `import blueprint_llm as litellm` our names win, and everything else is LiteLLM's."""
    assert blueprint_llm.embedding is litellm.embedding
    assert blueprint_llm.text_completion is litellm.text_completion
    assert blueprint_llm.exceptions.RateLimitError is litellm.RateLimitError
    assert blueprint_llm.completion is not litellm.completion
    assert blueprint_llm.BudgetExceededError is errors.BudgetExceededError
    with pytest.raises(AttributeError, match="neither 'blueprint_llm' nor 'litellm'"):
        _ = blueprint_llm.no_such_name


def test_assigning_a_name_sets_litellms(monkeypatch):
    """A setting reaches LiteLLM, and one of our own names stays ours."""
    monkeypatch.setattr(litellm, "drop_params", False)
    own = blueprint_llm.load_config

    blueprint_llm.drop_params = True
    monkeypatch.setattr(blueprint_llm, "load_config", None)

    assert litellm.drop_params is True
    assert blueprint_llm.drop_params is True
    assert blueprint_llm.load_config is None
    assert not hasattr(litellm, "load_config")
    assert own is not None


def test_settings_of_litellm_hold(kind, monkeypatch):
    """A setting that a program makes through our name is obeyed by its calls."""
    monkeypatch.setattr(litellm, "drop_params", False)
    with FaultServer(default=HELLO) as server:
        with pytest.raises(litellm.UnsupportedParamsError):
            call(kind, server, model="openai/gpt-4", reasoning_effort="low")
        blueprint_llm.drop_params = True
        call(kind, server, model="openai/gpt-4", reasoning_effort="low")

    assert "reasoning_effort" not in server.requests[0].body


def test_litellms_own_key_is_used(kind, monkeypatch):
    """`litellm.api_key = ...` wins over the environment, as it does in LiteLLM."""
    monkeypatch.setenv("OPENAI_API_KEY", OTHER_KEY)
    monkeypatch.setattr(litellm, "api_key", None)
    with FaultServer(default=HELLO) as server:
        call(kind, server, api_key=None)
        blueprint_llm.api_key = KEY
        call(kind, server, api_key=None)

    assert [each.headers["authorization"] for each in server.requests] == [f"Bearer {OTHER_KEY}", f"Bearer {KEY}"]


def test_arguments_by_position(kind):
    """The messages and what follows may come by position, in LiteLLM's order."""
    more = (9.5, 0.25) if kind == "sync" else (None, None, 9.5, 0.25)
    with FaultServer(default=HELLO) as server:
        keywords = {"api_base": server.url, "api_key": KEY}
        if kind == "sync":
            blueprint_llm.completion("openai/gpt-4o", HI, *more, **keywords)
        else:
            asyncio.run(closing_clients(blueprint_llm.acompletion("openai/gpt-4o", HI, *more, **keywords)))

    assert server.requests[0].body["temperature"] == 0.25


def test_earlier_answers_are_messages(kind):
    """LiteLLM's own message objects go on as LiteLLM sends them."""
    with FaultServer(default=Answer("", tool_calls=(PARIS,))) as server:
        first = call(kind, server, tools=[TOOL])
        talk = [*HI, first.choices[0].message, {"role": "tool", "tool_call_id": "call_0", "content": "sunny"}]
        call(kind, server, messages=talk, tools=[TOOL])
        call(kind, server, messages=talk, tools=[TOOL], through=litellm)

    assert server.requests[1].body["messages"] == server.requests[2].body["messages"]


def test_the_trace_of_a_whole_answer(kind):
    """`_hidden_params["blueprint"]` tells what was done, as JSON."""
    with FaultServer([Status(500), HELLO]) as server:
        answer = call(kind, server, num_retries=1)

    trace = answer._hidden_params["blueprint"]
    assert [row["status"] for row in json.loads(json.dumps(trace))["attempts"]] == [500, None]
    assert trace["served_by"] == "openai/openai/gpt-4o"


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


def test_text_flows_and_calls_are_held_back():
    """Text comes at once; a tool call and what follows it comes when it is complete, unchanged and in order."""
    answer = Answer("Let me see.", tool_calls=(PARIS,), pace_s=0.02)
    with FaultServer(default=answer) as server:
        stream = blueprint_llm.completion(**keywords_of(server, stream=True, tools=[TOOL]))
        early = [next(stream) for _ in range(3)]
        done_early = server.requests[0].closed_early_at is not None or stream._turn.outcome.value
        rest = list(stream)
        theirs = list(litellm.completion(**keywords_of(server, stream=True, tools=[TOOL])))

    assert text_of(early) == "Let me see."
    assert not done_early
    assert [chunk.choices[0].delta for chunk in early + rest] == [chunk.choices[0].delta for chunk in theirs]


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
        with pytest.raises(litellm.MidStreamFallbackError) as expected:
            read(kind, server, through=litellm, seen=theirs)
        before = len(server.requests)
        with pytest.raises(litellm.MidStreamFallbackError) as caught:
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
        with pytest.raises(litellm.MidStreamFallbackError) as caught:
            read(kind, server, seen=ours)

    assert isinstance(caught.value, errors.StreamBrokenError)
    assert theirs[-1].choices[0].finish_reason == "stop"
    assert all(chunk.choices[0].finish_reason is None for chunk in ours)


def test_two_breaks_end_in_a_whole_answer(kind):
    """What came in one piece after streams that broke is one chunk of LiteLLM's."""
    with FaultServer([Reset(0), Reset(0), HELLO]) as server:
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


@pytest.mark.parametrize("stream", [False, True])
def test_a_blocked_budget_is_both_classes(kind, stream, configure):
    """A budget stops a call before it is sent, with an error that is ours and LiteLLM's and survives a pickle."""
    configure(**BUDGET)
    with FaultServer() as server, pytest.raises(litellm.BudgetExceededError) as caught:
        (read if stream else call)(kind, server)

    assert isinstance(caught.value, errors.BudgetExceededError)
    assert (caught.value.max_budget, caught.value.limit_usd) == (0.000001, 0.000001)
    assert "budget of project" in caught.value.message
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is type(caught.value)
    assert (again.scope, str(again)) == ("project", str(caught.value))
    assert not server.requests


def test_a_cap_is_added_only_under_a_budget(kind, configure):
    """No limit on the answer is invented, unless money is counted and the worst case must be known."""
    with FaultServer(default=HELLO) as server:
        call(kind, server)
        functions.forget()
        configure(budgets=[{"scope": "project", "limit_usd": 50}])
        call(kind, server)

    assert "max_tokens" not in server.requests[0].body
    assert server.requests[1].body["max_tokens"] > 0


def test_a_quota_is_a_rate_limit(kind, configure):
    """A quota that is used up is what LiteLLM's users catch for too many requests."""
    configure(quotas=[{"scope": "project", "requests": 1, "window": "day"}])
    with FaultServer(default=HELLO) as server:
        call(kind, server)
        with pytest.raises(litellm.RateLimitError) as caught:
            call(kind, server)

    assert isinstance(caught.value, errors.QuotaExceededError)
    assert len(server.requests) == 1


def test_the_calls_own_connection_wins(kind, configure):
    """`api_base` and `api_key` of the call win over those of the configured group."""
    with FaultServer(default=HELLO) as own, FaultServer() as configured:
        group = {"model": "openai/gpt-4o", "api_base": configured.url, "api_key": OTHER_KEY}
        configure(model_list=[{"model_name": "main", "litellm_params": group}])
        call(kind, own, model="main")

    assert own.requests[0].headers["authorization"] == f"Bearer {KEY}"


def test_the_clients_calls_own_connection_wins():
    """The same holds for the client's own methods."""
    with FaultServer(default=HELLO) as own, FaultServer() as configured:
        cloud = {"model": "openai/gpt-4o", "api_base": configured.url, "api_key": OTHER_KEY}
        with SyncLLMClient({"blueprint": {"version": 1, "providers": {"cloud": cloud}}}) as client:
            client.chat(messages=HI, api_base=own.url, api_key=KEY)

    assert own.requests[0].headers["authorization"] == f"Bearer {KEY}"


def test_a_calls_key_goes_to_its_vendor_only(kind, configure):
    """A fallback of another vendor gets its own key and address, never those of the call."""
    with FaultServer(default=Status(500)) as first, FaultServer(default=HELLO) as second:
        behind = {"model": "deepseek/deepseek-chat", "api_base": second.url, "api_key": OTHER_KEY}
        groups = [
            {"model_name": "main", "litellm_params": {"model": "openai/gpt-4o"}},
            {"model_name": "behind", "litellm_params": behind},
        ]
        configure(model_list=groups, retry={"max_attempts": 1})
        parts = Parts.build({"model_list": groups, "router_settings": {"fallbacks": [{"main": ["behind"]}]}})
        call(kind, first, model="main", num_retries=0, through=Completions(parts))
        parts.close()

    assert first.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert second.requests[0].headers["authorization"] == f"Bearer {OTHER_KEY}"


@pytest.mark.parametrize(
    ("own", "requests"), [({"num_retries": 0}, 1), ({"num_retries": 2}, 3), ({"max_retries": 1}, 2)]
)
def test_the_calls_own_retries_win(kind, own, requests, configure):
    """`num_retries` of the call wins over `blueprint.retry`; LiteLLM's other word for it counts too."""
    configure(retry={"max_attempts": 2, "base_s": 0.001})
    with FaultServer(default=Status(500)) as server, pytest.raises(litellm.InternalServerError):
        call(kind, server, **own)

    assert len(server.requests) == requests


@pytest.mark.parametrize("timeout", [0.3, "0.3", httpx.Timeout(0.3)], ids=["number", "text", "httpx"])
def test_the_calls_own_timeout_wins(kind, timeout, configure):
    """A call's own `timeout` ends it long before the configured deadline, with LiteLLM's exception."""
    configure(deadline={"total_s": 60, "first_token_s": 30})
    with FaultServer(default=Stall(0)) as server, pytest.raises(litellm.Timeout) as caught:
        call(kind, server, timeout=timeout, num_retries=0)

    assert type(caught.value) is litellm.Timeout
    assert server.wait_until(lambda requests: requests[0].closed_early_at)


def test_a_longer_own_timeout_wins(kind, configure):
    """A call that says how long it may take is not cut by a shorter configured deadline."""
    configure(deadline={"total_s": 0.3, "first_token_s": 0.2, "idle_s": 0.2})
    with FaultServer(default=Answer("one two", delay_s=0.6)) as server:
        assert call(kind, server, timeout=20).choices[0].message.content == "one two"
        assert text_of(read(kind, server, timeout=20)[1]) == "one two"


def test_the_deadline_is_a_timeout(kind, configure):
    """Without a timeout of its own a call ends at the configured deadline, with a class that is both."""
    configure(deadline={"total_s": 0.3}, retry={"max_attempts": 1})
    with FaultServer(default=Stall(0)) as server, pytest.raises(litellm.Timeout) as caught:
        call(kind, server)

    assert isinstance(caught.value, errors.CallError)
    assert (caught.value.model, caught.value.llm_provider) == ("openai/gpt-4o", "openai")


@pytest.mark.parametrize(("first", "status"), [(True, 500), (False, 429)])
def test_which_failure_is_raised(kind, first, status):
    """Where all attempts fail the last one's exception is raised, or on wish the first one's."""
    with FaultServer([Status(500), Status(429)]) as server, pytest.raises(litellm.exceptions.APIError) as caught:
        parts = Parts.build({"blueprint": {"version": 1, "retry": {"base_s": 0.001}}})
        call(kind, server, through=Completions(parts, first_error=first), num_retries=1)

    assert caught.value.status_code == status
    assert len(caught.value.trace["attempts"]) == 2


@pytest.mark.parametrize("stream", [False, True])
def test_a_calls_own_fallbacks(kind, stream, configure):
    """`fallbacks` names models, or keywords that differ; each is a call of its own, under the same limits."""
    with FaultServer(default=Status(401)) as bad, FaultServer(default=HELLO) as good:
        others = ["openai/gpt-4.1", {"model": "deepseek/deepseek-chat", "api_base": good.url, "api_key": OTHER_KEY}]
        answer = (read if stream else call)(kind, bad, fallbacks=others, num_retries=0)

    assert (text_of(answer[1]) if stream else answer.choices[0].message.content) == HELLO.text
    assert [each.body["model"] for each in bad.requests + good.requests] == ["gpt-4o", "gpt-4.1", "deepseek-chat"]
    assert good.requests[0].headers["authorization"] == f"Bearer {OTHER_KEY}"


def test_no_fallback_after_output(kind):
    """Once text is out no other model continues it."""
    with FaultServer(default=Reset(2, answer=HELLO)) as bad, FaultServer() as good:
        with pytest.raises(litellm.MidStreamFallbackError):
            read(kind, bad, fallbacks=[{"api_base": good.url}], num_retries=0)

    assert not good.requests


def test_a_second_call_comes_from_the_cache(kind, configure):
    """An answer that is there is not asked for again: whole and streamed are LiteLLM's own objects."""
    configure(**CACHE)
    with FaultServer([Answer("Hello.", tool_calls=(PARIS,))]) as server:
        first = call(kind, server, tools=[TOOL], temperature=0)
        second = call(kind, server, tools=[TOOL], temperature=0)
        _, chunks = read(kind, server, tools=[TOOL], temperature=0)

    assert second.choices[0].message.model_dump() == first.choices[0].message.model_dump()
    assert second._hidden_params["blueprint"]["cache"]["hit"]
    assert [type(chunk) for chunk in chunks] == [litellm.ModelResponseStream]
    assert text_of(chunks) == "Hello."
    assert json.loads(chunks[0].choices[0].delta.tool_calls[0].function.arguments) == {"city": "Paris"}


def test_a_stream_fills_the_cache(kind, configure):
    """What was streamed is found by a whole call; `cache={"no-cache": True}` asks again."""
    configure(**CACHE)
    with FaultServer([HELLO, Answer("Anew.")]) as server:
        read(kind, server, temperature=0)
        again = call(kind, server, temperature=0)
        anew = call(kind, server, temperature=0, caching=False)

    assert again.choices[0].message.content == HELLO.text
    assert anew.choices[0].message.content == "Anew."


def test_errors_of_a_stream_are_raised_by_the_call(kind):
    """As in LiteLLM, a stream that cannot be opened fails at once, not when it is read."""
    with FaultServer(default=Status(401)) as server, pytest.raises(litellm.AuthenticationError):
        if kind == "sync":
            blueprint_llm.completion(**keywords_of(server, stream=True))
        else:
            asyncio.run(closing_clients(blueprint_llm.acompletion(**keywords_of(server, stream=True))))


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


def test_a_sync_call_inside_a_running_loop():
    """The blocking function works where an event loop runs."""

    async def run(server):
        whole = blueprint_llm.completion(**keywords_of(server))
        return whole, list(blueprint_llm.completion(**keywords_of(server, stream=True)))

    with FaultServer(default=HELLO) as server:
        whole, chunks = asyncio.run(closing_clients(run(server)))

    assert whole.choices[0].message.content == text_of(chunks) == HELLO.text


def test_threads_share_one_configuration(configure):
    """First calls of many threads at once build one set of parts: a quota of 5 holds over all of them."""
    configure(quotas=[{"scope": "project", "requests": 5, "window": "day"}])
    barrier = threading.Barrier(10)

    def one(server):
        barrier.wait()
        try:
            return blueprint_llm.completion(**keywords_of(server)).choices[0].message.content
        except litellm.RateLimitError:
            return None

    with FaultServer(default=HELLO) as server, ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(one, [server] * 10))

    assert answers.count(HELLO.text) == len(server.requests) == 5
    assert functions._built.cache_info().currsize == 1


def test_a_broken_configuration_is_told(configure):
    """A mistake in the file that is found is our ConfigError, with its place."""
    configure(nonsense=1)

    with pytest.raises(errors.ConfigError, match="nonsense"):
        blueprint_llm.completion(model="openai/gpt-4o", messages=HI, api_key=KEY)


@pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning")
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("key", [pytest.param(key, id=name) for name, key in KEYS.items()])
@pytest.mark.parametrize("outcome", ["200", "401 echo", "500 echo", "cut"])
def test_no_key_comes_out(kind, key, outcome, stream, configure):
    """Not a trace of the call's key is in an exception, its frames, its attributes, the answer's facts or the logs."""
    if key == KEYS["short8"] and outcome == "200":
        key = KEYS["sk"]
    with echoing_server() as server, watched() as sinks:
        server.outcome = outcome
        try:
            do_not_hold(kind, server.root + "/v1", key, sinks, stream=stream)
        except Exception as error:  # noqa: BLE001 - whatever LiteLLM raises
            error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
            sinks.take(error)
        given = list(server.keys)

    assert given and set(given) == {key}
    assert not sinks.hits(key)


def do_not_hold(kind, url, key, sinks, *, stream):
    """Make a call whose answer's facts are looked at; the frame that holds the key is not ours to clean."""
    asked = {"model": "openai/gpt-4o", "messages": HI, "api_base": url, "api_key": key, "num_retries": 0}
    if kind == "sync":
        answer = blueprint_llm.completion(**asked, stream=stream)
    else:
        answer = asyncio.run(closing_clients(blueprint_llm.acompletion(**asked)))
    sinks.add("facts", repr(answer._hidden_params))


def test_the_search_for_keys_finds_them():
    """The positive control: without redaction the same search finds the key in LiteLLM's words."""
    key = KEYS["sk"]
    with echoing_server() as server, watched() as sinks, redaction_off():
        server.outcome = "401 echo"
        with pytest.raises(litellm.AuthenticationError) as caught:
            call_with_key(server.root + "/v1", key)
        sinks.add("message", str(caught.value))

    assert sinks.hits(key)


def call_with_key(url, key):
    """A call."""
    blueprint_llm.completion(model="openai/gpt-4o", messages=HI, api_base=url, api_key=key, num_retries=0)


def test_tool_calls_of_an_unreadable_schema_pass(kind):
    """Tools that are not functions, or whose schema nobody can read, go to the provider; calls must be JSON still."""
    odd = [{"type": "web_search_preview"}, {**TOOL, "function": {"name": "f", "parameters": {"type": "nonsense"}}}]
    with FaultServer(default=Answer("", tool_calls=(ToolUse("f", {"x": 1}),))) as server:
        answer = call(kind, server, tools=odd)

    assert answer.choices[0].message.tool_calls[0].function.name == "f"
    assert server.requests[0].body["tools"] == odd
    assert CALL["id"]
