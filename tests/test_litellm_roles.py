"""Which adapter a provider gets, and that each of them is a way to LiteLLM."""

import subprocess
import sys

import pytest
from driving import KEY, MESSAGES, closing_clients

from blueprint_llm.adapters import (
    Adapter,
    AdapterFactory,
    Call,
    CloudAdapter,
    FallbackAdapter,
    LocalAdapter,
    OpusAdapter,
)
from blueprint_llm.config import load_config
from blueprint_llm.errors import ConfigError
from blueprint_llm.testing import Answer, FaultServer

CONFIG = {
    "model_list": [
        {"model_name": "gpt", "litellm_params": {"model": "openai/gpt-4o", "api_key": KEY}},
        {"model_name": "llama", "litellm_params": {"model": "ollama_chat/llama3.2"}},
    ],
    "blueprint": {
        "version": 1,
        "providers": {
            "opus": {"model": "anthropic/claude-opus-4-5", "api_key": KEY},
            "heavy": {"model": "anthropic/claude-opus-4-5", "role": "opus", "api_key": KEY},
            "fallback": {"model": "deepseek/deepseek-chat", "api_key": KEY},
            "mine": {"model": "openai/llama", "api_base": "http://127.0.0.1:9/v1"},
            "theirs": {"model": "openai/gpt-4o", "api_key": KEY},
        },
    },
}
ROLES = [
    pytest.param("opus", OpusAdapter, id="a role of that name"),
    pytest.param("heavy", OpusAdapter, id="the role that it says"),
    pytest.param("fallback", FallbackAdapter, id="fallback"),
    pytest.param("mine", LocalAdapter, id="on the loopback"),
    pytest.param("theirs", CloudAdapter, id="elsewhere"),
    pytest.param("gpt", CloudAdapter, id="a group elsewhere"),
    pytest.param("llama", LocalAdapter, id="a group on this machine"),
]


@pytest.mark.parametrize(("provider", "kind"), ROLES)
def test_a_provider_gets_the_adapter_of_its_role(provider, kind):
    """Its own role counts first, then its name, then where its model runs."""
    adapter = AdapterFactory(load_config(CONFIG)).create(provider)

    assert type(adapter) is kind
    assert (adapter.provider, repr(adapter)) == (provider, f"{kind.__name__}({provider!r})")


def test_an_unknown_provider_is_a_mistake():
    """The error names what there is."""
    with pytest.raises(ConfigError, match=r"unknown provider 'nobody': the configuration has opus, heavy"):
        AdapterFactory(load_config(CONFIG)).create("nobody")


def test_a_target_outside_the_configuration_goes_by_its_place():
    """A model that the request names is local or not by where it runs."""
    factory = AdapterFactory(load_config(CONFIG))

    assert type(factory.for_model("x", "openai/gpt-4o")) is CloudAdapter
    assert type(factory.for_model("x", "openai/gpt-4o", "http://127.0.0.1:9")) is LocalAdapter
    assert type(factory.for_model("heavy", "openai/gpt-4o")) is OpusAdapter


async def test_an_adapter_is_a_way_to_litellm(litellm_warm):
    """It answers whole and streamed, and knows what an answer cost."""
    adapter: Adapter = CloudAdapter("p")
    with FaultServer(default=Answer("Hi.")) as server:
        wire = {"api_base": server.url, "api_key": KEY}
        call = Call(provider="p", model="openai/gpt-4o", messages=MESSAGES, params=wire)
        whole = await adapter.complete(call)
        stream = await adapter.open(call)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
        await closing_clients(stream.aclose())

    assert (whole.choices[0].message.content, text) == ("Hi.", "Hi.")
    assert adapter.ready
    assert adapter.cost_of(whole, call) == pytest.approx(0.00012)


def test_an_adapter_is_not_ready_before_litellm_is_loaded(litellm_warm):
    """To make one and to ask imports nothing; `load` does."""
    code = (
        "import sys\n"
        "from blueprint_llm.adapters import CloudAdapter\n"
        "assert not CloudAdapter('p').ready\n"
        "assert not {'litellm', 'openai', 'httpx'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    adapter = CloudAdapter("p")
    adapter.load()

    assert adapter.ready
