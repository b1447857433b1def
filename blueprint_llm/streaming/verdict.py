"""What the validator says: of one call or text (`Verdict`), of a whole answer, and what that makes of it (`judge`).

`ok` verdicts are warnings about what was odd and taken without loss.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from blueprint_llm.errors import AnswerInvalidError, CallError, StreamBrokenError, ToolCallInvalidError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from blueprint_llm.types import ToolCall, UsageInfo

Status = Literal["ok", "invalid", "incomplete", "suspect"]
DecidedBy = Literal["syntax", "schema", "protocol", "finish", "limit"]
EndedBy = Literal["terminal", "invented", "none"]
Why = Literal["done", "cut", "refused", "broken"]
Kind = Literal["answer", "refused", "cut", "invalid_call", "invalid_answer", "broken"]

# Codes by what decides them. All others are of the schema (`schema_type`, `schema_enum`, `schema_required`,
# `schema_unknown_property`, `schema_<keyword>`, `schema_unusable`, `unknown_tool`) or of the syntax (`expected_key`,
# `expected_value`, `expected_colon`, `expected_comma_or_end`, `extra_data`, `bad_literal`, `bad_number`,
# `invalid_escape`, `control_char_in_string`, `lone_surrogate`, `duplicate_key`, `number_overflow`, `root_not_object`).
_CODES: dict[DecidedBy, str] = {
    "limit": "too_deep too_large number_too_long runaway_whitespace too_many_calls",
    "finish": "truncated_length content_filter missing_finish empty_stream unclosed_json",
    "protocol": "concatenated_objects ambiguous_calls missing_name missing_tool_call empty_arguments empty_answer "
    "tool_call_in_content bad_chunk error_object "
    # Warnings only.
    "split_by_id split_by_name index_inferred id_missing id_changed id_repeated name_resent name_joined "
    "duplicate_resend cumulative_resend arguments_object passed_through text_beside_call reasoning_in_text",
}
_DECIDED_BY = {code: kind for kind, codes in _CODES.items() for code in codes.split()}
NOT_RETRIABLE = frozenset({"content_filter", "schema_unusable"})
_SEVERITY: tuple[Status, ...] = ("ok", "suspect", "incomplete", "invalid")

# What a finish reason says of the end, where it is more than that the answer is done: a limit cut it, the model or its
# provider refused, or it was given up, by the server or because what the model wrote was no call.
_REASONS: dict[Why, str] = {
    "cut": "length max_tokens max_output_tokens model_length model_context_window_exceeded",
    "refused": "content_filter content_filtered safety recitation blocklist prohibited_content refusal sensitive spii "
    "guardrail_intervened language error_toxic escalation image_safety image_prohibited_content image_recitation",
    "broken": "error error_limit abort aborted cancelled canceled user_cancel network_error "
    "insufficient_system_resource malformed_function_call malformed_response unexpected_tool_call "
    "too_many_tool_calls missing_thought_signature",
}
_ENDS = {reason: why for why, reasons in _REASONS.items() for reason in reasons.split()}
_LITELLMS_CUTS = frozenset({"length", "max_tokens", "model_context_window_exceeded"})  # of which it makes "length"
CALLED = frozenset({"tool_calls", "function_call", "tool_use"})  # reasons that announce calls

# Beginnings of a call in the formats that servers parse; a name or a closing mark may follow.
_MARKS = (
    *("<tool_call>", "[TOOL_CALLS]", "<function=", "<function_calls>", "<invoke name=", "<minimax:tool_call>"),
    *("<|python_tag|>", "<|tool_call", "<｜tool▁call", "<｜DSML｜", "<|channel|>commentary to="),
)
_IS_CALL = re.compile(
    r"""\s*\[?\s*\{\s*(?:"type"\s*:\s*"function"\s*,\s*)?"name"\s*:\s*"[^"]+"\s*,\s*"(?:arguments|parameters)"\s*:"""
).match

_WRONG = frozenset({"invalid", "incomplete"})
# Findings that no call and no text is to blame for.
_OF_THE_STREAM = frozenset({"error_object", "bad_chunk", "missing_finish", "empty_stream"})
# Several answers are the first of these that one of them is: they are handed over together or not at all, and a cut or
# refused one spoils no good one.
_OF_SEVERAL: tuple[Kind, ...] = ("broken", "invalid_call", "invalid_answer", "answer", "cut", "refused")


def decided_by(code: str) -> DecidedBy:
    """Return what kind of rule a code belongs to."""
    is_of_schema = code.startswith("schema_") or code == "unknown_tool"
    return _DECIDED_BY.get(code, "schema" if is_of_schema else "syntax")


def worst(verdicts: Iterable[Verdict]) -> Status:
    """Return the gravest status among verdicts."""
    return max((verdict.status for verdict in verdicts), key=_SEVERITY.index, default="ok")


def end_of(reason: str | None) -> Why:
    """Return what a finish reason says of the end. It proves little: cut calls are said to be `tool_calls`, too."""
    return _ENDS.get((reason or "").lower(), "done")


def is_lost(reason: str | None) -> bool:
    """Return True if LiteLLM writes "stop" though the answer was given up, or cut by a limit it does not know."""
    return end_of(reason) == "broken" or (end_of(reason) == "cut" and (reason or "").lower() not in _LITELLMS_CUTS)


def leaks_call(text: str, names: Iterable[str]) -> bool:
    """Return True if a text looks like a tool call that the server's parser missed. Such calls are never parsed."""
    if any(map(text.__contains__, _MARKS)) or _IS_CALL(text):
        return True
    any_name = "|".join(map(re.escape, names))
    return bool(any_name) and re.search(rf'[{{,]\s*"(?:name|tool|tool_name)"\s*:\s*"(?:{any_name})"', text) is not None


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
    """The verdict on a whole answer. `judge` says what to do about it.

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What an answer is.

    Attributes:
        kind: `answer` and `cut` (a limit ended it, it calls nothing) are handed over; `refused` is, where no fallbacks
            for content policy are given; the others are errors.
        first: The finding that decided.
    """

    kind: Kind
    first: Verdict | None = None

    @property
    def code(self) -> str:
        """The finer name: of the finding that decided, else `ok`."""
        return self.first.code if self.first else "ok"

    def error(self, *, provider: str | None, model: str | None) -> CallError | None:
        """Return the error that this judgement is; None for what is handed over."""
        who: dict[str, Any] = {"code": self.code, "provider": provider, "model": model}
        name = f"{provider} ({model})"
        match self.kind:
            case "answer" | "cut":
                return None
            case "refused":
                text = f"{name}: the provider refused to answer ({self.code})"
                return CallError(text, category="content_policy", **who)
            case "broken":
                more = ": nothing of an answer came, check the address" if self.code == "empty_stream" else ""
                text = f"{name}: the stream ended without proof of its end ({self.code}){more}"
                return StreamBrokenError(text, **who)
        error = ToolCallInvalidError if self.kind == "invalid_call" else AnswerInvalidError
        return error(f"{name}: {self._words()}", verdict=self.first, **who)

    def _words(self) -> str:
        verdict = self.first
        if verdict is None:
            return "the answer is not valid"
        what = f" in the arguments of {verdict.tool!r}" if verdict.tool else ""
        where = f" at {verdict.path}" if verdict.path else ""
        return f"{self.code}{what}{where}{f', expected {verdict.expected}' if verdict.expected else ''}"


def judge(verdict: StreamVerdict) -> Judgement:
    """Return what an answer is; with several answers in one (`n`), what they are together."""
    broken = next((each for each in verdict.verdicts if each.status in _WRONG and each.code in _OF_THE_STREAM), None)
    judged = [_judge_one(each) for each in verdict.choices or (verdict,)]
    if broken is not None and not any(each.kind == "refused" for each in judged):
        return Judgement(kind="broken", first=broken)
    return min(judged, key=lambda each: _OF_SEVERAL.index(each.kind))


def judge_early(verdict: Verdict) -> Judgement | None:
    """Return the judgement that a finding in mid-stream decides, since nothing that follows mends it; else None."""
    if verdict.status != "invalid":
        return None
    return Judgement(kind="invalid_answer" if verdict.call_index is None else "invalid_call", first=verdict)


def _judge_one(verdict: StreamVerdict) -> Judgement:
    """Judge one answer: why it ended first, then its calls, then its text.

    A refused or broken answer is that whatever stands in it. Calls come before the text since a schema binds only
    answers that call nothing; so what a limit cut is handed over only without calls.
    """
    wrong = [each for each in verdict.verdicts if each.status in _WRONG]
    of_calls = [each for each in wrong if each.call_index is not None or each.code == "missing_tool_call"]
    first = next(iter(of_calls or wrong), None)
    if verdict.why in {"refused", "broken"}:
        found = next((each for each in verdict.verdicts if each.decided_by == "finish"), first)
        return Judgement(kind="refused" if verdict.why == "refused" else "broken", first=found)
    if of_calls:
        return Judgement(kind="invalid_call", first=first)
    if verdict.why == "cut":
        cut = (each for each in verdict.verdicts if each.code == "truncated_length")
        return Judgement(kind="cut", first=next(cut, None))
    return Judgement(kind="invalid_answer" if wrong else "answer", first=first)
