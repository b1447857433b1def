"""Every speed bar of the project in one table: ours, the peer of the same run, the ratio and the target.

`python tests/benchmarks/run.py [PART ...] [--json FILE]`; a part is the name of a `bench_<part>.py` beside this file.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FIELDS = ("part", "name", "ours", "unit", "peer", "peer_value", "ratio", "target", "ok")
HEAD = ("PART", "WHAT", "OURS", "PEER", "PEER'S", "RATIO", "TARGET", "")
WIDTHS = (18, 58, 16, 34, 16, 8, 8, 6)
LONGEST_S = 900


def parts(folder: Path, names: list[str]) -> list[Path]:
    """The bench files asked for; all of them by default. Raises SystemExit for a name that is none."""
    there = {path.stem.removeprefix("bench_"): path for path in sorted(folder.glob("bench_*.py"))}
    if unknown := sorted(set(names) - set(there)):
        raise SystemExit(f"no such part: {', '.join(unknown)}; there are {', '.join(there)}")
    return [path for name, path in there.items() if not names or name in names]


def measure(path: Path) -> list[dict[str, Any]]:
    """One part's rows, measured in a process of its own: no part warms another's imports."""
    command = [sys.executable, str(Path(__file__)), "--one", str(path)]
    part = path.stem.removeprefix("bench_")
    try:
        finished = subprocess.run(command, capture_output=True, text=True, check=True, timeout=LONGEST_S)
        return [_filled(part, row) for row in json.loads(finished.stdout.splitlines()[-1])]
    except (subprocess.SubprocessError, ValueError, IndexError) as error:
        sys.stderr.write(f"{part}: {error}\n{getattr(error, 'stderr', None) or ''}\n")
        return [_filled(part, {"name": "did not finish", "ok": False})]


def _filled(part: str, row: dict[str, Any]) -> dict[str, Any]:
    """A row with every field; what a part does not say, or that is no number in JSON, is None."""
    known = {name: part if name == "part" else row.get(name) for name in FIELDS}
    return {name: None if isinstance(each, float) and not math.isfinite(each) else each for name, each in known.items()}


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Import a bench file and run it."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    rows: list[dict[str, Any]] = module.rows()
    return rows


def _number(value: Any, unit: str | None = None) -> str:
    return f"{value:.4g} {unit or ''}".rstrip() if isinstance(value, int | float) else "-"


def print_line(cells: tuple[str, ...]) -> None:
    """One line of the table, as soon as it is known."""
    print("  ".join(cell.ljust(width) for cell, width in zip(cells, WIDTHS, strict=True)).rstrip(), flush=True)


def print_row(row: dict[str, Any]) -> None:
    """One bar: whether it held is its last cell; a row without a target is for information."""
    verdict = {True: "ok", False: "MISSED"}.get(row["ok"], "")
    ours, theirs = _number(row["ours"], row["unit"]), _number(row["peer_value"], row["unit"])
    print_line(
        (
            row["part"],
            row["name"],
            ours,
            row["peer"] or "-",
            theirs,
            _number(row["ratio"]),
            _number(row["target"]),
            verdict,
        )
    )


def main() -> int:
    """Measure, print, and fail when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*")
    parser.add_argument("--json", type=Path, help="write the rows, and what they were measured on, to this file")
    parser.add_argument("--folder", type=Path, default=HERE, help=argparse.SUPPRESS)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(rows_of(asked.one)))
        return 0
    print_line(HEAD)
    rows = []
    for path in parts(asked.folder, asked.parts):
        for row in measure(path):
            print_row(row)
            rows.append(row)
    missed = [row["name"] for row in rows if row["ok"] is False]
    print(f"{len(rows)} rows, {len(missed)} missed")
    if asked.json:
        machine = {"python": platform.python_version(), "system": platform.platform()}
        asked.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2, allow_nan=False))
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
