"""README tells the truth: its examples run, its commands exist, its configuration loads."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from driving import MESSAGES, configuration

from blueprint_llm import SyncLLMClient, load_config
from blueprint_llm.cli import COMMANDS
from blueprint_llm.errors import QuotaExceededError
from blueprint_llm.testing import Answer, FaultServer, Stall, ToolUse

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language):
    """The fenced blocks of a language, in order."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def example(mark):
    """The Python example that holds `mark`."""
    return next(block for block in blocks("python") if mark in block)


def test_every_python_example_compiles():
    """No example has a syntax error."""
    for block in blocks("python"):
        compile(block, "README.md", "exec")

    assert len(blocks("python")) >= 4


def test_the_configuration_loads():
    """The YAML example is a valid configuration."""
    config = load_config(yaml.safe_load(blocks("yaml")[0]))

    assert list(config.providers) == ["cloud", "local"]


def test_the_first_example_streams(tmp_path):
    """The first example, as a program of its own, prints the answer of the configured provider."""
    with FaultServer(default=Answer("Hello from the example")) as server:
        (tmp_path / "blueprint.yaml").write_text(yaml.safe_dump(configuration(server.url)))
        program = [sys.executable, "-c", example("async def main")]

        ran = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True)

    assert ran.stdout == "Hello from the example"


def test_the_stream_example_heals(capsys, litellm_warm):
    """The example goes on after a break, says so in-band, and sets the chain for later calls."""
    broken = Stall(2, answer=Answer("This will break in the middle"))
    with FaultServer(default=broken) as bad, FaultServer(default=Answer("A whole answer")) as good:
        config = configuration(bad.url, good.url)["blueprint"]
        config["providers"] = {"local": config["providers"]["p0"], "cloud": config["providers"]["p1"]}
        config["chains"] = {"default": ["local", "cloud"]}
        with SyncLLMClient({"blueprint": config}) as client:
            names = {"client": client, "messages": MESSAGES}
            exec(compile(example("set_fallback_chain"), "README.md", "exec"), names)  # noqa: S102 - as above

            assert [row.provider for row in client.explain(messages=MESSAGES).considered] == ["cloud"]

    assert capsys.readouterr().out.endswith("A whole answer")


def test_the_explain_example_runs(capsys, litellm_warm):
    """The example prints a verdict for each target and the attempts of an answer."""
    with FaultServer(default=Answer("x y z")) as server, SyncLLMClient(configuration(server.url)) as client:
        names = {"client": client, "messages": MESSAGES, "response": client.chat(messages=MESSAGES)}

        exec(compile(example("client.explain"), "README.md", "exec"), names)  # noqa: S102 - as above

    assert "chosen p0" in capsys.readouterr().out


def test_the_limits_example_stops(capsys, litellm_warm):
    """The example makes two calls and is told about the quota at the third."""
    with FaultServer(default=Answer("x")) as server:
        providers = configuration(server.url)["blueprint"]["providers"]
        names = {"SyncLLMClient": SyncLLMClient, "QuotaExceededError": QuotaExceededError, "messages": MESSAGES}

        exec(compile(example("QuotaExceededError"), "README.md", "exec"), names | {"providers": providers})  # noqa: S102

        assert len(server.requests) == 2
    assert capsys.readouterr().out.startswith("project 2 2\n2 ")


def test_the_cache_example_hits(capsys, litellm_warm):
    """The example makes one call and prints what the other two saved."""
    with FaultServer([Answer("Hello there")]) as server:
        providers = configuration(server.url)["blueprint"]["providers"]
        names = {"SyncLLMClient": SyncLLMClient, "messages": MESSAGES, "providers": providers}

        exec(compile(example("cache_ttl_s"), "README.md", "exec"), names)  # noqa: S102 - as above

        assert len(server.requests) == 1
    assert capsys.readouterr().out == "True 0.0 2\n"


def test_the_tools_example_runs(capsys, litellm_warm, tmp_path):
    """The example offers a function and the model's call of it is judged, run and answered."""
    script = [Answer("", tool_calls=(ToolUse("add", {"left": 2, "right": 3}),)), Answer("It is 5.")]
    with FaultServer(script) as server:
        config = configuration(server.url)
        config["blueprint"]["tools"] = {"workspace": str(tmp_path), "rules": [{"allow": "add"}]}
        with SyncLLMClient(config) as client:
            exec(compile(example("def add"), "README.md", "exec"), {"client": client, "messages": MESSAGES})  # noqa: S102

        assert server.requests[1].body["messages"][-1]["content"] == "5"
    assert capsys.readouterr().out == "It is 5. ['ok']\n"


@pytest.mark.parametrize("name", sorted(set(re.findall(r"blueprint-llm ([a-z]+)", README))))
def test_every_command_exists(name):
    """README names no command that there is not."""
    assert name in COMMANDS


def test_the_commands_are_those_that_ci_runs():
    """The two commands of README are what .ci/run and the wheel's metadata provide."""
    ci = (ROOT / ".ci" / "run").read_text("utf-8")

    assert "pip install nox && nox -s tests" in README
    assert "nox -s tests" in ci
    assert "nox -s demo" in ci
    assert "-c tests/constraints.txt" in README
