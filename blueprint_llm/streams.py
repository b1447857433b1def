"""What `client.stream` returns: an iterator that closes its upstream when it is left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from blueprint_llm.engine.drivers import AsyncDriver, Outcome, SyncDriver

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator

    from blueprint_llm.engine.pipeline import Walk
    from blueprint_llm.types import ChatResponse, StreamChunk


def _nothing() -> Generator[StreamChunk, None, None]:
    yield from ()


async def _anothing() -> AsyncGenerator[StreamChunk, None]:
    for chunk in _nothing():
        yield chunk


class Stream:
    """An async stream of chunks; leaving it early closes the upstream.

    Attributes:
        response: The whole `ChatResponse`, once the stream has ended well.
    """

    def __init__(self, driver: AsyncDriver, walk: Walk) -> None:
        self._driver, self._walk, self._outcome = driver, walk, Outcome()
        self._begun = False
        self._iterator: AsyncGenerator[StreamChunk, None] | None = None

    @property
    def response(self) -> ChatResponse | None:
        """The whole answer; None until the end."""
        response: ChatResponse | None = self._outcome.value
        return response

    def __aiter__(self) -> AsyncIterator[StreamChunk]:
        """The chunks that are left. The loop alone holds the iterator, so leaving the loop ends it at once."""
        return self._iterator or self._begin()

    async def __anext__(self) -> StreamChunk:
        """The next chunk, for `anext(stream)`."""
        self._iterator = self._iterator or self._begin()
        return await anext(self._iterator)

    def _begin(self) -> AsyncGenerator[StreamChunk, None]:
        """The chunks, once: a second loop over a stream sends no second request."""
        begun, self._begun = self._begun, True
        return _anothing() if begun else self._driver.iterate(self._walk.run(), self._outcome)

    async def aclose(self) -> None:
        """Close the upstream of a stream that was read with `anext`."""
        if self._iterator is not None:
            await self._iterator.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class SyncStream:
    """A blocking stream of chunks; leaving it early closes the upstream.

    Attributes:
        response: The whole `ChatResponse`, once the stream has ended well.
    """

    def __init__(self, driver: SyncDriver, walk: Walk) -> None:
        self._driver, self._walk, self._outcome = driver, walk, Outcome()
        self._begun = False
        self._iterator: Generator[StreamChunk, None, None] | None = None

    @property
    def response(self) -> ChatResponse | None:
        """The whole answer; None until the end."""
        response: ChatResponse | None = self._outcome.value
        return response

    def __iter__(self) -> Iterator[StreamChunk]:
        """The chunks that are left. The loop alone holds the iterator, so leaving the loop ends it at once."""
        return self._iterator or self._begin()

    def __next__(self) -> StreamChunk:
        """The next chunk, for `next(stream)`."""
        self._iterator = self._iterator or self._begin()
        return next(self._iterator)

    def _begin(self) -> Generator[StreamChunk, None, None]:
        """The chunks, once: a second loop over a stream sends no second request."""
        begun, self._begun = self._begun, True
        return _nothing() if begun else self._driver.iterate(self._walk.run(), self._outcome)

    def close(self) -> None:
        """Close the upstream of a stream that was read with `next`."""
        if self._iterator is not None:
            self._iterator.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
