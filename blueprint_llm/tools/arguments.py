"""Read a model's tool arguments strictly: what two parsers could read differently is refused, by field.

JSON's own depth, duplicate keys, NaN and numbers beyond 64 bits are checked before anything is built from them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

if TYPE_CHECKING:
    from blueprint_llm.tools.workspace import Located

MAX_BYTES = 4_000_000
MAX_DEPTH = 64
_ODD = re.compile("[\0\ud800-\udfff]")
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
    """Return the arguments as a mapping of plain JSON values.

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
    depth = 0
    for char in re.findall(r"[\[\]{}]", _STRINGS.sub("", text)):
        depth += 1 if char in "[{" else -1
        if depth > MAX_DEPTH:
            raise BadArgumentsError(f"arguments are nested deeper than {MAX_DEPTH} levels")
    try:
        return json.loads(text or "{}", object_pairs_hook=_unique, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise BadArgumentsError(f"arguments are not JSON: {error.msg} at character {error.pos}") from None
    except ValueError as error:
        raise BadArgumentsError(str(error)[:200]) from None


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
        place, value, depth = stack.pop()
        match value:
            case _ if depth > MAX_DEPTH:
                yield f"{place}: nested deeper than {MAX_DEPTH} levels"
            case str() if odd := _ODD.search(value):
                yield f"{place}: holds {'a NUL character' if odd[0] == chr(0) else 'half of a surrogate pair'}"
            case int() if not -(2**63) <= value < 2**64:
                yield f"{place}: a whole number beyond 64 bits"
            case float() if not math.isfinite(value):
                yield f"{place}: NaN and Infinity are not JSON"
            case Mapping():
                stack += [(f"{place}.{key}", item, depth + 1) for key, item in value.items()]
            case list() | tuple():
                stack += [(f"{place}[{index}]", item, depth + 1) for index, item in enumerate(value)]
            case _ if not (value is None or isinstance(value, str | int | float)):
                yield f"{place}: {type(value).__name__} is not a JSON value"


def validate(model: type[BaseModel], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments as the tool's own values, by name.

    Raises:
        BadArgumentsError: Naming every field that is unknown, missing or of the wrong type.
    """
    try:
        record = model.model_validate_json(json.dumps(_with_integers(arguments)), strict=True)
    except ValidationError as error:
        rows = error.errors(include_url=False, include_input=False, include_context=False)[:8]
        told = (f"{'.'.join(map(str, row['loc'])) or 'arguments'}: {row['msg']}" for row in rows)
        raise BadArgumentsError("; ".join(told)) from None
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
