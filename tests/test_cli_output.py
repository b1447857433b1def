"""What commands print: tables for narrow terminals, unknown amounts, failures as JSON, and what was meant."""

import json
from collections import Counter

import pytest
from click.testing import CliRunner
from driving import configuration
from report_rows import row, write_ledger

from blueprint_llm.cli import main
from blueprint_llm.cli.output import table_lines, usd

HEAD = ("MODEL", "CALLS", "COST USD", "REASON", "")
ROWS = [
    ["openai/gpt-4o", "12", "1.250000", "the first of the chain, which has a key and no open circuit", "▁▂▃▄▅▆▇█"],
    ["anthropic/claude-opus-4-5", "3", "unknown", "a fallback", "▁▁▁▁▁▁▁█"],
]


@pytest.mark.parametrize("width", [120, 80, 60, 40, 24])
def test_no_line_is_wider_than_the_terminal(width):
    """Whatever the width, all of every cell but the sparkline is there, and no line is longer."""
    lines = table_lines(HEAD, ROWS, width)
    shown, given = Counter("".join(lines)), Counter("".join(cell for each in ROWS for cell in each[:4]))

    assert max(map(len, lines)) <= width
    assert not {char: n for char, n in (given - shown).items() if char != " "}


def test_a_wide_terminal_and_a_pipe_have_the_whole_table():
    """A line for each row; numbers to the right, unknown ones too."""
    head, first, second = table_lines(HEAD, ROWS)

    assert table_lines(HEAD, ROWS, 200) == [head, first, second]
    assert first[head.index("COST USD") :].startswith("1.250000  the first")
    assert second[head.index("COST USD") :].startswith(" unknown  a fallback")


def test_a_narrow_table_wraps_its_text():
    """At 80 columns the longest text goes on below itself."""
    lines = table_lines(HEAD, ROWS, 80)

    assert lines[0].split() == ["MODEL", "CALLS", "COST", "USD", "REASON"]
    assert len(lines) == 4
    assert lines[2] == " " * lines[0].index("REASON") + "key and no open circuit"


def test_a_very_narrow_table_is_records():
    """At 40 columns each row is its name and, below, what the other columns say."""
    lines = table_lines(HEAD, ROWS, 40)

    assert lines[0] == "openai/gpt-4o"
    assert lines[1].startswith("  calls 12 · cost usd 1.250000")
    assert "anthropic/claude-opus-4-5" in lines


def test_no_word_is_cut_that_fits_a_line():
    """What is kept together comes apart at its space where it is longer than the line."""
    lines = table_lines(("PROVIDER", "MODEL", "REASON"), [("it", "openai/gpt-4o", "first of the chain")], 20)

    assert lines == ["it", "  model", "  openai/gpt-4o ·", "  reason first of", "  the chain"]


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        pytest.param((0.5, 0), "0.500000", id="known"),
        pytest.param((0.5, 2), "0.500000 + unknown", id="partly"),
        pytest.param((0.0, 2), "unknown", id="unknown"),
        pytest.param((None, 0), "unknown", id="none"),
        pytest.param((0.0, 0), "0.000000", id="free"),
    ],
)
def test_amounts(amount, text):
    """What is unknown is never shown as 0."""
    assert usd(*amount) == text


@pytest.fixture
def invoke(tmp_path, monkeypatch):
    """Run a command beside a configuration whose provider has no key, and a ledger of three calls."""
    ledger = tmp_path / "ledger.sqlite"
    rows = [row(1, usd=1, project="acme"), row(2, usd=None, project="acme"), row(3, usd=None, project="other")]
    write_ledger(ledger, [(0, each) for each in rows])
    block = configuration()["blueprint"]
    block["providers"] = {"first": {"model": "anthropic/claude-opus-4-5"}}
    block["chains"] = {"default": ["first"]}
    block["store"] = {"url": f"sqlite://{ledger}"}
    block["budgets"] = [{"scope": "project", "limit_usd": 8, "window": "month"}]
    (tmp_path / "b.yaml").write_text(json.dumps({"blueprint": block}))
    (tmp_path / "wrong.yaml").write_text("blueprint: {chain: {}}")
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(main, words)


@pytest.mark.parametrize(
    ("words", "kind", "code"),
    [
        pytest.param("chat hi --config b.yaml --json", "NoTargetError", 1, id="chat"),
        pytest.param("plan goal --config b.yaml --json", "PlanError", 1, id="plan"),
        pytest.param("plan goal --config b.yaml --format json", "PlanError", 1, id="plan's format"),
        pytest.param("run task --config b.yaml --json", "NoTargetError", 1, id="run"),
        pytest.param("explain hi --config wrong.yaml --json", "ConfigError", 1, id="explain"),
        pytest.param("usage --config wrong.yaml --json", "ConfigError", 1, id="usage"),
        pytest.param("usage --since soon --json", "BadParameter", 2, id="a wrong option"),
        pytest.param("chat --json", "UsageError", 2, id="nothing to say"),
        pytest.param("trace abcdef --config b.yaml --json", "ClickException", 1, id="trace"),
    ],
)
def test_a_failure_is_one_json_object(invoke, words, kind, code):
    """With --json standard output is one object that holds the error and the trace."""
    done = invoke(*words.split())
    found = json.loads(done.stdout)

    assert (done.exit_code, found["error"]["type"]) == (code, kind)
    assert found["error"]["message"]
    assert isinstance(found["trace"], dict)
    assert bool(found["trace"]) == (kind in {"NoTargetError", "PlanError"})


@pytest.mark.parametrize(
    ("words", "says"),
    [
        pytest.param(["chta", "hi"], "no command 'chta', did you mean 'chat'?", id="a command"),
        pytest.param(["keys", "lst"], "'list'", id="a subcommand"),
        pytest.param(["chat", "--modle", "x"], "--model", id="an option"),
    ],
)
def test_what_was_meant(invoke, words, says):
    """A misspelt word is a misuse that names the right one."""
    done = invoke(*words)

    assert (done.exit_code, done.stdout) == (2, "")
    assert says in done.stderr


@pytest.mark.parametrize(
    ("words", "costs"),
    [
        pytest.param(["--by", "project"], {"acme": "1.000000", "other": "unknown", "total": "1.000000"}, id="all"),
        pytest.param(["--by", "project", "--project", "other"], {"other": "unknown", "total": "unknown"}, id="one"),
    ],
)
def test_usage_of_a_project(invoke, words, costs):
    """--project counts one; what is unknown says so."""
    done = invoke("usage", *words, "--config", "b.yaml")
    lines = {line.split()[0]: line.split() for line in done.stdout.splitlines()[1:]}

    assert {name: cells[5] for name, cells in lines.items()} == costs
    assert ("+ unknown" in done.stdout) == ("--project" not in words)


def test_the_page_names_what_it_counts(invoke, tmp_path):
    """The page is of one project, or says that it is of all."""
    invoke("usage", "--html", "all.html", "--config", "b.yaml")
    invoke("usage", "--html", "one.html", "--project", "other", "--config", "b.yaml")

    assert "<title>Usage of all projects</title>" in (tmp_path / "all.html").read_text()
    assert "<title>Usage of other</title>" in (tmp_path / "one.html").read_text()
    assert "trace-1" not in (tmp_path / "one.html").read_text()


def test_explain_shows_the_limits(invoke):
    """Below the targets: each limit that counts the request, how full it is, and when it is empty again."""
    shown = invoke("explain", "hi", "--config", "b.yaml").stdout

    assert "skipped" in shown
    assert "ANTHROPIC_API_KEY" in shown
