"""Find what a command must not see or change, in a workspace of any size.

A folder is read again only after it changed, so that looking at all of them costs a system call each.
"""

from __future__ import annotations

import os
import re
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from blueprint_llm.errors import ToolError
from blueprint_llm.tools.boundary import is_foreign, is_kept, is_outside, is_secret, is_within
from blueprint_llm.tools.paths import glob

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from blueprint_llm.config.tool_blocks import Sandbox

MOST_HIDDEN = 300  # each costs a mount, and mounting is quadratic: 300 take about 0.15 s
_SETTLED_NS = 50_000_000  # a folder changed later than this before it was read may change again within its time stamp


class Patterns:
    """Globs of rules, as one question. A pattern also covers what is below a folder of its name.

    Args:
        patterns: Relative to the workspace.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self.texts = tuple(dict.fromkeys(pattern.removeprefix("./").rstrip("/") or "." for pattern in patterns))
        self._any = self._compiled(self.texts)
        self._folders = self._compiled([text.removesuffix("/**") for text in self.texts])
        self._heads = tuple(re.split(r"[*?]", text)[0] for text in self.texts)

    @staticmethod
    def _compiled(texts: Sequence[str]) -> re.Pattern[str] | None:
        bodies = [glob(text).pattern.removesuffix(r"\Z") for text in texts]
        return re.compile(rf"(?:{'|'.join(bodies)})(?:/.*)?\Z", re.DOTALL) if bodies else None

    def match(self, path: str) -> bool:
        """Return True if a pattern covers `path`."""
        return self._any is not None and self._any.match(path) is not None

    def match_folder(self, path: str) -> bool:
        """Return True if everything below the folder `path` is covered."""
        return self._folders is not None and self._folders.match(path) is not None

    def may_match_below(self, path: str) -> bool:
        """Return False if no path below the folder `path` can match."""
        below = f"{path}/"
        return any(head.startswith(below) or below.startswith(head) for head in self._heads)


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What stands in a workspace that a command must not see or change; paths are relative to it.

    Attributes:
        hidden: Files and folders to hide, links among them resolved.
        kept: Files and folders that stay as they are.
        git_configs: Configurations of git repositories.
        links: Links whose names are hidden or kept, with what they point to.
        doubt: Why hiding would not be enough; empty: it is.
    """

    hidden: tuple[str, ...]
    kept: tuple[str, ...]
    git_configs: tuple[str, ...]
    links: tuple[tuple[str, str], ...]
    doubt: str = ""


@dataclass(slots=True)
class _Folder:
    """What a folder held when it changed last, so that it is read again only after a change."""

    changed_ns: int
    folders: list[str] = field(default_factory=list)
    marks: list[tuple[str, str]] = field(default_factory=list)


class Surveyor:
    """Finds what to hide and to keep in a workspace.

    Args:
        root: The workspace.
        hides: What rules deny to be read.
        keeps: What rules deny to be written.
        shows: Built-in secrets that the configuration shows all the same.
    """

    def __init__(self, root: str, hides: Patterns, keeps: Patterns, shows: Patterns) -> None:
        self._root, self._hides, self._keeps, self._shows = root, hides, keeps, shows
        self._known: dict[str, _Folder] = {}
        # What was hidden through a link stays hidden, also when the link is taken away while another command runs.
        self._through_links: set[str] = set()
        self._lock = threading.Lock()

    def survey(self) -> Survey:
        """Walk the workspace; folders that did not change are not read again.

        Raises:
            OSError: The workspace is gone.
        """
        with self._lock:
            return self._walked()

    def _walked(self) -> Survey:
        if self._hides.match_folder("."):
            return Survey(hidden=(".",), kept=(), git_configs=(), links=())
        found: dict[str, list[str]] = {"hidden": [], "kept": [], "git": [], "hidden link": [], "kept link": []}
        folders = [""]
        while folders:
            path = folders.pop()
            content = self._content(path)
            folders += content.folders
            for kind, name in content.marks:
                found[kind].append(name)
        links = [(name, str(Path(self._root, name).readlink())) for name in found["hidden link"] + found["kept link"]]
        self._through_links |= set(self._targets(found["hidden link"]))
        through = [path for path in self._through_links if os.path.lexists(f"{self._root}/{path}")]
        hidden = _outermost([*found["hidden"], *through])
        return Survey(
            hidden=hidden,
            kept=_outermost([*found["kept"], *self._targets(found["kept link"])], but=hidden),
            git_configs=tuple(name for name in found["git"] if not _lies_in(name, hidden)),
            links=tuple(links),
            doubt=self._doubt(hidden),
        )

    def _doubt(self, hidden: tuple[str, ...]) -> str:
        if len(hidden) > MOST_HIDDEN:
            return f"{len(hidden)} files would have to be hidden, more than {MOST_HIDDEN}: deny whole folders instead"
        for path in hidden:
            found = os.lstat(f"{self._root}/{path}")
            if found.st_nlink > 1 and not os.path.isdir(f"{self._root}/{path}"):  # noqa: PTH112 - a plain string
                return f"{path} has {found.st_nlink} hard links, and would be readable under its other name"
        return ""

    def _targets(self, links: Iterable[str]) -> Iterator[str]:
        """Where links lead, as far as that is inside the workspace: outside, nothing is seen anyway."""
        for link in links:
            real = os.path.realpath(f"{self._root}/{link}")
            if real.startswith(f"{self._root}/") and os.path.lexists(real):
                yield real[len(self._root) + 1 :]

    def _content(self, path: str) -> _Folder:
        place = f"{self._root}/{path}" if path else self._root
        try:
            stat = os.lstat(place)
            known = self._known.get(path)
            if known is not None and known.changed_ns == stat.st_ctime_ns:
                return known
            content = self._read(path, place)
        except FileNotFoundError:
            return _Folder(0)
        except PermissionError:  # a command could open it again, and what is in it is not known
            return _Folder(0, marks=[("hidden", path)])
        content.changed_ns = stat.st_ctime_ns if time.time_ns() - stat.st_ctime_ns > _SETTLED_NS else -1
        self._known[path] = content
        return content

    def _read(self, path: str, place: str) -> _Folder:
        content = _Folder(0)
        with os.scandir(place) as entries:
            listed = list(entries)
        names = {entry.name for entry in listed}
        is_repository = bool({"objects", "commondir"} & names) or path.rpartition("/")[2] == ".git"
        in_foreign = is_foreign(path)
        for entry in listed:
            inside = f"{path}/{entry.name}" if path else entry.name
            is_link = entry.is_symlink()
            is_folder = not is_link and entry.is_dir(follow_symlinks=False)
            kind = self._kind(
                inside, entry.name, is_folder=is_folder, is_repository=is_repository, in_foreign=in_foreign
            )
            if kind:
                content.marks.append((f"{kind} link" if is_link and kind != "git" else kind, inside))
            is_shut = kind == "hidden" or (is_repository and entry.name == "objects")
            is_ours = not is_foreign(inside) or self._hides.may_match_below(inside)
            if is_folder and not is_shut and is_ours:
                content.folders.append(inside)
        return content

    def _kind(self, path: str, name: str, *, is_folder: bool, is_repository: bool, in_foreign: bool) -> str:
        if self._hides.match_folder(path) if is_folder else self._hides.match(path):
            return "hidden"
        if name == "config.worktree" or (name == "config" and is_repository and not is_folder):
            return "git"
        if in_foreign:
            return ""
        if is_secret(name, is_folder=is_folder) and not self._shows.match(path):
            return "hidden"
        is_repository_part = (name == "hooks" and is_repository) or (name == ".git" and not is_folder)
        keeps = self._keeps.match_folder(path) if is_folder else self._keeps.match(path)
        if keeps or is_kept(name) or is_repository_part:
            return "kept"
        return ""


def _lies_in(path: str, folders: Iterable[str]) -> bool:
    return any(is_within(path, folder) for folder in folders)


def _outermost(paths: Iterable[str], *, but: Sequence[str] = ()) -> tuple[str, ...]:
    """The paths that lie in no other of them, nor in those of `but`: what is covered needs no cover of its own."""
    chosen: list[str] = []
    for path in sorted(set(paths)):  # a folder sorts before what is in it
        if not _lies_in(path, chosen) and not _lies_in(path, but):
            chosen.append(path)
    return tuple(chosen)


def shown_parts(root: str, survey: Survey, paths: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the parts of the workspace that a command sees: all, or what the patterns of its rule cover.

    Raises:
        ToolError: Nothing that is there matches.
    """
    if survey.hidden == (".",):
        return ()
    if paths is None:
        return (root,)
    wanted, found, folders = Patterns(paths), [], [""]
    while folders:
        above = folders.pop()
        with os.scandir(f"{root}/{above}") as entries:
            for entry in entries:
                path = f"{above}/{entry.name}".lstrip("/")
                is_folder = entry.is_dir(follow_symlinks=False)
                if not entry.is_symlink() and (wanted.match_folder(path) if is_folder else wanted.match(path)):
                    found.append(f"{root}/{path}")
                elif is_folder and wanted.may_match_below(path):
                    folders.append(path)
    if not found or len(found) > MOST_HIDDEN:
        raise ToolError(f"the rule's paths ({', '.join(paths)}) match {len(found) or 'nothing'} in the workspace")
    return tuple(sorted(found))


def ancestors(root: str, paths: Iterable[str]) -> Iterator[str]:
    """Yield the folders between the workspace and each path, outermost first, each once."""
    seen: set[str] = set()
    for path in paths:
        parts = path[len(root) + 1 :].split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            above = "/".join([root, *parts[:depth]])
            if above not in seen:
                seen.add(above)
                yield above


def shown_secrets(settings: Sandbox) -> Patterns:
    """Return the secrets of the workspace that commands see all the same."""
    return Patterns(path for path in settings.read if not is_outside(path))
