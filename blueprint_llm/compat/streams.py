"""LiteLLM's own streams with a watch in them.

The stream that LiteLLM made becomes an instance of a subclass of its own class: everything about it stays LiteLLM's,
but each chunk is judged. Chunks that are held back come out unchanged and in order once they are valid.
"""

from __future__ import annotations

import functools
from collections import deque
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from blueprint_llm.adapters.exceptions import without_secrets
from blueprint_llm.compat.failures import is_litellms, mid_stream
from blueprint_llm.errors import BlueprintError
from blueprint_llm.sync import at_end, run, run_later

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from blueprint_llm.engine.guarded import Watched

# Where streams of LiteLLM's that cannot be closed have the one that can.
_INNER = ("completion_stream", "litellm_custom_stream_wrapper")
_OPEN: WeakSet[Any] = WeakSet()
_END: Any = object()


def opened(watched: Watched, *, masked: bool) -> Any:
    """Return LiteLLM's stream, the same object, with its watch in it.

    Args:
        watched: What the guard returned.
        masked: LiteLLM's exceptions leave without the request that hangs on them.
    """
    stream = watched.stream
    kind: Any = type(stream)
    try:
        stream.__class__ = _watched_class(kind)
    except TypeError:  # a generator, which cannot change its class
        stream = _Relay(stream)
        stream.__class__ = _watched_class(_Relay)
    stream.blueprint = _State(watched, masked=masked)
    _OPEN.add(stream)
    return stream


@functools.cache
def _watched_class(kind: Any) -> type:
    sides = (side for name, side in (("__anext__", _Async), ("__next__", _Blocking)) if hasattr(kind, name))
    return type(kind.__name__, (*sides, _Watching, kind), {"__module__": kind.__module__})


@at_end
def _settle_open() -> None:
    """Close the streams that are open at the end of the program, while the background loop still runs."""
    for stream in list(_OPEN):
        if hasattr(stream, "__next__"):
            _at_once(stream._close_upstream(blocks=True))  # noqa: SLF001 - a mixin's of this module
        run(stream.blueprint.end(GeneratorExit()))


class _State:
    """What a watch adds to a stream: chunks that may be handed on, and whether the call was booked."""

    def __init__(self, watched: Watched, *, masked: bool) -> None:
        self.answer, self._settle, self.masked = watched.answer, watched.settle, masked
        self.ready: deque[Any] = deque()
        self.is_reading = self.is_over = False

    async def end(self, error: BaseException | None) -> None:
        """Settle, once."""
        if not self.is_over:
            self.is_over = True
            await self._settle(error)


class _Watching:
    """Both sides of a watched stream. On the blocking one nothing here waits: what must be awaited runs elsewhere."""

    blueprint: _State

    async def _next(self, *, blocks: bool) -> Any:
        """Return the next chunk that may be handed on, or `_END`."""
        state = self.blueprint
        while not state.ready and not state.is_over:
            try:
                chunk = await self._read(blocks=blocks)
                if chunk is not _END:
                    state.ready.extend(state.answer.feed(chunk))
                    continue
                rest = state.answer.finish()
                # Settled before the last chunk is handed on, which is where many callers stop reading.
                await self._settle(None, blocks=blocks)
                state.ready.extend(rest)
            except BaseException as error:  # noqa: BLE001 - whatever ends a stream settles it
                await self._close_upstream(blocks=blocks)
                await self._settle(error, blocks=blocks)
                raise self._told(error) from None
        return state.ready.popleft() if state.ready else _END

    async def _read(self, *, blocks: bool) -> Any:
        self.blueprint.is_reading = True
        try:
            read: Any = super()  # LiteLLM's class
            return read.__next__() if blocks else await read.__anext__()
        except (StopIteration, StopAsyncIteration):
            return _END
        finally:
            self.blueprint.is_reading = False

    async def _leave(self, *, blocks: bool) -> None:
        """Close the upstream and settle what was read."""
        await self._close_upstream(blocks=blocks)
        if not self.blueprint.is_reading:  # LiteLLM closes a stream itself while it reads its end
            await self._settle(GeneratorExit(), blocks=blocks)

    async def _close_upstream(self, *, blocks: bool) -> None:
        name, places = "close" if blocks else "aclose", [super(), *(getattr(self, each, None) for each in _INNER)]
        close = next((found for place in places if (found := getattr(place, name, None)) is not None), None)
        closing = None if close is None else close()
        if closing is not None and not blocks:
            await closing

    async def _settle(self, error: BaseException | None, *, blocks: bool) -> None:
        if blocks:
            run(self.blueprint.end(error))
        else:
            await self.blueprint.end(error)

    def _told(self, error: BaseException) -> Any:
        """Return what the caller, or the Router, is told: the Router falls back as long as nothing was shown."""
        shown = self.blueprint.answer.shown
        if isinstance(error, BlueprintError):
            return mid_stream(error, self, shown=shown)
        if not shown and hasattr(error, "is_pre_first_chunk"):
            error.is_pre_first_chunk = True  # LiteLLM takes chunks that were held back for shown
        return without_secrets(error) if self.blueprint.masked and is_litellms(error) else error

    def __del__(self) -> None:
        """Settle a stream that nobody closed."""
        state = self.__dict__.get("blueprint")
        if state is not None and not state.is_over:
            run_later(state.end(GeneratorExit()))
        finalize = getattr(super(), "__del__", None)
        if finalize is not None:
            finalize()


class _Async(_Watching):
    """The side that is awaited."""

    async def __anext__(self) -> Any:
        chunk = await self._next(blocks=False)
        if chunk is _END:
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        """Close the upstream and settle what was read."""
        await self._leave(blocks=False)


class _Blocking(_Watching):
    """The side that blocks."""

    def __next__(self) -> Any:
        chunk = _at_once(self._next(blocks=True))
        if chunk is _END:
            raise StopIteration
        return chunk

    def close(self) -> None:
        """Close the upstream and settle what was read."""
        _at_once(self._leave(blocks=True))


def _at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Return the result of a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise RuntimeError("it waits")


class _Relay:
    """A stream in front of a generator; every other attribute is the generator's."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __aiter__(self) -> Any:
        return self

    def __iter__(self) -> Any:
        return self

    async def __anext__(self) -> Any:
        return await anext(self._inner)

    def __next__(self) -> Any:
        return next(self._inner)

    async def aclose(self) -> None:
        await self._inner.aclose()

    def close(self) -> None:
        self._inner.close()
