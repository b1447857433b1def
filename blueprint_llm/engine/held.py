"""Hold back of a stream of LiteLLM's chunks what may not be shown yet; the rest goes on unchanged and in order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blueprint_llm.streaming.chunks import fields, sequence

if TYPE_CHECKING:
    from collections.abc import Mapping

    from blueprint_llm.streaming.chunks import Attributes

CALLS = frozenset({"tool_calls", "function_call"})


class HeldBack:
    """The chunks of one stream that wait.

    Tool calls and everything behind them wait until the answer is complete and valid, an end waits until it is proven,
    and a beginning that says nothing waits for what follows: until then another try can be made unnoticed.

    Args:
        wants_usage: The caller asked for the usage; else it was only asked for by us, and is dropped.

    Attributes:
        shown: Something that carries content was handed on.
    """

    def __init__(self, *, wants_usage: bool) -> None:
        self.shown = False
        self._wants_usage = wants_usage
        self._waiting: list[Any] = []
        self._has_calls = False

    def add(self, chunk: Any, *, is_text: bool = False) -> list[Any]:
        """Take a chunk; return those that may be handed on now. `is_text`: it is known to bring a text alone."""
        facts = fields(chunk)
        if is_text and not self._waiting and facts.get("usage") is None:
            self.shown = True
            return [chunk]
        says, ends = self._says(facts)
        if not self._wants_usage and facts.get("usage") is not None:
            if not (says or ends):
                return []
            chunk.usage = None
        self._waiting.append(chunk)
        if not says or self._has_calls:
            return []
        self.shown = True
        return self.rest()

    def rest(self) -> list[Any]:
        """Return everything that waits."""
        released, self._waiting = self._waiting, []
        return released

    def _says(self, chunk: Mapping[str, Any] | Attributes) -> tuple[bool, bool]:
        """Return whether a chunk says something, and whether it ends a choice."""
        says = ends = False
        for choice in sequence(chunk.get("choices")):
            part = fields(choice)
            delta = fields(part.get("delta"))
            items = delta.items() if isinstance(delta, dict) else ()
            said = {name for name, value in items if value and name != "role"}
            self._has_calls = self._has_calls or not said.isdisjoint(CALLS)
            says, ends = says or bool(said), ends or bool(part.get("finish_reason"))
        return says, ends
