"""Lint: every injected defect is found, valid plans are silent, repair changes no meaning."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from blueprint_llm.planning import RULES, LintFacts, PlanLimits, diff_plans, lint, read_constraint
from blueprint_llm.planning.plans import repair
from blueprint_llm.types import FileChange, Plan, PlanStep

if TYPE_CHECKING:
    from collections.abc import Callable

FILES = frozenset(f"src/m{n}.py" for n in range(20)) | {"src/legacy/old.py"}
RULE = read_constraint("path: src/legacy is read-only")
assert RULE is not None
FACTS = LintFacts(
    requirements=frozenset({"R1", "R2", "R3"}),
    rules=(RULE,),
    files=FILES,
    models=frozenset({"local", "opus"}),
    left_usd=1.0,
    limits=PlanLimits(max_steps=12),
)


def make_step(n: int, **more: Any) -> dict[str, Any]:
    """A valid step as a dict."""
    lists: dict[str, Any] = {"depends_on": [], "covers": [], "files": [], "acceptance": ["it runs"]}
    return {"id": f"S{n}", "title": f"step {n}", "description": "d", **lists, **more}


def valid(draw: random.Random) -> dict[str, Any]:
    """A random valid plan of 4 to 10 steps, as a dict: a chain with cross links, each file owned by one step."""
    count = draw.randint(4, 10)
    steps = [make_step(n) for n in range(1, count + 1)]
    for n, step in enumerate(steps):
        earlier = [s["id"] for s in steps[:n]]
        step["depends_on"] = sorted({*draw.sample(earlier, min(len(earlier), draw.randint(0, 2))), *earlier[-1:]})
        step["suggested_model"] = draw.choice([None, "local", "opus"])
        step["files"] = [{"path": f"src/m{n}.py", "op": "edit"}, {"path": "src/legacy/old.py", "op": "read"}]
        if draw.random() < 0.3:
            step["files"].append({"path": f"new/f{n}.py", "op": "create"})
    for name in ("R1", "R2", "R3"):
        draw.choice(steps)["covers"].append(name)
    return {"id": "p", "overview": "o", "steps": steps, "metadata": {"cost_usd": {"low": 0, "likely": 0.5, "high": 2}}}


def some(draw: random.Random, plan: dict[str, Any]) -> dict[str, Any]:
    """A random step."""
    step: dict[str, Any] = draw.choice(plan["steps"])
    return step


def cyclic(draw: random.Random, plan: dict[str, Any]) -> None:
    """An early step depends on a later one that comes after it."""
    last = draw.randint(1, len(plan["steps"]) - 1)
    plan["steps"][draw.randint(0, last - 1)]["depends_on"].append(plan["steps"][last]["id"])


def unordered(draw: random.Random, plan: dict[str, Any]) -> None:
    """Two new steps that know nothing of each other write one file."""
    count = len(plan["steps"])
    for n in (count + 1, count + 2):
        plan["steps"].append(make_step(n, files=[{"path": "src/m19.py", "op": "edit"}]))


def add(path: str, op: str) -> Callable[[random.Random, dict[str, Any]], None]:
    """A mutation that adds one file change to a random step."""
    return lambda draw, plan: some(draw, plan)["files"].append({"path": path, "op": op})


def put(key: str, value: Any) -> Callable[[random.Random, dict[str, Any]], None]:
    """A mutation that overwrites one field of a random step."""
    return lambda draw, plan: some(draw, plan).update({key: value})


def delete_then_edit(draw: random.Random, plan: dict[str, Any]) -> None:
    """The first step deletes what the last one edits."""
    plan["steps"][0]["files"].append({"path": "src/m18.py", "op": "delete"})
    plan["steps"][-1]["files"].append({"path": "src/m18.py", "op": "edit"})


def uncover(draw: random.Random, plan: dict[str, Any]) -> None:
    """No step covers R2."""
    for step in plan["steps"]:
        step["covers"] = [name for name in step["covers"] if name != "R2"]


def double_id(draw: random.Random, plan: dict[str, Any]) -> None:
    """The last step takes another's id."""
    plan["steps"][-1].update(id=plan["steps"][0]["id"], depends_on=[])


def lengthen(draw: random.Random, plan: dict[str, Any]) -> None:
    """More steps than allowed."""
    count = len(plan["steps"])
    plan["steps"] += [make_step(n) for n in range(count + 1, 14)]


def self_depend(draw: random.Random, plan: dict[str, Any]) -> None:
    """A step waits for itself."""
    step = some(draw, plan)
    step["depends_on"].append(step["id"])


MUTATIONS: dict[str, list[Callable[[random.Random, dict[str, Any]], Any]]] = {
    "no_steps": [lambda draw, plan: plan["steps"].clear()],
    "too_many_steps": [lengthen],
    "duplicate_id": [double_id],
    "self_dependency": [self_depend],
    "dangling_dependency": [lambda draw, plan: some(draw, plan)["depends_on"].append("S99")],
    "cycle": [cyclic],
    "missing_title": [put("title", "  ")],
    "missing_acceptance": [put("acceptance", []), put("acceptance", [" "])],
    "too_large": [put("title", "t" * 500), put("description", "d" * 5000), put("acceptance", ["x"] * 11)],
    "unknown_requirement": [lambda draw, plan: some(draw, plan)["covers"].append("R9")],
    "uncovered_requirement": [uncover],
    "bad_path": [add("/etc/passwd", "read"), add("a/../../b", "create"), add("a\\b", "create"), add("C:/x", "create")],
    "constraint_violated": [add("src/legacy/old.py", "edit"), add("src/legacy/new.py", "create")],
    "unknown_file": [add("src/none.py", "edit"), add("src/none.py", "read")],
    "create_exists": [add("src/m17.py", "create")],
    "use_after_delete": [delete_then_edit],
    "write_conflict": [unordered],
    "unknown_model": [put("suggested_model", "gpt-9")],
    "over_budget": [lambda draw, plan: plan["metadata"]["cost_usd"].update(likely=1.5)],
}


def test_there_are_at_least_twelve_rules() -> None:
    """The rules know at least twelve kinds of defect."""
    assert len(RULES) >= 12
    assert len(MUTATIONS) >= 12


@pytest.mark.parametrize("code", sorted(MUTATIONS))
def test_every_injected_defect_is_found(code: str) -> None:
    """Fifty-three mutants of each of nineteen kinds, over 1,000 in all: each is found under its code."""
    draw = random.Random(code)  # noqa: S311 - test data
    for _ in range(53):
        plan = valid(draw)
        draw.choice(MUTATIONS[code])(draw, plan)
        found = {finding.code for finding in lint(Plan.model_validate(plan), FACTS)}

        assert code in found


def test_valid_plans_are_silent() -> None:
    """A thousand valid plans have no finding, with facts and without."""
    draw = random.Random(1)  # noqa: S311 - test data
    for _ in range(1000):
        plan = Plan.model_validate(valid(draw))

        assert lint(plan, FACTS) == []
        assert lint(plan) == []


def test_a_file_made_by_an_earlier_step_exists() -> None:
    """Editing what an ancestor creates is fine, and creating again what it deletes."""
    steps = [
        make_step(1, files=[{"path": "a.py", "op": "create"}, {"path": "src/m1.py", "op": "delete"}]),
        make_step(2, depends_on=["S1"], files=["a.py", {"path": "src/m1.py", "op": "create"}]),
        make_step(3, depends_on=["S2"], files=["src/m1.py"]),
    ]
    plan = Plan.model_validate({"id": "p", "overview": "o", "steps": steps})

    assert lint(plan, LintFacts(files=FILES)) == []


def test_two_steps_of_one_id_that_write_one_file_are_a_finding() -> None:
    """Which of them comes first nobody can tell; lint says that their id is doubled, and does not break."""
    plan = Plan.model_validate(
        {"id": "p", "overview": "o", "steps": [make_step(1, files=["src/m1.py"]), make_step(1, files=["src/m1.py"])]}
    )

    assert [finding.code for finding in lint(plan, LintFacts(files=FILES))] == ["duplicate_id"]


def test_finished_steps_are_not_held_against_the_tree() -> None:
    """What a finished step created exists by now, and it comes before every open step."""
    steps = [
        make_step(1, status="done", files=[{"path": "src/m1.py", "op": "create"}]),
        make_step(2, files=["src/m1.py"]),
    ]
    plan = Plan.model_validate({"id": "p", "overview": "o", "steps": steps})

    assert lint(plan, LintFacts(files=FILES)) == []


def test_retired_requirements_may_be_named_but_need_no_cover() -> None:
    """A finished step may cover what is no longer asked for."""
    plan = Plan.model_validate({"id": "p", "overview": "o", "steps": [make_step(1, covers=["R1", "R7"])]})

    assert lint(plan, LintFacts(requirements=frozenset({"R1"}), retired=frozenset({"R7"}))) == []


def test_a_finding_says_only_what_it_knows() -> None:
    """Findings become JSON without empty places."""
    plan = Plan.model_validate({"id": "p", "overview": "o", "steps": [make_step(1)]})
    [finding] = lint(plan, LintFacts(requirements=frozenset({"R1"})))

    assert finding.to_dict() == {
        "code": "uncovered_requirement",
        "message": "no step covers R1",
        "requirement": "R1",
    }


@pytest.mark.parametrize(
    ("text", "path", "op", "forbidden"),
    [
        pytest.param("path: src/legacy is read-only", "src/legacy/a.py", "edit", True, id="write below"),
        pytest.param("path: src/legacy is read-only", "src/legacy/a.py", "read", False, id="read below"),
        pytest.param("path: src/legacy is read-only", "src/legacy2/a.py", "edit", False, id="a longer name"),
        pytest.param("PATH: `./src/legacy/` is Read-Only.", "src/legacy", "delete", True, id="loosely written"),
        pytest.param("path: secrets is off-limits", "secrets/k", "read", True, id="off limits"),
        pytest.param("path: *.lock is read-only", "poetry.lock", "edit", True, id="glob"),
        pytest.param("path: only src", "docs/x", "create", True, id="outside"),
        pytest.param("path: only src", "docs/x", "read", False, id="read outside"),
        pytest.param("path: only src", "src/x", "edit", False, id="inside"),
    ],
)
def test_path_constraints(*, text: str, path: str, op: str, forbidden: bool) -> None:
    """Typed constraints bind reading and writing as they say."""
    rule = read_constraint(text)

    assert rule is not None
    assert rule.forbids(FileChange.model_validate({"path": path, "op": op})) is forbidden


@pytest.mark.parametrize("text", ["keep it simple", "path: src", "path: a b is read-only"])
def test_other_constraints_are_not_proved(text: str) -> None:
    """Free text is no rule."""
    assert read_constraint(text) is None


def steps_of(*rows: tuple[str, list[str]]) -> list[PlanStep]:
    """Steps from (id, dependencies)."""
    return [PlanStep(id=name, title=name, depends_on=needs) for name, needs in rows]


def test_repair_renumbers_and_drops_dependencies_on_nothing() -> None:
    """Unclear ids become S1, S2, ...; self, dangling and doubled dependencies go, each with a note."""
    steps = steps_of(("one", []), ("two", ["one", "two", "gone", "one", "D1"]))

    mended, notes = repair(steps, ["S1", "S2"], frozenset({"D1"}))

    assert [(step.id, step.depends_on) for step in mended] == [("S1", []), ("S2", ["S1", "D1"])]
    assert notes == [
        "renumbered one to S1",
        "renumbered two to S2",
        "S2: dropped the dependency on S2",
        "S2: dropped the dependency on gone",
    ]


def test_repair_leaves_a_doubled_id_that_is_referred_to() -> None:
    """Nobody can tell which of two steps is meant, so lint has to refuse."""
    steps = steps_of(("a", []), ("a", []), ("b", ["a", "zz"]))

    mended, _ = repair(steps, ["S1", "S2", "S3"], frozenset())

    assert [step.id for step in mended] == ["a", "a", "b"]
    assert mended[2].depends_on == ["a"]


def test_repair_renumbers_doubled_ids_that_nobody_refers_to() -> None:
    """Two steps of one name without dependants are simply two steps."""
    mended, _ = repair(steps_of(("a", []), ("a", [])), ["S1", "S2"], frozenset())

    assert [step.id for step in mended] == ["S1", "S2"]


def test_repair_never_adds_anything() -> None:
    """Steps, coverage, acceptance and files come out as they went in."""
    draw = random.Random(3)  # noqa: S311 - test data
    for _ in range(300):
        plan = valid(draw)
        for code in draw.sample(sorted(MUTATIONS), 2):
            if plan["steps"]:
                draw.choice(MUTATIONS[code])(draw, plan)
        steps = Plan.model_validate(plan).steps

        mended, _ = repair(steps, [f"S{n}" for n in range(1, len(steps) + 1)], frozenset())

        kept = [(s.title, s.description, s.covers, s.acceptance, s.files, s.status) for s in steps]
        assert [(s.title, s.description, s.covers, s.acceptance, s.files, s.status) for s in mended] == kept


def test_a_diff_goes_by_what_steps_say() -> None:
    """Renumbering is no change; new content under one title is."""
    old = Plan.model_validate(
        {"id": "p", "overview": "o", "steps": [make_step(1), make_step(2, depends_on=["S1"]), make_step(3)]}
    )
    new = [make_step(1, title="fresh"), make_step(2, title="Step  1"), make_step(3, title="step 2", depends_on=["S2"])]
    twice = make_step(4, title="step 1", description="d")
    plan = Plan.model_validate({"id": "p", "overview": "o", "steps": [*new, twice]})

    diff = diff_plans(old, plan)

    assert diff == {"added": ["S1", "S4"], "removed": ["S3"], "changed": [], "kept": ["S2", "S3"]}
    assert diff_plans(
        plan, Plan.model_validate({**plan.model_dump(), "steps": [*new[:2], make_step(3, title="step 2")]})
    )


def test_changed_content_is_a_change() -> None:
    """A step with the same title and another description, cover or file has changed."""
    base = Plan.model_validate({"id": "p", "overview": "o", "steps": [make_step(1)]})
    for more in ({"description": "x"}, {"covers": ["R1"]}, {"files": ["a"]}, {"acceptance": ["y"]}):
        other = Plan.model_validate({"id": "p", "overview": "o", "steps": [make_step(1, **more)]})

        assert diff_plans(base, other)["changed"] == ["S1"]


def test_limits_can_be_widened() -> None:
    """The number of steps allowed is a parameter."""
    plan = Plan.model_validate({"id": "p", "overview": "o", "steps": [make_step(n) for n in range(1, 101)]})

    assert [finding.code for finding in lint(plan)] == ["too_many_steps"]
    assert lint(plan, replace(LintFacts(), limits=PlanLimits(max_steps=100))) == []
