"""The embedded model as LiteLLM wants its custom providers: a class of methods that get everything as keywords."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from blueprint_llm.adapters.local import embedded
from blueprint_llm.errors import BlueprintError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


def custom_provider(litellm: Any) -> Any:
    """Return a handler for `litellm.custom_provider_map`; the module is passed, not imported."""

    class Embedded(litellm.CustomLLM):  # type: ignore[misc] # LiteLLM is untyped here
        """The model inside this process, as LiteLLM wants its custom providers."""

        def completion(self, **given: Any) -> Any:
            with _embedded_errors(litellm, given):
                return litellm.ModelResponse(**_embedded(given).complete(_body(given)))

        async def acompletion(self, **given: Any) -> Any:
            with _embedded_errors(litellm, given):
                return litellm.ModelResponse(**await _embedded(given).acomplete(_body(given)))

        def streaming(self, **given: Any) -> Any:
            with _embedded_errors(litellm, given):
                chunks = _embedded(given).stream(_body(given))
                return _EmbeddedStream(lambda: chunks, litellm, given)

        def astreaming(self, **given: Any) -> Any:
            with _embedded_errors(litellm, given):
                # LiteLLM calls this in a thread: only the first read is on the event loop.
                return _EmbeddedStream(partial(_embedded(given).astream, _body(given)), litellm, given)

    return Embedded()


def _embedded(given: Mapping[str, Any]) -> Any:
    return embedded.embedded_model(given["model"])


def _body(given: Mapping[str, Any]) -> dict[str, Any]:
    return {**given["optional_params"], "model": given["model"], "messages": given["messages"]}


@contextlib.contextmanager
def _embedded_errors(litellm: Any, given: Mapping[str, Any]) -> Iterator[None]:
    facts = {"model": given["model"], "llm_provider": "embedded"}
    try:
        yield
    except embedded.ContextOverflow as error:
        raise litellm.ContextWindowExceededError(str(error), **facts) from None
    except embedded.BadRequest as error:
        raise litellm.BadRequestError(str(error), **facts) from None
    except BlueprintError as error:
        raise litellm.ServiceUnavailableError(str(error), **facts) from None


class _EmbeddedStream:
    """The embedded model's chunks as LiteLLM's.

    LiteLLM reads nothing of a custom provider after the finish reason, so the usage behind it is kept here.
    """

    last_usage: Any = None

    def __init__(self, begin: Callable[[], Any], litellm: Any, given: Mapping[str, Any]) -> None:
        self._begin, self._litellm, self._given = begin, litellm, given
        self._begun: Any = None

    @property
    def _chunks(self) -> Any:
        if self._begun is None:
            self._begun = self._begin()
        return self._begun

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        with _embedded_errors(self._litellm, self._given):
            return self._converted(next(self._chunks))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        with _embedded_errors(self._litellm, self._given):
            return self._converted(await anext(self._chunks))

    def _converted(self, chunk: dict[str, Any]) -> Any:
        if usage := chunk.get("usage"):
            self.last_usage = self._litellm.Usage(**usage)
        return self._litellm.ModelResponseStream(**chunk)

    def close(self) -> None:
        """Cancel the generation."""
        self._chunks.close()

    async def aclose(self) -> None:
        """Cancel the generation."""
        if self._begun is not None:
            await self._begun.aclose()
