"""The state of one answer: its text, its calls, and what ended it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blueprint_llm.redaction import redact_value
from blueprint_llm.streaming.call_index import CallIndex
from blueprint_llm.streaming.chunks import Attributes, Entry, carries, entries, fields, refusal_in, text_of, word
from blueprint_llm.streaming.ending import Ending, broke_off, leaks_call, says_cut, says_refused
from blueprint_llm.streaming.machine import JsonRejected
from blueprint_llm.streaming.offered import Tools
from blueprint_llm.streaming.text import Text, printable
from blueprint_llm.streaming.verdict import (
    LIMITS,
    NOT_RETRIABLE,
    Status,
    StreamVerdict,
    TextDelta,
    Verdict,
    decided_by,
    worst,
)
from blueprint_llm.types import PartialToolCall, UsageInfo

if TYPE_CHECKING:
    from collections.abc import Callable

    from blueprint_llm.streaming.call import Call
    from blueprint_llm.streaming.document import Document
    from blueprint_llm.streaming.verdict import EndedBy

Event = TextDelta | PartialToolCall | Verdict

_partial_call = PartialToolCall.__pydantic_validator__.validate_python  # 0.5 us a chunk less than its constructor
_GOT_CHARS = 40
_SEEN_CHARS = 400  # what is searched for secrets before it is cut
_CHARS_PER_TOKEN = 4
_NO_TOOLS = Tools()
# As LiteLLM reads it off whole answers; some models' templates write the opening mark themselves.
_REASONING = re.compile(
    r"(?:\s*<(?:think|thinking|budget:thinking)>)?.*?</(?:think|thinking|budget:thinking)>", re.DOTALL
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What an answer is held against: the tools, the cap on its tokens, and the schema of its text."""

    tools: Tools
    max_tokens: int | None
    document: Callable[[], Document] | None = None  # makes the document of a structured text; None for prose


class Choice:
    """One of the answers in a stream."""

    def __init__(self, number: int, rules: Rules) -> None:
        self.number, self.rules = number, rules
        self.verdicts: list[Verdict] = []
        self._finish_reason: str | None = None
        self.has_calls = self._broke_off = self._carried = self._has_refusal = False
        self._index = CallIndex(rules.tools)
        self._text = Text()
        self._document = rules.document() if rules.document else None
        self._text_error: JsonRejected | None = None
        self._text_delta = -1  # the number of the last text delta, or of the one that was wrong

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
            self.has_calls = True
            if not self._index.is_other(entry):
                self._take_entry(entry, events)
        if not events:
            self._has_refusal = self._has_refusal or refusal_in(said)
            self._carried = self._carried or carries(part.get("message") if is_whole else delta)
        return events

    def _take_finish(self, finish: Any, part: dict[str, Any] | Attributes) -> None:
        """Note the reason. LiteLLM writes "stop" for all it does not know, and keeps the provider's word beside it."""
        native = word(fields(part.get("provider_specific_fields")).get("native_finish_reason"))
        self._finish_reason = word(finish) or self._finish_reason
        self._broke_off = self._broke_off or broke_off(self._finish_reason) or broke_off(native)
        if says_cut(native) or (says_refused(native) and not says_refused(self._finish_reason)):
            self._finish_reason = native

    def _take_text(self, content: str) -> list[Event]:
        self._text_delta += self._text_error is None
        piece = self._text.join(content)
        if not piece:
            return []
        document = self._document if self._text_error is None else None
        found = self._check_text(document, piece) if document is not None else None
        piece = printable(piece)
        self._text.add(piece)
        return [found or TextDelta(text=piece, choice=self.number)]

    def _check_text(self, document: Document, piece: str) -> Verdict | None:
        """Hold a piece of a structured text against its schema; return what is wrong beyond doubt.

        Prose may be a refusal, reasoning, or stand beside a call, so it is judged at the end. A text that began as
        JSON, where there is nothing to call, can only be the answer.
        """
        try:
            document.feed(piece)
        except JsonRejected as error:
            self._text_error = error
            has_begun = bool((self._text.value() + piece)[: error.offset].strip())
            if error.code in LIMITS or (has_begun and self.rules.tools == _NO_TOOLS):
                return self._found("invalid", error.code, error=error, got=self._text.tail(_SEEN_CHARS) + piece)
        return None

    def _take_entry(self, entry: Entry, events: list[Event]) -> None:
        call = self._index.find(entry)
        is_first = call.delta_no < 0
        added = call.take(entry)
        if call.problem is not None and call.is_ours:
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
        facts: dict[str, Any] = {"delta_no": None if self._document is None else self._text_delta}
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
        chars = self._text.length + sum(call.document.text.length for call in self._index.calls)
        return max(0, self.rules.max_tokens - chars // _CHARS_PER_TOKEN)

    def close(self, usage: UsageInfo | None, ended_by: EndedBy | None, answer_id: str, *, alone: bool) -> StreamVerdict:
        """Return the verdict on this answer. With others beside it (not `alone`) the usage is not its own."""
        text = self._whole_text()
        self._index.drop_echoes()
        ending = self._ending(text, usage if alone else None, ended_by)
        for call in self._index.calls:
            self._settle(call, ending)
        structured = self._settle_text(text, ending)
        self._settle_answer(text, ending)
        self._warn()
        status = worst(self.verdicts)
        calls = [call for call in self._index.calls if call.is_ours or (call.complete and call.problem is None)]
        return StreamVerdict(
            status=status,
            verdicts=tuple(self.verdicts),
            tool_calls=tuple(call.approved(answer_id) for call in calls) if status in {"ok", "suspect"} else (),
            text=text,
            structured=structured,
            finish_reason=self._finish_reason,
            why=ending.why,
            ended_by=ending.ended_by,
            usage=usage,
        )

    def _whole_text(self) -> str:
        half = self._text.rest()
        if half:
            self._text.add(printable(half))
        return self._text.value()

    def _ending(self, text: str, usage: UsageInfo | None, ended_by: EndedBy | None) -> Ending:
        cap, used = self.rules.max_tokens, usage.completion_tokens if usage is not None else 0
        return Ending(
            ended_by="none" if self._broke_off else ended_by or ("terminal" if self._finish_reason else "none"),
            finish_reason=self._finish_reason,
            refusal=self._has_refusal and not (text or self._index.calls),
            used_up=cap is not None and used >= cap > 0,
        )

    def _settle(self, call: Call, ending: Ending) -> None:
        if not call.is_ours:
            call.settle()
            call.warn("passed_through")
            return
        if call.problem is None and not call.complete and (call.has_begun or ending.truncation):
            code = ending.truncation or "unclosed_json"
            end = JsonRejected(code, call.document.text.length)
            self._found("incomplete", code, call=call, error=end, got=call.document.text.tail(_SEEN_CHARS))
            return
        call.settle()
        if call.problem is not None and not call.reported:
            self._call_problem(call, call.problem)

    def _settle_text(self, text: str, ending: Ending) -> str | None:
        """Hold the text against its schema, which binds only an answer that calls nothing; return what satisfies it."""
        if self._document is None or not text or worst(self.verdicts) in {"invalid", "incomplete"}:
            return None
        error = self._text_error or _left_open(self._document)
        if error is None:
            return text
        if self._index.calls or self._index.has_others:
            self._found("ok", "text_beside_call", error=error)
            return None
        answer = self._behind_reasoning(text)
        if answer is not None:
            self._found("ok", "reasoning_in_text")
            return answer
        got = self._text.tail(_SEEN_CHARS) if self._text_error is None else text[: error.offset + _GOT_CHARS]
        if ending.why != "done" or error.code in {"unclosed_json", "empty"}:
            self._found("incomplete", ending.truncation or "unclosed_json", error=error, got=got)
        else:
            self._found("invalid", error.code, error=error, got=got)
        return None

    def _behind_reasoning(self, text: str) -> str | None:
        """Return the structured answer behind `<think>...</think>`; None where there is no such answer."""
        reasoning = _REASONING.match(text)
        if reasoning is None or self.rules.document is None:
            return None
        document, answer = self.rules.document(), text[reasoning.end() :]
        try:
            document.feed(answer)
        except JsonRejected:
            return None
        return answer if _left_open(document) is None else None

    def _settle_answer(self, text: str, ending: Ending) -> None:
        """Judge the answer as a whole, where its parts gave no reason to turn it down."""
        calls, cut = [call for call in self._index.calls if call.is_ours], ending.truncation
        has_calls = bool(self._index.calls) or self._index.has_others
        if worst(self.verdicts) in {"invalid", "incomplete"}:
            return
        if ending.why == "broken":
            self._found("incomplete", "missing_finish" if has_calls or text or self._carried else "empty_stream")
        elif cut and calls and not (ending.why == "done" and ending.says_called):
            self._found("incomplete", cut, call=calls[-1])
        elif cut:
            self._found("ok", cut)  # a text that was cut, or a refusal, is the answer; a call that is whole was not cut
        elif self._document is None and leaks_call(text, self.rules.tools.schemas):
            self._found("suspect", "tool_call_in_content", got=text[:_GOT_CHARS])
        elif ending.says_called and not has_calls:
            self._found("invalid", "missing_tool_call")
        elif not (text or has_calls) and self._document is not None:
            self._found("invalid", "empty_answer")
        elif not (text or has_calls or self._carried):
            self._found("ok", "empty_answer")

    def _warn(self) -> None:
        for call in self._index.calls:
            if call.id is None:
                call.warn("id_missing")
            for code in call.warnings:
                self._found("ok", code, call=call)


def _left_open(document: Document) -> JsonRejected | None:
    """Return why a document that nothing follows is not whole."""
    try:
        document.close()
    except JsonRejected as error:
        return error
    return None
