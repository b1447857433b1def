"""`blueprint-llm run` in a pipe: the last text alone is the answer."""

import json

import pytest
from click.testing import CliRunner
from driving import configuration

from blueprint_llm.cli import main
from blueprint_llm.testing import Answer, FaultServer, Status, ToolUse


@pytest.fixture
def run(tmp_path, litellm_warm, monkeypatch):
    """Run a task whose provider answers with `steps`, behind one that refuses the key."""
    monkeypatch.setattr(litellm_warm, "suppress_debug_info", False)
    monkeypatch.chdir(tmp_path)

    def task(*words, steps):
        with FaultServer(default=Status(401, "no")) as down, FaultServer(steps) as good:
            (tmp_path / "b.yaml").write_text(json.dumps(configuration(down.url, good.url)))
            return CliRunner().invoke(main, ["run", "list the files", *words, "--config", "b.yaml"])

    return task


LOOK = Answer("Let me look.", tool_calls=(ToolUse("list_files", {"path": "."}),))


def test_only_the_last_text_is_the_answer(run):
    """What was said before a tool ran is no answer; every fallback leaves its line on standard error."""
    done = run(steps=[LOOK, Answer("There is one file.")])

    assert done.stdout == "There is one file.\n"
    assert done.stderr.count("failed p0 (openai/gpt-4o): refused") == 2
    assert "list_files" in done.stderr


def test_a_failure_in_the_middle_as_json(run):
    """One object: the error, and the trace of the call that failed."""
    done = run("--json", steps=[LOOK, Status(400, "that is wrong")])
    found = json.loads(done.stdout)

    assert done.exit_code == 1
    assert "that is wrong" in found["error"]["message"]
    assert [attempt["category"] for attempt in found["trace"]["attempts"]] == ["refused", "invalid_request"]
