"""`litellm_settings` of a configuration: set on LiteLLM's module as its proxy does, whichever way in, and put back."""

import asyncio
import json

import litellm
import pytest
from asking import KINDS, asking
from compat_cases import HI
from driving import KEY, closing_clients
from endpoint_server import Endpoints
from serving import serving

import blueprint_llm
from blueprint_llm import Router, errors
from blueprint_llm.adapters.settings import ModuleSettings
from blueprint_llm.compat.router import router_arguments_of
from blueprint_llm.config import load_config
from blueprint_llm.engine.guarded import PolicyGuard
from blueprint_llm.engine.runtime import Runtime
from blueprint_llm.testing import Answer, FaultServer

pytestmark = [
    pytest.mark.usefixtures("litellm_warm", "collected"),
    pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning"),
]
HOOKS = """
from litellm.integrations.custom_logger import CustomLogger

class Hooks(CustomLogger):
    seen = []

    async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
        self.seen.append(kwargs["model"])

hooks = Hooks()
"""


@pytest.fixture
def server():
    """Answers with the model's name."""
    with FaultServer(lambda request: Answer(request.body["model"], usage=(1, 10))) as running:
        yield running


@pytest.fixture
def document(server):
    """A configuration with these settings: a group `g` and a provider `p`, both at the server."""

    def make(**settings):
        params = {"api_key": KEY, "api_base": server.url}
        return {
            "model_list": [{"model_name": "g", "litellm_params": {"model": "openai/o1", **params}}],
            "litellm_settings": settings,
            "blueprint": {
                "store": {"url": "memory"},
                "providers": {"p": {"model": "openai/o1", **params}},
                "chains": {"default": ["p"]},
                "retry": {"max_attempts": 1},
            },
        }

    return make


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("asked", [{"model": "g"}, {"provider": "p"}], ids=["group", "provider"])
def test_a_client_has_its_settings_while_it_is_open(kind, asked, document, server, monkeypatch):
    """What only LiteLLM's module reads has its effect from the first call on, and is as before once it is closed."""
    monkeypatch.setattr(litellm, "drop_params", False)
    monkeypatch.setattr(litellm, "modify_params", False)

    with asking(kind, document(drop_params=True, modify_params=True)) as client:
        before = litellm.modify_params
        client.chat(messages=HI, temperature=0.3, **asked)
        during = litellm.modify_params

    assert (before, during, litellm.modify_params, litellm.drop_params) == (False, True, False, False)
    assert "temperature" not in server.requests[0].body


@pytest.mark.parametrize("way", ["installed", "router"])
def test_the_other_ways_in_have_them(way, document, server, monkeypatch):
    """Functions in place and the Router's attempts are under the settings of their guard's configuration."""
    monkeypatch.setattr(litellm, "drop_params", False)
    guard = PolicyGuard(Runtime(document(drop_params=True)))
    params = {"model": "openai/o1", "api_key": KEY, "api_base": server.url}
    asked = {"messages": HI, "temperature": 0.3}

    if way == "installed":
        with blueprint_llm.install(guard):
            litellm.completion(**params, **asked)
        assert litellm.drop_params is False
    else:
        Router([{"model_name": "g", "litellm_params": params}], blueprint=guard).completion("g", **asked)
        guard.runtime.settings.restore()

    assert "temperature" not in server.requests[0].body


def test_a_callback_beside_the_file_is_called(document, server, tmp_path):
    """`callbacks: [module.name]` is found beside the configuration, hears of calls, and is gone with the client."""
    (tmp_path / "heard_by_us.py").write_text(HOOKS)
    config = load_config(document(callbacks=["heard_by_us.hooks", "blueprint_llm.proxy.hooks"]))
    config = config.model_copy(update={"source": str(tmp_path / "blueprint.yaml")})
    settings = ModuleSettings(config)

    async def ask():
        settings.apply()
        (hooks,) = [each for each in litellm.callbacks if type(each).__name__ == "Hooks"]
        await litellm.acompletion(model="openai/o1", messages=HI, api_base=server.url, api_key=KEY)
        for _ in range(100):
            if hooks.seen:
                break
            await asyncio.sleep(0.02)
        settings.restore()
        return hooks

    hooks = asyncio.run(closing_clients(ask()))

    assert hooks.seen == ["o1"]
    assert hooks not in litellm.logging_callback_manager.get_all_callbacks()


HANDLER = """
import litellm

class Mine(litellm.CustomLLM):
    async def acompletion(self, *args, **keywords):
        return litellm.ModelResponse(choices=[{"message": {"content": "mine"}, "finish_reason": "stop"}], model="one")

mine = Mine()
"""


def test_a_provider_of_the_files_own_answers(tmp_path):
    """`custom_provider_map` names a handler beside the file; the provider is gone with the client."""
    (tmp_path / "my_handler.py").write_text(HANDLER)
    document = {
        "model_list": [{"model_name": "g", "litellm_params": {"model": "my-llm/one"}}],
        "litellm_settings": {"custom_provider_map": [{"provider": "my-llm", "custom_handler": "my_handler.mine"}]},
        "blueprint": {"store": {"url": "memory"}},
    }
    path = tmp_path / "blueprint.yaml"
    path.write_text(json.dumps(document))
    before = litellm.custom_provider_map

    with asking("sync", str(path)) as client:
        answer = client.chat(messages=HI, model="g")

    assert answer.content == "mine"
    assert litellm.custom_provider_map is before


def test_litellms_own_cache_serves_a_group_for_free(document, server, monkeypatch):
    """`cache: true` makes LiteLLM's cache: the second answer comes out of it, and costs nothing."""
    pytest.importorskip("fastapi", reason="a hit of LiteLLM's cache fails where its proxy is not installed")
    monkeypatch.setattr(litellm, "cache", None)

    with asking("sync", document(cache=True, cache_params={"type": "local"})) as client:
        first, second = (client.chat(messages=HI, model="g") for _ in range(2))
        spent = client.client.get_usage().cost_usd

    assert (first.content, second.content, len(server.requests)) == ("o1", "o1", 1)
    assert spent == pytest.approx(first.usage.estimated_cost)
    assert litellm.cache is None


def test_litellms_own_cache_is_made_and_let_go(document, server, monkeypatch):
    """`cache: true` with `cache_params` makes it with the first call, for the Router, too; closing lets go of it."""
    monkeypatch.setattr(litellm, "cache", None)

    with asking("sync", document(cache=True, cache_params={"type": "local"})) as client:
        client.chat(messages=HI, model="g")
        kinds = [type(litellm.cache).__name__, str(litellm.cache.type)]

    assert kinds == ["Cache", "local"]
    assert router_arguments_of(load_config(document(cache=True)))["cache_responses"] is True
    assert litellm.cache is None


def test_what_cannot_be_set_is_an_error_and_nothing_stays(document, monkeypatch):
    """A callback that is not there is a ConfigError that names the setting; what was set before it is put back."""
    monkeypatch.setattr(litellm, "modify_params", False)

    with (
        asking("sync", document(modify_params=True, callbacks=["no_such_module.hooks"])) as client,
        pytest.raises(errors.ConfigError, match=r"litellm_settings\.callbacks: .*no_such_module"),
    ):
        client.chat(messages=HI, model="g")

    assert litellm.modify_params is False


@pytest.mark.parametrize("first", [0, 1])
def test_two_configurations_have_them_until_the_last_is_closed(first, document, tmp_path):
    """Whichever is closed first, what both say stays for the other, and is as before in the end."""
    (tmp_path / "heard_by_both.py").write_text(HOOKS)
    config = load_config(document(modify_params=True, callbacks=["heard_by_both.hooks", "lago"]))
    config = config.model_copy(update={"source": str(tmp_path / "blueprint.yaml")})
    before = litellm.modify_params, list(litellm.logging_callback_manager.get_all_callbacks())
    both = [ModuleSettings(config) for _ in range(2)]
    for each in both:
        each.apply()

    both[first].restore()
    between = litellm.modify_params, "lago" in litellm.callbacks
    both[1 - first].restore()

    assert between == (True, True)
    assert (litellm.modify_params, list(litellm.logging_callback_manager.get_all_callbacks())) == before


def test_only_settings_are_set(document):
    """A name that is one of LiteLLM's functions, modules or private parts is left alone."""
    before = {name: vars(litellm)[name] for name in ("completion", "utils", "_current_cost")}
    settings = ModuleSettings(load_config(document(**dict.fromkeys(before, "x"))))
    settings.apply()
    try:
        assert {name: vars(litellm)[name] for name in before} == before
    finally:
        settings.restore()


def test_what_the_program_sets_later_stays(document):
    """Closing puts back only what is still there."""
    before = litellm.modify_params
    settings = ModuleSettings(load_config(document(modify_params=True)))
    settings.apply()
    try:
        litellm.modify_params = "the program's"
        settings.restore()

        assert litellm.modify_params == "the program's"
    finally:
        litellm.modify_params = before


def test_a_listed_credential_is_the_configurations_own(server):
    """Two configurations with one name for two keys: each calls with its own, LiteLLM's global list stays empty."""

    def built(key):
        values = {"api_key": key, "api_base": server.url}
        params = {"model": "openai/m", "litellm_credential_name": "shared"}
        return {
            "model_list": [{"model_name": "g", "litellm_params": params}],
            "credential_list": [{"credential_name": "shared", "credential_values": values}],
            "blueprint": {"store": {"url": "memory"}},
        }

    keys = ["sk-one-0123456789abcdef", "sk-two-0123456789abcdef"]
    with asking("sync", built(keys[0])) as one, asking("sync", built(keys[1])) as two:
        for client in (one, two, one):
            client.chat(messages=HI, model="g")

    sent = [request.headers["authorization"].removeprefix("Bearer ") for request in server.requests]
    assert sent == [keys[0], keys[1], keys[0]]
    assert litellm.credential_list == []


@pytest.mark.parametrize("modify", [False, True])
def test_modify_params_has_its_effect(modify):
    """LiteLLM gives a tool call without a result one, as Anthropic wants it, where it is told to mend requests."""
    function = {"name": "get_weather", "arguments": "{}"}
    call = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c1", "type": "function", "function": function}],
    }
    with serving(Endpoints) as (upstream, url):
        params = {"model": "anthropic/claude-sonnet-4-5", "api_key": KEY, "api_base": url.removesuffix("/v1")}
        document = {
            "model_list": [{"model_name": "g", "litellm_params": params}],
            "litellm_settings": {"modify_params": modify},
            "blueprint": {"store": {"url": "memory"}},
        }
        with asking("sync", document) as client:
            client.chat(messages=[*HI, call, *HI], model="g")

    ((_, body, _),) = upstream.asked
    assert ("tool_result" in str(body["messages"])) == modify
