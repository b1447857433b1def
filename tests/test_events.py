"""Events: one for each attempt and each call, to the log and to the caller's hook; a hook never costs an answer."""

import contextlib
import json
import time

import litellm
import pytest
from asking import KINDS, asking
from driving import KEY

from blueprint_llm import Event, SyncLLMClient
from blueprint_llm.compat.guarding import Guarding
from blueprint_llm.engine.guarded import PolicyGuard
from blueprint_llm.engine.runtime import Runtime
from blueprint_llm.errors import BlueprintError
from blueprint_llm.testing import Answer, FaultServer, ScriptedAdapter, Status

MESSAGES = [{"role": "user", "content": "hello there"}]


def configured(**blueprint):
    """Two providers, one attempt each."""
    providers = {name: {"model": "openai/gpt-4o", "api_key": KEY} for name in ("p0", "p1")}
    return {"blueprint": {"providers": providers, "retry": {"max_attempts": 1}, **blueprint}}


@pytest.mark.parametrize("kind", KINDS)
def test_each_attempt_and_the_call_are_told(kind):
    """A fallback is three events in order, bound by the trace's id, with times, tokens and cost."""
    events = []
    adapters = {"p0": ScriptedAdapter([Status(503)]), "p1": ScriptedAdapter([Answer("Saved.", usage=(12, 9))])}
    with asking(kind, configured(), adapters=adapters, on_event=events.append) as ask:
        response = ask.chat(messages=MESSAGES)

    assert [event.name for event in events] == ["attempt.failed", "attempt.succeeded", "call.answered"]
    assert {event.facts["trace_id"] for event in events} == {response.trace["id"]}
    failed, succeeded, answered = (event.facts for event in events)
    assert (failed["provider"], failed["category"], failed["status"]) == ("p0", "unavailable", 503)
    assert (succeeded["provider"], succeeded["prompt_tokens"], succeeded["completion_tokens"]) == ("p1", 12, 9)
    assert succeeded["cost_usd"] == response.usage.estimated_cost
    assert 0 <= failed["at_s"] <= succeeded["at_s"] <= answered["duration_s"]
    assert all(isinstance(event, Event) for event in events)
    with pytest.raises(AttributeError):
        events[0].name = "changed"


def test_a_left_stream_is_abandoned():
    """A caller who leaves a stream is told apart from a failure."""
    events = []
    adapters = {"p0": ScriptedAdapter([Answer("one two three")])}
    with SyncLLMClient(configured(), adapters=adapters, on_event=events.append) as client:
        for _ in client.stream(messages=MESSAGES):
            break

    assert [event.name for event in events] == ["attempt.abandoned", "call.abandoned"]


def test_a_long_stream_stays_reserved():
    """What is streamed for longer than a reservation lives is not taken for a call whose process crashed."""
    config = configured(store={"url": "memory", "reservation_ttl_s": 0.3})
    with SyncLLMClient(config, adapters={"p0": ScriptedAdapter([Answer("one two three")])}) as client:
        chunks = client.stream(messages=MESSAGES)
        next(chunks)
        time.sleep(0.7)
        meanwhile = client.get_usage()
        list(chunks)
        settled = client.get_usage()

    assert (meanwhile.calls, settled.calls, settled.errors) == (0, 1, 0)


@pytest.mark.parametrize("status", [None, 503])
def test_a_call_of_litellms_form_is_told_like_a_clients(status):
    """An attempt is told with the same facts, whichever way it was made."""
    said, told = Answer("Saved.", usage=(12, 9)) if status is None else Status(status), []
    with FaultServer(lambda _: said) as server:
        wire = {"model": "openai/gpt-4o", "api_base": server.url, "api_key": KEY}
        config = {"blueprint": {"providers": {"p0": wire}, "retry": {"max_attempts": 1}}}
        with SyncLLMClient(config, on_event=told.append) as client, contextlib.suppress(BlueprintError):
            client.chat(messages=MESSAGES)
        guard = PolicyGuard(Runtime(config, on_event=told.append))
        calling = Guarding(lambda _: guard).around("completion", litellm.completion)
        with contextlib.suppress(litellm.ServiceUnavailableError):
            calling(messages=MESSAGES, max_retries=0, **wire)

    inside, _, outside = told
    assert inside.name == outside.name == ("attempt.succeeded" if status is None else "attempt.failed")
    names = [name for name in inside.facts if name not in {"trace_id", "at_s", "duration_s", "ttft_s"}]
    assert {name: inside.facts[name] for name in names} == {name: outside.facts[name] for name in names}


def test_the_log_has_a_line_for_each(capsys):
    """With a `logging` block each event is a line of JSON on stderr, at its level, without texts."""
    config = configured(logging={"format": "json", "level": "info"})
    adapters = {"p0": ScriptedAdapter([Status(503)]), "p1": ScriptedAdapter([Answer("Saved.")])}
    with SyncLLMClient(config, adapters=adapters) as client:
        client.chat(messages=MESSAGES)

    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["event"], line["level"]) for line in lines] == [
        ("attempt.failed", "warning"),
        ("attempt.succeeded", "info"),
        ("call.answered", "info"),
    ]
    assert "hello there" not in json.dumps(lines)


def test_a_quiet_level_drops_what_is_less_grave(capsys):
    """With level error an attempt that failed and was recovered is no line."""
    config = configured(logging={"format": "json", "level": "error"})
    adapters = {"p0": ScriptedAdapter([Status(503)]), "p1": ScriptedAdapter([Answer("Saved.")])}
    with SyncLLMClient(config, adapters=adapters) as client:
        client.chat(messages=MESSAGES)

    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("kind", KINDS)
def test_a_hook_that_raises_costs_nothing(kind, capsys):
    """What a hook raises is logged by its class; the answer arrives and the next event is told."""
    heard = []

    def hook(event):
        heard.append(event.name)
        raise KeyError("sk-hidden")

    with asking(kind, configured(), adapters={"p0": ScriptedAdapter([Answer("Hello.")])}, on_event=hook) as ask:
        assert ask.chat(messages=MESSAGES).content == "Hello."

    told = capsys.readouterr().err
    assert heard == ["attempt.succeeded", "call.answered"]
    assert "hook.failed" in told
    assert "KeyError" in told
    assert "sk-hidden" not in told


def test_a_store_in_trouble_reaches_the_log(capsys):
    """What the store says is logged like everything else, not a Python warning beside the log."""
    config = configured(logging={"format": "json"}, store={"url": "redis://127.0.0.1:9/0", "on_failure": "memory"})
    with SyncLLMClient(config, adapters={"p0": ScriptedAdapter([Answer("Hello.")])}) as client:
        client.chat(messages=MESSAGES)

    assert "store.degraded" in capsys.readouterr().err


def test_nobody_is_no_audience():
    """Without a hook and a log no event is made."""
    with SyncLLMClient(configured(), adapters={"p0": ScriptedAdapter([Status(400)])}) as client:
        assert not client._runtime.audience
        with pytest.raises(BlueprintError):
            client.chat(messages=MESSAGES, fallback=False)
