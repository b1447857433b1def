"""Turn Python functions into tools: the schema comes from the signature, and a model's arguments are read strictly.

What two parsers could read differently is refused, by field: duplicate keys, NaN, numbers beyond 64 bits, depth.
"""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, overload

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model

from blueprint_llm.errors import InvalidRequestError, ToolError
from blueprint_llm.types import Tool

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from blueprint_llm.tools.patch import Staged
    from blueprint_llm.tools.words import Command
    from blueprint_llm.tools.workspace import Located

Effect = Literal["read", "write", "execute", "network"]
_MARK = "__blueprint_tool__"
_REMOTE = re.compile(r'"\$(?:dynamic)?[Rr]ef": "(?!#)')
_MAX_BYTES, _MAX_DEPTH = 4_000_000, 64
_ODD = re.compile("[\0\ud800-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What a tool does to the world."""

    effect: Effect = "execute"  # the strongest thing it does
    paths: tuple[str, ...] = ()  # arguments that name files of the workspace
    parallel: bool = False  # several calls may run at once
    idempotent: bool = False  # a call may be repeated when its outcome is unknown
    outside: bool = False  # its results come from outside the workspace, so that the model may be misled by them
    confined: bool = False  # the handler takes what the call was allowed, as `allowance`, and keeps to it
    name: str | None = None  # in place of the function's own
    description: str | None = None  # likewise


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What one call would touch: the command it runs, the files it names, the very bytes it would write."""

    command: Command | None = None
    places: tuple[Located, ...] = ()
    staged: tuple[Staged, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What a tool may hand back: status, text for the model, and facts for the result and the audit."""

    status: Literal["ok", "error", "denied", "timeout", "unknown"]
    text: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """A tool that the engine can run."""

    tool: Tool  # what the model is told
    traits: Traits
    check: Callable[[Mapping[str, Any]], dict[str, Any]]  # arguments as keywords, or BadArgumentsError
    handler: Callable[..., Any]  # takes the keywords; may be a coroutine function
    # What a call with these keywords would touch; without it, the files that `traits.paths` name.
    claims: Callable[[Mapping[str, Any]], Claims] | None = None
    # Reads the declaration again where somebody else makes it; None from it: there is no such tool any more.
    refresh: Callable[[], Awaitable[Registered | None]] | None = None
    changed: bool = False  # the declaration changed after it was first read


class BadArgumentsError(ValueError):
    """Arguments that no tool gets to see; the message names the field.

    Attributes:
        quote: What else there is to say to whoever may read the files `quoted`.
    """

    def __init__(self, message: str, *, quote: str = "", quoted: tuple[Located, ...] = ()) -> None:
        super().__init__(message)
        self.quote, self.quoted = quote, quoted


@overload
def tool(function: Callable[..., Any], /) -> Callable[..., Any]: ...
@overload
def tool(**traits: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]: ...
def tool(function: Callable[..., Any] | None = None, /, **traits: Any) -> Any:
    """Mark a function as a tool: `@tool` or `@tool(effect="read", paths=("path",), parallel=True)`."""

    def mark(target: Callable[..., Any]) -> Callable[..., Any]:
        setattr(target, _MARK, Traits(**traits))
        return target

    return mark(function) if function else mark


def from_function(
    function: Callable[..., Any], claims: Callable[[Mapping[str, Any]], Claims] | None = None
) -> Registered:
    """Return a tool whose schema is the function's signature. Raises ToolError when that cannot be a schema."""
    traits: Traits = getattr(function, _MARK, Traits())
    model = _model_of(
        getattr(function, "__func__", function), bound=inspect.ismethod(function), confined=traits.confined
    )

    def check(arguments: Mapping[str, Any]) -> dict[str, Any]:
        try:
            record = model.model_validate_json(json.dumps(_with_integers(arguments)), strict=True)
        except ValidationError as error:
            rows = error.errors(include_url=False, include_input=False, include_context=False)[:8]
            told = (f"{'.'.join(map(str, row['loc'])) or 'arguments'}: {row['msg']}" for row in rows)
            raise BadArgumentsError("; ".join(told)) from None
        return {name: getattr(record, name) for name in model.model_fields}

    name = traits.name or function.__name__
    text = traits.description or inspect.getdoc(function) or ""
    schema = {**model.model_json_schema(), "title": name}
    declared = Tool(name=name, description=text, parameters=schema)
    return Registered(tool=declared, traits=traits, check=check, handler=function, claims=claims)


@lru_cache(maxsize=64)
def _model_of(function: Callable[..., Any], *, bound: bool, confined: bool) -> type[BaseModel]:
    try:
        parameters = list(inspect.signature(function, eval_str=True).parameters.values())[int(bound) :]
        taken = [item for item in parameters if not (confined and item.name == "allowance")]
        fields: dict[str, Any] = {item.name: _field_of(item) for item in taken}
        return create_model(function.__name__, __config__=ConfigDict(extra="forbid", frozen=True), **fields)
    except (TypeError, ValueError, NameError) as error:
        raise ToolError(f"{function.__qualname__} cannot be a tool: {error}") from None


def _field_of(item: inspect.Parameter) -> tuple[Any, Any]:
    if item.kind in {item.VAR_POSITIONAL, item.VAR_KEYWORD, item.POSITIONAL_ONLY}:
        raise TypeError(f"parameter {item.name} must be an ordinary named one")
    if item.annotation is item.empty:
        raise TypeError(f"parameter {item.name} needs a type")
    TypeAdapter(item.annotation)
    return item.annotation, Field() if item.default is item.empty else item.default


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


def from_schema(
    declared: Tool | Mapping[str, Any], handler: Callable[..., Any], traits: Traits | None = None
) -> Registered:
    """Return a tool whose schema is given; its handler gets the arguments as keywords."""
    given = declared if isinstance(declared, Tool) else Tool.model_validate(declared)
    # The model is told, and the validator of its answers asks, what this engine will accept: a schema that does not say
    # itself whether it takes other keys does not, unless it composes others.
    schema = {"type": "object", **given.parameters}
    if not {"additionalProperties", "$ref", "allOf", "anyOf", "oneOf"} & set(schema):
        schema["additionalProperties"] = False

    def check(arguments: Mapping[str, Any]) -> dict[str, Any]:
        from blueprint_llm.streaming.schema_check import compile_schema  # noqa: PLC0415 - most engines need it never

        if _REMOTE.search(json.dumps(schema, default=str)):
            raise BadArgumentsError("the tool's schema cannot be used: it refers to another document")
        try:
            problem = compile_schema(schema).mismatch(dict(arguments))
        except InvalidRequestError as error:
            raise BadArgumentsError(f"the tool's schema cannot be used: {error}") from None
        if problem is not None:
            place = problem.path.lstrip("/").replace("/", ".") or "arguments"
            raise BadArgumentsError(f"{place}: expected {problem.expected} ({problem.code})")
        return dict(arguments)

    return Registered(
        tool=given.model_copy(update={"parameters": schema}),
        traits=traits or getattr(handler, _MARK, None) or Traits(),
        check=check,
        handler=handler,
    )


def read_arguments(raw: object) -> dict[str, Any]:
    """Return a mapping, or the JSON text of one, as plain JSON values. Raises BadArgumentsError naming the field."""
    value = _from_json(raw) if isinstance(raw, str) else raw
    if not isinstance(value, Mapping):
        raise BadArgumentsError(f"arguments must be an object, not {type(value).__name__}")
    if not all(isinstance(key, str) for key in value):
        raise BadArgumentsError("arguments: every key must be a string")
    stack = [(str(key), item, 1) for key, item in value.items()]  # in place of recursion
    while stack:
        place, item, depth = stack.pop()
        if depth > _MAX_DEPTH:
            raise BadArgumentsError(f"arguments are nested deeper than {_MAX_DEPTH} levels")
        if problem := _problem(item):
            raise BadArgumentsError(f"{place}: {problem}")
        if isinstance(item, Mapping):
            stack += [(f"{place}.{key}", inner, depth + 1) for key, inner in item.items()]
        elif isinstance(item, list | tuple):
            stack += [(f"{place}[{index}]", inner, depth + 1) for index, inner in enumerate(item)]
    return dict(value)


def _from_json(text: str) -> Any:
    if len(text) > _MAX_BYTES:
        raise BadArgumentsError(f"arguments are longer than {_MAX_BYTES} characters")
    try:
        return json.loads(text or "{}", object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise BadArgumentsError(f"arguments are not JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise BadArgumentsError(f"arguments are nested deeper than {_MAX_DEPTH} levels") from None
    except ValueError as error:
        raise BadArgumentsError(str(error)[:200]) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise BadArgumentsError(f"{next(key for key in keys if keys.count(key) > 1)}: given twice")
    return found


def _problem(value: Any) -> str:
    match value:
        case str() if odd := _ODD.search(value):
            return f"holds {'a NUL character' if odd[0] == chr(0) else 'half of a surrogate pair'}"
        case int() if not -(2**63) <= value < 2**64:
            return "a whole number beyond 64 bits"
        case float() if not math.isfinite(value):
            return "NaN and Infinity are not JSON"
        case None | str() | int() | float() | Mapping() | list() | tuple():
            return ""
    return f"{type(value).__name__} is not a JSON value"
