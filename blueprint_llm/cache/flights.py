"""The answers that this process is fetching for others too: who waits for one wakes up when it lands.

One daemon thread keeps their leases alive, as a walk that waits for its provider cannot. A flight whose caller has
stopped reading its stream is not kept alive: others must not wait for somebody's pause.
"""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING

from blueprint_llm.cache.ops import BEAT_S

if TYPE_CHECKING:
    from collections.abc import Callable


class Flight:
    """One answer on its way; `paused` while its caller does something else."""

    def __init__(self, key: str, owner: str) -> None:
        self.key, self.owner, self.paused = key, owner, False
        self.landed: Future[None] = Future()


class Flights:
    """The flights of one process; `beat` renews a lease and may raise nothing."""

    def __init__(self, beat: Callable[[Flight], None], *, every_s: float = BEAT_S, idle_s: float = 5.0) -> None:
        self._beat, self._every_s, self._idle_s = beat, every_s, idle_s
        self._flights: dict[str, Flight] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def begin(self, key: str, owner: str) -> Flight:
        """Announce a flight."""
        flight = Flight(key, owner)
        with self._lock:
            self._flights[key] = flight
            if self._thread is None or not self._thread.is_alive():  # also after a fork
                self._thread = threading.Thread(target=self._keep, name="blueprint-leases", daemon=True)
                self._thread.start()
        return flight

    def end(self, flight: Flight) -> None:
        """Wake up who waits for it."""
        with self._lock:
            if self._flights.get(flight.key) is flight:
                del self._flights[flight.key]
        flight.landed.set_result(None)

    def wait(self, key: str, seconds: float, poll_s: float) -> None:
        """Block until the flight has landed, at most `seconds`; `poll_s` if another process fetches."""
        flight = self._flights.get(key)
        if flight is None:
            time.sleep(poll_s)
        else:
            wait([flight.landed], seconds)

    async def await_(self, key: str, seconds: float, poll_s: float) -> None:
        """The same for coroutines."""
        flight = self._flights.get(key)
        if flight is None:
            await asyncio.sleep(poll_s)
        else:
            await asyncio.wait([asyncio.wrap_future(flight.landed)], timeout=seconds)

    def _keep(self) -> None:
        idle_since = time.monotonic()
        while True:
            time.sleep(self._every_s)
            with self._lock:
                flights = list(self._flights.values())
                if flights:
                    idle_since = time.monotonic()
                elif time.monotonic() - idle_since > self._idle_s:
                    self._thread = None
                    return
            for flight in flights:
                if not flight.paused:
                    self._beat(flight)
