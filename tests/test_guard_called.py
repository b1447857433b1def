"""Tool calls of OpenAI's responses and Anthropic's messages: judged like a chat's, whole, streamed, by every way in."""

import asyncio
import json
from contextlib import nullcontext

import litellm
import pytest
from driving import KEY, closing_clients
from endpoint_server import WHOLE, Endpoints, calling, calling_events
from serving import serving

import blueprint_llm
from blueprint_llm import Router, errors
from blueprint_llm import litellm as guarded
from blueprint_llm.compat import guarding as guards
from blueprint_llm.engine.called import EventReader, answer_in_chat_terms
from blueprint_llm.engine.guarded import PolicyGuard
from blueprint_llm.engine.runtime import Runtime

pytestmark = [
    pytest.mark.usefixtures("litellm_warm", "collected"),
    pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning"),
]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
HI = [{"role": "user", "content": "hi"}]
GOOD = ("get_weather", '{"city": "Paris"}')
BAD = {
    "not its schema": ("get_weather", '{"town": "Paris"}'),
    "no such tool": ("get_wether", '{"city": "Paris"}'),
    "no JSON": ("get_weather", '{"city": Paris}'),
}
ASKED = {
    "responses": {
        "model": "openai/gpt-4o",
        "input": "hi",
        "tools": [{"type": "function", "name": "get_weather", "parameters": SCHEMA}],
    },
    "messages": {
        "model": "anthropic/claude-sonnet-4-5",
        "messages": HI,
        "max_tokens": 50,
        "tools": [{"name": "get_weather", "input_schema": SCHEMA}],
    },
}


@pytest.fixture
def guard(monkeypatch):
    """The guard of every way in."""
    made = PolicyGuard(Runtime({"blueprint": {"project": "acme", "store": {"url": "memory"}}}))
    monkeypatch.setattr(guards, "build", lambda config: made)
    guards.forget()
    return made


def function_of(endpoint, way, url, guard):
    """How an endpoint is called by one way in, and what it is called with."""
    name = {"responses": "aresponses", "messages": "anthropic_messages"}[endpoint]
    asked = ASKED[endpoint]
    place = {"api_key": KEY, "api_base": url.removesuffix("/v1") if endpoint == "messages" else url}
    if way == "router":
        params = {"model": asked["model"], **place}
        router = Router([{"model_name": "g", "litellm_params": params}], num_retries=0, blueprint=guard)
        return getattr(router, name.replace("anthropic", "aanthropic")), {**asked, "model": "g"}
    return getattr(litellm if way == "installed" else guarded, name), {**asked, **place}


def heard(endpoint, way, guard, call, *, stream, cut=lambda found: found):
    """What came of a call: its events or its answer, and the error that ended it."""
    seen, error = [], None
    in_place = blueprint_llm.install(guard) if way == "installed" else nullcontext()
    with serving(Endpoints) as (server, url), in_place:
        server.call, server.cut = call, cut
        function, asked = function_of(endpoint, way, url, guard)

        async def run():
            answer = await function(**asked, **({"stream": True} if stream else {}))
            if not stream:
                seen.append(answer)
                return
            async for event in answer:
                seen.append(event)  # noqa: PERF401 - what came before an error is looked at

        try:
            asyncio.run(closing_clients(run()))
        except Exception as raised:  # noqa: BLE001 - of ours or of LiteLLM's: it is looked at
            error = raised
    return seen, error


def said_in(seen):
    """Everything that was handed on, as one text."""
    return "".join(each.decode() if isinstance(each, bytes) else str(each) for each in seen)


CASES = [
    pytest.param(endpoint, way, stream, id=f"{endpoint}-{way}-{'stream' if stream else 'whole'}")
    for endpoint in ASKED
    for way in ("module", "installed", "router")
    for stream in (False, True)
]


@pytest.fixture(autouse=True)
def _streams(request):
    """LiteLLM itself streams Anthropic's messages only where its proxy is installed."""
    params = getattr(getattr(request.node, "callspec", None), "params", {})
    if params.get("endpoint") == "messages" and params.get("stream"):
        pytest.importorskip("backoff", reason="LiteLLM streams messages only where its proxy is installed")


@pytest.mark.parametrize(("endpoint", "way", "stream"), CASES)
def test_a_valid_call_comes_through(endpoint, way, stream, guard):
    """The answer is LiteLLM's, complete and in order."""
    seen, error = heard(endpoint, way, guard, GOOD, stream=stream)

    assert error is None
    assert "get_weather" in said_in(seen)
    assert "Paris" in said_in(seen)


@pytest.mark.parametrize(("endpoint", "way", "stream"), CASES)
@pytest.mark.parametrize("bad", BAD)
def test_an_invalid_call_never_comes_out(endpoint, way, stream, bad, guard):
    """It is an error of both classes; in a stream what came before has been shown, of the call not a piece."""
    if endpoint == "messages" and not stream and bad == "no JSON":
        pytest.skip("a whole message has its arguments parsed")

    seen, error = heard(endpoint, way, guard, BAD[bad], stream=stream)

    assert isinstance(error, errors.ToolCallInvalidError)
    assert "Paris" not in said_in(seen)
    if endpoint == "responses":  # messages come in pieces of bytes: here one has it all
        assert ("hi" in said_in(seen)) == stream


@pytest.mark.parametrize(("endpoint", "stream"), [("responses", True), ("messages", True)])
def test_a_call_without_an_end_never_comes_out(endpoint, stream, guard):
    """A stream that stops in the middle of a call proves nothing."""
    seen, error = heard(endpoint, "module", guard, GOOD, stream=stream, cut=lambda found: found[:-3])

    assert error is not None
    assert "Paris" not in said_in(seen)


@pytest.mark.parametrize("endpoint", ASKED)
def test_events_and_a_whole_answer_are_the_same_call(endpoint):
    """Read piece by piece or at once, a call has one name, one id, and the same arguments."""
    reader = EventReader()
    pieces = [
        call
        for event in calling_events(endpoint, *GOOD)
        for chunk in reader.add(event)
        for call in chunk["choices"][0]["delta"].get("tool_calls", ())
    ]
    (call,) = answer_in_chat_terms(calling(endpoint, *GOOD))["choices"][0]["message"]["tool_calls"]

    joined = "".join(piece["function"]["arguments"] for piece in pieces)
    given = call["function"]["arguments"]
    assert json.loads(joined) == (given if isinstance(given, dict) else json.loads(given))
    assert (pieces[0]["id"], pieces[0]["function"]["name"]) == (call["id"], call["function"]["name"])
    assert (reader.has_calls, reader.is_over) == (True, True)


def test_an_answer_without_calls_is_left_alone():
    """Text, searches and reasoning are no calls of the caller's."""
    assert answer_in_chat_terms(WHOLE["responses"]) is None
    assert answer_in_chat_terms({"output": [{"type": "web_search_call", "id": "w"}]}) is None
    assert EventReader().add({"type": "response.output_text.delta", "delta": "x"}) == []
