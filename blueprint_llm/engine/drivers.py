"""Two thin drivers of one walk: they do what its steps ask, blocking or awaiting.

A walk that loses its caller (left early, cancelled, Ctrl-C) is ended by throwing `Abandoned` into it, so that it
still closes its upstream and settles what it spent; the async driver shields that from the cancellation.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import random
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Container, Generator
from typing import Any, ClassVar

from blueprint_llm.engine.steps import (
    NEVER,
    Abandoned,
    Act,
    Close,
    Draw,
    Emit,
    Now,
    Offload,
    Open,
    Read,
    Sleep,
    Step,
    Store,
)
from blueprint_llm.engine.watchdog import Watch, Watchdog

Walk = Generator[Step, Any, Any]


def _is_over(walk: Walk) -> bool:
    return inspect.getgeneratorstate(walk) == inspect.GEN_CLOSED


_WATCHDOG = Watchdog()
_FAREWELLS: set[asyncio.Future[None]] = set()
# Kept here, a walk is never garbage before its driver: the collector would close it, and it could settle nothing.
_WALKS: set[Walk] = set()
# Longest wait for an abandoned walk of the sync driver; it goes on by itself after that.
FAREWELL_S = 2.0
# How an abandoned walk may end: done, with our own signal, or with whatever it made of it.
ENDED = (StopIteration, Abandoned, Exception)


class Outcome:
    """What a walk returned, once it has ended."""

    value: Any = None


class SyncDriver:
    """Runs walks on the calling thread.

    Args:
        store: Runs `Store` steps.
        clock: Monotonic seconds.
        sleep: Waits seconds.
        draw: A random number in [0, 1).
    """

    def __init__(
        self,
        store: Any,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._store, self._clock, self._sleep, self._draw = store, clock, sleep, draw
        self._watch = Watch(_WATCHDOG)

    def run(self, walk: Walk, on_chunk: Callable[[Any], Any] | None = None) -> Any:
        """Drive a walk to its result; `on_chunk` is handed what it emits."""
        outcome = Outcome()
        with contextlib.closing(self.iterate(walk, outcome)) as chunks:
            for chunk in chunks:
                if on_chunk is not None:
                    on_chunk(chunk)
        return outcome.value

    def iterate(self, walk: Walk, outcome: Outcome) -> Generator[Any, None, None]:
        """Yield what a walk emits; its result lands in `outcome`."""
        resume: Callable[[Any], Step] = walk.send
        result: Any = None
        _WALKS.add(walk)
        try:
            while True:
                try:
                    step = resume(result)
                except StopIteration as end:
                    outcome.value = end.value
                    return
                resume = walk.send
                if type(step) is Emit:
                    yield step.chunk
                    result = None
                    continue
                try:
                    result = self._ACT[type(step)](self, step)
                except Exception as error:  # noqa: BLE001 - handed to the walk, which decides
                    resume, result = walk.throw, error
        except BaseException:
            self._abandon(walk)
            raise
        finally:
            _WALKS.discard(walk)

    def _abandon(self, walk: Walk) -> None:
        """Finish on a thread of its own: the garbage collector may be the one who leaves, inside a lock we need."""
        if _is_over(walk):
            return
        farewell = threading.Thread(target=self._say_farewell, args=(walk,), name="blueprint-farewell", daemon=True)
        try:
            farewell.start()
        except RuntimeError:  # the interpreter is shutting down
            self._say_farewell(walk)
        else:
            farewell.join(FAREWELL_S)

    def _say_farewell(self, walk: Walk) -> None:
        resume: Callable[[Any], Step] = walk.throw
        result: Any = Abandoned()
        with contextlib.suppress(*ENDED):
            while not _is_over(walk):
                step, resume = resume(result), walk.send
                result = None if type(step) is Emit else self._try(step)

    def _try(self, step: Step) -> Any:
        try:
            return self._ACT[type(step)](self, step)
        except Exception:  # noqa: BLE001 - nobody is left to tell; the ledger's expiry covers a lost settle
            return None

    def _open(self, step: Open) -> Any:
        send = step.adapter.open if step.stream else step.adapter.complete
        with self._watch.until(step.until):
            return send(step.call)

    def _read(self, step: Read) -> Any:
        with self._watch.until(min(step.until, time.monotonic() + step.within_s)):
            return step.handle.read()

    # Of the class, not of each driver: bound methods in a driver's own table would make it a cycle for the collector.
    _ACT: ClassVar[dict[type, Callable[[Any, Any], Any]]] = {
        Read: _read,
        Now: lambda self, _: self._clock(),
        Open: _open,
        Store: lambda self, step: self._store.execute(step.op),
        Close: lambda _, step: step.handle.close(),
        Sleep: lambda self, step: self._sleep(step.seconds),
        Draw: lambda self, _: self._draw(),
        Offload: lambda _, step: step.function(),
        Act: lambda _, step: step.blocking(),
    }


class Alarm:
    """One timer for all reads of a stream, moved by writing down when it is due: a timeout a read costs 6 us."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.due = NEVER
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[Any] | None = None
        self._rang = False
        self._cancelling = 0

    def set(self, due: float) -> None:
        """Cancel the current task at `due`."""
        self.due, self._task = due, asyncio.current_task()
        self._cancelling = self._task.cancelling() if self._task else 0
        if self._timer is None or self._timer.when() > due:
            self.stop()
            if due < NEVER:
                self._timer = self.loop.call_at(due, self._look)

    def _look(self) -> None:
        self._timer = None
        if self.due < NEVER and self.loop.time() < self.due:
            self._timer = self.loop.call_at(self.due, self._look)
        elif self.due < NEVER and self._task is not None:
            self._rang = True
            self._task.cancel()

    def answered(self) -> bool:
        """Whether it was this timer alone that cancelled the task; the task then goes on."""
        rang, self._rang = self._rang, False
        return rang and self._task is not None and self._task.uncancel() <= self._cancelling

    def stop(self) -> None:
        """Let go of the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class AsyncDriver:
    """Runs walks on the running event loop; the arguments are as for `SyncDriver`."""

    def __init__(
        self,
        store: Any,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._store, self._sleep = store, sleep
        self._answer: dict[type, Callable[[], float]] = {Now: clock, Draw: draw}

    async def run(self, walk: Walk, on_chunk: Callable[[Any], Any] | None = None) -> Any:
        """Drive a walk to its result; `on_chunk`, a function or a coroutine function, is handed what it emits."""
        outcome = Outcome()
        async with contextlib.aclosing(self.iterate(walk, outcome)) as chunks:
            async for chunk in chunks:
                if on_chunk is not None and inspect.isawaitable(taken := on_chunk(chunk)):
                    await taken
        return outcome.value

    async def iterate(self, walk: Walk, outcome: Outcome, handed_out: Container[type] = ()) -> AsyncGenerator[Any, Any]:
        """Yield what a walk emits; its result lands in `outcome`.

        Steps of the kinds in `handed_out` are yielded too: whoever iterates sends their result, or an exception.
        """
        resume: Callable[[Any], Step] = walk.send
        result: Any = None
        self._alarm = Alarm()
        _WALKS.add(walk)
        try:
            while True:
                try:
                    step = resume(result)
                except StopIteration as end:
                    outcome.value = end.value
                    return
                resume, kind = walk.send, type(step)
                if kind is Emit:
                    yield step.chunk  # type: ignore[union-attr] # narrowed by its type
                    result = None
                elif kind in self._answer:
                    result = self._answer[kind]()
                elif kind in handed_out:
                    result = yield step
                    resume = walk.throw if isinstance(result, Exception) else walk.send
                else:
                    try:
                        result = await self._ACT[kind](self, step)
                    except Exception as error:  # noqa: BLE001 - handed to the walk, which decides
                        resume, result = walk.throw, error
        except BaseException:
            await self._abandon(walk)
            raise
        finally:
            _WALKS.discard(walk)
            self._alarm.stop()

    async def _abandon(self, walk: Walk) -> None:
        """Finish in a task of its own: a second cancellation must not cut the settling short."""
        if not _is_over(walk):
            farewell = asyncio.ensure_future(self._say_farewell(walk))
            _FAREWELLS.add(farewell)  # an event loop holds its tasks by weak references only
            farewell.add_done_callback(_FAREWELLS.discard)
            await asyncio.shield(farewell)

    async def _say_farewell(self, walk: Walk) -> None:
        resume: Callable[[Any], Step] = walk.throw
        result: Any = Abandoned()
        with contextlib.suppress(*ENDED):
            while not _is_over(walk):
                step, resume = resume(result), walk.send
                result = None if type(step) is Emit else await self._try(step)

    async def _try(self, step: Step) -> Any:
        try:
            return self._answer[type(step)]() if type(step) in self._answer else await self._ACT[type(step)](self, step)
        except (Exception, asyncio.CancelledError):  # noqa: BLE001 - nobody is left to tell; a loop that ends cancels
            return None  # this step at most, and the ledger's expiry covers a lost settle

    async def _open(self, step: Open) -> Any:
        send = step.adapter.aopen if step.stream else step.adapter.acomplete
        return await self._in_time(send(step.call), step.until)

    async def _read(self, step: Read) -> Any:
        return await self._in_time(step.handle.aread(), min(step.until, self._alarm.loop.time() + step.within_s))

    async def _in_time(self, answer: Awaitable[Any], due: float) -> Any:
        alarm = self._alarm
        alarm.set(due)
        try:
            return await answer
        except BaseException:
            if alarm.answered():
                raise TimeoutError from None
            raise
        finally:
            alarm.due = NEVER

    _ACT: ClassVar[dict[type, Callable[[Any, Any], Awaitable[Any]]]] = {
        Read: _read,
        Open: _open,
        Store: lambda self, step: self._store.aexecute(step.op),
        Close: lambda _, step: step.handle.aclose(),
        Sleep: lambda self, step: self._sleep(step.seconds),
        Offload: lambda _, step: asyncio.to_thread(step.function),
        Act: lambda _, step: step.awaiting(),
    }
