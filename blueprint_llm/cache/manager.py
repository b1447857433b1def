"""The cache as the rest of the library sees it: it finds, keeps and coordinates, and never fails anybody.

Trouble of the store becomes a miss. What is damaged is repaired and used again at once; what cannot be used is told
once, left alone for some seconds, then tried again, and its recovery is told as well.

Identical calls meet at a key: in a process the first one fetches the answer and the others wait for it, between
processes the lease in the store does the same. Callers may run in different event loops (the user's, and the one behind
the blocking client), so a waiter is woken through its own loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from concurrent.futures import Future, InvalidStateError
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Literal, TypeVar
from urllib.parse import urlsplit

from blueprint_llm.cache.entry import Entry, Facts, key_of, namespace_of, seal, unseal
from blueprint_llm.cache.store import Amount, CacheStore, MemoryCache, NoCache, RepairedError
from blueprint_llm.config.paths import folder
from blueprint_llm.errors import StoreError
from blueprint_llm.events import Event, warn
from blueprint_llm.redaction import redact
from blueprint_llm.secret import revealed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from blueprint_llm.config.blocks import Cache, StoreConfig
    from blueprint_llm.config.model import Config
    from blueprint_llm.events import Level, OnEvent

PAUSE_S = 5.0
POLL_S, LONGEST_POLL_S = 0.01, 0.1
# A lease whose holder has not renewed it for so long is free: its process was killed, stopped or is stuck.
LEASE_S = 5.0  # the first import of LiteLLM alone can hold up a busy process for more than two
BEAT = 0.25  # of a lease's time: how often its holder gives a sign of life
# What was found within the last second is not read again: between the steps of a call SQLite's pages are cold, and a
# read takes 50 us instead of 8. So long may an entry outlive its time, or another process's `clear`.
RECENT_S, MOST_RECENT, RECENT_BYTES = 1.0, 64, 1 << 18

T = TypeVar("T")
# `failed`: whoever waited goes alone. `abandoned`: the caller was cancelled or stuck, so one of the others takes over.
Outcome = Literal["answered", "failed", "abandoned"]


class Flight:
    """One caller's turn at a key."""

    def __init__(self, key: str, owner: str, lease_s: float) -> None:
        self.key, self.owner, self.lease_s = key, owner, lease_s
        self.entry: Entry | None = None  # the answer that another caller fetched meanwhile; None: fetch it
        self.leads = False  # the process's other callers wait for this one
        self.leased = False  # it holds the lease among processes
        self.beat: asyncio.Task[None] | None = None  # keeps it, and its lease, alive
        self._landing: Future[tuple[Outcome, bytes]] = Future()
        self._landing.set_running_or_notify_cancel()  # who stops waiting must not cancel it for the others
        self._paused_at = math.inf
        self.touch()

    def pause(self) -> None:
        """Note that a stream's consumer holds a chunk: nobody should wait for somebody's pause."""
        self._paused_at = time.monotonic()

    def resume(self) -> None:
        """Note that the consumer asks for more."""
        self._paused_at = math.inf

    @property
    def is_idle(self) -> bool:
        """Return True if the consumer has not asked for more since the last sign of life; a slow reader is not idle."""
        return time.monotonic() - self._paused_at > self.lease_s * BEAT

    def touch(self) -> None:
        """Note that the caller is alive."""
        self._alive_until = time.monotonic() + self.lease_s

    @property
    def is_lost(self) -> bool:
        """Return True if nobody flies it: its loop is closed or stuck, its stream held, its process the parent's."""
        return time.monotonic() >= self._alive_until

    def land(self, outcome: Outcome, text: bytes = b"") -> None:
        """End the flight for those who wait; the first outcome counts. `text` is the answer's, for an entry each."""
        with contextlib.suppress(InvalidStateError):
            self._landing.set_result((outcome, text))

    async def landed(self) -> tuple[Outcome, bytes]:
        """Wait until the flight has ended or is lost. Return how, and the answer."""
        landing = asyncio.wrap_future(self._landing)
        try:
            while not self._landing.done() and not self.is_lost:
                await asyncio.wait([landing], timeout=self._alive_until - time.monotonic())
        finally:
            landing.cancel()  # else its loop, which may be closed by then, would be woken
        return self._landing.result() if self._landing.done() else ("abandoned", b"")


class CacheManager:
    """Answers by key.

    Args:
        store: Where entries live.
        ttl_s: How long an entry lives, where the call does not say.
        nondeterministic: Cache also what the caller asked to be left to chance.
        secret: Signs the entries, where others than this user can write to the store.
        on_event: Hears of the store's trouble; default: a Python warning.
        clock: Unix seconds.
        lease_s: After how long without a sign of life a caller that others wait for is replaced.
    """

    def __init__(  # noqa: PLR0913 - settings with defaults
        self,
        store: CacheStore,
        *,
        ttl_s: float = 86400.0,
        nondeterministic: bool = False,
        secret: bytes | None = None,
        on_event: OnEvent | None = None,
        clock: Callable[[], float] = time.time,
        lease_s: float = LEASE_S,
    ) -> None:
        self.store, self.ttl_s, self.enabled = store, ttl_s, not isinstance(store, NoCache)
        self._nondeterministic, self._secret, self._clock = nondeterministic, secret, clock
        self._on_event, self._lease_s = on_event or warn, lease_s
        self._leaders: dict[str, Flight] = {}
        self._boarding = Lock()
        self._recent: dict[str, tuple[float, bytes]] = {}
        self._failed_at: float | None = None
        self._back_at = 0.0

    @classmethod
    def of_config(cls, config: Config, *, cache: Cache | None = None, on_event: OnEvent | None = None) -> CacheManager:
        """Return the cache that `blueprint.cache` (or `cache`) and `blueprint.store` describe; nothing is touched."""
        cache = cache or config.cache
        is_shared = cache.directory is None and config.store.is_shared
        return cls(
            open_store(cache, config.store),
            ttl_s=cache.ttl_s,
            nondeterministic=cache.nondeterministic,
            # All machines that use a Redis know its password, and who can plant entries without it is refused.
            secret=(urlsplit(revealed(config.store.url)).password or "").encode() if is_shared else None,
            on_event=on_event,
        )

    def key_of(self, facts: Facts) -> str | None:
        """Return the key of a call; None: it is not to be cached."""
        return key_of(facts, nondeterministic=self._nondeterministic) if self.enabled else None

    async def lookup(self, key: str, *, max_age_s: float | None = None) -> Entry | None:
        """Return what is kept under `key`, if it is not older than `max_age_s`."""
        found_at, recent = self._recent.get(key, (0.0, b""))
        if recent and time.monotonic() - found_at < RECENT_S:
            return self._young(Entry.load(recent), max_age_s)
        sealed = await self._ask(partial(self.store.get, key), None)
        if sealed is None:
            return None
        text = unseal(key, sealed, self._secret) or b""
        try:
            entry = Entry.load(text)
        except ValueError:
            self._failed(f"the entry {key} was damaged or not made by this library: it was deleted")
            await self._ask(partial(self.store.drop, key), None)
            return None
        if len(self._recent) >= MOST_RECENT:
            self._recent.clear()
        if len(text) <= RECENT_BYTES:
            self._recent[key] = time.monotonic(), text
        return self._young(entry, max_age_s)

    def _young(self, entry: Entry, max_age_s: float | None) -> Entry | None:
        return entry if max_age_s is None or entry.at > self._clock() - max_age_s else None

    async def keep(self, key: str, entry: Entry, *, ttl_s: float | None = None) -> None:
        """Keep `entry` and hand it to who waits for it, unless it repeats a secret or JSON cannot hold it."""
        try:
            text = entry.dump()
        except (TypeError, ValueError):
            return
        readable = text.decode()
        if redact(readable) != readable:
            return
        self._recent.pop(key, None)
        if leader := self._leaders.get(key):  # before the store, which may be slow
            leader.land("answered", text)
        sealed = seal(key, text, self._secret)
        await self._ask(partial(self.store.put, key, sealed, ttl_s or self.ttl_s), None)

    @contextlib.asynccontextmanager
    async def flight(
        self, key: str, *, owner: str, until: float, max_age_s: float | None = None
    ) -> AsyncIterator[Flight]:
        """Wait while another caller, here or in another process, fetches the answer for `key`.

        Inside the block `flight.entry` is the answer that came meanwhile; where it is None, the block fetches it and
        `keep`s it. Others wait for the block in turn. Whoever waited for a block that failed goes alone, at once;
        where a block was cancelled, or its process was killed, one of those who waited takes over.

        Args:
            key: The call's.
            owner: Names this caller among all processes.
            until: When to stop waiting and fetch, `time.monotonic()` seconds.
            max_age_s: The oldest kept answer that will do.
        """
        flight = Flight(key, owner, self._lease_s)
        outcome: Outcome = "abandoned"
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(until - time.monotonic()):
                    await self._queue(flight, max_age_s)
            yield flight
            outcome = "failed"  # if it was kept, it has landed by now
        except Exception:
            outcome = "failed"
            raise
        finally:
            if flight.leads:
                await self._leave(flight, outcome)

    async def _queue(self, flight: Flight, max_age_s: float | None) -> None:
        """Return when the flight has an entry, holds the lease, or should go alone."""
        while (leader := self._board(flight)) is not flight:
            outcome, text = await leader.landed()
            if outcome == "answered":
                flight.entry = self._young(Entry.load(text), max_age_s)
            if outcome != "abandoned":
                return
        flight.beat = asyncio.create_task(self._keep_alive(flight))
        poll_s = POLL_S
        while True:
            flight.leased = await self._lease(flight)
            # After the lease: the answer may have come between the caller's own look and now.
            if entry := await self.lookup(flight.key, max_age_s=max_age_s):
                flight.entry = entry
                flight.land("answered", entry.dump())
            if flight.leased or flight.entry:
                return
            await asyncio.sleep(poll_s)
            poll_s = min(2 * poll_s, LONGEST_POLL_S)

    def _board(self, flight: Flight) -> Flight:
        """Return the flight that leads: another caller's, or this one if there is none or it is lost."""
        with self._boarding:
            leader = self._leaders.get(flight.key)
            if leader is None or leader.is_lost:
                flight.leads, leader = True, flight
                flight.touch()
                self._leaders[flight.key] = flight
            return leader

    async def _lease(self, flight: Flight) -> bool:
        return await self._ask(partial(self.store.lease, flight.key, flight.owner, self._lease_s), True)

    async def _keep_alive(self, flight: Flight) -> None:
        while True:
            await asyncio.sleep(self._lease_s * BEAT)
            if not flight.is_idle:
                flight.touch()
                if flight.leased:
                    await self._lease(flight)

    async def _leave(self, flight: Flight, outcome: Outcome) -> None:
        with self._boarding:
            if self._leaders.get(flight.key) is flight:
                del self._leaders[flight.key]
        flight.land(outcome)
        if flight.beat is not None:
            flight.beat.cancel()
        # Also where nobody knows whether it was lent: one that is taken after all lasts for `lease_s`.
        await self._ask(partial(self.store.release, flight.key, flight.owner), None)

    async def measure(self) -> Amount:
        """Return how much is kept. Raises StoreError."""
        return await self._repaired(self.store.measure)

    async def clear(self, project: str | None = None, *, older_than_s: float = 0.0) -> int:
        """Forget everything, or one project's entries or old ones. Return how many. Raises StoreError."""
        namespace = None if project is None else namespace_of(project)
        self._recent.clear()
        return await self._repaired(partial(self.store.clear, namespace, older_than_s))

    async def aclose(self) -> None:
        """Close files and connections."""
        with contextlib.suppress(StoreError):
            await self.store.aclose()

    async def _ask(self, operation: Callable[[], Awaitable[T]], otherwise: T) -> T:
        """Return what the store answers, or `otherwise` while it is in trouble."""
        if time.monotonic() < self._back_at:
            return otherwise
        try:
            found = await self._repaired(operation)
        except StoreError as error:
            self._back_at = time.monotonic() + PAUSE_S
            self._failed(str(error))
            return otherwise
        if self._failed_at is not None:
            after_s, self._failed_at = time.monotonic() - self._failed_at, None
            self._tell("cache.recovered", "info", after_s=round(after_s, 3))
        return found

    async def _repaired(self, operation: Callable[[], Awaitable[T]]) -> T:
        try:
            return await operation()
        except RepairedError as error:
            self._failed(str(error))
            return await operation()

    def _failed(self, reason: str) -> None:
        if self._failed_at is None:
            self._failed_at = time.monotonic()
            self._tell("cache.failed", "warning", reason=reason)

    def _tell(self, name: str, level: Level, **facts: object) -> None:
        with contextlib.suppress(RuntimeWarning):  # where warnings are errors
            self._on_event(Event(name=name, facts=facts, level=level))


def open_store(cache: Cache, store: StoreConfig) -> CacheStore:
    """Return the store that is meant: `cache.directory`, else where the ledger lives. Nothing is touched yet."""
    if not cache.enabled:
        return NoCache()
    if cache.directory is None and store.kind == "memory":
        return MemoryCache(size_limit_bytes=cache.size_limit_bytes)
    if cache.directory is None and store.is_shared:
        from blueprint_llm.cache.redis_store import RedisCache  # noqa: PLC0415 - only who uses Redis loads it

        return RedisCache(store.url)
    from blueprint_llm.cache.disk import DiskCache  # noqa: PLC0415 - diskcache is loaded where a folder is used

    path = Path(cache.directory).expanduser() if cache.directory else folder("cache") / "responses"
    return DiskCache(path, size_limit_bytes=cache.size_limit_bytes)
