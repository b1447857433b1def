"""Says what is wrong with a value of the `blueprint:` block, and what would be right.

pydantic finds the mistakes; this module words them and looks up which keys were possible at that place.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, ValidationError

from blueprint_llm.config.problems import hint, nearest
from blueprint_llm.config.secrets import shown

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from blueprint_llm.config.problems import Path, Report

_KINDS = {
    "string": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "list": "a list",
    "dict": "a mapping",
    "model": "a mapping",
    "tuple": "a list",
}
_BOUNDS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}
_FIXED = {
    "missing": "is missing",
    "finite_number": "must be a finite number",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
}


def report_errors(error: ValidationError, root: type[BaseModel], prefix: Path, report: Report) -> None:
    """Add every mistake pydantic found to `report`; `prefix` is where `root`'s value stands."""
    for detail in error.errors(include_url=False):
        path = prefix + tuple(step for step in detail["loc"] if step != "[key]")
        unknown_key = detail["type"] == "extra_forbidden"
        text = _unknown_key(detail, root) if unknown_key else wording(detail)
        report.problem(path, text, key=unknown_key)


def wording(detail: ErrorDetails) -> str:
    """One mistake in plain words; it never shows what could be a secret."""
    kind, context, value = detail["type"], detail.get("ctx", {}), detail["input"]
    there = shown(value, str(detail["loc"][-1]) if detail["loc"] else "")
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return f"must be {words} {context[name]:g}, not {there}"
    if kind == "literal_error":
        return f"must be {context['expected']}, not {there}{_near_choice(value, context['expected'])}"
    if kind == "value_error":
        return str(context["error"]) if isinstance(value, dict) else f"{context['error']}, not {there}"
    return _FIXED.get(kind) or _wrong_type(kind, value, there) or f"{detail['msg'][:1].lower()}{detail['msg'][1:]}"


def _near_choice(value: Any, expected: str) -> str:
    near = nearest(value, re.findall("'([^']*)'", expected)) if isinstance(value, str) else None
    return f", did you mean {shown(near)}?" if near else ""


def _wrong_type(kind: str, value: Any, there: str) -> str:
    name = kind.removesuffix("_type").removesuffix("_parsing").removesuffix("_from_float")
    if name == kind or name not in _KINDS:
        return ""
    quote = ": put quotes around it" if name == "string" and isinstance(value, bool | int | float) else ""
    return f"must be {_KINDS[name]}, not {there}{quote}"


def _unknown_key(detail: ErrorDetails, root: type[BaseModel]) -> str:
    name = str(detail["loc"][-1])
    return f"unknown key {shown(name)}{hint(name, keys_of(section_at(root, detail['loc'][:-1])), otherwise='allowed')}"


def section_at(root: type[BaseModel], path: tuple[str | int, ...]) -> type[BaseModel]:
    """The model that describes the mapping at `path` below `root`."""
    section = root
    for step in path:
        field = next((field for name, field in section.model_fields.items() if step in {name, field.alias}), None)
        section = (field and _model_in(field.annotation)) or section
    return section


def keys_of(section: type[BaseModel]) -> list[str]:
    """The keys a section takes, as they are written in the file."""
    return [field.alias or name for name, field in section.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _model_in(inner))), None)
