"""The canary matrix: key shapes, providers, outcomes; through LiteLLM over real sockets; and every sink is searched."""

import asyncio
import gc
import os
import socket
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
from canary import KEYS, Sinks, find_canary, logger_of, redaction_off, watched
from echoing_server import echoing_server

from blueprint_llm import completion, sync
from blueprint_llm.adapters import litellm as _litellm
from blueprint_llm.client import LLMClient, SyncLLMClient
from blueprint_llm.config import load_config
from blueprint_llm.config.blocks import Tools
from blueprint_llm.credentials import CredentialsManager
from blueprint_llm.errors import BlueprintError, CallError
from blueprint_llm.testing import Answer, BadLine, Cut, ErrorObject, FaultServer, Reset, Status
from blueprint_llm.tools import ToolEngine

# LiteLLM makes a session per key and forgets to close those whose call failed.
pytestmark = pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning")

MODELS = {"openai": "openai/gpt-4o", "anthropic": "anthropic/claude-sonnet-4-5", "gemini": "gemini/gemini-2.0-flash"}
SHAPES = [
    pytest.param(key, id=name, marks=[pytest.mark.slow] * (name not in {"plain32", "symbols"}))
    for name, key in KEYS.items()
]
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


def settings(provider, server, closed_port, outcome):
    """A configuration whose only provider will do `outcome`, with all that writes to disk turned on."""
    server.outcome = outcome
    root = f"http://127.0.0.1:{closed_port}" if outcome == "refused" else server.root
    target = {
        "model": MODELS[provider],
        "api_base": root + ("/v1" if provider == "openai" else ""),
        "timeout_s": 0.3 if outcome == "timeout" else 10,
    }
    budget = {"scope": "project", "limit_usd": 100}
    return {
        "blueprint": {
            "providers": {"cloud": target}, "retry": {"max_attempts": 1}, "cache": {"enabled": True},
            "budgets": [budget], "pricing": {"unknown": "assume_zero"}, "logging": {"level": "debug"},
        }
    }  # fmt: skip


@pytest.fixture
def keep(tmp_path):
    """Put a key into a credentials file, beside the home that is searched; a manager that reads it there."""

    def make(config, key):
        file = tmp_path / "credentials.json"
        CredentialsManager(file=file, environ={}).set("cloud", key)
        return CredentialsManager(load_config(config), file=file, environ={})

    return make


async def ask(manager, events):
    """One chat through the async client; the answer or the error."""
    async with LLMClient(manager.config, credentials_manager=manager, on_event=events.append) as client:
        try:
            return await client.chat(messages=[{"role": "user", "content": SAID}])
        except BlueprintError as error:
            return error


def ask_blocking(manager, events):
    """One chat through the blocking client; the answer or the error."""
    with SyncLLMClient(manager.config, credentials_manager=manager, on_event=events.append) as client:
        try:
            return client.chat(messages=[{"role": "user", "content": SAID}])
        except BlueprintError as error:
            return error


def stream_blocking(manager, events):
    """One stream through the blocking client; its chunks and the error that ended it, if any."""
    seen = []
    with SyncLLMClient(manager.config, credentials_manager=manager, on_event=events.append) as client:
        try:
            seen += client.stream(messages=[{"role": "user", "content": SAID}])
        except BlueprintError as error:
            seen.append(error)
    return seen


def converse(sinks, manager, home, key, run):
    """Talk and use tools, and put everything that is left of it into the sinks; what came of the talk."""
    events = []
    result = run(manager, events)
    results = result if isinstance(result, list) else [result]
    for left in (*results, *events, manager, manager.config, *(getattr(each, "trace", None) for each in results)):
        sinks.take(left)
    for each in results:
        raw = getattr(each, "raw", None)
        sinks.take(raw)
        sinks.add("hidden", repr(getattr(raw, "_hidden_params", None)))
    sinks.take_environment()
    use_tools(sinks, home, key)
    sinks.take_folder(home)
    return result


def use_tools(sinks, home, key, *, passed=()):
    """Let a command run where the environment holds the key and the model repeats it: what is left of both.

    Args:
        sinks: Take what is left.
        home: The workspace is made beside it.
        key: Stands in variables with telling and with harmless names, and in the model's arguments.
        passed: Variables that the configuration hands to commands.
    """
    (workspace := home.parent / f"{home.name}-workspace").mkdir(exist_ok=True)
    block = {"rules": [{"allow": "command"}], "sandbox": {"backend": "none"}}
    settings = Tools.model_validate({**block, "env": {"pass": ["PATH", *passed]}})
    variables = {"OPENAI_API_KEY": key, "MY_MODEL": key}
    with patch.dict(os.environ, variables), ToolEngine(workspace=workspace, settings=settings) as engine:
        # A copy of what the kernel shows of the child: its output would have been masked.
        for argv in (["cp", "/proc/self/environ", "environ"], ["printf", "%s", f"key {key}"]):
            ran = sync.run(engine.execute({"id": "c1", "name": "command", "arguments": {"argv": argv}}))
            assert ran.status == "ok", ran
            sinks.add("tool result", ran.content)
            sinks.take(ran)
    sinks.add("child's environment", (workspace / "environ").read_bytes())


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("provider", MODELS)
@pytest.mark.parametrize("key", SHAPES)
def test_no_sink_has_the_key(server, closed_port, loop, keep, bare_environment, key, provider, outcome, monkeypatch):
    """Logs at DEBUG, output, answers, errors with chains and frames, pickles, files, environment are free of it."""
    monkeypatch.setenv("LITELLM_LOG", "DEBUG")
    config = settings(provider, server, closed_port, outcome)
    run = ask_blocking if outcome in {"cut", "401 echo"} else lambda *given: loop.run(ask(*given))
    before = len(server.keys)

    with watched() as sinks:
        result = converse(sinks, keep(config, key), bare_environment, key, run)

    assert sinks.hits(key) == []
    assert isinstance(result, CallError) == (outcome != "200"), result
    assert server.keys[before:] == ([] if outcome == "refused" else [key])
    assert {"file audit.jsonl", "file ledger.sqlite", "child's environment"} <= {sink for sink, _ in sinks.texts}


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(lambda key: Answer(), id="200"),
        pytest.param(lambda key: Status(401, f"bad key {key}", headers={"x-echo": key}), id="401 echo"),
        pytest.param(lambda key: ErrorObject(message=f"bad key {key}"), id="error in the stream"),
        pytest.param(lambda key: Cut(), id="cut"),
        pytest.param(lambda key: Reset(), id="reset"),
        pytest.param(lambda key: BadLine(line=f"{key} is no JSON"), id="bad line"),
    ],
)
@pytest.mark.parametrize("key", SHAPES)
def test_no_sink_of_a_stream_has_the_key(key, step, keep, bare_environment):
    """The same of streams, whose errors also come in-band."""
    with FaultServer(default=step(key)) as server, watched() as sinks:
        target = {"model": MODELS["openai"], "api_base": server.url}
        config = {"blueprint": {"providers": {"cloud": target}, "retry": {"max_attempts": 1}}}
        converse(sinks, keep(config, key), bare_environment, key, stream_blocking)

    assert sinks.hits(key) == []
    assert {request.headers["authorization"] for request in server.requests} == {f"Bearer {key}"}


@pytest.mark.parametrize("provider", MODELS)
def test_with_redaction_off_the_matrix_finds_the_key(server, closed_port, keep, bare_environment, provider):
    """The positive control: the same search finds the key in every sink that an unmasked run writes to."""
    key = "Zq7-control-of-" + provider + "-0815"
    with watched() as sinks, redaction_off():
        for outcome in ("401 echo", "200"):
            config = settings(provider, server, closed_port, outcome)
            converse(sinks, keep(config, key), bare_environment, key, ask_blocking)

    found = {sink for sink, _ in sinks.hits(key)}
    views = {"str", "repr", "format", "vars", "json", "pydantic", *(f"pickle{number}" for number in range(6))}
    assert views | {"chain", "traceback with locals", "file audit.jsonl", "tool result"} <= found
    assert ("hidden" in found) == (provider != "gemini")  # where LiteLLM keeps the headers of an answer


def test_with_redaction_off_the_other_sinks_are_seen_too(keep, bare_environment):
    """The positive control of the sinks that nothing of ours writes a key to: what is put there is found."""
    key, sinks = "Zq7-control-of-the-rest-0815", Sinks()
    with FaultServer(default=Answer(f"your key is {key}")) as server, redaction_off(), watched() as streams:
        target = {"model": MODELS["openai"], "api_base": server.url}
        manager = keep({"blueprint": {"providers": {"cloud": target}, "cache": {"enabled": True}}}, key)
        with SyncLLMClient(manager.config, credentials_manager=manager, session=key) as client:
            client.chat(messages=[{"role": "user", "content": SAID}])
            sinks.take_folder(bare_environment)
        use_tools(sinks, bare_environment, key, passed=["MY_MODEL"])
        logger_of("httpx").debug("a key in a log: %s", key)
        print(key, file=sys.stdout)
        print(key, file=sys.stderr)
    with patch.dict(os.environ, {"MY_MODEL": key}):
        sinks.take_environment()
    sinks.take(raised_in_our_code(key))

    found = {sink for each in (sinks, streams) for sink, _ in each.hits(key)}
    assert {"log", "stdout", "stderr", "environment", "child's environment", "locals"} <= found
    assert any(sink.startswith("file cache.db") for sink in found)
    assert any(sink.startswith("file ledger.sqlite") for sink in found)


def raised_in_our_code(key):
    """An error from a frame that looks like one of the package's and has the key in a local."""
    place = {"key": key}
    code = "def call(held):\n    raise ValueError\ntry:\n    call(key)\nexcept ValueError as error:\n    caught = error"
    exec(compile(code, str(Path(_litellm.__file__).with_name("planted.py")), "exec"), place)  # noqa: S102 - a control
    return place["caught"]


def inline(place, key, server):
    """A configuration, or a call's own keywords, in which the key stands as it is."""
    target = {"model": "openai/gpt-4o", "api_base": f"{server.root}/v1"}
    group = {"model_name": "gpt", "litellm_params": target}
    block = {"providers": {"cloud": {"model": "gpt"}}, "retry": {"max_attempts": 1}}
    config, call = {"model_list": [group], "blueprint": block}, {}
    match place:
        case "model_list":
            target["api_key"] = key
        case "providers":
            block["providers"]["cloud"]["api_key"] = key
        case "credential_list":
            target["litellm_credential_name"] = "shared"
            config["credential_list"] = [{"credential_name": "shared", "credential_values": {"api_key": key}}]
        case "header":
            target |= {"api_key": "none-at-all", "extra_headers": {"Authorization": f"Bearer {key}"}}
        case "call":
            call["api_key"] = key
        case "header of the call":
            call |= {"api_key": "none-at-all", "extra_headers": {"X-Api-Key": key}}
    return config, call


PLACES = ("model_list", "providers", "credential_list", "header", "call", "header of the call")


@pytest.mark.parametrize("outcome", ["401 echo", "500 echo"])
@pytest.mark.parametrize("place", PLACES)
def test_a_key_in_the_configuration_or_the_call_is_masked_too(server, bare_environment, litellm_warm, place, outcome):
    """A key need not come from a manager to stay out of errors, events, logs and files."""
    key, events = KEYS["plain32"], []
    server.outcome, before = outcome, len(server.keys)
    config, call = inline(place, key, server)

    with watched() as sinks:
        with SyncLLMClient(config, on_event=events.append) as client, pytest.raises(CallError) as caught:
            client.chat(messages=[{"role": "user", "content": SAID}], **call)
        caught.value.__traceback__ = caught.value.__traceback__.tb_next  # this very frame holds the key
        for left in (caught.value, caught.value.trace, *events, load_config(config)):
            sinks.take(left)
        sinks.take_folder(bare_environment)

    assert sinks.hits(key) == []
    assert key in server.keys[before:]


@pytest.mark.parametrize("streamed", [pytest.param(True, id="stream"), pytest.param(False, id="whole")])
def test_a_header_that_echoes_the_key_is_masked_in_litellms_objects(litellm_warm, streamed):
    """LiteLLM keeps the provider's headers in each answer and each chunk of a stream; neither shows the key."""
    key, sinks = KEYS["plain32"], Sinks()
    with FaultServer(default=Answer(headers={"x-echo": key})) as server:
        wire = {"model": "openai/gpt-4o", "api_base": server.url, "api_key": key, "stream": streamed}
        answer = completion(messages=[{"role": "user", "content": SAID}], **wire)
        for each in [answer, *(answer if streamed else ())]:
            sinks.add("hidden", f"{each._hidden_params!r} {getattr(each, '_response_headers', None)!r}")

    assert sinks.hits(key) == []
    assert "llm_provider-x-echo" in sinks.texts[-1][1]


@pytest.mark.slow
def test_litellms_own_debugging_shows_no_key(server):
    """With everything of LiteLLM's and the root logger's at DEBUG a process that dies of a 401 prints no key."""
    code = (
        "import asyncio, logging, sys\n"
        "from blueprint_llm.adapters import Call\n"
        "from blueprint_llm.adapters import litellm as _litellm\n"
        "from blueprint_llm.credentials import CredentialsManager\n"
        "logging.basicConfig(level=logging.DEBUG)\n"
        "_litellm.module()._turn_on_debug()\n"
        "manager = CredentialsManager(explicit={'openai': sys.stdin.readline().strip()}, environ={})\n"
        "credential = manager.get('openai', params={'api_base': sys.argv[1]})\n"
        "call = Call(provider='p', model='openai/gpt-4o', credential=credential,\n"
        "            messages=[{'role': 'user', 'content': 'x'}])\n"
        "asyncio.run(_litellm.complete(call))\n"
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
