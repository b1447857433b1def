"""What stands around one LiteLLM call of any endpoint: the contract between the ways in and the engine.

A guard reserves, calls, validates, settles and traces. It changes nothing of what LiteLLM answers: a whole answer comes
back as it is, a stream comes back with the `Watch` that judges its chunks while they pass.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

Send = Callable[..., Awaitable[Any]]
# Set around an attempt of a Router which has other targets for a refused answer (`content_policy_fallbacks`).
REDIRECTS: ContextVar[bool] = ContextVar("blueprint_redirects", default=False)


class Watch(Protocol):
    """Judge one stream while it passes, and book it when it has ended."""

    @property
    def shown(self) -> bool:
        """Return True if something that carries content was handed on: no other answer can take this one's place."""

    def feed(self, chunk: Any) -> Sequence[Any]:
        """Return the chunks that may be handed on now, unchanged and in order.

        Raises:
            BlueprintError: The answer cannot become valid any more.
        """

    def finish(self) -> Sequence[Any]:
        """Return the rest of a stream that has ended.

        Raises:
            BlueprintError: The answer is not valid, or nothing proves that it is complete.
        """

    async def settle(self, error: BaseException | None) -> None:
        """Book the call, once, however it ended; a cancellation does not interrupt it and nothing is raised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A stream of LiteLLM's that was just opened, and what watches it."""

    stream: Any
    watch: Watch


@runtime_checkable
class Guard(Protocol):
    """The policies of one configuration around single calls."""

    async def call(self, operation: str, send: Send, keywords: dict[str, Any]) -> Any:
        """Make one call of LiteLLM's function `operation`.

        Args:
            operation: LiteLLM's name of the function, such as `acompletion` or `embedding`.
            send: Calls it with keywords. A blocking function runs in the thread that waits for it.
            keywords: The caller's keywords; an attempt of LiteLLM's Router has `model_info` and `metadata` in them.

        Returns:
            LiteLLM's answer itself; for a stream a `Watched`.

        Raises:
            BlueprintError: A limit refused the call, or the answer is not valid.
            Exception: What LiteLLM raised.
        """
