"""How long checking a plan takes, and finding the files of a goal in a project of 500 files."""

import sysconfig
from pathlib import Path

from measuring import best_s, limited

from blueprint_llm.planning import LintFacts, PlanLimits, lint
from blueprint_llm.planning.project import CodeIndex, read_codebase
from blueprint_llm.types import Plan

GOAL = "parse the headers of an e-mail message and decode quoted printable text"


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
    took = best_s(lambda: [lint(plan, facts) for _ in range(repeats)], 20) / repeats
    return limited(f"lint {count} steps", took * 1e3, limit_ms, "ms")


def rows():
    """The table of this part."""
    library = Path(sysconfig.get_path("stdlib"))
    files = [path for path in sorted(library.rglob("*.py")) if "site-packages" not in path.parts][:500]
    indexes = []

    def cold():
        codebase = read_codebase(files)
        indexes.append(CodeIndex(dict(codebase.files)))
        indexes[-1].rank(GOAL, 10)

    taken = best_s(cold, 1) * 1e3
    index = indexes[-1]
    return [
        lint_row(10, 0.1),
        lint_row(500, 5),
        limited("rank 500 files, cold", taken, 5000, "ms"),
        limited("rank 500 files, warm", best_s(lambda: index.rank(GOAL, 10), 10) * 1e3, 100, "ms"),
    ]


if __name__ == "__main__":
    for line in rows():
        print(line)
