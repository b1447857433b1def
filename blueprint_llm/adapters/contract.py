"""What the engine hands to an adapter and gets back: one call, one answer or one open stream, all of it awaited."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from blueprint_llm.credentials import Credential

EndedBy = Literal["terminal", "invented", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request to one deployment, ready for LiteLLM."""

    provider: str  # the target's name, for errors
    model: str  # the LiteLLM model id
    messages: list[dict[str, Any]] = field(repr=False)
    params: Mapping[str, Any] = field(default_factory=dict, repr=False)  # the request's and the deployment's keywords
    credential: Credential | None = None  # the key is revealed only inside the adapter
    timeout_s: float = 600.0  # what the transport may take until the first byte, and between two reads
    counted_tokens: int | None = None  # the prompt by LiteLLM's counter; None where its bytes alone showed that it fits


class StreamHandle(Protocol):
    """An open stream: iterate over it for LiteLLM's own chunks, then ask what proves its end."""

    @property
    def hidden_params(self) -> Mapping[str, Any]:
        """What LiteLLM keeps beside the chunks: headers, the deployment, the cost."""

    def __aiter__(self) -> AsyncIterator[Any]: ...

    async def __anext__(self) -> Any:
        """Return the next chunk, in OpenAI's shape. Raise CallError if the stream breaks."""

    def ended_by(self) -> EndedBy:
        """Return what proves the end, once the iteration is over."""

    def usage(self) -> Any:
        """Return the provider's own usage object, or None where it sent none for the whole (LiteLLM makes one up)."""

    def as_whole(self, merged: Mapping[str, Any]) -> dict[str, Any]:
        """Return the merged chunks (`Merger.whole`) as the same answer has them that came in one piece.

        LiteLLM's chunks lack some of what the provider sent: parts of a refusal, signatures, fields that nobody knows,
        details of the usage.
        """

    async def aclose(self) -> None:
        """Close the upstream. Never raise; closing twice is harmless."""


class Adapter(Protocol):
    """One target's way to its model. Every failure is a CallError without keys, headers or prompt text."""

    provider: str

    @property
    def ready(self) -> bool:
        """Whether `load` has nothing left to do."""

    def load(self) -> None:
        """Import what the first call needs; takes seconds, so never on an event loop."""

    async def complete(self, call: Call) -> Any:
        """Return a whole answer: LiteLLM's `ModelResponse`."""

    async def open(self, call: Call) -> StreamHandle:
        """Start a stream."""

    def cost_of(self, answer: Any, call: Call) -> float | None:
        """Return what an answer cost in USD, or None where that is unknown."""
