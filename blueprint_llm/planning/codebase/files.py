"""Reads the text files of a project, leaving out what is ignored, binary or huge.

A file that cannot be read is a note, not a failure; a path that does not exist is.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from blueprint_llm.errors import PlanError
from blueprint_llm.planning.codebase.ignore import ALWAYS, Pattern, is_ignored, read_patterns

# Larger files are generated, vendored or data far more often than code.
MAX_BYTES = 512 * 1024

Progress = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """One text file: `path` is POSIX and relative to the codebase."""

    path: str
    text: str

    @cached_property
    def blob(self) -> str:
        """The hash of its content; equal content is never summarised twice."""
        return hashlib.sha256(self.text.encode("utf-8", "replace")).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Codebase:
    """What was read: the text files, every path that exists, and notes about what could not be read."""

    files: tuple[SourceFile, ...]
    paths: frozenset[str]
    notes: tuple[str, ...] = ()


def read_codebase(where: Path | Sequence[Path], progress: Progress | None = None) -> Codebase:
    """Reads a folder, or a list of files (relative to the deepest folder that holds them all).

    Args:
        where: A folder, one file, or several files.
        progress: Told how many files have been looked at.

    Raises:
        PlanError: A path does not exist.
    """
    given = [where] if isinstance(where, Path) else list(where)
    missing = [str(path) for path in given if not path.exists()]
    if missing or not given:
        raise PlanError(f"codebase not found: {', '.join(missing) or 'the list of files is empty'}")
    root = _root(given)
    found = (path for item in given for path in (_walk(root, item) if item.is_dir() else [item]))
    return _read_all(root, list(dict.fromkeys(found)), progress or (lambda _count: None))


def _root(given: Sequence[Path]) -> Path:
    if len(given) == 1:
        return given[0] if given[0].is_dir() else given[0].parent
    return Path(os.path.commonpath([str(path.absolute().parent) for path in given]))


def _read_all(root: Path, found: Sequence[Path], progress: Progress) -> Codebase:
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
        progress(count)
    return Codebase(files=tuple(files), paths=frozenset(names), notes=tuple(notes))


def _text(path: Path) -> str | None:
    """The text of a file; None for binary and huge ones."""
    if path.stat().st_size > MAX_BYTES:
        return None
    content = path.read_bytes()
    return None if b"\0" in content[:8192] else content.decode("utf-8", "replace")


def _walk(root: Path, top: Path) -> Iterator[Path]:
    """Every file under `top` that no `.gitignore` leaves out; symbolic links are not followed."""
    patterns: list[Pattern] = []
    for folder, folders, names in os.walk(top):
        here = Path(os.path.relpath(folder, root)).as_posix()
        here = "" if here == "." else f"{here}/"
        if ".gitignore" in names:
            text = Path(folder, ".gitignore").read_text("utf-8", "replace")
            patterns = patterns + read_patterns(text, here.rstrip("/"))
        rules = [
            pattern for pattern in patterns if f"{here}/".startswith(f"{pattern.folder}/" if pattern.folder else "")
        ]
        folders[:] = sorted(
            name for name in folders if name not in ALWAYS and not is_ignored(here + name, rules, is_folder=True)
        )
        yield from (
            Path(folder, name)
            for name in sorted(names)
            if not Path(folder, name).is_symlink() and not is_ignored(here + name, rules, is_folder=False)
        )
