"""Plans on disk, in the shell and under way."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest
from click.testing import CliRunner

from blueprint_llm.cli import main
from blueprint_llm.cli.plan import _Progress
from blueprint_llm.cli.plan import plan as command
from blueprint_llm.config.paths import folder
from blueprint_llm.errors import CallError, PlanError
from blueprint_llm.events import Event
from blueprint_llm.planning import lint, plan_facts, read_plan_file, run_plan, save_plan, write_plan
from blueprint_llm.types import Plan, PlanStep


def make_plan(*steps: dict[str, Any], **more: Any) -> Plan:
    """A plan of steps with titles and acceptances."""
    full = [{"title": f"do {step['id']}", "acceptance": ["it runs"], **step} for step in steps]
    return Plan.model_validate({"id": "plan-1", "overview": "o", "steps": full, **more})


CHAIN = make_plan({"id": "S2", "depends_on": ["S1"]}, {"id": "S1"}, {"id": "S3", "depends_on": ["S2"]})


def test_a_saved_plan_comes_back_equal(tmp_path: Path) -> None:
    """Revisions are files of their own."""
    saved, path = save_plan(CHAIN, tmp_path / "plans")
    again, other = save_plan(make_plan({"id": "S1"}), tmp_path / "plans")

    assert path == tmp_path / "plans" / "plan-1" / "r1.json"
    assert (again.revision, other.name) == (2, "r2.json")
    assert read_plan_file(path) == saved
    assert read_plan_file(other) == again
    assert saved_in(tmp_path / "plans") == ["r1.json", "r2.json"]


def saved_in(root: Path) -> list[str]:
    """The names of all files of the one plan under `root`."""
    return sorted(path.name for path in (root / "plan-1").iterdir())


def test_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    """Eight threads save eight revisions, each whole."""
    threads = [threading.Thread(target=save_plan, args=(CHAIN, tmp_path)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert saved_in(tmp_path) == [f"r{n}.json" for n in range(1, 9)]
    assert {read_plan_file(path).hash for path in (tmp_path / "plan-1").iterdir()} == {CHAIN.hash}


def test_the_default_folder_is_the_users_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans live under BLUEPRINT_HOME where that is set."""
    monkeypatch.setenv("BLUEPRINT_HOME", str(tmp_path))

    assert save_plan(CHAIN)[1] == tmp_path / "state" / "plans" / "plan-1" / "r1.json"


def test_what_is_no_plan_is_said_clearly(tmp_path: Path) -> None:
    """Missing files, broken JSON and other JSON are each one error."""
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.json").write_text('{"id": "x"}')

    with pytest.raises(PlanError, match="cannot read"):
        read_plan_file(tmp_path / "c.json")
    with pytest.raises(PlanError, match="not JSON"):
        read_plan_file(tmp_path / "a.json")
    with pytest.raises(PlanError, match="overview"):
        read_plan_file(tmp_path / "b.json")


def test_the_hash_binds_content_not_progress() -> None:
    """Status and revision leave it; a title changes it."""
    same = CHAIN.model_copy(update={"revision": 9})
    steps = [step.model_dump() | {"status": "done"} for step in CHAIN.steps]

    assert Plan.model_validate(CHAIN.model_dump() | {"steps": steps}).hash == CHAIN.hash == same.hash
    assert make_plan({"id": "S1", "title": "other"}).hash != make_plan({"id": "S1"}).hash


def test_a_plan_prints_as_html_and_mermaid() -> None:
    """Titles are escaped in both."""
    plan = make_plan({"id": "S1", "title": '<b> "x"'}, {"id": "S2", "depends_on": ["S1"]})

    assert "&lt;b&gt;" in plan._repr_html_()
    assert plan.to_mermaid() == 'flowchart TD\n    S1["<b> #quot;x#quot;"]\n    S2["do S2"]\n    S1 --> S2'
    assert "- [ ] it runs" in plan.to_markdown()


def test_a_step_without_a_description_leaves_no_gap() -> None:
    """In Markdown, what is not there takes no blank lines."""
    assert "## S1. do S1\n\n- [ ] it runs" in make_plan({"id": "S1", "description": ""}).to_markdown()


def run_all(plan: Plan, approved: str, *answers: str | None) -> tuple[Plan, list[str], list[list[str]]]:
    """Run a plan on scripted answers: the plan at the end, what was performed, the statuses at each save."""
    given, done, saved = list(answers), [], []

    def perform(step: PlanStep, _messages: list[dict[str, Any]]) -> str | None:
        done.append(step.id)
        return given.pop(0)

    ended = run_plan(plan, approved, perform, keep=lambda changed: saved.append([s.status for s in changed.steps]))
    return ended, done, saved


MET = 'done\n{"acceptance": [true]}'


def test_steps_run_in_dependency_order() -> None:
    """Each step is kept as in progress and as done."""
    plan, done, saved = run_all(CHAIN, CHAIN.hash, MET, MET, MET)

    assert done == ["S1", "S2", "S3"]
    assert [step.status for step in plan.steps] == ["done"] * 3
    assert saved[0] == ["pending", "in_progress", "pending"]
    assert len(saved) == 6
    assert run_all(plan, plan.hash)[1] == []


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param('{"acceptance": [false]}', id="not met"),
        pytest.param("all good!", id="no report"),
        pytest.param('{"acceptance": [true, true]}', id="more verdicts than criteria"),
        pytest.param('{"acceptance": ["true"]}', id="no boolean"),
        pytest.param('{"acceptance": [}] }', id="no JSON"),
        pytest.param('{"acceptance": [yes]}', id="not JSON"),
        pytest.param('{"acceptance": [true]} then {"acceptance": [false]}', id="the last report counts"),
        pytest.param(None, id="the call failed"),
    ],
)
def test_the_first_step_that_is_not_met_ends_the_run(answer: Any) -> None:
    """Later steps stay pending and the failed one can be run again."""
    plan, done, _ = run_all(CHAIN, CHAIN.hash, MET, answer)

    assert done == ["S1", "S2"]
    assert [step.status for step in plan.steps] == ["failed", "done", "pending"]
    assert run_all(plan, plan.hash, MET, MET)[1] == ["S2", "S3"]


def test_a_step_without_acceptance_is_never_met() -> None:
    """Nothing to check is not the same as checked."""
    plan = make_plan({"id": "S1", "acceptance": []})

    assert run_all(plan, plan.hash, '{"acceptance": []}')[0].steps[0].status == "failed"


def test_only_the_approved_plan_runs() -> None:
    """Another hash, or a plan without an order, is refused before anything happens."""
    cyclic = make_plan({"id": "S1", "depends_on": ["S2"]}, {"id": "S2", "depends_on": ["S1"]})

    with pytest.raises(PlanError, match="not the plan that was approved"):
        run_all(CHAIN, "0" * 64)
    with pytest.raises(PlanError, match="cannot be run") as caught:
        run_all(cyclic, cyclic.hash)
    assert caught.value.findings[0]["code"] == "cycle"


def test_a_saved_plan_is_checked_against_what_it_was_made_for(tmp_path: Path) -> None:
    """Its own requirements and constraints count, and the codebase where one is given."""
    (tmp_path / "a.py").write_text("x = 1\n")
    metadata = {"requirements": {"R1": "x"}, "retired": ["R2"], "constraints": ["path: b.py is off-limits", "be kind"]}
    plan = make_plan({"id": "S1", "covers": ["R2"], "files": ["a.py", "b.py"]}, metadata=metadata)

    assert {finding.code for finding in lint(plan, plan_facts(plan, tmp_path))} == {
        "uncovered_requirement",
        "constraint_violated",
        "unknown_file",
    }


def shell(*arguments: str, text: str | None = None) -> tuple[int, str, str]:
    """Run `plan ...`: exit code, standard output, standard error."""
    result = CliRunner().invoke(command, list(arguments), input=text)
    return result.exit_code, result.stdout, result.stderr


def test_plan_lint_in_the_shell(tmp_path: Path) -> None:
    """Exit code 0 for a valid plan, 1 with the findings otherwise."""
    write_plan(CHAIN, tmp_path / "good.json")
    write_plan(make_plan({"id": "S1", "title": " "}), tmp_path / "bad.json")

    assert shell("lint", str(tmp_path / "good.json"))[0] == 0
    code, out, err = shell("lint", str(tmp_path / "bad.json"))
    assert (code, out, err) == (1, "missing_title: S1 has no title\n", "1 finding\n")
    assert json.loads(shell("lint", "--json", str(tmp_path / "bad.json"))[1])[0]["code"] == "missing_title"


def test_plan_diff_in_the_shell(tmp_path: Path) -> None:
    """Added, removed, changed and kept steps, as a table or as JSON."""
    write_plan(make_plan({"id": "S1"}, {"id": "S2"}), tmp_path / "a.json")
    write_plan(make_plan({"id": "S1"}, {"id": "S3"}), tmp_path / "b.json")
    files = (str(tmp_path / "a.json"), str(tmp_path / "b.json"))

    assert json.loads(shell("diff", "--json", *files)[1]) == {
        "added": ["S3"],
        "removed": ["S2"],
        "changed": [],
        "kept": ["S1"],
    }
    assert "removed  S2    do S2" in shell("diff", *files)[1]


class FakeClient:
    """Stands in for `SyncLLMClient`: plans one step, and reports what it is told to."""

    def __init__(self, *reports: Any) -> None:
        self.reports, self.asked = list(reports), []  # type: ignore[var-annotated] # filled by calls
        self.on_event: Any = None

    def __call__(self, on_event: Any = None, **_: Any) -> FakeClient:
        """Opened."""
        self.on_event = on_event
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def planning_mode(self, **asked: Any) -> Plan:
        """A plan with one step."""
        self.asked.append(asked)
        self.on_event(Event(name="planning.progress", facts={"files": 7}))
        cost = {"low": 0.1, "likely": 0.2, "high": 0.5}
        findings = [{"code": "over_budget", "message": "too dear"}]
        notices = [{"code": "codebase_not_shared", "message": "set providers.small.share_codebase"}]
        metadata = {"cost_usd": cost, "unverified": ["be kind"], "findings": findings, "notices": notices}
        metadata["repairs"] = ["renumbered a to S1"]
        return make_plan({"id": "S1", "covers": ["R1"], "estimated_cost_usd": cost}, metadata=metadata)

    def run(self, messages: list[dict[str, Any]], **_: Any) -> Any:
        """The next report."""
        report = self.reports.pop(0)
        if isinstance(report, Exception):
            raise report
        return SimpleNamespace(content=report)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeClient:
    """The client that commands open."""
    fake = FakeClient()
    monkeypatch.setattr("blueprint_llm.cli.plan.open_client", fake)
    monkeypatch.setenv("BLUEPRINT_HOME", str(tmp_path / "home"))
    return fake


def test_a_goal_is_planned_saved_and_printed(client: FakeClient) -> None:
    """What is no subcommand is a goal; the table is the answer, remarks go to standard error."""
    code, out, err = shell("tidy up", "-r", "a", "-r", "b", "-c", "be kind", "--codebase", ".")

    assert code == 0
    assert client.asked == [
        {
            "goal": "tidy up",
            "requirements": ["a", "b"],
            "constraints": ["be kind"],
            "codebase": Path(),
            "previous_plans": [],
        }
    ]
    assert out.splitlines()[1].split() == ["S1", "do", "S1", "R1", "$0.1000-$0.5000"]
    assert "not verified: be kind" in err
    assert "over_budget: too dear" in err
    assert "repaired: renumbered a to S1" in err
    assert "r1.json" in err
    assert saved_in(folder("state") / "plans") == ["r1.json"]


@pytest.mark.parametrize(("form", "start"), [("md", "# Plan"), ("json", "{"), ("mermaid", "flowchart")])
def test_formats_go_to_standard_output(client: FakeClient, form: str, start: str) -> None:
    """A pipe gets the document only; a previous plan may be given as a file."""
    shell("a goal")
    saved = folder("state") / "plans" / "plan-1" / "r1.json"
    _, out, err = shell("a goal", "--format", form, "--previous", str(saved))

    assert out.startswith(start)
    assert "providers.small.share_codebase" in err
    assert client.asked[1]["previous_plans"] == [read_plan_file(saved)]
    assert saved_in(folder("state") / "plans") == ["r1.json", "r2.json"]


def test_progress_shows_after_a_second(capsys: pytest.CaptureFixture[str]) -> None:
    """A quick read shows nothing, a slow one how many files were read."""
    now = [0.0]
    progress = _Progress(lambda: now[0])
    progress(Event(name="planning.progress", facts={"files": 1}))
    now[0] = 1.5
    progress(Event(name="call.answered"))
    progress(Event(name="planning.progress", facts={"files": 2}))
    progress.end()

    assert capsys.readouterr().err == "\rreading the codebase: 2 files\n"


def test_plan_run_keeps_statuses_in_the_file(client: FakeClient, tmp_path: Path) -> None:
    """It stops at the first step that is not met, and goes on from there the next time."""
    path = tmp_path / "plan.json"
    write_plan(CHAIN, path)
    client.reports = [MET, CallError("down")]
    first = shell("run", str(path), "--approve", CHAIN.hash[:12])
    failed = [step.status for step in read_plan_file(path).steps]
    client.reports = [MET, MET]
    second = shell("run", str(path), text="y\n")

    assert first[0] == 1
    assert failed == ["failed", "done", "pending"]
    assert second[0] == 0
    assert [step.status for step in read_plan_file(path).steps] == ["done"] * 3


@pytest.mark.parametrize("approve", ["0" * 64, CHAIN.hash[:4]])
def test_plan_run_refuses_another_hash(client: FakeClient, tmp_path: Path, approve: str) -> None:
    """Too short a hash or another plan's runs nothing."""
    write_plan(CHAIN, tmp_path / "plan.json")
    result = CliRunner().invoke(command, ["run", str(tmp_path / "plan.json"), "--approve", approve])

    assert isinstance(result.exception, PlanError)
    assert read_plan_file(tmp_path / "plan.json") == CHAIN


def test_plan_run_asks_first(client: FakeClient, tmp_path: Path) -> None:
    """No answer but yes runs a plan."""
    write_plan(CHAIN, tmp_path / "plan.json")

    assert shell("run", str(tmp_path / "plan.json"), text="n\n")[0] == 1
    assert read_plan_file(tmp_path / "plan.json") == CHAIN


@pytest.mark.parametrize("typed", ["n\n", ""])
def test_a_plan_that_nobody_approves_says_how(client: FakeClient, tmp_path: Path, typed: str) -> None:
    """The question is no answer: with --json standard output holds the failure alone, and it names the option."""
    write_plan(CHAIN, tmp_path / "plan.json")
    result = CliRunner().invoke(main, ["plan", "run", str(tmp_path / "plan.json"), "--json"], input=typed)

    assert result.exit_code == 1
    assert f"--approve {CHAIN.hash[:12]}" in json.loads(result.stdout)["error"]["message"]
