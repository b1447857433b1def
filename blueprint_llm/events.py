"""One frozen record per noteworthy moment, for `on_event` hooks and for the log.

The log is a structlog logger of our own on stderr: the user's logging configuration is neither read nor changed, and
the last processor masks secrets in what the renderer made.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from blueprint_llm.redaction import redact_rendered

Format = Literal["console", "json"]
Level = Literal["debug", "info", "warning", "error"]

_RANKS: dict[Level, int] = {"debug": 10, "info": 20, "warning": 30, "error": 40}


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """`name` is noun.verb (`attempt.failed`); `facts` never hold messages, arguments or keys."""

    name: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    level: Level = "info"


OnEvent = Callable[[Event], None]


def warn(event: Event) -> None:
    """Say an event as a Python warning, where nobody listens for events."""
    warnings.warn(f"{event.name}: {event.facts}", RuntimeWarning, stacklevel=2)


class _Stderr:
    """The stderr of the moment: a program may replace it after the logger was made."""

    def write(self, text: str) -> None:
        sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


@cache
def get_logger(format: Format = "console", level: Level = "info") -> Any:  # noqa: A002 - the configuration's word
    """A structlog logger that masks secrets; structlog (0.17 s) is imported on first use."""
    import structlog  # noqa: PLC0415 - most programs never log

    # Not rich's tracebacks, the default where rich is installed: they print the locals of every frame.
    console = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty() and not os.environ.get("NO_COLOR"),
        exception_formatter=structlog.dev.plain_traceback,
        pad_event_to=0,
    )
    return structlog.wrap_logger(
        structlog.WriteLogger(_Stderr()),  # type: ignore[arg-type] # it asks for write and flush only
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer() if format == "json" else console,
            redact_rendered,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_RANKS[level]),
    )


def emit(event: Event, *, format: Format = "console", level: Level = "info") -> None:  # noqa: A002 - as above
    """Write `event` to the log if it is at least as grave as `level`; a quieter one costs a comparison."""
    if _RANKS[event.level] >= _RANKS[level]:
        getattr(get_logger(format, level), event.level)(event.name, **event.facts)


class Audience:
    """Everyone who hears of events: the log where it is configured, and the caller's hook. False while nobody does.

    Args:
        hook: Called with every event; what it raises is logged, and the call goes on.
        log: Format and level of the log; None: events are not logged.
    """

    def __init__(self, hook: OnEvent | None = None, log: tuple[Format, Level] | None = None) -> None:
        self._hook, self._log = hook, log

    def __bool__(self) -> bool:
        return self._hook is not None or self._log is not None

    def __call__(self, event: Event) -> None:
        """Tell everyone."""
        if self._log is not None:
            emit(event, format=self._log[0], level=self._log[1])
        if self._hook is None:
            return
        try:
            self._hook(event)
        except Exception as error:  # noqa: BLE001 - the caller's own code, which must not cost an answer
            emit(Event(name="hook.failed", facts={"told": event.name, "error": type(error).__name__}, level="error"))
