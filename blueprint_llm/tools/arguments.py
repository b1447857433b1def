"""Read a model's tool arguments strictly: what two parsers could read differently is refused, by field.

JSON's own depth, duplicate keys, NaN and numbers beyond 64 bits are checked before anything is built from them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

if TYPE_CHECKING:
    from blueprint_llm.tools.paths import Located

MAX_BYTES = 4_000_000
MAX_DEPTH = 64
_PLAIN = (bool, int, float, list, tuple, dict, Mapping)
_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)


class BadArgumentsError(ValueError):
    """Arguments that no tool gets to see; the message names the field.

    Attributes:
        quote: What else there is to say to whoever may read the files `quoted`.
    """

    def __init__(self, message: str, *, quote: str = "", quoted: tuple[Located, ...] = ()) -> None:
        super().__init__(message)
        self.quote, self.quoted = quote, quoted


def read_arguments(raw: object) -> dict[str, Any]:
    """The arguments as a mapping of plain JSON values.

    Args:
        raw: A mapping, or the JSON text of one.

    Raises:
        BadArgumentsError: Naming the field that is wrong.
    """
    value = _from_json(raw) if isinstance(raw, str) else raw
    if not isinstance(value, Mapping):
        raise BadArgumentsError(f"arguments must be an object, not {type(value).__name__}")
    if problem := next(_problems(value), None):
        raise BadArgumentsError(problem)
    return dict(value)


def _from_json(text: str) -> Any:
    if len(text) > MAX_BYTES:
        raise BadArgumentsError(f"arguments are longer than {MAX_BYTES} characters")
    if _depth(text) > MAX_DEPTH:
        raise BadArgumentsError(f"arguments are nested deeper than {MAX_DEPTH} levels")
    try:
        return json.loads(text or "{}", object_pairs_hook=_unique, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise BadArgumentsError(f"arguments are not JSON: {error.msg} at character {error.pos}") from None
    except ValueError as error:
        raise BadArgumentsError(str(error)[:200]) from None


def _depth(text: str) -> int:
    deepest = depth = 0
    for char in re.findall(r"[\[\]{}]", _STRINGS.sub("", text)):
        depth += 1 if char in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for key, value in pairs:
        if key in seen:
            raise BadArgumentsError(f"{key}: given twice")
        seen[key] = value
    return seen


def _no_constant(name: str) -> None:
    raise BadArgumentsError(f"{name} is not JSON")


def _problems(arguments: Mapping[Any, Any]) -> Iterator[str]:
    """What is wrong with the values, field by field; a stack in place of recursion."""
    stack: list[tuple[str, Any, int]] = [(str(key), value, 1) for key, value in arguments.items()]
    if not all(isinstance(key, str) for key in arguments):
        yield "arguments: every key must be a string"
    while stack:
        field, value, depth = stack.pop()
        if problem := _wrong(value, depth):
            yield f"{field}: {problem}"
        elif isinstance(value, (dict, Mapping)):
            stack += [(f"{field}.{key}", item, depth + 1) for key, item in value.items()]
        elif isinstance(value, list | tuple):
            stack += [(f"{field}[{index}]", item, depth + 1) for index, item in enumerate(value)]


def _wrong(value: Any, depth: int) -> str | None:
    match value:
        case _ if depth > MAX_DEPTH:
            return f"nested deeper than {MAX_DEPTH} levels"
        case str():
            return _wrong_text(value)
        case int() if not -(2**63) <= value < 2**64:
            return "a whole number beyond 64 bits"
        case float() if value != value or value in {float("inf"), float("-inf")}:  # noqa: PLR0124 - only NaN differs from itself
            return "NaN and Infinity are not JSON"
    return None if value is None or isinstance(value, _PLAIN) else f"{type(value).__name__} is not a JSON value"


def _wrong_text(value: str) -> str | None:
    if "\0" in value:
        return "holds a NUL character"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "holds half of a surrogate pair"
    return None


def validate(model: type[BaseModel], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments as the tool's own values, by name.

    Raises:
        BadArgumentsError: Naming every field that is unknown, missing or of the wrong type.
    """
    try:
        record = model.model_validate_json(json.dumps(_with_integers(arguments)), strict=True)
    except ValidationError as error:
        rows = error.errors(include_url=False, include_input=False, include_context=False)
        raise BadArgumentsError("; ".join(f"{_field(row['loc'])}: {row['msg']}" for row in rows[:8])) from None
    return {name: getattr(record, name) for name in model.model_fields}


def _with_integers(value: Any) -> Any:
    """The values with 5.0 as 5: JSON Schema, by which the model's calls are judged, takes it for an integer."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {key: _with_integers(item) for key, item in value.items()}
        case list():
            return [_with_integers(item) for item in value]
        case _:
            return value


def _field(loc: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in loc) or "arguments"
