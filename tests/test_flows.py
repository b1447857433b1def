"""The flows of everyday use, written as a user would: a chat, a stream that breaks, a plan, and a real small model."""

import asyncio
import json
import os
import pty
import select
import subprocess
import sys
import threading
import time

import pytest
from driving import KEY, closing_clients
from fixtures_embedded import install_weights, smollm2_weights

from blueprint_llm import LLMClient, Plan, SyncLLMClient
from blueprint_llm.adapters.local import embedded
from blueprint_llm.errors import InvalidRequestError
from blueprint_llm.testing import Answer, Cut, FaultServer

HALF = Answer("Local models answer fast, but this one breaks off in the middle.")
WHOLE = "The cloud answers from the beginning."
HELLO = [{"role": "user", "content": "Say hello to the cat."}]
EMBEDDED = {
    "blueprint": {
        "providers": {"cloud": {"model": "openai/gpt-4o"}, "local": {"model": "embedded/smollm2"}},
        "chains": {"default": ["cloud", "local"]},
    }
}
PLAN = {
    "overview": "Sign users in.",
    "estimated_complexity": "low",
    "steps": [
        {
            "id": f"S{n}",
            "title": title,
            "description": f"Build {title}.",
            "covers": [f"R{n}"],
            "depends_on": [f"S{n - 1}"] if n > 1 else [],
            "acceptance": ["it works"],
        }
        for n, title in enumerate(("tokens", "roles", "tests"), 1)
    ],
}


@pytest.fixture(scope="module")
def weights_file():
    """The real weights."""
    return smollm2_weights()


@pytest.fixture
def weights(weights_file, litellm_warm):
    """The real weights in this test's home; the model is freed behind it."""
    yield install_weights(weights_file)
    embedded.close_all()


def yaml_of(tmp_path, config):
    """A configuration as a file; JSON is YAML."""
    file = tmp_path / "blueprint.yaml"
    file.write_text(json.dumps(config))
    return str(file)


def seed(cloud_url, local=None):
    """The configuration of the flows: the cloud behind one address, and a local provider where there is one."""
    cloud = {"model": "openai/gpt-4o", "api_base": cloud_url, "api_key": KEY}
    providers = {**({"local": local} if local else {}), "cloud": {"model": "gpt-4o"}}
    block = {"providers": providers, "chains": {"default": list(providers)}, "retry": {"max_attempts": 1}}
    return {"model_list": [{"model_name": "gpt-4o", "litellm_params": cloud}], "blueprint": block}


async def test_chat_with_a_model_and_a_provider(tmp_path, litellm_warm):
    """`model=` and `provider="cloud"` ask the cloud for that model, and the answer says so."""
    with FaultServer([Answer("Hello from the cloud.")]) as cloud:

        async def flow():
            async with LLMClient.from_config(yaml_of(tmp_path, seed(cloud.url))) as client:
                return await client.chat(messages=HELLO, model="gpt-4o", provider="cloud")

        response = await closing_clients(flow())

    assert response.content == "Hello from the cloud."
    assert (response.provider, response.model) == ("cloud", "openai/gpt-4o")
    assert response.usage.total_tokens == 21
    cloud.assert_done()


async def test_stream_goes_on_while_the_caller_changes_the_chain(tmp_path, litellm_warm):
    """A local stream breaks: the caller sees the error, sets the chain, and the stream goes on from the cloud."""
    with FaultServer([Cut(4, answer=HALF)]) as local, FaultServer([Answer(WHOLE), Answer("Later.")]) as cloud:

        async def flow():
            provider = {"model": "openai/local", "api_base": local.url, "api_key": KEY}
            async with LLMClient.from_config(yaml_of(tmp_path, seed(cloud.url, provider))) as client:
                text, errors = "", []
                async for chunk in client.stream(messages=HELLO, provider="local"):
                    if chunk.error:
                        errors.append(chunk.error)
                        client.set_fallback_chain(["cloud"])
                        text = ""
                    text += chunk.delta
                later = await client.chat(messages=HELLO)
                return text, errors, later

        text, errors, later = await closing_clients(flow())

    assert text == WHOLE
    assert [error.category for error in errors] == ["stream_broken"]
    assert (later.content, later.provider) == ("Later.", "cloud")
    local.assert_done()
    cloud.assert_done()


async def test_planning_mode_returns_a_plan(tmp_path, litellm_warm):
    """`planning_mode` turns a goal and requirements into a validated plan that covers each of them."""
    with FaultServer(default=Answer(json.dumps(PLAN))) as cloud:

        async def flow():
            async with LLMClient.from_config(yaml_of(tmp_path, seed(cloud.url))) as client:
                return await client.planning_mode(goal="Add authentication", requirements=["JWT", "RBAC", "tests"])

        plan = await closing_clients(flow())

    assert isinstance(plan, Plan)
    assert [step.covers for step in plan.steps] == [["R1"], ["R2"], ["R3"]]
    assert [step.depends_on for step in plan.steps] == [[], ["S1"], ["S2"]]
    assert plan.metadata["cost_usd"]["low"] <= plan.metadata["cost_usd"]["high"]
    assert "## S1. tokens" in plan.to_markdown()


def test_planning_mode_is_the_same_when_it_blocks(tmp_path, litellm_warm):
    """The blocking client plans with the same one line, from a mapping too."""
    asked = {"goal": "Add authentication", "requirements": ["JWT", "RBAC", "tests"]}
    with (
        FaultServer(default=Answer(json.dumps(PLAN))) as cloud,
        SyncLLMClient.from_config(yaml_of(tmp_path, seed(cloud.url))) as client,
    ):
        plan = client.planning_mode(asked)
        same = client.planning_mode(asked["goal"], requirements=asked["requirements"])

    assert len(plan.steps) == 3
    assert same.hash == plan.hash


@pytest.mark.parametrize("context", [None, "", 5, {"goal": " "}, {"requirements": ["x"]}], ids=repr)
def test_plan_without_a_goal_is_refused(tmp_path, context):
    """What is no goal is one clear error, before anything is sent."""
    with (
        FaultServer() as cloud,
        SyncLLMClient.from_config(yaml_of(tmp_path, seed(cloud.url))) as client,
        pytest.raises(InvalidRequestError, match="goal"),
    ):
        client.planning_mode(context)

    cloud.assert_done()


@pytest.mark.slow
def test_real_model_plans(tmp_path, weights):
    """The embedded model itself writes a plan that is valid by construction."""
    with SyncLLMClient.from_config(yaml_of(tmp_path, EMBEDDED)) as client:
        plan = client.planning_mode(goal="Add a login page", requirements=["a form"])

    assert isinstance(plan, Plan)
    assert plan.steps
    assert {name for step in plan.steps for name in step.covers} == {"R1"}


def check_real_answer(deltas, response):
    """A real answer came in pieces, from the local provider, after the cloud was skipped for want of a key."""
    assert len([delta for delta in deltas if delta]) > 3
    assert "".join(deltas) == response.content
    assert (response.provider, response.model) == ("local", "embedded/smollm2")
    assert response.finish_reason in {"stop", "length"}
    assert response.usage.source == "provider"
    assert response.usage.completion_tokens > 3
    first = response.trace["route"]["considered"][0]
    assert (first["provider"], first["verdict"]) == ("cloud", "skipped")
    assert "OPENAI_API_KEY" in first["reason"]


def test_real_answer_streams_blocking(tmp_path, weights):
    """SmolLM2 streams through `SyncLLMClient`, and leaves no thread behind."""
    with SyncLLMClient.from_config(yaml_of(tmp_path, EMBEDDED)) as client:
        stream = client.stream(messages=HELLO, max_tokens=24)
        deltas = [chunk.delta for chunk in stream]

    check_real_answer(deltas, stream.response)
    embedded.close_all()
    assert not [thread for thread in threading.enumerate() if thread.name == "blueprint-embedded"]


async def test_real_answer_streams_async(tmp_path, weights):
    """SmolLM2 streams through `LLMClient`."""

    async def flow():
        async with LLMClient.from_config(yaml_of(tmp_path, EMBEDDED)) as client:
            stream = client.stream(messages=HELLO, max_tokens=24)
            return [chunk.delta async for chunk in stream], stream.response

    check_real_answer(*await closing_clients(flow()))


@pytest.mark.slow
def test_real_answers_at_the_same_time(tmp_path, weights):
    """Three tasks share the embedded model, each with its own answer."""

    async def flow():
        async with LLMClient.from_config(yaml_of(tmp_path, EMBEDDED)) as client:
            calls = (client.chat(messages=HELLO, max_tokens=8) for _ in range(3))
            return await asyncio.gather(*calls)

    answers = asyncio.run(closing_clients(flow()))

    assert all(answer.content and answer.provider == "local" for answer in answers)


def chat_command(tmp_path, *words):
    """The command line of a chat with the embedded model."""
    return [
        *(sys.executable, "-c", "from blueprint_llm.cli import main; main()"),
        *("chat", "--config", yaml_of(tmp_path, EMBEDDED)),
        *("--max-tokens", "16", *words),
    ]


@pytest.mark.slow
def test_real_answer_in_a_pipe(tmp_path, weights):
    """Piped, the command writes the answer and nothing else to standard output."""
    done = subprocess.run(
        chat_command(tmp_path, "Say hello."), input="", capture_output=True, text=True, timeout=120, check=False
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "\x1b" not in done.stdout
    assert "served by" not in done.stdout


def read_terminal(master, child, limit_s=120.0):
    """What a child wrote to its terminal, with the time of each piece."""
    pieces, end = [], time.monotonic() + limit_s
    while time.monotonic() < end:
        ready, _, _ = select.select([master], [], [], 0.1)
        if ready:
            try:
                piece = os.read(master, 4096)
            except OSError:  # Linux's way to say that the child has closed its terminal
                break
            pieces.append((time.monotonic(), piece.decode()))
        elif child.poll() is not None:
            break
    return pieces


@pytest.mark.slow
def test_real_answer_on_a_terminal(tmp_path, weights):
    """On a terminal the answer comes in pieces, and a summary says who was skipped and who served it."""
    master, slave = pty.openpty()
    try:
        child = subprocess.Popen(
            chat_command(tmp_path, "Say hello."), stdin=slave, stdout=slave, stderr=slave, close_fds=True
        )
        os.close(slave)
        pieces = read_terminal(master, child)
        code = child.wait(timeout=30)
    finally:
        os.close(master)

    text = "".join(piece for _, piece in pieces)
    assert code == 0, text
    assert len(pieces) > 3
    assert "skipped cloud (openai/gpt-4o)" in text
    assert "served by local (embedded/smollm2)" in text
