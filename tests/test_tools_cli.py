"""The commands `tools` and `run`: what they print, and their exit codes."""

import json

import pytest
from click.testing import CliRunner

from blueprint_llm.cli import tools
from blueprint_llm.config.blocks import Sandbox
from blueprint_llm.errors import ApprovalPending
from blueprint_llm.tools import DenyAll, RunResult, sandbox
from blueprint_llm.tools.approval import TerminalApprover
from blueprint_llm.types import StreamChunk, ToolResult

CONFIG = """
blueprint:
  version: 1
  tools:
    workspace: {}
    rules:
      - {{allow: command, argv: [git, [status, diff]]}}
      - {{deny: command, argv: [git, push], why: release goes through CI}}
"""


@pytest.fixture
def config(tmp_path):
    """A configuration file with two rules."""
    place = tmp_path / "blueprint.yaml"
    place.write_text(CONFIG.format(tmp_path))
    return str(place)


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        pytest.param(["command", "--", "git", "status", "-s"], 0, "allow by rules[0]\n", id="allowed"),
        pytest.param(
            ["command", "--", "make"], 1, "ask\n  no rule allows make\n  effects: write\n  kernel: ", id="asked"
        ),
        pytest.param(["command", "make"], 1, '{allow: "command", argv: ["make"], effects: ["write"]}', id="a rule"),
        pytest.param(["command", "git", "diff", "--output=x"], 0, "effects: read\n  kernel: bubblewrap", id="effects"),
        pytest.param(["command", "git", "push"], 1, "deny by rules[1]\n  release goes through CI\n", id="denied"),
        pytest.param(["command", '{"command": "git status; id"}'], 1, "shell syntax ';'", id="as JSON"),
        pytest.param(["read_file", '{"path": "../x"}'], 1, "deny\n  '../x' leads out", id="another tool"),
        pytest.param(["nothing"], 1, "no tool named 'nothing'", id="unknown"),
    ],
)
def test_check_says_what_would_become_of_a_call(words, code, text, config):
    """The decision, the rule and the reasons are printed; only allow is exit code 0."""
    found = CliRunner().invoke(tools.tools, ["check", "--config", config, *words])

    assert (found.exit_code, text in found.output) == (code, True), found.output


def test_check_prints_json(config):
    """The same for programs."""
    found = CliRunner().invoke(tools.tools, ["check", "--json", "--config", config, "command", "git", "push"])

    assert json.loads(found.output) == {
        "decision": "deny",
        "rule_id": "rules[1]",
        "reasons": ["release goes through CI"],
        "effects": [],
        "kernel": "",
        "would_allow": "",
    }


def test_list_prints_the_tools(config):
    """Every built-in tool with its effect."""
    found = CliRunner().invoke(tools.tools, ["list", "--config", config])
    as_json = CliRunner().invoke(tools.tools, ["list", "--json", "--config", config])

    assert "run_tests" in found.output
    effects = {row["name"]: row["effect"] for row in json.loads(as_json.output)}
    assert (effects["read_file"], effects["patch"], effects["command"]) == ("read", "write", "execute")


class Client:
    """Answers `run` and `resume` from a script, and notes what it was asked."""

    def __init__(self, answer):
        self.answer, self.asked = answer, []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def run(self, on_chunk=None, **asked):
        """Give the scripted answer."""
        self.asked.append(asked)
        if isinstance(self.answer, Exception):
            raise self.answer
        if on_chunk:
            on_chunk(StreamChunk(delta=self.answer.content, is_done=True, provider="p"))
        return self.answer

    def resume(self, state_id, decisions, on_chunk=None):
        """The same."""
        return self.run(on_chunk, state_id=state_id, decisions=decisions)


@pytest.fixture
def invoke(monkeypatch):
    """Run the command against a scripted client."""

    def call(answer, *words):
        client = Client(answer)
        monkeypatch.setattr(tools, "open_client", lambda **more: client)
        return CliRunner().invoke(tools.run, words), client

    return call


RESULT = ToolResult(tool_call_id="1", name="patch", status="ok", content="x", audit_seq=3)


def test_run_prints_the_answer_and_what_was_done(invoke):
    """The model's last text goes to standard output, the tool calls to standard error."""
    found, client = invoke(RunResult(content="fixed", tool_results=[RESULT]), "fix it", "--model", "m")

    assert (found.exit_code, found.stdout) == (0, "fixed\n")
    assert "patch (audit 3)" in found.stderr
    assert client.asked == [{"messages": [{"role": "user", "content": "fix it"}], "model": "m"}]


def test_run_tells_limits_waiting_and_misuse(invoke):
    """A limit and a waiting run are exit code 1, with how to go on; no task is a usage error."""
    limited, _ = invoke(RunResult(content="half", stop="max_turns"), "t", "--json")
    waiting, _ = invoke(ApprovalPending("abc"), "t")
    resumed, client = invoke(RunResult(content="done"), "--resume", "abc")

    assert (limited.exit_code, json.loads(limited.stdout)["stop"]) == (1, "max_turns")
    assert (waiting.exit_code, "run --resume abc" in waiting.stderr) == (1, True)
    assert (resumed.exit_code, client.asked) == (0, [{"state_id": "abc", "decisions": {}}])
    assert invoke(None)[0].exit_code == 2


def test_run_asks_only_where_somebody_sits(monkeypatch):
    """On a terminal the approver asks; in a pipe it denies."""
    assert isinstance(tools.approver(), DenyAll)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)

    assert isinstance(tools.approver(), TerminalApprover)


SUGGESTED = [
    pytest.param(["write_file", '{"path": "src/a.py", "content": ""}'], "paths: [", "auto", id="a rule would"),
    pytest.param(["write_file", '{"path": ".bashrc", "content": ""}'], "", "auto", id="a protected file asks"),
    pytest.param(["command", "npm", "ci"], "", "auto", id="another rule asks"),
    pytest.param(["command", "ls"], 'argv: ["ls"]', "auto", id="a command"),
    pytest.param(["command", "ls"], '{allow: "command", argv: ["ls"]}', "landlock", id="what the kernel can hold"),
    pytest.param(["command", "ls"], "", "none", id="the kernel asks"),
    pytest.param(["command", "make"], "", "landlock", id="the kernel asks in spite of a rule"),
    pytest.param(["command", '{"command": "ls; id"}'], "", "auto", id="a shell's words ask"),
]


@pytest.mark.parametrize(("words", "rule", "backend"), SUGGESTED)
def test_a_rule_is_told_only_where_it_would_allow(words, rule, backend, tmp_path, monkeypatch):
    """Where another rule, the kernel or the kind of a file asks all the same, no rule is named."""
    monkeypatch.setattr(sandbox, "offered", lambda name: name == {"auto": "bubblewrap"}.get(backend, backend))
    config = tmp_path / "blueprint.yaml"
    rules = "[{ask: command, argv: [npm]}, {allow: command, argv: [make], effects: write}]"
    config.write_text(f"blueprint: {{version: 1, tools: {{workspace: {tmp_path}, rules: {rules}}}}}")
    found = CliRunner().invoke(tools.tools, ["check", "--json", "--config", str(config), *words])
    told = json.loads(found.output)

    assert told["decision"] == "ask"
    assert bool(told["would_allow"]) is bool(rule)
    assert rule in told["would_allow"]


def test_what_the_kernel_cannot_hold_is_told_as_denied_where_the_sandbox_is_required():
    """The sentence on the kernel says what becomes of a command."""
    waived, strict = Sandbox(backend="none"), Sandbox(backend="none", required=True)

    assert sandbox.describe(waived) == "none, as configured: commands run unconfined"
    assert sandbox.describe(strict) == "none: all commands are denied"
