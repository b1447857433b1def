"""What the steps of one request share: what was asked, until when, what has failed, and the trace."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from blueprint_llm.engine.runtime import Runtime
    from blueprint_llm.errors import BlueprintError
    from blueprint_llm.trace import Trace
    from blueprint_llm.types import ChatRequest


@dataclass(slots=True, kw_only=True)
class RequestState:
    """One request on its way. Times in seconds of the monotonic clock.

    Attributes:
        began: When it was asked; `started`, `deadline`: its time, without what nobody counts (loading LiteLLM).
        failures: What went wrong so far, in order.
        redirects: Categories of failures for which LiteLLM's special fallbacks name other targets.
    """

    runtime: Runtime
    request: ChatRequest
    trace: Trace
    began: float
    started: float
    deadline: float
    failures: list[BlueprintError] = field(default_factory=list)
    redirects: frozenset[str] = frozenset()

    @property
    def limit_s(self) -> float:
        """How much time the call has."""
        return self.deadline - self.started

    def extend(self, seconds: float) -> None:
        """Move the deadline: loading LiteLLM and what was streamed are not the time of the call."""
        self.started, self.deadline = self.started + seconds, self.deadline + seconds

    def note_overhead(self) -> None:
        """Note our own time until the first request is handed over."""
        if self.trace.overhead_us is None:
            self.trace.overhead_us = round((self.runtime.now() - self.started) * 1e6, 1)
