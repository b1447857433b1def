"""The bench's table: every part's rows in one, as JSON too, and a part that breaks is a bar that was missed."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "benchmarks"
HELD = {"name": "walk", "ours": 2.0, "unit": "us", "peer": "litellm", "peer_value": 4.0, "ratio": 0.5, "target": 1.0}
GOOD = f"def rows():\n    return [{ {**HELD, 'ok': True} }]\n"
SLOW = "def rows():\n    return [{'name': 'run', 'ours': 9.0, 'target': float('inf'), 'ok': False, 'more': 1}]\n"
FIELDS = ("part", "name", "ours", "unit", "peer", "peer_value", "ratio", "target", "ok")


def run(folder, *arguments, **files):
    """The bench over parts of our own."""
    for name, text in files.items():
        (folder / f"bench_{name}.py").write_text(text)
    command = [sys.executable, str(HERE / "run.py"), "--folder", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_table_and_the_json_hold_every_part(tmp_path):
    """Each row says ours, the peer's, ratio, target and whether it held; a missed one fails the command."""
    ran = run(tmp_path, "--json", str(tmp_path / "bench.json"), good=GOOD, slow=SLOW)

    assert ran.returncode == 1
    head, good, slow, last = ran.stdout.splitlines()
    assert head.split() == ["PART", "WHAT", "OURS", "PEER", "PEER'S", "RATIO", "TARGET"]
    assert good.split() == ["good", "walk", "2", "us", "litellm", "4", "us", "0.5", "1", "ok"]
    assert slow.split()[-1] == "MISSED"
    assert last == "2 rows, 1 missed"
    rows = json.loads((tmp_path / "bench.json").read_text())["rows"]
    assert [row["part"] for row in rows] == ["good", "slow"]
    assert {tuple(row) for row in rows} == {FIELDS}
    assert rows[1]["target"] is None


def test_bars_that_hold_are_exit_code_0(tmp_path):
    """Nothing missed is success; only the parts asked for are run."""
    ran = run(tmp_path, "good", good=GOOD, slow=SLOW)

    assert (ran.returncode, ran.stdout.splitlines()[-1]) == (0, "1 rows, 0 missed")


@pytest.mark.parametrize(
    "text", ["raise OSError('no disk')", "def rows():\n    print('done')\n    return []\nimport sys; sys.exit()"]
)
def test_a_part_that_breaks_is_missed(tmp_path, text):
    """A part that crashes, or ends without rows, is not left out in silence."""
    ran = run(tmp_path, broken=text, good=GOOD)

    assert ran.returncode == 1
    assert "broken" in ran.stdout
    assert "did not finish" in ran.stdout
    assert "2 rows, 1 missed" in ran.stdout


def test_an_unknown_part_is_refused(tmp_path):
    """A misspelt part is told with those that there are, and nothing is measured."""
    ran = run(tmp_path, "god", good=GOOD)

    assert ran.returncode == 1
    assert "no such part: god; there are good" in ran.stderr


@pytest.mark.parametrize("path", sorted(HERE.glob("bench_*.py")), ids=lambda path: path.stem)
def test_every_part_has_rows(path):
    """Each bench file offers `rows()`, which the table calls."""
    functions = [node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]

    assert "rows" in functions
