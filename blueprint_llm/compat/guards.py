"""The guards of the ways in: one that the functions share, and one for each configuration that is given."""

from __future__ import annotations

import functools
import threading
from typing import Any

from blueprint_llm.engine.guard import Guard
from blueprint_llm.engine.guarded import build

_BUILDING = threading.Lock()


def guard_of(config: Any) -> Guard:
    """Return the guard of a configuration; a guard is its own. Raises ConfigError."""
    return config if isinstance(config, Guard) else build(config)


def shared() -> Guard:
    """Return the guard of what `from_config(None)` finds, made on first use. Raises ConfigError."""
    with _BUILDING:  # a cache alone lets threads that come at the same time all build
        return _built()


@functools.cache
def _built() -> Guard:
    return build(None)


def forget() -> None:
    """Let go of the shared guard; the next call finds its configuration anew."""
    with _BUILDING:
        _built.cache_clear()
