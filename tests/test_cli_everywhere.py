"""What holds for every command: its help, its options, pipes, terminals, colours and imports."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from driving import configuration
from report_rows import row, write_ledger
from terminal import ESCAPE, PROGRAM, Terminal, piped

from blueprint_llm.cli import main
from blueprint_llm.testing import Answer, FaultServer
from blueprint_llm.types import Plan, PlanStep

HEAVY = {"litellm", "openai", "httpx", "keyring", "diskcache", "redis"}
PLAN = Plan(id="p", overview="One step.", steps=[PlanStep(id="S1", title="First", covers=["R1"], acceptance=["done"])])


def leaves(group=main, path=()):
    """Every command that does something, with its words."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        if not isinstance(command, click.Group) or command.invoke_without_command:
            yield (*path, name), command


LEAVES = dict(leaves())
EVERY = [pytest.param(words, id=" ".join(words)) for words in LEAVES]


def ask_help(words):
    """What `--help` of a command shows."""
    return CliRunner().invoke(main, [*words, "--help"], prog_name="blueprint-llm")


@pytest.mark.parametrize("words", EVERY)
def test_help_has_an_example_of_itself(words):
    """`--help` explains, shows an unbroken example of this very command, and exits with 0."""
    shown = ask_help(words)
    example = re.search(r"^ *Example: (.*)$", shown.stdout, re.MULTILINE)
    named = " ".join(word for word in words if word != "make")

    assert (shown.exit_code, shown.stderr) == (0, "")
    assert example
    assert f"blueprint-llm {named}" in example[1]
    assert shown.stdout.startswith("Usage: blueprint-llm ")


@pytest.mark.parametrize("words", [words for words in EVERY if words.id != "demo"])  # it brings its own configuration
def test_json_and_config_are_everywhere(words):
    """Each command takes --json and --config."""
    options = {option for parameter in LEAVES[words].params for option in parameter.opts}

    assert options >= {"--json", "--config"}


@pytest.mark.parametrize("words", [(), *(words[:1] for words in LEAVES if len(words) > 1)])
def test_a_group_alone_shows_its_help(words):
    """Without a subcommand a group says what there is."""
    assert "Commands:" in ask_help(words).stdout


@pytest.fixture
def place(tmp_path):
    """A folder with a configuration, a ledger of two calls, and two plans."""
    (tmp_path / "plan.json").write_text(PLAN.model_dump_json())
    with FaultServer(default=Answer("Hello from the server.")) as server:
        urls = (server.url, "http://127.0.0.1:9/v1")  # nobody listens at the second
        block = configuration(*urls, deadline={"total_s": 60, "first_token_s": 50})["blueprint"]
        block["logging"] = {"format": "console", "level": "debug"}
        block["store"] = {"url": f"sqlite://{tmp_path / 'ledger.sqlite'}"}
        (tmp_path / "b.yaml").write_text(json.dumps({"blueprint": block}))
        write_ledger(tmp_path / "ledger.sqlite", [(1, row(1, usd=1)), (0, row(2, usd=0.5, session="s"))])
        yield tmp_path


JSON = (
    *("audit verify", "cache stats", "cache clear", "check", "explain hello", "models", "models -p p0", "tools list"),
    *("keys list", "keys check", "trace", "usage", "usage reset", "tools check read_file {}"),
)
UNCONFIGURED = ("init new.yaml", "local list", "schema", "plan lint plan.json", "plan diff plan.json plan.json")


@pytest.mark.parametrize("words", [*(f"{words} --config b.yaml" for words in JSON), *UNCONFIGURED])
def test_json_is_one_document(place, monkeypatch, words):
    """With --json standard output is one JSON document and nothing else."""
    monkeypatch.chdir(place)
    done = CliRunner().invoke(main, [*words.split(), "--json"], catch_exceptions=False)

    assert isinstance(json.loads(done.stdout), dict | list)
    assert done.exit_code in {0, 1}


def test_storing_and_removing_a_key_as_json(place, monkeypatch):
    """Both say what was done, and no key."""
    monkeypatch.chdir(place)
    key = "sk-proj-0123456789abcdefghij"
    stored = CliRunner().invoke(main, ["keys", "set", "openai", "--json"], input=key)
    removed = CliRunner().invoke(main, ["keys", "remove", "openai", "--json"])

    assert json.loads(stored.stdout)["provider"] == "openai"
    assert json.loads(removed.stdout) == {"provider": "openai", "removed": True}
    assert key not in stored.output


# Arguments, exit code, and what stands on standard output.
TRIED = [
    ("audit show --config b.yaml", 0, "SEQ"),
    ("audit verify --config b.yaml", 0, "0 records, whole"),
    ("cache stats --config b.yaml", 0, "0 answers"),
    ("cache clear --config b.yaml", 0, "0 answers forgotten"),
    ("chat hello --config b.yaml", 0, "Hello from the server."),
    ("check --config b.yaml", 0, "ok: b.yaml"),
    ("check --online --config b.yaml", 1, "ok: p0 (online): answered\nWRONG: p1 (online): "),
    ("explain hello --config b.yaml", 0, "chosen"),
    ("init fresh.yaml", 0, ""),
    ("keys list --config b.yaml", 0, "...cdef"),
    ("keys remove nobody --config b.yaml", 1, ""),
    ("keys check --config b.yaml", 0, "ok"),
    ("local list", 0, "embedded/smollm2"),
    ("local path", 1, ""),
    ("local pull gpt-9", 1, ""),
    ("models --config b.yaml", 0, "openai/gpt-4o"),
    ("plan lint plan.json", 0, ""),
    ("plan diff plan.json plan.json", 0, "S1"),
    ("plan run plan.json --approve 000000000000 --config b.yaml", 1, ""),
    ("run greet --config b.yaml", 0, "Hello from the server."),
    ("schema", 0, "blueprint_llm configuration"),
    ("tools list --config b.yaml", 0, "read_file"),
    ("tools check command ls --config b.yaml", 1, ""),
    ("trust b.yaml --show", 0, "sends requests to"),
    ("trace call1 --config b.yaml", 2, ""),
    ("trace --config b.yaml", 0, "served by cloud/openai/gpt-4o"),
    ("usage --config b.yaml", 0, "total"),
    ("usage --html page.html --config b.yaml", 0, ""),
    ("usage reset --config b.yaml", 0, "usage starts afresh"),
    ("nonsense", 2, ""),
    ("chat --nonsense", 2, ""),
]


@pytest.fixture
def invoke(place, litellm_warm, monkeypatch):
    """Run a command in this process, in `place`, with its three streams captured."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(litellm_warm, "suppress_debug_info", False)  # as LiteLLM has it, and after the test again
    return lambda words: CliRunner().invoke(main, words.split(), prog_name="blueprint-llm")


@pytest.mark.parametrize(("words", "code", "answer"), TRIED, ids=[words for words, *_ in TRIED])
def test_the_answer_is_on_standard_output(invoke, words, code, answer):
    """The answer alone is on standard output, without moving lines; every remark is on standard error."""
    done = invoke(words)

    assert done.exit_code == code, done.stderr
    assert answer in done.stdout
    assert answer or not done.stdout or code
    assert "\r" not in done.output
    assert "Give Feedback" not in done.stdout  # LiteLLM prints hints about failures
    assert "Traceback" not in done.stderr
    assert code == 0 or done.stderr or done.stdout


# A process for each command, by its first line above; LiteLLM's import costs seconds: `test_cli_chat` has one of it.
SMOKE = {words.split()[0]: (words, code, answer) for words, code, answer in reversed(TRIED)}
SMOKE |= {"chat": ("chat", 2, ""), "run": ("run", 2, "")}


@pytest.mark.parametrize(("words", "code", "answer"), SMOKE.values(), ids=SMOKE)
def test_in_a_pipe(place, words, code, answer):
    """The installed program does the same in a pipe, without colours."""
    done = piped(*words.split(), cwd=place)

    assert done.returncode == code, done.stderr
    assert answer in done.stdout
    assert not ESCAPE.search(done.stdout + done.stderr)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["usage", "check"])
def test_on_a_terminal_without_colour(place, command):
    """A person sees the same; NO_COLOR leaves no colour, and no moving line is left behind."""
    words, code, answer = SMOKE[command]
    with Terminal(*words.split(), cwd=place, env={**os.environ, "NO_COLOR": "1"}) as terminal:
        assert terminal.finish() == code, terminal.text

    assert answer in terminal.text
    assert "Traceback" not in terminal.text
    assert not re.search(r"\x1b\[[0-9;]*m", terminal.raw)


@pytest.mark.parametrize("words", ["usage", "audit show"])
def test_a_state_folder_that_cannot_be_is_one_line(tmp_path, monkeypatch, words):
    """What the system refuses is said with the path and the cure, and without a traceback."""
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    monkeypatch.setenv("BLUEPRINT_HOME", str(in_the_way))
    done = CliRunner().invoke(main, words.split(), catch_exceptions=False)

    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("Error: ")
    assert str(in_the_way / "state") in done.stderr
    assert "BLUEPRINT_HOME" in done.stderr


BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no full disk to try")
@pytest.mark.parametrize("words", ["schema", "models", "usage --json", "check", "--help", "usage --help"])
def test_a_full_disk_behind_standard_output_is_one_line(place, words):
    """What cannot be written is said on standard error, and the exit code is 1."""
    options = [] if words == "schema" or "--help" in words else ["--config", "b.yaml"]
    with Path("/dev/full").open("w") as full:
        command = [PROGRAM, *words.split(), *options]
        done = subprocess.run(
            command, cwd=place, stdout=full, stderr=subprocess.PIPE, env=BUFFERED, timeout=60, check=False
        )

    assert (done.returncode, done.stderr) == (1, b"Error: No space left on device\n")


@pytest.mark.parametrize(
    ("words", "closed", "code"),
    [
        ("usage --config b.yaml", ">&-", 0),
        ("models --config b.yaml", ">&- 2>&-", 0),
        ("keys set openai", "<&-", 1),
        ("plan run plan.json --config b.yaml", "<&-", 1),
        ("explain hello --config b.yaml", "2>/dev/full", 1),
    ],
)
def test_closed_streams_are_no_trouble(place, words, closed, code):
    """A closed output is one that nobody reads, a closed input is empty."""
    line = ["bash", "-c", f"'{PROGRAM}' {words} {closed}"]
    done = subprocess.run(line, cwd=place, capture_output=True, text=True, env=BUFFERED, timeout=60, check=False)

    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "ignored" not in done.stderr


def test_what_the_system_refuses_is_an_object_with_json(place, monkeypatch):
    """A failure that is no error of ours is one JSON object, too."""
    monkeypatch.chdir(place)
    done = CliRunner().invoke(main, ["plan", "lint", "plan.json", "--codebase", "b.yaml/x", "--json"])

    assert (done.exit_code, set(json.loads(done.stdout))) == (1, {"error", "trace"})


def test_every_command_was_tried():
    """Each one stands in the list above, but those that need a person or minutes and have tests of their own."""
    tried = {tuple(words.split()) for words, *_ in TRIED}
    elsewhere = {("demo",), ("keys", "set"), ("plan", "make")}

    assert {words for words in LEAVES if not any(line[: len(words)] == words for line in tried)} == elsewhere


LIGHT = (
    *(
        "--help",
        "--version",
        "check --config b.yaml",
        "explain hello --config b.yaml",
        "models --config b.yaml",
        "schema",
    ),
    *("usage --config b.yaml", "usage --html u.html --config b.yaml", "init new.yaml", "local list"),
    *("plan lint plan.json", "audit verify --config b.yaml", "tools check read_file {} --config b.yaml"),
)


EACH = """
import contextlib, io, sys
from blueprint_llm.cli import main
for words in sys.stdin.read().splitlines():
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main(words.split())
    print(words, *sorted(set({heavy}) & sys.modules.keys()), sep=": ")
"""


def test_what_makes_no_call_imports_nothing_heavy(place):
    """LiteLLM, its clients, and our optional parts stay out of commands that need none of them."""
    command = [sys.executable, "-c", EACH.format(heavy=sorted(HEAVY))]
    given = "\n".join(LIGHT)
    done = subprocess.run(command, cwd=place, input=given, capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.splitlines() == list(LIGHT)
