"""The drop-in functions under this library's policies: limits, retries, cache, the trace, and whose settings win."""

import asyncio
import json
import pickle  # noqa: TID251 - what process pools do to errors
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import litellm
import openai
import pytest
import yaml
from compat_calling import HELLO, KINDS, OTHER_KEY, call, keywords_of, read, text_of
from compat_cases import HI, PARIS, TOOL
from driving import KEY, closing_clients

import blueprint_llm
from blueprint_llm import SyncLLMClient, errors
from blueprint_llm.compat import Completions, functions
from blueprint_llm.engine.parts import Parts
from blueprint_llm.testing import Answer, FaultServer, ScriptedAdapter, Stall, Status, ToolUse

# LiteLLM makes a session per key and forgets to close those whose call failed.
pytestmark = [
    pytest.mark.usefixtures("litellm_warm", "collected"),
    pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning"),
]

BUDGET = {"budgets": [{"scope": "project", "limit_usd": 0.000001}]}
CACHE = {"cache": {"enabled": True}}


@pytest.fixture
def configure(monkeypatch, tmp_path):
    """Write the configuration that the functions find."""

    def write(**blueprint):
        groups = blueprint.pop("model_list", [])
        document = {"model_list": groups, "blueprint": {"version": 1, "retry": {"base_s": 0.001}, **blueprint}}
        (tmp_path / "blueprint.yaml").write_text(yaml.safe_dump(document))
        monkeypatch.chdir(tmp_path)

    return write


@pytest.fixture(params=KINDS)
def kind(request):
    """Either function."""
    return request.param


def test_the_trace_of_a_whole_answer(kind):
    """`_hidden_params["blueprint"]` tells what was done, as JSON."""
    with FaultServer([Status(500), HELLO]) as server:
        answer = call(kind, server, num_retries=1)

    trace = answer._hidden_params["blueprint"]
    assert [row["status"] for row in json.loads(json.dumps(trace))["attempts"]] == [500, None]
    assert trace["served_by"] == "openai/openai/gpt-4o"


@pytest.mark.parametrize("stream", [False, True])
def test_a_blocked_budget_is_both_classes(kind, stream, configure):
    """A budget stops a call before it is sent, with an error that is ours and LiteLLM's and survives a pickle."""
    configure(**BUDGET)
    with FaultServer() as server, pytest.raises(litellm.BudgetExceededError) as caught:
        (read if stream else call)(kind, server)

    assert isinstance(caught.value, errors.BudgetExceededError)
    assert (caught.value.max_budget, caught.value.limit_usd) == (0.000001, 0.000001)
    assert "budget of project" in caught.value.message
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - made on the line itself
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


def test_a_calls_key_is_no_keyless_vendors(kind):
    """A fallback that takes no key gets none: not the call's either."""
    with FaultServer(default=Status(500)) as first, FaultServer(default=HELLO) as second:
        behind = {"model": "hosted_vllm/m", "api_base": second.url}
        groups = [
            {"model_name": "main", "litellm_params": {"model": "openai/gpt-4o"}},
            {"model_name": "behind", "litellm_params": behind},
        ]
        parts = Parts.build({"model_list": groups, "router_settings": {"fallbacks": [{"main": ["behind"]}]}})
        call(kind, first, model="main", num_retries=0, through=Completions(parts))
        parts.close()

    assert KEY in str(first.requests[0].headers)
    assert KEY not in str(second.requests[0].headers)


def test_the_clients_calls_own_timeout_wins():
    """The client's own methods take a `timeout` too, and hold it themselves."""
    cloud = {"model": "openai/gpt-4o", "api_key": KEY}
    config = {"blueprint": {"version": 1, "providers": {"cloud": cloud}, "deadline": {"total_s": 9}}}
    stalling = {"cloud": ScriptedAdapter([Stall(0)])}
    with SyncLLMClient(config, adapters=stalling) as client, pytest.raises(errors.CallError) as caught:
        client.chat(messages=HI, timeout=0.2, num_retries=0)

    assert (caught.value.category, caught.value.code) == ("timeout", "no_response")


@pytest.mark.parametrize(
    ("own", "requests"), [({"num_retries": 0}, 1), ({"num_retries": 2}, 3), ({"max_retries": 1}, 2)]
)
def test_the_calls_own_retries_win(kind, own, requests, configure):
    """`num_retries` of the call wins over `blueprint.retry`; LiteLLM's other word for it counts too."""
    configure(retry={"max_attempts": 2, "base_s": 0.001})
    with FaultServer(default=Status(500)) as server, pytest.raises(litellm.InternalServerError):
        call(kind, server, **own)

    assert len(server.requests) == requests


def test_litellms_own_retries_stay_off(kind, monkeypatch):
    """With `litellm.num_retries` set each attempt is still one request, and its failure LiteLLM's own."""
    monkeypatch.setattr(litellm, "num_retries", 3)
    with FaultServer(default=Status(500)) as server, pytest.raises(litellm.InternalServerError):
        call(kind, server, num_retries=1)

    assert len(server.requests) == 2
    assert not any("retry" in name for request in server.requests for name in request.body)


def test_the_other_word_for_a_timeout_counts(kind):
    """`request_timeout` of a call is its `timeout`."""
    with FaultServer(default=Stall(0)) as server, pytest.raises(litellm.Timeout) as caught:
        call(kind, server, request_timeout=0.3, num_retries=0)

    assert type(caught.value) is litellm.Timeout


def test_an_unsafe_credentials_file_is_told(kind, configure, tmp_path, monkeypatch):
    """A file that others may read is one clear error before anything is sent; without a file LiteLLM speaks."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    path = tmp_path / "credentials.yaml"
    configure(credentials={"file": str(path)})
    monkeypatch.setenv("BLUEPRINT_CONFIG", str(tmp_path / "blueprint.yaml"))
    path.write_text("{}")
    path.chmod(0o644)

    with FaultServer(default=HELLO) as server:
        with pytest.raises(litellm.AuthenticationError, match=re.escape(str(path))) as caught:
            call(kind, server, api_key=None)
        path.unlink()
        with pytest.raises(litellm.InternalServerError, match="OPENAI_API_KEY"):
            call(kind, server, api_key=None, num_retries=0)

    assert isinstance(caught.value, errors.CredentialsError)
    assert not server.requests


@pytest.mark.parametrize("timeout", [0.3, "0.3", httpx.Timeout(0.3)], ids=["number", "text", "httpx"])
def test_the_calls_own_timeout_wins(kind, timeout, configure):
    """A call's own `timeout` ends it long before the configured deadline, with LiteLLM's exception."""
    configure(deadline={"total_s": 60, "first_token_s": 30})
    with FaultServer(default=Stall(0)) as server:
        with pytest.raises(litellm.Timeout) as caught:
            call(kind, server, timeout=timeout, num_retries=0)
        assert server.wait_until(lambda requests: requests[0].closed_early_at)

    assert type(caught.value) is litellm.Timeout


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
    parts = Parts.build({"blueprint": {"version": 1, "retry": {"base_s": 0.001}}})

    with FaultServer([Status(500), Status(429)]) as server, pytest.raises(openai.APIStatusError) as caught:
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


def test_a_sync_call_inside_a_running_loop():
    """The blocking function works where an event loop runs."""

    async def run(server):
        whole = blueprint_llm.completion(**keywords_of(server))
        return whole, list(blueprint_llm.completion(**keywords_of(server, stream=True)))

    with FaultServer(default=HELLO) as server:
        whole, chunks = asyncio.run(closing_clients(run(server)))

    assert whole.choices[0].message.content == text_of(chunks) == HELLO.text


def test_threads_share_one_configuration(configure, monkeypatch):
    """First calls of many threads at once build one set of parts: a quota of 6 holds over all of them."""
    configure(quotas=[{"scope": "project", "requests": 6, "window": "day"}])
    barrier, built, build = threading.Barrier(10), [], Parts.build
    monkeypatch.setattr(Parts, "build", lambda source: built.append(source) or time.sleep(0.05) or build(source))

    def one(server):
        barrier.wait()
        try:
            return blueprint_llm.completion(**keywords_of(server)).choices[0].message.content
        except litellm.RateLimitError:
            return None

    with FaultServer(default=HELLO) as server, ThreadPoolExecutor(10) as pool:
        call("sync", server)  # LiteLLM makes its HTTP client: threads that come at once would each make one
        functions.forget()
        answers = list(pool.map(one, [server] * 10))

    assert answers.count(HELLO.text) == len(server.requests) - 1 == 5
    assert built == [None, None]  # the warm one's and the threads'


def test_a_broken_configuration_is_told(configure):
    """A mistake in the file that is found is our ConfigError, with its place."""
    configure(nonsense=1)

    with pytest.raises(errors.ConfigError, match="nonsense"):
        blueprint_llm.completion(model="openai/gpt-4o", messages=HI, api_key=KEY)


def test_tool_calls_of_an_unreadable_schema_pass(kind):
    """Tools that are not functions, or whose schema nobody can read, go to the provider; calls must be JSON still."""
    odd = [{"type": "web_search_preview"}, {**TOOL, "function": {"name": "f", "parameters": {"type": "nonsense"}}}]
    with FaultServer(default=Answer("", tool_calls=(ToolUse("f", {"x": 1}),))) as server:
        answer = call(kind, server, tools=odd)

    assert answer.choices[0].message.tool_calls[0].function.name == "f"
    assert server.requests[0].body["tools"] == odd
