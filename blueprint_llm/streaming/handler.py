"""Validate a stream of chunks: text flows, tool calls are held back until they are complete and valid."""

from __future__ import annotations

import functools
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from blueprint_llm.errors import InvalidRequestError
from blueprint_llm.redaction import redact_value
from blueprint_llm.streaming.calls import CallIndex, Tools
from blueprint_llm.streaming.chunks import (
    carries,
    count,
    entries,
    fields,
    refusal_in,
    sequence,
    text_of,
    usage_info,
    word,
)
from blueprint_llm.streaming.document import Document, Text, printable
from blueprint_llm.streaming.machine import JsonRejected
from blueprint_llm.streaming.schema_check import compile_schema
from blueprint_llm.streaming.verdict import (
    CALLED,
    NOT_RETRIABLE,
    EndedBy,
    Status,
    StreamVerdict,
    TextDelta,
    Verdict,
    Why,
    decided_by,
    end_of,
    leaks_call,
    worst,
)
from blueprint_llm.types import PartialToolCall, UsageInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from blueprint_llm.streaming.calls import Call

Event = TextDelta | PartialToolCall | Verdict

MAX_CHOICES = 128
_partial_call = PartialToolCall.__pydantic_validator__.validate_python  # 0.5 us a chunk less than its constructor
_GOT_CHARS = 40
_SEEN_CHARS = 400  # what is searched for secrets before it is cut
_CHARS_PER_TOKEN = 4
_TRUNCATIONS: dict[Why, str] = {"refused": "content_filter", "broken": "missing_finish", "cut": "truncated_length"}
# As LiteLLM reads it off whole answers; some models' templates write the opening mark themselves.
_REASONING = re.compile(
    r"(?:\s*<(?:think|thinking|budget:thinking)>)?.*?</(?:think|thinking|budget:thinking)>", re.DOTALL
)


class StreamingHandler:
    """Check one answer, delta by delta. A whole answer is checked the same way: it is one chunk.

    Args:
        tools: The tools that were offered, as `Tool` records or dicts; with none, calls of any name and shape pass as
            long as they are sound JSON. Calls of tools that are no functions are passed on unread.
        response_format: As in the request; with `json_schema` or `json_object` the text is checked as it streams.
        max_tokens: The cap on the answer's tokens.

    Raises:
        InvalidRequestError: The response format's schema is no JSON Schema, or a tool has no name.
    """

    def __init__(self, tools: Iterable[Any] = (), response_format: Any = None, max_tokens: int | None = None) -> None:
        self._held_against = Tools.of(tools or ()), max_tokens, _document_of(response_format)
        self._choices: dict[int, Choice] = {}
        self._verdicts: list[Verdict] = []
        self._usage: Any = None
        self._answer_id = ""
        self._closed: StreamVerdict | None = None

    def feed(self, chunk: Any) -> list[Event]:
        """Take a chunk and return what may be shown, and what was found wrong. Never raises on model output.

        Tool calls never come out here: `PartialToolCall` is for display only, and only the first choice has them.
        """
        events: list[Event] = []
        said = fields(chunk)
        for place, choice in enumerate(sequence(said.get("choices"))):
            part = fields(choice)
            index = part.get("index")
            number = count(index) if type(index) is int else place  # alternatives never run into one another
            events += (self._choices.get(number) or self._choice(number)).feed(part)
        if not self._answer_id:
            self._answer_id = word(said.get("id")) or ""
        usage = said.get("usage")
        if usage is not None:
            self._usage = usage
        return events or self._oddities(chunk)

    @property
    def has_calls(self) -> bool:
        """Return True if any piece of a tool call has come."""
        return any(choice.has_calls for choice in self._choices.values())

    def _choice(self, number: int) -> Choice:
        number = min(number, MAX_CHOICES - 1)
        if number not in self._choices:
            self._choices[number] = Choice(number, *self._held_against)
        return self._choices[number]

    def _oddities(self, chunk: Any) -> list[Event]:
        """Return what is wrong with a chunk that brought nothing."""
        error = chunk.get("error") if isinstance(chunk, dict) else None
        is_chunk = isinstance(chunk, dict) or hasattr(chunk, "choices")
        code = "error_object" if error else None if is_chunk else "bad_chunk"
        if code is None or any(verdict.code == code for verdict in self._verdicts):
            return []
        verdict = Verdict(status="incomplete", code=code)
        self._verdicts.append(verdict)
        return [verdict]

    def close(self, usage: Any = ..., ended_by: EndedBy | None = None) -> StreamVerdict:
        """Return the verdict on the whole answer, with its tool calls; asked again, the same.

        Args:
            usage: The provider's usage object or a UsageInfo; None says that it sent none. Without it, what the
                chunks said counts.
            ended_by: What the transport knows about the end; without it, a finish reason is taken for its proof.
        """
        if self._closed is not None:
            return self._closed
        found = usage_info(self._usage if usage is ... else usage)
        if not self._choices:  # not even an empty answer: whatever ended it, no answer did
            self._choice(0)
            ended_by = "none"
        alone = len(self._choices) == 1
        choices = [self._choices[number] for number in sorted(self._choices)]
        closed = [each.close(found, ended_by, self._answer_id, alone=alone) for each in choices]
        self._closed = closed[0]
        if not alone or self._verdicts:  # the first answer, under the worst status of all
            verdicts = (*self._verdicts, *(verdict for each in closed for verdict in each.verdicts))
            status = worst(verdicts)
            self._closed = replace(
                closed[0],
                status=status,
                verdicts=verdicts,
                tool_calls=closed[0].tool_calls if status in {"ok", "suspect"} else (),
                choices=() if alone else tuple(closed),
            )
        return self._closed


class Choice:
    """One of the answers in a stream: its text, its calls, and what ended it."""

    def __init__(
        self, number: int, tools: Tools, max_tokens: int | None, new_document: Callable[[], Document] | None
    ) -> None:
        self._number, self._tools, self._max_tokens, self._new_document = number, tools, max_tokens, new_document
        self._verdicts: list[Verdict] = []
        self._finish_reason: str | None = None
        self.has_calls = self._broke_off = self._carried = self._has_refusal = False
        self._index = CallIndex(tools)
        self._text = Text()
        self._document = new_document() if new_document else None
        self._text_error: JsonRejected | None = None
        self._text_delta = -1  # the number of the last text delta, or of the one that was wrong
        self._why: Why = "done"
        self._truncation: str | None = None  # why the answer may lack its end

    def feed(self, part: Mapping[str, Any]) -> list[Event]:
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
            if self._index.is_other(entry):
                continue
            call = self._index.find(entry)
            is_first = call.delta_no < 0
            added = call.take(entry)
            if call.problem is not None and call.is_ours:
                events += self._call_problem(call)
            elif (added or is_first) and not self._number:
                shown = {"index": call.number, "id": call.id, "name": call.name, "arguments_delta": added}
                events.append(_partial_call(shown))
        if not events:
            self._has_refusal = self._has_refusal or refusal_in(said)
            self._carried = self._carried or carries(part.get("message") if is_whole else delta)
        return events

    def _take_finish(self, finish: Any, part: Mapping[str, Any]) -> None:
        """Note the reason. LiteLLM writes "stop" for all it does not know, and keeps the provider's word beside it."""
        native = word(fields(part.get("provider_specific_fields")).get("native_finish_reason"))
        self._finish_reason = word(finish) or self._finish_reason
        own, meant = end_of(self._finish_reason), end_of(native)
        self._broke_off = self._broke_off or "broken" in {own, meant}
        if meant == "cut" or (meant == "refused" and own != "refused"):
            self._finish_reason = native

    def _take_text(self, content: str) -> list[Event]:
        self._text_delta += self._text_error is None
        piece = self._text.join(content)
        if not piece:
            return []
        found: Verdict | None = None
        try:
            if self._document is not None and self._text_error is None:
                self._document.feed(piece)
        except JsonRejected as error:
            self._text_error = error
            # Prose may be a refusal, reasoning, or stand beside a call, so it is judged at the end. A text that began
            # as JSON, where there is nothing to call, can only be the answer.
            has_begun = bool((self._text.value() + piece)[: error.offset].strip())
            can_call = self._tools.schemas or self._tools.has_others
            if decided_by(error.code) == "limit" or (has_begun and not can_call):
                found = self._found("invalid", error.code, error=error, got=self._text.tail(_SEEN_CHARS) + piece)
        piece = printable(piece)
        self._text.add(piece)
        return [found or TextDelta(text=piece, choice=self._number)]

    def _call_problem(self, call: Call) -> list[Verdict]:
        """Return the verdict on a call with a problem, the first time."""
        if call.problem is None or call.reported:
            return []
        call.reported = True
        got = "" if call.complete else call.document.text.tail(_SEEN_CHARS)
        return [self._found("invalid", call.problem.code, error=call.problem, call=call, got=got)]

    def _found(
        self, status: Status, code: str, *, call: Call | None = None, error: JsonRejected | None = None, got: str = ""
    ) -> Verdict:
        facts: dict[str, Any] = {"delta_no": None if self._document is None else self._text_delta}
        if call is not None:
            facts |= {"call_index": call.number, "call_id": call.id, "tool": call.name, "delta_no": call.delta_no}
        if error is not None:
            facts |= {"path": error.path, "char_offset": error.offset, "expected": error.expected}
        if status == "invalid" and self._max_tokens is not None:
            chars = self._text.length + sum(each.document.text.length for each in self._index.calls)
            facts["tokens_saved"] = max(0, self._max_tokens - chars // _CHARS_PER_TOKEN)
        verdict = Verdict(
            status=status,
            code=code,
            decided_by=decided_by(code),
            retriable=code not in NOT_RETRIABLE,
            choice=self._number,
            got=str(redact_value(got))[-_GOT_CHARS:],
            **facts,
        )
        self._verdicts.append(verdict)
        return verdict

    def close(self, usage: UsageInfo | None, ended_by: EndedBy | None, answer_id: str, *, alone: bool) -> StreamVerdict:
        """Return the verdict on this answer. With others beside it (not `alone`) the usage is not its own."""
        self._text.add(printable(self._text.rest()))
        text = self._text.value()
        self._index.drop_echoes()
        calls = self._index.calls
        ended_by = "none" if self._broke_off else ended_by or ("terminal" if self._finish_reason else "none")
        end = end_of(self._finish_reason)
        if end == "refused" or (self._has_refusal and not (text or calls)):
            self._why = "refused"  # which needs no other proof
        else:
            self._why = end if ended_by == "terminal" else "broken"
        used = usage.completion_tokens if usage is not None and alone else 0
        used_up = self._max_tokens is not None and used >= self._max_tokens > 0
        self._truncation = _TRUNCATIONS.get(self._why, "truncated_length" if used_up else None)
        for call in calls:
            self._settle(call)
        structured = self._settle_text(text)
        self._settle_answer(text)
        for call in calls:
            for code in (*call.warnings, *(["id_missing"] if call.id is None else [])):
                self._found("ok", code, call=call)
        status = worst(self._verdicts)
        sound = [call for call in calls if call.is_ours or (call.complete and call.problem is None)]
        return StreamVerdict(
            status=status,
            verdicts=tuple(self._verdicts),
            tool_calls=tuple(call.approved(answer_id) for call in sound) if status in {"ok", "suspect"} else (),
            text=text,
            structured=structured,
            finish_reason=self._finish_reason,
            why=self._why,
            ended_by=ended_by,
            usage=usage,
        )

    def _settle(self, call: Call) -> None:
        if not call.is_ours:
            call.settle()
            call.warn("passed_through")
            return
        if call.problem is None and not call.complete and (call.has_begun or self._truncation):
            code = self._truncation or "unclosed_json"
            end = JsonRejected(code, call.document.text.length)
            self._found("incomplete", code, call=call, error=end, got=call.document.text.tail(_SEEN_CHARS))
            return
        call.settle()
        self._call_problem(call)

    def _settle_text(self, text: str) -> str | None:
        """Hold the text against its schema, which binds only an answer that calls nothing; return what satisfies it."""
        if self._document is None or not text or worst(self._verdicts) in {"invalid", "incomplete"}:
            return None
        error = self._text_error or self._document.close()
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
        if self._why != "done" or error.code in {"unclosed_json", "empty"}:
            self._found("incomplete", self._truncation or "unclosed_json", error=error, got=got)
        else:
            self._found("invalid", error.code, error=error, got=got)
        return None

    def _behind_reasoning(self, text: str) -> str | None:
        """Return the structured answer behind `<think>...</think>`; None where there is no such answer."""
        reasoning = _REASONING.match(text)
        if reasoning is None or self._new_document is None:
            return None
        document, answer = self._new_document(), text[reasoning.end() :]
        try:
            document.feed(answer)
        except JsonRejected:
            return None
        return answer if document.close() is None else None

    def _settle_answer(self, text: str) -> None:
        """Judge the answer as a whole, where its parts gave no reason to turn it down."""
        calls, cut = [call for call in self._index.calls if call.is_ours], self._truncation
        has_calls = bool(self._index.calls) or self._index.has_others
        announced = (self._finish_reason or "").lower() in CALLED
        if worst(self._verdicts) in {"invalid", "incomplete"}:
            return
        if self._why == "broken":
            self._found("incomplete", "missing_finish" if has_calls or text or self._carried else "empty_stream")
        elif cut and calls and not (self._why == "done" and announced):
            self._found("incomplete", cut, call=calls[-1])
        elif cut:
            self._found("ok", cut)  # a text that was cut, or a refusal, is the answer; a call that is whole was not cut
        elif self._document is None and leaks_call(text, self._tools.schemas):
            self._found("suspect", "tool_call_in_content", got=text[:_GOT_CHARS])
        elif announced and not has_calls:
            self._found("invalid", "missing_tool_call")
        elif not (text or has_calls) and self._document is not None:
            self._found("invalid", "empty_answer")
        elif not (text or has_calls or self._carried):
            self._found("ok", "empty_answer")


def _document_of(response_format: Any) -> Callable[[], Document] | None:
    """Return a maker of Documents for a structured answer; None for prose. Raises InvalidRequestError."""
    if hasattr(response_format, "model_json_schema"):
        schema = response_format.model_json_schema()
    else:
        asked = fields(response_format)
        kind = asked.get("type")
        if kind == "json_object":
            return Document
        if kind != "json_schema":
            return None
        schema = fields(asked.get("json_schema")).get("schema")
        if schema is None:
            raise InvalidRequestError("response_format of type json_schema needs json_schema.schema")
    return functools.partial(Document, compile_schema(schema), any_root=True)
