"""Broken streams and cut calls as a user meets them: a real model, the command line, the page's validator."""

import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from driving import configuration
from fixtures_embedded import install_weights, smollm2_weights

from blueprint_llm import SyncLLMClient
from blueprint_llm.cli import main
from blueprint_llm.errors import ToolCallInvalidError
from blueprint_llm.testing import Answer, FaultServer, Stall, ToolUse

ESSAY = {
    "type": "function",
    "function": {
        "name": "write_essay",
        "parameters": {
            "type": "object",
            "properties": {"text": {"type": "string", "minLength": 400}},
            "required": ["text"],
        },
    },
}
ASK = {
    "messages": [{"role": "user", "content": "Write a long essay about rivers."}],
    "tools": [ESSAY],
    "tool_choice": "required",
    "temperature": 0,
    "max_tokens": 20,
}


@pytest.fixture(scope="session")
def weights():
    """The real weights, fetched once."""
    return smollm2_weights()


@pytest.mark.slow
@pytest.mark.parametrize("streamed", [pytest.param(True, id="stream"), pytest.param(False, id="whole")])
def test_a_real_call_cut_by_its_limit_is_caught(weights, litellm_warm, streamed):
    """A real model that is cut in the middle of a tool call gives an error, never a call; a higher cap is tried."""
    install_weights(weights)
    block = {"version": 1, "providers": {"local": {"model": "embedded/smollm2"}}, "retry": {"max_attempts": 2}}
    with (
        SyncLLMClient({"blueprint": {**block, "streaming": {"reask": 0}}}) as client,
        pytest.raises(ToolCallInvalidError) as caught,
    ):
        list(client.stream(**ASK)) if streamed else client.chat(**ASK)

    assert [error.code for error in caught.value.attempts] == ["truncated_length"] * 2
    assert [row["category"] for row in caught.value.trace["attempts"]] == ["malformed"] * 2


def test_chat_shows_a_restart(tmp_path, litellm_warm):
    """On the command line a broken stream is announced on stderr, and stdout ends with the whole answer."""
    broken = Stall(3, answer=Answer("one two three four five six"))
    with FaultServer(default=broken) as bad, FaultServer(default=Answer("A whole answer")) as good:
        path = tmp_path / "blueprint.yaml"
        path.write_text(yaml.safe_dump(configuration(bad.url, good.url, retry={"max_attempts": 1})))

        ran = CliRunner().invoke(main, ["chat", "--config", str(path), "hello"])

    assert ran.exit_code == 0
    assert ran.stdout.endswith("A whole answer\n")
    assert "starts the answer again" in ran.stderr


@pytest.mark.parametrize("reason", ["abort", "error", "insufficient_system_resource", "network_error", "model_length"])
@pytest.mark.parametrize("streamed", [pytest.param(True, id="stream"), pytest.param(False, id="whole")])
def test_an_answer_that_its_server_gave_up_is_no_answer(litellm_warm, streamed, reason):
    """Where LiteLLM writes "stop" for a server's sign of trouble, a whole call is not executed and the walk goes on."""
    call = ToolUse("write_essay", {"text": "x" * 400})
    given_up = Answer("", tool_calls=(call,), finish_reason=reason)
    with FaultServer(default=given_up) as bad, FaultServer(default=Answer()) as good:
        config = configuration(bad.url, good.url, retry={"max_attempts": 1}, streaming={"reask": 0})
        with SyncLLMClient(config) as client:
            request = {"messages": ASK["messages"], "tools": [ESSAY]}
            chunks = list(client.stream(**request)) if streamed else []
            answer = None if streamed else client.chat(**request)

    calls = [call for chunk in chunks for call in chunk.tool_calls] if streamed else answer.tool_calls
    assert not calls
    assert (len(bad.requests), len(good.requests)) == (1, 1)


def test_the_validator_example_catches_a_broken_call(capsys, litellm_warm, monkeypatch):
    """The lines on the page about streams stop a plain LiteLLM stream at the first wrong character."""
    page = (Path(__file__).parents[1] / "docs" / "streams.md").read_text("utf-8")
    example = next(block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "import litellm" in block)
    answer = Answer("", tool_calls=(ToolUse("get_weather", '{"city": 7, "more": "text that nobody needs any more"}'),))
    tools = [
        {
            "type": "function",
            "function": {
                "name": "get_weather",
                "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
            },
        }
    ]
    with FaultServer(default=answer) as server:
        monkeypatch.setenv("OPENAI_API_BASE", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789")

        exec(compile(example, "streams.md", "exec"), {"tools": tools, "messages": ASK["messages"]})  # noqa: S102 - our page

    assert "schema_type" in capsys.readouterr().out
