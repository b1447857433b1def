"""Fit a conversation into a token budget without ever making it invalid.

Whole units are dropped from the old end; pins stay; only tool results are ever shortened. What fits is sent as it
came, and nothing over the budget leaves here. A unit is a message, or a turn that calls tools together with all their
results: no tool call without its result, no result without its call, which every provider refuses. Calls are known in
three shapes: OpenAI's `tool_calls` (which Gemini's are told in too), its older `function_call`, and Anthropic's
`tool_use` and `tool_result` parts.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blueprint_llm.context.policy import NOTHING, ContextPolicy, apply, render
from blueprint_llm.context.tokens import Count, Message, estimate, upper_bound
from blueprint_llm.errors import ContextDoesNotFitError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from blueprint_llm.types import ContextPart

Unit = list[Message]

SYSTEM_ROLES = frozenset({"system", "developer"})
# A message with this `name` holds the plan that is being carried out; it is never dropped.
ACTIVE_PLAN = "active_plan"
# A shortened tool result keeps at least this many characters, else it says nothing.
_LEAST_CHARS = 64
_HEAD_SHARE = 0.7
# Looking for the best length of a shortened result ends this close to it: each look tokenizes the result.
_CLOSE_ENOUGH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Shaped:
    """What is sent in place of a conversation."""

    messages: list[Message]  # a new list; messages that did not change are the caller's own objects
    tokens: int  # their size, tool schemas included: by `count`, or the bound where that settled it
    counted: bool = True  # whether `tokens` is a count; only then it says something about a provider's own
    dropped: tuple[Message, ...] = ()  # the messages left out, in order
    truncated: int = 0  # how many messages had a tool result shortened
    reasons: tuple[str, ...] = ()  # why something was left out or shortened; empty when the request is sent as it came


def shape(  # noqa: PLR0913 - each is a fact of its own of one decision
    messages: Sequence[Message],
    budget_tokens: int,
    tools: Sequence[Any] = (),
    policy: ContextPolicy = NOTHING,
    *,
    parts: Sequence[ContextPart] = (),
    count: Count = estimate,
    margin: float = 1.0,
) -> Shaped:
    """Return the conversation, with the parts that `policy` lets pass, within `budget_tokens` (tools counted).

    Args:
        messages: The conversation; neither the list nor a message is changed.
        budget_tokens: Most tokens of the whole.
        tools: The tool schemas that go with it.
        policy: What the target may see of `parts`.
        parts: Context in the order of its worth.
        count: The target's tokenizer; asked only where the bytes do not settle the question.
        margin: By what factor `count` falls short of the provider's own count (`Margins.of`).

    Raises:
        ContextDoesNotFitError: The pins (system, last user turn, last unit, active plan) alone exceed the budget.
    """
    allowed, refusals = apply(parts, policy)
    whole = _with_context(messages, allowed)
    bound = upper_bound(whole, tools)
    if bound <= budget_tokens:
        return Shaped(messages=whole, tokens=bound, counted=False, reasons=refusals)
    meter = _Meter(count)
    overhead = meter.overhead(messages, tools)
    trim = _Trim(messages, int(budget_tokens / margin) - overhead, meter)
    notes = trim.run(allowed)
    if trim.left_nothing_out():
        return Shaped(messages=whole, tokens=trim.tokens + overhead, reasons=refusals)
    final = trim.messages()
    tokens = meter.total([final]) + overhead
    if tokens > budget_tokens:  # the sentence that something is missing is the first thing that can be missed
        final = trim.messages(marked=False)
        tokens = meter.total([final]) + overhead
    # A margin is for filling the window: where the pins fit without it, the provider may decide.
    if tokens > budget_tokens or broken_pairs(final) - broken_pairs(messages):
        raise ContextDoesNotFitError(provider=policy.provider, needed_tokens=tokens, limit_tokens=budget_tokens)
    return Shaped(
        messages=final,
        tokens=tokens,
        dropped=trim.dropped(),
        truncated=trim.truncated(),
        reasons=(*refusals, *notes),
    )


class _Meter:
    """Counts each message once, known by its identity; it holds on to what it counted, so no identity comes twice."""

    def __init__(self, count: Count) -> None:
        self._count = count
        self._primer = count([], [])
        self._known: dict[int, tuple[Message, int]] = {}

    def of(self, message: Message) -> int:
        """The tokens that a message adds."""
        known = self._known.get(id(message))
        if known is None:
            known = self._known[id(message)] = (message, self._count([message], []) - self._primer)
        return known[1]

    def total(self, units: Iterable[Unit]) -> int:
        """The tokens that units add."""
        return sum(self.of(message) for unit in units for message in unit)

    def overhead(self, messages: Sequence[Message], tools: Sequence[Any]) -> int:
        """The tokens of everything but the messages; a system message takes the tools in with less."""
        if not tools:
            return self._primer
        lead = [message for message in messages if message.get("role") == "system"][:1]
        return self._count(lead, tools) - self._count(lead, []) + self._primer


def _with_context(messages: Sequence[Message], parts: Sequence[ContextPart]) -> list[Message]:
    start = _leading_systems(messages)
    return [*messages[:start], *([render(parts)] if parts else []), *messages[start:]]


def _leading_systems(messages: Sequence[Message]) -> int:
    return next((n for n, message in enumerate(messages) if message.get("role") not in SYSTEM_ROLES), len(messages))


def _marker(omitted: int) -> Message:
    """Says that something is missing; a user message, so that the first turn stays the user's."""
    return {"role": "user", "content": f"[{omitted} earlier messages were left out to fit the context window]"}


class _Trim:
    """One conversation and its room: `kept` maps the numbers of the units that stay to their messages."""

    def __init__(self, messages: Sequence[Message], room: int, meter: _Meter) -> None:
        self.meter, self.room = meter, room
        self.units = split(messages)
        self.kept = {n: self.units[n] for n in pinned(self.units)}
        self.parts: tuple[ContextPart, ...] = ()
        self.refused: list[ContextPart] = []
        self.spare = room - meter.of(_marker(len(messages)))

    def run(self, parts: Sequence[ContextPart]) -> list[str]:
        """Fill the room: the pins, then the parts, then the newest units; say what had to give way."""
        numbers = sorted(self.kept)
        fitted = _shorten([self.kept[n] for n in numbers], self.spare, self.meter)
        self.kept = dict(zip(numbers, fitted, strict=True))
        self.spare -= self.meter.total(fitted)
        self._keep_parts(parts)
        self._walk_back()
        dropped, truncated = len(self.dropped()), self.truncated()
        reasons = [f"{part.kind} {part.source}: no room" for part in self.refused]
        reasons += [f"dropped {dropped} messages that do not fit"] if dropped else []
        return reasons + ([f"shortened {truncated} tool results"] if truncated else [])

    def _keep_parts(self, parts: Sequence[ContextPart]) -> None:
        frame = self.meter.of(render(())) if parts else 0
        for part in parts:
            cost = self.meter.of(render([part])) + (0 if self.parts else frame)
            if cost <= self.spare:
                self.parts, self.spare = (*self.parts, part), self.spare - cost
            else:
                self.refused.append(part)

    def _walk_back(self) -> None:
        for n in range(len(self.units) - 1, -1, -1):
            if n in self.kept:
                continue
            [unit] = _shorten([self.units[n]], self.spare, self.meter)
            if (cost := self.meter.total([unit])) > self.spare:
                return
            self.kept[n] = unit
            self.spare -= cost

    def left_nothing_out(self) -> bool:
        """Return True if everything fits after all, the marker's room being free then; `tokens` is its size."""
        if self.refused:
            return False
        context = self.meter.of(render(self.parts)) if self.parts else 0
        left = self.room - context
        for unit in reversed(self.units):  # the newest were counted before
            left -= self.meter.total([unit])
            if left < 0:
                return False
        self.tokens = self.room - left
        return True

    def dropped(self) -> tuple[Message, ...]:
        """The messages of the units that were not kept."""
        return tuple(message for n, unit in enumerate(self.units) if n not in self.kept for message in unit)

    def truncated(self) -> int:
        """How many messages were shortened."""
        pairs = (pair for n, unit in self.kept.items() for pair in zip(unit, self.units[n], strict=True))
        return sum(message is not original for message, original in pairs)

    def messages(self, *, marked: bool = True) -> list[Message]:
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
        starts_with_user = start < len(final) and is_question(final[start])
        if starts_with_user and not marked:
            return final
        final.insert(gap + bool(self.parts) if starts_with_user else start, _marker(len(self.dropped())))
        return final


def _shorten(units: Sequence[Unit], room: int, meter: _Meter) -> list[Unit]:
    """Cut the longest tool results to about the largest common length at which the units fit, or as far as it goes."""
    at_high = meter.total(units)
    lengths = [len(text) for unit in units for message in unit for text in _result_texts(message)]
    low, high = _LEAST_CHARS, max(lengths, default=0)
    if at_high <= room or high <= low:
        return list(units)
    cut = _cut(units, low, meter)
    at_low = meter.total(cut)
    # Each look tokenizes the results, and tokens are nearly proportional to characters: a straight line finds the
    # length in two or three looks, where halving takes a dozen. It may creep up from one side: every third look halves.
    look = 0
    while at_low < room and high - low > max(1, low // _CLOSE_ENOUGH):
        look += 1
        share = 0.5 if look % 3 == 0 else (room - at_low) / (at_high - at_low)
        middle = min(high - 1, max(low + 1, low + int((high - low) * share)))
        tried = _cut(units, middle, meter)
        if (tokens := meter.total(tried)) <= room:
            low, at_low, cut = middle, tokens, tried
        else:
            high, at_high = middle, tokens
    return cut


def _cut(units: Iterable[Unit], chars: int, meter: _Meter) -> list[Unit]:
    return [[_cut_result(message, chars, meter) for message in unit] for unit in units]


def _cut_result(message: Message, chars: int, meter: _Meter) -> Message:
    if all(len(text) <= chars for text in _result_texts(message)):
        return message
    if message.get("role") in {"tool", "function"}:
        content: Any = _cut_content(message["content"], chars)
    else:
        results = [id(part) for part in parts_of(message, "tool_result")]
        content = [
            {**part, "content": _cut_content(part.get("content"), chars)} if id(part) in results else part
            for part in message["content"]
        ]
    shorter = {**message, "content": content}
    return shorter if meter.of(shorter) < meter.of(message) else message


def _cut_content(content: Any, chars: int) -> Any:
    """Return the content with its text cut to head and tail; what else it has, like an image, stays."""
    text = _text_of(content)
    if len(text) <= chars:
        return content
    head = int(chars * _HEAD_SHARE)
    cut = {"truncated": True, "chars": len(text), "head": text[:head], "tail": text[len(text) - (chars - head) :]}
    written = json.dumps(cut, ensure_ascii=False)
    others = [part for part in content if part.get("type") != "text"] if isinstance(content, list) else []
    return [{"type": "text", "text": written}, *others] if others else written


def _result_texts(message: Message) -> list[str]:
    """Return the texts of the tool results in a message."""
    if message.get("role") in {"tool", "function"}:
        return [_text_of(message.get("content"))]
    return [_text_of(part.get("content")) for part in parts_of(message, "tool_result")] if result_ids(message) else []


def _text_of(content: Any) -> str:
    """Return the text of a tool result; "" where it has none, or parts of an unknown form."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        return ""
    return "".join(str(part.get("text", "")) for part in content if part.get("type") == "text")


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
    messages = [(n, message) for n, unit in enumerate(units) for message in unit]
    kept = {n for n, each in messages if each.get("role") in SYSTEM_ROLES or each.get("name") == ACTIVE_PLAN}
    questions = [n for n, unit in enumerate(units) if any(map(is_question, unit))]
    turns = [n for n, unit in enumerate(units) if unit[0].get("role") not in SYSTEM_ROLES]
    return kept | set(questions[-1:]) | set(turns[-1:])


def broken_pairs(messages: Sequence[Message]) -> Counter[str]:
    """Return the tool calls without a result and the results without a call, counted by id."""
    waiting: list[str] = []
    unasked: list[str] = []
    for message in messages:
        waiting += call_ids(message)
        for identity in result_ids(message):
            if identity in waiting:
                waiting.remove(identity)
            else:
                unasked.append(identity)
    return Counter([*unasked, *waiting])
