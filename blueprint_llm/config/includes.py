"""Joins the files that `include` names into the document that names them, as LiteLLM's proxy does.

Lists are appended, everything else is replaced. The documents are joined as nodes, so that every value keeps the
place it has in its own file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml

from blueprint_llm.config.problems import Place, Rejected
from blueprint_llm.config.tree import compose

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_KEY = "include"


def join_includes(
    root: yaml.MappingNode, file: Path, permit: Callable[[str], None]
) -> tuple[list[tuple[Place, str]], list[str]]:
    """Extend `root` (read from `file`) by all it includes, each file once.

    `permit` is told each name before its file is opened, and may raise.

    Returns:
        What went wrong, and the names that were included.
    """
    mistakes: list[tuple[Place, str]] = []
    loaded, names = {file.resolve()}, []
    waiting = _take(root, file, mistakes)
    while waiting:
        entry, declared_in = waiting.pop(0)
        permit(entry.value)
        names.append(entry.value)
        path = _resolve(entry.value, declared_in, file)
        if path in loaded:
            continue
        loaded.add(path)
        if included := _read(path, entry, mistakes):
            waiting += _take(included, path, mistakes)
            _merge(root, included)
    return mistakes, names


def _take(node: yaml.MappingNode, file: Path, mistakes: list[tuple[Place, str]]) -> list[tuple[yaml.ScalarNode, Path]]:
    """Remove `include` from a document; its entries, each with the file that names it."""
    values = [value for key, value in node.value if key.value == _KEY]
    node.value = [pair for pair in node.value if pair[0].value != _KEY]
    entries = [
        entry for value in values for entry in (value.value if isinstance(value, yaml.SequenceNode) else [value])
    ]
    wrong = [entry for entry in entries if not isinstance(entry, yaml.ScalarNode)]
    mistakes += [(Place.of(entry.start_mark), "include: must be a list of file names") for entry in wrong]
    return [(entry, file) for entry in entries if isinstance(entry, yaml.ScalarNode)]


def _resolve(name: str, declared_in: Path, root: Path) -> Path:
    """The file next to the one that names it, else next to the first file of all."""
    near, far = (folder.parent.joinpath(name) for folder in (declared_in, root))
    return (far if far.exists() and not near.exists() else near).resolve()


def _read(path: Path, entry: yaml.ScalarNode, mistakes: list[tuple[Place, str]]) -> yaml.MappingNode | None:
    try:
        node = compose(path.read_bytes(), path.name)
    except OSError as error:
        mistakes.append((Place.of(entry.start_mark), f"include: {entry.value}: {error.strerror}"))
        return None
    except Rejected as rejected:
        mistakes += [(finding.place, finding.text) for finding in rejected.findings]
        return None
    if not isinstance(node, yaml.MappingNode):
        mistakes.append((Place.of(entry.start_mark), f"include: {entry.value} is not a mapping of settings"))
        return None
    return node


def _merge(root: yaml.MappingNode, included: yaml.MappingNode) -> None:
    own = {key.value: (key, value) for key, value in root.value}
    for key, value in included.value:
        present = own.get(key.value)
        if present and isinstance(present[1], yaml.SequenceNode) and isinstance(value, yaml.SequenceNode):
            present[1].value.extend(value.value)
        else:
            own[key.value] = (key, value)
    root.value = list(own.values())
