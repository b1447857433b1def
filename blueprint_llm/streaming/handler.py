"""Validate a stream of chunks: text flows, tool calls are held back until they are complete and valid."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from blueprint_llm.errors import InvalidRequestError
from blueprint_llm.streaming.choice import Choice, Event, Rules
from blueprint_llm.streaming.chunks import count, fields, sequence, usage_info, word
from blueprint_llm.streaming.document import Document
from blueprint_llm.streaming.offered import Tools
from blueprint_llm.streaming.schema_check import compile_schema
from blueprint_llm.streaming.verdict import EndedBy, StreamVerdict, Verdict, worst

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MAX_CHOICES = 128


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
        self._rules = Rules(tools=Tools.of(tools or ()), max_tokens=max_tokens, document=_document_of(response_format))
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
            self._choices[number] = Choice(number, self._rules)
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
        if self._closed is None:
            found = usage_info(self._usage if usage is ... else usage)
            choices = [self._choices[number] for number in sorted(self._choices)]
            if not choices:  # not even an empty answer: whatever ended it, no answer did
                choices, ended_by = [Choice(0, self._rules)], "none"
            alone = len(choices) == 1
            closed = [each.close(found, ended_by, self._answer_id, alone=alone) for each in choices]
            self._closed = self._joined(closed)
        return self._closed

    def _joined(self, closed: list[StreamVerdict]) -> StreamVerdict:
        """Return the first answer, under the worst status of all."""
        first = closed[0]
        if len(closed) == 1 and not self._verdicts:
            return first
        verdicts = (*self._verdicts, *(verdict for each in closed for verdict in each.verdicts))
        status = worst(verdicts)
        return replace(
            first,
            status=status,
            verdicts=verdicts,
            tool_calls=first.tool_calls if status in {"ok", "suspect"} else (),
            choices=tuple(closed) if len(closed) > 1 else (),
        )


def validate_message(
    message: Mapping[str, Any],
    finish_reason: str | None = None,
    tools: Iterable[Any] = (),
    *,
    usage: Any = None,
    response_format: Any = None,
    max_tokens: int | None = None,
) -> StreamVerdict:
    """Return the verdict on a whole assistant message in OpenAI's shape. Without a finish reason it counts as ended."""
    handler = StreamingHandler(tools, response_format, max_tokens)
    handler.feed({"choices": [{"index": 0, "message": message, "finish_reason": finish_reason}]})
    return handler.close(usage=usage, ended_by="terminal")


def _document_of(response_format: Any) -> Any:
    """Return a maker of Documents for a structured answer; None for prose. Raises InvalidRequestError."""
    if response_format is None:
        return None
    if hasattr(response_format, "model_json_schema"):
        return functools.partial(Document, compile_schema(response_format.model_json_schema()), any_root=True)
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
