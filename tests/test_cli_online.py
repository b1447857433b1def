"""`check --online`, completion of names, and the line that says what is taking long."""

import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner
from driving import configuration
from terminal import PROGRAM, Terminal, piped

from blueprint_llm.cli import main
from blueprint_llm.testing import Answer, FaultServer, Status


@pytest.fixture
def check(tmp_path, litellm_warm):
    """Run `blueprint-llm check --online` with providers at `urls`."""

    def run(*options, urls):
        path = tmp_path / "b.yaml"
        path.write_text(json.dumps(configuration(*urls, retry={"max_attempts": 1}, cache={"enabled": True})))
        return CliRunner().invoke(main, ["check", "--online", *options, "--config", str(path)])

    return run


def test_every_provider_is_asked_once_for_one_token(check):
    """One cheap call each, never from the cache and never passed on to another."""
    with FaultServer(default=Answer("pong")) as first, FaultServer(default=Answer("pong")) as second:
        for _ in range(2):
            done = check(urls=[first.url, second.url])
        bodies = [[request.body for request in server.requests] for server in (first, second)]

    assert done.exit_code == 0
    assert done.stdout.splitlines()[:2] == ["ok: p0 (online): answered", "ok: p1 (online): answered"]
    assert [len(asked) for asked in bodies] == [2, 2]
    assert {body["max_tokens"] for asked in bodies for body in asked} == {1}


def test_one_that_fails_is_named(check):
    """Exit code 1, the reason in its line, the others still asked."""
    with FaultServer(default=Status(401, "bad key")) as bad, FaultServer(default=Answer("pong")) as good:
        plain = check(urls=[bad.url, good.url])
        document = json.loads(check("--json", urls=[bad.url, good.url]).stdout)

    assert plain.exit_code == 1
    assert plain.stdout.splitlines()[0].startswith("WRONG: p0 (online): ")
    assert "401" in plain.stdout
    assert plain.stdout.splitlines()[1] == "ok: p1 (online): answered"
    assert [call["ok"] for call in document["online"]] == [False, True]
    assert not document["ok"]


def test_who_cannot_be_reached_gave_no_status(check):
    """Where nothing listens no status is told: LiteLLM's 500 is nobody's answer."""
    with FaultServer() as server:
        gone = server.url
    done = check(urls=[gone])

    assert done.exit_code == 1
    assert "onnection" in done.stdout
    assert "HTTP 500" not in done.stdout


def test_a_broken_file_is_not_asked_with(tmp_path):
    """Without a configuration there is nobody to ask: its problems are told."""
    path = tmp_path / "b.yaml"
    path.write_text("blueprint: {chains: {default: [nobody]}}")

    done = CliRunner().invoke(main, ["check", "--online", "--json", "--config", str(path)])

    assert (done.exit_code, json.loads(done.stdout)["online"]) == (1, [])


MODELS = """
model_list:
  - {model_name: gpt, litellm_params: {model: openai/gpt-4o}}
blueprint:
  providers:
    cloud: {model: gpt}
    other: {model: anthropic/claude-opus-4-5}
"""


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        pytest.param("chat --provider ", ["cloud", "other"], id="providers"),
        pytest.param("explain -p o", ["other"], id="providers that begin so"),
        pytest.param("chat --model ", ["anthropic/claude-opus-4-5", "gpt"], id="models"),
        pytest.param("chat --config gone.yaml --model ", [], id="a broken configuration"),
        pytest.param("usage --by m", ["model"], id="choices"),
        pytest.param("us", ["usage"], id="commands"),
    ],
)
def test_a_shell_completes(tmp_path, typed, offered):
    """The program answers a shell's question for completions with names of the configuration in use."""
    (tmp_path / "blueprint.yaml").write_text(MODELS)
    words = f"blueprint-llm {typed}"
    asked = {"_BLUEPRINT_LLM_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = piped(cwd=tmp_path, env={**os.environ, **asked})

    assert [line.partition(",")[2] for line in done.stdout.split()] == offered
    assert done.stderr == ""


def test_the_completion_of_the_help_works_in_bash(tmp_path):
    """The line that the help prints defines a completion."""
    line = next(line for line in piped("--help").stdout.splitlines() if line.strip().startswith("bash "))
    script = f"{line.split(maxsplit=1)[1]}\ncomplete -p blueprint-llm"
    env = {**os.environ, "PATH": f"{PROGRAM.parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=True, env=env)

    assert "_blueprint_llm_completion" in done.stdout


SLOW = """
import sys, time
from blueprint_llm.cli.output import Progress
with Progress("fetching") as progress:
    time.sleep(float(sys.argv[1]))
    progress.update(3, 4)
    time.sleep(float(sys.argv[1]) / 4)
print("done")
"""


def test_what_takes_long_is_said_on_a_terminal(monkeypatch):
    """After a second there is a moving line with a bar; at the end it is erased."""
    monkeypatch.setattr("terminal.PROGRAM", sys.executable)
    with Terminal("-c", SLOW, "1.4") as terminal:
        terminal.expect("fetching 1 s")
        terminal.expect("━━━━━━━━━━━━━━━━━━──────  75% ")
        assert terminal.finish() == 0

    assert terminal.raw.endswith("\r\x1b[Kdone\r\n")


@pytest.mark.parametrize("seconds", ["0.1", "1.4"])
def test_nothing_is_said_in_a_pipe(monkeypatch, seconds):
    """However long it takes, a pipe gets nothing of it."""
    monkeypatch.setattr("terminal.PROGRAM", sys.executable)
    done = piped("-c", SLOW, seconds)

    assert (done.stdout, done.stderr) == ("done\n", "")


def test_what_is_quick_leaves_no_trace(monkeypatch):
    """Within the first second a terminal shows nothing either."""
    monkeypatch.setattr("terminal.PROGRAM", sys.executable)
    with Terminal("-c", SLOW, "0.1") as terminal:
        assert terminal.finish() == 0

    assert terminal.raw == "done\r\n"


def test_a_dumb_terminal_gets_no_moving_line(monkeypatch):
    """Where the terminal knows no control sequences none is written, however long it takes."""
    monkeypatch.setattr("terminal.PROGRAM", sys.executable)
    with Terminal("-c", SLOW, "1.4", env={**os.environ, "TERM": "dumb"}) as terminal:
        assert terminal.finish() == 0

    assert terminal.raw == "done\r\n"
