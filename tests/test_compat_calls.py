"""The drop-in functions beside LiteLLM's on one server: the same requests, objects, chunks and exceptions."""

import inspect

import litellm
import pytest
from compat_calling import call, keywords_of, read
from compat_cases import CASES, STATUSES, TABLE
from driving import KEY

import blueprint_llm
from blueprint_llm.testing import Answer, FaultServer, Status

# LiteLLM makes a session per key and forgets to close those whose call failed.
pytestmark = [
    pytest.mark.usefixtures("litellm_warm", "collected"),
    pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning"),
]
VOLATILE = ("id", "created")
FORMS = [
    pytest.param(stream, kind, id=f"{kind} {'stream' if stream else 'whole'}")
    for kind in ("sync", "async")
    for stream in (False, True)
]


def ask(library, kind, **keywords):
    """What a library's function gives: the answer, or the stream and its chunks."""
    if keywords.get("stream"):
        return read(kind, None, through=library, **keywords)
    return call(kind, None, through=library, **keywords), []


def failure_of(library, kind, **keywords):
    """What a library's function raises, before its stream or in it."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - any: it is compared
        ask(library, kind, **keywords)
    return caught.value


def facts(answer):
    """What is compared of an answer or a chunk."""
    return type(answer), {name: value for name, value in answer.model_dump().items() if name not in VOLATILE}


def asked_for(request):
    """What is compared of a request: the usage of streams is always asked for."""
    return {name: value for name, value in request.body.items() if name != "stream_options"}


def key_of(request):
    """The key that came with a request."""
    return request.headers.get("x-api-key") or request.headers["authorization"].removeprefix("Bearer ")


@pytest.mark.parametrize(("stream", "kind"), FORMS)
@pytest.mark.parametrize(("keywords", "step"), TABLE)
def test_a_call_comes_out_as_from_litellm(keywords, step, stream, kind):
    """Request, answer and sequence of chunks are LiteLLM's."""
    with FaultServer([step, step]) as server:
        asked = keywords_of(server, max_retries=0, **keywords, **({"stream": True} if stream else {}))
        theirs, their_chunks = ask(litellm, kind, **asked)
        ours, our_chunks = ask(blueprint_llm, kind, **asked)

    assert list(map(facts, our_chunks)) == list(map(facts, their_chunks))
    assert stream or facts(ours) == facts(theirs)
    assert asked_for(server.requests[1]) == asked_for(server.requests[0])
    assert key_of(server.requests[1]) == key_of(server.requests[0]) == KEY


@pytest.mark.parametrize(("stream", "kind"), FORMS)
@pytest.mark.parametrize("status", STATUSES)
def test_a_status_is_litellms_exception(status, stream, kind):
    """Each HTTP status raises the class that LiteLLM raises, with the same facts."""
    with FaultServer(default=Status(status, "no", headers={"retry-after": "7", "x-request-id": "r1"})) as server:
        asked = keywords_of(server, max_retries=0, stream=stream)
        theirs, ours = failure_of(litellm, kind, **asked), failure_of(blueprint_llm, kind, **asked)

    assert type(ours) is type(theirs)
    for name in ("status_code", "llm_provider", "model", "message", "body", "code", "type"):
        assert getattr(ours, name, None) == getattr(theirs, name, None), name
    assert str(ours) == str(theirs)
    assert ours.response.status_code == theirs.response.status_code if hasattr(theirs, "response") else True


TIMING = {"_response_ms", "litellm_overhead_time_ms", "callback_duration_ms"}


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("priced", [{}, {"input_cost_per_token": 0.001, "output_cost_per_token": 0.002}])
def test_the_facts_beside_an_answer_are_litellms(kind, priced):
    """Hidden parameters hold what LiteLLM's do, the cost among them, though LiteLLM did not count it."""
    wire = {"model": "openai/gpt-4o", "messages": [{"role": "user", "content": "hi"}], "api_key": KEY, **priced}
    with FaultServer(default=Answer("Hello.")) as server:
        theirs, ours = (
            call(kind, None, through=library, api_base=server.url, **wire)._hidden_params
            for library in (litellm, blueprint_llm)
        )

    assert ours.keys() - {"blueprint"} == theirs.keys()
    assert ours["response_cost"] == pytest.approx(theirs["response_cost"])
    assert theirs["response_cost"] > 0
    different = {name for name in theirs if ours[name] != theirs[name]}
    assert different <= {"litellm_call_id", "response_cost", "headers", "additional_headers", *TIMING}


def test_there_are_enough_calls():
    """The table covers at least 60 calls, whole and streamed."""
    assert 2 * len(CASES) + len(STATUSES) >= 60


@pytest.mark.parametrize("name", ["completion", "acompletion"])
def test_a_signature_is_litellms(name):
    """Every parameter of LiteLLM's is one of ours, in the same order, and any other keyword is taken."""
    theirs, ours = (inspect.signature(getattr(library, name)).parameters for library in (litellm, blueprint_llm))

    assert list(ours) == list(theirs)
    assert [each.kind for each in ours.values()] == [each.kind for each in theirs.values()]
