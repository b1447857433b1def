"""Follow a document through its schema and keep the alternatives that are still possible.

An error is only ever said when the last alternative dies, so no completion of the document would validate.
"""

from __future__ import annotations

from typing import Any

from blueprint_llm.streaming.nodes import ANY, Node, SchemaIndex
from blueprint_llm.streaming.tokens import listed

MAX_THREADS = 64

Thread = tuple[Node, Any]
"""A node that a value may satisfy, and the container's thread for whose sake."""


class SchemaMachine:
    """Decide wrong types, unknown keys, unlisted values and missing keys as soon as they are certain.

    `begin`, `scalar` and `end` answer whether a valid document is still possible; if not, `code` and `expected` say
    why. Schemas whose alternatives multiply beyond reason are no longer followed.
    """

    __slots__ = ("_frames", "_index", "_now", "code", "expected")

    def __init__(self, index: SchemaIndex) -> None:
        self._index = index
        self._now: list[Thread] = [(node, None) for node in index.roots]
        self._frames: list[list[Thread]] = []
        self.code = self.expected = ""

    def begin(self, kind: str) -> bool:
        """Begin a value of `kind`."""
        now = self._now
        if len(now) != 1 or kind not in now[0][0].kinds:
            now = [thread for thread in now if kind in thread[0].kinds]
            if not now:
                return self._blame_value(kind)
            self._keep(now)
        if kind in {"object", "array"}:
            self._frames.append(now)
        return True

    def key(self, name: str) -> None:
        """Go to the value of key `name`."""
        member = self._index.member
        self._now = [(node, up) for up in self._frames[-1] for node in member(up[0], name)]
        if len(self._now) > MAX_THREADS:
            self._give_up()

    def item(self, place: int) -> None:
        """Go to the item at `place`."""
        item = self._index.item
        self._now = [(node, up) for up in self._frames[-1] for node in item(up[0], place)]
        if len(self._now) > MAX_THREADS:
            self._give_up()

    def scalar(self, value: Any) -> bool:
        """Take the value at hand: a string, number, boolean or null."""
        now = self._now
        if len(now) == 1 and (now[0][0].is_free or now[0][0].admits(value)):
            return True
        kept = [thread for thread in now if thread[0].admits(value)]
        if not kept:
            values = _values(now)
            return self._fail("schema_enum" if values else "schema_type", values or "integer")
        if len(kept) < len(now):
            self._keep(kept)
        return True

    def end(self, keys: set[str] | None) -> bool:
        """End the innermost container; `keys` are an object's."""
        now = self._frames.pop()
        kept = now if keys is None else [thread for thread in now if thread[0].required <= keys]
        if not kept:
            missing = min((thread[0].required - (keys or set()) for thread in now), key=len)
            return self._fail("schema_required", ", ".join(sorted(missing)))
        self._keep(kept)
        return True

    def allowed_keys(self) -> tuple[str, ...] | None:
        """Return the only keys that the innermost object may have, sorted; None: any."""
        threads = self._frames[-1]
        return threads[0][0].closed if len(threads) == 1 else _union([thread[0].closed for thread in threads])

    def allowed_texts(self) -> tuple[str, ...] | None:
        """Return the only strings that the value at hand may be, sorted; None: any."""
        now = self._now
        return now[0][0].texts if len(now) == 1 else _union([thread[0].texts for thread in now])

    def _give_up(self) -> None:
        blind = (ANY, None)
        self._frames = [[blind] for _ in self._frames]
        self._now = [blind]

    def _keep(self, threads: list[Thread]) -> None:
        """Keep only `threads`, and of the container's only those that they serve."""
        self._now = threads
        if self._frames and len(self._frames[-1]) > 1:
            self._frames[-1] = list({id(up): up for _, up in threads}.values())

    def _blame_value(self, kind: str) -> bool:
        if any(kind in node.typed_kinds for node, _ in self._now):
            return self._fail("schema_enum", _values(self._now))
        wanted = frozenset[str]().union(*(node.wanted for node, _ in self._now))
        return self._fail("schema_type", " or ".join(sorted(wanted)) or "no value")

    def _fail(self, code: str, expected: str) -> bool:
        self.code, self.expected = code, expected
        return False


def _union(sets: list[tuple[str, ...] | None]) -> tuple[str, ...] | None:
    known = [each for each in sets if each is not None]
    return tuple(sorted(set().union(*known))) if len(known) == len(sets) else None


def _values(threads: list[Thread]) -> str:
    values = [str(value) for node, _ in threads for group in node.listed for value in group]
    return listed(values) if values else ""
