"""Run async code for callers that are not async: one event loop a process, on a thread of its own.

`run` blocks until a coroutine has ended, `iterate` until an async generator has its next item. Whoever leaves early
(Ctrl-C, a broken `for`, garbage collection, the end of the interpreter) cancels the task and waits until it has
settled, so that no connection and no reservation is left behind.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import sys
import threading
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator

T = TypeVar("T")

# Longest wait for a task that was cancelled: closing a connection and settling take milliseconds.
SETTLE_S = 5.0
# Longest wait of a fork for the loop, and of the loop for a fork.
HOLD_S = 2.0
# Most items read ahead of a blocking consumer, since handing over each one alone would cost a thread switch a chunk;
# and never more than were taken: who leaves a stream early has not paid for much more than what was read.
READ_AHEAD = 32
_END: Any = object()


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return the result of `coroutine`, run on the background loop; works inside a running loop too.

    Raises:
        Exception: What the coroutine raised. KeyboardInterrupt cancels it and waits until it has settled.
    """
    return Caller().run(coroutine)


def run_later(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run `coroutine` on the background loop without waiting for it; at the end of the process nothing happens."""
    try:
        with _loop() as loop:
            _Task(loop, coroutine)
    except RuntimeError:  # the loop has ended with the interpreter
        coroutine.close()


class Caller:
    """The thread of one blocking call, for what must run where it was called: async code has it run functions.

    LiteLLM's clients, callbacks and context variables belong to that thread, and Ctrl-C reaches it.
    """

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()

    async def call(self, function: Callable[..., T], **keywords: Any) -> T:
        """Return what `function` returns in the caller's thread, or raise what it raises."""
        answer: Future[T] = Future()

        def job() -> None:
            if not answer.set_running_or_notify_cancel():  # whoever asked has left
                return
            try:
                result = function(**keywords)
            except Exception as error:  # noqa: BLE001 - it goes to the coroutine that asked
                answer.set_exception(error)
            else:
                answer.set_result(result)

        self._jobs.put(job)
        return await asyncio.wrap_future(answer)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Return the result of `coroutine` as `run` does, while this thread does what it asks for."""
        with _loop() as loop:
            task = _Task(loop, coroutine)
            task.done.add_done_callback(lambda _: self._jobs.put(None))
            try:
                while (job := self._jobs.get()) is not None:
                    job()
                return task.done.result()
            finally:
                task.end()


def iterate(items: AsyncGenerator[T, None]) -> Iterator[T]:
    """Yield the items of an async generator; leaving early closes it and waits until it has settled."""
    with _loop() as loop:
        pump = _Pump(loop, items)
        try:
            yield from pump
        finally:
            pump.close()


class _Loop:
    """An event loop on a daemon thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        # LiteLLM lets go of a task that still waits when it is called on another loop; asyncio would complain of it.
        self._tasks: set[asyncio.Task[Any]] = set()
        self.loop.set_task_factory(self._kept)
        self.pid = os.getpid()
        self._may_go = threading.Event()
        self.thread = threading.Thread(target=self._serve, name="blueprint-loop", daemon=True)
        self.thread.start()

    def _kept(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **how: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **how)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def hold(self) -> None:
        """Let the loop stand still between two callbacks, until `go_on`; a callback that takes long is not waited for.

        A fork in the middle of one would leave the child with its locks, held for ever: LiteLLM still imports modules
        on the loop while the first answers are out.
        """
        standing = threading.Event()
        self._may_go.clear()

        def stand() -> None:
            standing.set()
            self._may_go.wait(HOLD_S)

        self.loop.call_soon_threadsafe(stand)
        standing.wait(HOLD_S)

    def go_on(self) -> None:
        """Undo `hold`."""
        self._may_go.set()

    def stop(self) -> None:
        """Cancel what still runs, wait until it has settled, and end the thread."""
        if self.loop.is_closed() or self.pid != os.getpid():
            return
        with contextlib.suppress(RuntimeError, TimeoutError):  # the interpreter may already be going down
            asyncio.run_coroutine_threadsafe(_cancel_others(), self.loop).result(SETTLE_S)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(SETTLE_S)
        if not self.thread.is_alive():
            self.loop.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others, timeout=SETTLE_S)
    await asyncio.get_running_loop().shutdown_asyncgens()


class _Task(Generic[T]):
    """A task on a loop of another thread; the caller's context variables travel with it."""

    def __init__(self, loop: _Loop, coroutine: Coroutine[Any, Any, T]) -> None:
        self.done: Future[T] = Future()
        self._loop, self._coroutine = loop, coroutine
        self._task: asyncio.Task[T] | None = None
        loop.loop.call_soon_threadsafe(self._start)  # the callback runs in a copy of this thread's context

    def _start(self) -> None:
        self._task = self._loop.loop.create_task(self._coroutine)
        self._task.add_done_callback(self._hand_over)

    def _hand_over(self, task: asyncio.Task[T]) -> None:
        if task.cancelled():
            self.done.set_exception(asyncio.CancelledError())
        elif error := task.exception():
            self.done.set_exception(error)
        else:
            self.done.set_result(task.result())

    def end(self) -> None:
        """Cancel the task if it still runs, and wait until it has settled."""
        if self.done.done() or self._loop.pid != os.getpid():
            return
        with contextlib.suppress(RuntimeError):  # a loop that has ended took its tasks along
            self._loop.loop.call_soon_threadsafe(self._cancel)
            # The garbage collector may leave a stream on the loop's own thread, which cannot wait for itself.
            if threading.current_thread() is not self._loop.thread:
                with contextlib.suppress(BaseException):
                    self.done.exception(SETTLE_S)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()


class _Pump(Generic[T]):
    """Read an async generator ahead of a blocking consumer."""

    def __init__(self, loop: _Loop, items: AsyncGenerator[T, None]) -> None:
        self._loop, self._items = loop, items
        self._queue: SimpleQueue[T] = SimpleQueue()
        self._put = self._taken = 0
        self._room = asyncio.Event()
        self._is_waiting = False
        self._task = _Task(loop, self._read())

    async def _read(self) -> None:
        try:
            async with contextlib.aclosing(self._items):
                async for item in self._items:
                    self._queue.put(item)
                    self._put += 1
                    if self._ahead() >= self._most():
                        await self._until_taken()
        finally:
            self._queue.put(_END)

    def _ahead(self) -> int:
        return self._put - self._taken

    def _most(self) -> int:
        return min(READ_AHEAD, self._taken + 1)

    async def _until_taken(self) -> None:
        self._room.clear()
        self._is_waiting = True
        # Looked at again after the flag is up: the consumer may have emptied the queue just before.
        while self._ahead() > self._most() // 2:
            await self._room.wait()
            self._room.clear()
        self._is_waiting = False

    def __iter__(self) -> Iterator[T]:
        while (item := self._queue.get()) is not _END:
            self._taken += 1
            if self._is_waiting and self._ahead() <= self._most() // 2:
                self._loop.loop.call_soon_threadsafe(self._room.set)
            yield item
        self._task.done.result()  # raises what the generator raised

    def close(self) -> None:
        self._task.end()


_LOCK = threading.Lock()
_background: _Loop | None = None
_AT_END: list[Callable[[], None]] = []


@contextlib.contextmanager
def _loop() -> Iterator[_Loop]:
    """Give the process's loop; on that loop's own thread, which would wait for itself, one of its own."""
    loop = _shared()
    if threading.current_thread() is not loop.thread:
        yield loop
        return
    own = _Loop()
    try:
        yield own
    finally:
        own.stop()


def _shared() -> _Loop:
    global _background  # noqa: PLW0603 - one loop a process is the point
    if sys.is_finalizing():  # a thread would never start, and whoever waits for it would hang
        raise RuntimeError("the interpreter is ending: nothing can be asked any more")
    loop = _background
    if loop is not None and loop.pid == os.getpid() and loop.thread.is_alive():
        return loop
    with _LOCK:
        if _background is None or _background.pid != os.getpid() or not _background.thread.is_alive():
            _background = _Loop()
        return _background


def at_end(function: Callable[[], None]) -> Callable[[], None]:
    """Have `function` called at the end of the program, while the background loop still runs."""
    _AT_END.append(function)
    return function


def end_first() -> None:
    """End what is open before anything that has been registered up to now ends what it is open with."""
    atexit.unregister(_end)
    atexit.register(_end)


def _end() -> None:
    for function in _AT_END:
        function()
    if _background is not None:
        _background.stop()


def _before_fork() -> None:
    loop = _background
    if loop is not None and loop.thread.is_alive() and loop.thread is not threading.current_thread():
        loop.hold()


def _after_fork_in_parent() -> None:
    if _background is not None:
        _background.go_on()


def _after_fork() -> None:
    """Forget the parent's loop, whose thread the child does not have; its tasks end with nobody to wait for them."""
    global _LOCK, _background
    if _background is not None:
        for task in asyncio.all_tasks(_background.loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined] # noqa: SLF001 - asyncio's own way to say so
    _LOCK, _background = threading.Lock(), None


end_first()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork)
