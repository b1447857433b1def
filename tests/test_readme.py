"""README tells the truth: its examples run, its commands exist, its numbers and tables are those of their sources."""

import html
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from driving import MESSAGES, configuration

from blueprint_llm import SyncLLMClient, load_config
from blueprint_llm.cli import COMMANDS
from blueprint_llm.cli.scenes import SCENES
from blueprint_llm.errors import QuotaExceededError
from blueprint_llm.testing import Answer, FaultServer, Stall, ToolUse

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
SPEC = importlib.util.spec_from_file_location("refresh", ROOT / "tests" / "readme" / "refresh.py")
refresh = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(refresh)


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
    """The first example, as a program of its own, prints the configured provider's answer, who gave it and its cost."""
    with FaultServer(default=Answer("Hello from the example")) as server:
        (tmp_path / "blueprint.yaml").write_text(yaml.safe_dump(configuration(server.url)))
        program = [sys.executable, "-c", example("with SyncLLMClient() as client")]

        ran = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True)

    text, proof = ran.stdout.splitlines()
    assert text == "Hello from the example"
    assert re.fullmatch(r" p0/openai/gpt-4o 0\.0\d+", proof)
    assert len(example("with SyncLLMClient() as client").splitlines()) <= 10


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


def test_the_event_example_hears(capsys, litellm_warm):
    """The hook of the example is told of the attempt and the call."""
    with FaultServer([Answer("Hello there")]) as server:
        names = {"SyncLLMClient": SyncLLMClient, "messages": MESSAGES, "config": configuration(server.url)}

        exec(compile(example("def on_event"), "README.md", "exec"), names)  # noqa: S102 - as above

    assert capsys.readouterr().out == "attempt.succeeded p0 None\ncall.answered None None\n"


PROGRAM = """
from blueprint_llm import SyncLLMClient

def ask_my_program(api_base):
    provider = {"model": "openai/gpt-4o", "api_base": api_base, "api_key": "k"}
    with SyncLLMClient({"blueprint": {"providers": {"p": provider}, "retry": {"base_s": 0}}}) as client:
        return client.chat(messages=[{"role": "user", "content": "hi"}]).content
"""


def test_the_testing_example_passes(tmp_path):
    """The example of a user's own test passes beside a program that uses the library."""
    (tmp_path / "test_mine.py").write_text(PROGRAM + example("fault_server"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]

    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)

    assert "1 passed" in ran.stdout, ran.stdout


def test_the_reference_is_the_schemas():
    """Every key of the configuration is in the table as the schema has it; `nox -s readme` renews it."""
    assert refresh.between("reference", README) == refresh.reference()


def test_the_numbers_are_the_benchs():
    """The first table holds what the bench wrote, and every row of it was found there."""
    shown = refresh.between("bench", README)

    assert shown == refresh.proof(json.loads(refresh.BENCH.read_text("utf-8")))
    assert shown.count("\n") == len(refresh.PROOF) + 2


def test_the_picture_is_of_this_demo():
    """The recorded session shows the command and the first scenes as they are called now, each with its proof."""
    picture = html.unescape(refresh.SESSION.read_text("utf-8")).replace("\N{NO-BREAK SPACE}", " ")
    shown = re.findall(r"<text[^>]*>([^<]+)</text>", picture)

    headlines = [f"{n}/{len(SCENES)} {headline}" for n, (headline, _) in enumerate(SCENES, 1)]
    assert [line for line in shown if line in headlines] == headlines[: refresh.SCENES]
    assert refresh.COMMAND in shown
    assert sum(line.startswith("proof") for line in shown) == refresh.SCENES
    assert "http" not in re.sub(r'xmlns="[^"]*"|<!--.*?-->', "", picture)
    assert "tests/readme/session.svg" in README


def test_links_within_lead_somewhere():
    """Each link to a heading of README has its heading, each to a file its file."""
    headings = {
        re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-")
        for line in re.findall(r"^#+ (.+)$", README, re.MULTILINE)
    }
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", README) if "://" not in target]

    assert targets
    for target in targets:
        assert target[1:] in headings if target.startswith("#") else (ROOT / target).is_file()


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
