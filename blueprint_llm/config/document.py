"""Read a configuration into plain values, know where each of them stands, and collect what is wrong with them.

A text is composed into nodes once (libyaml); values come from walking the nodes, places from walking them again along
a key path, so that a file without mistakes pays nothing for its places. Files that it includes are joined as nodes, as
LiteLLM's proxy joins them: lists are appended, everything else is replaced.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

import yaml

from blueprint_llm.config.environment import ENVIRON
from blueprint_llm.config.problems import Path as KeyPath
from blueprint_llm.config.problems import dotted
from blueprint_llm.config.secrets import masked_text, shown

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
_TEXTS = {_TAG + "str", _TAG + "timestamp", _TAG + "value"}  # a date stays the text that was written
_MERGE = _TAG + "merge"
_INCLUDE = "include"
_MAX_DEPTH = 100
_SAFE_DEPTH = 1_500  # libyaml's composer recurses in C: measured 300 bytes a level, and threads may have 512 KB
_MAX_VALUES = 200_000  # aliases multiply: nine lines can stand for a billion values


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One thing that is wrong: where (lines and columns count from 1, 0 means unknown), at which key path, and what."""

    file: str = ""
    line: int = 0
    column: int = 0
    path: str = ""
    text: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return ": ".join(part for part in (place, self.path, self.text) if part)


def _finding(mark: Any, path: KeyPath, text: str) -> Finding:
    """Return a finding at a YAML mark, which counts from 0; None: there is no file."""
    file, line, column = (mark.name, mark.line + 1, mark.column + 1) if mark else ("", 0, 0)
    return Finding(file, line, column, dotted(path), text)


class Rejected(Exception):  # noqa: N818 - never leaves this package: `load_config` makes it a ConfigError
    """A configuration of which nothing can be read, for one reason."""

    def __init__(self, finding: Finding) -> None:
        super().__init__()
        self.finding = replace(finding, text=masked_text(finding.text))


class Reference(str):
    """`os.environ/NAME` that knows where it was written."""

    __slots__ = ("_mark", "_path")
    _mark: Any
    _path: KeyPath

    @classmethod
    def at(cls, text: str, mark: Any, path: KeyPath) -> Reference:
        """Return the reference `text`, which stands at a YAML mark and a key path."""
        made = cls(text)
        made._mark, made._path = mark, path
        return made

    @property
    def place(self) -> str:
        """Where it was written: `blueprint.yaml:5:17: model_list[0].litellm_params.api_base`."""
        return str(_finding(self._mark, self._path, ""))

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str(self),)


class Document:
    """One configuration: its plain value, where each part of it stands, and everything that is wrong with it.

    A problem stops the load. A doubt is what LiteLLM silently accepts though it looks wrong: a notice, or with `strict`
    a problem.
    """

    def __init__(self) -> None:
        self.value: Any = {}
        self.included: list[str] = []
        self.problems: list[Finding] = []
        self.doubts: list[Finding] = []
        self.ignored: list[str] = []
        self._node: yaml.Node | None = None
        self._left = _MAX_VALUES
        self._loader = _Loader("")

    @classmethod
    def of_mapping(cls, value: Any) -> Document:
        """Return a Python mapping as a document: tuples become lists, paths and keys become text. Raises Rejected."""
        document = cls()
        document.value = _plain(value, ())
        return document

    @classmethod
    def of_file(cls, path: Path, name: str = "", permit: Callable[[str], None] = lambda _: None) -> Document:
        """Read a YAML file, which messages call `name`, and all it includes.

        Mistakes that leave the rest readable are in `problems`. `permit` is told the name of each file to include
        before that is opened, and may raise.

        Raises:
            Rejected: Nothing can be read of it.
        """
        document, name = cls(), name or str(path)
        try:
            node = _composed(path, name)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            reason = "no such file: write one with `blueprint-llm init`" if isinstance(error, FileNotFoundError) else ""
            text = reason or getattr(error, "strerror", None) or "no file name"
            raise Rejected(Finding(name, text=text)) from None
        if not isinstance(node, yaml.MappingNode):
            found = [] if isinstance(node, yaml.SequenceNode) else getattr(node, "value", None)
            what = "it is empty" if node is None else f"not {shown(found)}"
            raise Rejected(Finding(name, 1, 1, text=f"must be a mapping of settings: {what}"))
        document._join_includes(node, path, permit)
        document._node, document.value = node, document._value(node, ())
        return document

    def at(self, path: KeyPath, text: str = "", *, key: bool = False) -> Finding:
        """Return a finding about the value at `path`, or its key; what is missing stands at the nearest thing."""
        node = self._node
        for depth, step in enumerate(path, 1):
            found = _child(node, step)
            if found is None:
                break
            node = found[0] if key and depth == len(path) else found[1]
        return _finding(node and node.start_mark, path, text)

    @property
    def root(self) -> Part:
        """The whole of it, to be walked."""
        return Part(self, self.value)

    def settle(self, *, strict: bool) -> tuple[list[str], list[str]]:
        """Return every problem in the order of the file, and the notices; with `strict` a doubt is a problem."""
        problems = sorted({*self.problems, *(self.doubts if strict else ())})
        notices = [*self.ignored, *(() if strict else map(str, sorted(set(self.doubts))))]
        return list(map(str, problems)), notices

    def _note(self, node: yaml.Node, text: str) -> None:
        self.problems.append(_finding(node.start_mark, (), masked_text(text)))

    def _join_includes(self, root: yaml.MappingNode, file: Path, permit: Callable[[str], None]) -> None:
        """Extend `root`, which was read from `file`, by all it includes, each file once."""
        loaded, waiting = {file.resolve()}, self._take_includes(root, file)
        while waiting:
            entry, declared_in = waiting.pop(0)
            permit(entry.value)
            self.included.append(entry.value)
            # Next to the file that names it, else next to the first file of all.
            near, far = (each.parent.joinpath(entry.value) for each in (declared_in, file))
            path = (far if far.exists() and not near.exists() else near).resolve()
            if path not in loaded and (node := self._included(entry, path)):
                waiting += self._take_includes(node, path)
                own = {str(key.value): (key, value) for key, value in root.value}
                for key, value in node.value:
                    present = own.get(str(key.value))
                    if present and isinstance(present[1], yaml.SequenceNode) and isinstance(value, yaml.SequenceNode):
                        present[1].value.extend(value.value)
                    else:
                        own[str(key.value)] = (key, value)
                root.value = list(own.values())
            loaded.add(path)

    def _take_includes(self, node: yaml.MappingNode, file: Path) -> list[tuple[yaml.ScalarNode, Path]]:
        """Remove `include` from a mapping; return its entries, each with the file that names it."""
        entries = _flat([value for key, value in node.value if key.value == _INCLUDE])
        node.value = [pair for pair in node.value if pair[0].value != _INCLUDE]
        for entry in entries:
            if not isinstance(entry, yaml.ScalarNode):
                self._note(entry, "include: must be a list of file names")
        return [(entry, file) for entry in entries if isinstance(entry, yaml.ScalarNode)]

    def _included(self, entry: yaml.ScalarNode, path: Path) -> yaml.MappingNode | None:
        """Return the root of a file that `entry` names; None: there is no mapping in it, which is noted."""
        try:
            node = _composed(path, path.name)
        except OSError as error:
            self._note(entry, f"include: {entry.value}: {error.strerror}")
        except Rejected as rejected:
            self.problems.append(rejected.finding)
        else:
            if isinstance(node, yaml.MappingNode):
                return node
            self._note(entry, f"include: {entry.value} is not a mapping of settings")
        return None

    def _value(self, node: yaml.Node, path: KeyPath) -> Any:
        """Return the plain value of a node, and note duplicates and what is no value."""
        self._left -= 1
        if len(path) > _MAX_DEPTH or self._left < 0:
            raise Rejected(_finding(node.start_mark, (), "this refers to itself, or stands for too many values"))
        match node:
            case yaml.ScalarNode():
                return self._scalar(node, path)
            case yaml.SequenceNode():
                self._note_tag(node, "seq")
                return [self._value(item, (*path, index)) for index, item in enumerate(node.value)]
            case yaml.MappingNode():
                self._note_tag(node, "map")
                if len({key.value for key, _ in node.value if _is_key(key)}) < len(node.value):
                    self._note_keys(node)
                if any(key.tag == _MERGE for key, _ in node.value):
                    self._merge(node, len(path))
                return {
                    key.value: self._value(item, (*path, key.value))
                    for key, item in node.value
                    if isinstance(key, yaml.ScalarNode)
                }

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        if node.tag in _TEXTS:
            text = node.value
            return Reference.at(text, node.start_mark, path) if text.startswith(ENVIRON) else text
        try:
            return self._loader.construct_object(node)
        except (yaml.YAMLError, ValueError, LookupError, AttributeError):  # what PyYAML's constructors raise
            if node.tag.startswith(_TAG):
                self._note(node, f"this is no {shown(node.tag.removeprefix(_TAG))}")
            else:
                self._note_tag(node, "str")
            return None

    def _note_tag(self, node: yaml.Node, usual: str) -> None:
        if node.tag != _TAG + usual:
            self._note(node, f"the tag {shown(node.tag.removeprefix(_TAG))} has no meaning here")

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

    def _merge(self, node: yaml.MappingNode, depth: int) -> None:
        """Replace `<<` by the pairs it stands for, each key once: PyYAML's own merge can double at every level."""
        if depth > _MAX_DEPTH:
            raise Rejected(_finding(node.start_mark, (), "too many merges in one another"))
        sources = _flat([item for key, item in node.value if key.tag == _MERGE])
        node.value = [pair for pair in node.value if pair[0].tag != _MERGE]
        inherited: dict[str, Any] = {}
        for source in sources:
            if isinstance(source, yaml.MappingNode):
                self._merge(source, depth + 1)
                inherited = {
                    key.value: (key, item) for key, item in source.value if isinstance(key, yaml.ScalarNode)
                } | inherited
            else:
                self._note(source, "`<<` takes a mapping or a list of mappings")
        node.value = [*inherited.values(), *node.value]


@dataclass(frozen=True, slots=True)
class Part:
    """A value in a document, and the key path where it stands; of what is missing the value is None."""

    document: Document
    value: Any
    path: KeyPath = ()

    def __getitem__(self, step: str) -> Part:
        """Return the part under a key."""
        value = self.value.get(step) if isinstance(self.value, dict) else None
        return Part(self.document, value, (*self.path, step))

    def named(self) -> list[Part]:
        """Return the parts of a mapping; none where it is something else."""
        return [self[step] for step in self.value] if isinstance(self.value, dict) else []

    def listed(self) -> list[Part]:
        """Return the parts of a list; none where it is something else."""
        items = enumerate(self.value if isinstance(self.value, list) else ())
        return [Part(self.document, item, (*self.path, index)) for index, item in items]

    def problem(self, text: str, *, key: bool = False) -> None:
        """Record a mistake here; `key` points at the key instead of its value."""
        self.document.problems.append(self.document.at(self.path, text, key=key))

    def doubt(self, text: str, *, key: bool = False) -> None:
        """Record what LiteLLM would accept without a word."""
        self.document.doubts.append(self.document.at(self.path, text, key=key))


def _composed(path: Path, name: str) -> yaml.Node | None:
    """Return the root node of a YAML file, whose marks carry `name`; None: there is nothing in it."""
    stream = io.BytesIO(path.read_bytes())
    stream.name = name
    try:
        _refuse_depth(stream)
        return yaml.compose(stream, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        text = f"this is not YAML: {_reason(error, stream.getvalue())}"
        raise Rejected(_finding(mark, (), text) if mark else Finding(name, text=text)) from None


def _refuse_depth(stream: io.BytesIO) -> None:
    """Raise before the composer would crash; its events come without recursion, so their depth can be counted."""
    text = stream.getvalue()
    longest = max(map(len, text.splitlines()), default=0)
    if text.count(b"[") + text.count(b"{") + longest <= _SAFE_DEPTH:
        return
    depth = 0
    for event in yaml.parse(stream, _Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _SAFE_DEPTH:
            raise Rejected(_finding(event.start_mark, (), "nested too deep"))
    stream.seek(0)


def _reason(error: yaml.YAMLError, text: bytes) -> str:
    """Return what the parser says, with what it does not say: what is likely meant, and where an open end began."""
    said = str(getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be read")
    mark, begun = getattr(error, "problem_mark", None), getattr(error, "context_mark", None)
    if mark is None:
        return f"{said}: save it as a text in UTF-8"
    line = text.decode("utf-8-sig", "replace").splitlines()[mark.line : mark.line + 1]
    there = line[0][mark.column :] if line else ""
    if there.startswith("\t"):
        return f"{said} (YAML indents with spaces, never tabs)"
    if "cannot start any token" in said or "alphabetic or numeric" in said:
        return f"{said}: put quotes around this value, which begins with a character that YAML keeps for itself"
    said = f"{getattr(error, 'context', '')} {said}" if said.startswith("but ") else said
    if begun and begun.line != mark.line and ("find expected" in said or "end of stream" in said):
        return f"{said}, for what begins in line {begun.line + 1}"
    return said


def _plain(value: Any, path: KeyPath) -> Any:
    if len(path) > _MAX_DEPTH:
        raise Rejected(Finding(text="nested too deep, or it contains itself"))
    match value:
        case Mapping():
            return {str(key): _plain(item, (*path, str(key))) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_plain(item, (*path, index)) for index, item in enumerate(value)]
        case str() if value.startswith(ENVIRON):
            return Reference.at(value, None, path)
        case PurePath():
            return os.fspath(value)
    return value


def _flat(nodes: list[yaml.Node]) -> list[yaml.Node]:
    """Return nodes with the items of lists in place of the lists."""
    return [item for node in nodes for item in (node.value if isinstance(node, yaml.SequenceNode) else [node])]


def _is_key(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode)


def _child(node: yaml.Node | None, step: str | int) -> tuple[yaml.Node, yaml.Node] | None:
    """Return the key node (for lists: the item) and the value node that `step` leads to."""
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step], node.value[step]
    if isinstance(node, yaml.MappingNode):
        return next(((key, item) for key, item in reversed(node.value) if key.value == str(step)), None)
    return None
