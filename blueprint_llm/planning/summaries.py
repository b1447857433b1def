"""Condenses the files that did not fit a planner's room: each group is summarised, then the summaries together.

A summary is cached under the hashes of what it is of, so an unchanged file is never paid for twice.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from blueprint_llm.errors import BlueprintError
from blueprint_llm.types import ChatRequest, ChatResponse, ContextPart

if TYPE_CHECKING:
    from pathlib import Path

    from blueprint_llm.planning.codebase import SourceFile

# Bounds the cost: what ranks below this many files is left at its place in the project map.
_GROUPS, _FILES_A_GROUP, _HEAD_CHARS, _SUMMARY_TOKENS = 8, 12, 1500, 400
_TASK = "Say in at most ten short lines what the given parts of a project are for and how they depend on each other."

Chat = Callable[[ChatRequest], Awaitable[ChatResponse]]


class Summaries:
    """Summaries by one provider, kept in a folder, one file each; without a folder they are not kept."""

    def __init__(self, chat: Chat, provider: str | None, folder: Path | None = None) -> None:
        self._chat, self._provider, self._folder = chat, provider, folder

    async def of(self, files: Sequence[SourceFile]) -> ContextPart | None:
        """Return one part that stands for the files; None where the provider could not be brought to say anything."""
        groups = [files[n : n + _FILES_A_GROUP] for n in range(0, len(files), _FILES_A_GROUP)][:_GROUPS]
        texts = []
        for group in groups:
            parts = [ContextPart(kind="snippet", source=file.path, text=file.text[:_HEAD_CHARS]) for file in group]
            texts.append(await self._summary(parts))
        known = [text for text in texts if text]
        if len(known) > 1:
            parts = [ContextPart(kind="memory", source=f"summary {n}", text=text) for n, text in enumerate(known, 1)]
            known = [await self._summary(parts) or "\n".join(known)]
        return ContextPart(kind="project_map", source="summary of further files", text=known[0]) if known else None

    async def _summary(self, parts: Sequence[ContextPart]) -> str:
        content = "\n".join([self._provider or "", *(f"{part.source}\n{part.text}" for part in parts)])
        name = hashlib.sha256(content.encode("utf-8", "replace")).hexdigest() + ".txt"
        if self._folder is not None and (self._folder / name).is_file():
            return (self._folder / name).read_text("utf-8")
        request = ChatRequest.model_validate(
            {
                "messages": [{"role": "user", "content": _TASK}],
                "context": tuple(parts),
                "provider": self._provider,
                "fallback": self._provider is None,
                "temperature": 0,
                "max_tokens": _SUMMARY_TOKENS,
                "task_type": "planning",
            }
        )
        try:
            response = await self._chat(request)
        except BlueprintError:
            return ""  # a plan without this summary is still a plan
        summary = str(response.content).strip()
        if self._folder is not None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary = self._folder / f"{name}.{os.getpid()}.tmp"
            temporary.write_text(summary, "utf-8")
            temporary.replace(self._folder / name)
        return summary
