"""The one path to a schema check: compile a JSON Schema once, decide in mid-stream, and have the last word.

The validator is jsonschema-rs where it is installed, else jsonschema, made to agree with it. Both read the schema in
one dialect: one draft, OpenAPI's `nullable` written out, and no reference to another document, which is never fetched
but dropped, so it forbids nothing.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from blueprint_llm.errors import InvalidRequestError
from blueprint_llm.streaming.machine import escaped
from blueprint_llm.streaming.schema_machine import (
    SchemaIndex,
    SchemaMachine,
    find,
    has_inner_id,
    is_pointer,
    step_into,
    walk,
)

_CODES = {"additionalProperties": "schema_unknown_property", "const": "schema_enum"}
_MOST_CHARS = 120  # of a schema or a message in an error

_DRAFTS = {
    "2020-12": "Draft202012",
    "2019-09": "Draft201909",
    "draft-07": "Draft7",
    "draft-06": "Draft6",
    "draft-04": "Draft4",
}
_DEFAULT_DRAFTS = ("Draft202012", "Draft7", "Draft4")  # the first that a schema without `$schema` is valid under
_YOUNG = {"Draft202012": (), "Draft4": ("prefixItems", "const")}  # words that a draft does not know yet
_GONE = dict.fromkeys(("Draft201909", "Draft202012"), "dependencies")

_INSTANCES = frozenset({"const", "enum", "default", "examples"})  # keywords that hold values, not schemas
_MAPS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})  # by name
_PARTS = frozenset({"items", "contains", "not", "if", "then", "else", "allOf", "anyOf", "oneOf", "prefixItems"})
_FALSE: dict[str, Any] = {"not": {}}
_DEFINING = frozenset({"$defs", "definitions", "$id", "$schema", "$anchor"})
_OF_OTHER_KEYS = frozenset({"additionalProperties", "unevaluatedProperties"})
# What ECMA's regular expressions write otherwise than Python's, of which `(?a)` reads `\d` and `\w` as they do.
_ECMA = re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]|\$|\(\?<(?![=!])", re.DOTALL)
_IN_PYTHON = {"$": r"\Z", "(?<": "(?P<", r"\s": r"(?u:\s)", r"\S": r"(?u:\S)"}
_SPACES = r"\s\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"  # in a class of characters
# With these, null is another alternative; without, it is another type.
_COMPOUND = frozenset({"$ref", "$dynamicRef", "$recursiveRef", "allOf", "anyOf", "oneOf", "not", "if", "const"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """Where and why a whole value does not satisfy its schema; `path` is a JSON pointer."""

    code: str
    path: str
    expected: str


Validate = Callable[[Any], Mismatch | None]


class CompiledSchema:
    """One schema, ready for any number of answers and calls. Raises InvalidRequestError if it is no JSON Schema."""

    def __init__(self, schema: Any) -> None:
        self._schema, self._draft = read_schema(schema)
        self._index = SchemaIndex(
            self._schema,
            lone_refs=self._draft in {"Draft4", "Draft6", "Draft7"},
            unread=frozenset(_YOUNG.get(self._draft, ("prefixItems",))),
        )

    def machine(self, *, any_root: bool = False) -> SchemaMachine:
        """Return a machine for one value in mid-stream."""
        return SchemaMachine(self._index, any_root=any_root)

    @functools.cached_property
    def _validate(self) -> Validate:
        return _validator(for_validators(self._schema, self._draft), self._draft)

    def mismatch(self, value: Any) -> Mismatch | None:
        """Return the first thing wrong with a whole value of plain JSON; None where it satisfies the schema."""
        try:
            return self._validate(value)
        except BaseException as error:
            if not isinstance(error, RecursionError) and type(error).__name__ != "PanicException":
                raise  # a panic is how the Rust part of jsonschema answers a RecursionError
            return Mismatch(code="schema_too_deep", path="", expected="less nesting")


def compile_schema(schema: Any) -> CompiledSchema:
    """Return `schema`, compiled once however often it is used. Raises InvalidRequestError if it is no JSON Schema."""
    try:
        return _compiled(json.dumps(schema, sort_keys=True, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        if isinstance(error, InvalidRequestError):
            raise
        raise InvalidRequestError("the schema is not plain JSON") from None


@functools.lru_cache(maxsize=256)
def _compiled(text: str) -> CompiledSchema:
    return CompiledSchema(json.loads(text))


def _validator(schema: Any, draft: str) -> Validate:
    try:
        import jsonschema_rs  # noqa: PLC0415 - optional: 200 times faster
    except ImportError:
        return _python_validator(schema, draft)
    plain = {word: value for word, value in schema.items() if word != "$schema"} if isinstance(schema, dict) else schema
    cls = getattr(jsonschema_rs, f"{draft}Validator")
    try:
        validator = cls(plain, validate_formats=False, retriever=lambda _uri: {})
    except ValueError:
        return _python_validator(schema, draft)  # a regular expression that only Python knows

    def validate(value: Any) -> Mismatch | None:
        if validator.is_valid(value):
            return None
        return _first(
            (error.instance_path, str(error.schema_path[-1]), _rule(plain, error.schema_path))
            for error in validator.iter_errors(value)
        )

    return validate


def _python_validator(schema: Any, draft: str) -> Validate:
    import jsonschema  # noqa: PLC0415 - heavy
    import referencing  # noqa: PLC0415 - heavy

    def multiple_of(validator: Any, factor: Any, value: Any, _schema: Any) -> Iterator[Any]:
        """19.99 is a multiple of 0.01: numbers are what their digits say, not what their bits do."""
        if validator.is_type(value, "number") and (Fraction(str(value)) / Fraction(str(factor))).denominator != 1:
            yield jsonschema.ValidationError("not a multiple")

    extend: Any = jsonschema.validators.extend
    cls = extend(getattr(jsonschema, f"{draft}Validator"), {"multipleOf": multiple_of})
    validator = cls(_rewritten(schema, _with_python_patterns), registry=referencing.Registry())

    def validate(value: Any) -> Mismatch | None:
        try:
            return _first(
                (error.absolute_path, str(error.validator), error.validator_value)
                for error in validator.iter_errors(value)
            )
        except (referencing.exceptions.Unresolvable, TypeError, AttributeError):
            return None  # what the validator cannot read (a part of another draft behind a reference) forbids nothing

    return validate


def _rule(schema: Any, path: list[str | int]) -> Any:
    try:
        return functools.reduce(step_into, path, schema)
    except LookupError:
        return None


def _first(errors: Iterable[tuple[Iterable[str | int], str, Any]]) -> Mismatch | None:
    """Return the first of a value's errors: that of the first place, and there of the first keyword."""
    found = [(tuple(map(escaped, path)), keyword, rule) for path, keyword, rule in errors]
    if not found:
        return None
    path, keyword, rule = min(found, key=lambda each: each[:2])
    snake = re.sub("[A-Z]", lambda upper: "_" + upper[0].lower(), keyword)
    said = rule if isinstance(rule, str) else json.dumps(rule, default=str)
    return Mismatch(
        code=_CODES.get(keyword, f"schema_{snake}"),
        path="".join(path),
        expected=said[:_MOST_CHARS] if keyword == "type" else f"{keyword} {said[:_MOST_CHARS]}",
    )


def read_schema(schema: Any) -> tuple[Any, str]:
    """Return a schema as it is checked, and its draft. Raises InvalidRequestError if it is no JSON Schema."""
    local = _rewritten(schema, _local)
    draft = _draft_of(local)
    for reference in _dangling(local):
        raise InvalidRequestError(f"not a valid JSON Schema: {reference!r} points to nothing")
    with_null = _rewritten(local, _nullable)
    return (with_null if not any(_dangling(with_null)) else local), draft


def for_validators(schema: Any, draft: str) -> Any:
    """Return the schema with what validators read differently written out: draft 4's integers, and `false`."""
    return _rewritten(schema, functools.partial(_spelt_out, draft=draft))


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
        unread = _GONE.get(draft, "")  # which jsonschema-rs still reads
        return {word: _not_false(word, value) for word, value in schema.items() if word != unread}
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
    if isinstance(schema.get("pattern"), str) and (pattern := _python_pattern(schema.pop("pattern"))) is not None:
        schema["pattern"] = pattern
    if isinstance(schema.get("patternProperties"), dict):
        read = [(_python_pattern(name), each) for name, each in schema["patternProperties"].items()]
        schema["patternProperties"] = {name: each for name, each in read if name is not None}
        if len(schema["patternProperties"]) < len(read):  # then nobody knows which keys are additional
            schema = {word: value for word, value in schema.items() if word not in _OF_OTHER_KEYS}
    return schema


def _python_pattern(pattern: str) -> str | None:
    """Return an ECMA pattern in Python's dialect; None where Python has no such."""
    try:
        return re.compile("(?a)" + _ECMA.sub(_in_python, pattern)).pattern
    except (re.error, RecursionError):
        return None


def _in_python(found: re.Match[str]) -> str:
    piece = found[0]
    if piece.startswith("["):
        return re.sub(r"\\.", lambda each: _SPACES if each[0] == r"\s" else each[0], piece)
    return _IN_PYTHON.get(piece, piece)


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
            problems.append(f"{error.json_path}: {error.message[:_MOST_CHARS]}")
        else:
            return draft
    raise InvalidRequestError(f"not a valid JSON Schema: {problems[0]}")


def _dangling(schema: Any) -> Iterator[str]:
    """Yield the local references that point to nothing."""
    for part in () if has_inner_id(schema) else walk(schema, _INSTANCES):
        reference: Any = part.get("$ref")
        if is_pointer(reference):
            try:
                find(schema, reference)
            except LookupError:
                yield reference
