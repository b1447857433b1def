"""The proxy plugin's hooks under LiteLLM's own Router, which calls most of them; the proxy itself is not needed."""

import asyncio
import contextlib
import datetime as dt
import importlib
import sys
import types
import uuid

import litellm
import pytest
from driving import closing_clients
from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER
from litellm.types.utils import CallTypes

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
from blueprint_llm.stores.ops import Rows
from blueprint_llm.testing import Answer, BrokenTool, Cut, FaultServer, Reset, Status, ToolUse, numbered_text
from blueprint_llm.types import UsageFilter

KEY = "sk-test-0123456789abcdef"
LISTS = [
    *("callbacks", "input_callback", "success_callback", "failure_callback", "service_callback"),
    *("_async_input_callback", "_async_success_callback", "_async_failure_callback"),
]
ASK = {"model": "gpt", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 100}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
PRICE = {"input_cost_per_token": 0, "output_cost_per_token": 0.001}


class World:
    """LiteLLM's Router with the hooks, over one server for each group."""

    def __init__(self, servers, blueprint, *, per_deployment=(), **router):
        shared = {"model": "openai/gpt-4o-mini", "api_key": KEY, **PRICE, **dict(per_deployment)}
        entries = [
            {"model_name": group, "litellm_params": {**shared, "api_base": server.url}} for group, server in servers
        ]
        self.hooks = Hooks({"model_list": entries, "blueprint": {"version": 1, "project": "acme", **blueprint}})
        litellm.callbacks.append(self.hooks)
        router = {"num_retries": 0, **router}
        self.router = litellm.Router(model_list=entries, **router)  # noqa: TID251 - the proxy's, here the world outside

    async def ask(self, **more):
        """A whole answer, through the hooks that the proxy calls after the Router."""
        data = self._recorded({**ASK, **more})
        response = await self.router.acompletion(**data)
        await self.hooks.async_post_call_success_hook(data=data, user_api_key_dict=None, response=response)
        return response

    async def stream(self, **more):
        """A stream, through the proxy's hook."""
        return self.relayed(*await self.opened(**more))

    async def opened(self, **more):
        """A request for a stream, and the Router's answer."""
        data = self._recorded({**ASK, "stream": True, **more})
        return data, await self.router.acompletion(**data)

    def relayed(self, data, response):
        """A stream, as the proxy passes it on."""
        return self.hooks.async_post_call_streaming_iterator_hook(
            user_api_key_dict=None, response=response, request_data=data
        )

    @staticmethod
    def _recorded(data):
        """A request with LiteLLM's record of it, as the proxy makes it."""
        now, data = dt.datetime.now(dt.UTC), {**data, "litellm_call_id": str(uuid.uuid4())}
        record, data = litellm.utils.function_setup("acompletion", litellm.utils.Rules(), now, **data)
        return {**data, "litellm_logging_obj": record}

    async def close(self):
        """Let go of the store and the cache."""
        await self.hooks.parts.cache.aclose()
        await self.hooks.parts.store.aclose()

    @property
    def rows(self):
        """The attempts in the ledger, oldest first."""
        rows = self.hooks.parts.store.execute(Rows(where=UsageFilter(), limit=100))
        return [(row.provider, row.category, row.cost_nano) for row in reversed(rows)]


@pytest.fixture
async def world(monkeypatch, litellm_warm):
    """Make a `World`; what LiteLLM keeps for the process is as before at the end."""
    for name in LISTS:
        monkeypatch.setattr(litellm, name, [])
    made = []

    def make(*args, **more):
        made.append(World(*args, **more))
        return made[-1]

    yield make
    await closing_clients(GLOBAL_LOGGING_WORKER.stop())
    for each in made:
        await each.close()


@pytest.fixture
def serve():
    """Servers that end with the test: `serve(steps...)`."""
    with contextlib.ExitStack() as stack:
        yield lambda *steps, **more: stack.enter_context(FaultServer(steps, **more))


async def refused(asked):
    """The refusal that a call ends with."""
    with pytest.raises(Refusal) as refusal:
        await asked
    return refusal.value


async def collected(stream, into):
    """Read a stream into a list."""
    async for chunk in stream:
        into.append(chunk)


def text_of(chunks):
    """The text of LiteLLM's chunks."""
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


async def test_answer_is_paid_for(world, serve):
    """A whole answer passes as it is, and its true cost stands in the ledger."""
    setting = world([("gpt", serve(Answer("Hello", usage=(5, 40))))], {})

    response = await setting.ask()

    assert response.choices[0].message.content == "Hello"
    assert setting.rows == [("gpt", None, 40_000_000)]


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


async def test_broken_whole_answer_is_refused(world, serve):
    """A malformed tool call in one piece comes out of the last hook as an error, paid for."""
    setting = world([("gpt", serve(BrokenTool()))], {})

    refusal = await refused(setting.ask(tools=[TOOL]))
    refusal.answer()

    assert (refusal.status_code, refusal.type) == (502, "upstream_error")
    assert [category for _, category, _ in setting.rows] == ["malformed"]


@pytest.mark.parametrize("asks", [False, True])
async def test_stream_passes_and_is_paid_for(world, serve, asks):
    """A stream passes chunk by chunk; the usage that we ask for is shown to those only who asked for it."""
    setting = world([("gpt", serve(Answer("Hello there", usage=(5, 20))))], {})
    options, chunks = {"stream_options": {"include_usage": True}} if asks else {}, []

    await collected(await setting.stream(**options), chunks)

    assert text_of(chunks) == "Hello there"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == ["stop"]
    assert [chunk.usage.completion_tokens for chunk in chunks if getattr(chunk, "usage", None)] == [20] * asks
    assert setting.rows == [("gpt", None, 20_000_000)]


async def test_tool_call_waits_for_its_verdict(world, serve):
    """Text passes at once; a broken call behind it never does."""
    broken = Answer("Let me look.", tool_calls=(ToolUse("get_weather", '{"city": Paris'),))
    setting, chunks = world([("gpt", serve(broken))], {}), []

    await refused(collected(await setting.stream(tools=[TOOL]), chunks))

    assert text_of(chunks) == "Let me look."
    assert not [chunk for chunk in chunks if chunk.choices[0].delta.tool_calls]


@pytest.mark.parametrize("fault", [Cut, Reset])
async def test_broken_stream_is_an_error(world, serve, fault):
    """A stream that ends without proof, or breaks, is an error after its text, never a finish reason."""
    setting, chunks = world([("gpt", serve(fault(3, answer=Answer(numbered_text(9)))))], {}), []

    await refused(collected(await setting.stream(), chunks))

    assert not [chunk for chunk in chunks if chunk.choices[0].finish_reason]
    assert [category for _, category, _ in setting.rows] == ["stream_broken"]


async def test_router_goes_on_before_the_first_text(world, serve):
    """Where a stream breaks before its text, LiteLLM's Router falls back inside of it; both attempts are settled."""
    servers = [("gpt", serve(Reset(0, answer=Answer("lost")))), ("spare", serve(Answer("found", usage=(5, 30))))]
    setting, chunks = world(servers, {}, fallbacks=[{"gpt": ["spare"]}]), []

    await collected(await setting.stream(), chunks)

    assert text_of(chunks) == "found"
    assert setting.rows[-1] == ("spare", None, 30_000_000)
    assert [category for _, category, _ in setting.rows[:-1]] == ["unavailable"]


async def test_left_stream_is_closed_and_settled(world, serve):
    """Closing the hook's stream closes the provider's and settles what was seen."""
    server = serve(Answer(numbered_text(500), pace_s=0.01))
    setting = world([("gpt", server)], {})
    stream = await setting.stream()

    await anext(stream)
    await stream.aclose()

    await asyncio.to_thread(server.wait_until, lambda requests: requests[0].closed_early_at)
    assert [category for _, category, _ in setting.rows] == ["abandoned"]


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

    with monkeypatch.context() as environment, pytest.raises(ConfigError, match="budgets"):
        environment.setenv("BLUEPRINT_CONFIG", str(tmp_path / "own.yaml"))
        importlib.reload(proxy)

    assert isinstance(importlib.reload(proxy).hooks, Hooks)


async def test_stream_under_other_wrappers_passes(world, serve):
    """Where LiteLLM's own stream is out of sight, its finish reason is taken for the end."""
    setting, chunks = world([("gpt", serve(Answer("Hello", usage=(5, 20))))], {}), []
    data, stream = await setting.opened()

    async def guarded(inside):
        async for chunk in inside:
            yield chunk

    await collected(setting.relayed(data, guarded(stream)), chunks)

    assert text_of(chunks) == "Hello"
    assert setting.rows == [("gpt", None, 20_000_000)]


async def test_stream_of_another_route_passes(world, serve):
    """What was not reserved is not looked at."""
    chunks = []

    async def events():
        yield b"event: ping"

    await collected(world([("gpt", serve())], {}).relayed({}, events()), chunks)

    assert chunks == [b"event: ping"]
