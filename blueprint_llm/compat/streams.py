"""LiteLLM's own streams with a watch in them.

The stream that LiteLLM made becomes an instance of a subclass of its own class: everything about it stays LiteLLM's,
but each chunk passes the watch. Chunks that are held back come out unchanged and in order once they are valid.
"""

from __future__ import annotations

import atexit
import functools
from collections import deque
from typing import TYPE_CHECKING, Any, NoReturn
from weakref import WeakSet

from blueprint_llm.adapters.exceptions import without_secrets
from blueprint_llm.compat.blocking import run_later
from blueprint_llm.compat.failures import is_litellms, mid_stream
from blueprint_llm.errors import BlueprintError
from blueprint_llm.sync import run

if TYPE_CHECKING:
    from blueprint_llm.engine.guard import Watch, Watched


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
    stream.blueprint = _State(watched.watch, masked=masked)
    _OPEN.add(stream)
    return stream


@functools.cache
def _watched_class(kind: Any) -> type:
    sides = (side for name, side in (("__anext__", _Async), ("__next__", _Blocking)) if hasattr(kind, name))
    return type(kind.__name__, (*sides, _Abandoned, kind), {"__module__": kind.__module__})


class _State:
    """What a watch adds to a stream: chunks that may be handed on, and whether the call was booked."""

    def __init__(self, watch: Watch, *, masked: bool) -> None:
        self.watch, self.masked = watch, masked
        self.ready: deque[Any] = deque()
        self.is_reading = self.is_over = False

    async def end(self, error: BaseException | None) -> None:
        """Settle, once."""
        if not self.is_over:
            self.is_over = True
            await self.watch.settle(error)


_OPEN: WeakSet[Any] = WeakSet()


@atexit.register
def _settle_open() -> None:
    """Close the streams that are open at the end of the program, while the background loop still runs."""
    for stream in list(_OPEN):
        if hasattr(stream, "__next__"):
            stream._close_upstream_blocking()  # noqa: SLF001 - a mixin's of this module
        run(stream.blueprint.end(GeneratorExit()))


def _told(error: BaseException, stream: Any) -> Any:
    """Return what the caller, or the Router, is told: the Router falls back as long as nothing was shown."""
    shown = stream.blueprint.watch.shown
    if isinstance(error, BlueprintError):
        return mid_stream(error, stream, shown=shown)
    if not shown and hasattr(error, "is_pre_first_chunk"):
        error.is_pre_first_chunk = True  # LiteLLM takes chunks that were held back for shown
    return without_secrets(error) if stream.blueprint.masked and is_litellms(error) else error


class _Async:
    """The async side of a watched stream."""

    blueprint: _State

    async def __anext__(self) -> Any:
        state = self.blueprint
        while not state.ready and not state.is_over:
            try:
                state.is_reading = True
                try:
                    chunk = await super().__anext__()  # type: ignore[misc] # of LiteLLM's class behind this one
                finally:
                    state.is_reading = False
                state.ready.extend(state.watch.feed(chunk))
            except StopAsyncIteration:
                await self._finish()
            except BaseException as error:  # noqa: BLE001 - whatever ends a stream settles it
                await self._fail(error)
        if not state.ready:
            raise StopAsyncIteration
        return state.ready.popleft()

    async def _finish(self) -> None:
        state = self.blueprint
        try:
            rest = state.watch.finish()
        except BlueprintError as error:
            await self._fail(error)
        # Settled before the last chunk is handed on, which is where many callers stop reading.
        await state.end(None)
        state.ready.extend(rest)

    async def _fail(self, error: BaseException) -> NoReturn:
        await self._close_upstream()
        await self.blueprint.end(error)
        raise _told(error, self) from None

    async def aclose(self) -> None:
        """Close the upstream and settle what was read."""
        await self._close_upstream()
        if not self.blueprint.is_reading:  # LiteLLM closes a stream itself while it reads its end
            await self.blueprint.end(GeneratorExit())

    async def _close_upstream(self) -> None:
        close = getattr(super(), "aclose", None)
        if close is not None:
            await close()


class _Blocking:
    """The blocking side: the same, with what awaits run on the background loop."""

    blueprint: _State

    def __next__(self) -> Any:
        state = self.blueprint
        while not state.ready and not state.is_over:
            try:
                state.is_reading = True
                try:
                    chunk = super().__next__()  # type: ignore[misc] # of LiteLLM's class behind this one
                finally:
                    state.is_reading = False
                state.ready.extend(state.watch.feed(chunk))
            except StopIteration:
                self._finish_blocking()
            except BaseException as error:  # noqa: BLE001 - whatever ends a stream settles it
                self._fail_blocking(error)
        if not state.ready:
            raise StopIteration
        return state.ready.popleft()

    def _finish_blocking(self) -> None:
        state = self.blueprint
        try:
            rest = state.watch.finish()
        except BlueprintError as error:
            self._fail_blocking(error)
        run(state.end(None))
        state.ready.extend(rest)

    def _fail_blocking(self, error: BaseException) -> NoReturn:
        self._close_upstream_blocking()
        run(self.blueprint.end(error))
        raise _told(error, self) from None

    def close(self) -> None:
        """Close the upstream and settle what was read."""
        self._close_upstream_blocking()
        if not self.blueprint.is_reading:
            run(self.blueprint.end(GeneratorExit()))

    def _close_upstream_blocking(self) -> None:
        close = getattr(super(), "close", None)
        if close is not None:
            close()


class _Abandoned:
    """A stream that nobody closed is settled when it is collected."""

    def __del__(self) -> None:
        state = self.__dict__.get("blueprint")
        if state is not None and not state.is_over:
            run_later(state.end(GeneratorExit()))
        finalize = getattr(super(), "__del__", None)
        if finalize is not None:
            finalize()


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
