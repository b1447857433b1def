"""The shape of the answer that a planner is asked for, made anew for every request.

Every position of the list is bound: step 3 is called S3, may depend on S1 and S2 only and cover only known
requirements, so a model that decodes under the schema cannot write a cycle or an unknown requirement.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from blueprint_llm.planning.findings import Finding
from blueprint_llm.types import Plan

if TYPE_CHECKING:
    from blueprint_llm.planning.brief import Brief, PlanLimits

_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL)
_ASKED_FIELDS = ("id", "title", "description", "depends_on", "covers", "files", "acceptance")


def plan_schema(brief: Brief, limits: PlanLimits, *, with_files: bool, bound: bool = False) -> dict[str, Any]:
    """The JSON Schema of a plan for this brief.

    Args:
        brief: What the plan is for.
        limits: How large it may be.
        with_files: Whether steps list files.
        bound: Deal the requirements out to the steps, so that none can be left out; for models that left some out.
    """
    ids = brief.step_ids(limits.max_steps)
    done = [step.id for step in brief.done]
    wanted = list(brief.requirements)
    shares = [wanted[n :: len(ids)] if bound else [] for n in range(len(ids))]
    steps = [
        _step(name, [*done, *ids[:n]], _exactly(share) if share else _choice(wanted), limits, with_files=with_files)
        for n, (name, share) in enumerate(zip(ids, shares, strict=True))
    ]
    least = min(len(ids), len(wanted)) if bound else 1
    return _object(
        overview=_text(limits.description_chars),
        estimated_complexity={"enum": ["low", "medium", "high"]},
        steps={"type": "array", "prefixItems": steps, "minItems": max(1, least), "maxItems": len(steps)},
    )


def _step(
    name: str, earlier: list[str], covers: dict[str, Any], limits: PlanLimits, *, with_files: bool
) -> dict[str, Any]:
    """What a step covers stands before its words, so that a model that writes in order writes about that."""
    fields = {
        "id": {"const": name},
        "covers": covers,
        "title": _text(limits.title_chars),
        "description": _text(limits.description_chars),
        "depends_on": _choice(earlier),
        "acceptance": _array(_text(limits.acceptance_chars), least=1, most=limits.max_acceptance),
    }
    if with_files:
        change = _object(path=_text(200), op={"enum": ["read", "edit", "create", "delete"]})
        fields["files"] = _array(change, least=0, most=limits.max_files)
    return _object(**fields)


def _exactly(names: list[str]) -> dict[str, Any]:
    items = [{"const": name} for name in names]
    return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}


def _object(**fields: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


def _array(items: dict[str, Any], *, least: int, most: int) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def _text(most: int) -> dict[str, Any]:
    return {"type": "string", "minLength": 1, "maxLength": most}


def _choice(names: list[str]) -> dict[str, Any]:
    return _array({"enum": names}, least=0, most=len(names)) if names else _array({"type": "string"}, least=0, most=0)


def read_plan(text: str, plan_id: str, *, with_files: bool) -> tuple[Plan | None, list[Finding]]:
    """The plan in a model's answer, or why there is none. Files are ignored where none were asked for."""
    value = _json(text)
    if not isinstance(value, dict):
        return None, [Finding(code="invalid_json", message="the answer is not a JSON object")]
    steps = value.get("steps")
    fields = [name for name in _ASKED_FIELDS if with_files or name != "files"]
    plan = {
        "id": plan_id,
        "overview": value.get("overview", ""),
        "estimated_complexity": value.get("estimated_complexity", "medium"),
        "steps": [_only(step, fields) for step in steps] if isinstance(steps, list) else steps,
    }
    try:
        return Plan.model_validate(plan), []
    except ValidationError as error:
        rows = error.errors(include_input=False, include_url=False)
        return None, [Finding(code="invalid_plan", message=f"{_place(row['loc'])}: {row['msg']}") for row in rows[:10]]


def _only(step: Any, fields: list[str]) -> Any:
    return {key: step[key] for key in fields if key in step} if isinstance(step, dict) else step


def _place(loc: tuple[int | str, ...]) -> str:
    return ".".join(map(str, loc))


def _json(text: str) -> Any:
    """The JSON value of an answer: all of it, a fenced block, or from the first brace to the last."""
    fenced = [match.group(1) for match in _FENCE.finditer(text)]
    for candidate in (text, *fenced, text[text.find("{") : text.rfind("}") + 1]):
        try:
            return json.loads(candidate)
        except (ValueError, RecursionError):
            continue
    return None


def request_params(schema: dict[str, Any], mode: str) -> dict[str, Any]:
    """How the schema travels: as `response_format`, as a tool that must be called, or not at all."""
    match mode:
        case "schema":
            return {"response_format": {"type": "json_schema", "json_schema": {"name": "plan", "schema": schema}}}
        case "tool":
            tool = {"name": "submit_plan", "description": "Hand in the plan.", "parameters": schema}
            choice = {"type": "function", "function": {"name": "submit_plan"}}
            return {"tools": [tool], "tool_choice": choice}
        case _:
            return {}
