"""The built-in tools on files: read, list, search, write and patch, all through the confined root."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import SchemaError, SchemaValidator, core_schema

from blueprint_llm.tools.arguments import BadArgumentsError
from blueprint_llm.tools.boundary import secrecy
from blueprint_llm.tools.journal import Journal, load
from blueprint_llm.tools.patch import PatchError, Staged, Stored, parse_patch, stage
from blueprint_llm.tools.registry import Claims, tool
from blueprint_llm.tools.workspace import Located, Workspace, glob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from blueprint_llm.tools.workspace import Root

_MAX_ENTRIES = 5000
_MAX_HITS = 500
_MAX_SEARCHED_BYTES = 2_000_000
_NOISE = frozenset({".git", ".hg", ".svn", "__pycache__", "node_modules", ".venv", ".mypy_cache", ".ruff_cache"})


class FileTools:
    """Tools bound to one workspace.

    Args:
        workspace: Where paths are resolved.
        root: Through which files are opened.
        journal: Through which they are changed.
        shuts: Whether a rule keeps a path from a tool, asked of what a walk comes upon.
    """

    def __init__(self, workspace: Workspace, root: Root, journal: Journal, shuts: Callable[[str, str], bool]) -> None:
        self._workspace, self._root, self._journal, self._shuts = workspace, root, journal, shuts

    @tool(effect="read", paths=("path",), parallel=True, idempotent=True)
    def read_file(self, path: str) -> str:
        """Read a text file of the workspace."""
        stored = load(self._root, self._workspace.locate(path).path)
        if stored is None:
            raise FileNotFoundError(2, "no such file", path)
        if b"\0" in stored.content[:8192]:
            raise ValueError(f"{path} is not a text file ({len(stored.content)} bytes)")
        return stored.content.decode("utf-8", "replace")

    @tool(effect="read", paths=("path",), parallel=True, idempotent=True)
    def list_files(self, path: str, pattern: str = "**") -> str:
        """List the files below a folder, one path a line; `pattern` is a glob on the path below that folder."""
        shape = glob(pattern if "/" in pattern or "**" in pattern else f"**/{pattern}").pattern.removesuffix(r"\Z")
        matches = _linear_search(rf"(?s)\A{shape}\z")
        found = []
        top = self._workspace.locate(path).path
        for name in self._walk(top):
            if (pattern == "**" or matches(name)) and not self._shuts("list_files", _joined(top, name)):
                found.append(name)
            if len(found) >= _MAX_ENTRIES:
                return "\n".join([*found, f"... cut at {_MAX_ENTRIES} files: give a narrower pattern"])
        return "\n".join(found) or "no files"

    @tool(effect="read", paths=("path",), parallel=True, idempotent=True)
    def search_files(self, pattern: str, path: str = ".") -> str:
        """Search text files for a regular expression (Rust syntax); one `file:line: text` a line."""
        place = self._workspace.locate(path)
        hits: list[str] = []
        finds = _linear_search(pattern)
        for name, content in self._texts(place):
            if finds(content):
                lines = content.split("\n")
                hits += [f"{name}:{number}: {line[:400]}" for number, line in enumerate(lines, 1) if finds(line)]
            if len(hits) >= _MAX_HITS:
                return "\n".join([*hits[:_MAX_HITS], f"... cut at {_MAX_HITS} lines: give a narrower pattern"])
        return "\n".join(hits) or "no match"

    @tool(effect="write", paths=("path",))
    def write_file(self, path: str, content: str) -> str:
        """Write a whole text file of the workspace, in place of what was there."""
        return self._apply(self.write_claims({"path": path, "content": content}).staged)

    @tool(effect="write")
    def patch(self, patch: str) -> str:
        """Change files (all or none): unified diff, a `*** Begin Patch` block, or a path and <<<<<<< SEARCH blocks."""
        return self._apply(self.patch_claims({"patch": patch}).staged)

    def write_claims(self, arguments: Mapping[str, Any]) -> Claims:
        """The file that `write_file` would leave behind."""
        place = self._workspace.locate(arguments["path"])
        before = load(self._root, place.path)
        after = Stored(content=arguments["content"].encode(), mode=before.mode if before else 0o644)
        return Claims(places=(place,), staged=(Staged(path=place.path, before=before, after=after),))

    def patch_claims(self, arguments: Mapping[str, Any]) -> Claims:
        """The files that `patch` would leave behind."""
        places: dict[str, Located] = {}

        def found(path: str) -> Located:
            return places.setdefault(path, self._workspace.locate(path))

        try:
            edits = parse_patch(arguments["patch"])
            for edit in edits:
                edit.path = found(edit.path).path
                edit.moved_to = found(edit.moved_to).path if edit.moved_to else None
            staged = stage(edits, lambda path: load(self._root, path))
        except (PatchError, OSError) as error:
            hint = getattr(error, "hint", "")
            raise BadArgumentsError(f"patch: {error}", quote=hint, quoted=tuple(places.values())) from None
        return Claims(places=tuple(places.values()), staged=tuple(staged))

    def _apply(self, staged: tuple[Staged, ...]) -> str:
        self._journal.apply(self._root, staged)
        verbs = ("created" if not item.before else "changed" if item.after else "deleted" for item in staged)
        return "\n".join(f"{verb} {item.path}" for verb, item in zip(verbs, staged, strict=True)) or "nothing to change"

    def _walk(self, path: str) -> Iterator[str]:
        """Every plain file below a folder, by its path below it."""
        with self._root.folder(path) as top:
            for folder, folders, files, _ in os.fwalk(".", dir_fd=top, follow_symlinks=False):
                folders[:] = sorted(name for name in folders if name not in _NOISE)
                below = folder.removeprefix(".").lstrip("/")
                yield from (f"{below}/{name}".lstrip("/") for name in sorted(files))

    def _texts(self, place: Located) -> Iterator[tuple[str, str]]:
        top = place.path
        is_file = Path(self._workspace.root, top).is_file()  # only picks a way: opening is confined
        for name in [""] if is_file else list(self._walk(top)):
            path = _joined(top, name)
            if secrecy(path) or self._shuts("search_files", path) or self._shuts("read_file", path):
                continue
            try:
                content, _ = self._root.read(path, _MAX_SEARCHED_BYTES)
            except OSError:
                continue
            if b"\0" not in content[:8192] and len(content) <= _MAX_SEARCHED_BYTES:
                yield path, content.decode("utf-8", "replace")


def _joined(top: str, name: str) -> str:
    return "/".join(part for part in (top if top != "." else "", name) if part)


def _linear_search(pattern: str) -> Any:
    """A search whose time is linear in the text, so that no pattern of a model can hang it."""
    try:
        return SchemaValidator(core_schema.str_schema(pattern=f"(?m){pattern}")).isinstance_python
    except SchemaError:
        raise BadArgumentsError(f"pattern: {pattern!r} is not a regular expression") from None
