"""A stream on its way through the proxy: text as it comes, tool calls and the end once the walk found them valid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blueprint_llm.adapters import litellm as _litellm
from blueprint_llm.engine.steps import END, Open
from blueprint_llm.errors import CallError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from blueprint_llm.adapters import Call
    from blueprint_llm.adapters.contract import EndedBy
    from blueprint_llm.proxy.passage import Passage

# What LiteLLM's Router calls the stream that it wraps, the newest first.
_WRAPPED = ("fallback_response", "model_response", "response")


class Upstream(_litellm.Stream):
    """LiteLLM's stream, whose proof of its end lies under what its Router and its proxy wrap around it."""

    def __init__(self, response: Any, call: Call) -> None:
        super().__init__(response, call, _litellm.module())
        self._inner: Any = None

    async def brought(self) -> Any:
        """The next chunk, END, or the CallError that came instead."""
        try:
            chunk = await self.aread()
        except CallError as error:
            return error
        if _is_last(chunk):
            self._inner = innermost(self._wrapper)
        return chunk

    def usage(self) -> Any:
        """The provider's usage; LiteLLM's own count is no evidence."""
        kept = getattr(self._inner, "chunks", None)
        if kept is None:
            return super().usage()
        return self._last_usage if any(getattr(chunk, "usage", None) for chunk in kept) else None

    def ended_by(self) -> EndedBy:
        """As ever where LiteLLM's own wrapper is found, else a finish reason counts."""
        if self._inner is None:
            return "none"
        return _litellm.end_of(self._inner) if hasattr(self._inner, "received_finish_reason") else "terminal"


def innermost(stream: Any) -> Any:
    """The stream that LiteLLM made of the provider's, found in the frames of the generators around it."""
    generator = getattr(stream, "completion_stream", stream)
    frame = getattr(generator, "ag_frame", None)
    names = frame.f_locals if frame else {}
    inner = next((names[name] for name in _WRAPPED if names.get(name) is not None), None)
    return stream if inner is None else innermost(inner)


def _is_last(chunk: Any) -> bool:
    return any(choice.finish_reason for choice in getattr(chunk, "choices", ()))


def _calls(chunk: Any) -> bool:
    deltas = [choice.delta for choice in getattr(chunk, "choices", ())]
    return any(getattr(delta, "tool_calls", None) or getattr(delta, "function_call", None) for delta in deltas)


def is_usage(chunk: Any) -> bool:
    """Whether a chunk brings the usage and nothing else."""
    choices = getattr(chunk, "choices", ())
    said = any(any(choice.delta.model_dump(exclude_none=True).values()) for choice in choices)
    return getattr(chunk, "usage", None) is not None and not _is_last(chunk) and not said


async def relayed(current: Callable[[], Passage | None], response: Any) -> AsyncIterator[Any]:
    """The chunks of LiteLLM's stream, each once the walk has taken it; tool calls and what follows at the proven end.

    Args:
        current: The walk that LiteLLM is reading for; its Router may go on to another deployment. None, or one
            that has ended: not to be checked.
        response: LiteLLM's stream.

    Raises:
        BlueprintError: The answer is not valid, or broke.
    """
    first = current()
    if first is None or first.pending is None:
        async for chunk in response:
            yield chunk
        return
    upstream, held = Upstream(response, first.call), []
    while (chunk := await upstream.brought()) is not END:
        await _give(current(), upstream, chunk)
        held.append(chunk)
        if len(held) == 1 and not (_calls(chunk) or _is_last(chunk)):
            yield held.pop()
    await _give(current(), upstream, END)
    for chunk in held:
        yield chunk


async def _give(passage: Passage | None, upstream: Upstream, brought: Any) -> None:
    """Bring a walk a chunk, END or an error; what comes for one that has ended passes by it."""
    if passage is None or passage.pending is None:
        if isinstance(brought, CallError):
            raise brought
        return
    if isinstance(passage.pending, Open) and not isinstance(brought, CallError):
        await passage.give(upstream)
    await passage.give(brought)
