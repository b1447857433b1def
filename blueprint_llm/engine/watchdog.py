"""Ends a blocking read of the sync driver at its deadline, by shutting the socket it waits on.

httpx bounds each read of a socket, not a whole answer: a server that sends a byte now and then never times out. The
calls stay on the caller's own thread (so Ctrl-C works as ever); one daemon thread looks at every armed watch and,
when one is due, finds the socket in the frames of the blocked thread.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

TICK_S = 0.02
IDLE_S = 1.0
NEVER = float("inf")


class Watch:
    """One caller's deadline: armed inside `until`, harmless outside."""

    def __init__(self, dog: Watchdog) -> None:
        self._dog = dog
        self._lock = threading.Lock()
        self._due, self._thread = NEVER, 0
        self._outermost: FrameType | None = None
        self.fired = False

    @contextlib.contextmanager
    def until(self, due: float) -> Iterator[Self]:
        """Raise TimeoutError if the body has not ended by `due` (the monotonic clock)."""
        self._outermost = sys._getframe(2)  # noqa: SLF001 - the frame of the `with`, behind contextlib's own
        self._thread, self.fired, self._due = threading.get_ident(), False, due
        self._dog.attend(self)
        try:
            yield self
        except Exception:
            if self._disarm():
                raise TimeoutError from None
            raise
        finally:
            self._disarm()
        if self.fired:
            raise TimeoutError

    def _disarm(self) -> bool:
        with self._lock:  # waits for a bite that is under way: it must not hit what this thread does next
            self._due, self._outermost = NEVER, None
        return self.fired

    def bite(self, now: float) -> None:
        """Interrupt the watched thread if its time is up; again at every look until the body has ended.

        Once is not enough: a thread that resolves a name has no socket yet, and then waits on one.
        """
        with self._lock:
            if now >= self._due:
                self.fired = True
                interrupt(sys._current_frames().get(self._thread), self._outermost)  # noqa: SLF001 - documented

    @property
    def armed(self) -> bool:
        """Whether a body is running under this watch."""
        return self._due != NEVER


class Watchdog:
    """The thread that looks; it ends when nothing has been armed for a second."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watches: set[Watch] = set()
        self._thread: threading.Thread | None = None

    def attend(self, watch: Watch) -> None:
        """Look after `watch` while it is armed."""
        if watch in self._watches and self._thread is not None and self._thread.is_alive():
            return
        with self._lock:
            self._watches.add(watch)
            if self._thread is None or not self._thread.is_alive():  # also after a fork
                self._start()

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._look, name="blueprint-watchdog", daemon=True)
        self._thread.start()

    def _look(self) -> None:
        idle_since = tidied_at = time.monotonic()
        while time.monotonic() - idle_since < IDLE_S:
            time.sleep(TICK_S)
            now = time.monotonic()
            for watch in tuple(self._watches):
                watch.bite(now)
            if now - tidied_at > IDLE_S:
                self._forget_idle()
                tidied_at = now
            if any(watch.armed for watch in tuple(self._watches)):
                idle_since = now
        self._rest()

    def _rest(self) -> None:
        with self._lock:
            self._thread = None
        self._forget_idle()
        with self._lock:
            if self._watches and self._thread is None:  # armed in the last moment
                self._start()

    def _forget_idle(self) -> None:
        """Drop the watches of calls that have ended."""
        with self._lock:
            before = self._watches
            self._watches = {watch for watch in before if watch.armed}
            # Armed meanwhile, when attend() still found it among the old ones.
            self._watches |= {watch for watch in before if watch.armed}


def interrupt(frame: FrameType | None, outermost: FrameType | None = None) -> None:
    """Make what the innermost frames wait for end: anything with `interrupt()`, else a socket.

    Args:
        frame: The innermost frame of the blocked thread.
        outermost: The last one to look at: what lies behind it belongs to the caller.
    """
    while frame is not None:
        for value in tuple(frame.f_locals.values()):
            if _stop(value):
                return
        frame = None if frame is outermost else frame.f_back


def _stop(value: Any) -> bool:
    with contextlib.suppress(Exception):  # any object may be there, and this thread must live for the others
        stop = getattr(type(value), "interrupt", None)
        if stop is not None:
            stop(value)
            return True
        connection = value if isinstance(value, socket.socket) else getattr(value, "_sock", None)
        if isinstance(connection, socket.socket):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            return True
    return False
