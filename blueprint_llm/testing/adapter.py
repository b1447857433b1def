"""A provider without a socket: the steps of a script, straight at the adapter's place.

It fails as the LiteLLM boundary does, with a `CallError` of the right category, and answers with OpenAI's dicts. What
only exists on a wire has its nearest meaning: a page or a text instead of JSON is a malformed answer.
"""

from __future__ import annotations

import asyncio
import time
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from blueprint_llm.errors import CallError, Failure, StreamBrokenError
from blueprint_llm.policy.classification import classify, retry_after_s
from blueprint_llm.testing import script as on
from blueprint_llm.testing.script import Answering, Pause, Script, Status, Step, answer_of, completion, stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from blueprint_llm.adapters import Call, EndedBy

ERROR_FROM = 400
Part = dict[str, Any] | Pause | on.Stall | CallError
UNEXPECTED = Status(400, "blueprint_llm.testing: the script did not expect this call")


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
        match step := await self._next(call):
            case on.Stall():
                await asyncio.Event().wait()
            case on.Cut() | on.Reset():
                raise _error(call, "the connection broke", category="unavailable")
            case on.ErrorObject():
                raise _error(call, step.message, category="unavailable")
            case on.Answer() | on.Recorded() | on.BrokenTool():
                await asyncio.sleep(answer_of(step).delay_s)
                return completion(step, _body(call))
        raise _error(call, "the answer is no JSON", category="malformed", code="not_json")

    async def open(self, call: Call) -> ScriptedStream:
        """Start a stream. Raise CallError."""
        step = await self._next(call)
        self.streams.append(ScriptedStream(_parts(step, call)))
        return self.streams[-1]

    async def _next(self, call: Call) -> Step:
        """Return the step for a call. Raise CallError where a provider says so before an answer begins."""
        self.calls.append(call)
        step = self._script.next(call, f"{call.provider} ({call.model})") or UNEXPECTED
        match step:
            case on.Refuse():
                raise _error(call, "the connection was closed", category="unavailable")
            case on.HtmlPage() if step.status >= ERROR_FROM:
                raise _status_error(Status(step.status, "a page instead of an answer"), call)
            case Status():
                await asyncio.sleep(step.delay_s)
                raise _status_error(step, call)
        return step


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
                case on.Stall():
                    await asyncio.Event().wait()
                case CallError():
                    raise part
                case _:
                    self._usage = part.get("usage") or self._usage
                    self._finished = self._finished or any(
                        each.get("finish_reason") for each in part.get("choices", ())
                    )
                    return part
        raise StopAsyncIteration

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


def _parts(step: Step, call: Call) -> Iterator[Part]:
    """What a stream reads, a fault in the middle as the error that it is; a clean cut, or no answer, just ends it."""
    for part in stream(step, _body(call)) if isinstance(step, Answering) else ():
        match part:
            case on.Cut(abrupt=False):
                return
            case on.Midway() if not isinstance(part, on.Stall):
                words = part.message if isinstance(part, on.ErrorObject) else "the stream broke"
                yield _error(call, words, StreamBrokenError)
            case _:
                yield part


def _body(call: Call) -> dict[str, Any]:
    return {"model": call.model, "stream_options": {"include_usage": True}}


def _status_error(step: Status, call: Call) -> CallError:
    headers = {name.lower(): value for name, value in step.headers.items()}
    found = classify(Failure(classes=(), status=step.code, message=step.message or "", headers=headers))
    wait_s = retry_after_s(headers, now=time.time())
    words = f"HTTP {step.code}: {step.message or ''}"
    return _error(call, words, category=found.category, status=step.code, retry_after_s=wait_s, code=found.code)


def _error(call: Call, words: str, kind: type[CallError] = CallError, **facts: Any) -> CallError:
    return kind(f"{call.provider} ({call.model}): {words}", provider=call.provider, model=call.model, **facts)
