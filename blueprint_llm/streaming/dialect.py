"""Read a JSON Schema as every validator reads it alike: one draft, no reference to elsewhere, OpenAPI's `nullable`.

A reference to another document is never fetched: it is dropped, so it forbids nothing.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any

from blueprint_llm.errors import InvalidRequestError
from blueprint_llm.streaming.nodes import find, has_inner_id, is_pointer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_DRAFTS = {"2020-12": "Draft202012", "2019-09": "Draft201909", "draft-07": "Draft7", "draft-06": "Draft6"}
_DRAFTS["draft-04"] = "Draft4"
_DEFAULT_DRAFTS = ("Draft202012", "Draft7", "Draft4")  # the first that a schema without `$schema` is valid under
_MESSAGE_CHARS = 120

_INSTANCES = frozenset({"const", "enum", "default", "examples"})  # keywords that hold values, not schemas
_MAPS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})  # by name
_PARTS = frozenset({"items", "contains", "not", "if", "then", "else", "allOf", "anyOf", "oneOf", "prefixItems"})
_FALSE: dict[str, Any] = {"not": {}}
_DEFINING = frozenset({"$defs", "definitions", "$id", "$schema", "$anchor"})
# With these, null is another alternative; without, it is another type.
_COMPOUND = frozenset({"$ref", "$dynamicRef", "$recursiveRef", "allOf", "anyOf", "oneOf", "not", "if", "const"})


def read_schema(schema: Any) -> tuple[Any, str]:
    """Return a schema as it is checked, and its draft. Raises InvalidRequestError if it is no JSON Schema."""
    local = _rewritten(schema, _local)
    draft = _draft_of(local)
    _require_targets(local)
    with_null = _rewritten(local, _nullable)
    return (with_null if not any(_dangling(with_null)) else local), draft


def for_validators(schema: Any, draft: str) -> Any:
    """Return the schema with what validators read differently written out: draft 4's integers, and `false`."""
    return _rewritten(schema, functools.partial(_spelt_out, draft=draft))


def for_python(schema: Any) -> Any:
    """Return the schema with its patterns in Python's dialect; what Python cannot read forbids nothing."""
    return _rewritten(schema, _with_python_patterns)


def _rewritten(schema: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """Return a copy in which every part that is a schema has been changed, the innermost first."""
    if isinstance(schema, list):
        return [_rewritten(each, change) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return change(
        {
            word: value
            if word in _INSTANCES
            else {name: _rewritten(each, change) for name, each in value.items()}
            if word in _MAPS and isinstance(value, dict)
            else _rewritten(value, change)
            for word, value in schema.items()
        }
    )


def _local(schema: dict[str, Any]) -> dict[str, Any]:
    """Drop a reference to another document."""
    reference = schema.get("$ref")
    if isinstance(reference, str) and not reference.startswith("#"):
        return {word: value for word, value in schema.items() if word != "$ref"}
    return schema


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """Write OpenAPI 3.0's `nullable` as JSON Schema says it."""
    if schema.get("nullable") is not True:
        return schema
    schema = {word: value for word, value in schema.items() if word != "nullable"}
    if _COMPOUND.isdisjoint(schema):
        types = schema.get("type")
        also = {"type": [*([types] if isinstance(types, str) else types), "null"]} if types else {}
        also |= {"enum": [*schema["enum"], None]} if isinstance(schema.get("enum"), list) else {}
        return schema | also
    outside = {word: value for word, value in schema.items() if word in _DEFINING}
    inside = {word: value for word, value in schema.items() if word not in _DEFINING}
    return {**outside, "anyOf": [inside, {"type": "null"}]}


def _spelt_out(schema: dict[str, Any], *, draft: str) -> dict[str, Any]:
    """Write `false` out, which no two validators report alike; and in draft 4, that 5.0 is an integer."""
    if draft != "Draft4":
        return {word: _not_false(word, value) for word, value in schema.items()}
    types = schema.get("type")
    types = [types] if isinstance(types, str) else types
    if not types or "integer" not in types:
        return schema
    numbers = {"type": ["number", *(each for each in types if each not in {"integer", "number"})]}
    whole = {} if "number" in types else {"allOf": [*schema.get("allOf", ()), {"multipleOf": 1}]}
    return {**schema, **numbers, **whole}


def _not_false(word: str, value: Any) -> Any:
    if word in _PARTS:
        parts = value if isinstance(value, list) else [value]
        parts = [_FALSE if each is False else each for each in parts]
        return parts if isinstance(value, list) else parts[0]
    if word in _MAPS and isinstance(value, dict):
        return {name: _FALSE if each is False else each for name, each in value.items()}
    return value


def _with_python_patterns(schema: dict[str, Any]) -> dict[str, Any]:
    schema = dict(schema)
    if isinstance(schema.get("pattern"), str) and (pattern := python_pattern(schema.pop("pattern"))) is not None:
        schema["pattern"] = pattern
    if isinstance(schema.get("patternProperties"), dict):
        read = [(python_pattern(name), each) for name, each in schema["patternProperties"].items()]
        schema["patternProperties"] = {name: each for name, each in read if name is not None}
        if len(schema["patternProperties"]) < len(read):  # then nobody knows which keys are additional
            schema = {word: value for word, value in schema.items() if word not in _OF_OTHER_KEYS}
    return schema


_OF_OTHER_KEYS = frozenset({"additionalProperties", "unevaluatedProperties"})
_ECMA = re.compile(r"\\.|\[|\]|\$|\(\?<(?![=!])", re.DOTALL)
_CLASSES = {r"\d": "0-9", r"\w": "A-Za-z0-9_"}


def python_pattern(pattern: str) -> str | None:
    r"""Return an ECMA pattern in Python's dialect (`\d` and `\w` are ASCII, `$` is the end), or None."""
    in_class = False

    def translated(found: re.Match[str]) -> str:
        nonlocal in_class
        piece = found[0]
        if piece in {"[", "]"}:
            in_class = piece == "["
        if piece == "$":
            return piece if in_class else r"\Z"
        if piece == "(?<":
            return "(?P<"
        inside, negated = _CLASSES.get(piece.lower()), piece[-1].isupper()
        if inside is None or (in_class and negated):
            return piece
        return inside if in_class else f"[{'^' if negated else ''}{inside}]"

    try:
        return re.compile(_ECMA.sub(translated, pattern)).pattern
    except (re.error, RecursionError):
        return None


def _draft_of(schema: Any) -> str:
    """Return the draft that a schema says it follows, else the first that it is valid under."""
    import jsonschema  # noqa: PLC0415 - heavy: only requests with schemas pay for it

    declared = schema.get("$schema") if isinstance(schema, dict) else None
    named = [draft for part, draft in _DRAFTS.items() if isinstance(declared, str) and part in declared]
    problems = []
    unchecked = jsonschema.FormatChecker(formats=())  # patterns are ECMA's, which Python need not be able to read
    for draft in named or _DEFAULT_DRAFTS:
        try:
            getattr(jsonschema, f"{draft}Validator").check_schema(schema, format_checker=unchecked)
        except jsonschema.SchemaError as error:
            problems.append(f"{error.json_path}: {error.message[:_MESSAGE_CHARS]}")
        else:
            return draft
    raise InvalidRequestError(f"not a valid JSON Schema: {problems[0]}")


def _require_targets(schema: Any) -> None:
    """Raise InvalidRequestError for a local reference to nothing."""
    for reference in _dangling(schema):
        raise InvalidRequestError(f"not a valid JSON Schema: {reference!r} points to nothing")


def _dangling(schema: Any) -> Iterator[str]:
    """Yield the local references that point to nothing."""
    for reference in () if has_inner_id(schema) else _references(schema):
        try:
            find(schema, reference)
        except LookupError:
            yield reference


def _references(schema: Any) -> Iterator[str]:
    stack = [schema]
    while stack:
        each = stack.pop()
        if isinstance(each, dict):
            if is_pointer(each.get("$ref")):
                yield each["$ref"]
            stack += [value for word, value in each.items() if word not in _INSTANCES]
        elif isinstance(each, list):
            stack += each
