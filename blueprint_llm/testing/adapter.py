"""A provider without a socket: the steps of a script, straight at the adapter's place.

It fails as the LiteLLM boundary does, with a `CallError` of the right category, and answers with OpenAI's dicts. What
only exists on a wire has its nearest meaning: a page or a text instead of JSON is a malformed answer.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from blueprint_llm.errors import CallError, Failure, StreamBrokenError
from blueprint_llm.policy import classify, retry_after_s
from blueprint_llm.testing.script import (
    Answer,
    BrokenTool,
    Cut,
    ErrorObject,
    HtmlPage,
    Midway,
    Recorded,
    Refuse,
    Reset,
    Script,
    Stall,
    Status,
    Step,
)
from blueprint_llm.testing.wire import Hang, Pause, closing_chunks, completion, content_chunks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from blueprint_llm.adapters import Call, EndedBy

ERROR_FROM = 400
UNEXPECTED = Status(400, "blueprint_llm.testing: the script did not expect this call")
Part = dict[str, Any] | Pause | Hang | CallError


class ScriptedAdapter:
    """Answer calls by script, in the place of a provider's adapter.

    Args:
        script: One step per call, in order; a function of the `Call`; or a `Script`.
        default: Answers the calls after the last step; None makes such a call an error that `assert_done` reports.
        provider: The provider's name.

    Attributes:
        calls: What was asked.
        streams: What was opened; each tells whether it is `closed`.
    """

    ready = True

    def __init__(
        self,
        script: Script | Iterable[Step] | Callable[[Any], Step] = (),
        *,
        default: Step | None = None,
        provider: str = "scripted",
    ) -> None:
        self.provider = provider
        self.calls: list[Call] = []
        self.streams: list[ScriptedStream] = []
        self._script = script if isinstance(script, Script) else Script(script, default=default)

    def cost_of(self, answer: Any, call: Call) -> float | None:
        """Return None: a scripted answer costs what its price card says."""
        _ = answer, call
        return None

    def load(self) -> None:
        """There is nothing to load."""

    def assert_done(self) -> None:
        """Raise an AssertionError that lists unused steps and unexpected calls, if there are any."""
        self._script.assert_done()

    async def complete(self, call: Call) -> Any:
        """Return a whole answer, as OpenAI's dict. Raise CallError."""
        return await anext(ScriptedStream(_whole(self._next(call), call)))

    async def open(self, call: Call) -> ScriptedStream:
        """Start a stream. Raise CallError."""
        step = self._next(call)
        stream = ScriptedStream(_streamed(step, call))
        if _is_refusal(step):
            await anext(stream)
        self.streams.append(stream)
        return stream

    def _next(self, call: Call) -> Step:
        self.calls.append(call)
        return self._script.next(call, f"{call.provider} ({call.model})") or UNEXPECTED


class ScriptedStream:
    """An open stream of OpenAI's dicts."""

    hidden_params: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, parts: Iterator[Part]) -> None:
        self.closed = False
        self._parts = parts
        self._finished = False
        self._usage: Any = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> dict[str, Any]:
        """Return the next chunk. Raise CallError where the script breaks the stream."""
        for part in self._parts:
            match part:
                case Pause():
                    await asyncio.sleep(part.seconds)
                case Hang():
                    await asyncio.Event().wait()
                case CallError():
                    raise part
                case _:
                    return self._noted(part)
        raise StopAsyncIteration

    def _noted(self, chunk: dict[str, Any]) -> dict[str, Any]:
        self._usage = chunk.get("usage") or self._usage
        self._finished = self._finished or any(choice.get("finish_reason") for choice in chunk.get("choices", ()))
        return chunk

    async def aclose(self) -> None:
        """Note that the engine has closed the upstream."""
        self.closed = True

    def ended_by(self) -> EndedBy:
        """Return what proves the end."""
        return "terminal" if self._finished else "invented"

    def usage(self) -> Any:
        """Return the script's usage, once it was sent."""
        return self._usage

    def as_whole(self, merged: Mapping[str, Any]) -> dict[str, Any]:
        """Return what was merged: a script's chunks lack nothing."""
        return dict(merged)


def _is_refusal(step: Step) -> bool:
    """Whether a provider answers so before a stream begins."""
    return isinstance(step, Status | Refuse) or (isinstance(step, HtmlPage) and step.status >= ERROR_FROM)


def _refusal(step: Step, call: Call) -> Iterator[Part]:
    if isinstance(step, Status):
        yield Pause(step.delay_s)
        yield _status_error(step, call)
    elif isinstance(step, HtmlPage):
        yield _status_error(Status(step.status, "a page instead of an answer"), call)
    else:
        yield _error(call, "the connection was closed", category="unavailable")


def _whole(step: Step, call: Call) -> Iterator[Part]:
    """The one answer, after its waits."""
    match step:
        case _ if _is_refusal(step):
            yield from _refusal(step, call)
        case Answer() | Recorded() | BrokenTool():
            answer = step.answer if isinstance(step, BrokenTool) else step
            yield Pause(answer.delay_s)
            yield completion(answer, _body(call))
        case Stall():
            yield Hang()
        case Cut() | Reset():
            yield _error(call, "the connection broke", category="unavailable")
        case ErrorObject():
            yield _error(call, step.message, category="unavailable")
        case _:
            yield _error(call, "the answer is no JSON", category="malformed", code="not_json")


def _streamed(step: Step, call: Call) -> Iterator[Part]:
    """The chunks of an answer, whole or spoiled on the way; a step without any ends at once."""
    match step:
        case _ if _is_refusal(step):
            yield from _refusal(step, call)
        case Midway():
            yield from itertools.islice(_content(step.answer, call), step.after_chunks * 2)
            yield from _strike(step, call)
        case Answer() | Recorded() | BrokenTool():
            answer = step.answer if isinstance(step, BrokenTool) else step
            yield from _content(answer, call)
            yield from closing_chunks(answer, _body(call))


def _content(answer: Answer | Recorded, call: Call) -> Iterator[Part]:
    """The chunks with a wait before each."""
    waits = itertools.chain([answer.delay_s], itertools.repeat(answer.pace_s))
    for chunk in content_chunks(answer, _body(call)):
        yield Pause(next(waits))
        yield chunk


def _strike(step: Midway, call: Call) -> Iterator[Part]:
    match step:
        case Stall():
            yield Hang()
        case Cut(abrupt=False):
            return
        case ErrorObject():
            yield _broken(call, step.message)
        case _:
            yield _broken(call, "the stream broke")


def _body(call: Call) -> dict[str, Any]:
    return {"model": call.model, "stream_options": {"include_usage": True}}


def _status_error(step: Status, call: Call) -> CallError:
    headers = {name.lower(): value for name, value in step.headers.items()}
    found = classify(Failure(classes=(), status=step.code, message=step.message or "", headers=headers))
    wait_s = retry_after_s(headers, now=time.time())
    words = f"HTTP {step.code}: {step.message or ''}"
    return _error(call, words, category=found.category.name, status=step.code, retry_after_s=wait_s, code=found.code)


def _broken(call: Call, words: str) -> CallError:
    return StreamBrokenError(_named(call, words), provider=call.provider, model=call.model)


def _error(call: Call, words: str, **facts: Any) -> CallError:
    return CallError(_named(call, words), provider=call.provider, model=call.model, **facts)


def _named(call: Call, words: str) -> str:
    return f"{call.provider} ({call.model}): {words}"
