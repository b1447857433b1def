"""One JSON text that is checked while it arrives: the arguments of a call, or a structured answer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from blueprint_llm.streaming.machine import JsonMachine, JsonRejected
from blueprint_llm.streaming.text import Text
from blueprint_llm.streaming.tokens import MAX_BLANKS
from blueprint_llm.streaming.whole import Declined, parse_whole

if TYPE_CHECKING:
    from blueprint_llm.streaming.schema_check import CompiledSchema

_BLANKS = " \t\n\r"


class Document:
    """Text, machine and schema together; `value` is what the text says, once it is `complete`.

    A text that comes in one piece goes through the C parser; the machine only explains what that declines.
    """

    __slots__ = ("_any_root", "_blanks", "_machine", "complete", "rest", "schema", "text", "value", "whole")

    def __init__(self, schema: CompiledSchema | None = None, *, any_root: bool = False) -> None:
        self.schema, self._any_root = schema, any_root
        self.text = Text()
        self.whole = ""
        self.rest = ""  # what followed the complete value within the same piece
        self.value: Any = None
        self.complete = False
        self._blanks = 0
        self._machine: JsonMachine | None = None

    def feed(self, piece: str) -> None:
        """Take the next piece. Raises JsonRejected."""
        machine = self._machine
        if machine is None:
            self._begin(piece)
            return
        try:
            machine.feed(piece)
        except JsonRejected as error:
            if machine.complete:
                self._part(piece, error.offset - self.text.length)
            raise
        self.text.add(piece)
        if machine.complete:
            self._finish()

    def _begin(self, piece: str) -> None:
        """Take a piece without a machine: there was nothing yet, or the value is complete."""
        if self.complete:
            self._trail(piece)
        elif not self._parsed(piece):
            schema = self.schema.machine() if self.schema is not None else None
            self._machine = JsonMachine(any_root=self._any_root, schema=schema)
            self.feed(piece)

    def close(self) -> None:
        """Say that nothing follows. Raises JsonRejected when the value is not whole."""
        if not self.complete:
            machine = self._machine or JsonMachine(any_root=self._any_root)
            machine.close()
            self._finish()

    def _parsed(self, piece: str) -> bool:
        """Return True if the piece is a whole, sound document."""
        if piece.rstrip(_BLANKS)[-1:] not in {"}", "]"}:
            return False
        try:
            value = parse_whole(piece, any_root=self._any_root)
        except Declined:
            return False
        if self.schema is not None and self.schema.mismatch(value):
            return False  # the machine says where
        self.text.add(piece)
        self.whole, self.value, self.complete = piece, value, True
        return True

    def _part(self, piece: str, end: int) -> None:
        self.text.add(piece[:end])
        self.rest = piece[end:]
        self._finish()

    def _finish(self) -> None:
        self.whole = self.text.value()
        self.value, self.complete = json.loads(self.whole), True
        self._machine = None
        self.recheck(self.schema)

    def recheck(self, schema: CompiledSchema | None) -> None:
        """Hold the complete value against `schema`. Raises JsonRejected."""
        self.schema = schema
        wrong = schema.mismatch(self.value) if schema is not None else None
        if wrong:
            raise JsonRejected(wrong.code, max(0, len(self.whole) - 1), path=wrong.path, expected=wrong.expected)

    def _trail(self, piece: str) -> None:
        """Take what follows the value: only blanks may, and not for ever."""
        blanks = len(piece) - len(piece.lstrip(_BLANKS))
        offset = len(self.whole) + self._blanks
        self._blanks += blanks
        if self._blanks > MAX_BLANKS:
            raise JsonRejected("runaway_whitespace", len(self.whole) + MAX_BLANKS)
        if blanks < len(piece):
            raise JsonRejected("extra_data", offset + blanks)
