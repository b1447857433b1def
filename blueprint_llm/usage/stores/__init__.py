"""Where budgets, usage and breakers live: one SQLite file, one Redis, or memory, behind one protocol."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast

from blueprint_llm.events import warn
from blueprint_llm.secret import revealed
from blueprint_llm.usage.stores.degraded import DegradedStore
from blueprint_llm.usage.stores.protocol import Store, waited_for
from blueprint_llm.usage.stores.sqlite import MemoryStore, SqliteStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from blueprint_llm.config.blocks import StoreConfig
    from blueprint_llm.events import OnEvent

__all__ = ["DegradedStore", "MemoryStore", "SqliteStore", "Store", "open_store", "waited_for"]


def open_store(config: StoreConfig, *, clock: Callable[[], float] = time.time, on_event: OnEvent = warn) -> Store:
    """Return the store that `config.url` names; nothing is touched before its first use.

    Args:
        config: `url` is `sqlite`, `sqlite:PATH`, `memory` or `redis://host:port/n`.
        clock: Unix seconds, for SQLite and memory; Redis has its server's.
        on_event: Told when `on_failure: memory` takes effect, and when it ends.
    """
    store = _opened(config, clock)
    if config.on_failure == "memory":
        return cast("Store", DegradedStore(store, clock=clock, on_event=on_event))
    return store


def _opened(config: StoreConfig, clock: Callable[[], float]) -> Store:
    if config.kind == "sqlite":
        path = revealed(config.url).removeprefix("sqlite").removeprefix(":").removeprefix("//")
        return SqliteStore(path or None, clock=clock)
    if config.kind == "memory":
        return MemoryStore(clock=clock)
    from blueprint_llm.usage.stores.redis_store import RedisStore  # noqa: PLC0415 - only who uses Redis loads it

    return RedisStore(config.url)
