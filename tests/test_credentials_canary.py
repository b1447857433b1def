"""The canary matrix: key shapes, providers, outcomes; through LiteLLM over real sockets; and every sink is searched."""

import asyncio
import gc
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from canary import KEYS, find_canary, redaction_off, watched
from echoing_server import echoing_server

from blueprint_llm.adapters import Call, _litellm
from blueprint_llm.credentials import CredentialsManager
from blueprint_llm.errors import CallError

# LiteLLM makes a session per key and forgets to close those whose call failed.
pytestmark = pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning")

MODELS = {"openai": "openai/gpt-4o", "anthropic": "anthropic/claude-sonnet-4-5", "gemini": "gemini/gemini-2.0-flash"}
OUTCOMES = ("200", "401 echo", "500 echo", "refused", "timeout", "cut")
ROOT = Path(__file__).parents[1]
SAID = "a question that is not secret"


@pytest.fixture(scope="module")
def server():
    """One server for the whole matrix."""
    with echoing_server() as running:
        yield running


@pytest.fixture(scope="module")
def closed_port():
    """A port of this machine where nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.fixture(scope="module")
def loop():
    """One event loop for the module: LiteLLM keeps a session for each, and closes it when told."""
    with asyncio.Runner() as runner:
        yield runner
        runner.run(_litellm.module().close_litellm_async_clients())
    gc.collect()  # here, where the warnings are expected


def make_call(manager, model, server, closed_port, outcome):
    """A call whose provider will do `outcome`."""
    server.outcome = outcome
    root = f"http://127.0.0.1:{closed_port}" if outcome == "refused" else server.root
    base = root + ("/v1" if model.startswith("openai/") else "")
    return Call(
        provider="cloud",
        model=model,
        messages=[{"role": "user", "content": SAID}],
        credential=manager.get("cloud", model=model, params={"api_base": base}),
        timeout_s=0.3 if outcome == "timeout" else 10,
    )


def converse(sinks, call, loop=None):
    """Make the call and put everything it leaves into the sinks; the answer or the error."""
    try:
        result = loop.run(_litellm.acomplete(call)) if loop else _litellm.complete(call)
    except CallError as error:
        result = error
    for left in (result, call, call.credential, getattr(result, "_hidden_params", None)):
        sinks.take(left)
    sinks.take_environment()
    return result


def child_environment():
    """What a tool's process would see."""
    return subprocess.run(["env"], capture_output=True, text=True, check=True, env=dict(os.environ)).stdout


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("provider", MODELS)
@pytest.mark.parametrize("key", [pytest.param(key, id=name) for name, key in KEYS.items()])
def test_no_sink_has_the_key(server, closed_port, loop, key, provider, outcome, monkeypatch):
    """Logs at DEBUG, output, errors with all their chains and frames, pickles and the environment are free of it."""
    monkeypatch.setenv("LITELLM_LOG", "DEBUG")
    manager = CredentialsManager(explicit={provider: key}, environ={})
    before = len(server.keys)

    with watched() as sinks:
        call = make_call(manager, MODELS[provider], server, closed_port, outcome)
        result = converse(sinks, call, None if outcome in {"cut", "401 echo"} else loop)
    sinks.add("child's environment", child_environment())

    assert sinks.hits(key) == []
    assert isinstance(result, CallError) == (outcome != "200")
    assert server.keys[before:] == [] if outcome == "refused" else set(server.keys[before:]) == {key}


@pytest.mark.parametrize("provider", MODELS)
def test_with_redaction_off_the_matrix_finds_the_key(server, closed_port, provider):
    """The positive control: the search sees what an unmasked run writes."""
    key = "Zq7-control-of-" + provider + "-0815"
    manager = CredentialsManager(explicit={provider: key}, environ={})

    with watched() as sinks, redaction_off():
        call = make_call(manager, MODELS[provider], server, closed_port, "401 echo")
        converse(sinks, call)

    assert {"str", "repr", "log"} <= {sink for sink, _ in sinks.hits(key)}


def test_litellms_own_debugging_shows_no_key(server):
    """With everything of LiteLLM's and the root logger's at DEBUG a process that dies of a 401 prints no key."""
    code = (
        "import logging, sys\n"
        "from blueprint_llm.adapters import Call, _litellm\n"
        "from blueprint_llm.credentials import CredentialsManager\n"
        "logging.basicConfig(level=logging.DEBUG)\n"
        "_litellm.module()._turn_on_debug()\n"
        "manager = CredentialsManager(explicit={'openai': sys.stdin.readline().strip()}, environ={})\n"
        "credential = manager.get('openai', params={'api_base': sys.argv[1]})\n"
        "_litellm.complete(Call(provider='p', model='openai/gpt-4o', credential=credential,\n"
        "                       messages=[{'role': 'user', 'content': 'x'}]))\n"
    )
    server.outcome = "401 echo"
    env = {**os.environ, "LITELLM_LOG": "DEBUG", "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, "-c", code, f"{server.root}/v1"],
        input=KEYS["plain32"], capture_output=True, text=True, check=False, timeout=120, env=env,
    )  # fmt: skip

    assert "CallError" in ran.stderr
    assert "DEBUG:openai._base_client" in ran.stderr
    assert find_canary(ran.stdout + ran.stderr, KEYS["plain32"]) == []
