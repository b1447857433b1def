"""The one path to a schema check: compile a JSON Schema once, decide in mid-stream, and have the last word.

The validator is jsonschema-rs where it is installed, else jsonschema, made to agree with it.
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
from blueprint_llm.streaming.dialect import for_python, for_validators, read_schema
from blueprint_llm.streaming.nodes import SchemaIndex, step_into
from blueprint_llm.streaming.schema_machine import SchemaMachine
from blueprint_llm.streaming.tokens import escaped

_YOUNG = {"Draft202012": (), "Draft4": ("prefixItems", "const")}  # words that a draft does not know yet
_CODES = {"additionalProperties": "schema_unknown_property", "const": "schema_enum"}
_EXPECTED_CHARS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """Where and why a whole value does not satisfy its schema; `path` is a JSON pointer."""

    code: str
    path: str
    expected: str

    def __str__(self) -> str:
        return f"{self.code} at {self.path or 'the top'}, expected {self.expected}"


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

    def machine(self) -> SchemaMachine:
        """Return a decider for one value in mid-stream."""
        return SchemaMachine(self._index)

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
    validator = cls(for_python(schema), registry=referencing.Registry())

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
        expected=said[:_EXPECTED_CHARS] if keyword == "type" else f"{keyword} {said[:_EXPECTED_CHARS]}",
    )
