"""Calls on their way to the engine: in any of the shapes they come in, and ready to run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from blueprint_llm.errors import ToolError
from blueprint_llm.tools.arguments import BadArgumentsError, read_arguments
from blueprint_llm.types import ToolCall, ToolResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A call on its way to run: `approved` is the binding a person approved."""

    call: ToolCall
    approved: str | None = None
    tainted: bool = False
    run: str = ""


def as_call(call: ToolCall | Mapping[str, Any]) -> ToolCall | ToolResult:
    """A call in our shape; a result that says why where the arguments cannot be one.

    Raises:
        ToolError: When it is no call at all, or only a part of one.
    """
    if isinstance(call, ToolCall):
        return call
    if isinstance(call, Mapping):
        return _from_mapping(call)
    raise ToolError("only a complete, validated tool call can be run")


def _from_mapping(call: Mapping[str, Any]) -> ToolCall | ToolResult:
    inner = call.get("function", call)
    identity, name = str(call.get("id") or "call"), str(inner.get("name") or "")
    try:
        return ToolCall(id=identity, name=name, arguments=read_arguments(inner.get("arguments", {})))
    except BadArgumentsError as error:
        return ToolResult(tool_call_id=identity, name=name, status="error", content=f"not run: {error}")
