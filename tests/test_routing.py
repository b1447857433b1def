"""Whom to ask: every rule in its precedence, the special fallbacks, screening, and the same answer from `explain`."""

import asyncio
import json
from dataclasses import replace

import pytest
from driving import CALLERS, KEY, MESSAGES

from blueprint_llm import LLMClient, SyncLLMClient, load_config
from blueprint_llm.errors import BudgetExceededError, CallError, ChainExhaustedError, NoTargetError
from blueprint_llm.routing.targets import TargetTable, litellm_provider
from blueprint_llm.secret import Secret
from blueprint_llm.testing import Answer, ScriptedAdapter, Status

LONG = [{"role": "user", "content": "word " * 4000}]
TOOLS = [{"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}]
IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]}]
GONE = Status(404)
OTHER_KEY = "sk-other-0123456789abcdef"


def deployment(group, model, **params):
    """An entry of `model_list`."""
    return {"model_name": group, "litellm_params": {"model": model, "api_key": KEY, **params}}


LITELLM = {
    "model_list": [
        deployment("gpt-4o", "openai/gpt-4o"),
        deployment("claude", "anthropic/claude-sonnet-4-5"),
        deployment("long", "gemini/gemini-2.5-pro"),
        deployment("safe", "openai/gpt-4o-mini"),
        deployment("lonely", "openai/gpt-4.1"),
        deployment("mistral/*", "mistral/*"),
    ],
    "router_settings": {
        "fallbacks": [{"gpt-4o": ["claude"]}],
        "default_fallbacks": ["safe"],
        "context_window_fallbacks": [{"gpt-4o": ["long"]}],
        "content_policy_fallbacks": [{"gpt-4o": ["safe"]}],
        "model_group_alias": {"best": "gpt-4o"},
    },
}
OURS = {
    "providers": {
        "cheap": {"model": "openai/gpt-4.1-nano", "api_key": KEY},
        "cloud": {"model": "gpt-4o"},
        "opus": {"model": "anthropic/claude-opus-4-5", "api_key": KEY, "tasks": ["review"]},
    },
    "chains": {"default": ["cheap", "cloud", "opus"], "planning": ["opus"], "frugal": ["cheap", "safe"]},
    "routes": [
        {"when": {"task_type": ["lint", "summarise"]}, "chain": ["cheap"]},
        {"when": {"input_tokens": {"gt": 2000}}, "chain": "frugal"},
        {"when": {"metadata": {"team": "x"}}, "chain": ["claude"]},
    ],
    "retry": {"max_attempts": 1},
}
CONFIG = {**LITELLM, "blueprint": OURS}
CHEAP, CLOUD, OPUS = ("cheap", "openai/gpt-4.1-nano"), ("cloud", "openai/gpt-4o"), ("opus", "anthropic/claude-opus-4-5")
GPT, CLAUDE, SAFE = (
    ("gpt-4o", "openai/gpt-4o"),
    ("claude", "anthropic/claude-sonnet-4-5"),
    ("safe", "openai/gpt-4o-mini"),
)

ROUTES = [
    pytest.param({}, "default", [CHEAP, CLOUD, OPUS], id="the default chain"),
    pytest.param({"fallback": False}, "default", [CHEAP], id="no fallback: the first of the chain"),
    pytest.param({"provider": "cloud"}, "provider", [CLOUD, CHEAP, OPUS], id="a provider, then the chain"),
    pytest.param({"provider": "cloud", "fallback": False}, "provider", [CLOUD], id="a provider only"),
    pytest.param({"provider": "safe"}, "provider", [SAFE, CHEAP, CLOUD, OPUS], id="a group as provider"),
    pytest.param(
        {"provider": "opus", "model": "anthropic/claude-haiku-4-5"},
        "provider",
        [("opus", "anthropic/claude-haiku-4-5"), CHEAP, CLOUD],
        id="a provider with another model",
    ),
    pytest.param(
        {"provider": "cloud", "model": "claude"},
        "provider",
        [("cloud", "anthropic/claude-sonnet-4-5"), CHEAP, OPUS],
        id="a provider with another group",
    ),
    pytest.param({"provider": "cloud", "model": "gpt-4o"}, "provider", [CLOUD, CHEAP, OPUS], id="and with its own"),
    pytest.param(
        {"provider": "cloud", "task_type": "lint"}, "provider", [CLOUD, CHEAP, OPUS], id="a provider beats routes"
    ),
    pytest.param({"model": "gpt-4o"}, "model", [GPT, CLAUDE], id="a group and its fallbacks"),
    pytest.param({"model": "best"}, "model", [GPT, CLAUDE], id="an alias"),
    pytest.param({"model": "gpt-4o", "fallback": False}, "model", [GPT], id="a group only"),
    pytest.param({"model": "lonely"}, "model", [("lonely", "openai/gpt-4.1"), SAFE], id="default fallbacks"),
    pytest.param({"model": "safe"}, "model", [SAFE], id="a group is no fallback of itself"),
    pytest.param(
        {"model": "mistral/mistral-large-latest"},
        "model",
        [("mistral/*", "mistral/mistral-large-latest"), SAFE],
        id="a wildcard",
    ),
    pytest.param({"model": "anthropic/claude-opus-4-5"}, "model", [OPUS], id="the id of a provider's model"),
    pytest.param({"model": "ollama_chat/llama3"}, "model", [("ollama_chat", "ollama_chat/llama3")], id="any other id"),
    pytest.param({"model": "gpt-4o", "task_type": "lint"}, "model", [GPT, CLAUDE], id="a model beats routes"),
    pytest.param({"task_type": "lint"}, "routes[0]", [CHEAP], id="a route by task"),
    pytest.param({"messages": LONG}, "routes[1]", [CHEAP, SAFE], id="a route by size, to a named chain"),
    pytest.param({"messages": LONG, "task_type": "summarise"}, "routes[0]", [CHEAP], id="the first route that holds"),
    pytest.param({"metadata": {"team": "x", "n": 1}}, "routes[2]", [CLAUDE], id="a route by metadata"),
    pytest.param({"metadata": {"team": "y"}}, "default", [CHEAP, CLOUD, OPUS], id="other metadata"),
    pytest.param({"messages": LONG, "task_type": "planning"}, "routes[1]", [CHEAP, SAFE], id="routes beat tasks"),
    pytest.param({"task_type": "planning"}, "task_type", [OPUS], id="the chain of a task's name"),
    pytest.param({"task_type": "review"}, "task_type", [OPUS, CHEAP, CLOUD], id="who lists the task, then the chain"),
    pytest.param({"task_type": "poetry"}, "default", [CHEAP, CLOUD, OPUS], id="a task nobody lists"),
]


def adapters_of(default, *, more=(), **steps):
    """A scripted adapter for every name of CONFIG, and the order in which they are asked."""
    asked = []

    def answering(name):
        def respond(call):
            asked.append((call.provider, call.model))
            return steps.get(name, default)

        return ScriptedAdapter(respond)

    names = [*OURS["providers"], *(row["model_name"] for row in LITELLM["model_list"]), "ollama_chat", *more]
    return {name: answering(name) for name in names}, asked


def ask(config, adapters, request):
    """A sync call's answer, or its error."""
    with SyncLLMClient(config, adapters=adapters) as client:
        try:
            return client.chat(**{"messages": MESSAGES, **request})
        except (CallError, NoTargetError, BudgetExceededError) as error:
            return error


@pytest.mark.parametrize(("request_", "rule", "targets"), ROUTES)
def test_route(request_, rule, targets):
    """A call asks the targets that `explain` names, in that order, by the rule that it names."""
    adapters, asked = adapters_of(GONE)
    with SyncLLMClient(CONFIG, adapters=adapters) as client:
        decision = client.explain(**{"messages": MESSAGES, **request_})
        with pytest.raises(CallError) as failed:
            client.chat(**{"messages": MESSAGES, **request_})

    assert decision.rule == failed.value.trace["route"]["rule"] == rule
    assert [(target["provider"], target["model"]) for target in decision.targets] == targets
    assert asked == targets
    assert decision.chain == failed.value.trace["route"]["chain"]


@pytest.mark.parametrize("caller", CALLERS, ids=lambda caller: caller.name)
def test_both_clients_explain_alike(caller):
    """The async client explains as the sync one does, inside a running loop, and sends nothing."""
    adapters, asked = adapters_of(Answer())

    async def explain():
        async with LLMClient(CONFIG, adapters=adapters) as client:
            return client.explain(messages=MESSAGES, provider="cloud"), client.get_usage().calls

    if caller.name == "async":
        decision, calls = asyncio.run(explain())
    else:
        with SyncLLMClient(CONFIG, adapters=adapters) as client:
            decision, calls = client.explain(messages=MESSAGES, provider="cloud"), client.get_usage().calls

    assert [(row.provider, row.verdict) for row in decision.considered] == [
        ("cloud", "chosen"),
        ("cheap", "standby"),
        ("opus", "standby"),
    ]
    assert decision.estimate["input_tokens"] > 0
    assert decision.estimate["worst_cost_usd"] > 0
    assert (asked, calls) == ([], 0)
    json.dumps(decision.model_dump(mode="json"))


WHEN = [
    pytest.param({"input_tokens": 10}, MESSAGES, {}, False, id="a bare number is a lower bound"),
    pytest.param({"input_tokens": {"lt": 100}}, MESSAGES, {}, True, id="less than"),
    pytest.param({"input_tokens": {"le": 4, "ge": 1}}, LONG, {}, False, id="between"),
    pytest.param({"context_window": {"gt": 1000}}, MESSAGES, {"max_tokens": 1000}, True, id="input and output"),
    pytest.param({"context_window": {"gt": 1000}}, MESSAGES, {}, False, id="input alone"),
    pytest.param({"planning": True}, MESSAGES, {"task_type": "planning"}, True, id="planning"),
    pytest.param({"planning": False}, MESSAGES, {"task_type": "planning"}, False, id="not planning"),
    pytest.param({"task_type": "x", "input_tokens": {"gt": 100}}, MESSAGES, {"task_type": "x"}, False, id="one fails"),
    pytest.param({"task_type": "x", "input_tokens": {"gt": 100}}, LONG, {"task_type": "x"}, True, id="all hold"),
    pytest.param({"metadata": {"a": 1, "b": 2}}, MESSAGES, {"metadata": {"a": 1}}, False, id="half of the metadata"),
    pytest.param({}, MESSAGES, {}, True, id="no condition"),
]


@pytest.mark.parametrize(("when", "messages", "request_", "holds"), WHEN)
def test_route_condition(when, messages, request_, holds):
    """A route is taken when every one of its conditions holds."""
    config = {"blueprint": {**OURS, "routes": [{"when": when, "chain": ["opus"]}]}, **LITELLM}
    with SyncLLMClient(config) as client:
        rule = client.explain(messages=messages, **request_).rule

    assert (rule == "routes[0]") is holds


def test_route_by_used_budget():
    """A route on a budget's used share is taken once so much of it is used."""
    budget = {"scope": "project", "limit_usd": 0.01, "on_exceed": "warn"}
    routes = [{"when": {"budget_used": {"scope": "project", "gt": 0.5}}, "chain": ["opus"]}]
    config = {**LITELLM, "blueprint": {**OURS, "project": "acme", "budgets": [budget], "routes": routes}}
    adapters, asked = adapters_of(Answer(usage=(50_000, 10_000)))

    for _ in range(2):
        assert ask(config, adapters, {}).content

    assert asked == [CHEAP, OPUS]


REFUSALS = [
    pytest.param(
        Status(400, "maximum context length is 8192"), [GPT, ("long", "gemini/gemini-2.5-pro")], id="the window's"
    ),
    pytest.param(Status(413), [GPT, ("long", "gemini/gemini-2.5-pro")], id="413"),
    pytest.param(Status(404), [GPT, CLAUDE], id="any other"),
    pytest.param(Status(400), [GPT], id="400: nobody else is asked"),
    pytest.param(Status(422), [GPT], id="422: nobody else is asked"),
]


@pytest.mark.parametrize(("refusal", "targets"), REFUSALS)
def test_refusal_decides_the_fallback(refusal, targets):
    """A full window goes to `context_window_fallbacks`, what is wrong in itself nowhere, the rest to `fallbacks`."""
    adapters, asked = adapters_of(Answer("here"), **{"gpt-4o": refusal})

    ask(CONFIG, adapters, {"model": "gpt-4o"})

    assert asked == targets


class Censor(ScriptedAdapter):
    """Refuses every request for its content."""

    def complete(self, call):
        """A refusal."""
        self.calls.append(call)
        raise CallError("no", category="content_policy", provider=call.provider, model=call.model, status=400)


@pytest.mark.parametrize(
    ("request_", "provider"),
    [
        pytest.param({"model": "gpt-4o"}, "safe", id="content_policy_fallbacks"),
        pytest.param({"model": "gpt-4o", "fallback": False}, None, id="no fallback"),
        pytest.param({"model": "claude"}, None, id="a group without them"),
        pytest.param({"provider": "cloud"}, None, id="a provider's chain"),
    ],
)
def test_content_refusal_goes_only_where_it_may(request_, provider):
    """A refusal of the content goes to `content_policy_fallbacks`, else the first refusal is raised."""
    adapters, asked = adapters_of(Answer("here"))
    censors = {name: Censor() for name in ("gpt-4o", "claude", "cloud")}

    result = ask(CONFIG, {**adapters, **censors}, request_)

    if provider is None:
        assert result.category == "content_policy"
        assert asked == []
    else:
        assert result.provider == provider
    assert sum(len(censor.calls) for censor in censors.values()) == 1


def test_no_fallback_means_none_for_a_full_window():
    """With `fallback=False` even `context_window_fallbacks` are not asked."""
    adapters, asked = adapters_of(Status(413))

    error = ask(CONFIG, adapters, {"model": "gpt-4o", "fallback": False})

    assert error.category == "context_length"
    assert asked == [GPT]


def test_what_cannot_fit_goes_to_a_wider_window():
    """A request whose pinned part fits no window of its group goes to `context_window_fallbacks` without a send."""
    narrow = {**LITELLM["model_list"][0], "model_info": {}}
    huge = [{"role": "user", "content": "word " * 200_000}]
    adapters, asked = adapters_of(Answer("here"))

    answer = ask(
        {**LITELLM, "model_list": [narrow, *LITELLM["model_list"][1:]]},
        adapters,
        {
            "model": "gpt-4o",
            "messages": huge,
        },
    )

    assert answer.provider == "long"
    assert asked == [("long", "gemini/gemini-2.5-pro")]


def opened(client, *providers):
    """Open the breakers of providers: with one failure each."""
    for name in providers:
        with pytest.raises(CallError):
            client.chat(messages=MESSAGES, provider=name, fallback=False)


def test_detour_through_an_open_breaker_ends():
    """A context fallback whose breaker is open is passed over once: the walk ends at once, with the first failure."""
    config = {**CONFIG, "blueprint": {**OURS, "breaker": {"failures": 1, "open_s": 60}}}
    adapters, asked = adapters_of(Status(413), long=Status(500))
    with SyncLLMClient(config, adapters=adapters) as client:
        opened(client, "long")
        with pytest.raises(CallError) as failed:
            client.chat(messages=MESSAGES, model="gpt-4o", deadline_s=5)

    assert failed.value.category == "context_length"
    assert asked == [("long", "gemini/gemini-2.5-pro"), GPT]


@pytest.mark.parametrize("chain", [pytest.param(["cheap"], id="a provider"), pytest.param(["frugal"], id="a chain")])
def test_budget_that_degrades_leads_to_its_chain(chain):
    """A used-up budget of one provider leads to its cheaper chain, by the names of providers or of a chain."""
    budget = {"scope": "provider:cloud", "limit_usd": 0, "on_exceed": "degrade", "chain": chain}
    config = {**LITELLM, "blueprint": {**OURS, "budgets": [budget]}}
    adapters, asked = adapters_of(Answer("here"))

    assert ask(config, adapters, {"provider": "cloud"}).provider == "cheap"
    assert asked == [CHEAP]


def test_budget_that_degrades_into_itself_ends():
    """A budget that the cheaper chain is under as well raises its error at once, without a send."""
    budget = {"scope": "project", "limit_usd": 0, "on_exceed": "degrade", "chain": ["cheap"]}
    config = {**LITELLM, "blueprint": {**OURS, "project": "acme", "budgets": [budget]}}
    adapters, asked = adapters_of(Answer("here"))

    error = ask(config, adapters, {"provider": "cloud", "deadline_s": 5})

    assert isinstance(error, BudgetExceededError)
    assert asked == []


def test_explain_shows_budgets():
    """The decision says where each budget and quota of the first target stands."""
    budgets = [{"scope": "provider:cheap", "limit_usd": 5, "window": "day"}]
    quotas = [{"scope": "model:openai/gpt-4.1-nano", "requests": 7}]
    config = {**LITELLM, "blueprint": {**OURS, "budgets": budgets, "quotas": quotas}}
    with SyncLLMClient(config) as client:
        rows = client.explain(messages=MESSAGES).budgets

    assert {(row["scope"], row["kind"], row["limit"], row["used"]) for row in rows} == {
        ("provider:cheap", "usd", 5.0, 0.0),
        ("model:openai/gpt-4.1-nano", "requests", 7, 0),
    }


def test_explain_passes_over_an_open_breaker():
    """A target that is left alone at the moment is skipped as in a call: the next one is chosen, and estimated."""
    config = {**CONFIG, "blueprint": {**OURS, "breaker": {"failures": 1, "open_s": 60}}}
    adapters, _ = adapters_of(Answer(), cheap=Status(500))
    with SyncLLMClient(config, adapters=adapters) as client:
        opened(client, "cheap")

        decision = client.explain(messages=MESSAGES)

    cheap, cloud = decision.considered[:2]
    assert (cheap.verdict, "circuit open for" in cheap.reason, cloud.verdict) == ("skipped", True, "chosen")
    assert decision.targets[0]["provider"] == "cloud"


def test_explain_keeps_the_first_of_a_chain_that_is_all_left_alone():
    """Where every target is left alone the first is tried all the same, and so it stays chosen."""
    config = {**CONFIG, "blueprint": {**OURS, "breaker": {"failures": 1, "open_s": 60}}}
    adapters, _ = adapters_of(Answer(), cheap=Status(500))
    with SyncLLMClient(config, adapters=adapters) as client:
        opened(client, "cheap")

        decision = client.explain(messages=MESSAGES, task_type="lint")

    assert [(row.verdict, "circuit open for" in row.reason) for row in decision.considered] == [("chosen", True)]
    assert [target["provider"] for target in decision.targets] == ["cheap"]


SKIPPED = [
    pytest.param({"model": "openai/gpt-4o"}, {}, "set OPENAI_API_KEY", id="no key"),
    pytest.param({"model": "embedded/smollm2"}, {}, "blueprint-llm local pull", id="no weights"),
    pytest.param({"model": "deepseek/deepseek-reasoner", "api_key": KEY}, {"tools": TOOLS}, "no tools", id="no hands"),
    pytest.param({"model": "azure/gpt-audio", "api_key": KEY}, {"messages": IMAGE}, "no images", id="no eyes"),
]


@pytest.mark.parametrize(("provider", "request_", "reason"), SKIPPED)
def test_target_that_cannot_serve_is_skipped(provider, request_, reason):
    """A target that cannot serve the request is skipped, with words that say why, and the next one answers."""
    providers = {"unable": provider, "able": {"model": "openai/gpt-4o", "api_key": KEY}}
    config = {"blueprint": {"providers": providers}}
    able = ScriptedAdapter(default=Answer("here"))
    with SyncLLMClient(config, adapters={"able": able, "unable": ScriptedAdapter()}) as client:
        decision = client.explain(**{"messages": MESSAGES, **request_})
        answer = client.chat(**{"messages": MESSAGES, **request_})

    row = decision.considered[0]
    assert (row.provider, row.verdict) == ("unable", "skipped")
    assert reason in row.reason
    assert answer.provider == "able"
    assert answer.trace["route"]["considered"][0]["reason"] == row.reason


@pytest.mark.parametrize(
    ("info", "request_", "reason"),
    [
        pytest.param({"supports_function_calling": False}, {"tools": TOOLS}, "takes no tools", id="tools"),
        pytest.param({"supports_vision": False}, {"messages": IMAGE}, "sees no images", id="images"),
    ],
)
def test_model_info_says_what_a_model_can(info, request_, reason):
    """What `model_info` says of a deployment wins over LiteLLM's map."""
    config = {"model_list": [{**deployment("g", "openai/gpt-4o"), "model_info": info}]}
    with SyncLLMClient(config) as client:
        decision = client.explain(**{"messages": MESSAGES, **request_})

    assert decision.targets == []
    assert reason in decision.considered[0].reason


def test_nobody_left_is_one_error_with_every_reason():
    """When every target is skipped the error names each of them and what to do."""
    config = {
        "blueprint": {"providers": {"a": {"model": "openai/gpt-4o"}, "b": {"model": "anthropic/claude-opus-4-5"}}}
    }
    with SyncLLMClient(config) as client, pytest.raises(NoTargetError) as failed:
        client.chat(messages=MESSAGES)

    assert "OPENAI_API_KEY" in str(failed.value)
    assert "ANTHROPIC_API_KEY" in str(failed.value)
    assert [row["provider"] for row in failed.value.considered] == ["a", "b"]
    assert failed.value.trace["attempts"] == []


IMPOSSIBLE = [
    pytest.param({"provider": "clowd"}, "did you mean 'cloud'", id="a misspelt provider"),
    pytest.param({"provider": "x"}, "known: cheap, cloud", id="an unknown provider"),
    pytest.param({"model": "no such model"}, "unknown model", id="no model's name"),
    pytest.param({"messages": []}, "messages", id="no messages"),
    pytest.param({"messages": [{"role": "boss", "content": "x"}]}, "role", id="an unknown role"),
    pytest.param({"temperature": "hot"}, "temperature", id="no number"),
    pytest.param({"tools": [{"name": "t", "parameters": {"type": "nope"}}]}, "tool 't'", id="a bad schema"),
    pytest.param({"provider": 5}, "provider", id="a provider that is no name"),
    pytest.param({"n": "many"}, "n", id="a count that is none"),
    pytest.param({"n": 0}, "n", id="no answer at all"),
]


@pytest.mark.parametrize(("request_", "words"), IMPOSSIBLE)
def test_explain_never_raises(request_, words):
    """An impossible request is explained: no target, and why."""
    with SyncLLMClient(CONFIG) as client:
        decision = client.explain(**{"messages": MESSAGES, **request_})

    assert (decision.rule, decision.targets) == ("none", [])
    assert words in decision.estimate["error"]


def test_all_failures_are_in_the_error_and_the_first_is_its_cause():
    """When the whole chain fails, the error lists each attempt and has the first one's category."""
    adapters, _ = adapters_of(Status(500), cheap=Status(404))

    error = ask(CONFIG, adapters, {})

    assert isinstance(error, ChainExhaustedError)
    assert [each.category for each in error.attempts] == ["not_found", "unavailable", "unavailable"]
    assert (error.category, error.provider, error.status) == ("not_found", "cheap", 404)


def table(*deployments):
    """The targets of a `model_list`."""
    return TargetTable(load_config({"model_list": list(deployments)}))


def test_key_of_one_vendor_never_goes_to_another():
    """A provider asked for another vendor's model is not given its own vendor's key."""
    config = {"blueprint": {"providers": {"cloud": {"model": "openai/gpt-4o", "api_key": KEY}}}}
    adapter = ScriptedAdapter(default=Answer())
    with SyncLLMClient(config, adapters={"cloud": adapter}) as client:
        with pytest.raises(NoTargetError):
            client.chat(messages=MESSAGES, provider="cloud", model="anthropic/claude-opus-4-5")
        assert client.chat(messages=MESSAGES, provider="cloud", model="openai/gpt-4.1").content

    assert [call.model for call in adapter.calls] == ["openai/gpt-4.1"]


def test_key_of_one_vendor_never_goes_to_anothers_group():
    """Nor is a group of another vendor's asked with the provider's own key."""
    config = {
        "model_list": [deployment("claude", "anthropic/claude-opus-4-5")],
        "blueprint": {"providers": {"cloud": {"model": "openai/gpt-4o", "api_key": KEY}}},
    }
    adapter = ScriptedAdapter(default=Answer())
    with SyncLLMClient(config, adapters={"cloud": adapter}) as client:
        client.chat(messages=MESSAGES, provider="cloud", model="claude")

    assert [call.model for call in adapter.calls] == ["anthropic/claude-opus-4-5"]
    assert "api_key" not in adapter.calls[0].params
    assert adapter.calls[0].credential is None


def test_a_refusal_among_the_failures_is_told_once():
    """A target over its limit is an attempt of the error's, and not passed over besides."""
    block = {
        "providers": {name: {"model": "openai/gpt-4o", "api_key": KEY} for name in ("full", "down")},
        "chains": {"default": ["full", "down"]},
        "quotas": [{"scope": "provider:full", "requests": 0, "window": "day"}],
        "store": {"url": "memory"},
    }
    adapter = ScriptedAdapter(default=Status(404))
    with (
        SyncLLMClient({"blueprint": block}, adapters=dict.fromkeys(("full", "down"), adapter)) as client,
        pytest.raises(ChainExhaustedError) as failed,
    ):
        client.chat(messages=MESSAGES)

    assert str(failed.value).count("full (openai/gpt-4o)") == 1
    assert "passed over" not in str(failed.value)


def test_provider_with_an_address_of_its_own_serves_any_model():
    """A gateway's key stays with the gateway, whatever model it is asked for."""
    gateway = {"model": "openai/gpt-4o", "api_key": KEY, "api_base": "http://127.0.0.1:1/v1"}
    adapter = ScriptedAdapter(default=Answer())
    with SyncLLMClient({"blueprint": {"providers": {"gateway": gateway}}}, adapters={"gateway": adapter}) as client:
        client.chat(messages=MESSAGES, provider="gateway", model="anthropic/claude-opus-4-5")

    assert adapter.calls[0].credential.base_url == "http://127.0.0.1:1/v1"
    assert len(adapter.calls[0].credential.api_key) == len(KEY)


@pytest.mark.parametrize(
    ("model", "provider"),
    [
        pytest.param("openai/gpt-4o", "openai", id="with a prefix"),
        pytest.param("gpt-4o", "openai", id="bare"),
        pytest.param("claude-opus-4-5", "anthropic", id="bare, of another vendor"),
        pytest.param("embedded:/models/x.gguf", "embedded", id="a file"),
        pytest.param("openrouter/anthropic/claude", "openrouter", id="two prefixes"),
    ],
)
def test_litellm_provider(model, provider):
    """A model id names LiteLLM's provider."""
    assert litellm_provider(model) == provider


def test_chain_of_the_client_wins():
    """`fallback_chain=` and `set_fallback_chain` replace the default chain of calls begun later."""
    adapters, asked = adapters_of(Answer("here"))
    with SyncLLMClient(CONFIG, adapters=adapters, fallback_chain=["opus"]) as client:
        client.chat(messages=MESSAGES)
        client.set_fallback_chain(["cloud", "cheap"])
        client.chat(messages=MESSAGES)
        client.set_fallback_chain("safe")
        client.chat(messages=MESSAGES)

    assert asked == [OPUS, CLOUD, SAFE]


def test_full_window_goes_to_wider_ones_only():
    """After a full window, targets of a chain whose window is no wider are passed over; unknown ones are asked."""
    models = {"a": "openai/gpt-4o", "b": "openai/gpt-3.5-turbo", "c": "openai/my-own", "d": "gemini/gemini-2.5-pro"}
    providers = {name: {"model": model, "api_key": KEY} for name, model in models.items()}
    adapter = ScriptedAdapter(default=Status(413))
    config = {"blueprint": {"providers": providers}}
    with SyncLLMClient(config, adapters=dict.fromkeys(models, adapter)) as client, pytest.raises(CallError):
        client.chat(messages=MESSAGES)

    assert [call.provider for call in adapter.calls] == ["a", "c", "d"]


def test_a_target_at_a_calls_own_address_is_the_same_object_again():
    """What is remembered for a target is found again with the same key and address, and only with those."""
    targets = table(deployment("g", "openai/gpt-4o"), deployment("h", "openai/gpt-4o-mini"))
    first, second = targets.of_names(["g", "h"])

    def at(target, key, base="https://one.example"):
        return targets.connected(target, {"api_base": base, "api_key": Secret(key)})

    found = at(first, KEY)

    assert at(first, KEY) is found
    assert found.params["api_base"] == "https://one.example"
    assert found.params["api_key"] == Secret(KEY)
    assert at(first, OTHER_KEY).params["api_key"] == Secret(OTHER_KEY)
    assert at(first, KEY, "https://two.example").params["api_base"] == "https://two.example"
    assert at(second, KEY).model == "openai/gpt-4o-mini"
    changed = replace(first, changes={"temperature": 0.5})
    assert at(changed, KEY).changes == {"temperature": 0.5}
    assert at(first, KEY).changes == {}
