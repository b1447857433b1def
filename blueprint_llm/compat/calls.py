"""LiteLLM's `completion` and `acompletion` over the parts of one configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blueprint_llm.compat.failures import litellm_failure
from blueprint_llm.compat.requests import request_of, sealed
from blueprint_llm.compat.streams import AsyncCompletionStream, CompletionStream, opened
from blueprint_llm.engine.drivers import AsyncDriver, Outcome, SyncDriver
from blueprint_llm.engine.pipeline import Steps, Walk
from blueprint_llm.errors import BlueprintError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blueprint_llm.engine.parts import Parts
    from blueprint_llm.engine.voice import Voice
    from blueprint_llm.types import ChatRequest


class Completions:
    """Calls in LiteLLM's form: its keywords in, its own objects and exceptions out, the walk in between.

    Args:
        parts: The configuration and the parts made from it.
        first_error: Where every target failed, raise the first attempt's exception, as LiteLLM's Router does; else
            the last one's, as its `completion` does.
    """

    def __init__(self, parts: Parts, *, first_error: bool = False) -> None:
        self._parts, self._first = parts, first_error

    def completion(self, **keywords: Any) -> Any:
        """A `ModelResponse`, with `stream=True` an iterator of `ModelResponseStream`. Raises LiteLLM's exceptions."""
        return self.answer(request_of(sealed(keywords)))

    async def acompletion(self, **keywords: Any) -> Any:
        """A `ModelResponse`, with `stream=True` an async iterator. Raises LiteLLM's exceptions."""
        return await self.aanswer(request_of(sealed(keywords)))

    def answer(self, *requests: ChatRequest) -> Any:
        """What `completion` returns, to the first of `requests` of LiteLLM's form that can be answered."""
        driver, turn = SyncDriver(self._parts.store), _Turn(self._parts, requests, first=self._first)
        if turn.streams:
            return CompletionStream(driver.iterate(turn.run(), turn.outcome), turn)
        return driver.run(turn.run())

    async def aanswer(self, *requests: ChatRequest) -> Any:
        """What `acompletion` returns, to the first of `requests` of LiteLLM's form that can be answered."""
        driver, turn = AsyncDriver(self._parts.store), _Turn(self._parts, requests, first=self._first)
        if turn.streams:
            return await opened(AsyncCompletionStream(driver.iterate(turn.run(), turn.outcome), turn))
        return await driver.run(turn.run())

    def close(self) -> None:
        """Release the stores."""
        self._parts.close()


class _Turn:
    """One call: a walk for each of its requests, until one is answered."""

    def __init__(self, parts: Parts, requests: Sequence[ChatRequest], *, first: bool) -> None:
        self._parts, self._requests, self._first = parts, requests, first
        self.streams = bool(requests[0].params.get("stream"))
        self.outcome = Outcome()
        self._voice: Voice | None = None

    @property
    def hidden_params(self) -> dict[str, Any]:
        """LiteLLM's facts beside a stream, and at its end `blueprint`: the trace."""
        own: dict[str, Any] = getattr(self._voice and self._voice.handle, "hidden_params", {})
        return own if self.outcome.value is None else {**own, "blueprint": self.outcome.value.trace}

    def run(self) -> Steps:
        """LiteLLM's own whole answer, or ours at the end of a stream. Raises LiteLLM's exceptions."""
        failures: list[Exception] = []
        for request in self._requests:
            try:
                return (yield from self._answered(request))
            except BlueprintError as error:
                spoken = self._voice is not None and self._voice.spoken
                failures.append(litellm_failure(error, first=self._first and not spoken))
            if spoken:
                break
        raise failures[-1]  # outside the handler: without a context

    def _answered(self, request: ChatRequest) -> Steps:
        walk = Walk(self._parts.complete_request(request), self._parts, stream=self.streams)
        self._voice = walk.voice
        response = yield from walk.run()
        if self.streams:
            return response
        raw = response.raw
        raw._hidden_params["blueprint"] = response.trace  # noqa: SLF001 - where LiteLLM keeps such facts
        return raw
