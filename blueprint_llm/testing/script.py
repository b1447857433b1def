"""What a test double answers: one small frozen step per request, in a script that notices what was not asked for.

A fault in the middle of an answer wraps the `Answer` that it spoils. Its chunks are the pieces of the answer's text
and tool calls; in an answer that is not streamed, "the middle" is the middle of its JSON. Both doubles send an answer
in OpenAI's shape: whole, or as the chunks of a stream with the waits before them.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import deque
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

CREATED = 1_700_000_000
ARGUMENT_CHARS = 8
# The wording varies: LiteLLM gives up on a stream after 100 identical chunks.
DEFAULT_TEXT = "The quick brown fox jumps over the lazy dog."


def numbered_text(words: int) -> str:
    """A text of that many different words, each of them one chunk."""
    return " ".join(f"word{number}" for number in range(words))


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request as the double saw it.

    Attributes:
        at: When its body was complete, in seconds of `time.monotonic`.
        closed_early_at: When the client went away before the reply was written; None if it stayed.
    """

    method: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    body: dict[str, Any]
    at: float
    closed_early_at: float | None = None


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A tool call in an answer; a string of arguments is sent as it is, valid or not."""

    name: str
    arguments: str | Mapping[str, Any] = "{}"
    _: KW_ONLY
    id: str | None = None

    @property
    def wire_arguments(self) -> str:
        """The arguments as the model would have written them."""
        return self.arguments if isinstance(self.arguments, str) else json.dumps(self.arguments)


@dataclass(frozen=True, slots=True)
class Answer:
    """A good answer.

    Attributes:
        usage: (prompt, completion) tokens, or the whole object in OpenAI's shape; None: the provider sends none.
        finish_reason: None means the natural one.
        chunk_chars: Length of a chunk; None cuts text into words and arguments into pieces of 8.
        delay_s: Wait before the first byte.
        pace_s: Wait before each chunk after the first.
        model: None answers with the model that was asked for.
        done: Whether the stream ends with `[DONE]`.
    """

    text: str = DEFAULT_TEXT
    _: KW_ONLY
    tool_calls: tuple[ToolUse, ...] = ()
    usage: tuple[int, int] | Mapping[str, Any] | None = (12, 9)
    finish_reason: str | None = None
    chunk_chars: int | None = None
    delay_s: float = 0.0
    pace_s: float = 0.0
    model: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    done: bool = True

    @property
    def ending(self) -> str:
        """The finish reason that is sent."""
        return self.finish_reason or ("tool_calls" if self.tool_calls else "stop")


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a provider once sent, passed on as it is: `whole` to a plain request, `chunks` to one for a stream.

    The request's path says in which format: OpenAI's, Anthropic's, Gemini's or Ollama's.
    """

    whole: Mapping[str, Any] = field(default_factory=dict)
    chunks: tuple[Mapping[str, Any], ...] = ()
    _: KW_ONLY
    delay_s: float = 0.0
    pace_s: float = 0.0
    headers: Mapping[str, str] = field(default_factory=dict)
    done: bool = True


@dataclass(frozen=True, slots=True)
class Status:
    """An HTTP error in OpenAI's shape, unless `body` is given."""

    code: int
    message: str | None = None
    _: KW_ONLY
    type: str | None = None
    error_code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str | Mapping[str, Any] | None = None
    delay_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Midway:
    """A fault after so many chunks of an answer."""

    after_chunks: int = 1
    _: KW_ONLY
    answer: Answer | Recorded = field(default_factory=Answer)


@dataclass(frozen=True, slots=True)
class Cut(Midway):
    """The connection ends in mid-answer: cleanly, as if all were said, or `abrupt`, inside the transfer encoding."""

    abrupt: bool = False


@dataclass(frozen=True, slots=True)
class Reset(Midway):
    """The connection is reset (RST) in mid-answer; what the client's system has not taken by then is lost."""


@dataclass(frozen=True, slots=True)
class Stall(Midway):
    """Nothing more is sent, and the connection stays open."""


@dataclass(frozen=True, slots=True)
class BadLine(Midway):
    """One line of the stream is no JSON; the rest follows."""

    line: str = '{"choices": [{"delta": {"content'


@dataclass(frozen=True, slots=True)
class ErrorObject(Midway):
    """An error object, under HTTP 200, ends the answer."""

    message: str = "The server had an error while processing your request."
    type: str = "server_error"
    code: str | int | None = None


@dataclass(frozen=True, slots=True)
class Empty:
    """HTTP 200 and nothing in it; a stream says only `[DONE]`."""


@dataclass(frozen=True, slots=True)
class HtmlPage:
    """The page of some proxy on the way."""

    status: int = 502


@dataclass(frozen=True, slots=True)
class NotJson:
    """HTTP 200 with a body that is no JSON."""

    body: str = "upstream connect error"


@dataclass(frozen=True, slots=True)
class Refuse:
    """The connection is closed without a byte."""


@dataclass(frozen=True, slots=True)
class BrokenTool:
    """A tool call whose arguments are no JSON: as the model wrote them, or cut (`finish_reason="length"`)."""

    arguments: str = '{"city": "Par'
    _: KW_ONLY
    name: str = "get_weather"
    finish_reason: str = "tool_calls"

    @property
    def answer(self) -> Answer:
        """The answer that carries the call."""
        return Answer("", tool_calls=(ToolUse(self.name, self.arguments),), finish_reason=self.finish_reason)


_Fault = Cut | Reset | Stall | BadLine | ErrorObject
Step = Answer | Recorded | Status | _Fault | Empty | HtmlPage | NotJson | Refuse | BrokenTool
Answering = Answer | Recorded | BrokenTool | Midway  # the steps that give an answer, or spoil one
KINDS: dict[str, Callable[..., Any]] = {kind.__name__: kind for kind in Step.__args__}


class Script:
    """The steps that a double will answer with, and what went otherwise than written.

    Args:
        steps: One per request, in order; or a function of the request, which answers them all.
        default: Answers the requests after the last step; None makes such a request an error.
    """

    def __init__(self, steps: Iterable[Step] | Callable[[Any], Step] = (), *, default: Step | None = None) -> None:
        self._respond = steps if callable(steps) else None
        self._queue: deque[Step] = deque() if callable(steps) else deque(steps)
        self._default = default
        self._complaints: list[str] = []

    def add(self, *steps: Step) -> None:
        """Append steps."""
        self._queue.extend(steps)

    def next(self, request: Any, name: str) -> Step | None:
        """The step for `request`, which complaints call `name`; None when it was not expected."""
        if self._respond is not None:
            try:
                return self._respond(request)
            except Exception as error:  # noqa: BLE001 - a test's own function; assert_done reports what it raised
                self._complaints.append(f"the script's function raised {error!r} on: {name}")
                return None
        if self._queue:
            return self._queue.popleft()
        if self._default is None:
            self._complaints.append(f"not expected, the script was used up: {name}")
        return self._default

    def assert_done(self) -> None:
        """Raise an AssertionError that lists unused steps and unexpected requests, if there are any."""
        wrong = [*self._complaints, *(f"not used: {step!r}" for step in self._queue)]
        if wrong:
            raise AssertionError("the script and the requests differ:\n  " + "\n  ".join(wrong))


def load_script(path: Path) -> Script:
    """A script from JSON: `{"steps": [{"step": "Status", "code": 429}], "default": {"step": "Answer"}}`.

    Raises:
        ValueError: It names an unknown step or field.
    """
    document = json.loads(path.read_text(encoding="utf-8"))
    default = document.get("default")
    return Script(map(step_from, document.get("steps", ())), default=default and step_from(default))


def step_from(fields: Mapping[str, Any]) -> Step:
    """The step that a JSON object describes. Raises ValueError on an unknown step or field."""
    values = {key: value for key, value in fields.items() if key != "step"}
    if "answer" in values:
        values["answer"] = step_from({"step": "Answer", **values["answer"]})
    if "tool_calls" in values:
        values["tool_calls"] = tuple(ToolUse(**call) for call in values["tool_calls"])
    kind = KINDS.get(fields.get("step", ""))
    if kind is None:
        raise ValueError(f"unknown step in {dict(fields)!r}; known are {', '.join(KINDS)}")
    try:
        step: Step = kind(**values)
    except TypeError as error:
        raise ValueError(f"{fields['step']}: {error}") from None
    return step


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait before the next part."""

    seconds: float


def answer_of(step: Answering) -> Answer | Recorded:
    """Return the answer that a step gives or spoils."""
    return step if isinstance(step, Answer | Recorded) else step.answer


def completion(step: Answering, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the whole answer: in OpenAI's shape, or as it was recorded."""
    answer = answer_of(step)
    if isinstance(answer, Recorded):
        return dict(answer.whole)
    message: dict[str, Any] = {"role": "assistant", "content": answer.text or None}
    if answer.tool_calls:
        message["tool_calls"] = [_tool_call(answer, number) for number in range(len(answer.tool_calls))]
    choice = {"index": 0, "message": message, "finish_reason": answer.ending}
    usage = {} if answer.usage is None else {"usage": _usage(answer)}
    return {**_stamp(answer, body, "chat.completion"), "choices": [choice], **usage}


def stream(step: Answering, body: Mapping[str, Any]) -> Iterator[Pause | dict[str, Any] | Midway]:
    """Yield what happens while an answer is streamed: waits, chunks, and at its place the fault that spoils it."""
    answer = answer_of(step)
    pause, chunks = Pause(answer.pace_s), enumerate(_content(answer, body))
    parts = (part for n, chunk in chunks for part in ((pause, chunk) if n else (chunk,)))
    yield Pause(answer.delay_s)
    if isinstance(step, Midway):
        yield from itertools.islice(parts, max(0, 2 * step.after_chunks - 1))
        yield step
        if not isinstance(step, BadLine):
            return
    yield from parts
    yield from _closing(answer, body)


def _content(answer: Answer | Recorded, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The chunks that carry text and tool calls; all that were recorded."""
    if isinstance(answer, Recorded):
        yield from map(dict, answer.chunks)
        return
    stamp, role = _stamp(answer, body, "chat.completion.chunk"), {"role": "assistant"}
    for delta in _deltas(answer):
        yield {**stamp, "choices": [{"index": 0, "delta": {**role, **delta}, "finish_reason": None}]}
        role = {}


def _deltas(answer: Answer) -> Iterator[dict[str, Any]]:
    for piece in _pieces(answer.text, answer.chunk_chars):
        yield {"content": piece}
    for number, call in enumerate(answer.tool_calls):
        yield {"tool_calls": [{"index": number, **_tool_call(answer, number, "")}]}
        for piece in _pieces(call.wire_arguments, answer.chunk_chars or ARGUMENT_CHARS):
            yield {"tool_calls": [{"index": number, "function": {"arguments": piece}}]}


def _pieces(text: str, chars: int | None) -> Iterator[str]:
    if chars is None:
        return iter(re.findall(r"\S+\s*|\s+", text))
    return (text[start : start + chars] for start in range(0, len(text), chars))


def _closing(answer: Answer | Recorded, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The chunk with the finish reason, and the usage where it was asked for; a recording has its own."""
    if isinstance(answer, Recorded):
        return
    stamp = _stamp(answer, body, "chat.completion.chunk")
    yield {**stamp, "choices": [{"index": 0, "delta": {}, "finish_reason": answer.ending}]}
    if (body.get("stream_options") or {}).get("include_usage") and answer.usage is not None:
        yield {**stamp, "choices": [], "usage": _usage(answer)}


def _stamp(answer: Answer, body: Mapping[str, Any], kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-scripted", "object": kind, "created": CREATED, "model": answer.model or body.get("model")}


def _tool_call(answer: Answer, number: int, arguments: str | None = None) -> dict[str, Any]:
    call = answer.tool_calls[number]
    function = {"name": call.name, "arguments": call.wire_arguments if arguments is None else arguments}
    return {"id": call.id or f"call_{number}", "type": "function", "function": function}


def _usage(answer: Answer) -> dict[str, Any]:
    if isinstance(answer.usage, tuple):
        prompt, completion = answer.usage
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return dict(answer.usage or {})
