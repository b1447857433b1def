"""A provider without a socket: the steps of a script, straight at the adapter's place.

It fails as the LiteLLM boundary does, with a `CallError` of the right category, and answers with OpenAI's dicts. What
only exists on a wire has its nearest meaning: a page or a text instead of JSON is a malformed answer.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from typing import TYPE_CHECKING, Any

from blueprint_llm.engine.steps import END
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
    from collections.abc import Callable, Iterable, Iterator

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

    def load(self) -> None:
        """There is nothing to load."""

    def assert_done(self) -> None:
        """Raise an AssertionError that lists unused steps and unexpected calls, if there are any."""
        self._script.assert_done()

    def complete(self, call: Call) -> Any:
        """A whole answer, as OpenAI's dict. Raises CallError."""
        return ScriptedStream(_whole(self._next(call), call)).read()

    async def acomplete(self, call: Call) -> Any:
        """A whole answer, as OpenAI's dict. Raises CallError."""
        return await ScriptedStream(_whole(self._next(call), call)).aread()

    def open(self, call: Call) -> ScriptedStream:
        """Start a stream. Raises CallError."""
        step = self._next(call)
        stream = self._stream(step, call)
        if _is_refusal(step):
            stream.read()
        return stream

    async def aopen(self, call: Call) -> ScriptedStream:
        """Start a stream. Raises CallError."""
        step = self._next(call)
        stream = self._stream(step, call)
        if _is_refusal(step):
            await stream.aread()
        return stream

    def _next(self, call: Call) -> Step:
        self.calls.append(call)
        return self._script.next(call, f"{call.provider} ({call.model})") or UNEXPECTED

    def _stream(self, step: Step, call: Call) -> ScriptedStream:
        stream = ScriptedStream(_streamed(step, call))
        if not _is_refusal(step):
            self.streams.append(stream)
        return stream


class ScriptedStream:
    """A handle for either driver."""

    def __init__(self, parts: Iterator[Part]) -> None:
        self.closed = False
        self._parts = parts
        self._interrupted = threading.Event()
        self._finished = False
        self._usage: Any = None

    def read(self) -> Any:
        """The next chunk, or END. Raises CallError."""
        for part in self._parts:
            if not isinstance(part, Pause | Hang):
                return self._give(part)
            if self._interrupted.wait(part.seconds if isinstance(part, Pause) else None):
                break
        return END

    async def aread(self) -> Any:
        """The next chunk, or END. Raises CallError."""
        for part in self._parts:
            if not isinstance(part, Pause | Hang):
                return self._give(part)
            await (asyncio.sleep(part.seconds) if isinstance(part, Pause) else asyncio.Event().wait())
        return END

    def _give(self, part: dict[str, Any] | CallError) -> dict[str, Any]:
        if isinstance(part, CallError):
            raise part
        self._usage = part.get("usage") or self._usage
        self._finished = self._finished or any(choice["finish_reason"] for choice in part["choices"])
        return part

    def interrupt(self) -> None:
        """End a `read` that blocks in another thread."""
        self._interrupted.set()

    def close(self) -> None:
        """Note that the walk has closed the upstream."""
        self.closed = True
        self._interrupted.set()

    async def aclose(self) -> None:
        """Note that the walk has closed the upstream."""
        self.close()

    def ended_by(self) -> EndedBy:
        """What proves the end."""
        return "terminal" if self._finished else "invented"

    def usage(self) -> Any:
        """The script's usage, once it was sent."""
        return self._usage


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
        case Answer() | BrokenTool():
            answer = step if isinstance(step, Answer) else step.answer
            yield Pause(answer.delay_s)
            yield completion(answer, _body(call))
        case Recorded():
            yield dict(step.whole)
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
        case Answer() | BrokenTool():
            answer = step if isinstance(step, Answer) else step.answer
            yield from _content(answer, call)
            yield from closing_chunks(answer, _body(call))
        case Recorded():
            yield from map(dict, step.chunks)


def _content(answer: Answer, call: Call) -> Iterator[Part]:
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
