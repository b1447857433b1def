"""Identical calls of one process meet here: the first one fetches the answer, the others wait for it.

They may run in different event loops (the user's, and the one behind the blocking client), so a waiter is woken through
its own loop. Between processes the lease in the store does the same.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from threading import Lock
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from blueprint_llm.cache.entry import Entry

# `failed`: whoever waited goes alone. `abandoned`: the caller was cancelled or stuck, so one of the others takes over.
Outcome = Literal["answered", "failed", "abandoned"]
BEAT = 0.25  # of a lease's time: how often its holder gives a sign of life


class Flight:
    """One caller's turn at a key.

    Attributes:
        entry: The answer that another caller fetched meanwhile; None: fetch it.
        leads: Whether the process's other callers wait for this one.
        text: The bytes of the answer once it is there, from which each waiter makes an entry of its own.
        leased: Whether it holds the lease among processes.
        beat: Keeps it, and its lease, alive.
    """

    def __init__(self, key: str, owner: str, lease_s: float) -> None:
        self.key, self.owner, self.lease_s = key, owner, lease_s
        self.entry: Entry | None = None
        self.leads = self.leased = False
        self.beat: asyncio.Task[None] | None = None
        self.text = b""
        self._outcome: Outcome | None = None
        self._paused_at: float | None = None
        self._waiters: list[asyncio.Future[None]] = []
        self.touch()

    def pause(self) -> None:
        """Note that a stream's consumer holds a chunk: nobody should wait for somebody's pause."""
        self._paused_at = time.monotonic()

    def resume(self) -> None:
        """Note that the consumer asks for more."""
        self._paused_at = None

    @property
    def is_idle(self) -> bool:
        """Whether the consumer has not asked for more since the last sign of life; a slow reader is not idle."""
        return self._paused_at is not None and time.monotonic() - self._paused_at > self.lease_s * BEAT

    def touch(self) -> None:
        """Note that the caller is alive."""
        self._alive_until = time.monotonic() + self.lease_s

    @property
    def is_lost(self) -> bool:
        """Whether nobody flies it any more: its loop is closed or stuck, its stream held, its process the parent's."""
        return time.monotonic() >= self._alive_until

    def land(self, outcome: Outcome, text: bytes = b"") -> None:
        """End the flight for those who wait; the first outcome counts."""
        if self._outcome is None:
            self.text = text
            self._outcome = outcome  # before the waiters are read: a later one sees it for itself
        for waiter in self._waiters:
            with suppress(RuntimeError):  # its loop has been closed meanwhile
                waiter.get_loop().call_soon_threadsafe(_wake, waiter)

    async def landed(self) -> Outcome:
        """Wait until the flight has ended or is lost. Return how."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        while self._outcome is None and not self.is_lost:
            await asyncio.wait([waiter], timeout=self._alive_until - time.monotonic())
        return self._outcome or "abandoned"


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class Flights:
    """The flights of one process, by key."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._leading: dict[str, Flight] = {}

    def __getitem__(self, key: str) -> Flight | None:
        return self._leading.get(key)

    def board(self, flight: Flight) -> Flight:
        """Return the flight that leads: another caller's, or this one if there is none or it is lost."""
        with self._lock:
            leader = self._leading.get(flight.key)
            if leader is None or leader.is_lost:
                flight.leads, leader = True, flight
                flight.touch()
                self._leading[flight.key] = flight
            return leader

    def leave(self, flight: Flight, outcome: Outcome) -> None:
        """End a flight that leads."""
        with self._lock:
            if self._leading.get(flight.key) is flight:
                del self._leading[flight.key]
        flight.land(outcome)
