"""One JSON text that is checked while it arrives: the arguments of a call, or a structured answer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from blueprint_llm.streaming.machine import JsonMachine, JsonRejected
from blueprint_llm.streaming.whole import MAX_BLANKS, Declined, parse_whole

if TYPE_CHECKING:
    from blueprint_llm.streaming.schema_check import CompiledSchema

_BATCH = 32  # of short pieces each takes ten times the room of its text
_HIGH = ("\ud800", "\udbff")
_BLANKS = " \t\n\r"


class Text:
    r"""A text that grows; memory stays near its `length` however short the pieces are.

    Some servers cut an emoji in two between deltas and send each half as `\ud83d`: halves are joined here.
    """

    __slots__ = ("_chunks", "_half", "_pieces", "length")

    def __init__(self) -> None:
        self._chunks: list[str] = []
        self._pieces: list[str] = []
        self._half = ""  # the first half of a pair whose second has not come
        self.length = 0

    def join(self, piece: str) -> str:
        """Return the piece with halves of characters joined; a first half at its end waits for the next piece."""
        if piece.isascii() and not self._half:
            return piece
        piece, self._half = self._half + piece, ""
        if piece and _HIGH[0] <= piece[-1] <= _HIGH[1]:
            piece, self._half = piece[:-1], piece[-1]
        try:
            piece.encode()
        except UnicodeEncodeError:
            return piece.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
        return piece

    def rest(self) -> str:
        """Return the half that nothing followed."""
        half, self._half = self._half, ""
        return half

    def add(self, piece: str) -> None:
        """Append a piece."""
        self.length += len(piece)
        self._pieces.append(piece)
        if len(self._pieces) >= _BATCH:
            self._chunks.append("".join(self._pieces))
            self._pieces.clear()

    def value(self) -> str:
        """Return the whole text."""
        whole = "".join((*self._chunks, *self._pieces))
        self._chunks, self._pieces = [whole], []
        return whole

    def tail(self, chars: int) -> str:
        """Return the last characters, `chars` where there are so many."""
        return self.value()[-chars:]


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
        if machine is None:  # there was nothing yet, or the value is complete
            if self.complete:
                self._trail(piece)
                return
            if self._parsed(piece):
                return
            schema, any_root = self.schema, self._any_root
            machine = schema.machine(any_root=any_root) if schema is not None else JsonMachine(any_root=any_root)
            self._machine = machine
        try:
            machine.feed(piece)
        except JsonRejected as error:
            if machine.complete:
                end = error.offset - self.text.length
                self.text.add(piece[:end])
                self.rest = piece[end:]
                self._finish()
            raise
        self.text.add(piece)
        if machine.complete:
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

    def _trail(self, piece: str) -> None:
        """Take what follows the value: only blanks may, and not for ever."""
        blanks = len(piece) - len(piece.lstrip(_BLANKS))
        offset = len(self.whole) + self._blanks
        self._blanks += blanks
        if self._blanks > MAX_BLANKS:
            raise JsonRejected("runaway_whitespace", len(self.whole) + MAX_BLANKS)
        if blanks < len(piece):
            raise JsonRejected("extra_data", offset + blanks)

    def close(self) -> JsonRejected | None:
        """Say that nothing follows, and return why the value is not whole if it is not."""
        try:
            if not self.complete:
                (self._machine or JsonMachine()).close()
                self._finish()
        except JsonRejected as error:
            return error
        return None

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


def printable(text: str) -> str:
    """Return the text with what no encoding can carry replaced."""
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
