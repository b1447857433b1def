"""The state of one answer: its text, its calls, and what ended it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blueprint_llm.redaction import redact_value
from blueprint_llm.streaming.chunks import Attributes, Entry, answers_otherwise, entries, fields, text_of, word
from blueprint_llm.streaming.ending import Ending, broke_off, leaks_call, says_cut
from blueprint_llm.streaming.machine import JsonRejected
from blueprint_llm.streaming.slots import Slots
from blueprint_llm.streaming.text import Text, printable
from blueprint_llm.streaming.verdict import NOT_RETRIABLE, Status, StreamVerdict, TextDelta, Verdict, decided_by, worst
from blueprint_llm.types import PartialToolCall, UsageInfo

if TYPE_CHECKING:
    from collections.abc import Mapping

    from blueprint_llm.streaming.call import Call
    from blueprint_llm.streaming.document import Document

Event = TextDelta | PartialToolCall | Verdict

_partial_call = PartialToolCall.__pydantic_validator__.validate_python  # 0.5 us a chunk less than its constructor
_GOT_CHARS = 40
_SEEN_CHARS = 400  # what is searched for secrets before it is cut
_CHARS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What an answer is held against: the tools by name, the cap on its tokens, and the schema of its text."""

    declared: Mapping[str, Any]
    max_tokens: int | None
    document: Any = None  # makes the Document of a structured text; None for prose


class Choice:
    """One of the answers in a stream."""

    def __init__(self, number: int, rules: Rules) -> None:
        self.number, self.rules = number, rules
        self.finish_reason: str | None = None
        self.broke_off = False
        self.verdicts: list[Verdict] = []
        self._slots = Slots(rules.declared)
        self._text = Text()
        self._document: Document | None = rules.document() if rules.document else None
        self._deltas = -1
        self._text_failed = self._has_other = False

    def feed(self, part: dict[str, Any] | Attributes) -> list[Event]:
        """Take one chunk's part of this answer."""
        finish = part.get("finish_reason")
        if finish:
            self._take_finish(finish, part)
        delta = part.get("delta")
        is_whole = delta is None
        said = fields(part.get("message") if is_whole else delta)
        content = said.get("content")
        events = self._take_text(text_of(content)) if content else []
        for entry in entries(said, is_whole=is_whole):
            self._take_entry(entry, events)
        if not (events or self._has_other):
            self._has_other = answers_otherwise(said)
        return events

    def _take_finish(self, finish: Any, part: dict[str, Any] | Attributes) -> None:
        """LiteLLM writes "stop" for every reason it does not know, and keeps the provider's word beside it."""
        native = word(fields(part.get("provider_specific_fields")).get("native_finish_reason"))
        self.finish_reason = word(finish) or self.finish_reason
        self.broke_off = self.broke_off or broke_off(self.finish_reason) or broke_off(native)
        if says_cut(native):
            self.finish_reason = native

    def _take_text(self, content: str) -> list[Event]:
        self._deltas += 1
        piece = self._text.join(content)
        if not piece or self._text_failed:
            return []
        if self._document is not None:
            try:
                self._document.feed(piece)
            except JsonRejected as error:
                self._text.add(printable(piece))
                return [self._text_problem(error)]
        piece = printable(piece)
        self._text.add(piece)
        return [TextDelta(text=piece, choice=self.number)]

    def _text_problem(self, error: JsonRejected) -> Verdict:
        self._text_failed = True
        return self._found("invalid", error.code, error=error, got=self._text.tail(_SEEN_CHARS))

    def _take_entry(self, entry: Entry, events: list[Event]) -> None:
        call = self._slots.route(entry)
        is_first = call.delta_no < 0
        added = call.take(entry)
        if call.problem is not None:
            if not call.reported:
                events.append(self._call_problem(call, call.problem))
        elif (added or is_first) and not self.number:
            shown = {"index": call.number, "id": call.id, "name": call.name, "arguments_delta": added}
            events.append(_partial_call(shown))

    def _call_problem(self, call: Call, problem: JsonRejected) -> Verdict:
        call.reported = True
        got = "" if call.complete else call.document.text.tail(_SEEN_CHARS)
        return self._found("invalid", problem.code, error=problem, call=call, got=got)

    def _found(
        self, status: Status, code: str, *, call: Call | None = None, error: JsonRejected | None = None, got: str = ""
    ) -> Verdict:
        facts: dict[str, Any] = {"delta_no": self._deltas if self._document else None}
        if call is not None:
            facts |= {"call_index": call.number, "call_id": call.id, "tool": call.name, "delta_no": call.delta_no}
        if error is not None:
            facts |= {"path": error.path, "char_offset": error.offset, "expected": error.expected}
        verdict = Verdict(
            status=status,
            code=code,
            decided_by=decided_by(code),
            retriable=code not in NOT_RETRIABLE,
            tokens_saved=self._tokens_left() if status == "invalid" else None,
            choice=self.number,
            got=str(redact_value(got))[-_GOT_CHARS:],
            **facts,
        )
        self.verdicts.append(verdict)
        return verdict

    def _tokens_left(self) -> int | None:
        if self.rules.max_tokens is None:
            return None
        chars = self._text.length + sum(call.document.text.length for call in self._slots.calls)
        return max(0, self.rules.max_tokens - chars // _CHARS_PER_TOKEN)

    def close(self, ending: Ending, usage: UsageInfo | None, answer_id: str) -> StreamVerdict:
        """The verdict on this answer."""
        text = self._whole_text()
        self._slots.drop_echoes()
        for call in self._slots.calls:
            self._settle(call, ending)
        self._settle_text(text, ending)
        self._settle_answer(text, ending)
        self._warn()
        status = worst(self.verdicts)
        calls = self._slots.calls if status in {"ok", "suspect"} else []
        return StreamVerdict(
            status=status,
            verdicts=tuple(self.verdicts),
            tool_calls=tuple(call.approved(answer_id) for call in calls),
            text=text,
            finish_reason=self.finish_reason,
            ended_by=ending.ended_by,
            usage=usage,
        )

    def _whole_text(self) -> str:
        half = self._text.rest()
        if half:
            self._text.add(printable(half))
        return self._text.value()

    def _settle(self, call: Call, ending: Ending) -> None:
        if call.problem is None and not call.complete and not (call.empty and ending.truncation is None):
            code = ending.truncation or "unclosed_json"
            end = JsonRejected(code, call.document.text.length)
            self._found("incomplete", code, call=call, error=end, got=call.document.text.tail(_SEEN_CHARS))
            return
        call.settle()
        if call.problem is not None and not call.reported:
            self._call_problem(call, call.problem)

    def _settle_text(self, text: str, ending: Ending) -> None:
        document = self._document
        if document is None or self._text_failed or not text:
            return
        try:
            document.close()
        except JsonRejected as error:
            if error.code in {"unclosed_json", "empty"}:
                code = ending.truncation or "unclosed_json"
                self._found("incomplete", code, error=error, got=self._text.tail(_SEEN_CHARS))
            else:
                self._text_problem(error)

    def _settle_answer(self, text: str, ending: Ending) -> None:
        """Judge the answer as a whole, where its parts gave no reason to turn it down."""
        calls, cut = self._slots.calls, ending.truncation
        if worst(self.verdicts) in {"invalid", "incomplete"}:
            return
        if cut == "missing_finish" or (cut and (calls or not text)):
            self._found("incomplete", cut)
        elif cut:
            self._found("ok", cut)  # a text that was cut is still the answer
        elif self._document is None and leaks_call(text, self.rules.declared):
            self._found("suspect", "tool_call_in_content", got=text[:_GOT_CHARS])
        elif ending.says_called and not calls:
            self._found("invalid", "missing_tool_call")
        elif not (text or calls or self._has_other):
            self._found("invalid", "empty_answer")

    def _warn(self) -> None:
        for call in self._slots.calls:
            if call.id is None:
                call.warn("id_missing")
            for code in call.warnings:
                self._found("ok", code, call=call)
