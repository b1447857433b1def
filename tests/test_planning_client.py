"""Planning mode through the client, against a scripted server on the loopback."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from driving import KEY, closing_clients

from blueprint_llm import LLMClient, SyncLLMClient
from blueprint_llm.errors import PlanError
from blueprint_llm.planning import PlanningCoordinator
from blueprint_llm.testing import Answer, FaultServer, Status
from blueprint_llm.types import PlanningContext


def make_step(n: int, **more: Any) -> dict[str, Any]:
    """A valid step."""
    return {
        "id": f"S{n}",
        "title": "t",
        "description": "d",
        "depends_on": [],
        "covers": ["R1"],
        "acceptance": ["a"],
        **more,
    }


def answer(*steps: dict[str, Any]) -> Answer:
    """A plan as the server's answer."""
    return Answer(json.dumps({"overview": "o", "estimated_complexity": "low", "steps": steps}))


GOOD = answer(make_step(1))
CYCLIC = answer(make_step(1, depends_on=["S2"]), make_step(2, depends_on=["S1"]))


def configuration(url: str, **planning: Any) -> dict[str, Any]:
    """Two providers on one server: `big` may see code, `small` may not."""
    common = {"api_base": url, "api_key": KEY}
    providers = {
        "big": {"model": "openai/gpt-4o", "share_codebase": True, **common},
        "small": {"model": "openai/gpt-4o-mini", **common},
    }
    chains = {"default": ["big", "small"]}
    return {"blueprint": {"version": 1, "providers": providers, "chains": chains, "planning": planning}}


@pytest.mark.parametrize(
    ("first", "requests"),
    [
        pytest.param(GOOD, 1, id="valid at once"),
        pytest.param(answer(make_step(7, depends_on=["nowhere"])), 1, id="repaired without a request"),
        pytest.param(Answer("no JSON at all"), 2, id="invalid JSON"),
        pytest.param(CYCLIC, 2, id="cyclic"),
        pytest.param(answer(make_step(1, covers=[])), 2, id="uncovered requirement"),
        pytest.param(answer(make_step(1, files=["none.py"])), 2, id="unknown file"),
    ],
)
def test_a_bad_plan_is_repaired_or_asked_again_once(first: Answer, requests: int, tmp_path: Path) -> None:
    """At most two requests reach a model, and what comes out is valid."""
    (tmp_path / "a.py").write_text("x = 1\n")
    script = [first, GOOD][:requests]
    with FaultServer(script) as server, SyncLLMClient.from_config(configuration(server.url)) as client:
        plan = client.planning_mode(goal="g", requirements=["r"], codebase=tmp_path)

        assert len(server.requests) == requests
        assert [step.id for step in plan.steps] == ["S1"]
        assert plan.metadata["planned_by"] == "big"


def test_the_next_model_gets_nothing_of_the_project_or_the_first_answer(tmp_path: Path) -> None:
    """After two bad answers of a model that may see code, the one that may not starts from the goal alone."""
    (tmp_path / "a.py").write_text("name = 'PROJECT-CANARY'\n")
    script = [Answer("FIRST-CANARY"), CYCLIC, GOOD]
    with FaultServer(script) as server, SyncLLMClient.from_config(configuration(server.url)) as client:
        plan = client.planning_mode(goal="g", requirements=["r"], codebase=tmp_path)
        bodies = [json.dumps(request.body) for request in server.requests]

    assert plan.metadata["planned_by"] == "small"
    assert ["PROJECT-CANARY" in body for body in bodies] == [True, True, False]
    assert "FIRST-CANARY" in bodies[1]
    assert not any(word in bodies[2] for word in ("FIRST-CANARY", "a.py", '"files"'))


def test_no_valid_plan_is_refused_with_findings() -> None:
    """Two requests for each of two models, then PlanError."""
    with (
        FaultServer([CYCLIC] * 4) as server,
        SyncLLMClient.from_config(configuration(server.url, provider="small")) as client,
        pytest.raises(PlanError, match="small, big") as caught,
    ):
        client.planning_mode(goal="g", requirements=["r"])

    assert [request.body["model"] for request in server.requests] == ["gpt-4o-mini"] * 2 + ["gpt-4o"] * 2
    assert {finding["code"] for finding in caught.value.findings} == {"cycle"}


def test_a_refusal_goes_to_the_next_model() -> None:
    """A provider that refuses the key is left at once."""
    with FaultServer([Status(401), GOOD]) as server:
        with SyncLLMClient.from_config(configuration(server.url)) as client:
            plan = client.planning_mode(goal="g", requirements=["r"])

        assert plan.metadata["planned_by"] == "small"
        assert len(server.requests) == 2


def test_the_async_client_plans_too() -> None:
    """The same walk under an event loop, with costs from the price map."""

    async def work(url: str) -> Any:
        async with LLMClient.from_config(configuration(url)) as client:
            return await client.planning_mode({"goal": "g", "requirements": ["r"]})

    with FaultServer([GOOD]) as server:
        plan = asyncio.run(closing_clients(work(server.url)))

    assert plan.suggested_models == {"S1": "small"}
    assert 0 < plan.metadata["cost_usd"]["low"] < plan.metadata["cost_usd"]["high"]


PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)


def test_the_examples_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Python block of docs/planning.md plans, against a server on the loopback."""
    first, second = PYTHON.findall((Path(__file__).parents[1] / "docs" / "planning.md").read_text("utf-8"))
    (tmp_path / "src").mkdir()
    monkeypatch.chdir(tmp_path)
    both = answer(make_step(1, covers=["R1", "R2"]))
    with FaultServer([both, GOOD]) as server:
        with SyncLLMClient.from_config(configuration(server.url)) as client:
            found: dict[str, Any] = {"client": client}
            exec(compile(first, "docs/planning.md", "exec"), found)  # noqa: S102 - the page's own code
        exec(compile(second, "docs/planning.md", "exec"), found)  # noqa: S102 - the page's own code
        plan = asyncio.run(closing_clients(found["plan_with"](configuration(server.url))))

    assert found["plan"].metadata["unverified"] == ["keep it simple"]
    assert [step.covers for step in plan.steps] == [["R1"]]


def test_a_coordinator_on_its_own_says_what_the_client_held_back(tmp_path: Path) -> None:
    """Without targets the client decides who plans and what passes; what it held back is said all the same."""
    (tmp_path / "a.py").write_text("name = 'PROJECT-CANARY'\n")
    config = configuration("")["blueprint"]

    async def work(url: str) -> Any:
        config["providers"]["small"]["api_base"] = url
        async with LLMClient.from_config({"blueprint": {**config, "chains": {"default": ["small"]}}}) as client:
            return await PlanningCoordinator(client.chat).plan(
                PlanningContext(goal="g", requirements=["r"], codebase=tmp_path)
            )

    with FaultServer([GOOD]) as server:
        plan = asyncio.run(closing_clients(work(server.url)))

        assert "PROJECT-CANARY" not in json.dumps(server.requests[0].body)
    assert plan.metadata["planned_by"] == "small"
    assert "set providers.small.share_codebase to true" in plan.metadata["notices"][0]["message"]


def test_a_codebase_that_a_planner_may_not_see_is_said(tmp_path: Path) -> None:
    """A loopback server gets no code unless the configuration says so, and the plan names the setting."""
    (tmp_path / "a.py").write_text("name = 'PROJECT-CANARY'\n")
    with (
        FaultServer([GOOD]) as server,
        SyncLLMClient.from_config(configuration(server.url, provider="small")) as client,
    ):
        plan = client.planning_mode(goal="g", requirements=["r"], codebase=tmp_path)
        body = json.dumps(server.requests[0].body)

    assert "PROJECT-CANARY" not in body
    assert [notice["code"] for notice in plan.metadata["notices"]] == ["codebase_not_shared"]
    assert "set providers.small.share_codebase to true" in plan.metadata["notices"][0]["message"]
