"""Condenses the files that did not fit a planner's room: each group is summarised, then the summaries together.

A group's summary is cached under the hashes of its contents, so an unchanged file is never paid for twice.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

from blueprint_llm.errors import BlueprintError
from blueprint_llm.planning.codebase import SourceFile, outline
from blueprint_llm.planning.steps import Chat
from blueprint_llm.types import ChatRequest, ContextPart

if TYPE_CHECKING:
    from pathlib import Path

# Bounds the cost: what ranks below this many groups is left at its place in the project map.
_MAX_GROUPS, _GROUP_TOKENS, _SUMMARY_TOKENS = 8, 6000, 400
_HEAD_CHARS = 1500
_TASK = "Say in at most ten short lines what the given parts of a project are for and how they depend on each other."

Walk = Generator[Chat, Any, str]


class SummaryCache:
    """Summaries on disk, one file each; without a folder it only remembers until it is dropped."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._memory: dict[str, str] = {}

    def get(self, key: str) -> str | None:
        """The summary under a key, if there is one."""
        if key not in self._memory and self._folder is not None and (path := self._folder / f"{key}.txt").is_file():
            self._memory[key] = path.read_text("utf-8")
        return self._memory.get(key)

    def put(self, key: str, summary: str) -> None:
        """Remember a summary; a reader never sees half of it."""
        self._memory[key] = summary
        if self._folder is not None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary = self._folder / f"{key}.{os.getpid()}.tmp"
            temporary.write_text(summary, "utf-8")
            temporary.replace(self._folder / f"{key}.txt")


def summarise(
    files: Sequence[SourceFile], provider: str, cache: SummaryCache
) -> Generator[Chat, Any, ContextPart | None]:
    """One part that stands for the files; None where the provider could not be brought to say anything."""
    summaries = []
    for group in _groups(files):
        key = _key(provider, [f"{file.path}:{file.blob}" for file in group])
        parts = [ContextPart(kind="snippet", source=file.path, text=_short(file)) for file in group]
        summaries.append((yield from _cached(key, parts, provider, cache)))
    known = [text for text in summaries if text]
    if len(known) > 1:
        parts = [ContextPart(kind="memory", source=f"summary {n}", text=text) for n, text in enumerate(known, 1)]
        known = [(yield from _cached(_key(provider, known), parts, provider, cache)) or "\n".join(known)]
    return ContextPart(kind="project_map", source="summary of further files", text=known[0]) if known else None


def _cached(key: str, parts: Sequence[ContextPart], provider: str, cache: SummaryCache) -> Walk:
    if (known := cache.get(key)) is not None:
        return known
    request = ChatRequest.model_validate(
        {
            "messages": [{"role": "user", "content": _TASK}],
            "context": tuple(parts),
            "provider": provider,
            "fallback": False,
            "temperature": 0,
            "max_tokens": _SUMMARY_TOKENS,
            "task_type": "planning",
        }
    )
    try:
        response = yield Chat(request=request, purpose="summary")
    except BlueprintError:
        return ""  # a plan without this summary is still a plan
    summary = str(response.content).strip()
    cache.put(key, summary)
    return summary


def _key(provider: str, items: Sequence[str]) -> str:
    return hashlib.sha256("\n".join([provider, *items]).encode("utf-8", "replace")).hexdigest()


def _short(file: SourceFile) -> str:
    return outline(file.path, file.text)[:_HEAD_CHARS] or file.text[:_HEAD_CHARS]


def _groups(files: Sequence[SourceFile]) -> list[list[SourceFile]]:
    groups: list[list[SourceFile]] = [[]]
    room = _GROUP_TOKENS
    for file in files:
        cost = len(_short(file)) // 3 + 1
        if cost > room and groups[-1]:
            groups.append([])
            room = _GROUP_TOKENS
        groups[-1].append(file)
        room -= cost
    return [group for group in groups if group][:_MAX_GROUPS]
