"""What a planner is asked, and what it answered.

The schema of the answer is made anew for every request, and every position of its list is bound: step 3 is called S3,
may depend on S1 and S2 only and cover only known requirements, so a model that decodes under the schema cannot write a
cycle or an unknown requirement. Nothing in the words of a request may come from the project: that travels as typed
parts.
"""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from blueprint_llm.planning.lint import Finding, PathRule, PlanLimits, read_constraint
from blueprint_llm.types import Plan, PlanningContext, PlanStep

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Schema = dict[str, Any]

# What a model is asked for: lint allows more, because people edit plans.
ASKED = PlanLimits(
    max_steps=12, title_chars=80, description_chars=300, acceptance_chars=120, max_acceptance=2, max_files=6
)
# Measured on plans of that shape: about 300 tokens a step of text, and 25 for each file.
_STEP_TOKENS, _FILE_TOKENS, _FRAME_TOKENS = 325, 25, 200
_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL)
_ASKED_FIELDS = frozenset({"id", "title", "description", "depends_on", "covers", "files", "acceptance"})
_ROLE = (
    "You plan software work. Break the goal into concrete steps. Every step has a title, a description, the ids of "
    "the steps it depends on, the requirements it covers and acceptance criteria that can be checked. Every "
    "requirement is covered by at least one step. Answer with one JSON object and nothing else."
)
_FILES = (
    " For every step list the files it reads, edits, creates or deletes, as POSIX paths relative to the project. Two "
    "steps that write one file depend on each other. Edit only files that exist or that an earlier step creates."
)


def output_tokens(limits: PlanLimits, *, with_files: bool) -> int:
    """Return the most tokens that a plan within the limits takes."""
    step = _STEP_TOKENS + (_FILE_TOKENS * limits.max_files if with_files else 0)
    return _FRAME_TOKENS + limits.max_steps * step


@dataclass(frozen=True, slots=True, kw_only=True)
class Brief:
    """The task in the planner's terms."""

    goal: str
    requirements: Mapping[str, str]  # their texts by id (`R1`, ...); a text keeps the id it had in the previous plan
    retired: frozenset[str] = frozenset()  # ids that only finished steps may still name
    constraints: tuple[str, ...] = ()
    rules: tuple[PathRule, ...] = ()  # constraints that lint proves
    unverified: tuple[str, ...] = ()  # constraints that code cannot prove
    previous: Plan | None = None  # the plan that is being revised
    done: tuple[PlanStep, ...] = ()  # the finished steps of that plan; they stay as they are

    def step_ids(self, count: int) -> list[str]:
        """Return the ids of new steps, in order, next to those of the finished ones."""
        taken = {step.id for step in self.done}
        return [name for n in range(1, count + len(taken) + 1) if (name := f"S{n}") not in taken][:count]


def read_brief(context: PlanningContext) -> Brief:
    """Return the brief of a planning context; the last of the previous plans is the one revised."""
    previous = context.previous_plans[-1] if context.previous_plans else None
    known: Mapping[str, str] = previous.metadata.get("requirements", {}) if previous else {}
    ids = {text: name for name, text in known.items()}
    free = (name for n in itertools.count(1) if (name := f"R{n}") not in known)
    requirements = {ids.get(text) or next(free): text for text in dict.fromkeys(context.requirements)}
    rules = {text: read_constraint(text) for text in context.constraints}
    return Brief(
        goal=context.goal,
        requirements=requirements,
        retired=frozenset(known) - frozenset(requirements),
        constraints=tuple(context.constraints),
        rules=tuple(rule for rule in rules.values() if rule),
        unverified=tuple(text for text, rule in rules.items() if rule is None),
        previous=previous,
        done=tuple(step for step in previous.steps if step.status == "done") if previous else (),
    )


def plan_messages(brief: Brief, schema: Schema | None, *, with_files: bool) -> list[dict[str, Any]]:
    """Return the request for a plan: the role, with the schema where it is told in words, then the task."""
    system = _ROLE + (_FILES if with_files else "")
    if schema:
        system += f" The object follows this JSON Schema: {json.dumps(schema)}"
    lines = [f"Goal: {brief.goal}"]
    lines += ["Requirements:", *(f"- {name}: {text}" for name, text in brief.requirements.items())]
    lines += ["Constraints:", *(f"- {text}" for text in brief.constraints)] if brief.constraints else []
    if brief.previous:
        done = ", ".join(step.id for step in brief.done) or "none"
        lines.append(f"This revises an earlier plan. Finished steps: {done}. Plan only what is still to be done.")
    return [{"role": "system", "content": system}, {"role": "user", "content": "\n".join(lines)}]


def correction(answer: str, findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Return the same model's answer back to it, with what is wrong."""
    lines = [f"- {finding.code}: {finding.message}" for finding in findings]
    text = "\n".join(["That plan cannot be used:", *lines, "Answer with the whole corrected JSON object."])
    return [{"role": "assistant", "content": answer or "(no answer)"}, {"role": "user", "content": text}]


def plan_schema(
    brief: Brief, limits: PlanLimits, *, with_files: bool, bound: Mapping[str, list[str]] | None = None
) -> Schema:
    """Return the JSON Schema of a plan for this brief.

    `bound` holds the requirements that each step must cover, by its id, for models that left some out.
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
    if mode == "schema":
        return {"response_format": {"type": "json_schema", "json_schema": {"name": "plan", "schema": schema}}}
    tool = {"name": "submit_plan", "description": "Hand in the plan.", "parameters": schema}
    choice = {"type": "function", "function": {"name": "submit_plan"}}
    return {"tools": [tool], "tool_choice": choice} if mode == "tool" else {}


def read_plan(text: str, plan_id: str, *, with_files: bool) -> tuple[Plan | None, list[Finding]]:
    """Return the plan in a model's answer, or why there is none. Files are ignored where none were asked for."""
    value = _json(text)
    if not isinstance(value, dict):
        return None, [Finding("invalid_json", "the answer is not a JSON object")]
    asked = _ASKED_FIELDS if with_files else _ASKED_FIELDS - {"files"}
    steps = value.get("steps")
    if isinstance(steps, list):  # whatever else a model says of a step (its status, its cost) is not its to say
        steps = [{k: v for k, v in step.items() if k in asked} if isinstance(step, dict) else step for step in steps]
    plan = {"id": plan_id, "overview": value.get("overview", ""), "steps": steps}
    try:
        return Plan.model_validate({**plan, "estimated_complexity": value.get("estimated_complexity", "medium")}), []
    except ValidationError as error:
        rows = [(".".join(map(str, row["loc"])), row["msg"]) for row in error.errors(include_input=False)]
        return None, [Finding("invalid_plan", f"{place}: {what}") for place, what in rows[:10]]


def _json(text: str) -> Any:
    """Return the JSON value of an answer: all of it, a fenced block, or from the first brace to the last."""
    fenced = [match.group(1) for match in _FENCE.finditer(text)]
    for candidate in (text, *fenced, text[text.find("{") : text.rfind("}") + 1]):
        try:
            return json.loads(candidate)
        except (ValueError, RecursionError):
            continue
    return None
