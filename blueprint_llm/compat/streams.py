"""Streams of LiteLLM's own chunks, opened before they are handed out, as LiteLLM's are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, Self

from blueprint_llm.adapters import litellm as _litellm

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

NOTHING: Any = object()


class Turn(Protocol):
    """The call that a stream belongs to."""

    @property
    def hidden_params(self) -> dict[str, Any]:
        """The facts beside the chunks."""


class _Opened:
    """What both kinds of streams share: the first chunk, which is there before the caller asks, and the facts."""

    def __init__(self, turn: Turn) -> None:
        self._turn, self._first = turn, NOTHING
        self._shown: dict[str, Any] = {}

    @property  # type: ignore[misc] # of `object` it can be set
    def __class__(self) -> Any:
        """What `isinstance` is told besides: LiteLLM's own, which code written for it looks for."""
        return _litellm.module().CustomStreamWrapper

    @property
    def _hidden_params(self) -> dict[str, Any]:
        """LiteLLM's, what somebody has added, and at the end of the stream `blueprint`: the trace."""
        self._shown.update(self._turn.hidden_params)
        return self._shown

    def _taken(self) -> Any:
        first, self._first = self._first, NOTHING
        return first


class CompletionStream(_Opened):
    """An iterator of `ModelResponseStream`; left early, it closes its upstream once it is dropped or closed."""

    def __init__(self, chunks: Generator[Any, None, None], turn: Turn) -> None:
        super().__init__(turn)
        self._chunks = chunks
        self._first = next(chunks, NOTHING)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        first = self._taken()
        return next(self._chunks) if first is NOTHING else first

    def close(self) -> None:
        """Close the upstream."""
        self._chunks.close()


class AsyncCompletionStream(_Opened):
    """An async iterator of `ModelResponseStream`; left early, it closes its upstream once it is dropped or closed."""

    def __init__(self, chunks: AsyncGenerator[Any, None], turn: Turn) -> None:
        super().__init__(turn)
        self._chunks = chunks

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        first = self._taken()
        return await anext(self._chunks) if first is NOTHING else first

    async def aclose(self) -> None:
        """Close the upstream."""
        await self._chunks.aclose()


async def opened(stream: AsyncCompletionStream) -> AsyncCompletionStream:
    """`stream`, with its first chunk there. Raises what comes instead of it."""
    stream._first = await anext(stream._chunks, NOTHING)  # noqa: SLF001 - what its constructor cannot await
    return stream
