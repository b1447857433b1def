"""`blueprint_llm.Router`: LiteLLM's own Router, every attempt of which passes the guard."""

import asyncio
import json
from http.server import BaseHTTPRequestHandler
from typing import ClassVar
from unittest import mock

import litellm
import pytest
from compat_calling import HELLO, KINDS, text_of
from compat_cases import PARIS, TOOL, chunk
from driving import KEY, closing_clients
from guarding import CountingGuard
from litellm.exceptions import MidStreamFallbackError
from serving import serving

import blueprint_llm
from blueprint_llm import Router, errors
from blueprint_llm.compat import guarding as guards
from blueprint_llm.compat.router import with_closed
from blueprint_llm.testing import Answer, BrokenTool, Cut, FaultServer, Recorded, Reset, Status, ToolUse

# LiteLLM makes a session per key and forgets to close those whose call failed.
pytestmark = [
    pytest.mark.usefixtures("litellm_warm", "collected"),
    pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Router.* is deprecated:DeprecationWarning"),
]
PEER = vars(litellm)["Router"]
MESSAGES = [{"role": "user", "content": "hello"}]
BROKEN = [
    pytest.param(BrokenTool(), id="no JSON"),
    pytest.param(BrokenTool('{"town": "Paris"}'), id="not its schema"),
    pytest.param(Answer("", tool_calls=(ToolUse("x"),)), id="no such tool"),
]
QUICK = {"headers": {"retry-after-ms": "1"}}


def entry(group, model, url, **more):
    """An entry of `model_list`."""
    params = {"model": f"openai/{model}", "api_key": KEY, "api_base": url, **more}
    return {"model_name": group, "litellm_params": params}


@pytest.fixture(params=KINDS)
def kind(request):
    """Either way of calling."""
    return request.param


@pytest.fixture
def guard():
    """The guard of the Router."""
    return CountingGuard()


@pytest.fixture
def server():
    """One server; each model has its own step or the default: its name."""
    steps = {}

    def answer(request):
        step = steps.get(request.body["model"])
        return step if step is not None else Answer(request.body["model"])

    with FaultServer(answer) as running:
        running.steps = steps
        yield running


def ask(kind, router, **asked):
    """A whole answer of group a."""
    asked = {"model": "a", "messages": MESSAGES, **asked}
    if kind == "sync":
        return router.completion(**asked)
    return asyncio.run(closing_clients(router.acompletion(**asked)))


def read(kind, router, seen=None, **asked):
    """The chunks of a stream of group a, which also go to `seen`."""
    seen, asked = [] if seen is None else seen, {"model": "a", "messages": MESSAGES, "stream": True, **asked}
    if kind == "sync":
        seen.extend(router.completion(**asked))
        return seen

    async def run():
        async for each in await router.acompletion(**asked):
            seen.append(each)
        return seen

    return asyncio.run(closing_clients(run()))


def text(answer):
    """What an answer says."""
    return answer.choices[0].message.content


def two(server, guard, **settings):
    """Group a with the model bad, group b with the model good, and the fallback from one to the other."""
    groups = [entry("a", "bad", server.url), entry("b", "good", server.url)]
    return Router(groups, **{"fallbacks": [{"a": ["b"]}], "num_retries": 0, "blueprint": guard, **settings})


def asked(server):
    """The models that were asked, in order."""
    return [request.body["model"] for request in server.requests]


def test_it_is_litellms_router(server, guard):
    """The object is of LiteLLM's class, not of one of ours."""
    router = two(server, guard)

    assert type(router) is PEER
    assert isinstance(router, Router)
    assert router.get_model_names() == PEER(model_list=router.model_list).get_model_names() == ["a", "b"]


def test_wrong_arguments_are_refused_in_litellms_words():
    """What LiteLLM's constructor declines, ours declines alike."""
    for wrong in ({"quite_unknown": []}, {"routing_strategy": "fastest-first"}, {"cooldown_time": True}):
        with pytest.raises(Exception) as expected:  # noqa: PT011 - any: it is compared
            PEER(model_list=[], **wrong)
        with pytest.raises(type(expected.value)) as caught:
            Router([], **wrong, blueprint=CountingGuard())

        assert str(caught.value).removesuffix(", did you mean 'fallbacks'?") == str(expected.value)


def test_without_a_block_the_shared_guard_applies(server, monkeypatch, guard):
    """A Router without `blueprint=` is under the limits that the functions are under."""
    monkeypatch.setattr(guards, "build", lambda config: guard)
    guards.forget()
    Router([entry("a", "m", server.url)]).completion("a", MESSAGES)

    assert guard.operations == ["completion"]


def test_every_attempt_is_guarded_and_knows_its_deployment(kind, server, guard):
    """Retries and fallbacks each pass the guard, with LiteLLM's facts about the deployment."""
    server.steps["bad"] = Status(503, **QUICK)
    answer = ask(kind, two(server, guard, num_retries=1))

    assert text(answer) == "good"
    assert asked(server) == ["bad", "bad", "good"]
    assert guard.endings[-1] == "ok"
    assert len(guard.booked) == 3
    assert [each.keywords["metadata"]["model_group"] for each in guard.booked] == ["a", "a", "b"]
    assert all(each.keywords["model_info"]["id"] for each in guard.booked)


@pytest.mark.parametrize("stream", [False, True])
def test_a_refused_attempt_falls_back_and_is_not_retried(kind, stream, server, guard):
    """A limit on one deployment sends the call on to the fallback at once."""
    guard.refuse = frozenset({"openai/bad"})
    router, seen = two(server, guard, num_retries=3), []
    said = text_of(read(kind, router)) if stream else text(ask(kind, router))

    assert (said, asked(server), seen) == ("good", ["good"], [])
    assert [each.keywords["model"] for each in guard.booked] == ["openai/good"]


@pytest.mark.parametrize(("refusal", "name"), [("budget", "BudgetExceededError"), ("quota", "RateLimitError")])
@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_everywhere_is_both_classes(kind, stream, refusal, name, server, guard):
    """Where every attempt is refused, the error is LiteLLM's and ours, after one look at each group."""
    guard.limit, guard.refusal = 0, refusal
    looks, error = [], guard.error
    guard.error = lambda: looks.append(1) or error()
    with pytest.raises(getattr(litellm, name)) as caught:
        (read if stream else ask)(kind, two(server, guard, num_retries=3))

    assert isinstance(caught.value, type(error()))
    assert len(looks) == 2
    assert not server.requests


@pytest.mark.parametrize("broken", BROKEN)
def test_a_malformed_whole_call_falls_back(kind, broken, server, guard):
    """A tool call that is not valid fails its attempt."""
    server.steps |= {"bad": broken, "good": Answer("", tool_calls=(PARIS,))}
    answer = ask(kind, two(server, guard), tools=[TOOL])

    assert json.loads(answer.choices[0].message.tool_calls[0].function.arguments) == {"city": "Paris"}
    assert guard.endings == ["ToolCallInvalidError", "ok"]


@pytest.mark.parametrize("broken", BROKEN)
def test_a_malformed_streamed_call_falls_back_before_output(kind, broken, server, guard):
    """Nothing was shown: the fallback answers, and of the broken call not a piece comes out."""
    server.steps |= {"bad": broken, "good": Answer("", tool_calls=(PARIS,))}
    chunks = read(kind, two(server, guard), tools=[TOOL])

    pieces = [call for each in chunks for call in each.choices[0].delta.tool_calls or ()]
    assert "".join(piece.function.arguments for piece in pieces) == '{"city": "Paris"}'
    assert guard.endings == ["ToolCallInvalidError", "ok"]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_a_malformed_streamed_call_is_retried_before_output(kind, guard):
    """Without a fallback, `num_retries` asks the same deployment again."""
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": "{broken"}}
    role_first = Recorded(chunks=(chunk(role="assistant", content=""), chunk(tool_calls=[call])))
    with FaultServer([role_first, Answer("", tool_calls=(PARIS,))]) as server:
        router = Router([entry("a", "m", server.url)], num_retries=1, blueprint=guard, disable_cooldowns=True)
        chunks = read(kind, router, tools=[TOOL])

    assert any(each.choices[0].delta.tool_calls for each in chunks)
    assert guard.endings == ["ToolCallInvalidError", "ok"]


@pytest.mark.parametrize("broken", [BROKEN[0]])
def test_a_malformed_streamed_call_raises_after_output(kind, broken, server, guard):
    """What is out stays out: no fallback continues it, the error is ours and LiteLLM's."""
    server.steps["bad"] = Answer("Let me see.", tool_calls=(ToolUse("get_weather", '{"city": Paris}'),))
    seen = []
    with pytest.raises(litellm.APIResponseValidationError) as caught:
        read(kind, two(server, guard), tools=[TOOL], seen=seen)

    assert isinstance(caught.value, errors.ToolCallInvalidError)
    assert text_of(seen) == "Let me see."
    assert not any(each.choices[0].delta.tool_calls for each in seen)
    assert asked(server) == ["bad"]


FIRST = [
    pytest.param(Reset(0, answer=HELLO), id="reset"),
    pytest.param(Cut(0, answer=HELLO, abrupt=True), id="cut"),
    pytest.param(Cut(3, answer=Answer("", tool_calls=(PARIS,)), abrupt=True), id="in a held call"),
]


@pytest.mark.parametrize("fault", FIRST)
def test_a_broken_first_chunk_falls_back(kind, fault, server, guard):
    """A stream that breaks before anything was shown is served by the fallback."""
    server.steps |= {"bad": fault, "good": HELLO}
    chunks = read(kind, two(server, guard), tools=[TOOL])

    assert text_of(chunks) == HELLO.text
    assert guard.endings[-1] == "ok"
    assert set(guard.endings[:-1]) == {"MidStreamFallbackError"}


@pytest.mark.parametrize("fault", [Cut(2, answer=HELLO, abrupt=True), Reset(2, answer=HELLO)], ids=["cut", "reset"])
def test_a_break_after_output_raises_as_litellms(kind, fault, server, guard):
    """After output the Router raises what LiteLLM's raises by itself."""
    server.steps["bad"] = fault
    ours, theirs = [], []
    arguments = {"fallbacks": [{"a": ["b"]}], "num_retries": 0}
    peer = PEER(model_list=[entry("a", "bad", server.url), entry("b", "good", server.url)], **arguments)
    with pytest.raises(Exception) as expected:  # noqa: PT011 - any: it is compared
        read(kind, peer, seen=theirs)
    with pytest.raises(type(expected.value)) as caught:
        read(kind, two(server, guard), seen=ours)

    assert type(caught.value) is type(expected.value)
    assert text_of(ours) == text_of(theirs) == "Hello my "
    assert not isinstance(caught.value, MidStreamFallbackError)


@pytest.mark.parametrize("stream", [False, True])
def test_facts_and_headers_are_litellms(kind, stream, server, guard):
    """`_hidden_params` and the headers in it are those of LiteLLM's Router, on the answer and on each chunk."""
    server.steps["bad"] = Status(503, **QUICK)
    groups = [entry("a", "bad", server.url), entry("b", "good", server.url)]
    groups = [{**each, "model_info": {"id": each["model_name"]}} for each in groups]
    settings = {"fallbacks": [{"a": ["b"]}], "num_retries": 0}
    told = []
    for router in (PEER(model_list=groups, **settings), Router(groups, **settings, blueprint=guard)):
        found = read(kind, router) if stream else [ask(kind, router)]
        told.append([facts(each._hidden_params) for each in found])

    assert told[1] == told[0]
    assert stream or told[1][0]["additional_headers"]["x-litellm-attempted-fallbacks"] == 1


def facts(hidden):
    """What is compared of the facts beside an answer."""
    varies = {
        "created_at",
        "litellm_call_id",
        "headers",
        "_response_ms",
        "received_model_id",
        "litellm_overhead_time_ms",
        "usage",
    }
    kept = {name: value for name, value in hidden.items() if name not in varies and "_ms" not in name}
    headers = (kept.get("additional_headers") or {}).items()
    kept["additional_headers"] = {name: value for name, value in headers if not name.endswith(("-date", "_ms"))}
    return kept


SWITCHES = [
    ("mock_testing_fallbacks", "fallbacks"),
    ("mock_testing_context_fallbacks", "context_window_fallbacks"),
    ("mock_testing_content_policy_fallbacks", "content_policy_fallbacks"),
]


@pytest.mark.parametrize(("switch", "setting"), SWITCHES)
def test_litellms_test_switches_work(kind, switch, setting, server, guard):
    """`mock_testing_*` make the Router fall back as LiteLLM's does."""
    router = two(server, guard, **{"fallbacks": [], setting: [{"a": ["b"]}]})

    assert text(ask(kind, router, **{switch: True})) == "good"
    assert guard.operations == [{"sync": "completion", "async": "acompletion"}[kind]]


def test_a_mocked_rate_limit_is_retried(server, guard):
    """`mock_testing_rate_limit_error` fails the call once it has begun, and LiteLLM retries or raises it."""
    router = Router([entry("a", "m", server.url)], num_retries=0, blueprint=guard)
    with pytest.raises(litellm.RateLimitError):
        ask("async", router, mock_testing_rate_limit_error=True)


def test_two_routers_have_two_guards(server):
    """Each Router is under its own limits."""
    one, other = CountingGuard(limit=0), CountingGuard()
    with pytest.raises(litellm.RateLimitError):
        Router([entry("a", "m", server.url)], num_retries=0, blueprint=one).completion("a", MESSAGES)
    Router([entry("a", "m", server.url)], blueprint=other).completion("a", MESSAGES)

    assert (one.operations, other.operations) == ([], ["completion"])


def test_an_installed_guard_and_a_routers_own_are_one_call(server, guard):
    """With LiteLLM guarded in place, a Router's attempt is booked by the Router's guard alone."""
    outer = CountingGuard()
    with blueprint_llm.install(outer):
        Router([entry("a", "m", server.url)], blueprint=guard).completion("a", MESSAGES)

    assert (guard.operations, outer.operations) == (["completion"], [])


def test_a_mock_in_litellms_place_is_called(guard):
    """Tests that patch `litellm.acompletion` see what the Router would have sent."""
    router = Router([entry("a", "m", "http://127.0.0.1:9")], blueprint=guard)
    with mock.patch("litellm.acompletion", new_callable=mock.AsyncMock) as patched:
        patched.return_value = litellm.ModelResponse()
        ask("async", router)

    assert patched.call_args.kwargs["model"] == "openai/m"
    assert guard.endings == ["ok"]


def test_a_cancelled_call_settles(server, guard):
    """A task that is cancelled in the middle leaves no call open."""
    server.steps["bad"] = Answer("late", delay_s=30)

    async def run():
        task = asyncio.create_task(two(server, guard).acompletion("a", MESSAGES))
        await asyncio.to_thread(server.wait_until, lambda requests: requests)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(closing_clients(run()))

    assert guard.endings == ["CancelledError"]


class _Everything(BaseHTTPRequestHandler):
    """Answers every endpoint of OpenAI's, Cohere's and Anthropic's with something that LiteLLM can read."""

    protocol_version = "HTTP/1.1"
    usage: ClassVar = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    answers: ClassVar = {
        "/embeddings": {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}]},
        "/images/generations": {"created": 1, "data": [{"url": "http://127.0.0.1/x.png"}]},
        "/audio/transcriptions": {"text": "heard"},
        "/moderations": {"id": "m", "model": "m", "results": []},
        "/rerank": {"id": "r", "results": [{"index": 0, "relevance_score": 0.5}]},
        "/completions": {"object": "text_completion", "choices": [{"index": 0, "text": "t", "finish_reason": "stop"}]},
        "/responses": {
            "object": "response",
            "created_at": 1,
            "status": "completed",
            "output": [],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
        },
        "/messages": {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "text", "text": "hi"}],
            "stop_reason": "end_turn",
        },
    }

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append(self.path)
        found = next((body for path, body in self.answers.items() if self.path.endswith(path)), None)
        if found is None:
            content, kind = b"RIFF", "audio/mpeg"
        else:
            usage = {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5, **self.usage}
            content = json.dumps({"id": "x", "created": 1, "model": "m", "usage": usage, **found}).encode()
            kind = "application/json"
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        """Say nothing."""


ENDPOINTS = {
    "aembedding": {"input": ["x"]},
    "embedding": {"input": ["x"]},
    "atext_completion": {"prompt": "hi"},
    "aimage_generation": {"prompt": "a cat"},
    "image_generation": {"prompt": "a cat"},
    "amoderation": {"input": "x"},
    "aspeech": {"input": "x", "voice": "alloy"},
    "atranscription": {"file": ("a.wav", b"RIFF")},
    "arerank": {"query": "q", "documents": ["d"]},
    "aresponses": {"input": "hi"},
    "responses": {"input": "hi"},
    "aanthropic_messages": {"messages": MESSAGES, "max_tokens": 9},
}
MODELS = {
    "arerank": "cohere/rerank-v3.5",
    "aanthropic_messages": "anthropic/claude-sonnet-4-5",
    "atext_completion": "text-completion-openai/m",
    "aembedding": "openai/text-embedding-3-small",
}


@pytest.mark.parametrize("name", ENDPOINTS)
def test_every_endpoint_is_guarded(name, guard):
    """Each attempt of each endpoint passes the guard once, and is refused like a chat."""
    with serving(_Everything) as (server, url):
        params = {"model": MODELS.get(name, "openai/m"), "api_key": KEY, "api_base": url}
        router = Router(
            [{"model_name": "a", "litellm_params": params}], num_retries=0, blueprint=guard, disable_cooldowns=True
        )
        called(router, name)
        reached = len(server.asked)
        guard.limit = 0
        with pytest.raises(litellm.RateLimitError):
            called(router, name)

    assert len(server.asked) == reached == 1
    assert guard.endings == ["ok"]
    assert guard.operations[0] in {name, name.replace("aanthropic", "anthropic")}


def called(router, name):
    """What an endpoint of the Router answers."""
    answer = getattr(router, name)(model="a", **ENDPOINTS[name])
    return asyncio.run(closing_clients(answer)) if asyncio.iscoroutine(answer) else answer


@pytest.mark.parametrize("refusal", ["quota", "budget"])
def test_a_refusal_cools_no_deployment_down(kind, refusal, server):
    """What one caller may not have, others still may: the next call of the same group is served at once."""
    guard = CountingGuard(limit=0, refusal=refusal)
    router = Router([entry("a", "m", server.url), entry("a", "m2", server.url)], num_retries=0, blueprint=guard)
    for _ in range(4):
        with pytest.raises((errors.QuotaExceededError, errors.BudgetExceededError)):
            ask(kind, router)
    guard.limit = 10**9

    assert text(ask(kind, router)) in {"m", "m2"}


class TestUnsetAddresses:
    """What a deployment takes from the environment and is not there closes it, and nothing else."""

    UNSET = "os.environ/AN_ADDRESS_THAT_IS_NOT_SET"

    def test_another_deployment_of_the_group_answers(self, kind, server, guard):
        """LiteLLM would call the vendor's own host half of the time."""
        router = Router([entry("a", "lost", self.UNSET), entry("a", "m", server.url)], num_retries=0, blueprint=guard)

        assert {text(ask(kind, router)) for _ in range(6)} == {"m"}

    def test_a_group_without_another_says_which_variable(self, kind, server, monkeypatch):
        """The error is ours and LiteLLM's, and no request leaves (to look up the vendor's host would fail the test)."""
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        block = {"store": {"url": "memory"}}
        router = Router([entry("a", "lost", self.UNSET)], num_retries=0, blueprint=block)

        with pytest.raises(litellm.AuthenticationError, match="AN_ADDRESS_THAT_IS_NOT_SET is not set") as caught:
            ask(kind, router)

        assert isinstance(caught.value, errors.CredentialsError)

    def test_its_fallback_answers(self, kind, server):
        """A closed group goes on to its fallbacks."""
        groups = [entry("a", "lost", self.UNSET), entry("b", "good", server.url)]
        router = Router(groups, fallbacks=[{"a": ["b"]}], num_retries=0, blueprint={"store": {"url": "memory"}})

        assert text(ask(kind, router)) == "good"

    def test_what_is_set_is_left_as_written(self, server, guard, monkeypatch):
        """Also a model, and the list itself is not changed."""
        monkeypatch.setenv("THEIR_MODEL", "openai/m")
        listed = [{"model_name": "a", "litellm_params": {"model": "os.environ/THEIR_MODEL", "api_base": server.url}}]

        assert with_closed(listed) is listed
        assert text(ask("sync", Router(listed, blueprint=guard), api_key=KEY)) == "m"
