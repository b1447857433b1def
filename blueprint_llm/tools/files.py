"""The built-in tools on files: read, list, search, write and patch, all through the confined root.

Several files change at once: all of them or none, also when the process is killed half way. The new bytes are written
to temporary files first and recorded in a journal; then each file is renamed into place. Whoever opens the workspace
next finds a journal that says `apply` and rolls forward, or any other and sweeps it away.
"""

from __future__ import annotations

import errno
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import SchemaError, SchemaValidator, core_schema

from blueprint_llm.tools.boundary import secrecy
from blueprint_llm.tools.patch import PatchError, Staged, Stored, digest, parse_patch, stage
from blueprint_llm.tools.registry import BadArgumentsError, Claims, tool
from blueprint_llm.tools.sealed import locked, write_whole
from blueprint_llm.tools.workspace import ConfinementError, Located, Root, Workspace, glob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

MAX_FILE_BYTES = 16_000_000
_MAX_ENTRIES = 5000
_MAX_HITS = 500
_MAX_SEARCHED_BYTES = 2_000_000
_NOISE = frozenset({".git", ".hg", ".svn", "__pycache__", "node_modules", ".venv", ".mypy_cache", ".ruff_cache"})


class FileTools:
    """Tools bound to one workspace. `shuts` says whether a rule keeps a file that a walk comes upon from a tool.

    They act on the `claims` that were judged, and not on their arguments again.
    """

    def __init__(self, workspace: Workspace, root: Root, journal: Journal, shuts: Callable[[str, str], bool]) -> None:
        self._workspace, self._root, self._journal, self._shuts = workspace, root, journal, shuts

    @tool(effect="read", paths=("path",), parallel=True, idempotent=True, judged=True)
    def read_file(self, path: str, *, claims: Claims) -> str:
        """Read a text file of the workspace."""
        stored = load(self._root, claims.places[0].path)  # as it was judged: a link may lead elsewhere by now
        if stored is None:
            raise FileNotFoundError(2, "no such file", path)
        if b"\0" in stored.content[:8192]:
            raise ValueError(f"{path} is not a text file ({len(stored.content)} bytes)")
        return stored.content.decode("utf-8", "replace")

    @tool(effect="read", paths=("path",), parallel=True, idempotent=True, judged=True)
    def list_files(self, path: str, pattern: str = "**", *, claims: Claims) -> str:  # noqa: ARG002 - see `claims`
        """List the files below a folder, one path a line; `pattern` is a glob on the path below that folder."""
        shape = glob(pattern if "/" in pattern or "**" in pattern else f"**/{pattern}").pattern.removesuffix(r"\Z")
        matches = _linear_search(rf"(?s)\A{shape}\z")
        found = []
        for name, whole in self._walk(claims.places[0].path):
            if (pattern == "**" or matches(name)) and not self._shuts("list_files", whole):
                found.append(name)
            if len(found) >= _MAX_ENTRIES:
                return "\n".join([*found, f"... cut at {_MAX_ENTRIES} files: give a narrower pattern"])
        return "\n".join(found) or "no files"

    @tool(effect="read", paths=("path",), parallel=True, idempotent=True, judged=True)
    def search_files(self, pattern: str, path: str = ".", *, claims: Claims) -> str:  # noqa: ARG002 - see `claims`
        """Search text files for a regular expression (Rust syntax); one `file:line: text` a line."""
        hits: list[str] = []
        linked: list[str] = []
        finds = _linear_search(pattern)
        for name, content in self._texts(claims.places[0].path, linked):
            if finds(content):
                lines = content.split("\n")
                hits += [f"{name}:{number}: {line[:400]}" for number, line in enumerate(lines, 1) if finds(line)]
            if len(hits) >= _MAX_HITS:
                return "\n".join([*hits[:_MAX_HITS], f"... cut at {_MAX_HITS} lines: give a narrower pattern"])
        if linked:  # one of them may be a denied file under another name
            hits.append(
                f"... {len(linked)} files with several hard links were not searched, such as {linked[0]}: read it"
            )
        return "\n".join(hits) or "no match"

    @tool(effect="write", paths=("path",), judged=True)
    def write_file(self, path: str, content: str, *, claims: Claims) -> str:  # noqa: ARG002 - see `claims`
        """Write a whole text file of the workspace, in place of what was there."""
        return self._apply(claims.staged)

    @tool(effect="write", judged=True)
    def patch(self, patch: str, *, claims: Claims) -> str:  # noqa: ARG002 - see `claims`
        """Change files (all or none): unified diff, a `*** Begin Patch` block, or a path and <<<<<<< SEARCH blocks."""
        return self._apply(claims.staged)

    def write_claims(self, arguments: Mapping[str, Any]) -> Claims:
        """The file that `write_file` would leave behind."""
        place = self._workspace.locate(arguments["path"])
        before = load(self._root, place.path)
        after = Stored(content=arguments["content"].encode(), mode=before.mode if before else 0o644)
        return Claims(places=(place,), staged=(Staged(path=place.path, before=before, after=after),))

    def patch_claims(self, arguments: Mapping[str, Any]) -> Claims:
        """The files that `patch` would leave behind."""
        places: dict[str, Located] = {}
        try:
            edits = parse_patch(arguments["patch"])
            for edit in edits:
                for path in (edit.path, edit.moved_to or edit.path):
                    places[path] = places.get(path) or self._workspace.locate(path)
                edit.path = places[edit.path].path
                edit.moved_to = places[edit.moved_to].path if edit.moved_to else None
            staged = stage(edits, lambda path: load(self._root, path))
        except (PatchError, OSError) as error:
            hint = getattr(error, "hint", "")
            raise BadArgumentsError(f"patch: {error}", quote=hint, quoted=tuple(places.values())) from None
        return Claims(places=tuple(places.values()), staged=tuple(staged))

    def _apply(self, staged: tuple[Staged, ...]) -> str:
        self._journal.apply(self._root, staged)
        verbs = ("created" if not item.before else "changed" if item.after else "deleted" for item in staged)
        return "\n".join(f"{verb} {item.path}" for verb, item in zip(verbs, staged, strict=True)) or "nothing to change"

    def _walk(self, path: str) -> Iterator[tuple[str, str]]:
        """Every plain file below a folder, by its path below it, and by that in the workspace."""
        above = "" if path == "." else f"{path}/"
        with self._root.folder(path) as top:
            for folder, folders, files, _ in os.fwalk(".", dir_fd=top, follow_symlinks=False):
                folders[:] = sorted(name for name in folders if name not in _NOISE)
                below = folder.removeprefix(".").lstrip("/")
                names = [f"{below}/{name}".lstrip("/") for name in sorted(files)]
                yield from ((name, above + name) for name in names)

    def _texts(self, top: str, linked: list[str]) -> Iterator[tuple[str, str]]:
        is_file = Path(self._workspace.root, top).is_file()  # only picks a way: opening is confined
        for path in [top] if is_file else [whole for _, whole in self._walk(top)]:
            if secrecy(path) or self._shuts("search_files", path) or self._shuts("read_file", path):
                continue
            with suppress(OSError):
                if not is_file and os.stat(path, dir_fd=self._root.fd, follow_symlinks=False).st_nlink > 1:
                    linked.append(path)
                    continue
                content, _ = self._root.read(path, _MAX_SEARCHED_BYTES)
                if b"\0" not in content[:8192] and len(content) <= _MAX_SEARCHED_BYTES:
                    yield path, content.decode("utf-8", "replace")


def _linear_search(pattern: str) -> Any:
    """A search whose time is linear in the text, so that no pattern of a model can hang it."""
    try:
        return SchemaValidator(core_schema.str_schema(pattern=f"(?m){pattern}")).isinstance_python
    except SchemaError:
        raise BadArgumentsError(f"pattern: {pattern!r} is not a regular expression") from None


# Changing files.


class ChangedError(ConfinementError):
    """A file is not what it was when the change was prepared; nothing was touched."""


def load(root: Root, path: str) -> Stored | None:
    """Return a file as it is now. Raises OSError when it cannot be read, or is larger than `MAX_FILE_BYTES`."""
    try:
        content, mode = root.read(path, MAX_FILE_BYTES)
    except FileNotFoundError:
        return None
    if len(content) > MAX_FILE_BYTES:
        raise ConfinementError(errno.EFBIG, f"is larger than {MAX_FILE_BYTES} bytes", path)
    return Stored(content=content, mode=mode)


class Journal:
    """A folder of journals outside the workspace, for one workspace."""

    def __init__(self, folder: Path, random: Callable[[int], bytes]) -> None:
        self._folder, self._random = folder, random

    def apply(self, root: Root, staged: Sequence[Staged]) -> None:
        """Make every change, or none.

        Raises ChangedError if a file differs from what the change was made for, OSError if it cannot be prepared.
        """
        with locked(self._folder / "lock"):
            self._recover(root)
            token, files = self._random(8).hex(), []
            for number, item in enumerate(staged):
                above, _, name = item.path.rpartition("/")
                files.append([above or ".", name, f".blueprint-{token}-{number}" if item.after else ""])
            place = self._folder / f"{token}.json"
            try:
                write_whole(place, json.dumps(["prepare", files]).encode())
                _prepare(root, staged, files)
                write_whole(place, json.dumps(["apply", files]).encode())
            except BaseException:
                self._sweep(root, files, place)
                raise
            if stuck := self._finish(root, files, place):
                raise ChangedError(errno.ESTALE, "changed while the patch was applied: read it again", ", ".join(stuck))

    def recover(self, root: Root) -> None:
        """Finish or undo what a killed process left behind."""
        if self._folder.is_dir() and any(self._folder.glob("*.json")):
            with locked(self._folder / "lock"):
                self._recover(root)

    def _recover(self, root: Root) -> None:
        for place in sorted(self._folder.glob("*.json")):
            state, files = "prepare", []
            with suppress(ValueError):
                state, files = json.loads(place.read_bytes())
            (self._finish if state == "apply" else self._sweep)(root, files, place)

    def _finish(self, root: Root, files: list[list[str]], place: Path) -> list[str]:
        """Put every file in its place; return those where that was done before, or something else is in the way."""
        stuck = []
        for above, name, fresh in files:
            try:
                with root.folder(above) as folder:
                    if fresh:
                        os.rename(fresh, name, src_dir_fd=folder, dst_dir_fd=folder)
                    else:
                        os.unlink(name, dir_fd=folder)
            except OSError:  # the rest of the patch is applied all the same, and the journal must not stay for ever
                stuck.append(f"{above}/{name}".removeprefix("./"))
        self._sweep(root, files if stuck else [], place)
        return stuck

    def _sweep(self, root: Root, files: list[list[str]], place: Path) -> None:
        for above, _, fresh in files:
            if fresh:
                with suppress(OSError), root.folder(above) as folder:
                    os.unlink(fresh, dir_fd=folder)
        place.unlink(missing_ok=True)


def _prepare(root: Root, staged: Sequence[Staged], files: list[list[str]]) -> None:
    """Write the new files beside the old ones, and look whether those are still what the change was made for."""
    for item, (above, _, fresh) in zip(staged, files, strict=True):
        if item.after is not None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with (
                root.folder(above, create=True) as folder,
                os.fdopen(os.open(fresh, flags, 0o600, dir_fd=folder), "wb") as file,
            ):
                file.write(item.after.content)
                file.flush()
                os.fchmod(file.fileno(), item.after.mode)
                os.fsync(file.fileno())
    for item in staged:
        if digest(load(root, item.path)) != digest(item.before):
            raise ChangedError(errno.ESTALE, "changed since the patch was prepared", item.path)
