"""Fits a conversation into a token budget without ever making it invalid.

Whole units are dropped from the old end; pins stay; only tool results are ever shortened. What fits is sent as it
came, and nothing over the budget leaves here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blueprint_llm.context.policy import NOTHING, ContextPolicy, apply, render
from blueprint_llm.context.tokens import Count, Meter, estimate, tool_tokens
from blueprint_llm.context.units import SYSTEM_ROLES, Message, Unit, broken_pairs, is_result, pinned, split
from blueprint_llm.errors import ContextDoesNotFitError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from blueprint_llm.types import ContextPart

# A shortened tool result keeps at least this many characters, else it says nothing.
_LEAST_CHARS = 64
_HEAD_SHARE = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class Shaped:
    """What is sent in place of a conversation.

    Attributes:
        messages: A new list; messages that did not change are the caller's own objects.
        tokens: Their size, tool schemas included.
        dropped: The messages left out, in order.
        truncated: How many tool results were shortened.
        reasons: Why something was left out or shortened; empty when the request is sent as it came.
    """

    messages: list[Message]
    tokens: int
    dropped: tuple[Message, ...] = ()
    truncated: int = 0
    reasons: tuple[str, ...] = ()


def shape(
    messages: Sequence[Message],
    budget_tokens: int,
    tools: Sequence[Any] = (),
    policy: ContextPolicy = NOTHING,
    *,
    parts: Sequence[ContextPart] = (),
    count: Count = estimate,
) -> Shaped:
    """The conversation, with the parts that `policy` lets pass, within `budget_tokens` (tools counted).

    Raises:
        ContextDoesNotFitError: The pins (system, last user turn, last unit, active plan) alone exceed the budget.
    """
    meter = Meter(count)
    overhead = tool_tokens(tools, count)
    allowed, refusals = apply(parts, policy)
    whole = _with_context(messages, allowed)
    if meter.fits(whole, budget_tokens - overhead):
        return Shaped(messages=whole, tokens=meter.total(whole) + overhead, reasons=refusals)
    trim = _Trim(messages, budget_tokens - overhead, meter)
    reasons = (*refusals, *trim.run(allowed))
    final = trim.messages()
    tokens = meter.total(final) + overhead
    if tokens > budget_tokens or broken_pairs(final) - broken_pairs(messages):
        raise ContextDoesNotFitError(provider=policy.provider, needed_tokens=tokens, limit_tokens=budget_tokens)
    return Shaped(messages=final, tokens=tokens, dropped=trim.dropped(), truncated=trim.truncated(), reasons=reasons)


def _with_context(messages: Sequence[Message], parts: Sequence[ContextPart]) -> list[Message]:
    start = _leading_systems(messages)
    return [*messages[:start], *([render(parts)] if parts else []), *messages[start:]]


def _leading_systems(messages: Sequence[Message]) -> int:
    return next((n for n, message in enumerate(messages) if message.get("role") not in SYSTEM_ROLES), len(messages))


def _marker(omitted: int) -> Message:
    """Says that something is missing; a user message, so that the first turn stays the user's."""
    return {"role": "user", "content": f"[{omitted} earlier messages were left out to fit the context window]"}


class _Trim:
    """One conversation that does not fit: `kept` maps the numbers of the units that stay to their messages."""

    def __init__(self, messages: Sequence[Message], room: int, meter: Meter) -> None:
        self.meter = meter
        self.units = split(messages)
        self.kept = {n: self.units[n] for n in pinned(self.units)}
        self.parts: tuple[ContextPart, ...] = ()
        self.spare = room - meter.of(_marker(len(messages)))

    def run(self, parts: Sequence[ContextPart]) -> list[str]:
        """Fills the room: the pins, then the parts, then the newest units; says what had to give way."""
        self._keep_pins()
        refused = self._keep_parts(parts)
        self._walk_back()
        dropped, truncated = len(self.dropped()), self.truncated()
        reasons = [f"{part.kind} {part.source}: no room" for part in refused]
        reasons += [f"dropped {dropped} messages that do not fit"] if dropped else []
        return reasons + ([f"shortened {truncated} tool results"] if truncated else [])

    def _keep_pins(self) -> None:
        numbers = sorted(self.kept)
        fitted = _shorten([self.kept[n] for n in numbers], self.spare, self.meter)
        self.kept = dict(zip(numbers, fitted, strict=True))
        self.spare -= sum(map(self.meter.total, fitted))

    def _keep_parts(self, parts: Sequence[ContextPart]) -> list[ContextPart]:
        refused = []
        for part in parts:
            cost = self.meter.of(render([*self.parts, part])) - (self.meter.of(render(self.parts)) if self.parts else 0)
            if cost <= self.spare:
                self.parts, self.spare = (*self.parts, part), self.spare - cost
            else:
                refused.append(part)
        return refused

    def _walk_back(self) -> None:
        for n in range(len(self.units) - 1, -1, -1):
            if n in self.kept:
                continue
            [unit] = _shorten([self.units[n]], self.spare, self.meter)
            if self.meter.total(unit) > self.spare:
                return
            self.kept[n] = unit
            self.spare -= self.meter.total(unit)

    def dropped(self) -> tuple[Message, ...]:
        """The messages of the units that were not kept."""
        return tuple(message for n, unit in enumerate(self.units) if n not in self.kept for message in unit)

    def truncated(self) -> int:
        """How many messages were shortened."""
        pairs = (pair for n, unit in self.kept.items() for pair in zip(unit, self.units[n], strict=True))
        return sum(message is not original for message, original in pairs)

    def messages(self) -> list[Message]:
        """The final list: one marker where the first unit is missing, or in front of a turn that is not the user's."""
        final: list[Message] = []
        gap = None
        for n in range(len(self.units)):
            gap = len(final) if gap is None and n not in self.kept else gap
            final += self.kept.get(n, [])
        final = _with_context(final, self.parts)
        if gap is None:
            return final
        start = _leading_systems(final)
        starts_with_user = start < len(final) and final[start].get("role") == "user"
        final.insert(gap + bool(self.parts) if starts_with_user else start, _marker(len(self.dropped())))
        return final


def _shorten(units: Sequence[Unit], room: int, meter: Meter) -> list[Unit]:
    """Cuts the longest tool results to the largest common length at which the units fit, or as far as it goes."""
    total = sum(map(meter.total, units))
    low, high = _LEAST_CHARS, max((len(_result_text(m) or "") for unit in units for m in unit), default=0)
    if total <= room or high <= low:
        return list(units)
    while low < high:
        middle = (low + high + 1) // 2
        if sum(meter.total(unit) for unit in _cut(units, middle, meter)) <= room:
            low = middle
        else:
            high = middle - 1
    return _cut(units, low, meter)


def _cut(units: Iterable[Unit], chars: int, meter: Meter) -> list[Unit]:
    return [[_cut_result(message, chars, meter) for message in unit] for unit in units]


def _cut_result(message: Message, chars: int, meter: Meter) -> Message:
    text = _result_text(message)
    if text is None or len(text) <= chars:
        return message
    head = int(chars * _HEAD_SHARE)
    cut = {"truncated": True, "chars": len(text), "head": text[:head], "tail": text[len(text) - (chars - head) :]}
    shorter = {**message, "content": json.dumps(cut, ensure_ascii=False)}
    return shorter if meter.of(shorter) < meter.of(message) else message


def _result_text(message: Message) -> str | None:
    """The text of a tool result; None for every other message and for results that are not only text."""
    content = message.get("content") if is_result(message) else None
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        return "".join(str(part.get("text", "")) for part in content)
    return content if isinstance(content, str) else None
