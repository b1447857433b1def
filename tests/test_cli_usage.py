"""`blueprint-llm usage`: the table with its sparklines, --by, --since, --json, the page, and `reset`."""

import json
import os
import re
import stat
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner
from report_rows import row, write_ledger

from blueprint_llm import load_config, sync
from blueprint_llm.cli import main
from blueprint_llm.cli.usage import sparkline
from blueprint_llm.types import UsageTotals
from blueprint_llm.usage import Ledger
from blueprint_llm.usage.stores.records import Reservation
from blueprint_llm.usage.stores.sqlite import SqliteStore

ROWS = [
    (20, row(1, usd=4)),
    (3, row(2, usd=1, model="anthropic/claude", provider="opus", session="s", project="acme")),
    (1, row(3, usd=2, latency_s=3.0)),
    (1, row(4, call="c", category="timeout", usd=0)),
    (0, row(5, call="c", attempt=2, usd=1.5)),
    (0, row(6, cache_hit=True, usd=0, saved_nano=10**9)),
]


@pytest.fixture
def ledger(tmp_path):
    """A ledger of six attempts over three weeks."""
    path = tmp_path / "ledger.sqlite"
    write_ledger(path, ROWS)
    return path


@pytest.fixture
def usage(tmp_path, ledger):
    """Run `blueprint-llm usage ...` on it."""
    config = tmp_path / "b.yaml"
    budget = {"scope": "project", "limit_usd": 8, "window": "month", "on_exceed": "block"}
    block = {"project": "acme", "store": {"url": f"sqlite://{ledger}"}, "budgets": [budget]}
    config.write_text(json.dumps({"blueprint": block}))

    def run(*arguments):
        return CliRunner().invoke(main, ["usage", *arguments, "--config", str(config)], catch_exceptions=False)

    return run


def table(result):
    """The lines of a table by their first word."""
    assert result.exit_code == 0, result.stderr
    return {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines()}


@pytest.mark.parametrize(
    ("by", "names"),
    [
        pytest.param("provider", {"cloud", "opus"}, id="provider"),
        pytest.param("model", {"openai/gpt-4o", "anthropic/claude"}, id="model"),
        pytest.param("session", {"s"}, id="session"),
        pytest.param("project", {"acme"}, id="project"),
        pytest.param("day", {f"{datetime.now(UTC) - timedelta(days=n):%Y-%m-%d}" for n in (20, 3, 1, 0)}, id="day"),
    ],
)
def test_the_table_by(usage, by, names):
    """A line for each, and one for all."""
    lines = table(usage("--by", by))

    assert set(lines) == {by.upper(), "total", *names}
    assert lines["total"][:2] == ["5", "1"]
    assert lines["total"][4] == "8.500000"


def test_columns_line_up(usage):
    """Numbers stand to the right, under each other."""
    head, *lines = usage().stdout.splitlines()
    end = head.index("COST USD") + len("COST USD")

    assert [re.search(r" (\d+\.\d{6})$", line[:end])[1] for line in lines] == ["7.500000", "1.000000", "8.500000"]
    assert head[end:].startswith("  P50 S")


def test_the_sparkline_is_the_cost_of_two_weeks(usage):
    """One block a day, the highest for the dearest; older days are left out."""
    lines = table(usage("--by", "model"))

    assert lines["openai/gpt-4o"][-1] == "▁" * 12 + "█▆"
    assert lines["anthropic/claude"][-1] == "▁" * 10 + "█" + "▁" * 3


@pytest.mark.parametrize(
    ("days", "line"),
    [
        pytest.param({"b": UsageTotals(cost_usd=1), "c": UsageTotals(cost_usd=4)}, "▁▃█", id="cost"),
        pytest.param({"a": UsageTotals(calls=2), "c": UsageTotals(calls=1)}, "█▁▅", id="free calls are counted"),
        pytest.param({"z": UsageTotals(cost_usd=1)}, "", id="nothing in these days"),
    ],
)
def test_blocks(days, line):
    """The dearest day is the full block."""
    assert sparkline(days, ["a", "b", "c"]) == line


@pytest.mark.parametrize(
    ("since", "calls"),
    [
        pytest.param("2d", "3", id="days"),
        pytest.param("100d", "5", id="long ago"),
        pytest.param("1m", "2", id="minutes"),
        pytest.param(f"{datetime.now(UTC) - timedelta(days=3):%Y-%m-%d}", "4", id="a day"),
        pytest.param((datetime.now(UTC) - timedelta(days=2)).isoformat(), "3", id="a moment"),
        pytest.param("2020-01-01T00:00:00+02:00", "5", id="another zone"),
    ],
)
def test_since(usage, since, calls):
    """Ages, days and moments are understood; only what came later is counted."""
    assert table(usage("--since", since))["total"][0] == calls


def test_nonsense_is_no_moment(usage):
    """A usage error says how to write one."""
    result = usage("--since", "yesterday")

    assert result.exit_code == 2
    assert "7d, 12h, 2026-11-01" in result.stderr


def test_json_has_every_dimension(usage):
    """One document: totals, and the same by provider, model, session, project and day."""
    found = json.loads(usage("--json", "--since", "5d").stdout)

    assert (found["calls"], found["cost_usd"], found["cache_hits"]) == (4, 4.5, 1)
    assert found["by_model"]["anthropic/claude"]["calls"] == found["by_session"]["s"]["calls"] == 1
    assert [day["cost_usd"] for day in found["by_day"].values()] == [1, 2, 1.5]


def test_the_page_is_written_whole_or_not_at_all(usage, tmp_path):
    """It replaces a file in one step, leaves nothing beside it, and says on stderr where it is."""
    page = tmp_path / "usage.html"
    page.write_text("old")
    before = page.stat().st_ino
    result = usage("--html", str(page))

    assert (result.exit_code, result.stdout, result.stderr) == (0, "", f"wrote {page}\n")
    assert page.read_text().startswith("<!doctype html>")
    assert page.stat().st_ino != before
    assert {path.name for path in tmp_path.iterdir()} >= {"usage.html", "b.yaml"}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".usage")]


def test_the_page_and_json_together(usage, tmp_path):
    """Both are given where both are asked for."""
    result = usage("--html", str(tmp_path / "page.html"), "--json")

    assert json.loads(result.stdout)["calls"] == 5
    assert (tmp_path / "page.html").exists()


def test_a_folder_that_is_not_there_is_one_line(usage, tmp_path):
    """Exit code 1, no traceback."""
    result = usage("--html", str(tmp_path / "no" / "usage.html"))

    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert "No such file or directory" in result.stderr


def test_reset_lowers_no_budget_unless_told(usage, ledger, tmp_path):
    """`reset` counts afresh and leaves the budgets; `--budgets` empties them too."""
    (charge,) = Ledger(load_config(tmp_path / "b.yaml")).lasting()
    store = SqliteStore(ledger)
    sync.run(store.reserve(Reservation("x", (charge._replace(amount=5),), 0.0, row(9, id="x"))))

    def used():
        return [level.used for level in sync.run(store.levels([charge]))]

    assert used() == [5]
    assert "budgets and quotas are unchanged" in usage("reset").stdout
    assert (table(usage())["total"][0], used()) == ("0", [5])
    assert json.loads(usage("reset", "--budgets", "--json").stdout) == {"usage": "reset", "budgets": "reset"}
    assert used() == [0]
    sync.run(store.aclose())


def test_config_may_stand_before_reset(tmp_path, ledger, usage):
    """`usage --config FILE reset` and `usage reset --config FILE` are the same."""
    usage("--json")
    done = CliRunner().invoke(main, ["usage", "--config", str(tmp_path / "b.yaml"), "reset"])

    assert done.exit_code == 0
    assert table(usage())["total"][0] == "0"


def test_a_page_is_readable_by_its_owner_as_files_are(usage, tmp_path):
    """The page has the mode that the user's umask gives to files."""
    umask = os.umask(0o027)
    try:
        usage("--html", str(tmp_path / "page.html"))
    finally:
        os.umask(umask)

    assert stat.S_IMODE((tmp_path / "page.html").stat().st_mode) == 0o640
