"""The guarded functions under limits: what is refused, how often, under which class, and that no key comes out."""

import asyncio
import json
import pickle  # noqa: TID251 - what process pools do to errors
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler

import httpx
import litellm
import openai
import pytest
from canary import KEYS, Sinks, redaction_off, watched
from compat_calling import HELLO, KINDS, OTHER_KEY, call, keywords_of, read, text_of
from compat_cases import HI, PARIS, TOOL
from driving import KEY, closing_clients
from echoing_server import echoing_server
from guarding import CountingGuard
from litellm.exceptions import MidStreamFallbackError
from serving import serving

import blueprint_llm
from blueprint_llm import errors, redaction
from blueprint_llm import litellm as guarded
from blueprint_llm.adapters.exceptions import without_secrets
from blueprint_llm.compat import guarding as guards
from blueprint_llm.compat.failures import both, mid_stream
from blueprint_llm.testing import Answer, FaultServer

# LiteLLM makes a session per key and forgets to close those whose call failed.
pytestmark = [
    pytest.mark.usefixtures("litellm_warm", "collected"),
    pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning"),
]
LIMITED = errors.QuotaExceededError(scope="project", kind="requests", limit=1, used=1, resets_at=None)
SPENT = errors.BudgetExceededError(scope="project", limit_usd=2.0, used_usd=2.5, resets_at=None)
FACTS = {"provider": "openai", "model": "gpt-4o"}
BOTH = [
    (SPENT, "BudgetExceededError"),
    (LIMITED, "RateLimitError"),
    (errors.CredentialsError("no key"), "AuthenticationError"),
    (errors.NoTargetError([]), "BadRequestError"),
    (errors.ContextDoesNotFitError(provider="p", needed_tokens=9, limit_tokens=8), "ContextWindowExceededError"),
    (errors.ToolCallInvalidError("bad", **FACTS), "APIResponseValidationError"),
    (errors.DeadlineExceededError("late", **FACTS), "Timeout"),
    (errors.InvalidRequestError("wrong", **FACTS), "BadRequestError"),
    *(
        (errors.CallError("x", category=category, **FACTS), name)
        for category, name in {"refused": "AuthenticationError", "not_found": "NotFoundError"}.items()
    ),
]


@pytest.fixture(params=KINDS)
def kind(request):
    """Either function."""
    return request.param


@pytest.fixture(autouse=True)
def guard(monkeypatch):
    """The guard that the functions share."""
    counting = CountingGuard()
    monkeypatch.setattr(guards, "build", lambda config: counting)
    guards.forget()
    return counting


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("refusal", "name"), [("budget", "BudgetExceededError"), ("quota", "RateLimitError")])
def test_a_refusal_is_both_classes(kind, stream, refusal, name, guard):
    """A limit stops a call before it is sent, with an error that is ours and LiteLLM's and survives a pickle."""
    guard.limit, guard.refusal = 0, refusal
    with FaultServer() as server, pytest.raises(getattr(litellm, name)) as caught:
        (read if stream else call)(kind, server)

    assert isinstance(caught.value, type(guard.error()))
    assert caught.value.num_retries == 0
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - made on the line itself
    assert type(again) is type(caught.value)
    assert (again.scope, str(again)) == ("project", str(caught.value))
    assert not server.requests


def test_a_refused_budget_has_litellms_facts():
    """`max_budget` and `current_cost` say what our own facts say."""
    error = both(SPENT)

    assert (error.max_budget, error.current_cost, error.limit_usd, error.used_usd) == (2.0, 2.5, 2.0, 2.5)


@pytest.mark.parametrize(("error", "name"), BOTH, ids=[f"{type(e).__name__} {n}" for e, n in BOTH])
def test_an_error_is_caught_under_either_name(error, name):
    """Every kind of error of ours is its own class and LiteLLM's for such trouble, whole or in a stream."""
    whole, streamed = both(error), mid_stream(error, None, shown=False)

    assert isinstance(whole, type(error))
    assert isinstance(whole, getattr(litellm.exceptions, name))
    assert isinstance(streamed, type(error))
    assert isinstance(streamed, MidStreamFallbackError)
    assert type(streamed.original_exception) is type(whole)
    assert str(error) in str(whole)
    assert type(both(type(error).__new__(type(error)) if False else error)) is type(whole)  # one class for each pair


def test_litellms_own_budget_manager_is_caught_too():
    """`except litellm.BudgetExceededError` of a program stops it, whichever module it imports LiteLLM from."""
    assert guarded.BudgetExceededError is litellm.BudgetExceededError
    assert isinstance(both(SPENT), guarded.BudgetExceededError)


class _Embeddings(BaseHTTPRequestHandler):
    """Answers embeddings."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        found = {
            "object": "list",
            "model": "e",
            "data": [{"object": "embedding", "index": 0, "embedding": [0.1]}],
            "usage": {"prompt_tokens": 3, "total_tokens": 3},
        }
        content = json.dumps(found).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        """Say nothing."""


@pytest.mark.parametrize("way", ["module", "installed", "Router"])
def test_of_50_embeddings_at_once_10_reach_the_server(kind, way, guard):
    """A limit for 10 holds for 50 calls at the same time, in threads or on one event loop."""
    guard.limit = 10
    with serving(_Embeddings) as (server, url), ThreadPoolExecutor(50) as pool:
        model = {"model": "openai/text-embedding-3-small", "api_base": url, "api_key": KEY}
        if way == "Router":
            router = blueprint_llm.Router(
                [{"model_name": "e", "litellm_params": model}], num_retries=0, blueprint=guard, disable_cooldowns=True
            )
            through, asked = router, {"model": "e", "input": ["x"]}
        else:
            through, asked = (guarded if way == "module" else litellm), {**model, "input": ["x"], "max_retries": 0}
            if way == "installed":
                blueprint_llm.install(guard)
        if kind == "sync":
            answers = list(pool.map(lambda _: outcome(lambda: through.embedding(**asked)), range(50)))
        else:
            answers = asyncio.run(closing_clients(crowd(through, asked)))

    assert len(server.asked) == 10
    assert sorted(answers) == ["RateLimitError"] * 40 + ["ok"] * 10
    assert guard.endings == ["ok"] * 10


def outcome(ask):
    """`ok`, or LiteLLM's class of what was raised."""
    try:
        ask()
    except litellm.RateLimitError:
        return "RateLimitError"
    return "ok"


async def crowd(through, asked):
    """50 calls at the same time."""

    async def one():
        try:
            await through.aembedding(**asked)
        except litellm.RateLimitError:
            return "RateLimitError"
        return "ok"

    return await asyncio.gather(*(one() for _ in range(50)))


def test_sync_and_async_calls_share_the_guard(guard):
    """A limit holds over threads and loops together."""
    guard.limit = 3

    async def both_ways(server):
        await guarded.acompletion(**keywords_of(server))
        guarded.completion(**keywords_of(server))
        await asyncio.to_thread(guarded.completion, **keywords_of(server))
        with pytest.raises(litellm.RateLimitError):
            await guarded.acompletion(**keywords_of(server))

    with FaultServer(default=HELLO) as server:
        asyncio.run(closing_clients(both_ways(server)))

    assert len(server.requests) == 3


def test_threads_build_one_shared_guard(monkeypatch):
    """First calls of many threads at once build one guard."""
    built, barrier = [], threading.Barrier(10)

    def build(config):
        built.append(config)
        return CountingGuard()

    monkeypatch.setattr(guards, "build", build)
    guards.forget()

    def one(_):
        barrier.wait()
        return guarded.completion(model="gpt-4o", messages=HI, mock_response="hello")

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(one, range(10)))

    assert built == [None]


def test_litellms_settings_hold(kind, monkeypatch):
    """A setting that a program makes through the module is obeyed by its calls."""
    monkeypatch.setattr(litellm, "drop_params", False)
    with FaultServer(default=HELLO) as server:
        with pytest.raises(litellm.UnsupportedParamsError):
            call(kind, server, model="openai/gpt-4", reasoning_effort="low")
        guarded.drop_params = True
        call(kind, server, model="openai/gpt-4", reasoning_effort="low")

    assert "reasoning_effort" not in server.requests[0].body


def test_the_calls_own_connection_and_retries_win(kind, monkeypatch):
    """`api_base`, `api_key` and `num_retries` of a call are LiteLLM's to obey."""
    monkeypatch.setenv("OPENAI_API_KEY", OTHER_KEY)
    with FaultServer(default=HELLO) as server:
        call(kind, server)

    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"


def test_arguments_by_position(kind):
    """The messages and what follows may come by position, in LiteLLM's order."""
    more = (9.5, 0.25) if kind == "sync" else (None, None, 9.5, 0.25)
    with FaultServer(default=HELLO) as server:
        keywords = {"api_base": server.url, "api_key": KEY}
        if kind == "sync":
            guarded.completion("openai/gpt-4o", HI, *more, **keywords)
        else:
            asyncio.run(closing_clients(guarded.acompletion("openai/gpt-4o", HI, *more, **keywords)))

    assert server.requests[0].body["temperature"] == 0.25


def test_earlier_answers_are_messages(kind):
    """LiteLLM's own message objects go on as LiteLLM sends them."""
    with FaultServer(default=Answer("", tool_calls=(PARIS,))) as server:
        first = call(kind, server, tools=[TOOL])
        talk = [*HI, first.choices[0].message, {"role": "tool", "tool_call_id": "call_0", "content": "sunny"}]
        call(kind, server, messages=talk, tools=[TOOL])
        call(kind, server, messages=talk, tools=[TOOL], through=litellm)

    assert server.requests[1].body["messages"] == server.requests[2].body["messages"]


def test_a_sync_call_inside_a_running_loop():
    """The blocking function works where an event loop runs."""

    async def run(server):
        whole = guarded.completion(**keywords_of(server))
        return whole, list(guarded.completion(**keywords_of(server, stream=True)))

    with FaultServer(default=HELLO) as server:
        whole, chunks = asyncio.run(closing_clients(run(server)))

    assert whole.choices[0].message.content == text_of(chunks) == HELLO.text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("key", [pytest.param(key, id=name) for name, key in KEYS.items()])
@pytest.mark.parametrize("outcome", ["200", "401 echo", "500 echo", "cut"])
def test_no_key_comes_out(kind, key, outcome, stream):
    """Not a trace of the call's key is in an exception, its frames, its attributes, the answer's facts or the logs."""
    if key == KEYS["short8"] and outcome == "200":
        key = KEYS["sk"]
    with echoing_server() as server, watched() as sinks:
        server.outcome = outcome
        try:
            do_not_hold(kind, server.root + "/v1", key, sinks, stream=stream)
        except Exception as error:  # noqa: BLE001 - whatever LiteLLM raises
            while error.__traceback__ and error.__traceback__.tb_frame.f_code.co_filename == __file__:
                error.__traceback__ = error.__traceback__.tb_next  # our own frames were given the key
            sinks.take(error)
        given = list(server.keys)

    assert set(given) == {key}
    assert not sinks.hits(key)


def do_not_hold(kind, url, key, sinks, *, stream):
    """Make a call whose answer's facts are looked at; the frame that holds the key is not ours to clean."""
    asked = {"model": "openai/gpt-4o", "messages": HI, "api_base": url, "api_key": key, "num_retries": 0}
    if kind == "sync":
        answer = guarded.completion(**asked, stream=stream)
    else:
        answer = asyncio.run(closing_clients(guarded.acompletion(**asked)))
    sinks.add("facts", repr(answer._hidden_params))


def test_an_exception_leaves_without_its_request():
    """Of what hangs on an exception, requests lose their headers, responses their body; causes are not chained."""
    key = KEYS["plain32"]
    redaction.register(key)
    request = httpx.Request("POST", f"http://127.0.0.1/v1?key={key}", headers={"authorization": f"Bearer {key}"})
    response = httpx.Response(401, headers={"x-echo": key, "retry-after": "7"}, text=f"no {key}", request=request)
    inner = openai.AuthenticationError(f"bad key {key}", response=response, body={"key": key})
    error = MidStreamFallbackError(f"broke: {key}", "gpt-4o", "openai", original_exception=inner, response=response)
    error.__cause__, error.odd = inner, object()

    clean = without_secrets(error)
    sinks = Sinks()
    sinks.take(clean)
    sinks.take(dict(clean.request.headers))
    sinks.take(dict(clean.original_exception.response.request.headers))

    assert not sinks.hits(key)
    assert (type(clean), clean.status_code, clean.model, clean.odd) == (type(error), 401, "gpt-4o", None)
    assert (clean.response.headers["retry-after"], clean.response.text) == ("7", "")
    assert clean.__cause__ is None


def test_the_search_for_keys_finds_them():
    """The positive control: without redaction the same search finds the key in LiteLLM's words."""
    key = KEYS["sk"]
    with echoing_server() as server, watched() as sinks, redaction_off():
        server.outcome = "401 echo"
        with pytest.raises(litellm.AuthenticationError) as caught:
            guarded.completion(model="openai/gpt-4o", messages=HI, api_base=server.root + "/v1", api_key=key)
        sinks.add("message", str(caught.value))

    assert sinks.hits(key)
