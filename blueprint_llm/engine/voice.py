"""What the caller of a stream is shown, in our chunks or in LiteLLM's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blueprint_llm.engine.steps import Emit
from blueprint_llm.streaming.chunks import fields, sequence
from blueprint_llm.types import StreamChunk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from blueprint_llm.errors import BlueprintError

CALLS = ("tool_calls", "function_call")


class Voice:
    """What the caller has been shown; a restart is announced right before the first chunk of the new try.

    Only then is it sure that the trouble was recovered: an error is either in a chunk or raised, never both.

    Attributes:
        verbatim: Whether the provider's own chunks are what the caller is shown; then nothing can be taken back.
        handle: The stream that is being read.
    """

    verbatim = False

    def __init__(self) -> None:
        self.spoken = False
        self.handle: Any = None
        self._void: BlueprintError | None = None

    def broken(self, error: BlueprintError) -> None:
        """What was emitted so far is void because of `error`."""
        if self.spoken:
            self._void = error

    def emit(self, chunk: StreamChunk) -> Iterable[Emit]:
        """Hand out `chunk`."""
        if self._void is not None:
            yield Emit(chunk=StreamChunk(error=self._void, restart=True, provider=chunk.provider, model=chunk.model))
            self._void = None
        self.spoken = True
        yield Emit(chunk=chunk)

    def hear(self, chunk: Any) -> Iterable[Emit]:  # noqa: ARG002 - what the other voice passes on
        """Take a provider's own chunk."""
        return ()

    def recite(self, whole: Callable[[], Any]) -> Iterable[Emit]:  # noqa: ARG002 - likewise
        """Take a provider's own answer that came in one piece, from its maker."""
        return ()


class VerbatimVoice(Voice):
    """Passes on the provider's own chunks, unchanged and in order.

    Held back are tool calls and everything behind them until the answer is complete and valid, an end until it is
    proven, and a beginning that says nothing yet: until then a failed try can be made again unnoticed.

    Args:
        wants_usage: The caller asked for the usage; else it was only asked for by us, and is dropped.
    """

    verbatim = True

    def __init__(self, *, wants_usage: bool) -> None:
        super().__init__()
        self._wants_usage = wants_usage
        self._held: list[Any] = []
        self._has_calls = False

    def broken(self, error: BlueprintError) -> None:  # noqa: ARG002 - raised, never shown
        """Forget what was held back of the failed try."""
        self._held.clear()
        self._has_calls = False

    def emit(self, chunk: StreamChunk) -> Iterable[Emit]:
        """At the end of a valid answer, let go of what was held back."""
        return self._released() if chunk.is_done else ()

    def hear(self, chunk: Any) -> Iterable[Emit]:
        """Hold `chunk`, or hand it out behind what was held before it."""
        says, ends = self._says(chunk)
        if not self._wants_usage and getattr(chunk, "usage", None) is not None:
            if not (says or ends):
                return ()
            chunk.usage = None
        self._held.append(chunk)
        return self._released() if says and not self._has_calls else ()

    def recite(self, whole: Callable[[], Any]) -> Iterable[Emit]:
        """Hold the answer as one chunk."""
        from blueprint_llm.adapters import litellm as _litellm  # noqa: PLC0415 - LiteLLM loads on the first call, not on import

        return self.hear(_litellm.as_chunk(whole()))

    def _says(self, chunk: Any) -> tuple[bool, bool]:
        """Whether a chunk says something, and whether it ends a choice."""
        says = ends = False
        for choice in sequence(fields(chunk).get("choices")):
            part = fields(choice)
            delta = fields(part.get("delta"))
            items = delta.items() if isinstance(delta, dict) else ()
            said = {name for name, value in items if value and name != "role"}
            self._has_calls = self._has_calls or not said.isdisjoint(CALLS)
            says, ends = says or bool(said), ends or bool(part.get("finish_reason"))
        return says, ends

    def _released(self) -> Iterator[Emit]:
        self.spoken = self.spoken or bool(self._held)
        for chunk in self._held:
            yield Emit(chunk=chunk)
        self._held.clear()
