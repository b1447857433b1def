"""Reads YAML into plain values and remembers where each of them stands.

The text is composed into nodes once (libyaml); values come from walking the nodes, places from walking them again
along a key path, so that a file without mistakes pays nothing for its places.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import yaml

from blueprint_llm.config.problems import Path, Place, Rejected
from blueprint_llm.config.secrets import shown

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
_TEXTS = {_TAG + "str", _TAG + "timestamp", _TAG + "value"}  # a date stays the text that was written
_MERGE = _TAG + "merge"
_MAX_DEPTH = 100
_SAFE_DEPTH = 1_500  # libyaml's composer recurses in C: measured 300 bytes a level, and threads may have 512 KB
_MAX_VALUES = 200_000  # aliases multiply: nine lines can stand for a billion values


class Tree:
    """One configuration: its plain value, what was wrong with the text, and where each value stands."""

    def __init__(self, value: Any, node: yaml.Node | None = None, name: str = "") -> None:
        self.value = value
        self.mistakes: list[tuple[Place, str]] = []
        self.included: list[str] = []
        self._node = node
        self._name = name

    def place(self, path: Path, *, key: bool = False) -> Place:
        """Where the value at `path` stands, or its key; for what is missing, the nearest thing around it."""
        node = self._node
        for depth, step in enumerate(path, 1):
            found = _child(node, step)
            if found is None:
                break
            node = found[0] if key and depth == len(path) else found[1]
        return Place.of(node.start_mark) if node else Place(self._name)


def compose(text: bytes, name: str) -> yaml.Node | None:
    """The root node of a YAML text; its marks carry `name`. None: there is nothing in it.

    Raises:
        Rejected: It is not YAML.
    """
    try:
        _refuse_depth(text, name)
        return yaml.compose(_named(text, name), _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        place = Place.of(mark, name) if mark else Place(name)
        raise Rejected.at(place, f"this is not YAML: {_reason(error)}") from None


def _reason(error: yaml.YAMLError) -> str:
    text = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be read"
    if "cannot start any token" in text:
        return f"{text} (YAML indents with spaces, never tabs)"
    return f"{getattr(error, 'context', '')} {text}" if text.startswith("but ") else str(text)


def _named(text: bytes, name: str) -> io.BytesIO:
    stream = io.BytesIO(text)
    stream.name = name
    return stream


def _refuse_depth(text: bytes, name: str) -> None:
    """Raise before the composer would crash; its events come without recursion, so their depth can be counted."""
    longest = max(map(len, text.splitlines()), default=0)
    if text.count(b"[") + text.count(b"{") + longest <= _SAFE_DEPTH:
        return
    depth = 0
    for event in yaml.parse(io.BytesIO(text), _Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _SAFE_DEPTH:
            raise Rejected.at(Place.of(event.start_mark, name), "nested too deep")


def from_node(node: yaml.Node) -> Tree:
    """The tree of a composed document; mistakes that leave the rest readable are on it."""
    walk = _Walk()
    tree = Tree(walk.value(node, 0), node)
    tree.mistakes = walk.mistakes
    return tree


def from_mapping(value: Any) -> Tree:
    """The tree of a Python mapping: tuples become lists, paths and keys become text."""
    return Tree(_plain(value, 0))


def _plain(value: Any, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise Rejected.at(Place(), "nested too deep, or it contains itself")
    if isinstance(value, Mapping):
        return {str(key): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, depth + 1) for item in value]
    return os.fspath(value) if isinstance(value, PurePath) else value


class _Walk:
    """Turns nodes into values, and notes duplicates and values that are none."""

    def __init__(self) -> None:
        self.mistakes: list[tuple[Place, str]] = []
        self._left = _MAX_VALUES
        self._loader = _Loader("")

    def value(self, node: yaml.Node, depth: int) -> Any:
        self._left -= 1
        if depth > _MAX_DEPTH or self._left < 0:
            raise Rejected.at(Place.of(node.start_mark), "this refers to itself, or stands for too many values")
        match node:
            case yaml.ScalarNode():
                return node.value if node.tag in _TEXTS else self._scalar(node)
            case yaml.SequenceNode():
                self._note_tag(node, "seq")
                return [self.value(item, depth + 1) for item in node.value]
            case yaml.MappingNode():
                self._note_tag(node, "map")
                return self._mapping(node, depth)

    def _note_tag(self, node: yaml.Node, usual: str) -> None:
        if node.tag != _TAG + usual:
            self._note(node, f"the tag {shown(node.tag.removeprefix(_TAG))} has no meaning here")

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        try:
            return self._loader.construct_object(node)
        except (yaml.YAMLError, ValueError, LookupError, AttributeError):  # what PyYAML's constructors raise
            if node.tag.startswith(_TAG):
                self._note(node, f"this is no {shown(node.tag.removeprefix(_TAG))}")
            else:
                self._note_tag(node, "str")
            return None

    def _mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Any]:
        if len({key.value for key, _ in node.value if _is_key(key)}) < len(node.value):
            self._note_keys(node)
        if any(key.tag == _MERGE for key, _ in node.value):
            self._merge(node, depth)
        return {key.value: self.value(item, depth + 1) for key, item in node.value if _is_key(key)}

    def _merge(self, node: yaml.MappingNode, depth: int) -> None:
        """Replace `<<` by the pairs it stands for, each key once: PyYAML's own merge can double at every level."""
        if depth > _MAX_DEPTH:
            raise Rejected.at(Place.of(node.start_mark), "too many merges in one another")
        own = [pair for pair in node.value if pair[0].tag != _MERGE]
        sources = [item for key, item in node.value if key.tag == _MERGE]
        node.value = own
        inherited: dict[str, Any] = {}
        for source in self._merge_sources(sources):
            self._merge(source, depth + 1)
            inherited = {key.value: (key, item) for key, item in source.value if _is_key(key)} | inherited
        node.value = [*inherited.values(), *own]

    def _merge_sources(self, nodes: list[yaml.Node]) -> list[yaml.MappingNode]:
        flat = [item for node in nodes for item in (node.value if isinstance(node, yaml.SequenceNode) else [node])]
        for node in flat:
            if not isinstance(node, yaml.MappingNode):
                self._note(node, "`<<` takes a mapping or a list of mappings")
        return [node for node in flat if isinstance(node, yaml.MappingNode)]

    def _note_keys(self, node: yaml.MappingNode) -> None:
        """Note keys that stand twice and keys that are no text."""
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if not _is_key(key):
                self._note(key, "a key must be a single word or text")
            elif key.tag != _MERGE and key.value in seen:
                self._note(key, f"the key {shown(key.value)} is already in line {seen[key.value]}")
            else:
                seen[key.value] = key.start_mark.line + 1

    def _note(self, node: yaml.Node, text: str) -> None:
        self.mistakes.append((Place.of(node.start_mark), text))


def _is_key(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode)


def _child(node: yaml.Node | None, step: str | int) -> tuple[yaml.Node, yaml.Node] | None:
    """The key node (for lists: the item) and the value node that `step` leads to."""
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step], node.value[step]
    if isinstance(node, yaml.MappingNode):
        return next(((key, item) for key, item in reversed(node.value) if key.value == str(step)), None)
    return None
