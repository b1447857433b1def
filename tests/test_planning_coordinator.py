"""Planning against scripted answers: asked, checked, mended, asked again, next model, refused."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from blueprint_llm.context.policy import NOTHING, policy_for
from blueprint_llm.errors import BlueprintError, CallError, InvalidRequestError, PlanError
from blueprint_llm.planning import (
    ModelChoice,
    PlanningCoordinator,
    PlanningSettings,
    PlanningTarget,
    read_brief,
)
from blueprint_llm.planning.brief import ASKED, output_tokens, plan_schema
from blueprint_llm.types import ChatRequest, ChatResponse, Plan, PlanningContext, ToolCall


def make_step(n: int, **more: Any) -> dict[str, Any]:
    """A valid step as a model would write it."""
    covers = [f"R{n}"] if n <= 2 else []
    return {"id": f"S{n}", "title": f"step {n}", "description": "d", "depends_on": [], "covers": covers,
            "acceptance": ["it runs"], **more}  # fmt: skip


def answer(*steps: dict[str, Any], **more: Any) -> str:
    """A plan as a model's answer."""
    return json.dumps({"overview": "o", "estimated_complexity": "low", "steps": steps, **more})


GOOD = answer(make_step(1), make_step(2, depends_on=["S1"]))
UNCOVERED = answer(make_step(1), make_step(3))
CYCLIC = answer(make_step(1, depends_on=["S2"]), make_step(2, depends_on=["S1"]))


class Script:
    """Answers requests in order and keeps them."""

    def __init__(self, *answers: str | BlueprintError | ChatResponse) -> None:
        self.answers, self.requests = list(answers), []  # type: ignore[var-annotated] # filled by calls

    async def __call__(self, request: ChatRequest) -> ChatResponse:
        """The next answer."""
        self.requests.append(request)
        item = self.answers.pop(0)
        if isinstance(item, BlueprintError):
            raise item
        if isinstance(item, ChatResponse):
            return item
        return ChatResponse(content=item, finish_reason="stop", provider=request.provider or "m", model="m")


def make_plan(script: Script, *targets: PlanningTarget, settings: PlanningSettings | None = None, **asked: Any) -> Plan:
    """Make a plan on scripted answers, all of which must be used."""
    context = PlanningContext.model_validate({"goal": "g", "requirements": ["first", "second"], **asked})
    coordinator = PlanningCoordinator(script, targets or (PlanningTarget(provider="big"),), settings)
    plan = asyncio.run(coordinator.plan(context))
    assert script.answers == []
    return plan


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A small project on disk."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "app.py").write_text("def serve(port):\n    return 'PROJECT-CANARY'\n")
    (tmp_path / "src" / "db.py").write_text("class Database:\n    name = 'PROJECT-CANARY'\n")
    return tmp_path


def test_a_valid_answer_is_a_plan() -> None:
    """One request, no repair, everything recorded."""
    script = Script(GOOD)
    plan = make_plan(script, constraints=["path: src is read-only", "keep it simple"])
    [request] = script.requests

    assert [step.id for step in plan.steps] == ["S1", "S2"]
    assert plan.metadata["findings"] == plan.metadata["repairs"] == []
    assert plan.metadata["unverified"] == ["keep it simple"]
    assert plan.metadata["requirements"] == {"R1": "first", "R2": "second"}
    assert (plan.revision, plan.metadata["planned_by"]) == (1, "big")
    assert (request.provider, request.fallback, request.temperature, request.task_type) == ("big", False, 0, "planning")
    assert request.max_tokens == output_tokens(ASKED, with_files=True)
    assert request.params["response_format"]["type"] == "json_schema"


def test_the_schema_is_bound_to_the_position() -> None:
    """Step 2 may depend on step 1 only, and cover known requirements only."""
    brief = read_brief(PlanningContext(goal="g", requirements=["first", "second"]))
    schema = plan_schema(brief, ASKED, with_files=True)
    valid = Draft202012Validator(schema).is_valid
    files = {"files": []}

    assert valid(json.loads(answer(make_step(1, **files), make_step(2, depends_on=["S1"], **files))))
    assert not valid(json.loads(answer(make_step(1, depends_on=["S2"], **files), make_step(2, **files))))
    assert not valid(json.loads(answer(make_step(1, depends_on=["S1"], **files))))
    assert not valid(json.loads(answer(make_step(1, covers=["R3"], **files))))
    assert not valid(json.loads(answer(make_step(2, **files))))
    assert not valid(json.loads(answer(make_step(1, acceptance=[], **files))))
    assert not valid(json.loads(answer(*[make_step(n, **files) for n in range(1, 14)])))


def test_the_answer_may_be_wrapped_in_words() -> None:
    """JSON in a fence or between sentences is read."""
    for text in (f"Here:\n```json\n{GOOD}\n```\nDone.", f"Sure! {GOOD} Good luck."):
        assert len(make_plan(Script(text)).steps) == 2


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        pytest.param("no json", "invalid_json", id="no JSON"),
        pytest.param("[1]", "invalid_json", id="not an object"),
        pytest.param('{"overview": "o", "steps": 7}', "invalid_plan", id="no list of steps"),
        pytest.param('{"overview": "o", "steps": [7]}', "invalid_plan", id="a step that is none"),
        pytest.param(answer(make_step(1, title=5)), "invalid_plan", id="wrong type"),
        pytest.param(CYCLIC, "cycle", id="cyclic"),
        pytest.param(UNCOVERED, "uncovered_requirement", id="uncovered"),
        pytest.param(answer(), "no_steps", id="no steps"),
    ],
)
def test_a_bad_answer_is_asked_again_with_its_findings(bad: str, code: str) -> None:
    """The second request shows the model its own answer and what is wrong; a good one then counts."""
    script = Script(bad, GOOD)
    plan = make_plan(script)
    again = script.requests[1].messages

    assert len(plan.steps) == 2
    assert again[-2].role == "assistant"
    assert again[-2].content == bad
    assert f"- {code}: " in str(again[-1].content)


def test_an_uncovered_requirement_binds_the_second_schema() -> None:
    """Asked again, every requirement has a step that must cover it; the plan says so."""
    script = Script(UNCOVERED, GOOD)
    plan = make_plan(script)
    steps = script.requests[1].params["response_format"]["json_schema"]["schema"]["properties"]["steps"]

    assert steps["prefixItems"][1]["properties"]["covers"]["prefixItems"] == [{"const": "R2"}]
    assert steps["minItems"] == 2
    assert plan.metadata["repairs"] == [
        "S1: covers R1 because the second request's schema said so",
        "S2: covers R2 because the second request's schema said so",
    ]


def test_after_two_requests_the_next_model_starts_afresh() -> None:
    """The next target sees nothing of the first one's answers."""
    script = Script(UNCOVERED, "FIRST-ANSWER", GOOD)
    plan = make_plan(script, PlanningTarget(provider="big"), PlanningTarget(provider="next"))

    assert [request.provider for request in script.requests] == ["big", "big", "next"]
    assert "FIRST-ANSWER" not in script.requests[2].model_dump_json()
    assert plan.metadata["planned_by"] == "next"


def test_no_valid_plan_is_an_error_with_findings() -> None:
    """PlanError names who was asked and carries each one's last findings."""
    with pytest.raises(PlanError, match="big, next") as caught:
        make_plan(
            Script("x", UNCOVERED, CYCLIC, CYCLIC), PlanningTarget(provider="big"), PlanningTarget(provider="next")
        )

    assert [finding["code"] for finding in caught.value.findings] == ["uncovered_requirement", "cycle"]
    assert caught.value.findings[0]["requirement"] == "R2"


def test_a_failed_call_goes_to_the_next_model_at_once() -> None:
    """A provider that is down is not asked a second time."""
    script = Script(CallError("down", category="unavailable"), GOOD)
    plan = make_plan(script, PlanningTarget(provider="big"), PlanningTarget(provider="next"))

    assert plan.metadata["planned_by"] == "next"


def test_when_every_call_fails_the_reasons_are_findings() -> None:
    """The error says who failed and why."""
    with pytest.raises(PlanError, match="big: down") as caught:
        make_plan(Script(CallError("down", category="unavailable")))

    assert caught.value.findings == [{"code": "call_failed", "message": "big: down"}]


def test_a_refused_schema_is_told_in_another_way() -> None:
    """A provider without response_format is asked by tool; one without tools in words."""
    call = ToolCall(id="1", name="submit_plan", arguments=json.loads(GOOD))
    by_tool = ChatResponse(content="", tool_calls=[call], provider="big", model="m")
    script = Script(InvalidRequestError("no response_format"), by_tool)
    make_plan(script)
    assert script.requests[1].tools is not None
    assert script.requests[1].tools[0].name == "submit_plan"

    script = Script(InvalidRequestError("no tools"), GOOD)
    make_plan(script, PlanningTarget(provider="big", mode="tool"))
    assert "JSON Schema" in str(script.requests[1].messages[0].content)

    with pytest.raises(PlanError):
        make_plan(Script(InvalidRequestError("no")), PlanningTarget(provider="big", mode="text"))


def test_a_cut_off_answer_is_told_so() -> None:
    """finish_reason length becomes a finding of its own."""
    cut = ChatResponse(content=GOOD[:50], finish_reason="length", provider="big", model="m")
    script = Script(cut, GOOD)
    make_plan(script)

    assert "truncated" in str(script.requests[1].messages[-1].content)


def test_repairs_cost_no_request() -> None:
    """Odd ids and dependencies on nothing are mended, with a note for each."""
    script = Script(answer(make_step(1, id="a", depends_on=["zz"]), make_step(2, id="b", depends_on=["a"])))
    plan = make_plan(script)

    assert [(step.id, step.depends_on) for step in plan.steps] == [("S1", []), ("S2", ["S1"])]
    assert len(plan.metadata["repairs"]) == 3


def test_a_model_cannot_set_what_is_ours() -> None:
    """Status, cost and suggested model in an answer are ignored."""
    plan = make_plan(Script(answer(make_step(1, status="done", suggested_model="x"), make_step(2, extra=1))))

    assert [(step.status, step.suggested_model) for step in plan.steps] == [("pending", None)] * 2


def test_without_requirements_nothing_has_to_be_covered() -> None:
    """A goal alone is enough."""
    assert make_plan(Script(answer(make_step(7, covers=[]))), requirements=[]).steps[0].covers == []


def test_an_unknown_file_is_asked_again(project: Path) -> None:
    """Files are checked against the tree; what was read travels as typed parts, not as messages."""
    bad = answer(make_step(1, files=["src/none.py"]), make_step(2))
    good = answer(make_step(1, files=["src/app.py", {"path": "src/new.py", "op": "create"}]), make_step(2))
    script = Script(bad, good)
    plan = make_plan(script, codebase=project)
    request = script.requests[0]

    assert [change.path for change in plan.steps[0].files] == ["src/app.py", "src/new.py"]
    assert "PROJECT-CANARY" not in json.dumps([m.to_dict() for m in request.messages])
    assert {part.source for part in request.context} >= {"files", "src/app.py", "src/db.py"}
    assert plan.metadata["notices"] == []


def test_a_target_that_shares_no_code_plans_without_it(project: Path) -> None:
    """It gets neither parts nor a question for files, and files it invents are dropped."""
    previous = make_plan(Script(GOOD), goal="PROJECT-CANARY")
    script = Script(answer(make_step(1, files=["src/app.py"]), make_step(2)))
    target = PlanningTarget(provider="local", policy=policy_for("local", "embedded/smollm2"), window_tokens=4096)
    settings = PlanningSettings(max_context_tokens=10, summaries=True)
    plan = make_plan(script, target, settings=settings, codebase=project, previous_plans=[previous])
    [request] = script.requests
    [notice] = plan.metadata["notices"]
    body = request.model_dump_json()

    assert request.context == ()
    assert not any(word in body for word in ("PROJECT-CANARY", "src/app.py", "files", "step 1"))
    assert [step.files for step in plan.steps] == [[], []]
    assert notice["code"] == "codebase_not_shared"
    assert "not shown the codebase and the previous plan" in notice["message"]
    assert "providers.local.share_codebase" in notice["message"]
    assert len(request.params["response_format"]["json_schema"]["schema"]["properties"]["steps"]["prefixItems"]) == 4


def test_small_windows_get_small_schemas() -> None:
    """The number of steps follows from the room for the answer."""
    for window, most, steps in ((None, None, 12), (4096, None, 4), (None, 100, 3), (10**6, 10**6, 12)):
        target = PlanningTarget(provider="p", policy=NOTHING, window_tokens=window, max_output_tokens=most)
        assert target.limits(with_files=False).max_steps == steps


def test_the_prompt_stays_within_the_bound(tmp_path: Path) -> None:
    """planning.max_context_tokens bounds the parts; the best file comes first."""
    for n in range(200):
        (tmp_path / f"mod{n}.py").write_text(f"def helper{n}():\n    return 1\n" + f"# words {n}\n" * 200)
    (tmp_path / "billing.py").write_text("def invoice_total(): ...\n")
    script = Script(GOOD)
    make_plan(
        script, goal="fix the invoice total", codebase=tmp_path, settings=PlanningSettings(max_context_tokens=20_000)
    )
    context = script.requests[0].context

    assert 8_000 < sum(part.tokens for part in context) < 15_000
    assert context[1].source == "billing.py"
    assert {part.kind for part in context} == {"project_map", "file"}


def test_overflow_is_summarised_once(tmp_path: Path) -> None:
    """With summaries on, groups that do not fit are condensed and the summary is kept by content."""
    for n in range(300):
        names = "\n".join(f"def function_{n}_{i}(argument_one, argument_two): ..." for i in range(40))
        (tmp_path / f"mod{n}.py").write_text(names)
    settings = PlanningSettings(max_context_tokens=12_000, summaries=True, summary_folder=tmp_path.parent / "kept")
    script, again = Script(*["part summary"] * 8, "WHOLE-SUMMARY", GOOD), Script(GOOD)
    make_plan(script, settings=settings, codebase=tmp_path)
    make_plan(again, settings=settings, codebase=tmp_path)

    assert script.requests[-1].context[-1].text == "WHOLE-SUMMARY"
    assert again.requests[-1].context[-1].text == "WHOLE-SUMMARY"


def test_a_summary_that_fails_is_left_out(tmp_path: Path) -> None:
    """A plan without its summary is still a plan."""
    for n in range(15):
        (tmp_path / f"mod{n}.py").write_text("\n".join(f"def f_{n}_{i}(): ..." for i in range(400)))
    script = Script(*[CallError("down", category="unavailable")] * 2, GOOD)
    settings = PlanningSettings(max_context_tokens=10_500, summaries=True)
    make_plan(script, settings=settings, codebase=tmp_path)

    assert all(part.source != "summary of further files" for part in script.requests[-1].context)


def test_a_refused_codebase_is_told_of_in_the_error_too(project: Path) -> None:
    """Where no plan comes out, the findings still say that the code was held back, and by which setting."""
    target = PlanningTarget(provider="small", policy=policy_for("small", "gpt-4o", share_codebase=False))
    with pytest.raises(PlanError) as caught:
        make_plan(Script("x", "y"), target, codebase=project)

    assert [finding["code"] for finding in caught.value.findings] == ["invalid_json", "codebase_not_shared"]
    assert "providers.small.share_codebase" in caught.value.findings[1]["message"]


def test_what_could_not_be_read_of_a_named_file_is_said(project: Path) -> None:
    """A goal that names a binary file is told that nobody read it; other binary files are nobody's concern."""
    for name in ("logo.png", "other.png"):
        (project / name).write_bytes(b"\x89PNG\0\0")
    plan = make_plan(Script(GOOD), goal="replace logo.png", codebase=project)

    assert [(notice["code"], notice["path"]) for notice in plan.metadata["notices"]] == [("unread_file", "logo.png")]


def test_a_plan_of_the_embedded_model_carries_a_warning() -> None:
    """Whoever reads a plan of 135 million parameters is told so; a larger model's plan says nothing."""
    small = ChatResponse(content=GOOD, provider="local", model="embedded/smollm2")
    own = ChatResponse(content=GOOD, provider="local", model="embedded//models/large.gguf")

    assert [each["code"] for each in make_plan(Script(small)).metadata["notices"]] == ["small_model"]
    assert make_plan(Script(own)).metadata["notices"] == []


def test_a_coordinator_needs_nothing_but_a_chat() -> None:
    """Without targets the client's own routing chooses, with its fallbacks."""
    script = Script(GOOD)
    plan = asyncio.run(PlanningCoordinator(script).plan(PlanningContext(goal="g", requirements=["first", "second"])))

    assert (script.requests[0].provider, script.requests[0].fallback) == (None, True)
    assert plan.metadata["planned_by"] == "m"


def test_costs_and_models_are_suggested(project: Path) -> None:
    """Each step gets the cheapest model that is strong enough, with a cost; the plan their sum."""
    prices = {"tiny": 0.0, "mid": 1e-6, "top": 5e-6}
    settings = PlanningSettings(
        choices=[
            ModelChoice(name="opus", model="top", strength=2),
            ModelChoice(name="cloud", model="mid", strength=1),
            ModelChoice(name="local", model="tiny", strength=0, max_input_tokens=4096, shares_codebase=False),
        ],
        price=lambda model, read, written: prices[model] * (read + 4 * written),
    )
    hard = [f"src/n{n}.py" for n in range(4)]
    steps = (
        make_step(1),
        make_step(2, files=["src/app.py"]),
        make_step(3, files=[{"path": path, "op": "create"} for path in hard]),
    )
    plan = make_plan(Script(answer(*steps)), settings=settings, codebase=project)

    assert plan.suggested_models == {"S1": "local", "S2": "cloud", "S3": "opus"}
    cost = plan.steps[1].estimated_cost_usd
    assert cost is not None
    assert 0 < cost["low"] < cost["likely"] < cost["high"]
    total = sum((step.estimated_cost_usd or {})["likely"] for step in plan.steps)
    assert plan.metadata["cost_usd"]["likely"] == pytest.approx(total)


@pytest.mark.parametrize(("criteria", "model"), [(2, "local"), (3, "cloud"), (6, "cloud"), (7, "opus")])
def test_harder_steps_get_stronger_models(criteria: int, model: str) -> None:
    """A step weighs what it must satisfy: from three on it is no simple one, from seven on a hard one."""
    choices = [ModelChoice(name=name, model="m", strength=n) for n, name in enumerate(("local", "cloud", "opus"))]
    prices = iter((1.0, 2.0, 3.0) * 2)
    settings = PlanningSettings(choices=choices, price=lambda *_: next(prices))
    hard = make_step(1, covers=[], acceptance=["it runs"] * criteria)
    plan = make_plan(Script(answer(hard)), settings=settings, requirements=[])

    assert plan.suggested_models == {"S1": model}


def test_an_unknown_price_is_unknown_never_zero() -> None:
    """Without a price there is a suggestion but no cost, and no total."""
    plan = make_plan(Script(GOOD), settings=PlanningSettings(choices=[ModelChoice(name="p", model="m")]))

    assert plan.steps[0].suggested_model == "p"
    assert plan.steps[0].estimated_cost_usd is None
    assert plan.metadata["cost_usd"] is None


@pytest.mark.parametrize("blocks", [True, False])
def test_a_plan_over_the_budget(*, blocks: bool) -> None:
    """It carries the finding over_budget; only a budget that blocks refuses it."""
    settings = PlanningSettings(
        choices=[ModelChoice(name="p", model="m")], price=lambda *_: 1.0, left_usd=0.5, budget_blocks=blocks
    )
    script = Script(GOOD)
    if blocks:
        with pytest.raises(PlanError, match="budget") as caught:
            make_plan(script, settings=settings)
        findings = caught.value.findings
    else:
        findings = make_plan(script, settings=settings).metadata["findings"]

    assert [finding["code"] for finding in findings] == ["over_budget"]


def test_replanning_freezes_what_is_done() -> None:
    """Finished steps stay as they are, ids and requirement ids go on, and the changes are named."""
    first = make_plan(Script(GOOD))
    steps = [first.steps[0].model_copy(update={"status": "done"}), first.steps[1]]
    begun = first.model_copy(update={"steps": steps})
    new = answer(make_step(2, depends_on=["S1"]), make_step(3, covers=["R3"], title="extra", depends_on=["S2"]))
    script = Script(new)
    plan = make_plan(script, previous_plans=[begun], requirements=["second", "third"])

    assert plan.steps[0] == steps[0]
    assert [step.id for step in plan.steps] == ["S1", "S2", "S3"]
    assert (plan.id, plan.revision) == (first.id, 2)
    assert plan.metadata["requirements"] == {"R2": "second", "R3": "third"}
    assert plan.metadata["changes"] == {"added": ["S3"], "removed": [], "changed": [], "kept": ["S1", "S2"]}
    assert script.requests[0].context[0].kind == "memory"
    assert "Finished steps: S1" in str(script.requests[0].messages[1].content)


def test_no_target_is_one_clear_error() -> None:
    """Without a planning provider nothing is tried."""
    with pytest.raises(PlanError, match=r"set planning\.provider"):
        asyncio.run(PlanningCoordinator(Script(), []).plan(PlanningContext(goal="g")))


@pytest.mark.parametrize("where", [Path("does/not/exist"), [Path("a"), Path("b")], []])
def test_a_missing_codebase_is_one_clear_error(where: Path | list[Path]) -> None:
    """The paths that are missing are named, before anybody is asked."""
    with pytest.raises(PlanError, match="codebase not found"):
        make_plan(Script(), codebase=where)


def test_an_empty_goal_is_refused() -> None:
    """A goal of blanks says nothing to plan for."""
    with pytest.raises(ValidationError, match="is empty"):
        PlanningContext(goal=" ")
