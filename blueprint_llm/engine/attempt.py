"""One try at one target: send, read, check every delta, and prove the end.

Text is emitted as it comes; tool calls leave only complete and valid. Whatever goes wrong leaves as a CallError, after
the upstream was closed.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from blueprint_llm.engine.steps import END, Close, Now, Open, Read, Step, Store
from blueprint_llm.errors import CallError, StreamBrokenError, ToolCallInvalidError
from blueprint_llm.streaming import StreamVerdict, TextDelta, Verdict
from blueprint_llm.types import PartialToolCall, StreamChunk

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from blueprint_llm.adapters import Adapter, Call
    from blueprint_llm.engine.voice import Voice
    from blueprint_llm.streaming import StreamingHandler


BEAT_CHUNKS = 16  # looking at the clock for every chunk would be seen in its time


class Manner(NamedTuple):
    """How one try goes. Times in seconds.

    Attributes:
        until: When the whole answer, or a stream's first token, must be there (the monotonic clock).
        idle_s: How long a stream may be silent after that.
        streamed: Whether the answer is asked for as a stream.
        prefix: Text that has been shown and is to be continued.
        heartbeat: Makes the operation that keeps the reservation, sent every `beat_s`.
    """

    until: float
    idle_s: float
    streamed: bool
    prefix: str = ""
    beat_s: float = float("inf")
    heartbeat: Callable[[], Any] | None = None


class Attempt:
    """One try.

    Attributes:
        sent_at, first_at: When it was sent, and when its first delta came (the monotonic clock).
        raw: LiteLLM's own answer, where it came in one piece.
        seen_chars: How much of an answer had arrived.
    """

    def __init__(
        self, call: Call, adapter: Adapter, handler: StreamingHandler, manner: Manner, voice: Voice | None = None
    ) -> None:
        self.call, self.adapter, self.handler, self.manner, self.voice = call, adapter, handler, manner, voice
        self._provider, self._model = call.provider, call.model
        # A beginning is sent without its trailing white space; the model then writes that again.
        self._overlap = manner.prefix[len(manner.prefix.rstrip()) :]
        self._is_first = True
        self.sent_at = 0.0
        self.first_at: float | None = None
        self.raw: Any = None
        self.seen_chars = 0
        self._beaten_at = 0.0

    def run(self) -> Generator[Step, Any, StreamVerdict]:
        """The verdict on a complete, valid answer. Raises CallError."""
        self.sent_at = self._beaten_at = yield Now()
        verdict = yield from (self._read() if self.manner.streamed else self._whole())
        self._require_sound(verdict)
        if not self.manner.prefix:
            return verdict
        return replace(verdict, text=self.manner.prefix + self._fresh(verdict.text))

    def so_far(self) -> StreamVerdict:
        """What an answer that will not be finished had said."""
        verdict = self.handler.close(ended_by="none")
        return replace(verdict, text=self._fresh(verdict.text))

    def _open(self) -> Generator[Step, Any, Any]:
        step = Open(adapter=self.adapter, call=self.call, stream=self.manner.streamed, until=self.manner.until)
        try:
            return (yield step)
        except TimeoutError:
            pass  # what is raised below must not carry its context: that is LiteLLM's frames, which hold the key
        raise self._late("no answer in time", code="no_response")

    def _whole(self) -> Generator[Step, Any, StreamVerdict]:
        self.raw = yield from self._open()
        yield from self._take(self.raw)
        if self.voice is not None:
            yield from self.voice.recite(lambda: self.raw)
        return self.handler.close(ended_by="terminal")

    def _read(self) -> Generator[Step, Any, StreamVerdict]:
        handle = yield from self._open()
        if self.voice is not None:
            self.voice.handle = handle
        try:
            yield from self._read_all(handle)
        finally:
            yield Close(handle=handle)
        return self.handler.close(usage=handle.usage(), ended_by=handle.ended_by())

    def _read_all(self, handle: Any) -> Generator[Step, Any, None]:
        first = Read(handle=handle, until=self.manner.until)
        later = Read(handle=handle, within_s=self.manner.idle_s)
        for number in itertools.count():
            try:
                chunk = yield (first if self.first_at is None else later)
            except TimeoutError:
                break
            if chunk is END:
                return
            yield from self._take(chunk)
            if self.voice is not None:
                yield from self.voice.hear(chunk)
            if number % BEAT_CHUNKS == 0:
                yield from self._beat()
        raise self._silence()  # outside the handler, as above

    def _take(self, chunk: Any) -> Generator[Step, Any, None]:
        for event in self.handler.feed(chunk):
            if self.first_at is None:
                self.first_at = yield Now()
            shown = self._shown(event)
            if shown is not None and self.voice is not None:
                yield from self.voice.emit(shown)

    def _shown(self, event: Any) -> StreamChunk | None:
        """What the caller sees of an event. Raises ToolCallInvalidError where it is the end of the answer."""
        if isinstance(event, TextDelta):
            self.seen_chars += len(event.text)
            text = self._fresh(event.text) if self._is_first else event.text
            self._is_first = False
            return None if event.choice else StreamChunk(delta=text, provider=self._provider, model=self._model)
        if isinstance(event, PartialToolCall):
            self.seen_chars += len(event.arguments_delta)
            return StreamChunk(tool_call=event, provider=self._provider, model=self._model)
        self._refuse(event)
        return None

    def _fresh(self, text: str) -> str:
        """A continuation without the white space that has been shown before."""
        return text.removeprefix(self._overlap) if self._overlap else text

    def _beat(self) -> Generator[Step, Any, None]:
        now = yield Now()
        if self.manner.heartbeat is not None and now - self._beaten_at > self.manner.beat_s:
            self._beaten_at = now
            yield Store(op=self.manner.heartbeat())

    def _refuse(self, event: Any) -> None:
        if isinstance(event, Verdict) and event.status == "invalid":
            raise ToolCallInvalidError(self._words(event), verdict=event, code=event.code, **self._who())

    def _require_sound(self, verdict: StreamVerdict) -> None:
        if verdict.status in {"ok", "suspect"}:
            return
        first = next((each for each in verdict.verdicts if each.status in {"invalid", "incomplete"}), None)
        if verdict.ended_by != "terminal":
            code = "empty_stream" if self.first_at is None else first.code if first else "missing_finish"
            text = f"{self._name()}: the stream ended without proof of its end"
            raise StreamBrokenError(text, code=code, **self._who())
        code = first.code if first else "malformed"
        raise ToolCallInvalidError(self._words(first), verdict=first, code=code, **self._who())

    def _words(self, verdict: Verdict | None) -> str:
        if verdict is None:
            return f"{self._name()}: the answer is not valid"
        where = f" at {verdict.path}" if verdict.path else ""
        what = f" in the arguments of {verdict.tool!r}{where}" if verdict.tool else where
        return f"{self._name()}: {verdict.code}{what}"

    def _silence(self) -> CallError:
        if self.first_at is None:
            return self._late("no first token in time", code="first_token")
        text = f"{self._name()}: nothing came for {self.manner.idle_s:g} s"
        return StreamBrokenError(text, code="stalled", **self._who())

    def _late(self, what: str, *, code: str) -> CallError:
        return CallError(f"{self._name()}: {what}", category="timeout", code=code, **self._who())

    def _name(self) -> str:
        return f"{self.call.provider} ({self.call.model})"

    def _who(self) -> dict[str, Any]:
        return {"provider": self.call.provider, "model": self.call.model}
