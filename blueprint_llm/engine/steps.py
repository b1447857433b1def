"""What a walk asks of its driver.

A walk is a generator: it yields one of these records and is sent the result; an exception of the step is thrown
into it. The walk never blocks, so one logic serves the sync and the async driver.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


NEVER = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """Send `call` through `adapter`; the result is an answer, or a handle when `stream`. Late: TimeoutError."""

    adapter: Any
    call: Any
    stream: bool
    until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """The next chunk of a handle, or `END`. Nothing before `until`, or `within_s` from now: TimeoutError."""

    handle: Any
    until: float = NEVER
    within_s: float = NEVER


@dataclass(frozen=True, slots=True, kw_only=True)
class Emit:
    """Hand a chunk to the caller."""

    chunk: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Close:
    """Close a handle's upstream connection."""

    handle: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Sleep:
    """Wait `seconds`."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Now:
    """The monotonic clock, in seconds."""


@dataclass(frozen=True, slots=True)
class Draw:
    """A random number in [0, 1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """Run one operation (a record of `stores`) in one transaction of the store."""

    op: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Offload:
    """Run a slow pure function: inline in the sync driver, in a thread in the async one."""

    function: Callable[[], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """Do what has a blocking and an awaiting form of its own: ask a person, run a tool."""

    blocking: Callable[[], Any]
    awaiting: Callable[[], Awaitable[Any]]


class Abandoned(BaseException):
    """Thrown into a walk whose caller went away: it still yields Close and settles, then ends."""


END = object()

Step = Open | Read | Emit | Close | Sleep | Now | Draw | Store | Offload | Act
