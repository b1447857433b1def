"""The same calls through LiteLLM's Router and through ours: same answers, exceptions and requests."""

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from driving import closing_clients

from blueprint_llm import Router
from blueprint_llm.testing import Answer, FaultServer, Status

FOLDER = Path(__file__).parent / "router_cases"
sys.path.insert(0, str(FOLDER))

from cases import CASES, arguments_of, listed, outcomes  # noqa: E402 - a folder of scripts, no package

# Where ours asks in another order, or fewer times, on purpose: only the set of deployments is the same.
SAME_SET = {"least busy", "usage", "latency", "equal shuffle", "latency prefers the fast one", "all fail"}
CONTEXT = Status(400, "This model's maximum context length is 10 tokens.", error_code="context_length_exceeded")
POLICY = Status(400, "Your request was rejected: content_policy_violation", error_code="content_policy_violation")


class Upstream:
    """Answers as the model's name says, and remembers what it was asked."""

    def __init__(self):
        self._flaky = Counter()

    def __call__(self, request):
        """The step for a request."""
        model = request.body["model"]
        if model.startswith("e"):
            return Status(int(model[1:4]), headers={"retry-after-ms": "1"})
        if model == "flaky":
            self._flaky[request.path] += 1
            return Status(503) if self._flaky[request.path] == 1 else Answer("recovered")
        special = {"context": CONTEXT, "policy": POLICY}
        delay_s = 0.15 if model.startswith("slow") else 0.0
        return special.get(model) or Answer(f"from {model}", delay_s=delay_s)


def asked(server, name):
    """The models and what was asked of them, case by case."""
    mine = [request.body for request in server.requests if f"/{name.replace(' ', '-')}/" in request.path]
    left_out = {"max_retries", "stream_options"}
    return [{key: value for key, value in sorted(body.items()) if key not in left_out} for body in mine]


@pytest.fixture(scope="module")
def litellm_says():
    """What LiteLLM's Router made of every case, and what it asked the deployments."""
    with FaultServer(Upstream()) as server:
        done = subprocess.run(
            [sys.executable, FOLDER / "peer.py"],
            input=server.url,
            env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
            capture_output=True,
            text=True,
            check=True,
            timeout=180,
        )
        said = json.loads(done.stdout.splitlines()[-1])
        return {name: (*said[name], asked(server, name)) for name in CASES}


@pytest.fixture(scope="module")
def upstream():
    """The server that ours asks."""
    with FaultServer(Upstream()) as server:
        yield server


async def through_ours(name, url):
    """Our outcomes of a case."""
    async with Router(**arguments_of(name, url)) as router:
        return await closing_clients(outcomes(router, name))


@pytest.mark.parametrize("name", CASES)
def test_router_answers_and_asks_like_litellms(name, litellm_says, upstream):
    """Every case gives the same texts and exception classes, after the same requests to the same deployments."""
    texts, _, requests = litellm_says[name]

    ours = asyncio.run(through_ours(name, upstream.url))

    asked_ours = asked(upstream, name)
    if name in SAME_SET:
        assert {body["model"] for body in asked_ours} == {body["model"] for body in requests}
        assert set(ours) == set(texts)
    else:
        assert ours == texts
        assert asked_ours == requests


@pytest.mark.parametrize("name", CASES)
def test_router_lists_like_litellms(name, litellm_says, upstream):
    """Names, deployments behind a name and their number are those of LiteLLM's Router."""
    router = Router(**arguments_of(name, upstream.url))

    assert listed(router, name) == litellm_says[name][1]
