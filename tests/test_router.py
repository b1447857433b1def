"""`Router`: LiteLLM's arguments and methods, what it does otherwise on purpose, and its changes while it runs."""

import asyncio
import inspect
import json
import subprocess
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler

import litellm
import openai
import pytest
from canary import KEYS, Sinks
from driving import closing_clients
from litellm.types.router import Deployment, LiteLLM_Params, RetryPolicy
from serving import serving

from blueprint_llm import BudgetExceededError, ConfigError, DeadlineExceededError, Router
from blueprint_llm.testing import Answer, FaultServer, Status

MESSAGES = [{"role": "user", "content": "hello"}]
KEY = "sk-canary-of-the-router-tests"
PEER = vars(litellm)["Router"]
QUICK = {"retry-after-ms": "1"}
USED = [
    "completion",
    "acompletion",
    "text_completion",
    "atext_completion",
    "embedding",
    "aembedding",
    "image_generation",
    "aimage_generation",
    "aimage_edit",
    "amoderation",
    "arerank",
    "responses",
    "aresponses",
    "aspeech",
    "atranscription",
    "abatch_completion",
    "abatch_completion_one_model_multiple_requests",
    "abatch_completion_fastest_response",
    "model_names",
    "enable_tag_filtering",
    "tag_filtering_match_any",
    "tag_routing_prefix",
    "model_list",
    "get_model_list",
    "get_model_names",
    "set_model_list",
    "add_deployment",
    "delete_deployment",
    "upsert_deployment",
    "get_deployment",
    "get_model_ids",
    "get_model_info",
    "has_model_id",
    "get_available_deployment",
    "async_get_available_deployment",
    "get_deployment_by_model_group_name",
    "fallbacks",
    "context_window_fallbacks",
    "content_policy_fallbacks",
    "num_retries",
    "retry_policy",
    "model_group_retry_policy",
    "model_group_alias",
    "allowed_fails",
    "allowed_fails_policy",
    "cooldown_time",
    "disable_cooldowns",
    "timeout",
    "stream_timeout",
    "routing_strategy",
    "routing_strategy_args",
    "default_litellm_params",
    "max_fallbacks",
    "retry_after",
    "enable_pre_call_checks",
    "provider_budget_config",
    "update_settings",
    "get_settings",
    "chat",
    "discard",
    "reset",
]


def entry(group, model, url, **more):
    """An entry of `model_list`; the server answers as the model's name says."""
    info = {"model_info": {"id": more.pop("id")}} if "id" in more else {}
    params = {"model": f"openai/{model}", "api_key": KEY, "api_base": url, **more}
    return {"model_name": group, "litellm_params": params, **info}


def answer(request):
    """A status for e<status>, a late answer for slow, else the model's name."""
    model = request.body["model"]
    if model.startswith("e"):
        return Status(int(model[1:4]), headers=QUICK)
    return Answer(model, delay_s=0.3 if model.startswith("slow") else 0.0)


@pytest.fixture
def server():
    """A loopback server for every model."""
    with FaultServer(answer) as running:
        yield running


def asked(server):
    """How often each model was asked."""
    return Counter(request.body["model"] for request in server.requests)


def text(response):
    """What an answer says."""
    return response.choices[0].message.content


def routed(server, *models, **arguments):
    """A Router whose group a has these models, with no retries unless given."""
    return Router([entry("a", model, server.url) for model in models], **{"num_retries": 0, **arguments})


def run(work):
    """Await a call on an event loop of its own."""
    return asyncio.run(closing_clients(work))


# Its face


def test_every_argument_of_litellms_router_is_accepted():
    """Our signature has every parameter of LiteLLM's, and each is taken with its default."""
    theirs = inspect.signature(PEER.__init__).parameters
    names = theirs.keys() - {"self"}
    router = Router(**{name: theirs[name].default for name in names})

    assert names <= inspect.signature(Router).parameters.keys()
    assert router.model_list == []


def test_every_method_that_teams_use_is_there():
    """Methods and settings have LiteLLM's names, and each of them is one of LiteLLM's."""
    ours, theirs = Router(), PEER(model_list=[])
    theirs.reset()

    assert [name for name in USED if not hasattr(ours, name)] == []
    assert [name for name in USED if not hasattr(theirs, name)] == []


def test_a_misspelt_argument_is_refused():
    """What LiteLLM's constructor does not know, ours does not either."""
    with pytest.raises(TypeError, match="unexpected keyword argument 'fallback'"):
        Router([], fallback=[])


def test_router_has_no_other_attributes():
    """A misspelt method fails as it does on any object."""
    with pytest.raises(AttributeError, match="no attribute 'compleshun'"):
        _ = Router().compleshun


def test_what_means_nothing_here_is_reported_once(server, capsys):
    """Arguments without a meaning are one line on stderr when the Router is made, without their values."""
    router = routed(server, "ok", redis_password="hidden-value", alerting_config={"webhook_url": "x"})
    router.set_model_list(router.model_list)
    said = capsys.readouterr().err

    assert said.count("redis_password") == said.count("alerting_config") == 1
    assert "hidden-value" not in said


def test_doubts_are_reported_and_strict_refuses(server, capsys):
    """A fallback to no group and a misspelt parameter are reported, and refused under `strict`."""
    wrong = {"model_list": [entry("gpt-4o", "ok", server.url, rpmm=3)], "fallbacks": [{"gpt-4o": ["gpt-40"]}]}
    Router(**wrong)
    said = capsys.readouterr().err

    assert "did you mean 'rpm'?" in said
    assert "did you mean 'gpt-4o'?" in said
    with pytest.raises(ConfigError, match="unknown model group 'gpt-40'"):
        Router(**wrong, blueprint={"strict": True})


def test_making_a_router_loads_no_litellm():
    """A Router is made without importing LiteLLM; only a call needs it."""
    code = "import sys, blueprint_llm; blueprint_llm.Router([], num_retries=1); print('litellm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)

    assert done.stdout.strip() == "False"


def test_what_the_program_set_on_litellm_counts(server, monkeypatch):
    """`litellm.num_retries` and the like stand behind a Router's own arguments, as in LiteLLM."""
    monkeypatch.setattr(litellm, "num_retries", 7)

    assert Router([]).num_retries == 7
    assert routed(server, "ok").num_retries == 0


def test_no_key_shows_in_a_routers_text(server):
    """Neither the text of a Router nor the error of a bad one shows a key."""
    with pytest.raises(ConfigError) as caught:
        Router([{**entry("a", "ok", server.url), "model_info": 3}])

    assert KEY not in repr(routed(server, "ok")) + str(caught.value)


# Calls


def test_sync_calls(server):
    """`completion` blocks and returns LiteLLM's object with the trace; also as a stream and inside a running loop."""

    async def inside():
        return router.completion(model="a", messages=MESSAGES)

    with routed(server, "ok") as router:
        response = router.completion("a", MESSAGES)
        chunks = list(router.completion("a", MESSAGES, stream=True))
        within = asyncio.run(inside())

    assert type(response) is litellm.ModelResponse
    assert text(response) == text(within) == "ok"
    assert response._hidden_params["blueprint"]["served_by"] == "a/openai/ok"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "ok"


def test_openais_way_to_write_a_call(server):
    """`router.chat.completions.create` is `completion`."""
    assert text(routed(server, "ok").chat.completions.create(model="a", messages=MESSAGES)) == "ok"


def test_no_thread_is_left_behind(server):
    """However many Routers come and go, no thread is left but those that the whole process shares."""

    async def ask():
        async with routed(server, "ok") as router:
            await asyncio.gather(*(router.acompletion("a", MESSAGES) for _ in range(20)))
        with routed(server, "ok") as router:
            router.completion("a", MESSAGES)

    run(ask())
    before = threading.active_count()
    for _ in range(5):
        run(ask())

    assert threading.active_count() <= before


@pytest.mark.parametrize("name", ["num_retries", "max_retries"])
def test_a_calls_own_number_of_retries_wins(server, name):
    """A call's own `num_retries`, or LiteLLM's other word for it, wins over the Router's and over every policy."""
    router = routed(server, "e503", num_retries=3, retry_policy={"DefaultRetries": 4})
    with pytest.raises(litellm.ServiceUnavailableError):
        router.completion("a", MESSAGES, **{name: 0})

    assert asked(server) == {"e503": 1}


@pytest.mark.parametrize("status", [400, 422])
def test_a_bad_request_falls_back_to_nobody(server, status):
    """Fallbacks never apply to 400 and 422: the request is as wrong elsewhere."""
    models = [entry("a", f"e{status}", server.url), entry("b", "ok", server.url)]
    with pytest.raises(litellm.BadRequestError):
        Router(models, fallbacks=[{"a": ["b"]}]).completion("a", MESSAGES)

    assert asked(server) == {f"e{status}": 1}


def test_a_refused_content_takes_its_own_fallbacks_only():
    """A content refusal goes where `content_policy_fallbacks` say and nowhere else."""
    policy = Status(400, "content_policy_violation", error_code="content_policy_violation")
    with FaultServer(lambda request: policy if request.body["model"] == "no" else Answer("ok")) as server:
        models = [entry("a", "no", server.url), entry("b", "ok", server.url)]
        with pytest.raises(litellm.ContentPolicyViolationError):
            Router(models, fallbacks=[{"a": ["b"]}]).completion("a", MESSAGES)

        assert text(Router(models, content_policy_fallbacks=[{"a": ["b"]}]).completion("a", MESSAGES)) == "ok"


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_a_refusal_goes_on_after_one_request(server, status):
    """401, 402, 403 and 404 are not asked again; the fallback answers."""
    models = [entry("a", f"e{status}", server.url), entry("b", "ok", server.url)]
    response = Router(models, fallbacks=[{"a": ["b"]}], num_retries=3).completion("a", MESSAGES)

    assert text(response) == "ok"
    assert asked(server) == {f"e{status}": 1, "ok": 1}


def test_the_first_targets_exception_is_raised(server):
    """When all fail, the first target's exception comes out, with every attempt in its trace."""
    models = [entry("a", "e429", server.url), entry("b", "e500", server.url)]
    with pytest.raises(litellm.RateLimitError) as caught:
        Router(models, fallbacks=[{"a": ["b"]}], num_retries=0).completion("a", MESSAGES)

    assert [row["status"] for row in caught.value.trace["attempts"]] == [429, 500]


def test_fallbacks_of_an_aliased_group_apply(server):
    """A call by an alias takes the fallbacks of its group."""
    models = [entry("a", "e503", server.url), entry("b", "ok", server.url)]
    router = Router(models, fallbacks=[{"a": ["b"]}], model_group_alias={"x": "a"}, num_retries=0)

    assert text(router.completion("x", MESSAGES)) == "ok"


def test_a_policy_may_insist_on_retries(server):
    """`retry_policy` decides also for exceptions that are else not tried again."""
    with pytest.raises(litellm.AuthenticationError):
        routed(server, "e401", retry_policy={"AuthenticationErrorRetries": 2}).completion("a", MESSAGES)

    assert asked(server) == {"e401": 3}


def test_a_groups_policy_may_be_litellms_object(server):
    """`model_group_retry_policy` holds `RetryPolicy` objects where a Router is built in Python."""
    policy = {"a": RetryPolicy(RateLimitErrorRetries=2)}
    with routed(server, "e429", model_group_retry_policy=policy) as router, pytest.raises(litellm.RateLimitError):
        router.completion("a", MESSAGES)

    assert asked(server) == {"e429": 3}


@pytest.mark.parametrize("written", ["0.1", "os.environ/SLOW_S"])
def test_a_deployments_timeout_may_be_text(server, monkeypatch, written):
    """A deployment's `timeout` counts as text and from the environment."""
    monkeypatch.setenv("SLOW_S", "0.1")
    slow = [entry("a", "slow", server.url, timeout=written)]
    with Router(slow, num_retries=0) as router, pytest.raises(litellm.Timeout):
        router.completion("a", MESSAGES)


def test_a_rate_may_come_from_the_environment(server, monkeypatch):
    """`rpm: os.environ/NAME` is a limit that holds."""
    monkeypatch.setenv("CHAT_RPM", "1")
    with Router([entry("a", "m", server.url, rpm="os.environ/CHAT_RPM")], num_retries=0) as router:
        router.completion("a", MESSAGES)
        with pytest.raises(litellm.RateLimitError):
            router.completion("a", MESSAGES)

    assert asked(server) == {"m": 1}


def test_a_call_knows_its_deployment(server, monkeypatch):
    """The answer and the program's callbacks are told the group and the deployment; `base_model` gives the price."""
    heard, done = [], threading.Event()

    def listen(kwargs, *_):
        heard.append(kwargs["litellm_params"]["metadata"])
        done.set()

    monkeypatch.setattr(litellm, "success_callback", [listen])
    monkeypatch.setattr(litellm.utils, "callback_list", [])  # else LiteLLM calls no function where "cache" came first
    own = {**entry("a", "m", server.url), "model_info": {"id": "d1", "base_model": "gpt-4o"}}
    with Router([own]) as router:
        hidden = router.completion("a", MESSAGES, metadata={"job": 7})._hidden_params

    assert done.wait(10)
    assert (hidden["model_id"], hidden["response_cost"] > 0) == ("d1", True)
    assert (heard[0]["job"], heard[0]["model_group"], heard[0]["model_info"]["id"]) == (7, "a", "d1")
    assert "metadata" not in server.requests[0].body


def test_a_router_holds_no_key_as_text(server):
    """Its list shows keys as LiteLLM's does; nothing that it holds has one, before a call or after it."""
    key, sinks = KEYS["plain32"], Sinks()
    wire = {"model": "openai/m", "api_base": server.url, "api_key": key}
    settings = {
        "default_litellm_params": {"extra_headers": {"X-Api-Key": key}},
        "blueprint": {"providers": {"p": wire}},
    }
    with Router([{"model_name": "a", "litellm_params": wire, "model_info": {"id": "d"}}], **settings) as router:
        sinks.take(router)
        router.completion("a", MESSAGES)
        sinks.take(router)
        shown = [router.model_list[0], router.get_model_list("a")[0], router.get_model_info("d")]
        again = router.upsert_deployment({**shown[0]})

    assert sinks.hits(key) == []
    assert [each["litellm_params"]["api_key"] for each in shown] == [key] * 3
    assert router.default_litellm_params == {"extra_headers": {"X-Api-Key": key}}
    assert again is None  # it is the one that is there
    assert server.requests[0].headers["x-api-key"] == key


def test_names_of_a_router_may_sound_like_keys(server):
    """Groups, aliases, chains and metadata called like a key mean what they did."""
    block = {
        "chains": {"turnkey": ["house-auth"]},
        "routes": [{"when": {"metadata": {"team_key": "red-team"}}, "chain": "turnkey"}],
    }
    settings = {"fallbacks": [{"house-key": ["house-auth"]}], "model_group_alias": {"front-key": "house-auth"}}
    with Router([entry("house-auth", "m", server.url)], **settings, blueprint=block) as router:
        router.update_settings(fallbacks=[{"front-key": ["house-auth"]}])
        router.completion("front-key", MESSAGES)

        assert router.fallbacks == [{"front-key": ["house-auth"]}]
        assert router._state.config.chains == {"turnkey": ["house-auth"]}
        assert router._state.config.routes[0].when.metadata == {"team_key": "red-team"}
    assert asked(server) == {"m": 1}


def test_a_blocked_deployment_is_not_asked(server):
    """`model_info: {blocked: true}` takes a deployment out."""
    paused = {**entry("a", "paused", server.url), "model_info": {"blocked": True}}
    with Router([paused, entry("a", "m", server.url)]) as router:
        for _ in range(8):
            router.completion("a", MESSAGES)

    assert asked(server) == {"m": 8}


def test_a_deployment_may_be_asked_for_by_its_model(server):
    """LiteLLM's model id of a deployment stands for it where no group has that name."""
    with routed(server, "one", "two") as router:
        assert {text(router.completion("openai/two", MESSAGES)) for _ in range(4)} == {"two"}


@pytest.mark.parametrize(("own", "sent"), [({}, 500), ({"max_tokens": 7}, 7)])
def test_a_small_rate_of_tokens_lets_a_call_through(server, own, sent):
    """Under `tpm` the cap that is sent leaves room for the prompt; a deployment's own cap is what is reserved."""
    with Router([entry("a", "m", server.url, tpm=1000, **own)]) as router:
        assert text(router.completion("a", MESSAGES)) == "m"

    assert server.requests[0].body["max_tokens"] == sent


def test_our_retry_block_wins(server):
    """With `blueprint.retry`, `num_retries` and `retry_policy` say nothing."""
    ours = {"retry": {"max_attempts": 2, "base_s": 0}}
    settings = {"num_retries": 5, "retry_policy": {"InternalServerErrorRetries": 4}}
    with pytest.raises(litellm.InternalServerError):
        routed(server, "e500", blueprint=ours, **settings).completion("a", MESSAGES)

    assert asked(server) == {"e500": 2}


def test_deployments_of_a_group_share_the_retries(server):
    """An equal deployment is asked at once in place of a retry; all of them together get `num_retries`."""
    router = routed(server, "e500", "e502", num_retries=2, retry_after=0)
    with pytest.raises(openai.APIStatusError) as caught:
        router.completion("a", MESSAGES)
    rows = caught.value.trace["attempts"]

    assert len(rows) == sum(asked(server).values()) == 3
    assert rows[0]["model"] != rows[1]["model"]
    assert rows[1]["waited_s"] == 0


def test_a_deployments_timeout_goes_on_to_the_next(server):
    """`timeout` of a deployment, else of the Router, ends an attempt; the fallback answers."""
    slow, quick = entry("a", "slow", server.url), entry("b", "ok", server.url)
    late = {**slow, "litellm_params": {**slow["litellm_params"], "timeout": 0.05}}
    settings = {"fallbacks": [{"a": ["b"]}], "num_retries": 0}

    assert text(Router([late, quick], **settings).completion("a", MESSAGES)) == "ok"
    assert text(Router([slow, quick], timeout=0.05, **settings).completion("a", MESSAGES)) == "ok"
    assert text(Router([slow, quick], **settings).completion("a", MESSAGES)) == "slow"


def test_a_long_timeout_moves_the_deadline():
    """A `timeout` beyond our deadline of a call is not cut short; a deadline that is given stays."""
    assert Router([], timeout=600)._state.config.deadline.total_s == 600
    assert Router([], timeout=600, blueprint={"deadline": {"total_s": 9}})._state.config.deadline.total_s == 9


def test_a_call_may_bring_its_own_key_and_fallbacks(server):
    """A key of the call wins, and its fallbacks with other messages reach the fallback."""
    models = [entry("a", "e503", server.url), entry("b", "ok", server.url)]
    router = Router(models, num_retries=0)
    shorter = [{"role": "user", "content": "short"}]
    response = router.completion("a", MESSAGES, api_key="sk-own", fallbacks=[{"model": "b", "messages": shorter}])

    assert text(response) == "ok"
    assert server.requests[0].headers["authorization"] == "Bearer sk-own"
    assert server.requests[-1].body["messages"] == shorter


def test_a_budget_holds_for_a_router(server):
    """Our own settings go in as `blueprint=`: a used-up budget raises a class that is ours and LiteLLM's."""
    budget = {"scope": "global", "limit_usd": 0, "window": "day"}
    router = routed(server, "gpt-4o", blueprint={"budgets": [budget]})
    with pytest.raises(litellm.BudgetExceededError) as caught:
        router.completion("a", MESSAGES)

    assert isinstance(caught.value, BudgetExceededError)
    assert not server.requests


def test_cached_responses(server):
    """`cache_responses=True` switches our cache on."""
    with routed(server, "ok", cache_responses=True) as router:
        first, second = (router.completion("a", MESSAGES, temperature=0) for _ in range(2))

    assert text(first) == text(second)
    assert len(server.requests) == 1


# Routing


def test_least_busy_shares_concurrent_calls(server):
    """Of calls at the same time each deployment gets its share."""

    async def ask():
        async with routed(server, "slow-1", "slow-2", routing_strategy="least-busy") as router:
            await router.acompletion("a", MESSAGES)  # loads LiteLLM
            await asyncio.gather(*(router.acompletion("a", MESSAGES) for _ in range(20)))

    run(ask())

    assert min(asked(server).values()) >= 10


def test_a_cooling_deployment_is_left_alone(server):
    """After more than `allowed_fails` failures a deployment is not asked for `cooldown_time`."""
    router = routed(server, "e500", "ok", allowed_fails=1, cooldown_time=60)
    for _ in range(20):
        router.completion("a", MESSAGES)

    assert asked(server)["e500"] == 2


def test_a_policy_of_allowed_fails_decides_by_exception(server):
    """`allowed_fails_policy` counts for its exception, `allowed_fails` for the others."""
    policy = {"RateLimitErrorAllowedFails": 0, "InternalServerErrorAllowedFails": 3}
    router = routed(server, "e429", "e500", "ok", allowed_fails_policy=policy, cooldown_time=60)
    for _ in range(60):
        router.completion("a", MESSAGES)

    assert (asked(server)["e429"], asked(server)["e500"]) == (1, 4)


def test_cooldowns_may_be_switched_off(server):
    """With `disable_cooldowns` a failing deployment is asked again and again."""
    router = routed(server, "e500", "ok", allowed_fails=0, disable_cooldowns=True)
    for _ in range(40):
        router.completion("a", MESSAGES)

    assert asked(server)["e500"] > 4
    assert asked(server)["ok"] == 40


def test_what_would_be_asked_first(server):
    """`get_available_deployment` is the entry that a call would go to."""
    router = routed(server, "ok", model_group_alias={"x": "a"})
    found = router.get_available_deployment("x", MESSAGES)

    assert found["litellm_params"]["model"] == "openai/ok"
    assert found == run(router.async_get_available_deployment("x"))
    with pytest.raises(litellm.BadRequestError):
        router.get_available_deployment("nowhere")


# LiteLLM's other functions


class _Other(BaseHTTPRequestHandler):
    """Answers embeddings and text completions; a model named e<status> fails."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, body["model"], self.headers["Authorization"]))
        failed = body["model"].startswith("e5") or body["model"].startswith("e4")
        vector = {"object": "embedding", "index": 0, "embedding": [0.5]}
        choice = {"index": 0, "text": "written", "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        found = {"object": "list", "data": [vector], "choices": [choice], "model": body["model"], "usage": usage}
        content = json.dumps({"error": {"message": "no"}} if failed else {"id": "x", "created": 1, **found}).encode()
        self.send_response(int(body["model"][1:4]) if failed else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        """Say nothing."""


def test_embeddings_go_to_a_deployment():
    """`embedding` and `aembedding` reach LiteLLM with the deployment's key, on to the fallback where it fails."""
    with serving(_Other) as (server, url):
        models = [entry("a", "e503", url), entry("b", "vectors", url)]
        router = Router(models, fallbacks=[{"a": ["b"]}])
        found = router.embedding("b", ["hello"])
        later = run(router.aembedding(model="a", input=["hello"]))

    assert found.data[0]["embedding"] == later.data[0]["embedding"] == [0.5]
    # OpenAI's client asks twice more: LiteLLM hands it no zero here.
    assert [model for _, model, _ in server.asked] == ["vectors", "e503", "e503", "e503", "vectors"]
    assert {key for _, _, key in server.asked} == {f"Bearer {KEY}"}


def test_text_completions_go_to_a_deployment():
    """`text_completion` and `atext_completion` reach LiteLLM with the deployment."""

    async def ask(router, url):
        async with openai.AsyncOpenAI(api_key=KEY, base_url=url) as client:  # LiteLLM leaves its own open
            return await router.atext_completion("a", "hello", client=client)

    with serving(_Other) as (server, url):
        router = Router([{**entry("a", "x", url), "litellm_params": {**_TEXT, "api_base": url}}])
        found = router.text_completion(model="a", prompt="hello")
        later = asyncio.run(ask(router, url))

    assert found.choices[0].text == later.choices[0].text == "written"
    assert [path for path, _, _ in server.asked] == ["/v1/completions"] * 2


_TEXT = {"model": "text-completion-openai/words", "api_key": KEY}


def test_a_failing_embedding_raises_the_first_exception():
    """When every deployment fails, LiteLLM's exception of the first comes out; a bad request stops there."""
    with serving(_Other) as (server, url):
        router = Router([entry("a", "e401", url), entry("b", "e400", url)], fallbacks=[{"a": ["b"]}])
        with pytest.raises(litellm.AuthenticationError):
            router.embedding("a", ["hello"])
        with pytest.raises(litellm.BadRequestError):
            router.embedding("b", ["hello"])
        with pytest.raises(litellm.BadRequestError):
            router.embedding("nowhere", ["hello"])

    assert [model for _, model, _ in server.asked] == ["e401", "e400", "e400"]


# Changes


def test_deployments_come_and_go(server):
    """Deployments are added, replaced and removed by id, given as mappings or as LiteLLM's objects."""
    router = routed(server, "one")
    two = entry("b", "two", server.url, id="2")
    params = LiteLLM_Params(model="openai/three", api_key=KEY, api_base=server.url)
    three = Deployment(model_name="c", litellm_params=params, model_info={"id": "3"})

    assert router.add_deployment(two) == two
    assert router.add_deployment(two) is None
    assert router.add_deployment(three) is three
    assert [text(router.completion(name, MESSAGES)) for name in "abc"] == ["one", "two", "three"]

    assert router.upsert_deployment(two) is None
    router.upsert_deployment(entry("b", "second", server.url, id="2"))
    assert text(router.completion("b", MESSAGES)) == "second"
    assert router.get_deployment("2").litellm_params.model == "openai/second"
    assert router.get_deployment_by_model_group_name("c").model_info.id == "3"
    assert router.get_model_info("2")["model_name"] == "b"

    assert router.delete_deployment("2")["model_name"] == "b"
    assert router.delete_deployment("2") is None
    assert router.get_deployment("2") is router.get_deployment_by_model_group_name("b") is None
    assert (router.has_model_id("2"), router.has_model_id("3"), len(router.get_model_ids("a"))) == (False, True, 1)
    with pytest.raises(litellm.BadRequestError, match="known: a, c"):
        router.completion("b", MESSAGES)


def test_the_model_list_can_be_set(server):
    """A new list replaces the old one, also by assignment; ids stay the same over a reload."""
    router = routed(server, "one")
    ids = router.get_model_ids()
    router.set_model_list(router.model_list)
    assert router.get_model_ids() == ids

    router.model_list = [entry("b", "two", server.url)]
    assert router.get_model_names() == ["b"]


def test_a_bad_change_changes_nothing(server):
    """What cannot be loaded raises, and the Router goes on as before."""
    router = routed(server, "one")
    with pytest.raises(ConfigError):
        router.set_model_list([{"model_name": "b"}])
    with pytest.raises(ConfigError):
        router.routing_strategy = "fastest-first"
    router.num_retries = 4

    assert (router.get_model_names(), router.routing_strategy, router.num_retries) == (["a"], "simple-shuffle", 4)
    assert text(router.completion("a", MESSAGES)) == "one"


def test_settings_can_be_changed(server):
    """An assigned setting holds for the calls that follow."""
    models = [entry("a", "e503", server.url), entry("b", "ok", server.url)]
    router = Router(models, num_retries=0)
    with pytest.raises(litellm.ServiceUnavailableError):
        router.completion("a", MESSAGES)
    router.fallbacks = [{"a": ["b"]}]

    assert text(router.completion("a", MESSAGES)) == "ok"
    assert router.get_settings()["fallbacks"] == [{"a": ["b"]}]


def test_a_call_in_flight_keeps_its_configuration(server):
    """Deleting a deployment and its fallback during a call changes the next one only."""
    models = [entry("a", "slow", server.url, id="1"), entry("b", "ok", server.url, id="2")]
    router = Router(models, fallbacks=[{"a": ["b"]}], num_retries=0, timeout=5)

    async def ask():
        call = asyncio.create_task(router.acompletion("a", MESSAGES))
        await asyncio.to_thread(server.wait_until, lambda requests: requests)
        router.set_model_list([])
        return await call

    assert text(run(ask())) == "slow"
    with pytest.raises(litellm.BadRequestError):
        router.completion("a", MESSAGES)


def test_changes_from_many_threads_all_count(server):
    """Deployments that are added at the same time are all there."""
    router = routed(server, "ok")
    new = [entry(f"g{number}", "ok", server.url, id=f"id{number}") for number in range(24)]
    threads = [threading.Thread(target=router.add_deployment, args=(each,)) for each in new]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(router.get_model_ids()) == 25


def test_a_deadline_is_ours_and_litellms(server):
    """A call that runs out of the total deadline raises a class that is ours and LiteLLM's Timeout."""
    router = routed(server, "slow", blueprint={"deadline": {"total_s": 0.1}})
    routed(server, "ok").completion("a", MESSAGES)  # loads LiteLLM, which no deadline counts
    with pytest.raises(litellm.Timeout) as caught:
        router.completion("a", MESSAGES)

    assert isinstance(caught.value, DeadlineExceededError)
