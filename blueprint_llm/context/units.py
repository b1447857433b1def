"""Cuts a conversation into units that may only be kept or dropped whole.

A unit is one message together with the tool results that answer it: a result without its call, or a call without
its result, is a request that every provider refuses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Message = Mapping[str, Any]
Unit = list[Message]

SYSTEM_ROLES = frozenset({"system", "developer"})
# A message with this `name` holds the plan that is being carried out; it is never dropped.
ACTIVE_PLAN = "active_plan"


def call_ids(message: Message) -> list[str]:
    """The ids of the tool calls a message makes."""
    return [str(call.get("id")) for call in message.get("tool_calls") or () if isinstance(call, Mapping)]


def is_result(message: Message) -> bool:
    """Whether a message answers a tool call."""
    return message.get("role") in {"tool", "function"}


def split(messages: Sequence[Message]) -> list[Unit]:
    """The units in order. A late result draws everything since its call into that call's unit."""
    units: list[Unit] = []
    opened: dict[str, int] = {}
    for message in messages:
        if not units or not is_result(message):
            units.append([])
        elif opened.get(str(message.get("tool_call_id")), len(units)) < len(units) - 1:
            _merge_back(units, opened, opened[str(message.get("tool_call_id"))])
        units[-1].append(message)
        opened.update(dict.fromkeys(call_ids(message), len(units) - 1))
    return units


def _merge_back(units: list[Unit], opened: dict[str, int], start: int) -> None:
    units[start:] = [[message for unit in units[start:] for message in unit]]
    opened.update({call: min(unit, start) for call, unit in opened.items()})


def pinned(units: Sequence[Unit]) -> set[int]:
    """The indices of units that stay: system, the last user turn, the last unit, the active plan."""
    kept = {n for n, unit in enumerate(units) if any(_always_stays(message) for message in unit)}
    users = [n for n, unit in enumerate(units) if any(message.get("role") == "user" for message in unit)]
    turns = [n for n, unit in enumerate(units) if unit[0].get("role") not in SYSTEM_ROLES]
    return kept | set(users[-1:]) | set(turns[-1:])


def _always_stays(message: Message) -> bool:
    return message.get("role") in SYSTEM_ROLES or message.get("name") == ACTIVE_PLAN


def broken_pairs(messages: Sequence[Message]) -> Counter[str]:
    """Tool calls without a result and results without a call, counted by id."""
    return Counter(_unpaired(messages))


def _unpaired(messages: Sequence[Message]) -> Iterator[str]:
    waiting: list[str] = []
    for message in messages:
        waiting += call_ids(message)
        if is_result(message):
            identity = str(message.get("tool_call_id"))
            if identity in waiting:
                waiting.remove(identity)
            else:
                yield identity
    yield from waiting
