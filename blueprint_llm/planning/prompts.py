"""The words of a planning request. Nothing here may come from the project: that travels as typed parts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from blueprint_llm.types import ContextPart

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blueprint_llm.planning.brief import Brief
    from blueprint_llm.planning.lint import Finding

_ROLE = (
    "You plan software work. Break the goal into concrete steps. Every step has a title, a description, the ids of "
    "the steps it depends on, the requirements it covers and acceptance criteria that can be checked. Every "
    "requirement is covered by at least one step. Answer with one JSON object and nothing else."
)
_FILES = (
    " For every step list the files it reads, edits, creates or deletes, as POSIX paths relative to the project. Two "
    "steps that write one file depend on each other. Edit only files that exist or that an earlier step creates."
)


def plan_messages(brief: Brief, schema: dict[str, Any], *, with_files: bool, show_schema: bool) -> list[dict[str, Any]]:
    """Return the request for a plan: the role, then the task."""
    system = _ROLE + (_FILES if with_files else "")
    if show_schema:
        system += f" The object follows this JSON Schema: {json.dumps(schema)}"
    lines = [f"Goal: {brief.goal}"]
    lines += ["Requirements:", *(f"- {name}: {text}" for name, text in brief.requirements.items())]
    lines += ["Constraints:", *(f"- {text}" for text in brief.constraints)] if brief.constraints else []
    if brief.previous:
        done = ", ".join(step.id for step in brief.done) or "none"
        lines.append(f"This revises an earlier plan. Finished steps: {done}. Plan only what is still to be done.")
    return [{"role": "system", "content": system}, {"role": "user", "content": "\n".join(lines)}]


def previous_part(brief: Brief) -> list[ContextPart]:
    """Return the plan that is being revised as a part: it is another answer about the project."""
    if brief.previous is None:
        return []
    return [ContextPart(kind="memory", source="previous plan", text=brief.previous.to_markdown())]


def correction(answer: str, findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Return the same model's answer back to it, with what is wrong."""
    lines = [f"- {finding.code}: {finding.message}" for finding in findings]
    text = "\n".join(["That plan cannot be used:", *lines, "Answer with the whole corrected JSON object."])
    return [{"role": "assistant", "content": answer or "(no answer)"}, {"role": "user", "content": text}]
