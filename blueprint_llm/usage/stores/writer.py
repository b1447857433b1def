"""Carries out what cannot be done at once: a queue of transactions, and one thread that tries until it may.

SQLite has no queue of its own, and its busy handler sleeps in growing steps (longest wait among four processes:
760 ms). Short pauses of random length keep waiting short; within one process it is first come, first served.
The thread ends when there is nothing to do.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import deque
from contextlib import suppress
from threading import Condition, Lock, Thread
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from weakref import WeakSet

from blueprint_llm.errors import StoreError
from blueprint_llm.usage.stores.protocol import WAITING

if TYPE_CHECKING:
    from collections.abc import Callable

WAIT_S = 10.0  # a caller without a deadline is told after so long
BOOK_S = 60.0  # what has to be booked is tried for so long; then the reservation's expiry books its estimate
_LINGER_S = 0.1
_LOOK_EVERY_S = 0.5
_FIRST_PAUSE_S = 0.0003

T = TypeVar("T")


class Busy(Exception):  # noqa: N818 - no error: the one who waits tries again
    """Somebody else is at the database."""


class Job(Generic[T]):
    """One transaction on its way. `act` raises Busy while it cannot be done.

    Args:
        act: What to do.
        undo: Undoes it, where its caller has left before hearing of it.
        drop: It need not be done once its caller has left.
    """

    def __init__(self, act: Callable[[], T], *, undo: Callable[[], Any] | None = None, drop: bool = False) -> None:
        self.act, self.undo, self.drop = act, undo, drop
        self.until = time.monotonic() + BOOK_S
        self.left = self.done = False
        self._lock = Lock()
        self._waiting: tuple[asyncio.AbstractEventLoop, asyncio.Future[T]] | None = None

    def future(self) -> asyncio.Future[T]:
        """Return what the running loop may wait for."""
        loop = asyncio.get_running_loop()
        self._waiting = loop, loop.create_future()
        return self._waiting[1]

    def leave(self) -> bool:
        """Note that the caller waits no longer. Return True if it was done already."""
        with self._lock:
            self.left = True
            return self.done

    def finish(self, result: Any, error: Exception | None) -> bool:
        """Hand the result to the caller. Return False if the caller has left, so that it has to be undone."""
        with self._lock:
            self.done = error is None
            if self.left:
                return False
        if self._waiting:
            try:
                self._waiting[0].call_soon_threadsafe(_resolve, self._waiting[1], result, error)
            except RuntimeError:  # its loop is closed
                return False
        return True


def _resolve(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


class Writer:
    """The queue of one store; `locked` says in words what everybody waits for, pauses grow to `longest_pause_s`."""

    def __init__(self, locked: Callable[[], str], *, longest_pause_s: float = 0.002) -> None:
        self._look, self._longest_pause_s = locked, longest_pause_s
        self.begin()
        _WRITERS.add(self)

    def begin(self) -> None:
        """Begin with an empty queue; after a fork the jobs and the thread are the parent's."""
        self._jobs: deque[Job[Any]] = deque()
        self._changed = Condition()
        self._thread: Thread | None = None
        self._is_locked = False
        self._seen: tuple[float, str] = (-_LOOK_EVERY_S, "")

    @property
    def idle(self) -> bool:
        """Return True if nobody waits."""
        return not self._jobs

    async def do(self, job: Job[T]) -> T:
        """Wait until `job` is done and return its result; raise StoreError if that takes longer than WAIT_S."""
        future = job.future()
        self.put(job)
        try:
            async with asyncio.timeout(WAIT_S):
                return await future
        except asyncio.CancelledError as cancelled:
            if self._is_locked:
                cancelled.add_note(WAITING + self._locked())
            self._abandon(job)
            raise
        except TimeoutError:
            self._abandon(job)
            raise StoreError(f"{self._locked()}: let it finish, resume it or end it") from None

    def put(self, job: Job[Any]) -> None:
        """Append a job; the thread begins where there is none. Raise StoreError if none can begin."""
        with self._changed:
            self._jobs.append(job)
            if self._thread is None:
                self._thread = Thread(target=self._work, name="blueprint-ledger", daemon=True)
                try:
                    self._thread.start()
                except RuntimeError as error:  # the interpreter is shutting down, or the system has no threads left
                    self._thread = None
                    self._jobs.remove(job)
                    raise StoreError(f"the ledger is locked and nothing can wait for it: {error}") from None
            self._changed.notify_all()

    async def drain(self, seconds: float) -> None:
        """Wait until the queue is empty, at most so long."""

        def until_empty() -> None:
            with self._changed:
                self._changed.wait_for(lambda: not self._jobs, seconds)

        if self._jobs:
            await asyncio.to_thread(until_empty)

    def _locked(self) -> str:
        """Return what everybody waits for; many may ask at once, when their common deadline is over."""
        if time.monotonic() - self._seen[0] >= _LOOK_EVERY_S:
            self._seen = time.monotonic(), self._look()
        return self._seen[1]

    def _abandon(self, job: Job[Any]) -> None:
        """Leave a job: what need not be done is dropped, what is done already is undone."""
        if not job.drop:
            return
        if job.leave() and job.undo:
            with suppress(StoreError):
                self.put(Job(job.undo))

    def _work(self) -> None:
        while (job := self._head()) is not None:
            result, error = self._outcome(job)
            with self._changed:  # before its caller hears of it, who may have more to do, here and now
                self._jobs.popleft()
                self._changed.notify_all()
            if not job.finish(result, error) and error is None and job.undo:
                self.put(Job(job.undo))

    def _head(self) -> Job[Any] | None:
        with self._changed:
            if not self._jobs:
                self._changed.wait(_LINGER_S)
            if not self._jobs:
                self._thread = None
                return None
            return self._jobs[0]

    def _outcome(self, job: Job[Any]) -> tuple[Any, Exception | None]:
        """Try until it is done, has failed, is wanted no longer or takes too long; return result and error."""
        pause_s = _FIRST_PAUSE_S
        while not job.left and time.monotonic() < job.until:
            try:
                result = job.act()
            except Busy:
                self._is_locked = True
                time.sleep(random.uniform(0.2, 1.0) * pause_s)  # noqa: S311 - nobody is to guess it
                pause_s = min(pause_s * 1.2, self._longest_pause_s)
            except Exception as failed:  # noqa: BLE001 - the caller gets it
                self._is_locked = False
                return None, failed
            else:
                self._is_locked = False
                return result, None
        return None, StoreError(self._locked())


_WRITERS: WeakSet[Writer] = WeakSet()


def _after_fork() -> None:
    for writer in list(_WRITERS):
        writer.begin()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
