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
from click.testing import CliRunner
from driving import MESSAGES, configuration

from blueprint_llm import SyncLLMClient, load_config
from blueprint_llm.cli import COMMANDS, main
from blueprint_llm.cli.scenes import SCENES
from blueprint_llm.errors import QuotaExceededError
from blueprint_llm.testing import Answer, FaultServer, Stall, Status, ToolUse

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


def test_the_configurations_load():
    """Every YAML example is a valid configuration."""
    for block in blocks("yaml"):
        config = load_config(yaml.safe_load(block))

        assert config.budgets
        assert config.providers or config.model_groups


def test_the_first_example_streams(tmp_path):
    """The first example, as a program of its own, prints the configured provider's answer, who gave it and its cost."""
    with FaultServer(default=Answer("Hello from the example")) as server:
        patient = configuration(server.url, deadline={"total_s": 60})  # LiteLLM's first call imports for seconds
        (tmp_path / "blueprint.yaml").write_text(yaml.safe_dump(patient))
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


def dropped_in(server):
    """LiteLLM's part of a configuration, with two groups at one server."""
    params = {"model": "openai/gpt-4o", "api_base": server.url, "api_key": "sk-test-0123456789abcdef"}
    return {"model_list": [{"model_name": name, "litellm_params": params} for name in ("gpt-4o", "claude")]}


def test_the_drop_in_example_answers(tmp_path):
    """The changed import, as a program of its own beside a LiteLLM file, prints the answer and who gave it."""
    with FaultServer(default=Answer("Hello from the group")) as server:
        (tmp_path / "blueprint.yaml").write_text(yaml.safe_dump(dropped_in(server)))
        program = f"messages = {MESSAGES!r}\n" + example("import blueprint_llm as litellm")
        command = [sys.executable, "-c", program]

        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True)

    assert ran.stdout == "Hello from the group gpt-4o/openai/gpt-4o\n"


def test_the_router_example_answers(litellm_warm):
    """The Router of the example falls back as LiteLLM's would, and returns LiteLLM's own answer."""
    with FaultServer([Status(401), Answer("Hello from the fallback")]) as server:
        names = {"messages": MESSAGES, **dropped_in(server)}

        exec(compile(example("Router("), "README.md", "exec"), names)  # noqa: S102 - as above

    assert type(names["response"]) is litellm_warm.ModelResponse
    assert names["response"].choices[0].message.content == "Hello from the fallback"


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


def test_the_validator_example_stops(capsys, litellm_warm):
    """The example says what is wrong at the first wrong character of LiteLLM's own stream."""
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
    tools = [{"type": "function", "function": {"name": "get_weather", "parameters": parameters}}]
    call = ToolUse("get_weather", '{"city": 42, "and": "so on"}')
    with FaultServer([Answer("", tool_calls=(call,))]) as server:
        wire = {"model": "openai/gpt-4o", "api_base": server.url, "api_key": "k"}

        exec(compile(example("handler.feed"), "README.md", "exec"), {"tools": tools, "wire": wire})  # noqa: S102

    assert capsys.readouterr().out == "schema_type /city string 9\n"


def test_the_planning_example_plans(capsys, litellm_warm):
    """The example prints the checked plan, which covers each requirement."""
    step = {"title": "Sign", "description": "Sign users in.", "depends_on": [], "acceptance": ["it works"]}
    plan = {"overview": "Sign in.", "estimated_complexity": "low"}
    plan["steps"] = [{"id": "S1", "covers": ["R1", "R2", "R3"], **step}]
    with FaultServer([Answer(json.dumps(plan))]) as server, SyncLLMClient(configuration(server.url)) as client:
        exec(compile(example("planning_mode"), "README.md", "exec"), {"client": client})  # noqa: S102 - as above

    assert "## S1. Sign" in capsys.readouterr().out


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
    """The first table holds what the bench wrote: each bar that is to be shown, of the parts that were measured."""
    written = json.loads(refresh.BENCH.read_text("utf-8"))
    shown, parts = refresh.between("bench", README), {row["part"] for row in written["rows"]}

    assert shown == refresh.proof(written)
    assert len(shown.splitlines()) == 2 + sum(part in parts for part, *_ in refresh.PROOF) > 4


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


WRONG = """blueprint:
  providers: {on: {model: openai/gpt-4o}}
  chains: {default: [onn]}
  retry: {max_attempts: 3, jiter: none}
  logging: {format: jsn}
"""


def test_the_mistakes_are_told_as_shown(tmp_path, monkeypatch):
    """`check` says of a wrong file, word for word, what README shows."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "blueprint.yaml").write_text(WRONG)

    ran = CliRunner().invoke(main, ["check"])

    shown = next(block for block in blocks("console") if "3 problems" in block)
    assert shown == "$ blueprint-llm check\n" + ran.output
    assert ran.exit_code == 1


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
