"""Run async code around blocking functions without leaving the caller's thread.

The guard is async and runs on the background loop. LiteLLM's blocking functions must run where they were called: their
clients, callbacks and context variables belong to that thread, and Ctrl-C reaches it.
"""

from __future__ import annotations

import asyncio
import sys
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from blueprint_llm.sync import _loop, _Task

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


class Caller:
    """The thread of one blocking call: async code has it run functions."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()

    async def call(self, function: Callable[..., T], **keywords: Any) -> T:
        """Return what `function` returns in the caller's thread, or raise what it raises."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def deliver(settle: Callable[[Any], None], result: Any) -> None:
            loop.call_soon_threadsafe(lambda: None if answer.done() else settle(result))

        def job() -> None:
            try:
                result = function(**keywords)
            except Exception as error:  # noqa: BLE001 - it goes to the coroutine that asked
                deliver(answer.set_exception, error)
            else:
                deliver(answer.set_result, result)

        self._jobs.put(job)
        return await answer

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Return the result of `coroutine`, run on the background loop while this thread does what it asks for.

        Raises:
            Exception: What the coroutine raised. KeyboardInterrupt cancels it and waits until it has settled.
        """
        with _loop() as loop:
            task = _Task(loop, coroutine)
            task.done.add_done_callback(lambda _: self._jobs.put(None))
            try:
                while (job := self._jobs.get()) is not None:
                    job()
                return task.done.result()
            finally:
                task.end()


def run_later(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run `coroutine` on the background loop without waiting for it; at the end of the process nothing happens."""
    if sys.is_finalizing():  # a thread that begins now never runs, and whoever began it waits for it
        coroutine.close()
        return
    try:
        with _loop() as loop:
            _Task(loop, coroutine)
    except RuntimeError:  # the loop has ended with the interpreter
        coroutine.close()
