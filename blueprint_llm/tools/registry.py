"""Turn functions, schemas and MCP servers into tools, whose arguments from a model are read strictly.

A function's schema comes from its signature.

What two parsers could read differently is refused, by field: duplicate keys, NaN, numbers beyond 64 bits, depth.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import math
import os
import re
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from operator import methodcaller
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model

from blueprint_llm.errors import InvalidRequestError, ToolError
from blueprint_llm.tools.boundary import UNRULED, Effects
from blueprint_llm.tools.sealed import fingerprint
from blueprint_llm.types import Tool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

    from blueprint_llm.config.blocks import McpServer
    from blueprint_llm.tools.patch import Staged
    from blueprint_llm.tools.words import Command
    from blueprint_llm.tools.workspace import Located

T = TypeVar("T")
_MARK = "__blueprint_tool__"
_REMOTE = re.compile(r'"\$(?:dynamic)?[Rr]ef": "(?!#)')
_MAX_BYTES, _MAX_DEPTH = 4_000_000, 64
_MOST_PAGES = 100
_ODD = re.compile("[\0\ud800-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What a tool does to the world."""

    effect: Literal["read", "write", "execute", "network"] = "execute"  # the strongest thing it does
    paths: tuple[str, ...] = ()  # arguments that name files of the workspace
    parallel: bool = False  # several calls may run at once
    idempotent: bool = False  # a call may be repeated when its outcome is unknown
    outside: bool = False  # its results come from outside the workspace, so that the model may be misled by them
    judged: bool = False  # the handler takes what was judged of the call, as `claims`, and does that
    name: str | None = None  # in place of the function's own
    description: str | None = None  # likewise


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What one call would touch: the command it runs, the files it names, the very bytes it would write."""

    command: Command | None = None
    places: tuple[Located, ...] = ()
    staged: tuple[Staged, ...] = ()
    effects: Effects = UNRULED  # what its command may do, once it is judged


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
    """Arguments that no tool gets to see; `quote` is what else to say to whoever may read the files `quoted`."""

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
    plain, is_bound = getattr(function, "__func__", function), inspect.ismethod(function)
    model = _model_of(plain, bound=is_bound, judged=traits.judged)

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
def _model_of(function: Callable[..., Any], *, bound: bool, judged: bool) -> type[BaseModel]:
    try:
        parameters = list(inspect.signature(function, eval_str=True).parameters.values())[int(bound) :]
        fields: dict[str, Any] = {
            item.name: _field_of(item) for item in parameters if not (judged and item.name == "claims")
        }
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
    for key, item in value.items():
        _require_json(item, key, 1)
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


def _require_json(value: Any, place: str, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise BadArgumentsError(f"arguments are nested deeper than {_MAX_DEPTH} levels")
    problem = ""
    match value:
        case Mapping() | list() | tuple():
            for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
                _require_json(item, f"{place}.{key}" if isinstance(value, Mapping) else f"{place}[{key}]", depth + 1)
        case str() if odd := _ODD.search(value):
            problem = f"holds {'a NUL character' if odd[0] == chr(0) else 'half of a surrogate pair'}"
        case int() if not -(2**63) <= value < 2**64:
            problem = "a whole number beyond 64 bits"
        case float() if not math.isfinite(value):
            problem = "NaN and Infinity are not JSON"
        case _ if not isinstance(value, None | str | int | float):
            problem = f"{type(value).__name__} is not a JSON value"
    if problem:
        raise BadArgumentsError(f"{place}: {problem}")


# Tools of MCP servers over stdio, under the same rules as every other tool. What a server says of its tools is a hint,
# not trust: each counts as reaching the network and as bringing in text from outside. Its declaration is read again
# before every call; one that changed is asked about again.


async def to_its_end(pending: asyncio.Future[T], stop: Callable[[], None] = lambda: None) -> T:
    """Return what a thread returns; a cancellation has it stop, and is raised once it has ended."""
    try:
        return await asyncio.shield(pending)
    except asyncio.CancelledError:
        stop()
        while not pending.done():  # a second cancellation changes nothing
            with suppress(asyncio.CancelledError):
                await asyncio.wait({pending})
        raise


class McpConnection:
    """One server process and the session with it, on an event loop in a thread of their own.

    It outlives the event loops of its callers: each sync call may have another. Its tools are called `name__tool`;
    `env` is all that it gets beside what the MCP library takes for a default (PATH, HOME, USER, ...).
    """

    def __init__(self, name: str, config: McpServer, env: Mapping[str, str], cwd: str) -> None:
        self._name, self._config, self._env, self._cwd = name, config, dict(env), cwd
        self._open = ExitStack()

    async def open(self) -> list[Registered]:
        """Start the server and return its tools. Raises ToolError if it does not start, or does not answer in time."""
        try:
            from anyio.from_thread import start_blocking_portal  # noqa: PLC0415 - the MCP library brings it

            self._portal = self._open.enter_context(start_blocking_portal(name=f"mcp-{self._name}"))
            await to_its_end(asyncio.get_running_loop().run_in_executor(None, self._start), self._give_up)
            return await self._tools()
        except Exception as error:
            await asyncio.to_thread(self.close)
            while isinstance(error, ExceptionGroup):
                error = error.exceptions[0]
            if isinstance(error, ToolError):
                raise
            raise ToolError(f"MCP server {self._name} did not start: {type(error).__name__}") from None
        except BaseException:  # the caller is going away
            self.close()
            raise

    def close(self) -> None:
        """End the session and the server."""
        with suppress(Exception):  # whatever a foreign server and library raise at their end
            self._open.close()

    def _start(self) -> None:
        self._session = self._open.enter_context(self._portal.wrap_async_context_manager(self._live()))

    def _give_up(self) -> None:
        """Have `_start` end, with the server that it waits for."""
        self._portal.start_task_soon(self._portal.stop, True)

    @asynccontextmanager
    async def _live(self) -> AsyncIterator[Any]:
        from mcp import ClientSession, StdioServerParameters, stdio_client  # noqa: PLC0415 - only with MCP servers

        program, *arguments = self._config.command
        parameters = StdioServerParameters(command=program, args=arguments, env=self._env, cwd=self._cwd)
        with open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: ASYNC230, PTH123 - opening the null device does not wait
            async with stdio_client(parameters, errlog=nowhere) as streams, ClientSession(*streams) as session:
                async with asyncio.timeout(self._config.timeout_s):
                    await session.initialize()
                yield session

    async def _ask(self, question: Callable[[Any], Coroutine[Any, Any, Any]]) -> dict[str, Any]:
        """Put a question to the session; the answer as JSON with MCP's own names."""
        try:
            async with asyncio.timeout(self._config.timeout_s):
                answer = await asyncio.wrap_future(self._portal.start_task_soon(question, self._session))
        except TimeoutError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a foreign server and library raise
            raise ToolError(f"MCP server {self._name} failed: {type(error).__name__}: {error}") from None
        return answer.model_dump(mode="json", by_alias=True)  # type: ignore[no-any-return] # a pydantic model

    async def _tools(self) -> list[Registered]:
        found = []
        declarations = await self._declared()
        names = [re.sub(r"[^A-Za-z0-9_-]", "_", f"{self._name}__{declared['name']}") for declared in declarations]
        shared = {name[:64] for name, times in Counter(name[:64] for name in names).items() if times > 1}
        for declared, full in zip(declarations, names, strict=True):
            own, schema = declared["name"], declared.get("inputSchema") or {}
            name = full[:64] if full[:64] not in shared else f"{full[:55]}_{fingerprint(own)[:8]}"
            tool = Tool(name=name, description=declared.get("description") or "", parameters=schema)
            made = from_schema(tool, partial(self._call, own), Traits(effect="network", outside=True))
            found.append(replace(made, refresh=partial(self._again, name)))
        return found

    async def _declared(self) -> list[dict[str, Any]]:
        """The server's list of tools, which may come in pages."""
        from mcp.types import PaginatedRequestParams  # noqa: PLC0415 - only with MCP servers

        page = await self._ask(methodcaller("list_tools"))
        found = list(page["tools"])
        for _ in range(_MOST_PAGES):
            if not (cursor := page.get("nextCursor")):
                return found
            page = await self._ask(methodcaller("list_tools", params=PaginatedRequestParams(cursor=cursor)))
            found += page["tools"]
        raise ToolError(f"MCP server {self._name} lists tools without end")

    async def _again(self, name: str) -> Registered | None:
        return next((made for made in await self._tools() if made.tool.name == name), None)

    async def _call(self, name: str, /, **arguments: Any) -> Ran:
        answer = await self._ask(lambda session: session.call_tool(name, arguments))
        texts = []
        for part in answer.get("content") or []:
            text = part.get("text") or (part.get("resource") or {}).get("text")
            texts.append(str(text or f"[{part.get('type', 'content')} that is no text]"))
        if not texts and answer.get("structuredContent") is not None:
            texts.append(json.dumps(answer["structuredContent"], ensure_ascii=False))
        failed = bool(answer.get("isError"))
        return Ran(status="error" if failed else "ok", text="\n".join(texts), facts={"server": self._name})
