"""Every speed bar of the project in one table: ours, the peer of the same run, the ratio and the target.

`python tests/benchmarks/run.py [PART ...] [--json FILE]`; a part is the name of a `bench_<part>.py` beside this file.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
HEAD = ("PART", "WHAT", "OURS", "PEER", "PEER'S", "RATIO", "TARGET", "")


def parts(names: list[str]) -> list[Path]:
    """The bench files asked for; all of them by default."""
    return [path for path in sorted(HERE.glob("bench_*.py")) if not names or path.stem.removeprefix("bench_") in names]


def measure(path: Path) -> list[dict[str, Any]]:
    """One part's rows, measured in a process of its own: no part warms another's imports."""
    command = [sys.executable, str(Path(__file__)), "--one", str(path)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    if finished.returncode:
        sys.stderr.write(finished.stderr)
        return [{"name": "crashed", "ok": False}]
    rows: list[dict[str, Any]] = json.loads(finished.stdout.splitlines()[-1])
    return rows


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


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "-"


def print_rows(part: str, rows: list[dict[str, Any]]) -> None:
    """One line per row."""
    for row in rows:
        unit = row.get("unit", "")
        verdict = {True: "ok", False: "MISSED"}.get(row.get("ok"), "")
        cells = (
            part,
            row["name"],
            f"{_number(row.get('ours'))} {unit}",
            str(row.get("peer", "")),
            f"{_number(row.get('peer_value'))} {unit}",
            _number(row.get("ratio")),
            _number(row.get("target")),
            verdict,
        )
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, (12, 58, 16, 34, 16, 8, 8, 6), strict=True)))


def main() -> int:
    """Measure, print, and fail when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(rows_of(asked.one)))
        return 0
    results = {}
    for path in parts(asked.parts):
        part = path.stem.removeprefix("bench_")
        results[part] = measure(path)
        print_rows(part, results[part])
    if asked.json:
        asked.json.write_text(json.dumps(results, indent=2))
    return int(any(row.get("ok") is False for rows in results.values() for row in rows))


if __name__ == "__main__":
    sys.exit(main())
