"""One attempt of LiteLLM's at a deployment, as a walk of ours: what it opens and reads, LiteLLM brings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blueprint_llm.credentials import CredentialsManager
from blueprint_llm.engine.drivers import AsyncDriver, Outcome
from blueprint_llm.engine.pipeline import Walk
from blueprint_llm.engine.steps import Now, Open, Read, Step
from blueprint_llm.errors import BlueprintError
from blueprint_llm.types import ChatResponse

if TYPE_CHECKING:
    from collections.abc import Generator

    from blueprint_llm.engine.parts import Parts
    from blueprint_llm.routing.targets import Target
    from blueprint_llm.types import ChatRequest


class NoKeys(CredentialsManager):
    """Reads no key: LiteLLM's proxy holds them. What stands for a key in the cache's keys is as ever."""

    def get(self, *_: Any, **__: Any) -> Any:
        """Nothing."""

    def is_slow(self, *_: Any, **__: Any) -> bool:
        """Nothing is fetched."""
        return False


class DeploymentWalk(Walk):
    """A walk to the one target that LiteLLM's Router has chosen; retries and fallbacks are the Router's."""

    def __init__(self, request: ChatRequest, parts: Parts, target: Target, *, stream: bool) -> None:
        super().__init__(request, parts, stream=stream)
        self.target, self.forced = target, True  # the Router leaves failing deployments alone, the breaker only counts

    def run(self) -> Generator[Step, Any, Any]:
        """The answer, a `ChatResponse`. Raises BlueprintError."""
        self.began = self.started = yield Now()
        self.deadline = self.started + self.parts.config.deadline.total_s
        outcome = yield from self._visit(self.target, others=())
        if isinstance(outcome, ChatResponse):
            return outcome
        raise self.failures[-1]


class Passage:
    """A walk in the hands of LiteLLM's hooks.

    Attributes:
        call: What LiteLLM is to send; None: nothing, the answer is there.
        pending: The step whose result LiteLLM is to bring; None: the walk has ended.
        error: Why it ended badly.
    """

    def __init__(self, walk: DeploymentWalk) -> None:
        self._outcome = Outcome()
        self._steps = AsyncDriver(walk.parts.store).iterate(walk.run(), self._outcome, (Open, Read))
        self.call: Any = None
        self.pending: Open | Read | None = None
        self.error: BlueprintError | None = None

    async def begin(self) -> None:
        """Go as far as what LiteLLM is to send, or to the answer that is there already. Raises BlueprintError."""
        await self.give(None)
        self.call = self.pending.call if isinstance(self.pending, Open) else None

    async def give(self, result: Any) -> None:
        """Go on with what LiteLLM brought, which may be an exception. Raises BlueprintError."""
        self.pending = None
        try:
            step = await self._steps.asend(result)
            while not isinstance(step, Open | Read):
                step = await self._steps.asend(None)  # what is shown of a stream are LiteLLM's own chunks
            self.pending = step
        except StopAsyncIteration:
            pass
        except BlueprintError as error:
            self.error = error
            raise

    async def abandon(self) -> None:
        """Close what is open and settle what was spent; nothing happens to a walk that has ended."""
        self.pending = None
        await self._steps.aclose()

    @property
    def response(self) -> ChatResponse:
        """The answer of a walk that has ended well."""
        response: ChatResponse = self._outcome.value
        return response
