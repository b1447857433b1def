"""The guarded functions beside LiteLLM's on one server: the same requests, objects, chunks, facts and exceptions."""

import litellm
import pytest
from compat_calling import call, keywords_of, read
from compat_cases import CASES, STATUSES, TABLE
from driving import KEY
from guarding import CountingGuard

from blueprint_llm import litellm as guarded
from blueprint_llm.compat import guarding as guards
from blueprint_llm.testing import FaultServer, Status

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


@pytest.fixture(autouse=True)
def guard(monkeypatch):
    """The guard that the functions share."""
    counting = CountingGuard()
    monkeypatch.setattr(guards, "build", lambda config: counting)
    guards.forget()
    return counting


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


TIMING = {"_response_ms", "litellm_overhead_time_ms", "callback_duration_ms", "created_at", "headers"}
BY_CHANCE = {"received_model_id", "litellm_call_id"}


def beside(answer):
    """What is compared of the facts beside an answer, a stream or a chunk."""
    hidden = {name: value for name, value in answer._hidden_params.items() if name not in TIMING | BY_CHANCE}
    hidden["additional_headers"] = {
        name: value for name, value in (hidden.get("additional_headers") or {}).items() if not name.endswith("-date")
    }
    return {name: value.model_dump() if hasattr(value, "model_dump") else value for name, value in hidden.items()}


def asked_for(request):
    """What is compared of a request: the usage of streams is always asked for."""
    return {name: value for name, value in request.body.items() if name != "stream_options"}


def key_of(request):
    """The key that came with a request."""
    return request.headers.get("x-api-key") or request.headers["authorization"].removeprefix("Bearer ")


@pytest.mark.parametrize(("stream", "kind"), FORMS)
@pytest.mark.parametrize(("keywords", "step"), TABLE)
def test_a_call_comes_out_as_from_litellm(keywords, step, stream, kind, guard):
    """Request, answer, sequence of chunks and the facts beside them are LiteLLM's."""
    with FaultServer([step, step]) as server:
        asked = keywords_of(server, max_retries=0, **keywords, **({"stream": True} if stream else {}))
        theirs, their_chunks = ask(litellm, kind, **asked)
        ours, our_chunks = ask(guarded, kind, **asked)

    assert list(map(facts, our_chunks)) == list(map(facts, their_chunks))
    assert [beside(chunk) for chunk in our_chunks] == [beside(chunk) for chunk in their_chunks]
    assert stream or facts(ours) == facts(theirs)
    assert beside(ours) == beside(theirs)
    assert isinstance(ours, type(theirs))
    assert asked_for(server.requests[1]) == asked_for(server.requests[0])
    assert key_of(server.requests[1]) == key_of(server.requests[0]) == KEY
    assert guard.endings == ["ok"]


@pytest.mark.parametrize(("stream", "kind"), FORMS)
@pytest.mark.parametrize("status", STATUSES)
def test_a_status_is_litellms_exception(status, stream, kind):
    """Each HTTP status raises the class that LiteLLM raises, with the same facts."""
    with FaultServer(default=Status(status, "no", headers={"retry-after": "7", "x-request-id": "r1"})) as server:
        asked = keywords_of(server, max_retries=0, stream=stream)
        theirs, ours = failure_of(litellm, kind, **asked), failure_of(guarded, kind, **asked)

    assert type(ours) is type(theirs)
    for name in ("status_code", "llm_provider", "model", "message", "body", "code", "type"):
        assert getattr(ours, name, None) == getattr(theirs, name, None), name
    assert str(ours) == str(theirs)
    assert ours.response.status_code == theirs.response.status_code if hasattr(theirs, "response") else True


def test_there_are_enough_calls():
    """The tables cover at least 200 calls, whole and streamed, of either function."""
    assert len(FORMS) * (len(CASES) + len(STATUSES)) >= 200
