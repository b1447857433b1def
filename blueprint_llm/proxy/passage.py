"""One attempt of LiteLLM's at a deployment, as a walk of ours: what it opens and reads, LiteLLM brings."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from blueprint_llm.credentials import CredentialsManager
from blueprint_llm.drivers import AsyncDriver, Outcome
from blueprint_llm.pipeline import Walk
from blueprint_llm.steps import Now, Open, Read, Step
from blueprint_llm.types import ChatResponse

if TYPE_CHECKING:
    from blueprint_llm.adapters import Call
    from blueprint_llm.parts import Parts
    from blueprint_llm.routing import Target
    from blueprint_llm.types import ChatRequest


class NoKeys(CredentialsManager):
    """Reads no key: LiteLLM's proxy holds them. What stands for a key in the cache's keys is as ever."""

    def get(self, *_: Any, **__: Any) -> Any:
        """Nothing."""

    def is_slow(self, *_: Any, **__: Any) -> bool:
        """Nothing is fetched."""
        return False


class AnyProvider(dict[str, Any]):
    """Adapters by provider, for providers that nobody can list: LiteLLM makes every call."""

    ready = True

    def get(self, *_: Any) -> Any:
        """Always the same."""
        return self


class Attempt(Walk):
    """A walk to the one target that LiteLLM's Router has chosen; retries and fallbacks are the Router's."""

    def __init__(self, request: ChatRequest, parts: Parts, target: Target, *, stream: bool) -> None:
        super().__init__(request, parts, stream=stream)
        self.target, self.forced = target, True  # the Router leaves failing deployments alone, the breaker only counts

    def run(self) -> Generator[Step, Any, Any]:
        """The answer, a `ChatResponse`. Raises BlueprintError."""
        self.started = yield Now()
        self.deadline = self.started + self.parts.config.deadline.total_s
        outcome = yield from self._visit(self.target, others=0)
        if isinstance(outcome, ChatResponse):
            return outcome
        raise self.failures[-1]


class Passage:
    """A walk in the hands of LiteLLM's hooks.

    Attributes:
        pending: The step whose result LiteLLM is to bring; None: the walk has ended.
    """

    def __init__(self, walk: Attempt) -> None:
        self._outcome = Outcome()
        self._steps = AsyncDriver(walk.parts.store).iterate(walk.run(), self._outcome, (Open, Read))
        self.pending: Open | Read | None = None

    async def begin(self) -> Call | None:
        """What LiteLLM is to send; None: the answer is there already. Raises BlueprintError."""
        await self.give(None)
        return self.pending.call if isinstance(self.pending, Open) else None

    async def give(self, result: Any) -> None:
        """Go on with what LiteLLM brought, which may be an exception. Raises BlueprintError."""
        self.pending = None
        try:
            step = await self._steps.asend(result)
            while not isinstance(step, Open | Read):
                step = await self._steps.asend(None)
        except StopAsyncIteration:
            return
        self.pending = step

    async def abandon(self) -> None:
        """Close what is open and settle what was spent; nothing happens to a walk that has ended."""
        self.pending = None
        await self._steps.aclose()

    @property
    def response(self) -> ChatResponse:
        """The answer of a walk that has ended well."""
        response: ChatResponse = self._outcome.value
        return response
