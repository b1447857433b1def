"""The cache as the rest of the library sees it: it finds, keeps and coordinates, and never fails anybody.

Trouble of the store becomes a miss; it is told once, and the store is left alone for a while before it is asked again.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from blueprint_llm.cache.entry import Entry, Seal
from blueprint_llm.cache.flights import Flight, Flights
from blueprint_llm.cache.key import Facts, key_of, namespace_of
from blueprint_llm.cache.memory import NoCache
from blueprint_llm.cache.ops import Amount, Beat, Clear, Get, Measure, Op, Put
from blueprint_llm.cache.stores import CacheStore, is_shared, open_store
from blueprint_llm.errors import StoreError
from blueprint_llm.events import Event, warn

if TYPE_CHECKING:
    from collections.abc import Callable

    from blueprint_llm.config.blocks import Cache
    from blueprint_llm.config.model import Config
    from blueprint_llm.events import OnEvent

PAUSE_S = 5.0
FRESH_S = 1.0
MOST_RECENT = 64
RECENT_BYTES = 1 << 18
_SLICE_S = 0.25
_NOWHERE = NoCache()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Wait until somebody's answer may be there: until this process's flight lands, or `poll_s` for another's."""

    key: str
    poll_s: float


class Recent:
    """What was found in the store within the last second; so long may another process's `clear` go unnoticed."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[float, Entry]] = {}

    def get(self, key: str) -> Entry | None:
        """The entry, if it is there and fresh."""
        found_at, entry = self._entries.get(key, (0.0, None))
        return entry if time.monotonic() - found_at < FRESH_S else None

    def put(self, key: str, entry: Entry) -> None:
        """Remember what has just been found."""
        if len(self._entries) >= MOST_RECENT:
            self._entries.clear()
        self._entries[key] = time.monotonic(), entry

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()


class CacheManager:
    """Answers by key; `execute` and `aexecute` run one operation for a walk.

    Args:
        store: Where entries live.
        ttl_s: How long an entry lives, where the call does not say.
        nondeterministic: Cache also what the caller asked to be left to chance.
        seal: Signs the entries; default: this user's.
        on_event: Hears of the store's trouble; default: a Python warning.
        clock: Unix seconds.
    """

    def __init__(
        self,
        store: CacheStore,
        *,
        ttl_s: float = 86400.0,
        nondeterministic: bool = False,
        seal: Seal | None = None,
        on_event: OnEvent | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store, self.ttl_s, self.enabled = store, ttl_s, not isinstance(store, NoCache)
        self._chance, self._seal, self._on_event, self._clock = nondeterministic, seal, on_event or warn, clock
        self._flights = Flights(self._keep_alive)
        self._recent = Recent()
        self._told, self._back_at = False, 0.0

    @classmethod
    def of_config(cls, config: Config, *, cache: Cache | None = None, on_event: OnEvent | None = None) -> CacheManager:
        """The cache that `blueprint.cache` (or `cache`) and `blueprint.store` describe; nothing is touched yet."""
        cache = cache or config.cache
        store, chance = open_store(cache, config.store), cache.nondeterministic
        seal = Seal.of_server(config.store.url) if is_shared(cache, config.store) else None
        return cls(store, ttl_s=cache.ttl_s, nondeterministic=chance, seal=seal, on_event=on_event)

    def key_of(self, facts: Facts) -> str | None:
        """The key of a call; None: it is not to be cached."""
        return key_of(facts, nondeterministic=self._chance) if self.enabled else None

    def execute(self, op: Op | Wait) -> Any:
        """Run an operation; a store in trouble answers like one that is empty."""
        if isinstance(op, Wait):
            return self._flights.wait(op.key, _SLICE_S, op.poll_s)
        if time.monotonic() < self._back_at:
            return _NOWHERE.execute(op)
        try:
            return self.store.execute(op)
        except StoreError as error:
            return self._excused(op, error)

    async def aexecute(self, op: Op | Wait) -> Any:
        """The same for coroutines."""
        if isinstance(op, Wait):
            return await self._flights.await_(op.key, _SLICE_S, op.poll_s)
        if time.monotonic() < self._back_at:
            return _NOWHERE.execute(op)
        try:
            return await self.store.aexecute(op)
        except StoreError as error:
            return self._excused(op, error)

    def _excused(self, op: Op, error: StoreError) -> Any:
        self._back_at = time.monotonic() + PAUSE_S
        self._warn(str(error))
        return _NOWHERE.execute(op)

    def _warn(self, reason: str) -> None:
        if not self._told:
            self._told = True
            with contextlib.suppress(RuntimeWarning):  # where warnings are errors
                self._on_event(Event(name="cache.failed", facts={"reason": reason}, level="warning"))

    def put_of(self, key: str, entry: Entry, ttl_s: float | None = None) -> Put:
        """The operation that keeps `entry`."""
        ttl_s = ttl_s or self.ttl_s
        dated = replace(entry, until=self._clock() + ttl_s)
        return Put(key=key, value=self._sealed().close(key, dated.dump()), ttl_s=ttl_s)

    def entry_of(self, key: str, found: bytes | None, max_age_s: float | None = None) -> Entry | None:
        """The entry in what `Get` found, if it is one and not older than `max_age_s`."""
        if found is None:
            return None
        text = self._sealed().open(key, found)
        try:
            entry = Entry.load(text or b"")
        except ValueError:
            self._warn(f"the entry {key} was damaged or not made by this user; it is not used")
            return None
        if len(found) <= RECENT_BYTES:
            self._recent.put(key, entry)
        return self._young(entry, max_age_s)

    def recent(self, key: str, max_age_s: float | None = None) -> Entry | None:
        """The entry of `key` if it was found within the last second: a hot one is not read for every hit."""
        return self._young(self._recent.get(key), max_age_s)

    def _young(self, entry: Entry | None, max_age_s: float | None) -> Entry | None:
        now = self._clock()
        is_young = entry is not None and now < entry.until and (max_age_s is None or entry.at > now - max_age_s)
        return entry if is_young else None

    def _sealed(self) -> Seal:
        if self._seal is None:
            self._seal = Seal.of_user()
        return self._seal

    def begin(self, key: str, owner: str) -> Flight:
        """Note that this process fetches the answer for `key`, and keep its lease alive until `end`."""
        return self._flights.begin(key, owner)

    def end(self, flight: Flight) -> None:
        """Wake up who waits for `flight`."""
        self._flights.end(flight)

    def _keep_alive(self, flight: Flight) -> None:
        self.execute(Beat(key=flight.key, owner=flight.owner))

    def get(self, key: str) -> Entry | None:
        """The entry of `key`, blocking."""
        return self.entry_of(key, self.execute(Get(key=key)))

    def put(self, key: str, entry: Entry, ttl_s: float | None = None) -> None:
        """Keep `entry` under `key`, blocking."""
        self.execute(self.put_of(key, entry, ttl_s))

    def measure(self) -> Amount:
        """How much is kept, blocking. Raises StoreError."""
        amount: Amount = self.store.execute(Measure())
        return amount

    def clear(self, project: str | None = None, *, older_than_s: float = 0.0) -> int:
        """Forget everything, or one project's entries or old ones; how many, blocking. Raises StoreError."""
        namespace = None if project is None else namespace_of(project)
        self._recent.clear()
        deleted: int = self.store.execute(Clear(namespace=namespace, older_than_s=older_than_s))
        return deleted

    def close(self) -> None:
        """Let go of files and connections."""
        self.store.close()

    async def aclose(self) -> None:
        """Let go of files and connections."""
        await self.store.aclose()
