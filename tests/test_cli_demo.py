"""The demo: every scene proves what it says or fails, in a pipe and on a terminal, and nothing is left behind."""

import os
import pty
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from click.testing import CliRunner
from fixtures_embedded import install_weights, smollm2_weights

from blueprint_llm.adapters.local import embedded, weights
from blueprint_llm.cli import main, scenes
from blueprint_llm.cli.scenes import SCENES, NotProvenError, Stage
from blueprint_llm.testing import Answer, FaultServer

DEMO = [str(Path(sys.executable).with_name("blueprint-llm")), "demo"]


@pytest.fixture(scope="module")
def weights_file():
    """The real weights."""
    return smollm2_weights()


@pytest.fixture
def model(weights_file):
    """The real weights in this test's home; a model loaded here is freed behind it."""
    yield install_weights(weights_file)
    embedded.close_all()


def test_the_demo_proves_every_scene(model, bare_environment):
    """In a pipe nobody is asked: ten scenes in order, each with a proof, and no file but the weights in the home."""
    home = os.environ["BLUEPRINT_HOME"]

    ran = CliRunner().invoke(main, ["demo"])

    assert ran.exit_code == 0, ran.output
    assert "without --yes, you are asked" in ran.output
    proves_every_scene(ran.stdout)
    assert os.environ["BLUEPRINT_HOME"] == home
    assert [file.name for file in bare_environment.rglob("*") if not file.is_dir()] == [model.name]


def proves_every_scene(shown):
    """Check what the demo showed."""
    scenes_shown = re.split(r"\n(?=\d+/10 )", shown)[1:]
    assert [part.splitlines()[0] for part in scenes_shown] == [
        f"{n}/10 {line}" for n, (line, _) in enumerate(SCENES, 1)
    ]
    assert all("\nproof  " in part for part in scenes_shown)


@pytest.mark.slow
def test_the_demo_as_a_process(model, bare_environment):
    """The installed program shows the same, without colours and without LiteLLM's hints."""
    ran = subprocess.run([*DEMO, "--yes"], capture_output=True, text=True, timeout=300, check=False)

    assert ran.returncode == 0, ran.stderr
    proves_every_scene(ran.stdout)
    assert "\x1b" not in ran.stdout
    assert "Give Feedback" not in ran.stdout + ran.stderr


def on_terminal(answers):
    """The demo on a pseudo-terminal of its own: what it showed, and its exit code."""
    child, terminal = pty.fork()
    if child == 0:
        os.execv(DEMO[0], DEMO)  # noqa: S606 - the child of a fork
    shown = b""
    while True:
        try:
            block = os.read(terminal, 4096)
        except OSError:  # the other end is closed
            break
        shown += block
        if answers and answers[0][0] in shown.decode(errors="replace"):
            os.write(terminal, answers.pop(0)[1].encode())
    os.close(terminal)
    return shown.decode(), os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answers", "outcome"),
    [
        pytest.param([("Run it?", "y\n")], "write_file ok", id="approved"),
        pytest.param([("Run it?", "n\n"), ("Why not", "not today\n")], "write_file denied", id="rejected"),
    ],
)
def test_a_person_decides(model, answers, outcome):
    """On a terminal the demo asks before its tool writes, and either answer is carried out and proven."""
    shown, code = on_terminal(answers)

    assert outcome in shown
    assert "\x1b[32m" in shown
    assert code == 0


class Careless(Stage):
    """A stage whose clients know no limits and no cache."""

    def client(self, **settings):
        """A client without what the scene asks for."""
        return super().client(**{name: value for name, value in settings.items() if name not in {"budgets", "cache"}})


FINE = Answer("All is well.")


@pytest.mark.parametrize(
    ("scene", "stage"),
    [
        pytest.param(scenes.fallback, Stage, id="the cloud is up"),
        pytest.param(scenes.broken_stream, Stage, id="the stream is whole"),
        pytest.param(scenes.caught_call, Stage, id="no call is wrong"),
        pytest.param(scenes.approval, Stage, id="no tool is called"),
        pytest.param(scenes.budget, Careless, id="no budget"),
        pytest.param(scenes.cache_hit, Careless, id="no cache"),
    ],
)
def test_a_scene_that_did_not_happen_is_not_proven(scene, stage, tmp_path, litellm_warm):
    """Where what a headline says does not come about, its scene fails."""
    with FaultServer(lambda _: FINE) as server, pytest.raises(NotProvenError):
        scene(stage(server=server, workspace=tmp_path))


def test_the_report_counts_the_clouds_requests(tmp_path, litellm_warm):
    """A request that is not in the ledger breaks the last proof."""
    with FaultServer(default=FINE) as server:
        stage = Stage(server=server, workspace=tmp_path)
        with stage.client() as client:
            client.chat(messages=[{"role": "user", "content": "hello"}])
        assert "agree: 1 requests" in scenes.report(stage)
        asked = urllib.request.Request(f"{server.url}/chat/completions", data=b"{}", method="POST")
        with urllib.request.urlopen(asked, timeout=10) as answered:
            answered.read()

        with pytest.raises(NotProvenError):
            scenes.report(stage)


def test_an_unproven_scene_fails_the_demo(model, monkeypatch):
    """The first scene that is not proven ends the demo with exit code 1 and what was missing."""
    lie = ("All is well", lambda _: scenes.require(condition=False, otherwise="it is not"))
    monkeypatch.setattr(scenes, "SCENES", (lie, *SCENES))

    ran = CliRunner().invoke(main, ["demo", "--yes"])

    assert ran.exit_code == 1
    assert "scene 1 did not do what it says: it is not" in ran.output
    assert "2/11" not in ran.output


def test_a_demo_that_fails_says_so():
    """Without a usable model the first scene fails, and so does the command."""
    weights.SMOLLM2.target.parent.mkdir(parents=True)
    weights.SMOLLM2.target.write_bytes(b"no model")
    os.truncate(weights.SMOLLM2.target, weights.SMOLLM2.file_bytes)

    ran = CliRunner().invoke(main, ["demo", "--yes"])

    assert ran.exit_code == 1
    assert "2/10" not in ran.stdout
