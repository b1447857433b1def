"""The recovery ladder: what to change before the same model is asked again after an answer broke or was not valid.

Each step is taken at most as often as it may help: a higher output cap for a call that was cut by length, a short
machine-made clarification for what was malformed, one request without streaming after streams that broke twice. A
broken call never enters the history as a tool call.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blueprint_llm.errors import CallError

FIRST_CAP = 4096
_MOST_BREAKS = 2  # streams that break are asked for in one piece after the second


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """How the next request differs from the caller's.

    Attributes:
        max_tokens: A higher output cap.
        notes: Clarifications, as user messages behind the caller's.
        streamed: False: ask for the answer in one piece.
        prefix: Text that has already been shown: the model is to continue it.
        breaks: Streams that have broken so far.
    """

    max_tokens: int | None = None
    notes: tuple[str, ...] = ()
    streamed: bool = True
    prefix: str = ""
    breaks: int = 0

    def is_reask(self, before: Change) -> bool:
        """Return True if this step asks again for an invalid answer.

        That is no retry of an outage: it needs no wait, and the retry ratio does not count it.
        """
        return (self.notes, self.max_tokens) != (before.notes, before.max_tokens)


UNCHANGED = Change()


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryOptions:
    """What the ladder may use.

    Attributes:
        reask: How many clarifications there may be.
        max_tokens: The cap of the failed request; None: none was sent.
        most_tokens: The most that the model can write, where known.
        can_continue: The model continues a given beginning, and the configuration wants that.
        text: What had been written when the stream broke.
    """

    reask: int = 1
    max_tokens: int | None = None
    most_tokens: int | None = None
    can_continue: bool = False
    text: str = ""


def recovery_step(error: CallError, change: Change, options: RecoveryOptions) -> Change | None:
    """Return the next step for `error`, or None when the same model has nothing more to offer."""
    if error.category == "stream_broken":
        return _after_break(change, options)
    verdict: Any = getattr(error, "verdict", None)
    if error.category != "malformed" or verdict is None:
        return change
    if error.code == "truncated_length" and change.max_tokens is None and (cap := _higher(options)):
        return replace(change, max_tokens=cap)
    if len(change.notes) < options.reask and verdict.retriable:
        return replace(change, notes=(*change.notes, verdict.clarification()))
    return None


def _after_break(change: Change, options: RecoveryOptions) -> Change | None:
    """Continue, else a plain retry, then one request without streaming."""
    if not change.streamed:
        return None
    breaks = change.breaks + 1
    if options.can_continue and options.text.strip():
        return replace(change, prefix=change.prefix + options.text, breaks=breaks)
    return replace(change, prefix="", breaks=breaks, streamed=breaks < _MOST_BREAKS)


def _higher(options: RecoveryOptions) -> int | None:
    """Return twice the cap, as far as the model goes; None where that is no more than before."""
    before = options.max_tokens or FIRST_CAP
    cap = min(before * 2, options.most_tokens or before * 2)
    return cap if cap > before else None
