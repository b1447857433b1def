"""What the validator says: about one call or piece of text, and about a whole answer.

`ok` verdicts are warnings about what was odd and taken without loss. Codes:
syntax: `expected_key`, `expected_value`, `expected_colon`, `expected_comma_or_end`, `extra_data`, `bad_literal`,
    `bad_number`, `invalid_escape`, `control_char_in_string`, `lone_surrogate`, `duplicate_key`, `number_overflow`,
    `root_not_object`
limit: `too_deep`, `too_large`, `number_too_long`, `runaway_whitespace`, `too_many_calls`
schema: `schema_type`, `schema_enum`, `schema_required`, `schema_unknown_property`, `schema_<keyword>`,
    `schema_unusable`, `unknown_tool`
protocol: see `_PROTOCOL`
finish: `truncated_length`, `content_filter`, `missing_finish`, `empty_stream`, `unclosed_json`
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from blueprint_llm.types import ToolCall, UsageInfo

Status = Literal["ok", "invalid", "incomplete", "suspect"]
DecidedBy = Literal["syntax", "schema", "protocol", "finish", "limit"]
EndedBy = Literal["terminal", "invented", "none"]
Why = Literal["done", "cut", "refused", "broken"]

LIMITS = frozenset({"too_deep", "too_large", "number_too_long", "runaway_whitespace", "too_many_calls"})
NOT_RETRIABLE = frozenset({"content_filter", "schema_unusable"})
_PROTOCOL = frozenset(
    {
        *("concatenated_objects", "ambiguous_calls", "missing_name", "missing_tool_call", "empty_arguments"),
        *("empty_answer", "tool_call_in_content", "bad_chunk", "error_object"),
        # Warnings only.
        *("split_by_id", "split_by_name", "index_inferred", "id_missing", "id_changed", "id_repeated", "name_resent"),
        *("name_joined", "duplicate_resend", "cumulative_resend", "arguments_object", "passed_through"),
        *("text_beside_call", "reasoning_in_text"),
    }
)
_FINISH = frozenset({"truncated_length", "content_filter", "missing_finish", "empty_stream", "unclosed_json"})
_SEVERITY: tuple[Status, ...] = ("ok", "suspect", "incomplete", "invalid")


def decided_by(code: str) -> DecidedBy:
    """Return what kind of rule a code belongs to."""
    if code in LIMITS:
        return "limit"
    if code in _FINISH:
        return "finish"
    if code in _PROTOCOL:
        return "protocol"
    return "schema" if code.startswith("schema_") or code == "unknown_tool" else "syntax"


def worst(verdicts: Iterable[Verdict]) -> Status:
    """Return the gravest status among verdicts."""
    return max((verdict.status for verdict in verdicts), key=_SEVERITY.index, default="ok")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDelta:
    """A piece of the answer's text."""

    text: str
    choice: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One finding.

    Attributes:
        call_index: The call's place in the answer; None when the finding is about the text or the stream.
        path: A JSON pointer into the arguments or the structured text.
        delta_no: The 0-based number of the call's (or text's) delta that decided it.
        char_offset: The 0-based character after which no valid call is possible.
        got: What stood there: at most 40 characters, secrets masked.
        retriable: Another try at the same model may help.
        tokens_saved: About how many tokens closing the upstream now saves; None when `max_tokens` is unknown.
    """

    status: Status
    code: str
    call_index: int | None = None
    call_id: str | None = None
    tool: str | None = None
    path: str = ""
    delta_no: int | None = None
    char_offset: int | None = None
    expected: str = ""
    got: str = ""
    decided_by: DecidedBy = "protocol"
    retriable: bool = True
    tokens_saved: int | None = None
    choice: int = 0

    def clarification(self) -> str:
        """Return a short text for a second request: tool, place, expected, got."""
        what = f"Your call of {self.tool}" if self.tool else "Your answer"
        where = f" at {self.path}" if self.path else ""
        wanted = f", expected {self.expected}" if self.expected else ""
        got = f", got {self.got!r}" if self.got else ""
        again = "Send the whole call again as one valid JSON object" if self.tool else "Answer again"
        return f"{what} was not valid{where}: {_CLARIFIED.get(self.code, self.code)}{wanted}{got}. {again}."


_CLARIFIED = {
    "truncated_length": "it was cut off by the output limit; split it into smaller calls",
    "unclosed_json": "its JSON was not closed",
    "missing_finish": "it broke off",
    "concatenated_objects": "several JSON objects in one call; use one call each",
    "ambiguous_calls": "several calls were mixed up; give each its own id",
    "empty_answer": "it was empty",
    "missing_tool_call": "a tool call was announced but not sent",
    "unknown_tool": "there is no such tool",
    "schema_required": "keys are missing",
    "schema_unknown_property": "an undeclared key",
    "schema_type": "wrong type",
    "schema_enum": "a value that is not listed",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamVerdict:
    """The verdict on a whole answer. `judgement.judge` says what to do about it.

    Attributes:
        status: The worst of all verdicts: invalid, incomplete, suspect, ok.
        tool_calls: The complete, valid calls; empty unless all of them are.
        text: The text of the first choice.
        structured: The JSON of a structured answer: the text without `<think>...</think>` before it; None for prose.
        why: Why the answer ended.
        ended_by: What proves the end: a terminal event, a finish reason that was made up, or nothing.
        usage: As the provider sent it; None where it sent none.
        choices: Where several answers were asked for, the verdict on each, in order.
    """

    status: Status
    verdicts: tuple[Verdict, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    text: str = ""
    structured: str | None = None
    finish_reason: str | None = None
    why: Why = "done"
    ended_by: EndedBy = "none"
    usage: UsageInfo | None = None
    choices: tuple[StreamVerdict, ...] = ()

    @property
    def problem(self) -> Verdict | None:
        """The first verdict of the worst status; None for an answer that is ok."""
        found = (each for each in self.verdicts if each.status == self.status)
        return None if self.status == "ok" else next(found, None)

    @property
    def code(self) -> str:
        """The problem's code, else the first warning's, else `ok`."""
        first = self.problem or next(iter(self.verdicts), None)
        return first.code if first else "ok"

    @property
    def retriable(self) -> bool:
        """True if another try at the same model may help."""
        return self.problem is not None and self.problem.retriable

    def clarification(self) -> str:
        """Return a short text for a second request; empty for an answer that is ok."""
        return self.problem.clarification() if self.problem else ""
