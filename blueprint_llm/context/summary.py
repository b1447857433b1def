"""Summarise, then continue: the opt-in alternative to dropping old turns.

The walk that shapes a request may send `summary_messages` of what was dropped to a summariser and put the answer in
place of the marker. A conversation bound for this machine is never sent off it to be summarised.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blueprint_llm.context.policy import ContextPolicy
    from blueprint_llm.context.shaping import Shaped
    from blueprint_llm.context.units import Message

_TASK = (
    "Summarise this earlier part of a conversation for the assistant that continues it. Keep decisions, names, "
    "numbers, file paths and open questions; leave out pleasantries. Answer with the summary only."
)


def may_summarise(target: ContextPolicy, summariser: ContextPolicy) -> bool:
    """Whether the summariser is of the target's tier or a stricter one."""
    return summariser.local or not target.local


def summary_messages(dropped: Sequence[Message]) -> list[dict[str, Any]]:
    """The request that asks for a summary of messages that `shape` dropped."""
    lines = [json.dumps(dict(message), ensure_ascii=False, default=str) for message in dropped]
    return [{"role": "system", "content": _TASK}, {"role": "user", "content": "\n".join(lines)}]


def with_summary(messages: Sequence[Message], shaped: Shaped, summary: str) -> list[Message]:
    """The caller's conversation with what was dropped replaced by its summary, ready to be shaped again."""
    gone = {id(message) for message in shaped.dropped}
    note: Message = {"role": "user", "content": f"[Summary of {len(gone)} earlier messages]\n{summary}"}
    first = next((n for n, message in enumerate(messages) if id(message) in gone), len(messages))
    return [*messages[:first], note, *(message for message in messages[first:] if id(message) not in gone)]
