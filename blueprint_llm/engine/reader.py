"""Read an answer: check every chunk, show what may be shown, and judge the whole at its end.

A whole answer is read as one chunk, a cached one as it once came: one code for all.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from blueprint_llm.adapters.merge import Merger
from blueprint_llm.adapters.views import message_of, reasoning_of
from blueprint_llm.streaming import TextDelta, Verdict
from blueprint_llm.streaming.ending import is_no_end
from blueprint_llm.streaming.judgement import Judgement, judge, judge_early
from blueprint_llm.types import PartialToolCall, StreamChunk, ToolCall, UsageInfo, with_raw

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from blueprint_llm.adapters import EndedBy
    from blueprint_llm.errors import CallError
    from blueprint_llm.streaming import StreamingHandler, StreamVerdict


# Of a delta, what is shown in fields of ours, or held back until it is valid.
SHOWN = frozenset({"content", "tool_calls", "function_call", "reasoning_content", "thinking_blocks"})


class AnswerReader:
    """Reads the answer of one target.

    Args:
        handler: The validator.
        provider: The target's name; `model`: the LiteLLM model id.
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
        for shown in self._read(answer):
            yield self.chunk(**shown)

    def read_whole(self, answer: Any) -> None:
        """Read an answer that came in one piece, and is handed over as one. Raises CallError."""
        for _ in self._read(answer):
            pass

    def _read(self, answer: Any) -> Iterator[dict[str, Any]]:
        for event in self._handler.feed(answer):
            if (shown := self._count(event)) is not None:
                yield shown

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
            shown = self._count(event)
            if shown is not None:
                yield self.chunk(raw, **shown)
                raw = None
        if raw is not None and _says_more(chunk):  # what has no field of ours (audio, images) is not lost
            yield self.chunk(raw)

    def take_aside(self, answer: Any) -> None:
        """Let the validator see what LiteLLM leaves out of a stream: refusals, and ends that it has no word for.

        Args:
            answer: The answer merged, or what was heard of it beside the chunks, in that shape.
        """
        for choice in answer.get("choices") or ():
            refusal = (choice.get("message") or {}).get("refusal")
            native = (choice.get("provider_specific_fields") or {}).get("native_finish_reason")
            end = native if is_no_end(native) else None
            if refusal or end:
                piece = {"index": choice.get("index") or 0, "delta": {"refusal": refusal}, "finish_reason": end}
                self._handler.feed({"choices": [piece]})

    def check(self, chunk: Any) -> bool:
        """Read a stream's chunk that is shown as it is, and only checked here. Raise CallError as `take` does.

        Returns:
            Whether it brings a text, and no call was seen so far.
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

    def close(self, usage: Any, ended_by: EndedBy) -> StreamVerdict:
        """Return the verdict on what was read, sound or not."""
        verdict = self._handler.close(usage=usage, ended_by=ended_by)
        return replace(verdict, text=self._prefix + self.text) if self._prefix else verdict

    def require_sound(self, verdict: StreamVerdict) -> CallError | None:
        """Return what is wrong with an answer that may be handed over all the same: that it is a refusal; else None.

        Raises:
            CallError: It may not be handed over.
        """
        judgement = judge(verdict)
        if judgement.kind != "refused":
            self._raise(judgement)
        return judgement.error(**self.who)

    def _raise(self, judgement: Judgement) -> None:
        if error := judgement.error(**self.who):
            raise error

    def merged(self, usage: Any = None) -> dict[str, Any]:
        """Return the whole answer in `ModelResponse`'s shape, merged from the chunks.

        Args:
            usage: The provider's, for where no chunk has it (any more).
        """
        merger = self._merger or Merger()
        for chunk in self.chunks:
            _merge(merger, chunk)
        whole = merger.whole()
        if usage is not None and not whole.get("usage"):
            whole["usage"] = usage.model_dump() if hasattr(usage, "model_dump") else usage
        return whole


def _merge(merger: Merger, chunk: Any) -> None:
    merger.add(chunk if isinstance(chunk, dict) else chunk.model_dump())


def _deltas_of(chunk: Any) -> list[Any]:
    choices = chunk.get("choices") if isinstance(chunk, dict) else getattr(chunk, "choices", None)
    return [each.get("delta") if isinstance(each, dict) else getattr(each, "delta", None) for each in choices or ()]


def _says_more(chunk: Any) -> bool:
    """Return True if a chunk says what no field of ours shows: of the first answer, or anything of the others."""
    first, *others = _deltas_of(chunk) or [None]
    return any(_filled(other) for other in others) or bool(_filled(first) - SHOWN)


def _filled(delta: Any) -> set[str]:
    said = delta if isinstance(delta, dict) else getattr(delta, "__dict__", None) or {}
    extra = getattr(delta, "model_extra", None) or {}
    return {name for name, value in {**said, **extra}.items() if value} - {"role"}
