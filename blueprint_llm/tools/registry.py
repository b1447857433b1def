"""Turn Python functions into tools: the schema comes from the signature, and arguments are checked against it."""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, overload

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, create_model

from blueprint_llm.errors import InvalidRequestError, ToolError
from blueprint_llm.tools.arguments import BadArgumentsError, validate
from blueprint_llm.types import Tool

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from blueprint_llm.tools.patch import Staged
    from blueprint_llm.tools.words import Command
    from blueprint_llm.tools.workspace import Located

Effect = Literal["read", "write", "execute", "network"]
_MARK = "__blueprint_tool__"
_REMOTE = re.compile(r'"\$(?:dynamic)?[Rr]ef": "(?!#)')
_CONFIG = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What a tool does to the world.

    Attributes:
        effect: The strongest thing it does; a function that does not say is taken to execute.
        paths: Arguments that name files of the workspace.
        parallel: Whether several calls may run at once.
        idempotent: Whether a call may be repeated when its outcome is unknown.
        outside: Whether its results come from outside the workspace, so that the model may be misled by them.
        confined: Whether the handler takes what the call was allowed, as `allowance`, and keeps to it.
        name, description: In place of the function's own.
    """

    effect: Effect = "execute"
    paths: tuple[str, ...] = ()
    parallel: bool = False
    idempotent: bool = False
    outside: bool = False
    confined: bool = False
    name: str | None = None
    description: str | None = None


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
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """A tool that the engine can run.

    Attributes:
        tool: What the model is told.
        traits: What it does to the world.
        check: Turns arguments into keywords for the handler, or raises `BadArgumentsError`.
        handler: Takes the keywords; may be a coroutine function.
        claims: What a call with these keywords would touch; None: the files that `traits.paths` name.
        refresh: Reads the declaration again where somebody else makes it; None from it: there is no such tool any more.
        changed: Whether the declaration changed after it was first read.
    """

    tool: Tool
    traits: Traits
    check: Callable[[Mapping[str, Any]], dict[str, Any]]
    handler: Callable[..., Any]
    claims: Callable[[Mapping[str, Any]], Claims] | None = None
    refresh: Callable[[], Awaitable[Registered | None]] | None = None
    changed: bool = False


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


def from_function(function: Callable[..., Any]) -> Registered:
    """Return a tool whose schema is the function's signature. Raises ToolError when that cannot be a schema."""
    traits: Traits = getattr(function, _MARK, Traits())
    hidden = ("allowance",) if traits.confined else ()
    model = _model_of(getattr(function, "__func__", function), bound=inspect.ismethod(function), hidden=hidden)
    name = traits.name or function.__name__
    text = traits.description or inspect.getdoc(function) or ""
    schema = {**model.model_json_schema(), "title": name}
    return Registered(
        tool=Tool(name=name, description=text, parameters=schema),
        traits=traits,
        check=lambda arguments: validate(model, arguments),
        handler=function,
    )


@lru_cache(maxsize=64)
def _model_of(function: Callable[..., Any], *, bound: bool, hidden: tuple[str, ...]) -> type[BaseModel]:
    try:
        parameters = list(inspect.signature(function, eval_str=True).parameters.values())[int(bound) :]
        fields: dict[str, Any] = {item.name: _field_of(item) for item in parameters if item.name not in hidden}
        return create_model(function.__name__, __config__=_CONFIG, **fields)
    except (TypeError, ValueError, NameError) as error:
        raise ToolError(f"{function.__qualname__} cannot be a tool: {error}") from None


def _field_of(item: inspect.Parameter) -> tuple[Any, Any]:
    if item.kind in {item.VAR_POSITIONAL, item.VAR_KEYWORD, item.POSITIONAL_ONLY}:
        raise TypeError(f"parameter {item.name} must be an ordinary named one")
    if item.annotation is item.empty:
        raise TypeError(f"parameter {item.name} needs a type")
    TypeAdapter(item.annotation)
    return item.annotation, Field() if item.default is item.empty else item.default


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
    return Registered(
        tool=given.model_copy(update={"parameters": schema}),
        traits=traits or getattr(handler, _MARK, None) or Traits(),
        check=lambda arguments: _checked(schema, arguments),
        handler=handler,
    )


def _checked(schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments, checked as the validator of streamed calls does."""
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
