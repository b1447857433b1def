"""Where budgets, usage and breakers live: one SQLite file, one Redis, or memory, behind the same operations.

A store runs one operation (a record of `ops`) in one transaction; everything that decides is elsewhere.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol

from blueprint_llm.config.paths import make_folder
from blueprint_llm.events import warn
from blueprint_llm.secret import revealed
from blueprint_llm.usage.stores.degraded import DegradedStore
from blueprint_llm.usage.stores.sqlite import MemoryStore, SqliteStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from blueprint_llm.config.blocks import StoreConfig
    from blueprint_llm.events import OnEvent
    from blueprint_llm.usage.stores.ops import Op

__all__ = ["DegradedStore", "MemoryStore", "SqliteStore", "Store", "open_store"]


class Store(Protocol):
    """Runs operations; each result's type stands with its operation. Failures are StoreError."""

    def execute(self, op: Op) -> Any:
        """Run `op`, blocking."""

    async def aexecute(self, op: Op) -> Any:
        """Run `op` without blocking the event loop."""

    def close(self) -> None:
        """Let go of files and connections."""

    async def aclose(self) -> None:
        """Let go of files and connections."""


def open_store(config: StoreConfig, *, clock: Callable[[], float] = time.time, on_event: OnEvent = warn) -> Store:
    """The store that `config.url` names; nothing is touched before its first operation.

    Args:
        config: `url` is `sqlite`, `sqlite:PATH`, `memory` or `redis://host:port/n`.
        clock: Unix seconds, for SQLite and memory; Redis has its server's.
        on_event: Told when `on_failure: memory` takes effect, and when it ends.
    """
    store = _opened(config, clock)
    return DegradedStore(store, clock=clock, on_event=on_event) if config.on_failure == "memory" else store


def _opened(config: StoreConfig, clock: Callable[[], float]) -> Store:
    if config.kind == "sqlite":
        path = revealed(config.url).removeprefix("sqlite").removeprefix(":")
        return SqliteStore(path.removeprefix("//") or make_folder("state") / "ledger.sqlite", clock=clock)
    if config.kind == "memory":
        return MemoryStore(clock=clock)
    from blueprint_llm.usage.stores.redis_store import RedisStore  # noqa: PLC0415 - only who uses Redis loads it

    opened: Store = RedisStore(config.url)
    return opened
