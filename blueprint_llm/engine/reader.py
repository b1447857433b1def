"""Read an answer: check every chunk, show what may be shown, and judge the whole at its end.

A whole answer is read as one chunk, a cached one as it once came: one code for all.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from blueprint_llm.adapters.merge import Merger
from blueprint_llm.adapters.views import message_of, reasoning_of, usage_info
from blueprint_llm.streaming import Judgement, TextDelta, Verdict, judge, judge_early
from blueprint_llm.streaming.verdict import end_of
from blueprint_llm.types import PartialToolCall, StreamChunk, ToolCall, UsageInfo, with_raw

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from blueprint_llm.adapters import EndedBy
    from blueprint_llm.errors import CallError
    from blueprint_llm.streaming import StreamingHandler, StreamVerdict


class AnswerReader:
    """Reads the answer of one target.

    Args:
        handler: The validator.
        provider, model: Whose answer it is.
        prefix: Text that was shown before and is continued.
        keeps_chunks: Somebody wants a stream's chunks later, the cache above all; else they are merged as they come,
            which holds a hundredth of the memory.

    Attributes:
        text: What the first choice said so far.
        seen_chars: How much has arrived, reasoning and arguments included.
        chunks: LiteLLM's own chunks, where they are kept.
    """

    def __init__(
        self, handler: StreamingHandler, *, provider: str, model: str, prefix: str = "", keeps_chunks: bool = True
    ) -> None:
        self._handler, self._provider, self._model, self._prefix = handler, provider, model, prefix
        self._merger = None if keeps_chunks else Merger()
        # A beginning is sent without its trailing white space; the model then writes that again.
        self._overlap = prefix[len(prefix.rstrip()) :]
        self.text = ""
        self.seen_chars = 0
        self.chunks: list[Any] = []

    @property
    def who(self) -> dict[str, Any]:
        """Whose answer it is, for errors."""
        return {"provider": self._provider, "model": self._model}

    @property
    def name(self) -> str:
        """Whose answer it is, in words."""
        return f"{self._provider} ({self._model})"

    def take_whole(self, answer: Any) -> Iterator[StreamChunk]:
        """Read an answer that came in one piece; a stream's caller sees it as few chunks. Raises CallError."""
        if reasoning := reasoning_of(message_of(answer)):
            yield self.chunk(reasoning=reasoning)
        for event in self._handler.feed(answer):
            if (shown := self._count(event)) is not None:
                yield self.chunk(**shown)

    def read_whole(self, answer: Any) -> None:
        """Read an answer that came in one piece, and is handed over as one. Raises CallError."""
        for event in self._handler.feed(answer):
            self._count(event)

    def take(self, chunk: Any) -> Iterator[StreamChunk]:
        """Read a stream's chunk and yield what the caller may see of it; the first carries LiteLLM's own chunk.

        Raises:
            CallError: From here on no valid answer is possible.
        """
        if self._merger is None:
            self.chunks.append(chunk)
        else:
            _merge(self._merger, chunk)
        raw = chunk
        if reasoning := reasoning_of(next(iter(_deltas_of(chunk)), None)):
            self.seen_chars += len(reasoning)
            yield self.chunk(raw, reasoning=reasoning)
            raw = None
        for event in self._handler.feed(chunk):
            if (shown := self._count(event)) is not None:
                yield self.chunk(raw, **shown)
                raw = None
        if raw is not None and any(map(_says_anything, _deltas_of(chunk))):
            yield self.chunk(raw)  # what has no field of ours (sound, signatures, other answers) is not lost

    def take_aside(self, answer: Any) -> None:
        """Let the validator see what LiteLLM leaves out of a stream: refusals, and ends that it has no word for.

        `answer` is the answer merged, or what was heard of it beside the chunks, in that shape.
        """
        for choice in answer.get("choices") or ():
            refusal = (choice.get("message") or {}).get("refusal")
            native = (choice.get("provider_specific_fields") or {}).get("native_finish_reason")
            end = native if end_of(native) != "done" else None
            if refusal or end:
                piece = {"index": choice.get("index") or 0, "delta": {"refusal": refusal}, "finish_reason": end}
                self._handler.feed({"choices": [piece]})

    def check(self, chunk: Any) -> bool:
        """Read a stream's chunk that is shown as it is, and only checked here. Raise CallError as `take` does.

        Return True if it brings a text, and no call was seen so far.
        """
        self.chunks.append(chunk)
        has_text = False
        for event in self._handler.feed(chunk):
            if isinstance(event, TextDelta):
                self.seen_chars += len(event.text)
                has_text = True
            else:
                self._count(event)
        return has_text and not self._handler.has_calls

    def chunk(self, raw: Any = None, **fields: Any) -> StreamChunk:
        """Return a chunk of ours, with LiteLLM's at `.raw`."""
        chunk = StreamChunk(provider=self._provider, model=self._model, **fields)
        return chunk if raw is None else with_raw(chunk, raw)

    def final_chunk(self, usage: UsageInfo | None, tool_calls: Sequence[ToolCall]) -> StreamChunk:
        """Return the one chunk with `is_done`."""
        return self.chunk(is_done=True, usage=usage, tool_calls=tuple(tool_calls))

    def _count(self, event: Any) -> dict[str, Any] | None:
        """Note what an event brought and return what is shown of it. Raise CallError for what ends the answer."""
        match event:
            case PartialToolCall():
                self.seen_chars += len(event.arguments_delta)
                return {"tool_call": event}
            case TextDelta():
                self.seen_chars += len(event.text)
                if event.choice:  # the other answers of `n` are in the whole
                    return None
                text = event.text.removeprefix(self._overlap) if self._overlap else event.text
                self._overlap = ""
                self.text += text
                return {"delta": text}
            case Verdict() if (early := judge_early(event)) is not None:
                self._raise(early)
        return None

    def close(self, usage: Any, ended_by: EndedBy) -> tuple[StreamVerdict, CallError | None]:
        """Return the verdict on what was read; with it a refusal's error, which may be handed over all the same.

        Raises:
            CallError: The answer is not valid.
        """
        verdict = self._handler.close(usage=usage, ended_by=ended_by)
        if self._prefix:
            verdict = replace(verdict, text=self._prefix + self.text)
        judgement = judge(verdict)
        if judgement.kind != "refused":
            self._raise(judgement)
        return verdict, judgement.error(**self.who)

    def _raise(self, judgement: Judgement) -> None:
        if error := judgement.error(**self.who):
            raise error

    def merged(self, usage: Any = None) -> dict[str, Any]:
        """Return the whole answer in `ModelResponse`'s shape; `usage` is for where no chunk has it (any more)."""
        merger = self._merger or Merger()
        for chunk in self.chunks:
            _merge(merger, chunk)
        whole = merger.whole()
        if usage is not None and not whole.get("usage"):
            whole["usage"] = usage.model_dump() if hasattr(usage, "model_dump") else usage
        return whole


class Answer:
    """What has come of the answer of one call.

    Attributes:
        reader: Who reads it.
        first_at: When its first piece came (the monotonic clock, seconds).
        came: LiteLLM's own object, where it came in one piece.
        told: LiteLLM's usage object.
        as_whole: Makes LiteLLM's whole answer of the merged chunks of a stream.
        hidden: What LiteLLM keeps beside a whole answer, where an adapter is not asked for that.
        is_text: It is priced by its tokens.
    """

    reader: AnswerReader
    first_at: float | None = None
    came: Any = None
    told: Any = None
    as_whole: Callable[[dict[str, Any]], Any] | None = None
    hidden: Mapping[str, Any] = MappingProxyType({})
    is_text = True
    _verdict: StreamVerdict | None = None
    _counted: tuple[Any, UsageInfo | None] = (None, None)

    @property
    def usage(self) -> UsageInfo | None:
        """What was used, by the provider."""
        if self._counted[0] is not self.told:
            self._counted = self.told, usage_info(self.told)
        return self._counted[1]

    @property
    def seen_chars(self) -> int:
        """How much of it has arrived."""
        return self.reader.seen_chars

    @property
    def verdict(self) -> StreamVerdict | None:
        """What the validator says of it, once it may be handed over."""
        return self._verdict

    def judge(self, ended_by: EndedBy) -> tuple[StreamVerdict, CallError | None]:
        """Judge it at its end, see `AnswerReader.close`."""
        self._verdict, refusal = self.reader.close(self.usage if self.told is not None else None, ended_by)
        return self._verdict, refusal

    def whole(self) -> Any:
        """Return it as it came, or merged from its chunks."""
        if self.came is None and self.as_whole is not None:
            self.came = self.as_whole(self.reader.merged(self.told))
        return self.came

    priced = whole  # what LiteLLM counts its cost by


def _merge(merger: Merger, chunk: Any) -> None:
    merger.add(chunk if isinstance(chunk, dict) else chunk.model_dump())


def _deltas_of(chunk: Any) -> list[Any]:
    choices = chunk.get("choices") if isinstance(chunk, dict) else getattr(chunk, "choices", None)
    return [each.get("delta") if isinstance(each, dict) else getattr(each, "delta", None) for each in choices or ()]


def _says_anything(delta: Any) -> bool:
    said = delta if isinstance(delta, dict) else getattr(delta, "__dict__", None) or {}
    extra = getattr(delta, "model_extra", None) or {}
    return any(value for name, value in {**said, **extra}.items() if name != "role")
