"""Read the tools of a request: whose calls are checked, and whose are passed on as they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from blueprint_llm.errors import InvalidRequestError
from blueprint_llm.streaming.schema_check import compile_schema

# Tools that LiteLLM adds to a request on its own, and takes the calls of.
_LITELLMS_NAME, _LITELLMS_PREFIX = "json_tool_call", "litellm_"


@dataclass(frozen=True, slots=True)
class Tools:
    """What the caller offered.

    Attributes:
        schemas: The parameter schemas of its functions; with no tools at all, calls of any name and shape pass.
        has_others: There are tools of other kinds too (native, hosted, custom), whose calls are not ours to judge.
    """

    schemas: Mapping[str, Any] = field(default_factory=dict)
    has_others: bool = False

    @classmethod
    def of(cls, tools: Iterable[Any]) -> Self:
        """Return the tools of a request: `Tool` records or dicts. Raises InvalidRequestError for one without a name."""
        read = [_name_and_schema(tool) for tool in tools]
        return cls(dict(filter(None, read)), has_others=None in read)

    def judges(self, name: str | None) -> bool:
        """Return True if calls of that name are checked; None: the name is not known yet."""
        if name in self.schemas:
            return True
        return not (self.has_others or (name or "").startswith(_LITELLMS_PREFIX) or name == _LITELLMS_NAME)

    def may_be(self, name: str) -> bool:
        """Return True if `name` is, or may still become, the name of a call that can pass."""
        return not self.schemas or not self.judges(name) or any(each.startswith(name) for each in self.schemas)


def check_tools(tools: Iterable[Any]) -> None:
    """Raise InvalidRequestError for a tool whose parameters are not a valid JSON Schema."""
    for name, schema in Tools.of(tools).schemas.items():
        try:
            compile_schema(schema)
        except InvalidRequestError as error:
            raise InvalidRequestError(f"tool {name!r}: {error}") from None


def _name_and_schema(tool: Any) -> tuple[str, Any] | None:
    """Return a function's name and schema; None for a tool of another kind.

    Functions come as `Tool` records, in OpenAI's shape with or without its envelope, and in Anthropic's.
    """
    record = tool if isinstance(tool, Mapping) else {"name": tool.name, "parameters": tool.parameters}
    function = record.get("function", record)
    is_function = "function" in record or record.get("type") in (None, "function")
    if not (is_function and "name" in record) and "function" not in record and "input_schema" not in record:
        return None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise InvalidRequestError("a tool needs a name")
    return function["name"], function.get("parameters") or function.get("input_schema") or {}
