"""LiteLLM's other functions (`embedding`, ...) at a Router's deployments: its routing, nothing of the rest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial, partialmethod
from typing import TYPE_CHECKING, Any

from blueprint_llm.adapters import router as boundary
from blueprint_llm.compat.failures import both, litellm_failure
from blueprint_llm.compat.requests import sealed
from blueprint_llm.engine.dispatch import passed_call
from blueprint_llm.engine.drivers import AsyncDriver, SyncDriver
from blueprint_llm.engine.explain import plan
from blueprint_llm.engine.steps import Act
from blueprint_llm.errors import BlueprintError, CallError, NoTargetError

if TYPE_CHECKING:
    from blueprint_llm.adapters import Call
    from blueprint_llm.engine.parts import Parts
    from blueprint_llm.engine.pipeline import Steps
    from blueprint_llm.types import ChatRequest


# What may be given by position behind the model; the other functions take an `input`.
_POSITIONAL = {"text_completion": ("prompt",), "image_edit": ("image", "prompt")}


class OtherFunctions(ABC):
    """LiteLLM's other functions as methods of its Router."""

    @abstractmethod
    def _asked(self, model: str, keywords: dict[str, Any], **more: Any) -> tuple[Parts, ChatRequest]:
        """The parts and the request of one call."""

    def _pass(self, function: str, model: str, *args: Any, **keywords: Any) -> Any:
        """Call LiteLLM's `function` at a deployment of `model`."""
        parts, request = self._asked(model, sealed(keywords), **_behind(function, args))
        return SyncDriver(parts.store).run(passed(parts, function, request))

    async def _apass(self, function: str, model: str, *args: Any, **keywords: Any) -> Any:
        """Call LiteLLM's `function` at a deployment of `model`."""
        parts, request = self._asked(model, sealed(keywords), **_behind(function, args))
        return await AsyncDriver(parts.store).run(passed(parts, function, request))

    text_completion = partialmethod(_pass, "text_completion")
    atext_completion = partialmethod(_apass, "text_completion")
    embedding = partialmethod(_pass, "embedding")
    aembedding = partialmethod(_apass, "embedding")
    aimage_edit = partialmethod(_apass, "image_edit")
    amoderation = partialmethod(_apass, "moderation")
    arerank = partialmethod(_apass, "rerank")
    responses = partialmethod(_pass, "responses")
    aresponses = partialmethod(_apass, "responses")

    # LiteLLM's Router has an order of its own for these.

    def image_generation(self, prompt: str, model: str, **keywords: Any) -> Any:
        """Call LiteLLM's `image_generation` at a deployment of `model`."""
        return self._pass("image_generation", model, prompt=prompt, **keywords)

    async def aimage_generation(self, prompt: str, model: str, **keywords: Any) -> Any:
        """Call LiteLLM's `aimage_generation` at a deployment of `model`."""
        return await self._apass("image_generation", model, prompt=prompt, **keywords)

    async def aspeech(self, model: str, input: str, voice: str | None = None, **keywords: Any) -> Any:  # noqa: A002 - LiteLLM's name
        """Call LiteLLM's `aspeech` at a deployment of `model`, whose own voice speaks where none is given."""
        own = {} if voice is None else {"voice": voice}
        return await self._apass("speech", model, input=input, **own, **keywords)

    async def atranscription(self, file: Any, model: str, **keywords: Any) -> Any:
        """Call LiteLLM's `atranscription` at a deployment of `model`."""
        return await self._apass("transcription", model, file=file, **keywords)


def _behind(function: str, args: tuple[Any, ...]) -> dict[str, Any]:
    """What was given by position behind the model."""
    return dict(zip(_POSITIONAL.get(function, ("input",)), args, strict=False))


def passed(parts: Parts, function: str, request: ChatRequest) -> Steps:
    """What LiteLLM's `function` returns at the first deployment that answers. Raises LiteLLM's exceptions."""
    try:
        return (yield from _first_answer(parts, function, request))
    except CallError as error:
        failure = litellm_failure(error, first=True)
    except BlueprintError as error:
        failure = both(error)
    raise failure


def _first_answer(parts: Parts, function: str, request: ChatRequest) -> Steps:
    route = yield from plan(parts, request)
    first: BlueprintError = NoTargetError([row.model_dump() for row in route.considered])
    for number, target in enumerate(route.targets):
        try:
            return (yield _act(function, passed_call(parts, request, target)))
        except CallError as error:
            first = error if number == 0 else first
            if not error.row.next_target:
                break
    raise first


def _act(function: str, call: Call) -> Act:
    return Act(
        blocking=partial(boundary.passed, function, call), awaiting=partial(boundary.apassed, f"a{function}", call)
    )
