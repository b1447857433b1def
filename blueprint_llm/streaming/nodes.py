"""What a JSON Schema says that can be decided while a value is still being written.

A schema becomes alternatives, each a conjunction of plain keyword sets; what cannot be decided early, or would cost
too much, is left out, which only ever makes a node accept more. The final check decides the rest.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

Schemas = tuple[Any, ...]

ALL_KINDS = frozenset({"object", "array", "string", "number", "boolean", "null"})
MAX_ALTERNATIVES = 32
_MAX_NESTING = 16
_MAX_BRANCHES = 512


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Node:
    """One alternative that a value may satisfy.

    Attributes:
        kinds: What the value may be.
        typed_kinds: The same by `type` alone, to tell a wrong type from a value that is not listed.
        integer: A number must be whole.
        listed: The values of every `enum` and `const`; the value must be in each.
        texts: The strings among them, sorted; None where any string may stand.
        required: The keys that an object must have.
        closed: The only keys that it may have, sorted; None where any may stand.
        is_free: Of a string, number or boolean only the kind matters.
        prefix: How many items have schemas of their own.
        parts: The keyword sets, for what is inside.
    """

    kinds: frozenset[str] = ALL_KINDS
    typed_kinds: frozenset[str] = ALL_KINDS
    integer: bool = False
    listed: tuple[list[Any], ...] = ()
    texts: tuple[str, ...] | None = None
    required: frozenset[str] = frozenset()
    closed: tuple[str, ...] | None = None
    is_free: bool = True
    prefix: int = 0
    parts: Schemas = ()
    children: dict[str | int | None, tuple[Node, ...]] = field(default_factory=dict)

    @property
    def wanted(self) -> frozenset[str]:
        """The kinds in the schema's own words."""
        return self.kinds - {"number"} | {"integer"} if self.integer and "number" in self.kinds else self.kinds

    def admits(self, value: Any) -> bool:
        """Return True if a string, number, boolean or null may be this node's value."""
        if self.integer and isinstance(value, float) and not value.is_integer():
            return False
        return not self.listed or all(any(_same(value, each) for each in values) for values in self.listed)


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

    def member(self, node: Node, name: str) -> tuple[Node, ...]:
        """Return what the value of key `name` may be."""
        found = node.children.get(name)
        if found is not None:
            return found
        place = name if any(name in _properties(part) for part in node.parts) else None
        found = node.children.get(place)
        if found is None:
            schemas = tuple(each for part in node.parts for each in _member_schemas(part, place))
            found = node.children[place] = self._nodes(schemas)
        return found

    def item(self, node: Node, index: int) -> tuple[Node, ...]:
        """Return what the item at `index` may be."""
        place = min(index, node.prefix)
        found = node.children.get(place)
        if found is None:
            schemas = tuple(each for part in node.parts for each in _item_schemas(part, place))
            found = node.children[place] = self._nodes(schemas)
        return found

    def _nodes(self, schemas: Schemas) -> tuple[Node, ...]:
        if not schemas:
            return (ANY,)
        self._spent = 0
        branches = _product([self._branches(schema, 0) for schema in schemas])
        return (ANY,) if branches is None else tuple(_node(branch) for branch in branches)

    def _branches(self, schema: Any, depth: int) -> list[Schemas]:
        """Return the alternatives of `schema`, each a conjunction of keyword sets."""
        if schema is False:
            return []
        self._spent += 1
        if not isinstance(schema, dict) or depth > _MAX_NESTING or self._spent > _MAX_BRANCHES:
            return [()]
        if not self._unread.isdisjoint(schema):
            schema = {word: value for word, value in schema.items() if word not in self._unread}
        groups = [[(schema,)], *self._groups(schema, depth + 1)]
        if self._lone_refs and "$ref" in schema:
            groups = groups[1:2]
        found = _product(groups)
        return [(schema,)] if found is None else found

    def _groups(self, schema: dict[str, Any], depth: int) -> list[list[Schemas]]:
        groups = [self._branches(self._target(schema["$ref"]), depth)] if "$ref" in schema else []
        groups += [self._branches(each, depth) for each in _list(schema.get("allOf"))]
        for word in ("anyOf", "oneOf"):
            branches = _list(schema.get(word))
            if branches:
                groups.append([found for each in branches for found in self._branches(each, depth)])
        return groups

    def _target(self, reference: Any) -> Any:
        """Return the schema that a local reference points to; True for any other."""
        if not is_pointer(reference) or self._has_ids:
            return True
        try:
            return find(self._root, reference)
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


def has_inner_id(schema: Any) -> bool:
    """Return True if some part of the schema is a resource of its own, which changes what `#` means in it."""
    stack = list(schema.values()) if isinstance(schema, dict) else []
    while stack:
        each = stack.pop()
        if isinstance(each, dict):
            if isinstance(each.get("$id", each.get("id")), str):
                return True
            stack += each.values()
        elif isinstance(each, list):
            stack += each
    return False


def _product(groups: list[list[Schemas]]) -> list[Schemas] | None:
    """Return every choice of one branch per group; None when there are too many."""
    size = 1
    for group in groups:
        size *= len(group)
    if size > MAX_ALTERNATIVES:
        return None
    return [tuple(itertools.chain.from_iterable(choice)) for choice in itertools.product(*groups)]


def _node(parts: Schemas) -> Node:
    types = [_types(part) for part in parts]
    numeric = all("number" in each or "integer" in each for each in types)
    typed = ALL_KINDS.intersection(*types) | ({"number"} if numeric else set())
    listed = tuple(values for part in parts for values in _listed(part))
    texts = [frozenset(each for each in values if isinstance(each, str)) for values in listed]
    closed = [frozenset(map(str, _properties(part))) for part in parts if _is_closed(part)]
    integer = any("number" not in each for each in types)
    return Node(
        kinds=typed.intersection(*({_kind(each) for each in values} for values in listed)),
        typed_kinds=typed,
        integer=integer,
        listed=listed,
        texts=tuple(sorted(frozenset.intersection(*texts))) if texts else None,
        required=frozenset(name for part in parts for name in _list(part.get("required")) if isinstance(name, str)),
        closed=tuple(sorted(frozenset.intersection(*closed))) if closed else None,
        is_free=not (integer or listed),
        prefix=max((len(_prefix(part)) for part in parts), default=0),
        parts=parts,
    )


def _types(part: dict[str, Any]) -> frozenset[str]:
    declared = part.get("type")
    if isinstance(declared, str):
        return frozenset({declared})
    return frozenset(declared) if isinstance(declared, list) else ALL_KINDS


def _listed(part: dict[str, Any]) -> list[list[Any]]:
    values = [part["enum"]] if isinstance(part.get("enum"), list) else []
    return [*values, [part["const"]]] if "const" in part else values


def _is_closed(part: dict[str, Any]) -> bool:
    return part.get("additionalProperties") is False and not part.get("patternProperties")


def _member_schemas(part: dict[str, Any], name: str | None) -> list[Any]:
    properties = _properties(part)
    if name in properties:
        return [properties[name]]
    other = part.get("additionalProperties", True)
    return [] if other is True or part.get("patternProperties") else [other]


def _properties(part: dict[str, Any]) -> dict[str | None, Any]:
    properties = part.get("properties")
    return properties if isinstance(properties, dict) else {}


def _item_schemas(part: dict[str, Any], index: int) -> list[Any]:
    prefix, items = _prefix(part), part.get("items", True)
    if index < len(prefix):
        return [prefix[index]]
    return [] if items is True or isinstance(items, list) else [items]


def _prefix(part: dict[str, Any]) -> list[Any]:
    return _list(part.get("prefixItems"))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
    return "object"


def _same(value: Any, listed: Any) -> bool:
    """Return True if two plain values are equal in JSON Schema's sense, where true is not 1."""
    return _kind(value) == _kind(listed) and bool(value == listed)
