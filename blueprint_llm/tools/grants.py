"""Remember what a person approved beyond one call: these exact arguments of this tool, in this workspace."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from blueprint_llm.config.paths import folder
from blueprint_llm.errors import ToolError
from blueprint_llm.tools.locking import locked
from blueprint_llm.tools.secretbox import read_sealed, state_folder, write_sealed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from blueprint_llm.types import Tool


class Grants:
    """Approvals for the session, and lasting ones in a sealed file.

    Args:
        workspace: Whose approvals they are.
        key: Seals the file; asked for only when there is one.
    """

    def __init__(self, workspace: str, key: Callable[[], bytes]) -> None:
        self._workspace, self._key = workspace, key
        self._session: set[str] = set()
        self._lasting: set[str] | None = None

    def holds(self, tool: Tool, arguments: str, effects: Sequence[str]) -> bool:
        """Whether this very call, with these effects, was approved to be repeated; `arguments` is JSON."""
        mark = self._mark(tool, arguments, effects)
        return mark in self._session or mark in self._loaded()

    def add(self, tool: Tool, arguments: str, effects: Sequence[str], *, lasting: bool) -> None:
        """Remember an approval."""
        mark = self._mark(tool, arguments, effects)
        self._session.add(mark)
        if lasting:
            place = state_folder("tools") / f"grants-{self._workspace}.json"
            with locked(place.with_suffix(".lock")):
                self._lasting = None
                self._lasting = self._loaded() | {mark}
                write_sealed(place, self._key(), "grants", sorted(self._lasting))

    def _mark(self, tool: Tool, arguments: str, effects: Sequence[str]) -> str:
        parts = json.dumps([self._workspace, tool.model_dump(), json.loads(arguments), *effects], sort_keys=True)
        return hashlib.sha256(parts.encode()).hexdigest()

    def _loaded(self) -> set[str]:
        if self._lasting is None:
            place = folder("state") / "tools" / f"grants-{self._workspace}.json"
            try:
                self._lasting = set(read_sealed(place, self._key(), "grants")) if place.exists() else set()
            except ToolError:
                self._lasting = set()  # a changed file grants nothing
        return self._lasting
