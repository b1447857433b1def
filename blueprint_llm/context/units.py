"""Atomic units of a conversation: a message, or a turn that calls tools together with all their results.

Dropping whole units is what keeps a history valid: no tool call without its result, no result without its call, which
every provider refuses. Calls are known in three shapes: OpenAI's `tool_calls` (which Gemini's are told in too), its
older `function_call`, and Anthropic's `tool_use` and `tool_result` parts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from blueprint_llm.context.tokens import Message

Unit = list[Message]

SYSTEM_ROLES = frozenset({"system", "developer"})
# A message with this `name` holds the plan that is being carried out; it is never dropped.
ACTIVE_PLAN = "active_plan"


def call_ids(message: Message) -> list[str]:
    """Return the ids of the tool calls that a message makes."""
    calls = [call.get("id") for call in message.get("tool_calls") or () if isinstance(call, Mapping)]
    calls += [part.get("id") for part in parts_of(message, "tool_use")]
    if isinstance(function := message.get("function_call"), Mapping):
        calls.append(function.get("name"))
    return list(map(str, calls))


def result_ids(message: Message) -> list[str]:
    """Return the ids of the tool calls that a message answers."""
    match message.get("role"):
        case "tool":
            return [str(message.get("tool_call_id"))]
        case "function":
            return [str(message.get("name"))]
        case _:
            return [str(part.get("tool_use_id")) for part in parts_of(message, "tool_result")]


def parts_of(message: Message, kind: str) -> list[Mapping[str, Any]]:
    """Return the parts of one type in a message's content."""
    content = message.get("content")
    if not isinstance(content, list):
        return []
    return [part for part in content if isinstance(part, Mapping) and part.get("type") == kind]


def is_question(message: Message) -> bool:
    """Return True if the user says something: a message that only carries tool results is no turn of theirs."""
    content = message.get("content")
    only_results = isinstance(content, list) and len(parts_of(message, "tool_result")) == len(content) > 0
    return message.get("role") == "user" and not only_results


def split(messages: Sequence[Message]) -> list[Unit]:
    """Return the units in order. A late result draws everything since its call into that call's unit."""
    units: list[Unit] = []
    opened: dict[str, int] = {}
    for message in messages:
        answered = result_ids(message)
        if not units or not answered:
            units.append([])
        else:
            start = min(opened.get(identity, len(units) - 1) for identity in answered)
            units[start:] = [[each for unit in units[start:] for each in unit]]
            opened.update({call: start for call, unit in opened.items() if unit > start})
        units[-1].append(message)
        opened.update(dict.fromkeys(call_ids(message), len(units) - 1))
    return units


def pinned(units: Sequence[Unit]) -> set[int]:
    """Return the indices of units that stay: system, the last user turn, the last unit, the active plan."""
    kept = {n for n, unit in enumerate(units) if any(_always_stays(message) for message in unit)}
    questions = [n for n, unit in enumerate(units) if any(map(is_question, unit))]
    turns = [n for n, unit in enumerate(units) if unit[0].get("role") not in SYSTEM_ROLES]
    return kept | set(questions[-1:]) | set(turns[-1:])


def _always_stays(message: Message) -> bool:
    return message.get("role") in SYSTEM_ROLES or message.get("name") == ACTIVE_PLAN


def broken_pairs(messages: Sequence[Message]) -> Counter[str]:
    """Return the tool calls without a result and the results without a call, counted by id."""
    return Counter(_unpaired(messages))


def _unpaired(messages: Sequence[Message]) -> Iterator[str]:
    waiting: list[str] = []
    for message in messages:
        waiting += call_ids(message)
        for identity in result_ids(message):
            if identity in waiting:
                waiting.remove(identity)
            else:
                yield identity
    yield from waiting
