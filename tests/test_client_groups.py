"""`LLMClient` on `model_list`: a group is one target, and LiteLLM's Router chooses among its deployments."""

import asyncio
import contextlib

import pytest
from asking import KINDS, asking
from compat_cases import HI, TOOL
from driving import KEY, closing_clients
from endpoint_server import Endpoints
from serving import serving

from blueprint_llm import LLMClient, errors
from blueprint_llm.cli.config import check
from blueprint_llm.config import load_config
from blueprint_llm.testing import Answer, BrokenTool, Cut, FaultServer, Stall, Status, ToolUse
from blueprint_llm.types import UsageFilter

pytestmark = [
    pytest.mark.usefixtures("litellm_warm", "collected"),
    pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning"),
]
PRICE = {"input_cost_per_token": 0, "output_cost_per_token": 0.01}
QUICK = {"headers": {"retry-after-ms": "1"}}


@pytest.fixture
def server():
    """One server; each model has its own step, or it says its name."""
    steps = {}

    def answer(request):
        step = steps.get(request.body["model"])
        return step if step is not None else Answer(request.body["model"], usage=(1, 10))

    with FaultServer(answer) as running:
        running.steps = steps
        yield running


@pytest.fixture(params=KINDS)
def ask(request, server):
    """Makes an open client of either kind, of groups by name: each a list of models at the server."""
    opened = []

    def make(groups, *, settings=None, litellm_settings=None, params=None, **blueprint):
        shared = {"api_key": KEY, "api_base": server.url, **PRICE, **(params or {})}
        listed = [
            {"model_name": name, "litellm_params": {"model": f"openai/{model}", **shared}}
            for name, models in groups.items()
            for model in models
        ]
        document = {
            "model_list": listed,
            "router_settings": {"num_retries": 0, **(settings or {})},
            "litellm_settings": litellm_settings or {},
            "blueprint": {"version": 1, "project": "acme", "store": {"url": "memory"}, **blueprint},
        }
        opened.append(asking(request.param, document))
        return opened[-1].__enter__()

    yield make
    for each in opened:
        each.__exit__(None, None, None)


def asked(server):
    """The models that were asked, in order."""
    return [request.body["model"] for request in server.requests]


def attempts(answer):
    """Whom the trace names, and how each ended."""
    return [(row["provider"], row["model"], row["category"]) for row in answer.trace["attempts"]]


def test_the_router_chooses_and_retries(ask, server):
    """A deployment that fails is cooled down and another one asked: both stand in the trace, each booked once."""
    server.steps["bad"] = Status(401, "no")  # the one failure after which LiteLLM cools down at once
    client = ask({"g": ["bad", "good"]}, settings={"num_retries": 3})

    answers = [client.chat(messages=HI, model="g", max_tokens=10) for _ in range(4)]

    assert {answer.content for answer in answers} == {"good"}
    assert {(answer.provider, answer.model) for answer in answers} == {("g", "openai/good")}
    assert sum(len(answer.trace["attempts"]) for answer in answers) == len(server.requests)
    stats = client.client.get_usage()
    assert (stats.calls, stats.cost_usd) == (4, pytest.approx(0.4))
    assert [answer.usage.estimated_cost for answer in answers] == [pytest.approx(0.1)] * 4


def test_a_stream_of_a_group(ask, server):
    """It flows, and its usage and cost are those of the deployment that answered."""
    client = ask({"g": ["m"]})

    chunks, response = client.stream(messages=HI, model="g", max_tokens=10)

    assert "".join(chunk.delta for chunk in chunks) == response.content == "m"
    assert response.usage.estimated_cost == client.client.get_usage().cost_usd == pytest.approx(0.1)
    assert attempts(response) == [("g", "openai/m", None)]


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("fallbacks", Status(401, "no")),
        ("context_window_fallbacks", Status(400, "maximum context length is 10", error_code="context_length_exceeded")),
        ("content_policy_fallbacks", Status(400, "content_policy_violation", error_code="content_policy_violation")),
    ],
)
def test_litellms_fallbacks_are_walked(name, step, ask, server):
    """They name the next groups, under our one deadline and in our trace."""
    server.steps["bad"] = step
    client = ask({"a": ["bad"], "b": ["good"]}, settings={name: [{"a": ["b"]}]})

    answer = client.chat(messages=HI, model="a", max_tokens=10)

    assert (answer.content, answer.provider) == ("good", "b")
    assert [(provider, model) for provider, model, _ in attempts(answer)] == [("a", "openai/bad"), ("b", "openai/good")]
    assert asked(server) == ["bad", "good"]


def test_each_deployment_has_its_own_address_and_key(ask, server):
    """A provider that is a group keeps them apart, with LiteLLM's `order` among them."""
    keys = [f"sk-{number}-0123456789abcdefghij" for number in (1, 2)]
    with serving(Endpoints) as (first, one), serving(Endpoints) as (second, two):
        listed = [
            {
                "model_name": "g",
                "litellm_params": {"model": "openai/m", "api_base": url, "api_key": key, "order": order},
            }
            for url, key, order in ((one, keys[0], 2), (two, keys[1], 1))
        ]
        client = LLMClient(
            {"model_list": listed, "blueprint": {"store": {"url": "memory"}, "providers": {"cloud": {"model": "g"}}}}
        )
        answer = asyncio.run(closing_clients(client.chat(messages=HI, provider="cloud", model="g", max_tokens=10)))

    assert (answer.provider, answer.metadata["deployment"] is not None) == ("cloud", True)
    assert [each[2] for each in second.asked] == [f"Bearer {keys[1]}"]
    assert first.asked == []


def test_no_fallback_stays_in_the_group(ask, server):
    """`fallback=False`: the other deployments of the group may still serve, another group may not."""
    server.steps["bad"] = Status(503, **QUICK)
    client = ask({"a": ["bad"], "b": ["good"]}, settings={"fallbacks": [{"a": ["b"]}]})

    with pytest.raises(errors.CallError):
        client.chat(messages=HI, model="a", fallback=False)

    assert set(asked(server)) == {"bad"}


def test_a_chain_of_groups(ask, server):
    """Groups are targets of chains, under the names of providers, whose settings go along."""
    server.steps["bad"] = Status(503, **QUICK)
    providers = {"first": {"model": "a"}, "second": {"model": "b", "temperature": 0.5}}
    client = ask({"a": ["bad"], "b": ["good"]}, providers=providers, chains={"default": ["first", "second"]})

    answer = client.chat(messages=HI, max_tokens=10)

    assert (answer.content, answer.provider, answer.trace["served_by"]) == ("good", "second", "second/openai/good")
    assert server.requests[-1].body["temperature"] == 0.5


@pytest.mark.parametrize("name", ["alias", "openai/else"], ids=["alias", "wildcard"])
def test_other_names_of_groups(name, ask, server):
    """Aliases and wildcards are LiteLLM's Router's to resolve."""
    client = ask({"g": ["m"], "openai/*": ["*"]}, settings={"model_group_alias": {"alias": "g"}})

    assert client.chat(messages=HI, model=name, max_tokens=10).content == {"alias": "m"}.get(name, "else")


def test_a_broken_call_is_asked_again(ask, server):
    """What the Router cannot see is judged above it: the model is told, the same group asked once more."""
    steps = [BrokenTool(), Answer("", tool_calls=(ToolUse("get_weather", {"city": "Paris"}),))]
    with FaultServer(steps) as other:
        client = ask({"g": ["m"]}, settings={"num_retries": 1}, params={"api_base": other.url})

        answer = client.chat(messages=HI, model="g", tools=[TOOL])

    assert [call.arguments for call in answer.tool_calls] == [{"city": "Paris"}]
    assert [category for _, _, category in attempts(answer)] == ["malformed", None]


def test_a_stream_that_breaks_starts_anew(ask, server):
    """A cut stream of a group is a restart, said in-band."""
    with FaultServer([Cut(2, answer=Answer("one two three four")), Answer("whole")]) as other:
        client = ask({"g": ["m"]}, settings={"num_retries": 1}, params={"api_base": other.url})

        chunks, _ = client.stream(messages=HI, model="g")

    assert [chunk.restart for chunk in chunks if chunk.error] == [True]
    assert chunks[-1].is_done


def streamed_or_whole(client, streamed, **request):
    """What a group answers, either way."""
    asked = {"messages": HI, "model": "a", "max_tokens": 10, **request}
    return client.stream(**asked)[1] if streamed else client.chat(**asked)


SPENT = {"type": "error", "error": {"type": "invalid_request_error", "message": "You have reached your specified API "
         "usage limits. You will regain access on 2099-01-01 at 00:00 UTC."}}  # fmt: skip


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
def test_a_group_whose_account_is_spent_rests(streamed, ask, server):
    """A 400 of one account's goes on to the next group, and that account is not asked again; `explain` says so."""
    server.steps["bad"] = Status(400, body=SPENT)
    client = ask({"a": ["bad"], "b": ["good"]}, settings={"fallbacks": [{"a": ["b"]}]})

    answers = [streamed_or_whole(client, streamed) for _ in range(3)]

    assert [answer.content for answer in answers] == ["good"] * 3
    assert asked(server) == ["bad", "good", "good", "good"]
    first = answers[0].trace["attempts"][0]
    assert (first["category"], first["code"]) == ("refused", "usage_limit")
    rows = client.client.explain(messages=HI, model="a").considered
    assert [(row.verdict, "circuit open" in row.reason) for row in rows] == [("skipped", True), ("chosen", False)]


def test_a_group_that_rests_is_asked_where_nobody_else_is(ask, server):
    """Its only group is tried once although its deployment rests."""
    server.steps["m"] = Status(400, body=SPENT)
    client = ask({"a": ["m"]})

    for _ in range(2):
        with pytest.raises(errors.CallError) as failed:
            streamed_or_whole(client, streamed=False)

    assert asked(server) == ["m", "m"]
    assert failed.value.code == "usage_limit"


def test_another_deployment_of_a_group_is_asked_while_one_rests(ask, server):
    """Where one deployment of a group rests, LiteLLM's Router goes on to another."""
    server.steps["bad"] = Status(400, body=SPENT)
    client = ask({"a": ["bad", "good"]}, settings={"num_retries": 3, "routing_strategy": "simple-shuffle"},
                 breaker={"failures": 1})  # fmt: skip

    for _ in range(6):
        with contextlib.suppress(errors.CallError):  # once, if the Router asks it first
            streamed_or_whole(client, streamed=False)

    assert asked(server).count("bad") <= 1


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("wait", "requests"), [("in 0.25s", 2), ("in 6m0s", 1)], ids=["short", "long"])
def test_a_wait_in_a_body_is_obeyed_by_a_group(streamed, wait, requests, ask, server):
    """As for any target: a short one is waited for, a long one leads to the next group at once."""
    server.steps["bad"] = Status(429, f"Rate limit reached for gpt-4o. Please try again {wait}.")
    client = ask({"a": ["bad"], "b": ["good"]}, settings={"fallbacks": [{"a": ["b"]}]}, retry={"max_attempts": 2})

    answer = streamed_or_whole(client, streamed)

    assert (answer.content, asked(server)) == ("good", ["bad"] * requests + ["good"])
    times = [request.at for request in server.requests]
    assert requests == 1 or times[1] - times[0] >= 0.25


@pytest.mark.parametrize(("calls", "most"), [(15, 25), pytest.param(60, 72, marks=pytest.mark.slow)])
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
def test_an_outage_of_a_group_is_not_multiplied(streamed, calls, most, ask, server):
    """Retries of calls while its deployment answers 503 are at most a fifth, or ten, with three attempts for each."""
    server.steps["bad"] = Status(503)
    limits = {"retry": {"base_s": 0.001}, "breaker": {"failures": 1000}}
    client = ask({"a": ["bad"], "b": ["good"]}, settings={"num_retries": 2, "fallbacks": [{"a": ["b"]}]}, **limits)

    answers = [streamed_or_whole(client, streamed) for _ in range(calls)]

    assert {answer.content for answer in answers} == {"good"}
    assert asked(server).count("bad") <= most
    assert answers[-1].trace["held_back"]


def test_a_silent_group_is_not_asked_again_while_another_is_left(ask, server):
    """A deployment from which nothing comes is left for the next group after one request."""
    server.steps["bad"] = Stall(0)
    limits = {"total_s": 5, "first_token_s": 0.3, "idle_s": 0.3}
    client = ask(
        {"a": ["bad"], "b": ["good"]}, settings={"num_retries": 2, "fallbacks": [{"a": ["b"]}]}, deadline=limits
    )

    answer = streamed_or_whole(client, streamed=True)

    assert (answer.content, asked(server)) == ("good", ["bad", "good"])


def test_a_budget_degrades_to_its_chain(ask, server):
    """What the guard inside the Router refuses, the rules above it act upon."""
    budgets = [{"scope": "model:a", "limit_usd": 0.01, "window": "day", "on_exceed": "degrade", "chain": ["b"]}]
    client = ask({"a": ["dear"], "b": ["cheap"]}, budgets=budgets)

    answer = client.chat(messages=HI, model="a", max_tokens=10)

    assert (answer.content, asked(server)) == ("cheap", ["cheap"])


def test_a_budget_refuses(ask, server):
    """With our error, without LiteLLM's half."""
    client = ask({"a": ["m"]}, budgets=[{"scope": "project", "limit_usd": 0.01, "window": "day"}])

    with pytest.raises(errors.BudgetExceededError) as refusal:
        client.chat(messages=HI, model="a", max_tokens=10)

    assert type(refusal.value) is errors.BudgetExceededError
    assert asked(server) == []
    assert refusal.value.trace["id"]


def test_fifty_calls_under_a_budget_for_ten(server):
    """Ten reach the server, although the Router's deployments are reserved one by one."""
    params = {"model": "openai/m", "api_key": KEY, "api_base": server.url, **PRICE}
    budgets = [{"scope": "project", "limit_usd": 1.04, "window": "day"}]
    blueprint = {"version": 1, "project": "acme", "store": {"url": "memory"}, "budgets": budgets}
    client = LLMClient({"model_list": [{"model_name": "g", "litellm_params": params}] * 2, "blueprint": blueprint})

    async def one():
        try:
            await client.chat(messages=HI, model="g", max_tokens=10)
        except errors.BudgetExceededError:
            return False
        return True

    async def crowd():
        return await asyncio.gather(*(one() for _ in range(50)))

    assert sum(asyncio.run(closing_clients(crowd()))) == len(server.requests) == 10


@pytest.mark.parametrize(("limits", "most"), [({"rpm": 3}, 3)], ids=["rpm"])
def test_a_deployments_limits_hold(limits, most, ask, server):
    """The fourth call in the minute is refused, by us or by LiteLLM, which counts for itself afterwards."""
    client = ask({"g": ["m"]}, params=limits)
    for _ in range(most):
        client.chat(messages=HI, model="g", max_tokens=10)

    with pytest.raises(errors.BlueprintError, match=r"3 of 3 requests|over defined rpm limit=3"):
        client.chat(messages=HI, model="g", max_tokens=10)

    assert len(server.requests) == most


def test_drop_params_has_its_effect(ask, server):
    """`litellm_settings.drop_params`: what a model does not take is left out."""
    client = ask({"g": ["o1"]}, litellm_settings={"drop_params": True})

    client.chat(messages=HI, model="g", temperature=0.3, max_tokens=10)

    assert "temperature" not in server.requests[0].body


def test_default_litellm_params_have_their_effect(ask, server):
    """`router_settings` go to LiteLLM's Router as they are written."""
    client = ask({"g": ["m"]}, settings={"default_litellm_params": {"top_p": 0.25}})

    client.chat(messages=HI, model="g", max_tokens=10)

    assert server.requests[0].body["top_p"] == 0.25


def test_session_and_project_are_booked(ask, server):
    """The request's own, as for any target."""
    client = ask({"g": ["m"]})

    client.chat(messages=HI, model="g", max_tokens=10, session="s-1", project="other")

    assert client.client.get_usage(UsageFilter(session="s-1", project="other")).calls == 1


def test_a_groups_answer_is_kept_once(ask, server):
    """The cache stands above the Router."""
    client = ask({"g": ["m"]}, cache={"enabled": True})
    for _ in range(2):
        answer = client.chat(messages=HI, model="g", max_tokens=10)

    assert (answer.content, answer.metadata["cached"], len(server.requests)) == ("m", True, 1)


def test_explain_says_what_the_router_knows(ask, server):
    """A group whose deployments all cool down is skipped, with that reason; before any call it is chosen."""
    server.steps["bad"] = Status(401, "no")
    client = ask({"a": ["bad", "bad2"], "b": ["good"]}, settings={"fallbacks": [{"a": ["b"]}]})
    server.steps["bad2"] = Status(401, "no")
    before = client.client.explain(messages=HI, model="a")
    for _ in range(3):
        client.chat(messages=HI, model="a", max_tokens=10)

    after = client.client.explain(messages=HI, model="a")

    assert [row.verdict for row in before.considered] == ["chosen", "standby"]
    assert [(row.verdict, "cooling down" in row.reason) for row in after.considered] == [
        ("skipped", True),
        ("chosen", False),
    ]


def test_what_litellm_declines_is_declined_in_its_words(ask):
    """A configuration that LiteLLM's Router does not take is a ConfigError with what it says."""
    client = ask({"g": ["m"]}, settings={"cooldown_time": True})

    with pytest.raises(errors.ConfigError, match="cooldown_time must be a number of seconds, not a bool"):
        client.chat(messages=HI, model="g")


@pytest.mark.parametrize(
    ("section", "key", "value", "is_ignored"),
    [
        ("litellm_settings", "max_budget", 5, False),
        ("litellm_settings", "drop_params", True, False),
        ("litellm_settings", "modify_params", True, False),
        ("litellm_settings", "callbacks", ["x"], False),
        ("litellm_settings", "cache", True, False),
        ("litellm_settings", "default_team_settings", [{"team_id": "t"}], True),
        ("router_settings", "cache_responses", True, False),
        ("router_settings", "enable_weighted_failover", True, False),
    ],
)
def test_a_notice_that_says_ignored_is_true(section, key, value, is_ignored):
    """What has its effect is not said to be ignored; what only LiteLLM's proxy reads is."""
    group = {"model_name": "g", "litellm_params": {"model": "openai/m"}}

    notices = load_config({"model_list": [group], section: {key: value}}).notices

    assert any(f"{section}.{key}" in line for line in notices) == is_ignored


def test_a_global_budget_of_litellms_settings_holds(ask, server):
    """`litellm_settings.max_budget` is a limit of ours."""
    client = ask({"g": ["m"]}, litellm_settings={"max_budget": 0.01})

    with pytest.raises(errors.BudgetExceededError):
        client.chat(messages=HI, model="g", max_tokens=10)

    assert server.requests == []


def test_check_says_what_litellm_says(tmp_path, capsys):
    """`blueprint-llm check` builds the Router: its words stand beside ours, all at once."""
    path = tmp_path / "c.yaml"
    path.write_text(
        "model_list: [{model_name: g, litellm_params: {model: openai/m, api_key: k}}]\n"
        "router_settings: {cooldown_time: true, fallbackz: []}\n"
    )

    with pytest.raises(SystemExit) as code:
        check(["--config", str(path)])

    said = capsys.readouterr().out
    assert code.value.code == 1
    assert "LiteLLM's Router declines this: " in said
    assert "did you mean 'fallbacks'?" in said
