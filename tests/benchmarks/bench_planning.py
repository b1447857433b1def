"""How long checking a plan takes, and finding the files of a goal in a project of 500 files."""

import json
import sysconfig
import time
from pathlib import Path

from blueprint_llm.planning import LintFacts, PlanLimits, lint
from blueprint_llm.planning.codebase import read_codebase
from blueprint_llm.planning.ranking import CodeIndex
from blueprint_llm.types import Plan

NOMINAL_US = 12.0
DOCUMENT = json.dumps({"rows": [{"key": n, "value": "x" * 20} for n in range(50)]})
GOAL = "parse the headers of an e-mail message and decode quoted printable text"


def best(call, times):
    """The shortest of several runs, in milliseconds."""
    runs = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        runs.append(time.perf_counter() - start)
    return min(runs) * 1e3


def scale():
    """How much slower than nominal this machine is now: `json.loads` of 2 KB against 12 us."""
    return best(lambda: [json.loads(DOCUMENT) for _ in range(200)], 20) / 200 * 1e3 / NOMINAL_US


def row(name, ours, limit_ms):
    """One line of the table; the limit is scaled by the yardstick of the same run."""
    limit = limit_ms * scale()
    return {
        "name": name,
        "ours": ours,
        "peer": "yardstick",
        "peer_value": limit,
        "ratio": ours / limit,
        "target": 1.0,
        "ok": ours <= limit,
        "unit": "ms",
    }


def plan_of(count):
    """A valid plan of `count` steps, each with files, acceptances and dependencies."""
    steps = [
        {
            "id": f"S{n}",
            "title": f"step {n}",
            "description": "what to do",
            "depends_on": [f"S{n - 1}", f"S{n // 2}"] if n > 2 else [f"S{m}" for m in range(1, n)],
            "covers": [f"R{n}"],
            "files": [f"src/m{n}.py", {"path": "src/shared.py", "op": "edit"}],
            "acceptance": ["it runs"],
        }
        for n in range(1, count + 1)
    ]
    facts = LintFacts(
        requirements=frozenset(f"R{n}" for n in range(1, count + 1)),
        files=frozenset({"src/shared.py", *(f"src/m{n}.py" for n in range(1, count + 1))}),
        models=frozenset({"cloud"}),
        left_usd=1.0,
        limits=PlanLimits(max_steps=count),
    )
    return Plan.model_validate({"id": "p", "overview": "o", "steps": steps}), facts


def lint_row(count, limit_ms):
    """A row for plans of one size."""
    plan, facts = plan_of(count)
    found = lint(plan, facts)
    if found:
        raise AssertionError(found)
    repeats = max(1, 500 // count)
    return row(f"lint {count} steps", best(lambda: [lint(plan, facts) for _ in range(repeats)], 20) / repeats, limit_ms)


def rows():
    """The table of this part."""
    library = Path(sysconfig.get_path("stdlib"))
    files = [path for path in sorted(library.rglob("*.py")) if "site-packages" not in path.parts][:500]
    indexes = []

    def cold():
        codebase = read_codebase(files)
        indexes.append(CodeIndex.of_texts({file.path: file.text for file in codebase.files}))
        indexes[-1].rank(GOAL, 10)

    taken = best(cold, 1)
    index = indexes[-1]
    return [
        lint_row(10, 0.1),
        lint_row(500, 5),
        row("rank 500 files, cold", taken, 5000),
        row("rank 500 files, warm", best(lambda: index.rank(GOAL, 10), 10), 100),
    ]


if __name__ == "__main__":
    for line in rows():
        print(line)
