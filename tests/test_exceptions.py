"""What leaves the provider boundary: a CallError that says who, where and what to do, and nothing of the request."""

import pickle  # noqa: TID251 - what process pools do to errors

import httpx
import pytest

from blueprint_llm.adapters.contract import Call
from blueprint_llm.adapters.exceptions import call_error
from blueprint_llm.credentials import Credential
from blueprint_llm.errors import AnswerInvalidError, CallError, ChainExhaustedError, ToolCallInvalidError
from blueprint_llm.secret import Secret

KEY = "sk-canary-0123456789abcdef0123456789abcdef"


class BadRequestError(Exception):
    """As LiteLLM's: a status and a message."""

    status_code = 400


class AuthenticationError(Exception):
    """As LiteLLM's."""

    status_code = 401


class InternalServerError(Exception):
    """As LiteLLM's, for anything."""

    status_code = 500


class ClientConnectorError(Exception):
    """As aiohttp's."""

    host, port = "models.test", 443


def call_with(source="env", key_id="OPENAI_API_KEY", *, api_key=KEY, base_url=None, **more):
    """A call with a credential."""
    secret = Secret(api_key) if api_key else None
    credential = Credential(api_key=secret, id=key_id, source=source, provider="cloud", base_url=base_url)
    return Call(provider="cloud", model="gpt-4o", messages=[], credential=credential, **more)


def raised(error, cause=None):
    """The exception with its cause, as if it had been raised."""
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("message", ["unexpected EOF", "bad request", '{"error": "boom"}'])
@pytest.mark.parametrize("kind", [BadRequestError, InternalServerError, TypeError])
def test_trouble_in_a_stream_that_has_begun_is_a_break(kind, message):
    """Once a stream has brought something its request was sound: what comes then is never `invalid_request`."""
    begun = call_error(kind(message), call_with(), in_stream=True, begun=True)

    assert (begun.category, begun.row.retry_same, begun.elsewhere) == ("stream_broken", True, False)
    assert begun.code == "error_object" or kind is TypeError


def test_before_a_stream_has_begun_a_bad_request_is_one():
    """Some providers' requests are only sent when the stream is read."""
    assert call_error(BadRequestError("bad temperature"), call_with(), in_stream=True).category == "invalid_request"


@pytest.mark.parametrize(
    ("message", "category"),
    [
        pytest.param("insufficient_quota", "refused", id="no money"),
        pytest.param("Output blocked by content filtering policy", "content_policy", id="filtered"),
        pytest.param("prompt is too long: 9 tokens", "context_length", id="too long"),
        pytest.param("Failed to call a function.", "malformed", id="no call came out"),
    ],
)
def test_a_begun_stream_keeps_what_the_provider_says(message, category):
    """What a provider names stays what it is, in mid-stream too."""
    assert call_error(BadRequestError(message), call_with(), in_stream=True, begun=True).category == category


@pytest.mark.parametrize(
    ("call", "words"),
    [
        pytest.param(call_with(), "the environment variable OPENAI_API_KEY", id="environment"),
        pytest.param(call_with("keychain", "cloud#1"), "the keychain (cloud#1)", id="keychain"),
        pytest.param(call_with("file", "cloud#1"), "the credentials file (cloud#1)", id="file"),
        pytest.param(call_with("config", ""), "the configuration (cloud)", id="configuration"),
        pytest.param(call_with("command", "pass show"), "the configured command (pass show)", id="command"),
        pytest.param(call_with("explicit", ""), "the call itself", id="the call"),
        pytest.param(call_with("none", "", api_key=None), "no key of ours was sent", id="none"),
        pytest.param(Call(provider="cloud", model="m", messages=[]), "no key of ours was sent", id="LiteLLM's own"),
    ],
)
@pytest.mark.parametrize("error", [AuthenticationError("no"), BadRequestError("API key expired. Please renew it.")])
def test_a_refused_key_is_named_with_its_source(call, words, error):
    """A 401, and what means the same, says which key from which source, and what to run; never the key."""
    found = call_error(error, call)

    assert found.category == "refused"
    assert words in str(found)
    assert "blueprint-llm keys set cloud" in str(found)
    assert found.key == (call.credential.reference if call.credential else None)
    assert KEY not in repr(vars(found)) + str(found)


def test_money_is_not_a_matter_of_the_key():
    """An account without credit is not told to change its key."""
    assert "keys set" not in str(call_error(BadRequestError("Your credit balance is too low"), call_with()))


@pytest.mark.parametrize(
    ("error", "call", "address"),
    [
        pytest.param(
            raised(
                InternalServerError("Connection error."),
                httpx.ConnectError(
                    "refused", request=httpx.Request("POST", f"http://u:{KEY}@127.0.0.1:9/v1?key={KEY}")
                ),
            ),
            call_with(),
            "http://127.0.0.1:9",
            id="httpx's request",
        ),
        pytest.param(
            raised(InternalServerError("Connection error."), raised(ClientConnectorError("no"))),
            call_with(),
            "models.test:443",
            id="aiohttp's host and port",
        ),
        pytest.param(
            raised(InternalServerError("Connection error."), ConnectionRefusedError("no")),
            call_with(base_url="http://[::1]:11434/v1"),
            "http://[::1]:11434",
            id="the configured address",
        ),
        pytest.param(
            raised(InternalServerError("Connection error."), ConnectionRefusedError("no")),
            call_with(params={"api_base": "https://proxy.test/v1"}),
            "https://proxy.test",
            id="the call's own address",
        ),
    ],
)
def test_trouble_with_the_network_names_the_address(error, call, address):
    """Where a connection went is said: scheme, host and port, no user, path or query."""
    found = call_error(error, call)

    assert found.address == address
    assert f"cannot reach {address}" in str(found)
    assert KEY not in str(found) + repr(vars(found))


def test_a_provider_that_answers_has_no_address():
    """An HTTP error is the provider's, and said with its status."""
    found = call_error(BadRequestError("bad temperature"), call_with(base_url="http://127.0.0.1:9"))

    assert (found.address, "HTTP 400" in str(found)) == (None, True)


def test_waits_reach_the_error():
    """The wait in a body stands where that of a header would."""
    assert call_error(BadRequestError("Please try again in 1.5s."), call_with()).retry_after_s == 1.5


def test_the_end_of_a_chain_says_all():
    """Every attempt, then what else there is to know; it survives a process pool."""
    attempts = [CallError("cloud: no", category="rate_limited", status=429), AnswerInvalidError("local: bad", code="x")]
    error = pickle.loads(pickle.dumps(ChainExhaustedError(attempts, notes=["passed over opus: circuit open"])))  # noqa: S301 - our own bytes

    assert str(error).splitlines() == [
        "all 2 attempts failed:",
        "  1. cloud: no",
        "  2. local: bad",
        "passed over opus: circuit open",
    ]
    assert (error.category, error.attempts[1].code) == ("rate_limited", "x")


def test_calls_and_answers_are_told_apart():
    """A wrong call and a wrong answer are both malformed, and caught apart."""
    assert AnswerInvalidError("no").category == ToolCallInvalidError("no").category == "malformed"
    assert not isinstance(AnswerInvalidError("no"), ToolCallInvalidError)


def test_a_body_that_is_no_object_is_told():
    """Where LiteLLM's message has only the status, what the provider sent says the rest."""
    error = BadRequestError("litellm.BadRequestError: OpenAIException - Error code: 400")
    error.response = httpx.Response(400, text="no such voice", request=httpx.Request("POST", "http://models.test"))

    assert "Error code: 400 - no such voice" in str(call_error(error, call_with()))
