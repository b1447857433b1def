"""Decide what a JSON Schema rules out while a value is still being written.

A schema becomes alternatives, each a conjunction of plain keyword sets, and those that are still possible are followed
through the document. What cannot be decided early, or would cost too much, is left out, which only ever makes a node
accept more: an error is only said when the last alternative dies, so no completion would validate. The final check
decides the rest.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar
from urllib.parse import unquote

from blueprint_llm.streaming.machine import JsonMachine, listed

if TYPE_CHECKING:
    from collections.abc import Iterator

Schemas = tuple[Any, ...]
Container = TypeVar("Container", list[Any], dict[Any, Any])

ALL_KINDS = frozenset({"object", "array", "string", "number", "boolean", "null"})
_KINDS = {type(None): "null", bool: "boolean", int: "number", float: "number", str: "string", list: "array"}
MAX_THREADS = 64
MAX_ALTERNATIVES = 32
_MAX_NESTING = 16
_MAX_BRANCHES = 512


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Node:
    """One alternative that a value may satisfy."""

    kinds: frozenset[str] = ALL_KINDS  # what the value may be
    typed_kinds: frozenset[str] = ALL_KINDS  # by `type` alone, to tell a wrong type from a value that is not listed
    integer: bool = False  # a number must be whole
    listed: tuple[list[Any], ...] = ()  # the values of every `enum` and `const`; the value must be in each
    texts: tuple[str, ...] | None = None  # the strings among them, sorted; None: any string may stand
    required: frozenset[str] = frozenset()  # the keys that an object must have
    closed: tuple[str, ...] | None = None  # the only keys that it may have, sorted; None: any may stand
    is_free: bool = True  # of a string, number or boolean only the kind matters
    prefix: int = 0  # how many items have schemas of their own
    parts: Schemas = ()  # the keyword sets, for what is inside
    children: dict[str | int | None, tuple[Node, ...]] = field(default_factory=dict)

    @property
    def wanted(self) -> frozenset[str]:
        """The kinds in the schema's own words."""
        return self.kinds - {"number"} | {"integer"} if self.integer and "number" in self.kinds else self.kinds

    def admits(self, value: Any) -> bool:
        """Return True if a string, number, boolean or null may be this node's value."""
        if self.integer and isinstance(value, float) and not value.is_integer():
            return False
        # The kind is compared too: in JSON Schema true is not 1.
        return not self.listed or all(
            any(_kind(value) == _kind(each) and value == each for each in values) for values in self.listed
        )


ANY = Node()


class SchemaIndex:
    """Nodes of one schema, made when a value first reaches their place. References to elsewhere stay undecided.

    Args:
        schema: The schema.
        lone_refs: A `$ref` hides its neighbours, as up to draft 7.
        unread: Keywords that the schema's draft does not know.
    """

    def __init__(self, schema: Any, *, lone_refs: bool = False, unread: frozenset[str] = frozenset()) -> None:
        self._root, self._lone_refs, self._unread = schema, lone_refs, unread
        self._has_ids = has_inner_id(schema)
        self._spent = 0
        self.roots = self._nodes((schema,))

    def child(self, node: Node, place: str | int) -> tuple[Node, ...]:
        """Return what the value of a key, or the item at an index, may be."""
        common: str | int | None = min(place, node.prefix) if isinstance(place, int) else place
        known = node.children.get(common)
        if known is not None:
            return known
        if isinstance(common, str) and not any(common in _get(part, "properties", {}) for part in node.parts):
            common = None  # all keys that no schema names share one
        known = node.children.get(common)
        if known is None:
            known = self._nodes(tuple(each for part in node.parts for each in _inside(part, common)))
            node.children[common] = known
        return known

    def _nodes(self, schemas: Schemas) -> tuple[Node, ...]:
        if not schemas:
            return (ANY,)
        self._spent = 0
        branches = _product([self._branches(schema, 0) for schema in schemas])
        return (ANY,) if branches is None else tuple(map(_node, branches))

    def _branches(self, schema: Any, depth: int) -> list[Schemas]:
        """Return the alternatives of `schema`, each a conjunction of keyword sets."""
        if schema is False:
            return []
        self._spent += 1
        if not isinstance(schema, dict) or depth > _MAX_NESTING or self._spent > _MAX_BRANCHES:
            return [()]
        if not self._unread.isdisjoint(schema):
            schema = {word: value for word, value in schema.items() if word not in self._unread}
        groups = [self._branches(self._target(schema["$ref"]), depth + 1)] if "$ref" in schema else []
        if not (groups and self._lone_refs):
            groups.insert(0, [(schema,)])
            groups += [self._branches(each, depth + 1) for each in _get(schema, "allOf", [])]
            for word in ("anyOf", "oneOf"):
                if branches := _get(schema, word, []):
                    groups.append([found for each in branches for found in self._branches(each, depth + 1)])
        found = _product(groups)
        return [(schema,)] if found is None else found

    def _target(self, reference: Any) -> Any:
        """Return the schema that a local reference points to; True for any other."""
        try:
            return find(self._root, reference) if is_pointer(reference) and not self._has_ids else True
        except LookupError:
            return True


def is_pointer(reference: Any) -> bool:
    """Return True if a `$ref` is a JSON pointer into its own document."""
    return isinstance(reference, str) and (reference == "#" or reference.startswith("#/"))


def find(root: Any, pointer: str) -> Any:
    """Return what a pointer (`#/$defs/x`) points to. Raises LookupError."""
    steps = unquote(pointer[1:]).split("/")[1:]
    return functools.reduce(step_into, (step.replace("~1", "/").replace("~0", "~") for step in steps), root)


def step_into(place: Any, step: str | int) -> Any:
    """Return the member or item of a container. Raises LookupError."""
    try:
        return place[int(step) if isinstance(place, list) else step]
    except (TypeError, ValueError):
        raise LookupError(step) from None


def walk(schema: Any, unread: frozenset[str] = frozenset()) -> Iterator[dict[str, Any]]:
    """Yield every mapping in a schema that is not below one of the `unread` keywords."""
    stack = [schema]
    while stack:
        each = stack.pop()
        if isinstance(each, dict):
            yield each
            stack += [value for word, value in each.items() if word not in unread]
        elif isinstance(each, list):
            stack += each


def has_inner_id(schema: Any) -> bool:
    """Return True if some part of the schema is a resource of its own, which changes what `#` means in it."""
    return any(isinstance(part.get("$id", part.get("id")), str) for part in walk(schema) if part is not schema)


def _product(groups: list[list[Schemas]]) -> list[Schemas] | None:
    """Return every choice of one branch per group; None when there are too many."""
    if math.prod(map(len, groups)) > MAX_ALTERNATIVES:
        return None
    return [tuple(itertools.chain.from_iterable(choice)) for choice in itertools.product(*groups)]


def _node(parts: Schemas) -> Node:
    types = [_types(part) for part in parts]
    numeric = all("number" in each or "integer" in each for each in types)
    typed = ALL_KINDS.intersection(*types) | ({"number"} if numeric else set())
    allowed = tuple(values for part in parts for values in _listed(part))
    texts = [frozenset(each for each in values if isinstance(each, str)) for values in allowed]
    closed = [frozenset(map(str, _get(part, "properties", {}))) for part in parts if _others(part) is False]
    integer = any("number" not in each for each in types)
    names = (name for part in parts for name in _get(part, "required", []))
    return Node(
        kinds=typed.intersection(*(set(map(_kind, values)) for values in allowed)),
        typed_kinds=typed,
        integer=integer,
        listed=allowed,
        texts=tuple(sorted(frozenset.intersection(*texts))) if texts else None,
        required=frozenset(name for name in names if isinstance(name, str)),
        closed=tuple(sorted(frozenset.intersection(*closed))) if closed else None,
        is_free=not (integer or allowed),
        prefix=max((len(_get(part, "prefixItems", [])) for part in parts), default=0),
        parts=parts,
    )


def _get(part: dict[str, Any], word: str, default: Container) -> Container:
    """Return what a schema says under a keyword; the default where that is of another type."""
    value = part.get(word)
    return value if isinstance(value, type(default)) else default


def _types(part: dict[str, Any]) -> frozenset[str]:
    declared = part.get("type")
    if isinstance(declared, str):
        return frozenset({declared})
    return frozenset(declared) if isinstance(declared, list) else ALL_KINDS


def _listed(part: dict[str, Any]) -> list[list[Any]]:
    values = [part["enum"]] if isinstance(part.get("enum"), list) else []
    return [*values, [part["const"]]] if "const" in part else values


def _others(part: dict[str, Any]) -> Any:
    """Return the schema of the keys without one of their own; True where patterns of names decide."""
    return True if part.get("patternProperties") else part.get("additionalProperties", True)


def _inside(part: dict[str, Any], place: str | int | None) -> list[Any]:
    """Return the schemas of a declared key, of the others (None), or of an item."""
    if isinstance(place, int):
        prefix, other = _get(part, "prefixItems", []), part.get("items", True)
        if place < len(prefix):
            return [prefix[place]]
        return [] if other is True or isinstance(other, list) else [other]
    properties, other = _get(part, "properties", {}), _others(part)
    if place in properties:
        return [properties[place]]
    return [] if other is True else [other]


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "object")


Thread = tuple[Node, Any]
"""A node that a value may satisfy, and the container's thread for whose sake."""


class SchemaMachine(JsonMachine):
    """Check one value while it is written, also against a schema.

    Decides wrong types, unknown keys, unlisted values and missing keys as soon as they are certain. Schemas whose
    alternatives multiply beyond reason are no longer followed.
    """

    __slots__ = ("_frames", "_index", "_now")

    def __init__(self, index: SchemaIndex, *, any_root: bool = False) -> None:
        super().__init__(any_root=any_root)
        self._index = index
        self._now: list[Thread] = [(node, None) for node in index.roots]  # of the value at hand
        self._frames: list[list[Thread]] = []  # of the open containers

    def _passes_whole(self, _text: str) -> bool:
        return False  # a schema has a say

    def _begin(self, kind: str, pos: int) -> None:
        now = self._now
        if len(now) != 1 or kind not in now[0][0].kinds:
            now = [thread for thread in now if kind in thread[0].kinds]
            if not now:
                self._blame(kind, pos)
            self._keep(now)
        if kind == "string":
            self._allowed = now[0][0].texts if len(now) == 1 else _union([node.texts for node, _ in now])
        elif kind in {"object", "array"}:
            self._frames.append(now)

    def _begin_key(self, pos: int) -> None:
        now = self._frames[-1]
        self._allowed = now[0][0].closed if len(now) == 1 else _union([node.closed for node, _ in now])
        if self._allowed is not None and not self._allowed:
            self._reject("schema_unknown_property", pos, "no property")

    def _blame(self, kind: str, pos: int) -> NoReturn:
        if any(kind in node.typed_kinds for node, _ in self._now):
            self._reject("schema_enum", pos, self._values())
        wanted = frozenset[str]().union(*(node.wanted for node, _ in self._now))
        self._reject("schema_type", pos, " or ".join(sorted(wanted)) or "no value")

    def _enter(self, place: str | int) -> None:
        child = self._index.child
        self._now = [(node, up) for up in self._frames[-1] for node in child(up[0], place)]
        if len(self._now) > MAX_THREADS:  # beyond reason: from here on anything may stand anywhere
            blind = (ANY, None)
            self._frames = [[blind] for _ in self._frames]
            self._now = [blind]

    def _take(self, value: Any, pos: int) -> None:
        now = self._now
        if len(now) == 1 and (now[0][0].is_free or now[0][0].admits(value)):
            return
        kept = [thread for thread in now if thread[0].admits(value)]
        if not kept:
            values = self._values()
            self._reject("schema_enum" if values else "schema_type", pos, values or "integer")
        if len(kept) < len(now):
            self._keep(kept)

    def _take_number(self, digits: str, pos: int) -> None:
        self._take(int(digits) if digits.lstrip("-").isdigit() else float(digits), pos)

    def _end(self, keys: set[str] | None, pos: int) -> None:
        now = self._frames.pop()
        kept = now if keys is None else [thread for thread in now if thread[0].required <= keys]
        if not kept:
            missing = min((thread[0].required - (keys or set()) for thread in now), key=len)
            self._reject("schema_required", pos, ", ".join(sorted(missing)))
        self._keep(kept)

    def _keep(self, threads: list[Thread]) -> None:
        """Keep only `threads`, and of the container's only those that they serve."""
        self._now = threads
        if self._frames and len(self._frames[-1]) > 1:
            self._frames[-1] = list({id(up): up for _, up in threads}.values())

    def _values(self) -> str:
        values = [str(value) for node, _ in self._now for group in node.listed for value in group]
        return listed(values) if values else ""


def _union(sets: list[tuple[str, ...] | None]) -> tuple[str, ...] | None:
    """Return all that the sets list, sorted; None where one of them takes anything."""
    known = [each for each in sets if each is not None]
    return tuple(sorted(set().union(*known))) if len(known) == len(sets) else None
