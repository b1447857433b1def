"""Chooses what of a project a planner reads: a map of it, then the best files whole.

Parts are typed, so that the policy of whichever provider is asked decides anew what may pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from blueprint_llm.context.tokens import BYTES_A_TOKEN, text_tokens
from blueprint_llm.planning.ranking import CodeIndex, named_in
from blueprint_llm.types import ContextPart

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blueprint_llm.planning.codebase import Codebase, SourceFile

# Shares of the room: a planner needs to know what exists, then the code it will change.
_MAP_SHARE = 0.1
_FRAME_TOKENS = 40
# So many files in a row that are too large end the search: the room is as good as full.
_MOST_MISSES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A codebase with its files in the order in which they matter for one goal; `named` are those it names."""

    codebase: Codebase
    ranked: tuple[SourceFile, ...]
    named: frozenset[str] = frozenset()


def rank_project(codebase: Codebase, query: str) -> Project:
    """Return the codebase with the files that the query is about first."""
    files = {file.path: file for file in codebase.files}
    best = CodeIndex.of_texts({path: file.text for path, file in files.items()}).rank(query)
    order = [*best, *sorted(files.keys() - set(best))]
    named = frozenset(named_in(query, codebase.paths))
    return Project(codebase=codebase, ranked=tuple(files[path] for path in order), named=named)


def build_pack(project: Project, room_tokens: int) -> tuple[list[ContextPart], list[SourceFile]]:
    """Return the parts of a project that fit a room, best first, and the files that are in none of them."""
    parts = [_map(sorted(project.codebase.paths), int(room_tokens * _MAP_SHARE))]
    overflow: list[SourceFile] = []
    room, missed = room_tokens - int(room_tokens * _MAP_SHARE), 0
    for file in project.ranked:
        part = ContextPart(kind="file", source=file.path, text=file.text)
        if part.tokens + _FRAME_TOKENS > room > 2 * _FRAME_TOKENS and file.path in project.named:
            part = _head(file, room - _FRAME_TOKENS)
        if missed <= _MOST_MISSES and part.tokens + _FRAME_TOKENS <= room:
            parts.append(part)
            room -= part.tokens + _FRAME_TOKENS
        else:
            overflow.append(file)
            missed += 1
    return parts, overflow


def _head(file: SourceFile, room_tokens: int) -> ContextPart:
    """Return the beginning of a file: one that the goal names is never left out for its size."""
    cut = "\n[cut: the file goes on]"
    head = file.text.encode("utf-8", "replace")[: room_tokens * BYTES_A_TOKEN - len(cut)].decode("utf-8", "ignore")
    return ContextPart(kind="snippet", source=file.path, text=head + cut)


def _map(paths: Sequence[str], room: int) -> ContextPart:
    """Return every path, or as many as fit."""
    lines: list[str] = []
    for path in paths:
        room -= text_tokens(path + "\n")
        if room < 0:
            lines.append(f"... and {len(paths) - len(lines)} more files")
            break
        lines.append(path)
    return ContextPart(kind="project_map", source="files", text="\n".join(lines))
