"""`blueprint-llm` as a person uses it: the real program on a pseudo-terminal, in a git repository, asking a server."""

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
import yaml
from driving import KEY, configuration

from blueprint_llm.planning import read_plan_file
from blueprint_llm.testing import Answer, FaultServer, Stall, Status, ToolUse

pytestmark = pytest.mark.slow  # each starts the whole program

PATIENCE_S = 60
PATIENT = {"total_s": 60, "first_token_s": 30, "idle_s": 2}
CODE = "def double(number):\n    return number + number + 1\n"
TEST = "from doubling import double\n\n\ndef test_double():\n    assert double(4) == 8\n"
PATCH = """\
*** Begin Patch
*** Update File: doubling.py
@@
-    return number + number + 1
+    return number * 2
*** End Patch
"""
FIX = [
    Answer("I run the tests first.", tool_calls=(ToolUse("run_tests", {"args": ["-q"]}),)),
    Answer("Here is the mistake.", tool_calls=(ToolUse("patch", {"patch": PATCH}),)),
    Answer("And once more.", tool_calls=(ToolUse("run_tests", {"args": ["-q"]}),)),
    Answer("The test passes now."),
]


def blueprint(*words):
    """The command line of the program."""
    return [sys.executable, "-c", "from blueprint_llm.cli import main; main()", *map(str, words)]


class Terminal:
    """A program on a pseudo-terminal: wait for what it shows, type what a person would."""

    def __init__(self, folder, *words):
        self.screen, master = "", pty.openpty()
        self.master = master[0]
        self.process = subprocess.Popen(
            blueprint(*words), cwd=folder, stdin=master[1], stdout=master[1], stderr=master[1], start_new_session=True
        )
        os.close(master[1])

    def wait_for(self, text):
        """Read on until the screen shows `text` after what was waited for before."""
        deadline, start = time.monotonic() + PATIENCE_S, getattr(self, "seen", 0)
        while text not in self.screen[start:]:
            if not self._read(deadline):
                raise AssertionError(f"no {text!r} on the screen:\n{self.screen}")
        self.seen = self.screen.index(text, start) + len(text)

    def _read(self, deadline):
        ready = select.select([self.master], [], [], max(0, deadline - time.monotonic()))[0]
        try:
            found = os.read(self.master, 65536) if ready else b""
        except OSError:  # the program has left the terminal
            found = b""
        self.screen += re.sub(r"\x1b\[[0-9;]*m", "", found.decode("utf-8", "replace"))
        return bool(found)

    def type(self, text):
        """Type a line."""
        os.write(self.master, f"{text}\n".encode())

    def end(self):
        """Everything it still shows, and its exit code."""
        while self._read(time.monotonic() + PATIENCE_S):
            pass
        return self.process.wait(PATIENCE_S)


@contextmanager
def terminal(folder, *words):
    """A program on a pseudo-terminal that is gone afterwards."""
    made = Terminal(folder, *words)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.wait()
        os.close(made.master)


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A small git repository with one test that fails, and pytest on the PATH."""
    monkeypatch.setenv("PATH", f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}")  # noqa: PTH120 - a plain string
    root = tmp_path / "project"
    root.mkdir()
    (root / "doubling.py").write_text(CODE)
    (root / "test_doubling.py").write_text(TEST)
    git = ["git", "-C", str(root), "-c", "user.name=t", "-c", "user.email=t@localhost"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "start"]):
        subprocess.run([*git, *words], check=True)
    return root


def settings(place, url, root, *rules):
    """A configuration file outside the repository."""
    path = place / "blueprint.yaml"
    tools = {"workspace": str(root), "rules": list(rules)}
    path.write_text(yaml.safe_dump(configuration(url, tools=tools, deadline=PATIENT)))
    return path


def shell(folder, *words):
    """A command that asks nothing: exit code and standard output."""
    done = subprocess.run(
        blueprint(*words), cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_the_failing_test_is_fixed_with_a_persons_consent(repository, tmp_path):
    """It runs the tests, shows the patch as a diff, asks, applies it, runs the tests, and the audit tells it all."""
    with FaultServer(FIX) as server:
        config = settings(tmp_path, server.url, repository, {"allow": "run_tests"})
        with terminal(repository, "run", "fix the failing test", "--config", config) as person:
            person.wait_for("I run the tests first.")
            person.wait_for("Here is the mistake.")
            person.wait_for("[1/1] patch")
            person.wait_for("+    return number * 2")
            person.wait_for("Run it?")
            assert (repository / "doubling.py").read_text() == CODE
            person.type("y")
            person.wait_for("The test passes now.")
            code = person.end()
        told = [message["content"] for message in server.requests[-1].body["messages"] if message["role"] == "tool"]
    shown = shell(tmp_path, "audit", "show", "--json", "--config", config)
    records = [json.loads(line) for line in shown[1].splitlines()]
    verified = shell(tmp_path, "audit", "verify", "--config", config)

    assert code == 0
    assert ("1 failed" in told[0], "1 passed" in told[2]) == (True, True), told
    assert (repository / "doubling.py").read_text() == CODE.replace("number + number + 1", "number * 2")
    assert person.screen.count("The test passes now.") == 1
    assert [(r["event"], r["tool"], r.get("status")) for r in records] == [
        ("intent", "run_tests", None),
        ("outcome", "run_tests", "error"),
        ("intent", "patch", None),
        ("outcome", "patch", "ok"),
        ("intent", "run_tests", None),
        ("outcome", "run_tests", "ok"),
    ]
    assert (verified[0], "6 records, whole" in verified[1]) == (0, True)
    assert KEY not in person.screen + shown[1] + "".join(told)


@pytest.mark.slow
def test_text_shows_before_the_answer_is_complete_and_a_rejection_is_told(repository, tmp_path):
    """What came is on the screen although the stream then breaks, the restart is told; the model hears why not."""
    script = [Stall(3, answer=Answer("one two three four")), FIX[1], Answer("Then I leave it.")]
    with FaultServer(script) as server:
        config = settings(tmp_path, server.url, repository)
        with terminal(repository, "run", "go", "--config", config) as person:
            person.wait_for("one two")
            person.wait_for("starts the answer again")
            person.wait_for("Here is the mistake.")
            person.wait_for("Run it?")
            person.type("n")
            person.wait_for("Why not")
            person.type("use a shift")
            person.wait_for("Then I leave it.")
            code = person.end()
        told = server.requests[-1].body["messages"][-1]["content"]

    assert (code, "use a shift" in told, person.screen.count("Then I leave it.")) == (1, True, 1)
    assert 'a rule that would allow it: {allow: "patch"}' in person.screen
    assert (repository / "doubling.py").read_text() == CODE


def test_in_a_pipe_nobody_is_asked(repository, tmp_path):
    """Standard output holds the model's last text only, its control sequences as text; what asks is denied."""
    with FaultServer([FIX[1], Answer("\x1b[2J\x1b[8mhidden\x07")]) as server:
        done = shell(repository, "run", "go", "--config", settings(tmp_path, server.url, repository))

    assert done[:2] == (1, "\\x1b[2J\\x1b[8mhidden\\x07\n")
    assert "denied   patch" in done[2]
    assert (repository / "doubling.py").read_text() == CODE


@pytest.mark.slow
def test_a_task_may_be_piped_in(repository, tmp_path):
    """What is piped in comes before TASK, or is the task."""
    with FaultServer(default=Answer("ok")) as server:
        config = settings(tmp_path, server.url, repository)
        for words in (["review it"], []):
            command = blueprint("run", *words, "--config", config)
            subprocess.run(command, cwd=repository, input=b"a diff\n", check=True, capture_output=True, timeout=60)
        asked = [request.body["messages"][-1]["content"] for request in server.requests]

    assert asked == ["a diff\n\nreview it", "a diff"]


PLAN = {
    "id": "plan-1",
    "overview": "Mend the doubling.",
    "steps": [
        {"id": "S1", "title": "Mend", "files": ["doubling.py"], "acceptance": ["the test passes"]},
        {"id": "S2", "title": "Tell", "depends_on": ["S1"], "acceptance": ["NEWS names it", "in one line"]},
    ],
}


@pytest.mark.slow
def test_a_plan_is_read_approved_and_carried_out(repository, tmp_path):
    """`plan run` shows the whole plan, asks for it and for what its steps do, and stops where acceptance is not met."""
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(PLAN))
    script = [
        FIX[1],
        Answer('Mended.\n{"acceptance": [true]}'),
        Answer('Half of it.\n{"acceptance": [true, false]}'),
    ]
    with FaultServer(script) as server:
        config = settings(tmp_path, server.url, repository)
        with terminal(repository, "plan", "run", plan, "--config", config) as person:
            person.wait_for("the test passes")
            person.wait_for("Run this plan")
            person.type("y")
            person.wait_for("S1: Mend")
            person.wait_for("+    return number * 2")
            person.wait_for("Run it?")
            person.type("y")
            person.wait_for("Mended.")
            person.wait_for("Half of it.")
            code = person.end()

    assert code == 1
    assert [step["status"] for step in json.loads(plan.read_text())["steps"]] == ["done", "failed"]
    assert (repository / "doubling.py").read_text() == CODE.replace("number + number + 1", "number * 2")


@pytest.mark.slow
def test_a_step_that_cannot_be_done_says_why(repository, tmp_path):
    """The error of a failed call is on the screen, and the step is marked."""
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(PLAN))
    approve = read_plan_file(plan).hash
    with FaultServer(default=Status(401)) as server:
        config = settings(tmp_path, server.url, repository)
        done = shell(repository, "plan", "run", plan, "--approve", approve, "--config", config)

    assert (done[0], "S1 failed: " in done[2], "refused" in done[2] or "401" in done[2]) == (1, True, True), done
    assert json.loads(plan.read_text())["steps"][0]["status"] == "failed"
