"""Say what an answer is: an answer, refused, cut, or wrong; the same for whole and for streamed ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from blueprint_llm.errors import AnswerInvalidError, CallError, StreamBrokenError, ToolCallInvalidError

if TYPE_CHECKING:
    from blueprint_llm.streaming.verdict import StreamVerdict, Verdict

Kind = Literal["answer", "refused", "cut", "invalid_call", "invalid_answer", "broken"]

_WRONG = frozenset({"invalid", "incomplete"})
# Findings that no call and no text is to blame for.
_OF_THE_STREAM = frozenset({"error_object", "bad_chunk", "missing_finish", "empty_stream"})
# With several answers, the first of these that one of them is; they are handed over together or not at all.
_ANY_IS_ENOUGH: tuple[Kind, ...] = ("broken", "invalid_call", "invalid_answer")
# Else the first that one of them is: a refused one spoils no good one.
_BEST_FIRST: tuple[Kind, ...] = ("answer", "cut", "refused")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What an answer is.

    Attributes:
        kind: `answer` and `cut` (a limit ended it, it calls nothing) are handed over; `refused` is, where no fallbacks
            for content policy are given; the others are errors.
        code: The finer name: of the finding that decided, else `ok`.
        first: That finding.
        warnings: What was odd and taken all the same.
    """

    kind: Kind
    code: str = "ok"
    first: Verdict | None = None
    warnings: tuple[Verdict, ...] = ()

    def error(self, *, provider: str | None, model: str | None) -> CallError | None:
        """Return the error that this judgement is; None for what is handed over."""
        name, code = f"{provider} ({model})", self.code
        match self.kind:
            case "answer" | "cut":
                return None
            case "refused":
                text = f"{name}: the provider refused to answer ({code})"
                return CallError(text, category="content_policy", code=code, provider=provider, model=model)
            case "broken":
                text = f"{name}: the stream ended without proof of its end ({code})"
                return StreamBrokenError(text, code=code, provider=provider, model=model)
        kind = ToolCallInvalidError if self.kind == "invalid_call" else AnswerInvalidError
        return kind(f"{name}: {_words(self)}", verdict=self.first, code=code, provider=provider, model=model)


def judge(verdict: StreamVerdict) -> Judgement:
    """Return what an answer is; with several answers in one (`n`), what they are together."""
    warnings = tuple(each for each in verdict.verdicts if each.status not in _WRONG)
    broken = next((each for each in verdict.verdicts if each.status in _WRONG and each.code in _OF_THE_STREAM), None)
    judged = [_judge_one(each) for each in verdict.choices or (verdict,)]
    if broken is not None and not any(each.kind == "refused" for each in judged):
        return Judgement(kind="broken", code=broken.code, first=broken, warnings=warnings)
    kinds = [each.kind for each in judged]
    kind = next(each for each in (*_ANY_IS_ENOUGH, *_BEST_FIRST) if each in kinds)
    found = judged[kinds.index(kind)]
    return Judgement(kind=kind, code=found.code, first=found.first, warnings=warnings)


def judge_early(verdict: Verdict) -> Judgement | None:
    """Return the judgement that a finding in mid-stream decides, since nothing that follows mends it; else None."""
    if verdict.status != "invalid":
        return None
    kind: Kind = "invalid_answer" if verdict.call_index is None else "invalid_call"
    return Judgement(kind=kind, code=verdict.code, first=verdict)


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
        kind: Kind = "refused" if verdict.why == "refused" else "broken"
    elif of_calls:
        kind, found = "invalid_call", first
    elif verdict.why == "cut":
        kind, found = "cut", next((each for each in verdict.verdicts if each.code == "truncated_length"), None)
    elif wrong:
        kind, found = "invalid_answer", first
    else:
        kind, found = "answer", None
    return Judgement(kind=kind, code=found.code if found else "ok", first=found)


def _words(judgement: Judgement) -> str:
    verdict = judgement.first
    if verdict is None:
        return "the answer is not valid"
    where = f" at {verdict.path}" if verdict.path else ""
    what = f" in the arguments of {verdict.tool!r}" if verdict.tool else ""
    expected = f", expected {verdict.expected}" if verdict.expected else ""
    return f"{verdict.code}{what}{where}{expected}"
