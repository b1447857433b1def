"""One frozen record per noteworthy moment, for structlog and for `on_event` hooks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """`name` is noun.verb (`attempt.failed`); `facts` never hold messages, arguments or keys."""

    name: str
    facts: Mapping[str, Any] = field(default_factory=dict)


OnEvent = Callable[[Event], None]
