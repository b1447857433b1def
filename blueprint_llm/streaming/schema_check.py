"""Compile a JSON Schema once: for decisions in mid-stream, and for the last word by a full validator.

The validator is jsonschema-rs where it is installed, else jsonschema. A reference to another document is never
fetched: it is dropped, so it forbids nothing.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from blueprint_llm.errors import InvalidRequestError
from blueprint_llm.streaming.lexemes import escaped
from blueprint_llm.streaming.nodes import SchemaIndex, find, has_inner_id, is_pointer, step_into
from blueprint_llm.streaming.schema_machine import SchemaMachine

_DRAFTS = {"2020-12": "Draft202012", "2019-09": "Draft201909", "draft-07": "Draft7", "draft-06": "Draft6"}
_DRAFTS["draft-04"] = "Draft4"
_DEFAULT_DRAFTS = ("Draft202012", "Draft7", "Draft4")  # the first that a schema without `$schema` is valid under
_YOUNG = {"Draft202012": (), "Draft4": ("prefixItems", "const")}  # words that a draft does not know yet
_PLAIN_VALUES = frozenset({"const", "enum", "default", "examples"})  # hold instances, not schemas
_CODES = {"additionalProperties": "schema_unknown_property", "const": "schema_enum"}
_EXPECTED_CHARS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """Where and why a whole value does not satisfy its schema; `path` is a JSON pointer."""

    code: str
    path: str
    expected: str


Validate = Callable[[Any], Mismatch | None]


class CompiledSchema:
    """One schema, ready for any number of answers."""

    def __init__(self, schema: Any) -> None:
        self._schema = _without_remote(schema)
        self._draft = _draft_of(self._schema)
        _require_targets(self._schema)
        self._index = SchemaIndex(
            self._schema,
            lone_refs=self._draft in {"Draft4", "Draft6", "Draft7"},
            unread=frozenset(_YOUNG.get(self._draft, ("prefixItems",))),
        )
        self._validate: Validate | None = None

    def machine(self) -> SchemaMachine:
        """Decides in mid-stream."""
        return SchemaMachine(self._index)

    def mismatch(self, value: Any) -> Mismatch | None:
        """The first thing wrong with a whole value."""
        if self._validate is None:
            self._validate = _validator(self._schema, self._draft)
        try:
            return self._validate(value)
        except OverflowError:  # an integer that no float holds, under `multipleOf: 0.1`
            return Mismatch(code="number_overflow", path="", expected="a smaller number")
        except BaseException as error:
            if not isinstance(error, RecursionError) and type(error).__name__ != "PanicException":
                raise  # a panic is how the Rust part of jsonschema answers a RecursionError
            return Mismatch(code="schema_too_deep", path="", expected="less nesting")


def compile_schema(schema: Any) -> CompiledSchema:
    """`schema`, compiled once however often it is used. Raises InvalidRequestError if it is no JSON Schema."""
    try:
        return _compiled(json.dumps(schema, sort_keys=True, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        if isinstance(error, InvalidRequestError):
            raise
        raise InvalidRequestError("the schema is not plain JSON") from None


@functools.lru_cache(maxsize=256)
def _compiled(text: str) -> CompiledSchema:
    return CompiledSchema(json.loads(text))


def tool_schemas(tools: Iterable[Any]) -> dict[str, Any]:
    """The parameter schemas by tool name, of Tool records or OpenAI dicts."""
    return dict(_name_and_schema(tool) for tool in tools)


def check_tools(tools: Iterable[Any]) -> None:
    """Raise InvalidRequestError for a tool whose parameters are not a valid JSON Schema."""
    for name, schema in map(_name_and_schema, tools):
        try:
            compile_schema(schema)
        except InvalidRequestError as error:
            raise InvalidRequestError(f"tool {name!r}: {error}") from None


def _name_and_schema(tool: Any) -> tuple[str, Any]:
    record = tool if isinstance(tool, Mapping) else {"name": tool.name, "parameters": tool.parameters}
    function = record.get("function", record)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise InvalidRequestError("a tool needs a name")
    return function["name"], function.get("parameters") or {}


def _without_remote(schema: Any) -> Any:
    """A copy without references to other documents."""
    if isinstance(schema, list):
        return [_without_remote(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        word: value if word in _PLAIN_VALUES else _without_remote(value)
        for word, value in schema.items()
        if not (word == "$ref" and isinstance(value, str) and not value.startswith("#"))
    }


def _draft_of(schema: Any) -> str:
    """The draft that a schema says it follows, else the first that it is valid under. Raises InvalidRequestError."""
    import jsonschema  # noqa: PLC0415 - heavy: only requests with schemas pay for it

    declared = schema.get("$schema") if isinstance(schema, dict) else None
    named = [draft for part, draft in _DRAFTS.items() if isinstance(declared, str) and part in declared]
    problems = []
    for draft in named or _DEFAULT_DRAFTS:
        try:
            getattr(jsonschema, f"{draft}Validator").check_schema(schema)
        except jsonschema.SchemaError as error:
            problems.append(f"{error.json_path}: {error.message[:_EXPECTED_CHARS]}")
        else:
            return draft
    raise InvalidRequestError(f"not a valid JSON Schema: {problems[0]}")


def _require_targets(schema: Any) -> None:
    """Raise InvalidRequestError for a local reference to nothing."""
    for reference in () if has_inner_id(schema) else _references(schema):
        try:
            find(schema, reference)
        except LookupError:
            raise InvalidRequestError(f"not a valid JSON Schema: {reference!r} points to nothing") from None


def _references(schema: Any) -> Iterable[str]:
    stack = [schema]
    while stack:
        each = stack.pop()
        if isinstance(each, dict):
            if is_pointer(each.get("$ref")):
                yield each["$ref"]
            stack += [value for word, value in each.items() if word not in _PLAIN_VALUES]
        elif isinstance(each, list):
            stack += each


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
        error = next(iter(validator.iter_errors(value)))
        return _mismatch(error.instance_path, error.schema_path[-1], _rule(plain, error.schema_path))

    return validate


def _python_validator(schema: Any, draft: str) -> Validate:
    import jsonschema  # noqa: PLC0415 - heavy
    import referencing  # noqa: PLC0415 - heavy

    validator = getattr(jsonschema, f"{draft}Validator")(schema, registry=referencing.Registry())

    def validate(value: Any) -> Mismatch | None:
        try:
            error = next(iter(validator.iter_errors(value)), None)
        except (re.error, referencing.exceptions.Unresolvable, TypeError, AttributeError):
            return None  # what the validator cannot read (a part of another draft behind a reference) forbids nothing
        return error and _mismatch(error.absolute_path, str(error.validator), error.validator_value)

    return validate


def _rule(schema: Any, path: list[str | int]) -> Any:
    try:
        return functools.reduce(step_into, path, schema)
    except LookupError:
        return None


def _mismatch(path: Iterable[str | int], keyword: str, rule: Any) -> Mismatch:
    snake = re.sub("[A-Z]", lambda found: "_" + found[0].lower(), str(keyword))
    said = rule if isinstance(rule, str) else json.dumps(rule, default=str)
    return Mismatch(
        code=_CODES.get(str(keyword), f"schema_{snake}"),
        path="".join(map(escaped, path)),
        expected=said[:_EXPECTED_CHARS] if keyword == "type" else f"{keyword} {said[:_EXPECTED_CHARS]}",
    )
