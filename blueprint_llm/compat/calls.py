"""LiteLLM's `completion` and `acompletion` over the parts of one configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blueprint_llm.compat.failures import litellm_failure
from blueprint_llm.compat.requests import request_of, sealed
from blueprint_llm.compat.streams import NOTHING, AsyncCompletionStream, CompletionStream
from blueprint_llm.drivers import AsyncDriver, Outcome, SyncDriver
from blueprint_llm.errors import BlueprintError
from blueprint_llm.pipeline import Steps, Walk

if TYPE_CHECKING:
    from blueprint_llm.parts import Parts
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
        """A `ModelResponse`, or with `stream=True` an iterator of `ModelResponseStream`. Raises LiteLLM's exceptions."""
        return self.answer(request_of(sealed(keywords)))

    async def acompletion(self, **keywords: Any) -> Any:
        """A `ModelResponse`, or with `stream=True` an async iterator. Raises LiteLLM's exceptions."""
        return await self.aanswer(request_of(sealed(keywords)))

    def answer(self, request: ChatRequest) -> Any:
        """What `completion` returns, to a request of LiteLLM's form."""
        walk, driver, outcome = self._walk(request), SyncDriver(self._parts.store), Outcome()
        steps = self._steps(walk)
        if walk.voice is None:
            return driver.run(steps)
        return CompletionStream(driver.iterate(steps, outcome), walk.voice, outcome)

    async def aanswer(self, request: ChatRequest) -> Any:
        """What `acompletion` returns, to a request of LiteLLM's form."""
        walk, driver, outcome = self._walk(request), AsyncDriver(self._parts.store), Outcome()
        steps = self._steps(walk)
        if walk.voice is None:
            return await driver.run(steps)
        chunks = driver.iterate(steps, outcome)
        return AsyncCompletionStream(chunks, walk.voice, outcome, await anext(chunks, NOTHING))

    def _walk(self, request: ChatRequest) -> Walk:
        return Walk(self._parts.complete_request(request), self._parts, stream=bool(request.params.get("stream")))

    def _steps(self, walk: Walk) -> Steps:
        """The walk, with LiteLLM's answer (whole) or ours (of a stream) at its end."""
        try:
            response = yield from walk.run()
        except BlueprintError as error:
            spoken = walk.voice is not None and walk.voice.spoken
            failure = litellm_failure(error, first=self._first and not spoken)
        else:
            if walk.voice is not None:
                return response
            raw = response.raw
            raw._hidden_params["blueprint"] = response.trace  # noqa: SLF001 - where LiteLLM keeps such facts
            return raw
        raise failure
