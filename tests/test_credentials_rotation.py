"""Several keys of one provider, as a caller meets them: a key that is refused costs one request, not the answer."""

import json

import pytest
from asking import KINDS, asking

from blueprint_llm.credentials import CredentialsManager
from blueprint_llm.errors import CallError
from blueprint_llm.testing import Answer, FaultServer, Status

KEYS = ("rotating-key-number-0", "rotating-key-number-1")
MESSAGES = [{"role": "user", "content": "Hello"}]


@pytest.fixture(params=KINDS)
def kind(request):
    """Either client."""
    return request.param


@pytest.fixture
def file(tmp_path):
    """A credentials file with both keys."""
    path = tmp_path / "credentials.json"
    for number, key in enumerate(KEYS):
        CredentialsManager(file=path, environ={}).set("cloud", key, id=f"k{number}")
    return path


def refusing(answers):
    """A server that answers by the key it is shown."""
    return FaultServer(lambda request: answers.get(request.headers["authorization"].removeprefix("Bearer "), Answer()))


def configured(server, file):
    """One provider, whose keys are in the file."""
    target = {"model": "openai/gpt-4o", "api_base": server.url}
    block = {"providers": {"cloud": target}, "retry": {"max_attempts": 1}, "credentials": {"file": str(file)}}
    return {"blueprint": block}


def used(server):
    """The keys in the order in which the server saw them."""
    return [request.headers["authorization"].removeprefix("Bearer ") for request in server.requests]


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param(Status(401, f"bad key {KEYS[0]}"), id="refused"),
        pytest.param(Status(429, "slow down", headers={"retry-after": "30"}), id="throttled"),
    ],
)
def test_the_next_key_is_tried_at_once(kind, file, litellm_warm, trouble):
    """The answer comes under the second key, without a wait, and later calls begin with it."""
    with refusing({KEYS[0]: trouble}) as server, asking(kind, configured(server, file)) as ask:
        answers = [ask.chat(messages=MESSAGES), ask.chat(messages=MESSAGES)]

        assert used(server) == [KEYS[0], KEYS[1], KEYS[1]]
    assert [len(answer.metadata["trace"]["attempts"]) for answer in answers] == [2, 1]
    assert answers[0].metadata["trace"]["attempts"][1]["waited_s"] == 0.0


def test_when_no_key_is_taken_each_was_tried_once(kind, file, litellm_warm):
    """Two refusals are two requests and one error, which holds neither key."""
    answers = {key: Status(401, f"bad key {key}") for key in KEYS}
    with refusing(answers) as server, asking(kind, configured(server, file)) as ask:
        with pytest.raises(CallError) as caught:
            ask.chat(messages=MESSAGES)

        assert used(server) == [*KEYS]
    assert not any(key in repr(caught.value) + str(caught.value) for key in KEYS)


def test_a_fresh_key_in_the_file_is_used_by_the_next_call(kind, file, litellm_warm):
    """A client that is open sees the edit; nobody restarts anything."""
    with FaultServer(default=Answer()) as server, asking(kind, configured(server, file)) as ask:
        ask.chat(messages=MESSAGES)
        entry = {"api_key": "fresh-key-from-an-editor"}
        file.write_text(json.dumps({"version": 1, "providers": {"cloud": entry}}))
        ask.chat(messages=MESSAGES)

        assert used(server) == [KEYS[0], "fresh-key-from-an-editor"]
