"""The shape of the answer that a planner is asked for, made anew for every request, and the reading of the answer.

Every position of the list is bound: step 3 is called S3, may depend on S1 and S2 only and cover only known
requirements, so a model that decodes under the schema cannot write a cycle or an unknown requirement.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from blueprint_llm.planning.lint import Finding
from blueprint_llm.types import Plan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from blueprint_llm.planning.brief import Brief, PlanLimits

Schema = dict[str, Any]

_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL)
_ASKED_FIELDS = frozenset({"id", "title", "description", "depends_on", "covers", "files", "acceptance"})


def plan_schema(
    brief: Brief, limits: PlanLimits, *, with_files: bool, bound: Mapping[str, list[str]] | None = None
) -> Schema:
    """Return the JSON Schema of a plan for this brief.

    Args:
        brief: What the plan is for.
        limits: How large it may be.
        with_files: Whether steps list files.
        bound: The requirements that each step must cover, by its id; for models that left some out.
    """
    ids, done, bound = brief.step_ids(limits.max_steps), [step.id for step in brief.done], bound or {}
    change = _object(path=_text(200), op={"enum": ["read", "edit", "create", "delete"]})
    files = {"files": _array(change, most=limits.max_files)} if with_files else {}
    steps = [
        # What a step covers stands before its words, so that a model that writes in order writes about that.
        _object(
            id={"const": name},
            covers=_exactly(bound[name]) if name in bound else _choice(list(brief.requirements)),
            title=_text(limits.title_chars),
            description=_text(limits.description_chars),
            depends_on=_choice([*done, *ids[:n]]),
            acceptance=_array(_text(limits.acceptance_chars), least=1, most=limits.max_acceptance),
            **files,
        )
        for n, name in enumerate(ids)
    ]
    return _object(
        overview=_text(limits.description_chars),
        estimated_complexity={"enum": ["low", "medium", "high"]},
        steps={"type": "array", "prefixItems": steps, "minItems": max(1, len(bound)), "maxItems": len(steps)},
    )


def _object(**fields: Schema) -> Schema:
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


def _array(items: Schema, *, least: int = 0, most: int) -> Schema:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def _exactly(names: list[str]) -> Schema:
    consts = [{"const": name} for name in names]
    return {"type": "array", "prefixItems": consts, "minItems": len(names), "maxItems": len(names)}


def _choice(names: list[str]) -> Schema:
    return _array({"enum": names} if names else {"type": "string"}, most=len(names))


def _text(most: int) -> Schema:
    return {"type": "string", "minLength": 1, "maxLength": most}


def request_params(schema: Schema, mode: str) -> dict[str, Any]:
    """Return how the schema travels: as `response_format`, as a tool that must be called, or not at all."""
    match mode:
        case "schema":
            return {"response_format": {"type": "json_schema", "json_schema": {"name": "plan", "schema": schema}}}
        case "tool":
            tool = {"name": "submit_plan", "description": "Hand in the plan.", "parameters": schema}
            choice = {"type": "function", "function": {"name": "submit_plan"}}
            return {"tools": [tool], "tool_choice": choice}
        case _:
            return {}


def read_plan(text: str, plan_id: str, *, with_files: bool) -> tuple[Plan | None, list[Finding]]:
    """Return the plan in a model's answer, or why there is none. Files are ignored where none were asked for."""
    value = _json(text)
    if not isinstance(value, dict):
        return None, [Finding(code="invalid_json", message="the answer is not a JSON object")]
    asked = _ASKED_FIELDS if with_files else _ASKED_FIELDS - {"files"}
    steps = value.get("steps")
    if isinstance(steps, list):  # whatever else a model says of a step (its status, its cost) is not its to say
        steps = [{k: v for k, v in step.items() if k in asked} if isinstance(step, dict) else step for step in steps]
    plan = {"id": plan_id, "overview": value.get("overview", ""), "steps": steps}
    try:
        return Plan.model_validate({**plan, "estimated_complexity": value.get("estimated_complexity", "medium")}), []
    except ValidationError as error:
        rows = [(".".join(map(str, row["loc"])), row["msg"]) for row in error.errors(include_input=False)]
        return None, [Finding(code="invalid_plan", message=f"{place}: {what}") for place, what in rows[:10]]


def _json(text: str) -> Any:
    """Return the JSON value of an answer: all of it, a fenced block, or from the first brace to the last."""
    fenced = [match.group(1) for match in _FENCE.finditer(text)]
    for candidate in (text, *fenced, text[text.find("{") : text.rfind("}") + 1]):
        try:
            return json.loads(candidate)
        except (ValueError, RecursionError):
            continue
    return None
