"""The same calls through LiteLLM's Router and through ours: same answers, exceptions and requests."""

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml
from driving import closing_clients
from guarding import CountingGuard

from blueprint_llm import Router
from blueprint_llm.testing import Answer, FaultServer, Status

FOLDER = Path(__file__).parent / "router_cases"
sys.path.insert(0, str(FOLDER))

from cases import CASES, arguments_of, listed, outcomes  # noqa: E402 - a folder of scripts, no package

pytestmark = pytest.mark.filterwarnings("ignore:Router.* is deprecated:DeprecationWarning")
CORPUS = Path(__file__).parents[2] / "shared" / "corpora" / "litellm_configs"
# Chance decides which deployment is asked, or how often: the sets are the same.
BY_CHANCE = {"least busy", "usage", "latency", "equal shuffle", "latency prefers the fast one"}
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
            timeout=400,
        )
        said = json.loads(done.stdout.splitlines()[-1])
        return {name: (*said[name], asked(server, name)) for name in CASES}


@pytest.fixture(scope="module")
def ours_says(litellm_warm):
    """What ours made of every case, and what it asked; its guard."""
    guard = CountingGuard()
    with FaultServer(Upstream()) as server:

        async def run():
            routers = {name: Router(**arguments_of(name, server.url), blueprint=guard) for name in CASES}
            found = await closing_clients(asyncio.gather(*(outcomes(router, name) for name, router in routers.items())))
            lists = (listed(router, name) for name, router in routers.items())
            return dict(zip(CASES, zip(found, lists, strict=True), strict=True))

        said = asyncio.run(run())
        return {name: (*said[name], asked(server, name)) for name in CASES}, guard


@pytest.mark.parametrize("name", CASES)
def test_router_answers_and_asks_like_litellms(name, litellm_says, ours_says):
    """Every case gives the same texts and exception classes, after the same requests to the same deployments."""
    texts, _, requests = litellm_says[name]
    our_texts, _, our_requests = ours_says[0][name]

    if name in BY_CHANCE:
        assert {body["model"] for body in our_requests} == {body["model"] for body in requests}
        assert set(our_texts) == set(texts)
    else:
        assert our_texts == texts
        assert our_requests == requests


@pytest.mark.parametrize("name", CASES)
def test_router_lists_like_litellms(name, litellm_says, ours_says):
    """Names, deployments behind a name and their number are those of LiteLLM's Router."""
    assert ours_says[0][name][1] == litellm_says[name][1]


def test_every_request_was_an_attempt_of_the_guard(ours_says):
    """The guard saw each attempt that reached the server, and each ended."""
    said, guard = ours_says

    assert len(guard.booked) >= sum(len(requests) for _, _, requests in said.values())
    assert "open" not in guard.endings


def sections():
    """The Router's part of each of LiteLLM's documented configurations."""
    for path in sorted(CORPUS.glob("*.yaml")):
        if "huggingface/" in path.read_text():  # LiteLLM asks huggingface.co what such a model is
            continue
        document = yaml.safe_load(path.read_text())
        document = document if isinstance(document, dict) else {}
        settings = document.get("router_settings") or {}
        yield pytest.param({"model_list": document.get("model_list"), **settings}, id=path.stem)


def made(kind, arguments):
    """What comes of making a Router: its face, or LiteLLM's refusal in its words."""
    try:
        router = kind(**arguments)
    except Exception as error:  # noqa: BLE001 - any refusal is compared
        return type(error), str(error)
    try:
        entries = [(each["model_name"], each["litellm_params"]["model"]) for each in router.get_model_list() or []]
        return entries, router.get_settings(), sorted(router.get_model_names())
    finally:
        router.discard()


@pytest.mark.slow
@pytest.mark.skipif(not CORPUS.is_dir(), reason="the corpus of LiteLLM's configurations is not on this machine")
@pytest.mark.parametrize("arguments", list(sections()))
def test_a_configuration_is_taken_or_declined_as_litellm_does(arguments, litellm_warm):
    """What LiteLLM's Router takes, ours takes, with the same groups and settings; what it declines, in its words."""
    theirs = made(litellm_warm.Router, arguments)
    ours = made(lambda **given: Router(**given, blueprint=CountingGuard()), arguments)

    assert ours == theirs


def test_every_public_name_of_litellms_router_is_there(litellm_warm):
    """Methods, endpoints and attributes: all that `dir` shows of LiteLLM's, ours has."""
    theirs, ours = litellm_warm.Router(model_list=[]), Router(model_list=[], blueprint=CountingGuard())
    names = {name for name in dir(theirs) if not name.startswith("_")}

    assert len(names) > 137
    assert [name for name in sorted(names) if hasattr(theirs, name) != hasattr(ours, name)] == []
