"""Word what is wrong with a configuration, and what would be right.

pydantic finds the mistakes in the `blueprint:` block; here they get plain words and the keys that were possible there.
"""

from __future__ import annotations

import difflib
import re
from math import isfinite
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, ValidationError

from blueprint_llm.config.secrets import masked_text, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pydantic_core import ErrorDetails

Path = tuple[str | int, ...]

_PLAIN_KEY = re.compile(r"[A-Za-z_][\w\-]*")
_MOST_NAMES = 12
_KINDS = {
    "string": "text", "int": "a whole number", "float": "a number", "bool": "true or false",
    "list": "a list", "tuple": "a list", "dict": "a mapping", "model": "a mapping",
}  # fmt: skip
_BOUNDS = {
    "greater_than": ("gt", "more than"), "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"), "less_than_equal": ("le", "at most"),
}  # fmt: skip
_FIXED = {
    "missing": "is missing", "finite_number": "must be a finite number",
    "too_short": "must not be empty", "string_too_short": "must not be empty",
}  # fmt: skip


def dotted(path: Sequence[str | int]) -> str:
    """Return `("chains", "default", 2)` as `chains.default[2]`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif _PLAIN_KEY.fullmatch(step):
            text += f".{masked_text(step)}" if text else masked_text(step)
        else:
            text += f"[{shown(step)}]"
    return text


def mapping(value: Any) -> dict[str, Any]:
    """Return a value of a file if it is a mapping, else an empty one: what is wrong with it is said elsewhere."""
    return value if isinstance(value, dict) else {}


def listed(value: Any) -> list[Any]:
    """Return a value of a file if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def words(text: str) -> frozenset[str]:
    """Return the words of a text: names that stand in a list of ours."""
    return frozenset(text.split())


def nearest(name: str, names: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """Return the known name that `name` most looks like, if any."""
    known = {candidate.lower(): candidate for candidate in names}
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=cutoff)
    return known[close[0]] if close else None


def hint(name: str, names: Iterable[str], *, otherwise: str = "known") -> str:
    """Return how to go on after an unknown `name`: the near miss, else what there is."""
    known = sorted(set(names))
    if near := nearest(name, known):
        return f", did you mean {shown(near)}?"
    more = f" and {len(known) - _MOST_NAMES} more" if len(known) > _MOST_NAMES else ""
    return f"; {otherwise}: {', '.join(known[:_MOST_NAMES])}{more}" if known else ""


def mistakes(error: ValidationError, root: type[BaseModel], prefix: Path) -> Iterator[tuple[Path, str, bool]]:
    """Yield each mistake that pydantic found in a `root` at `prefix`: where, in plain words, and if a key is meant."""
    for detail in error.errors(include_url=False):
        unknown_key = detail["type"] == "extra_forbidden"
        text = _unknown_key(detail, root) if unknown_key else _wording(detail)
        yield prefix + tuple(step for step in detail["loc"] if step != "[key]"), text, unknown_key


def _wording(detail: ErrorDetails) -> str:
    """Return one mistake in plain words, which never show what could be a secret."""
    kind, context, value = detail["type"], detail.get("ctx", {}), detail["input"]
    there = shown(value, str(detail["loc"][-1]) if detail["loc"] else "")
    if kind in _FIXED:
        near = nearest(str(detail["loc"][-1]), value, cutoff=0.75) if kind == "missing" and value else None
        return _FIXED[kind] + (f": {shown(near)} looks like it" if near else "")
    if kind in _BOUNDS:
        name, comparison = _BOUNDS[kind]
        return f"must be {comparison} {context[name]:g}, not {there}"
    if kind == "literal_error":
        near = nearest(value, re.findall("'([^']*)'", context["expected"])) if isinstance(value, str) else None
        return f"must be {context['expected']}, not {there}" + (f", did you mean {shown(near)}?" if near else "")
    if kind == "value_error":
        return str(context["error"]) if isinstance(value, dict) else f"{context['error']}, not {there}"
    wanted = kind.removesuffix("_type").removesuffix("_parsing").removesuffix("_from_float")
    if wanted != kind and wanted in _KINDS:
        quote = ": put quotes around it" if wanted == "string" and isinstance(value, bool | int | float) else ""
        if wanted in {"int", "float"} and isinstance(value, str) and (plain := _plain_number(value)):
            quote = f", which is text: write {plain}"  # quoted, or 1e6, which YAML does not take for a number
        return f"must be {_KINDS[wanted]}, not {there}{quote}"
    return f"{detail['msg'][:1].lower()}{detail['msg'][1:]}"


def _plain_number(text: str) -> str | None:
    """Return a text that holds a number as YAML wants it."""
    try:
        number = float(text)
    except ValueError:
        return None
    return f"{number:.12f}".rstrip("0").rstrip(".") if isfinite(number) else None


def _unknown_key(detail: ErrorDetails, section: type[BaseModel]) -> str:
    """Return what an unknown key could have been, by the record that describes the mapping it stands in."""
    *path, name = detail["loc"]
    for step in path:
        fields = section.model_fields.items()
        field = next((each for own, each in fields if step in {own, each.alias}), None)
        section = (field and _model_in(field.annotation)) or section
    allowed = (field.alias or own for own, field in section.model_fields.items())
    return f"unknown key {shown(str(name))}{hint(str(name), allowed, otherwise='allowed')}"


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _model_in(inner))), None)
