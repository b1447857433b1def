"""Streams of LiteLLM's own chunks, opened before they are handed out, as LiteLLM's are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from blueprint_llm.drivers import Outcome

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from blueprint_llm.voice import Voice

NOTHING = object()


class _Opened:
    """A stream whose first chunk is there.

    Attributes:
        outcome: Holds the whole answer at the end.
    """

    def __init__(self, voice: Voice, outcome: Outcome, first: Any) -> None:
        self._voice, self._outcome, self._first = voice, outcome, first

    @property
    def _hidden_params(self) -> dict[str, Any]:
        """LiteLLM's, and at the end of the stream `blueprint`: the trace."""
        own = getattr(self._voice.handle, "hidden_params", {})
        return own if self._outcome.value is None else {**own, "blueprint": self._outcome.value.trace}

    def _taken(self) -> Any:
        first, self._first = self._first, NOTHING
        return first


class CompletionStream(_Opened):
    """An iterator of `ModelResponseStream`. Left early, it closes its upstream when it is dropped or closed."""

    def __init__(self, chunks: Generator[Any, None, None], voice: Voice, outcome: Outcome) -> None:
        super().__init__(voice, outcome, next(chunks, NOTHING))
        self._chunks = chunks

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        first = self._taken()
        return next(self._chunks) if first is NOTHING else first

    def close(self) -> None:
        """Close the upstream."""
        self._chunks.close()


class AsyncCompletionStream(_Opened):
    """An async iterator of `ModelResponseStream`. Left early, it closes its upstream when it is dropped or closed."""

    def __init__(self, chunks: AsyncGenerator[Any, None], voice: Voice, outcome: Outcome, first: Any) -> None:
        super().__init__(voice, outcome, first)
        self._chunks = chunks

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        first = self._taken()
        return await anext(self._chunks) if first is NOTHING else first

    async def aclose(self) -> None:
        """Close the upstream."""
        await self._chunks.aclose()
