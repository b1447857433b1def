"""What the steps of one request share: what was asked, until when, what has failed, and the trace."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from blueprint_llm.errors import DeadlineExceededError
from blueprint_llm.usage.stores import waited_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blueprint_llm.engine.runtime import Runtime
    from blueprint_llm.errors import BlueprintError
    from blueprint_llm.trace import Trace
    from blueprint_llm.types import ChatRequest


@dataclass(slots=True, kw_only=True)
class RequestState:
    """One request on its way. Times in seconds of the monotonic clock.

    Attributes:
        began: When it was asked; `started`, `deadline`: its time, without what nobody counts (loading LiteLLM).
        streams: The caller reads chunks; else only the whole answer.
        failures: What went wrong so far, in order.
        redirects: Categories of failures for which LiteLLM's special fallbacks name other targets.
    """

    runtime: Runtime
    request: ChatRequest
    trace: Trace
    began: float
    started: float
    deadline: float
    streams: bool = True
    failures: list[BlueprintError] = field(default_factory=list)
    redirects: frozenset[str] = frozenset()

    @property
    def limit_s(self) -> float:
        """How much time the call has."""
        return self.deadline - self.started

    def extend(self, seconds: float) -> None:
        """Move the deadline: loading LiteLLM and what was streamed are not the time of the call."""
        self.started, self.deadline = self.started + seconds, self.deadline + seconds

    def late(self, error: TimeoutError) -> DeadlineExceededError:
        """Return the error of a call whose store kept it waiting until its deadline, and by what that can be seen."""
        return late(error, self.limit_s, self.failures)

    def note_overhead(self) -> None:
        """Note our own time until the first request is handed over."""
        if self.trace.overhead_us is None:
            self.trace.overhead_us = round((self.runtime.now() - self.started) * 1e6, 1)


def late(error: TimeoutError, limit_s: float, failures: Sequence[BlueprintError] = ()) -> DeadlineExceededError:
    """Return what a call raises whose time was over before its store had answered."""
    held = waited_for(error) or "the ledger"
    return DeadlineExceededError(
        f"no answer within the deadline of {limit_s:g} s: waited for {held}", attempts=failures
    )
