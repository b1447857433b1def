"""Stored whole or streamed, asked whole or streamed: the cache loses nothing of what LiteLLM made of an answer."""

import pytest
from asking import asking
from driving import KEY
from provider_answers import ANSWERS, MODELS

from blueprint_llm.testing import FaultServer

MESSAGES = [{"role": "user", "content": "What sat on the mat?"}]
CASES = [(name, case) for name, cases in ANSWERS.items() for case in cases if case != "legacy call"]  # no tools of ours


@pytest.fixture
def client(request, litellm_warm):
    """A client of a server that repeats one recording, the parameters to ask with, and the server."""
    name, case = request.param
    params, recorded = ANSWERS[name][case]
    model, path = MODELS[name]
    model = model.replace("deepseek-reasoner", "deepseek-chat")  # which takes tools
    with FaultServer(default=recorded) as server:
        provider = {"model": model, "api_key": KEY, "api_base": server.url.removesuffix("/v1") + path}
        block = {"providers": {"p0": provider}, "cache": {"enabled": True, "nondeterministic": True}}
        with asking("sync", {"blueprint": {**block, "streaming": {"validate_tools": False}}}) as ask:
            yield ask, {"messages": MESSAGES, **params}, server


def as_json(said):
    """LiteLLM's object, or one that is JSON already."""
    return said if isinstance(said, dict) else said.model_dump(mode="json", warnings=False)


def told(response):
    """All that an answer says, down to LiteLLM's last field; what differs between calls aside."""
    whole = as_json(response.raw)
    usage = response.usage.model_dump(exclude={"estimated_cost"})
    said = (response.content, response.reasoning, response.message, response.tool_calls, response.finish_reason)
    return whole, usage, said


@pytest.mark.parametrize("client", CASES, indirect=True, ids=": ".join)
@pytest.mark.parametrize("stored", ["whole", "streamed"])
def test_a_hit_says_what_the_answer_said(client, stored):
    """Whole and as a stream, down to fields that do not exist yet; a stream comes chunk by chunk as it came."""
    ask, request, server = client
    if stored == "streamed" and "n" in request:
        pytest.skip("LiteLLM drops the second choice's finish_reason: nothing proves its end, so it is not kept")
    if stored == "whole":
        first, chunks = ask.chat(**request), []
    else:
        chunks, first = ask.stream(**request)

    whole = ask.chat(**request)
    again, streamed = ask.stream(**request)

    assert sum(each.path != "/api/show" for each in server.requests) == 1  # Ollama is asked what it can do
    assert (whole.metadata["cached"], streamed.metadata["cached"]) == (True, True)
    assert told(whole) == told(first)
    assert told(streamed) == told(first)
    assert "".join(chunk.delta for chunk in again) == first.content
    assert "".join(chunk.reasoning for chunk in again) == (first.reasoning or "")
    if stored == "streamed":
        assert [as_json(each.raw) for each in again if each.raw] == [as_json(each.raw) for each in chunks if each.raw]
