"""`client.run` against a real server: what is handed out while it works, and what a failure leaves behind."""

import asyncio
import contextlib
import json
import os
import time
from pathlib import Path

import pytest
from asking import KINDS, asking
from driving import MESSAGES, closing_clients, configuration
from fixtures_embedded import install_weights, smollm2_weights

from blueprint_llm import LLMClient, SyncLLMClient
from blueprint_llm.adapters.local import embedded
from blueprint_llm.errors import ApprovalPending, BlueprintError, ToolCallInvalidError
from blueprint_llm.testing import Answer, FaultServer, Stall, Status, ToolUse


def add(left: int, right: int) -> int:
    """Add two numbers."""
    return left + right


def settings(url, tmp_path, rules=({"allow": "add"},)):
    """A provider, and tools that may add."""
    patient = {"total_s": 60, "first_token_s": 30, "idle_s": 2}
    return configuration(url, deadline=patient, tools={"workspace": str(tmp_path), "rules": list(rules)})


CALL = Answer("Let me add.", tool_calls=(ToolUse("add", {"left": 2, "right": 3}),))


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_hands_out_its_text_as_it_comes(kind, tmp_path, litellm_warm):
    """`on_chunk` gets the text of every turn and the complete calls, in order; the result stays the same."""
    heard = []
    with FaultServer([CALL, Answer("It is 5.")]) as server, asking(kind, settings(server.url, tmp_path)) as client:
        result = client.run(messages=MESSAGES, tools=[add], on_chunk=heard.append)

    ends = [number for number, chunk in enumerate(heard) if chunk.is_done]
    turns = [heard[: ends[0] + 1], heard[ends[0] + 1 :]]
    assert ["".join(chunk.delta for chunk in turn) for turn in turns] == ["Let me add.", "It is 5."]
    assert [call.name for chunk in heard for call in chunk.tool_calls] == ["add"]
    assert len(turns[0]) > 2
    assert (result.content, result.tool_results[0].content, result.stop) == ("It is 5.", "5", "done")
    assert [request.body.get("stream") for request in server.requests] == [True, True]


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_listener_a_run_does_not_stream(kind, tmp_path, litellm_warm):
    """Whole answers are asked for."""
    with FaultServer([Answer("Done.")]) as server, asking(kind, settings(server.url, tmp_path)) as client:
        result = client.run(messages=MESSAGES)

    assert (result.content, server.requests[0].body.get("stream", False)) == ("Done.", False)


@pytest.mark.parametrize("kind", KINDS)
def test_a_break_in_a_run_is_told_in_band(kind, tmp_path, litellm_warm):
    """A stream that breaks starts again, and the run goes on as if it had not."""
    heard = []
    script = [Stall(2, answer=Answer("This will break here")), Answer("A whole answer")]
    with FaultServer(script) as server, asking(kind, settings(server.url, tmp_path)) as client:
        result = client.run(messages=MESSAGES, on_chunk=heard.append)

    restart = next(number for number, chunk in enumerate(heard) if chunk.restart)
    assert "".join(chunk.delta for chunk in heard[:restart]).startswith("This")
    assert "".join(chunk.delta for chunk in heard[restart:]) == result.content == "A whole answer"


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_waits_streams_on_when_it_is_resumed(kind, tmp_path, litellm_warm):
    """`resume` takes the same listener."""
    heard = []
    script = [CALL, Answer("It is 5.")]
    with FaultServer(script) as server, asking(kind, settings(server.url, tmp_path, rules=())) as client:
        with pytest.raises(ApprovalPending) as waiting:
            client.run(messages=MESSAGES, tools=[add])
        result = client.resume(waiting.value.state_id, [True], on_chunk=heard.append)

    assert "".join(chunk.delta for chunk in heard) == result.content == "It is 5."


@pytest.mark.parametrize("kind", KINDS)
def test_a_listener_that_fails_ends_the_run_and_its_upstream(kind, tmp_path, litellm_warm):
    """Its exception reaches the caller, the connection is closed, and what was spent is in the ledger."""

    def refuse(chunk):
        raise RuntimeError(chunk.delta)

    slow = Answer(" ".join(f"word{n}" for n in range(200)), pace_s=0.02)
    with FaultServer([slow]) as server, asking(kind, settings(server.url, tmp_path)) as client:
        with pytest.raises(RuntimeError, match="word0") as caught:  # kept: it keeps the frames of the call alive
            client.run(messages=MESSAGES, on_chunk=refuse)
        usage = client.client.get_usage()
        deadline = time.monotonic() + 10
        while server.requests[0].closed_early_at is None and time.monotonic() < deadline:
            time.sleep(0.01)

        assert server.requests[0].closed_early_at is not None
    assert (usage.calls, str(caught.value)[:5]) == (1, "word0")


def test_a_listener_may_be_a_coroutine_function(tmp_path, litellm_warm):
    """The async client awaits it before it reads on."""
    heard = []

    async def listen(chunk):
        heard.append(chunk.delta)

    with FaultServer([Answer("All of it")]) as server, asking("async", settings(server.url, tmp_path)) as client:
        client.run(messages=MESSAGES, on_chunk=listen)

    assert "".join(heard) == "All of it"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("call", "told"),
    [
        pytest.param(ToolUse("subtract", {"left": 2}), "subtract", id="an unknown tool"),
        pytest.param(ToolUse("add", {"left": "two", "right": 3}), "left", id="wrong arguments"),
    ],
)
@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])
def test_a_wrong_call_is_answered_to_the_model(streamed, call, told, kind, tmp_path, litellm_warm):
    """What the validator refuses is told to the model as that call's result, and the run goes on."""
    wrong = Answer("", tool_calls=(call,))
    listener = {"on_chunk": lambda chunk: None} if streamed else {}
    with (
        FaultServer([wrong, wrong, CALL, Answer("It is 5.")]) as server,
        asking(kind, settings(server.url, tmp_path)) as client,
    ):
        result = client.run(messages=MESSAGES, tools=[add], **listener)

    assert (result.content, result.stop) == ("It is 5.", "done")
    assert [item.status for item in result.tool_results] == ["error", "ok"]
    answers = [message for message in server.requests[-1].body["messages"] if message["role"] == "tool"]
    assert told in answers[0]["content"]


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_calls_end_a_run_at_last(kind, tmp_path, litellm_warm):
    """A model that never mends its call ends the run with the error, which carries everything so far."""
    wrong = Answer("", tool_calls=(ToolUse("subtract", {}),))
    with FaultServer([CALL, *[wrong] * 20]) as server:
        block = settings(server.url, tmp_path)
        block["blueprint"]["tools"]["loop"] = {"max_denials": 2}
        with asking(kind, block) as client, pytest.raises(ToolCallInvalidError) as caught:
            client.run(messages=MESSAGES, tools=[add])

    run = caught.value.run
    assert (run.stop, [item.status for item in run.tool_results]) == ("error", ["ok", "error", "error"])
    assert run.state_id


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_in_mid_run_carries_the_run_and_can_be_resumed(kind, tmp_path, litellm_warm):
    """What was done is not done again: the run goes on from where the provider failed."""
    with (
        FaultServer([CALL, Status(400), Answer("It is 5.")]) as server,
        asking(kind, settings(server.url, tmp_path)) as client,
    ):
        with pytest.raises(BlueprintError) as caught:
            client.run(messages=MESSAGES, tools=[add])
        run = caught.value.run
        result = client.resume(run.state_id, {})

    assert (run.stop, [message.role for message in run.messages]) == ("error", ["user", "assistant", "tool"])
    assert (result.content, [item.content for item in result.tool_results]) == ("It is 5.", ["5"])
    assert "add" not in repr(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_the_assistants_message_goes_back_as_it_came(kind, tmp_path, litellm_warm):
    """What the provider sent in the message, unknown keys and null content too, is in the history unchanged."""
    script = [Answer("", tool_calls=CALL.tool_calls), Answer("It is 5.")]
    with FaultServer(script) as server, asking(kind, settings(server.url, tmp_path)) as client:
        result = client.run(messages=MESSAGES, tools=[add])

    sent = server.requests[-1].body["messages"][-2]
    kept = result.messages[1].to_dict()
    assert kept["content"] is None
    assert json.loads(sent["tool_calls"][0]["function"]["arguments"]) == {"left": 2, "right": 3}
    assert kept["tool_calls"] == sent["tool_calls"]


LATE = f"touch began; sleep 4.0{os.getpid()}; touch late"


def test_a_cancelled_run_ends_its_command(tmp_path, litellm_warm):
    """`asyncio.wait_for` around `client.run`: what its command would have done afterwards never happens."""
    wait = Answer("", tool_calls=(ToolUse("command", {"argv": ["sh", "-c", LATE]}),))
    rules = [{"allow": "command", "effects": "write"}]

    async def cancelled(config):
        client = LLMClient(config)
        run = asyncio.create_task(client.run(messages=MESSAGES))
        while not (tmp_path / "began").exists():  # noqa: ASYNC110 - another process makes it
            await asyncio.sleep(0.01)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(run, 0.01)
        family = family_of(LATE)
        await closing_clients(client.aclose())
        return family

    with FaultServer([wait, Answer("never asked for")]) as server:
        family = asyncio.run(cancelled(settings(server.url, tmp_path, rules)))

    assert family == []
    assert not (tmp_path / "late").exists()
    assert len(server.requests) == 1


def family_of(mark):
    """The processes that have the mark on their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found += [path] if mark.encode() in path.read_bytes() else []
    return found


@pytest.fixture(scope="module")
def weights():
    """The real weights."""
    return smollm2_weights()


@pytest.mark.slow
def test_the_embedded_model_runs_tools(weights, tmp_path):
    """The real model's call is judged, run and fed back, until the limit of turns ends it."""
    install_weights(weights)
    words = []

    def note(word: str) -> str:
        """Note a word."""
        words.append(word)
        return "noted"

    block = {
        "version": 1,
        "providers": {"local": {"model": "embedded/smollm2"}},
        "chains": {"default": ["local"]},
        "tools": {"workspace": str(tmp_path), "rules": [{"allow": "note"}], "loop": {"max_turns": 2}},
    }
    with SyncLLMClient.from_config({"blueprint": block}) as client:
        asked = [{"role": "user", "content": "Note the word sun."}]
        result = client.run(messages=asked, tools=[note], tool_choice="required", max_tokens=80, seed=3)
    embedded.close_all()

    assert (result.stop, [item.status for item in result.tool_results]) == ("max_turns", ["ok", "ok"])
    assert [item.content for item in result.tool_results] == ["noted", "noted"]
    assert len(words) == 2
    assert [message.role for message in result.messages] == ["user", "assistant", "tool", "assistant", "tool"]
