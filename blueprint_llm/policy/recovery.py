"""The ladder for answers that broke or are not valid: what to change before the same model is asked again.

Rungs, each climbed at most as often as it may help: a higher output cap for what was cut by length, a short
machine-made clarification for what was malformed, one request without streaming after streams that broke twice. A
broken call never enters the history as a tool call.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from blueprint_llm.errors import CallError

CUT_BY_LENGTH = frozenset({"truncated_length"})
FIRST_CAP = 4096


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


UNCHANGED = Change()


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
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


def climb(error: CallError, change: Change, means: Means) -> Change | None:
    """The next rung for `error`, or None when the same model has nothing more to offer."""
    if error.category == "stream_broken":
        return _after_break(change, means)
    if error.category != "malformed" or getattr(error, "verdict", None) is None:
        return change
    if error.code in CUT_BY_LENGTH and change.max_tokens is None and (cap := _higher(means)):
        return replace(change, max_tokens=cap)
    if len(change.notes) < means.reask and error.verdict.retriable:  # type: ignore[attr-defined] # checked above
        return replace(change, notes=(*change.notes, error.verdict.clarification()))  # type: ignore[attr-defined]
    return None


def _after_break(change: Change, means: Means) -> Change | None:
    """Continue, else a plain retry, then one request without streaming."""
    if not change.streamed:
        return None
    breaks = change.breaks + 1
    if means.can_continue and means.text.strip():
        return replace(change, prefix=change.prefix + means.text, breaks=breaks)
    return replace(change, prefix="", breaks=breaks, streamed=breaks < 2)  # noqa: PLR2004 - the second break


def _higher(means: Means) -> int | None:
    """Twice the cap, as far as the model goes; None where that is no more than before."""
    before = means.max_tokens or FIRST_CAP
    cap = min(before * 2, means.most_tokens or before * 2)
    return cap if cap > before else None
