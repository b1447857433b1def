"""Reads the text files of a project, leaving out what is ignored, binary or huge.

The only module of `planning` that touches the disk of a project. A file that cannot be read is a note, not a failure;
a path that does not exist is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

from blueprint_llm.errors import PlanError

# Larger files are generated, vendored or data far more often than code.
MAX_BYTES = 512 * 1024
# What no plan wants to read, even where nobody ignored it.
_ALWAYS = frozenset({".git", ".hg", ".svn", ".venv", "venv", "node_modules", "__pycache__", ".tox", ".mypy_cache"})

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """One text file: `path` is POSIX and relative to the codebase."""

    path: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Codebase:
    """What was read: the text files, every path that exists, and notes about what could not be read."""

    files: tuple[SourceFile, ...]
    paths: frozenset[str]
    notes: tuple[str, ...] = ()


def read_codebase(where: Path | Sequence[Path], progress: Progress | None = None) -> Codebase:
    """Read a folder, or a list of files (relative to the deepest folder that holds them all).

    Args:
        where: A folder, one file, or several of both.
        progress: Told how many files have been looked at.

    Raises:
        PlanError: A path does not exist.
    """
    given = [where] if isinstance(where, Path) else list(where)
    missing = [str(path) for path in given if not path.exists()]
    if missing or not given:
        raise PlanError(f"codebase not found: {', '.join(missing) or 'the list of files is empty'}")
    if len(given) == 1:
        root = given[0] if given[0].is_dir() else given[0].parent
    else:
        root = Path(os.path.commonpath([str(path.absolute().parent) for path in given]))
    found = dict.fromkeys(path for item in given for path in (_walk(item, ()) if item.is_dir() else [item]))
    files: list[SourceFile] = []
    notes: list[str] = []
    names = [Path(os.path.relpath(path, root)).as_posix() for path in found]
    for count, (path, name) in enumerate(zip(found, names, strict=True), 1):
        try:
            text = _text(path)
        except OSError as error:
            notes.append(f"{name}: not read ({error.strerror})")
            continue
        if text is not None:
            files.append(SourceFile(path=name, text=text))
        if progress is not None:
            progress(count)
    return Codebase(files=tuple(files), paths=frozenset(names), notes=tuple(notes))


def _text(path: Path) -> str | None:
    """Return the text of a file; None for binary and huge ones."""
    if path.stat().st_size > MAX_BYTES:
        return None
    content = path.read_bytes()
    return None if b"\0" in content[:8192] else content.decode("utf-8", "replace")


def _walk(folder: Path, rules: tuple[tuple[Path, GitIgnoreSpec], ...]) -> Iterator[Path]:
    """Yield every file under `folder` that no `.gitignore` leaves out; symbolic links are not followed."""
    try:
        entries = sorted(folder.iterdir())
    except OSError:  # what may not be listed is not part of what can be planned
        return
    ignore = folder / ".gitignore"
    if ignore.is_file():
        rules = (*rules, (folder, GitIgnoreSpec.from_lines(ignore.read_text("utf-8", "replace").split("\n"))))
    for entry in entries:
        if entry.is_symlink() or entry.name in _ALWAYS:
            continue
        is_folder = entry.is_dir()
        if _is_ignored(entry, rules, is_folder=is_folder):
            continue
        if is_folder:
            yield from _walk(entry, rules)
        else:
            yield entry


def _is_ignored(path: Path, rules: tuple[tuple[Path, GitIgnoreSpec], ...], *, is_folder: bool) -> bool:
    """Return True if the deepest `.gitignore` that says something of a path leaves it out."""
    for folder, spec in reversed(rules):
        verdict = spec.check_file(path.relative_to(folder).as_posix() + "/" * is_folder).include
        if verdict is not None:
            return verdict
    return False
