"""The drop-in functions beside LiteLLM's on one server: the same requests, objects, chunks and exceptions."""

import asyncio
import inspect
import json

import litellm
import pytest
from compat_cases import CASES, HI, STATUSES, TABLE
from driving import KEY, closing_clients

import blueprint_llm
from blueprint_llm.compat import functions
from blueprint_llm.testing import Answer, Cut, FaultServer, Status

VOLATILE = ("id", "created")
FORMS = [
    pytest.param(stream, kind, id=f"{kind} {'stream' if stream else 'whole'}")
    for kind in ("sync", "async")
    for stream in (False, True)
]


@pytest.fixture(autouse=True)
def fresh_functions(litellm_warm):
    """The functions find their configuration anew in each test."""
    functions.forget()
    yield
    functions.forget()


def ask(library, kind, **keywords):
    """What a library's function gives: the answer, or the stream and its chunks."""
    if kind == "sync":
        answer = library.completion(**keywords)
        return (answer, list(answer)) if keywords.get("stream") else (answer, [])

    async def run():
        answer = await library.acompletion(**keywords)
        return (answer, [chunk async for chunk in answer]) if keywords.get("stream") else (answer, [])

    return asyncio.run(closing_clients(run()))


def failure_of(library, kind, **keywords):
    """What a library's function raises, before its stream or in it."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - any: it is compared
        ask(library, kind, **keywords)
    return caught.value


def wire(server, **keywords):
    """Keywords of a call to a server, without retries."""
    return {
        "model": "openai/gpt-4o",
        "messages": HI,
        "api_base": server.url,
        "api_key": KEY,
        "max_retries": 0,
        **keywords,
    }


def facts(answer):
    """What is compared of an answer or a chunk."""
    return type(answer), {name: value for name, value in answer.model_dump().items() if name not in VOLATILE}


def asked_for(request):
    """What is compared of a request: the usage of streams is always asked for."""
    return {name: value for name, value in request.body.items() if name != "stream_options"}


@pytest.mark.parametrize(("stream", "kind"), FORMS)
@pytest.mark.parametrize(("keywords", "step"), TABLE)
def test_a_call_comes_out_as_from_litellm(keywords, step, stream, kind):
    """Request, answer and sequence of chunks are LiteLLM's."""
    with FaultServer([step, step]) as server:
        asked = wire(server, **keywords, **({"stream": True} if stream else {}))
        theirs, their_chunks = ask(litellm, kind, **asked)
        ours, our_chunks = ask(blueprint_llm, kind, **asked)

    assert list(map(facts, our_chunks)) == list(map(facts, their_chunks))
    assert stream or facts(ours) == facts(theirs)
    assert asked_for(server.requests[1]) == asked_for(server.requests[0])
    assert server.requests[1].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(("stream", "kind"), FORMS)
@pytest.mark.parametrize("status", STATUSES)
def test_a_status_is_litellms_exception(status, stream, kind):
    """Each HTTP status raises the class that LiteLLM raises, with the same facts."""
    with FaultServer(default=Status(status, "no", headers={"retry-after": "7", "x-request-id": "r1"})) as server:
        asked = wire(server, stream=stream)
        theirs, ours = failure_of(litellm, kind, **asked), failure_of(blueprint_llm, kind, **asked)

    assert type(ours) is type(theirs)
    for name in ("status_code", "llm_provider", "model", "message", "body", "code", "type"):
        assert getattr(ours, name, None) == getattr(theirs, name, None), name
    assert str(ours) == str(theirs)
    assert ours.response.status_code == theirs.response.status_code if hasattr(theirs, "response") else True


def test_there_are_enough_calls():
    """The table covers at least 60 calls, whole and streamed."""
    assert 2 * len(CASES) + len(STATUSES) >= 60


@pytest.mark.parametrize("name", ["completion", "acompletion"])
def test_a_signature_is_litellms(name):
    """Every parameter of LiteLLM's is one of ours, in the same order, and any other keyword is taken."""
    theirs, ours = (inspect.signature(getattr(library, name)).parameters for library in (litellm, blueprint_llm))

    assert list(ours) == list(theirs)
    assert [each.kind for each in ours.values()] == [each.kind for each in theirs.values()]
    assert json.dumps(list(ours))
