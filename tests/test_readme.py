"""README tells the truth: its examples run, its commands exist, its numbers are the bench's."""

import html
import json
import re
import subprocess
import sys
from pathlib import Path

import examples
import pytest
import refresh
import yaml
from driving import MESSAGES, configuration

import blueprint_llm
from blueprint_llm import load_config
from blueprint_llm.cli import COMMANDS
from blueprint_llm.cli.scenes import SCENES, Stage
from blueprint_llm.testing import Answer, FaultServer

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
FIRST, ONE_LINE = (block.text for block in examples.blocks(ROOT / "README.md", "python"))


def test_it_is_short():
    """README is about 5 KB: what it names is said on the pages of docs/."""
    assert len(README.encode()) < 6_000


def test_the_configuration_limits():
    """The YAML example is a valid configuration with the budget that the text speaks of."""
    (block,) = examples.blocks(ROOT / "README.md", "yaml")
    (budget,) = load_config(yaml.safe_load(block.text)).budgets

    assert (budget.scope, budget.limit_usd, budget.on_exceed) == ("project", 20, "block")


def test_the_first_example_streams(tmp_path):
    """The first example, as a program of its own, prints the configured provider's answer, who gave it and its cost."""
    with FaultServer(default=Answer("Hello from the example")) as server:
        patient = configuration(server.url, deadline={"total_s": 60})  # LiteLLM's first call imports for seconds
        (tmp_path / "blueprint.yaml").write_text(yaml.safe_dump(patient))
        program = [sys.executable, "-c", FIRST]

        ran = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True)

    text, proof = ran.stdout.splitlines()
    assert text == "Hello from the example"
    assert re.fullmatch(r" p0/openai/gpt-4o 0\.0\d+", proof)
    assert len(FIRST.splitlines()) <= 10


def test_one_line_guards_a_program(tmp_path, litellm_warm, monkeypatch):
    """After the line, a program that calls LiteLLM meets the budget of the configuration; `uninstall` ends that."""
    monkeypatch.setenv("BLUEPRINT_CONFIG", str(tmp_path / "mine.yaml"))
    (tmp_path / "mine.yaml").write_text("blueprint: {budgets: [{scope: project, limit_usd: 0}]}")
    with FaultServer(default=Answer("Hello")) as server:
        ask = {"model": "openai/gpt-4o", "messages": MESSAGES, "api_base": server.url, "api_key": "k"}
        exec(compile(ONE_LINE, "README.md", "exec"), {})  # noqa: S102 - our own page

        with pytest.raises(litellm_warm.BudgetExceededError):
            litellm_warm.completion(**ask)
        assert not server.requests

        blueprint_llm.uninstall()
        assert litellm_warm.completion(**ask).choices[0].message.content == "Hello"


def test_the_numbers_are_the_benchs():
    """The table holds what the bench wrote of each bar that is to be shown."""
    written = json.loads(refresh.BENCH.read_text("utf-8"))
    shown = refresh.between("bench", README)

    assert shown == refresh.proof(written)
    assert len(shown.splitlines()) == 2 + len(refresh.PROOF)


def test_the_scene_is_the_demos(tmp_path, capsys, litellm_warm):
    """The console block is the budget's scene as it plays now, but for the date."""
    (number,) = (n for n, (headline, _) in enumerate(SCENES, 1) if "budget" in headline)
    headline, scene = SCENES[number - 1]
    with FaultServer() as server:
        proof = scene(Stage(server=server, workspace=tmp_path))

    played = f"{number}/{len(SCENES)} {headline}\n{capsys.readouterr().out}proof  {proof}\n"
    shown = examples.blocks(ROOT / "README.md", "console")[0].text
    assert re.sub(r"\d{4}-\d{2}-\d{2}T", "", shown) == re.sub(r"\d{4}-\d{2}-\d{2}T", "", played)


def test_the_picture_is_of_this_demo():
    """The recorded session shows the command and the first scenes as they are called now, each with its proof."""
    picture = html.unescape(refresh.SESSION.read_text("utf-8")).replace("\N{NO-BREAK SPACE}", " ")
    shown = re.findall(r"<text[^>]*>([^<]+)</text>", picture)

    headlines = [f"{n}/{len(SCENES)} {headline}" for n, (headline, _) in enumerate(SCENES, 1)]
    assert [line for line in shown if line in headlines] == headlines[: refresh.SCENES]
    assert refresh.COMMAND in shown
    assert sum(line.startswith("proof") for line in shown) == refresh.SCENES
    assert not re.search(r"""href=|src=|@import|url\(["']?http""", picture), "nothing is fetched to show it"


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`?blueprint-llm ([a-z]+)", README))))
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
