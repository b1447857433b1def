"""Follow a document through its schema and keep the alternatives that are still possible.

An error is only ever said when the last alternative dies, so no completion of the document would validate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from blueprint_llm.streaming.lexemes import listed
from blueprint_llm.streaming.nodes import ANY, Node, SchemaIndex

MAX_THREADS = 64


@dataclass(slots=True, eq=False)
class Thread:
    """A node that the value at hand may satisfy, for the sake of one of the container's threads."""

    node: Node
    parent: Thread | None


class SchemaMachine:
    """Decides wrong types, unknown keys, unlisted values and missing keys as soon as they are certain.

    `begin`, `scalar` and `end` answer whether a valid document is still possible; if not, `code` and `expected` say
    why. Schemas whose alternatives multiply beyond reason are no longer followed.
    """

    __slots__ = ("_frames", "_index", "_now", "code", "expected")

    def __init__(self, index: SchemaIndex) -> None:
        self._index = index
        self._now = [Thread(node, None) for node in index.roots]
        self._frames: list[list[Thread]] = []
        self.code = self.expected = ""

    def begin(self, kind: str) -> bool:
        """A value of `kind` begins."""
        now = self._now
        if len(now) != 1 or kind not in now[0].node.kinds:
            now = [thread for thread in now if kind in thread.node.kinds]
            if not now:
                return self._blame_value(kind)
            self._keep(now)
        if kind in {"object", "array"}:
            self._frames.append(now)
        return True

    def key(self, name: str) -> None:
        """The value of key `name` comes next."""
        index = self._index
        self._follow([Thread(node, up) for up in self._frames[-1] for node in index.member(up.node, name)])

    def item(self, place: int) -> None:
        """The item at `place` comes next."""
        index = self._index
        self._follow([Thread(node, up) for up in self._frames[-1] for node in index.item(up.node, place)])

    def scalar(self, value: Any) -> bool:
        """The value at hand is this string, number, boolean or null."""
        now = self._now
        kept = [thread for thread in now if thread.node.admits(value)]
        if not kept:
            is_listed = any(thread.node.listed for thread in now)
            return self._fail("schema_enum" if is_listed else "schema_type", _values(now) or "integer")
        if len(kept) < len(now):
            self._keep(kept)
        return True

    def end(self, keys: set[str] | None) -> bool:
        """The innermost container ends; `keys` are an object's."""
        now = self._frames.pop()
        kept = now if keys is None else [thread for thread in now if thread.node.required <= keys]
        if not kept:
            missing = min((thread.node.required - (keys or set()) for thread in now), key=len)
            return self._fail("schema_required", ", ".join(sorted(missing)))
        self._keep(kept)
        return True

    def allowed_keys(self) -> frozenset[str] | None:
        """The only keys that the innermost object may have; None: any."""
        return _union([thread.node.closed for thread in self._frames[-1]])

    def allowed_texts(self) -> frozenset[str] | None:
        """The only strings that the value at hand may be; None: any."""
        return _union([thread.node.texts for thread in self._now])

    def _follow(self, threads: list[Thread]) -> None:
        if len(threads) > MAX_THREADS:
            blind = Thread(ANY, None)
            self._frames = [[blind] for _ in self._frames]
            threads = [blind]
        self._now = threads

    def _keep(self, threads: list[Thread]) -> None:
        """Only `threads` are still possible, and of the container's only those that they serve."""
        self._now = threads
        if self._frames and len(self._frames[-1]) > 1:
            self._frames[-1] = list(dict.fromkeys(thread.parent for thread in threads if thread.parent is not None))

    def _blame_value(self, kind: str) -> bool:
        if any(kind in thread.node.typed_kinds for thread in self._now):
            return self._fail("schema_enum", _values(self._now))
        kinds = {each for thread in self._now for each in thread.node.typed_kinds}
        return self._fail("schema_type", " or ".join(sorted(kinds)) or "no value")

    def _fail(self, code: str, expected: str) -> bool:
        self.code, self.expected = code, expected
        return False


def _union(sets: list[frozenset[str] | None]) -> frozenset[str] | None:
    known = [each for each in sets if each is not None]
    return frozenset().union(*known) if len(known) == len(sets) else None


def _values(threads: list[Thread]) -> str:
    values = [str(value) for thread in threads for group in thread.node.listed for value in group]
    return listed(values) if values else ""
