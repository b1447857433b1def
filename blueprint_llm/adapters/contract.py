"""What the walk hands to an adapter and gets back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from blueprint_llm.credentials import Credential

EndedBy = Literal["terminal", "invented", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request to one deployment, ready for LiteLLM.

    Attributes:
        provider: The target's name, for errors.
        model: The LiteLLM model id.
        messages: OpenAI dicts.
        params: LiteLLM keywords: the request's and the deployment's.
        credential: The key and the base URL; the key is revealed only inside the adapter.
        timeout_s: What the transport may take until the first byte, and between two reads.
        as_written: LiteLLM's own settings and ways to a key apply, and its exception goes with a CallError.
    """

    provider: str
    model: str
    messages: list[dict[str, Any]] = field(repr=False)
    params: Mapping[str, Any] = field(default_factory=dict, repr=False)
    credential: Credential | None = None
    timeout_s: float = 600.0
    as_written: bool = False


class StreamHandle(Protocol):
    """An open stream, for the sync driver."""

    def read(self) -> Any:
        """The next chunk in OpenAI's shape, or `steps.END`. Raises a CallError."""

    def close(self) -> None:
        """Close the upstream; never raises."""

    def ended_by(self) -> EndedBy:
        """What proves the end, once `read` has answered END."""

    def usage(self) -> Any:
        """The provider's own usage object, or None where it sent none (LiteLLM then makes one up)."""


class AsyncStreamHandle(Protocol):
    """An open stream, for the async driver."""

    async def aread(self) -> Any:
        """The next chunk in OpenAI's shape, or `steps.END`. Raises a CallError."""

    async def aclose(self) -> None:
        """Close the upstream; never raises."""

    def ended_by(self) -> EndedBy:
        """What proves the end, once `aread` has answered END."""

    def usage(self) -> Any:
        """The provider's own usage object, or None where it sent none."""


class Adapter(Protocol):
    """One target's way to its model. Every failure is a CallError without keys, headers or prompt text."""

    provider: str

    @property
    def ready(self) -> bool:
        """Whether `load` has nothing left to do."""

    def load(self) -> None:
        """Import what the first call needs."""

    def complete(self, call: Call) -> Any:
        """A whole answer: LiteLLM's `ModelResponse`."""

    async def acomplete(self, call: Call) -> Any:
        """A whole answer: LiteLLM's `ModelResponse`."""

    def open(self, call: Call) -> StreamHandle:
        """Start a stream."""

    async def aopen(self, call: Call) -> AsyncStreamHandle:
        """Start a stream."""
