"""The proxy plugin's hooks under LiteLLM's own Router, which calls most of them; the proxy itself is not needed."""

import asyncio
import importlib
import sys
import types

import litellm
import pytest
from litellm.types.utils import CallTypes
from routed import ASK, TOOL, collected, refused, text_of

from blueprint_llm import proxy
from blueprint_llm.errors import (
    BudgetExceededError,
    CallError,
    ConfigError,
    InvalidRequestError,
    NoTargetError,
    QuotaExceededError,
    StoreError,
)
from blueprint_llm.proxy import Hooks, plugin
from blueprint_llm.proxy.refusal import Refusal
from blueprint_llm.testing import Answer, BrokenTool, Status
from blueprint_llm.types import UsageFilter
from blueprint_llm.usage.stores.ops import Rows


async def test_answer_is_paid_for(world, serve):
    """A whole answer passes as it is, and its true cost stands in the ledger."""
    setting = world([("gpt", serve(Answer("Hello", usage=(5, 40))))], {})

    response = await setting.ask()

    assert response.choices[0].message.content == "Hello"
    assert setting.rows == [("gpt", None, 40_000_000)]


async def test_deployment_that_only_litellm_knows_is_paid_for(world, serve):
    """A deployment from LiteLLM's database has its own price, and cached answers of its own."""
    one, other = serve(Answer("one", usage=(5, 40))), serve(Answer("other", usage=(5, 40)))
    cached = {"cache": {"enabled": True}}
    settings = [world([("gpt", server)], cached, named=False) for server in (one, other)]

    said = []
    for setting in settings:
        litellm.callbacks[:] = [setting.hooks]
        said.append((await setting.ask()).choices[0].message.content)

    assert said == ["one", "other"]
    assert settings[0].rows == [("gpt", None, 40_000_000)] * 2


async def test_refusal_is_neither_retried_nor_a_deployments_illness(world, serve):
    """A budget refuses once, whatever `num_retries` says, and leaves the group's deployments in service."""
    server = serve(default=Answer("Hello", usage=(5, 90)))
    budget = {"budgets": [{"scope": "session", "limit_usd": 0.15, "window": "day"}]}
    setting = world([("gpt", server), ("gpt", server)], budget, num_retries=3)
    await setting.ask(metadata={"session_id": "a"})

    refusal = await refused(setting.ask(metadata={"session_id": "a"}))
    await setting.hooks.async_post_call_failure_hook(original_exception=refusal)

    assert refusal.message.startswith("budget of session would be exceeded: 0.090000 of 0.150000 USD used or reserved")
    assert (refusal.status_code, refusal.type) == (litellm.budget_exceeded_status_code, "budget_exceeded")
    assert (await setting.ask(metadata={"session_id": "b"})).choices[0].message.content == "Hello"
    assert len(server.requests) == 2


async def test_limit_of_one_group_sends_the_router_to_its_fallback(world, serve):
    """A used up model is passed over for LiteLLM's fallback, which is paid for on its own account."""
    quota = {"quotas": [{"scope": "provider:gpt", "requests": 1, "window": "day"}]}
    servers = [("gpt", serve(Answer("first"))), ("spare", serve(Answer("second")))]
    setting = world(servers, quota, fallbacks=[{"gpt": ["spare"]}])

    said = [(await setting.ask()).choices[0].message.content for _ in range(2)]

    assert said == ["first", "second"]
    assert [provider for provider, *_ in setting.rows] == ["gpt", "spare"]


async def test_limit_of_one_deployment_leaves_room_at_another(world, serve):
    """A deployment's own `rpm` sends the Router to the group's other deployment."""
    one, other = serve(default=Answer("one")), serve(default=Answer("other"))
    setting = world([("gpt", one), ("gpt", other)], {}, num_retries=8, per_deployment={"rpm": 1})

    said = {(await setting.ask()).choices[0].message.content for _ in range(2)}

    assert said == {"one", "other"}


async def test_every_attempt_of_the_router_has_its_own_row(world, serve):
    """Retries of the Router are attempts of ours: the failed one costs nothing, the good one its price."""
    setting = world([("gpt", serve(Status(503), Answer("Hello", usage=(5, 10))))], {}, num_retries=1)

    await setting.ask()

    assert setting.rows == [("gpt", "unavailable", 0), ("gpt", None, 10_000_000)]


async def test_failing_deployment_is_the_routers_to_leave_alone(world, serve):
    """Our breaker counts failures but shuts no deployment: what to try is LiteLLM's Router's choice."""
    setting = world([("gpt", serve(*[Status(503)] * 4, Answer("Hello")))], {}, disable_cooldowns=True)
    for _ in range(4):
        with pytest.raises(litellm.ServiceUnavailableError):
            await setting.ask()

    assert (await setting.ask()).choices[0].message.content == "Hello"


async def test_broken_whole_answer_is_refused(world, serve):
    """A malformed tool call in one piece comes out of the last hook as an error, paid for."""
    setting = world([("gpt", serve(BrokenTool()))], {})

    refusal = await refused(setting.ask(tools=[TOOL]))
    refusal.answer()

    assert (refusal.status_code, refusal.type) == (502, "upstream_error")
    assert [category for _, category, _ in setting.rows] == ["malformed"]


async def test_cancelled_call_is_settled(world, serve):
    """A call that is cancelled before its answer came leaves no reservation open."""
    server = serve(Answer("late", delay_s=60))
    setting = world([("gpt", server)], {})
    task = asyncio.create_task(setting.ask())
    await asyncio.to_thread(server.wait_until, lambda requests: requests)

    task.cancel()
    await asyncio.wait([task])
    await asyncio.gather(*plugin._ENDINGS)

    assert [category for _, category, _ in setting.rows] == ["abandoned"]


@pytest.mark.parametrize("way", ["ask", "stream"])
async def test_answer_of_the_cache_needs_no_provider(world, serve, way):
    """The second of two equal questions is answered in the deployment's place, at no cost."""
    server = serve(Answer("Hello", usage=(5, 20)))
    setting = world([("gpt", server)], {"cache": {"enabled": True}})
    first = await setting.ask()

    if way == "ask":
        again = await setting.ask()
        assert (again.choices[0].message.content, again.usage) == ("Hello", first.usage)
    else:
        await collected(await setting.stream(), chunks := [])
        assert text_of(chunks) == "Hello"

    assert len(server.requests) == 1
    setting.hooks.parts.hits.flush()
    assert [cost for *_, cost in setting.rows] == [20_000_000, 0]


async def test_fallback_to_the_cache_after_a_failure(world, serve):
    """A kept answer of the fallback group is good, whatever became of the first deployment."""
    servers = [("gpt", serve(Status(503))), ("spare", serve(Answer("Hello", usage=(5, 20))))]
    setting = world(servers, {"cache": {"enabled": True}}, fallbacks=[{"gpt": ["spare"]}])
    await setting.ask(model="spare")

    again = await setting.ask()

    assert again.choices[0].message.content == "Hello"
    setting.hooks.parts.hits.flush()
    assert [category for _, category, _ in setting.rows] == [None, "unavailable", None]


async def test_message_without_role_is_refused(world, serve):
    """What is no message is the client's mistake, told in our words without the Router's."""
    refusal = await refused(world([("gpt", serve())], {}).ask(messages=[{"content": "hi"}]))
    refusal.answer()

    assert (refusal.status_code, refusal.message) == (400, "the request is not valid: role: Field required")


async def test_other_kinds_of_call_are_left_alone(world, serve):
    """What is no chat completion of the Router passes untouched."""
    hooks = world([("gpt", serve())], {}).hooks

    assert (
        await hooks.async_pre_call_deployment_hook({"metadata": {"model_group": "gpt"}}, CallTypes.aembedding) is None
    )
    assert await hooks.async_pre_call_deployment_hook({**ASK}, CallTypes.acompletion) is None


@pytest.mark.parametrize(
    ("metadata", "project", "session"),
    [
        pytest.param({}, "acme", None, id="the configuration's"),
        pytest.param({"project": "p", "user_api_key_user_id": "u"}, "p", "u", id="the request's"),
        pytest.param({"project": "p", "user_api_key_alias": "k"}, "k", None, id="the key's before the request's"),
        pytest.param({"user_api_key_alias": "k", "user_api_key_team_id": "t"}, "t", None, id="the team's before it"),
        pytest.param({"session_id": "s", "user_api_key_end_user_id": "e"}, "acme", "s", id="the session's own name"),
    ],
)
async def test_whose_call_it_is(world, serve, metadata, project, session):
    """A key's team or alias is the project, which a client cannot choose; session or user is the session."""
    setting = world([("gpt", serve(Answer("Hello")))], {})

    await setting.ask(metadata=metadata)

    (row,) = setting.hooks.parts.store.execute(Rows(where=UsageFilter(), limit=9))
    assert row.project == project
    assert row.session == (session or setting.hooks.parts.session)


async def test_unusual_requests_pass(world, serve):
    """Roles and tools that LiteLLM knows and we do not are no reason to refuse."""
    server = serve(Answer("Hello"))
    setting = world([("gpt", server)], {})
    searching = {"type": "web_search_preview"}

    await setting.ask(messages=[{"role": "developer", "content": "x"}], tools=[TOOL, searching])

    assert server.requests[0].body["tools"] == [TOOL, searching]


async def test_budget_caps_what_has_no_cap(world, serve):
    """Under a budget a request without `max_tokens` is sent with one, or its worst cost would have no bound."""
    server = serve(default=Answer("Hello"))
    budget = {"budgets": [{"scope": "project", "limit_usd": 100, "window": "day"}]}
    setting = world([("gpt", server)], budget)

    await setting.ask(max_tokens=None)
    await setting.ask(max_completion_tokens=7, max_tokens=None)

    first, second = (request.body for request in server.requests)
    assert first["max_tokens"] == 16384
    assert (second.get("max_tokens"), second["max_completion_tokens"]) == (None, 7)


async def test_request_beyond_the_window_is_the_routers(world, serve):
    """What is too long for a model is neither refused nor shortened here: LiteLLM has fallbacks for that."""
    server, long = serve(Answer("Hello")), "word " * 20_000
    setting = world([("gpt", server)], {}, per_deployment={"model": "openai/gpt-4"})

    await setting.ask(messages=[{"role": "user", "content": long}])

    assert server.requests[0].body["messages"][0]["content"] == long


async def test_provider_of_the_configuration_names_its_group(world, serve):
    """A budget on a provider of ours counts the group that it is made of."""
    quota = {
        "providers": {"cloud": {"model": "gpt"}},
        "quotas": [{"scope": "provider:cloud", "requests": 0, "window": "day"}],
    }
    setting = world([("gpt", serve())], quota)

    assert "quota of provider:cloud" in (await refused(setting.ask())).message


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (QuotaExceededError(scope="project", kind="tokens", limit=5, used=5, resets_at=None), 429),
        (BudgetExceededError(scope="call", limit_usd=1, used_usd=1, resets_at=None), 422),
        (NoTargetError(), 403),
        (StoreError("the store is away"), 503),
        (InvalidRequestError("no"), 400),
        (CallError("x", category="malformed"), 502),
        (ConfigError("x"), 500),
    ],
)
def test_status_for_the_client(error, status):
    """Each kind of error has its HTTP status, once LiteLLM's Router is done with it."""
    refusal = Refusal(error)
    seen_by_router = refusal.status_code
    refusal.answer()

    assert (seen_by_router, refusal.status_code, refusal.headers) == (400, status, {})


def test_configuration_is_the_proxys_own(monkeypatch, tmp_path):
    """Without $BLUEPRINT_CONFIG the file that the proxy was started with is read."""
    server = types.ModuleType("litellm.proxy.proxy_server")
    server.user_config_file_path = str(tmp_path / "proxy.yaml")
    (tmp_path / "proxy.yaml").write_text("blueprint: {version: 1, project: from the proxy}")
    (tmp_path / "own.yaml").write_text("blueprint: {version: 1, project: own}")
    monkeypatch.setitem(sys.modules, "litellm.proxy.proxy_server", server)

    projects = [Hooks().parts.config.project]
    monkeypatch.setenv("BLUEPRINT_CONFIG", str(tmp_path / "own.yaml"))
    projects.append(Hooks().parts.config.project)

    assert projects == ["from the proxy", "own"]


def test_mistaken_configuration_stops_the_start(monkeypatch, tmp_path):
    """A mistake in the file is reported when the proxy loads the plugin."""
    (tmp_path / "own.yaml").write_text("blueprint: {version: 1, budgets: 7}")

    monkeypatch.setenv("BLUEPRINT_CONFIG", str(tmp_path / "own.yaml"))

    with pytest.raises(ConfigError, match="budgets"):
        importlib.reload(proxy)

    monkeypatch.delenv("BLUEPRINT_CONFIG")
    assert isinstance(importlib.reload(proxy).hooks, Hooks)
