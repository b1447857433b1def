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
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from threading import Condition, Thread
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

from blueprint_llm.errors import StoreError
from blueprint_llm.usage.stores.records import WAITING

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


class Job(Future[T]):
    """One transaction on its way: `act` raises Busy while it cannot be done.

    `undo` undoes it where its caller has left before hearing of it; what has none is done all the same.
    """

    def __init__(self, act: Callable[[], T], undo: Callable[[], Any] | None = None) -> None:
        super().__init__()
        self.act, self.undo = act, undo
        self.until = time.monotonic() + BOOK_S


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
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def tell(_: Future[T]) -> None:
            try:
                loop.call_soon_threadsafe(done.set)
            except RuntimeError:  # its loop is closed
                self._leave(job)

        job.add_done_callback(tell)
        self.put(job)
        try:
            async with asyncio.timeout(WAIT_S):
                await done.wait()
                return job.result()
        except asyncio.CancelledError as cancelled:
            if self._is_locked:
                cancelled.add_note(WAITING + self._locked())
            self._leave(job)
            raise
        except TimeoutError:
            self._leave(job)
            raise StoreError(f"{self._locked()}: let it finish, resume it or end it") from None

    def _leave(self, job: Job[Any]) -> None:
        """Cancel a job whose caller has left, or undo it where it is done already."""
        if job.undo and (job.done() or not job.cancel()):
            with suppress(StoreError):
                self.put(Job(job.undo))

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

    def _work(self) -> None:
        while (job := self._head()) is not None:
            result, error = self._outcome(job)
            with self._changed:  # before its caller hears of it, who may have more to do, here and now
                self._jobs.popleft()
                self._changed.notify_all()
            try:
                if error is None:
                    job.set_result(result)
                else:
                    job.set_exception(error)
            except InvalidStateError:  # its caller has left while it was done
                if error is None:
                    self._leave(job)

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
        while not job.cancelled() and time.monotonic() < job.until:
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
