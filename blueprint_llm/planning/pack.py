"""Chooses what of a project a planner reads: a map, the best files whole, outlines of the next, the rest named.

Parts are typed, so that the policy of whichever provider is asked decides anew what may pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from blueprint_llm.context import estimate
from blueprint_llm.planning.codebase import CodeIndex, FileTerms, SourceFile, outline, terms_of
from blueprint_llm.types import ContextPart

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from blueprint_llm.planning.codebase.files import Codebase

# Shares of the room: a planner needs to know what exists, then the code it will change, then its surroundings.
_MAP_SHARE, _WHOLE_SHARE, _OUTLINE_SHARE = 0.1, 0.6, 0.25
_PART_FRAME_TOKENS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A codebase with its files in the order in which they matter for one goal."""

    codebase: Codebase
    ranked: tuple[SourceFile, ...]

    @property
    def bytes(self) -> int:
        """The size of all texts, for shares."""
        return sum(len(file.text) for file in self.ranked) or 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """Parts that fit a room, and the files that are in none of them."""

    parts: tuple[ContextPart, ...]
    overflow: tuple[SourceFile, ...]


class Ranker:
    """Ranks files for goals; what it learnt of a file's content it keeps for the next time."""

    def __init__(self) -> None:
        self._terms: dict[tuple[str, str], FileTerms] = {}

    def project(self, codebase: Codebase, query: str) -> Project:
        """The files of a codebase, those the query is about first."""
        files = {file.path: file for file in codebase.files}
        best = [path for path, _ in CodeIndex(map(self._of, codebase.files)).rank(query, limit=len(files))]
        order = [*best, *sorted(files.keys() - set(best))]
        return Project(codebase=codebase, ranked=tuple(files[path] for path in order))

    def _of(self, file: SourceFile) -> FileTerms:
        key = (file.path, file.blob)
        if key not in self._terms:
            self._terms[key] = terms_of(file.path, file.text)
        return self._terms[key]


def build_pack(project: Project, room_tokens: int) -> Pack:
    """What of a project fits a room, best first."""
    total = project.bytes
    overview = _map(sorted(project.codebase.paths), int(room_tokens * _MAP_SHARE))
    whole = list(_take((_part("file", f, f.text, total) for f in project.ranked), int(room_tokens * _WHOLE_SHARE)))
    taken = {part.source for part in whole}
    rest = [file for file in project.ranked if file.path not in taken]
    outlines = (_part("snippet", f, text, total) for f in rest if (text := outline(f.path, f.text)))
    shown = list(_take(outlines, int(room_tokens * _OUTLINE_SHARE)))
    taken |= {part.source for part in shown}
    overflow = tuple(file for file in rest if file.path not in taken)
    return Pack(parts=(overview, *whole, *shown), overflow=overflow)


def _part(kind: str, file: SourceFile, text: str, total: int) -> ContextPart:
    return ContextPart.model_validate(
        {"kind": kind, "source": file.path, "text": text, "share": min(1.0, len(text) / total)}
    )


def _take(parts: Iterable[ContextPart], room: int) -> Iterator[ContextPart]:
    """The parts that fit, in order; one that is too large is passed over, and a few in a row end the search."""
    missed = 0
    for part in parts:
        if part.tokens + _PART_FRAME_TOKENS <= room:
            room -= part.tokens + _PART_FRAME_TOKENS
            yield part
        elif (missed := missed + 1) > 5:  # noqa: PLR2004 - the room is as good as full
            return


def _map(paths: Sequence[str], room: int) -> ContextPart:
    """Every path, or as many as fit."""
    lines: list[str] = []
    for path in paths:
        room -= estimate(path + "\n")
        if room < 0:
            lines.append(f"... and {len(paths) - len(lines)} more files")
            break
        lines.append(path)
    return ContextPart(kind="project_map", source="files", text="\n".join(lines))
