"""LiteLLM's Router's calls of several at once: many models, many requests, or whoever answers first."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Sequence


class Batches(ABC):
    """What a Router does with several calls; each is one of its `acompletion`."""

    @abstractmethod
    async def acompletion(self, model: str, messages: list[Any], **keywords: Any) -> Any:
        """One call."""

    async def abatch_completion(self, models: list[str], messages: list[Any], **keywords: Any) -> list[Any]:
        """One request, or each of a list of requests, to every model, all at once.

        Returns:
            For one request an answer for each model; for a list of them such a list for each. What failed is there
            as its exception.
        """
        is_list = any(isinstance(each, list) for each in messages)
        requests, width = messages if is_list else [messages], len(models)
        answers = await _all(self.acompletion(model, each, **keywords) for each in requests for model in models)
        return [answers[n * width : (n + 1) * width] for n in range(len(requests))] if is_list else answers

    async def abatch_completion_one_model_multiple_requests(
        self, model: str, messages: list[list[Any]], **keywords: Any
    ) -> list[Any]:
        """Every request of a list to one model, all at once; what failed is there as its exception."""
        return await _all(self.acompletion(model, each, **keywords) for each in messages)

    async def abatch_completion_fastest_response(
        self,
        model: str,
        messages: list[Any],
        stream: bool = False,  # noqa: FBT001, FBT002 - LiteLLM's
        **keywords: Any,
    ) -> Any:
        """The first answer of several models, whose names stand in `model` with commas; the other calls are ended.

        Raises:
            Exception: All have failed: what the first model's call raised.
        """
        names = [name.strip() for name in model.split(",")]
        asked = (self.acompletion(name, messages, **{**keywords, "stream": stream}) for name in names)
        calls = [asyncio.create_task(call) for call in asked]
        try:
            answer = await _first(calls)
            await _end(calls, answer)
        except BaseException:
            await _end(calls, None)
            raise
        answer._hidden_params["fastest_response_batch_completion"] = True  # noqa: SLF001 - where LiteLLM says it
        return answer


async def _all(calls: Iterable[Awaitable[Any]]) -> list[Any]:
    """What each call gave, or its exception; who is cancelled waits until they have settled."""
    tasks = [asyncio.create_task(_outcome(call)) for call in calls]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        await _end(tasks, None)
        raise


async def _outcome(call: Awaitable[Any]) -> Any:
    try:
        return await call
    except Exception as error:  # noqa: BLE001 - it is the answer
        return error


async def _first(calls: Sequence[asyncio.Task[Any]]) -> Any:
    """The first answer. Raises what the first of `calls` raised when all have failed."""
    for done in asyncio.as_completed(calls):
        answer = await _outcome(done)
        if not isinstance(answer, Exception):
            return answer
    return await calls[0]


async def _end(calls: Sequence[asyncio.Task[Any]], answer: Any) -> None:
    """End the calls that are on their way and the streams besides `answer`, and wait until they have settled.

    A call is cancelled once only: the second time would hit it while it settles.
    """
    for call in calls:
        if not call.cancelling():
            call.cancel()
    await asyncio.wait(calls)
    for call in calls:
        other: Any = None if call.cancelled() or call.exception() else call.result()
        if other is not answer and hasattr(other, "aclose"):
            await other.aclose()
