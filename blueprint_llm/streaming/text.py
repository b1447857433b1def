r"""Collect a text from many small pieces without keeping the pieces.

Some servers cut an emoji in two between deltas and send each half as `\ud83d`: halves are joined here.
"""

from __future__ import annotations

_BATCH = 32  # of short pieces each takes ten times the room of its text
_HIGH = ("\ud800", "\udbff")


class Text:
    """A text that grows; memory stays near its `length` however short the pieces are."""

    __slots__ = ("_chunks", "_half", "_pieces", "length")

    def __init__(self) -> None:
        self._chunks: list[str] = []
        self._pieces: list[str] = []
        self.length = 0
        self._half = ""  # the first half of a pair whose second has not come

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
        """Return the last characters, at least `chars` where there are so many."""
        last = -1 - chars // _BATCH  # no piece is empty
        return ("".join(self._chunks[last:]) + "".join(self._pieces))[-chars:]


def printable(text: str) -> str:
    """Return the text with what no encoding can carry replaced."""
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
