"""Make the view of the workspace that a command gets, and put right what it must not leave behind.

What is hidden is covered by an empty file or folder. A hidden file that git tracks is covered by one of its size and
time, which git takes for unchanged: else `git diff` would print it as deleted, and `git add` would take it out.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from blueprint_llm.errors import ToolError
from blueprint_llm.tools import gitconfig, sandbox
from blueprint_llm.tools.boundary import Fence, is_protected, is_within, readable, writable
from blueprint_llm.tools.secretbox import state_folder
from blueprint_llm.tools.survey import Patterns, Surveyor, ancestors, shown_parts, shown_secrets

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from blueprint_llm.config.tool_blocks import Sandbox
    from blueprint_llm.tools.boundary import Allowance, Effects
    from blueprint_llm.tools.survey import Survey


class Views:
    """The views of one workspace.

    Args:
        root: The workspace.
        settings: The sandbox's.
        hides, keeps: What rules deny to be read and to be written.
    """

    def __init__(self, root: str, settings: Sandbox, hides: Patterns, keeps: Patterns) -> None:
        self._root, self._settings, self._hides = root, settings, hides
        self._surveyor = Surveyor(root, hides, keeps, shown_secrets(settings))
        self._rulesets = sandbox.Rulesets()
        self._readable: dict[tuple[str | None, ...], tuple[str, ...]] = {}
        self._props = ""

    def close(self) -> None:
        """Remove what stood in for hidden files."""
        self._rulesets.close()
        if self._props:
            shutil.rmtree(self._props, ignore_errors=True)
            self._props = ""

    def doubts(self, effects: Effects) -> list[str]:
        """Return why the kernel here cannot hold a command to these effects; looks at the disk for Landlock only."""
        chosen = sandbox.backend(self._settings)
        if chosen != "landlock":
            return sandbox.doubts(chosen, effects, "")
        survey = self._surveyor.survey()
        configs = [path for path in survey.git_configs if gitconfig.inert_copy(f"{self._root}/{path}", write=False)[1]]
        unhidden = [*self._hides.texts, *survey.hidden, *configs, *sandbox.hidden_beside([self._root])]
        return sandbox.doubts(chosen, effects, ", ".join(unhidden[:3]))

    def fence(self, allowance: Allowance, env: Mapping[str, str]) -> tuple[Fence, Survey]:
        """Return what a command may touch, and what was found to hide and to keep.

        Raises:
            ToolError: Something cannot be hidden, or the rule's paths are not there.
        """
        survey = self._surveyor.survey()
        if survey.doubt:
            raise ToolError(survey.doubt)
        root, effects = self._root, allowance.effects
        shown = shown_parts(root, survey, allowance.paths)
        key = (env.get("PATH"), env.get("HOME"))
        if key not in self._readable:
            self._readable[key] = (*readable(env, root, self._settings), self._place())
        read = self._readable[key]
        write = writable(self._settings) if effects.write else ()
        visible = (*shown, *read, *write)
        masks: list[tuple[str, str]] = []
        if sandbox.backend(self._settings) == "bubblewrap":  # Landlock has nothing to do it with, and asked before
            masks = [pair for pair in self._masks(survey, effects) if _is_in(pair[1], visible)]
            masks += [(self._cover(path), path) for path in sandbox.hidden_beside(visible)]
            masks += self._home_mask(env.get("HOME", ""), visible)
        kept = [path for name in survey.kept if _is_in(path := f"{root}/{name}", shown)] if effects.write else []
        links = [f"{root}/{name}" for name, _ in survey.links]
        fixed = [*kept, *links, *(path for _, path in masks if path.startswith(f"{root}/"))] if effects.write else []
        pinned = [path for path in ancestors(root, fixed) if _is_in(path, shown) and not _is_in(path, kept)]
        return Fence(
            workspace=root,
            effects=effects,
            shown=shown,
            read=read,
            write=write,
            masks=tuple(masks),
            kept=tuple(kept),
            pinned=tuple(pinned),
            home=env.get("HOME", ""),
            unsettled=tuple(self._unsettled([path for _, path in masks])),
        ), survey

    def plan(self, fence: Fence) -> tuple[sandbox.Plan, str]:
        """Return how to run a command inside the fence, and a folder for its temporary files (empty: /tmp is one)."""
        chosen = sandbox.backend(self._settings)
        temporary = ""
        if chosen == "landlock":
            (made := Path(self._place(), "tmp")).mkdir(mode=0o700, exist_ok=True)
            temporary = str(made)
        return sandbox.plan(chosen, fence, temporary, self._rulesets, loopback=self._settings.loopback), temporary

    def _masks(self, survey: Survey, effects: Effects) -> Iterator[tuple[str, str]]:
        index = _index(self._root) if survey.hidden else b""
        for name in survey.hidden:
            yield from self._covers(name, index)
        for name in survey.git_configs:
            path = f"{self._root}/{name}"
            yield self._text(gitconfig.inert_copy(path, write=effects.write)[0]), path
        if os.path.isfile("/etc/gitconfig"):  # noqa: PTH113 - a plain string
            yield self._text(""), "/etc/gitconfig"

    def _home_mask(self, home: str, visible: tuple[str, ...]) -> list[tuple[str, str]]:
        place = f"{home}/.gitconfig"
        # In a home that is seen, a file that is not there cannot be covered; elsewhere the home is a private one.
        can = os.path.isfile(place) or not _is_in(place, visible)  # noqa: PTH113 - a plain string
        return [(self.global_git_config(home), place)] if home.startswith("/") and can else []

    def global_git_config(self, home: str) -> str:
        """Return a copy of the user's git configuration that names no program."""
        return self._text(gitconfig.inert_copy(f"{home}/.gitconfig", write=True, user=True)[0])

    def _covers(self, name: str, index: bytes) -> Iterator[tuple[str, str]]:
        """What to show in place of a hidden path: of a folder that git tracks, in place of each of its files."""
        path = f"{self._root}/{name}"
        is_folder = os.path.isdir(path)  # noqa: PTH112 - a plain string
        if not _is_tracked(f"{name}/" if is_folder else name, index):
            yield self._cover(path), path
        elif not is_folder:
            yield self._stand_in(path), path
        else:
            for folder, _, files in os.walk(path):
                for file in files:
                    if not os.path.islink(place := f"{folder}/{file}"):  # noqa: PTH114 - a plain string
                        yield self._stand_in(place), place

    def _unsettled(self, masked: list[str]) -> Iterator[str]:
        """The tracked ones of these files that git would take for changed, by their size and time."""
        index, place = _index(self._root), f"{self._root}/.git/index"
        names = [path[len(self._root) + 1 :] for path in masked if path.startswith(f"{self._root}/")]
        for name in names if index else ():
            if index[4:8] == b"\0\0\0\4":  # its paths are cut short
                yield name
                continue
            at = index.find(name.encode("utf-8", "surrogateescape") + b"\0")
            if at < 0 or not os.path.isfile(f"{self._root}/{name}"):  # noqa: PTH113 - a plain string
                continue
            found = os.lstat(f"{self._root}/{name}")
            head = index[at - 62 : at]
            recorded = int.from_bytes(head[8:12], "big"), int.from_bytes(head[36:40], "big")
            is_racy = os.stat(place).st_mtime_ns // 10**9 <= recorded[0]  # noqa: PTH116 - a plain string
            if is_racy or recorded != (found.st_mtime_ns // 10**9 & 0xFFFFFFFF, found.st_size & 0xFFFFFFFF):
                yield name

    def _place(self) -> str:
        if not self._props:
            self._props = tempfile.mkdtemp(prefix="blueprint-")
            weakref.finalize(self, shutil.rmtree, self._props, ignore_errors=True)
        return self._props

    def _cover(self, path: str) -> str:
        """An empty file or folder."""
        if not os.path.isdir(path):  # noqa: PTH112 - a plain string
            return self._text("")
        made = Path(self._place(), "folder")
        made.mkdir(mode=0o555, exist_ok=True)
        return str(made)

    def _stand_in(self, path: str) -> str:
        """A file of zeros, of the same size and time."""
        found = os.lstat(path)
        made = Path(self._place(), f"zeros-{found.st_size}-{found.st_mtime_ns}-{found.st_mode & 0o100}")
        if not made.exists():
            made.touch(0o555 if found.st_mode & 0o100 else 0o444)
            os.truncate(made, found.st_size)
            os.utime(made, ns=(found.st_mtime_ns, found.st_mtime_ns))
        return str(made)

    def _text(self, text: str) -> str:
        made = Path(self._place(), f"text-{hash(text):x}")
        if not made.exists():
            made.write_text(text, "utf-8", "surrogateescape")
            made.chmod(0o444)
        return str(made)

    def put_right(self, before: Survey) -> list[str]:
        """Undo what no command may leave behind, whatever its effects; what was done, in sentences.

        The kernel keeps what is there. It cannot forbid a name that is not there yet, so that is looked for afterwards.
        """
        after = self._surveyor.survey()
        told = []
        for name in set(after.git_configs) - set(before.git_configs):
            path = Path(self._root, name)
            text, dropped = gitconfig.inert_copy(str(path), write=True)
            if path.is_symlink() or dropped:
                path.unlink()  # and not written over: it may be a link to a file of the user's
                path.write_text(text, "utf-8", "surrogateescape")
                told.append(f"what could run a program was taken out of {name}, which the command made")
        made = set(after.kept) - set(before.kept) | {
            name for name in set(after.hidden) - set(before.hidden) if is_protected(name.rpartition("/")[2])
        }
        made |= {name for name, _ in after.links} - {name for name, _ in before.links}
        for name in sorted(made):
            if any(is_within(name, other) for other in made - {name}):
                continue
            told += self._taken_out(name)
        for name, target in before.links:
            link = Path(self._root, name)
            if os.path.realpath(link.parent) != str(link.parent):
                continue  # its folder is not what it was; its target stays hidden
            if not link.is_symlink() or str(link.readlink()) != target:
                self._taken_out(name)
                with suppress(OSError):
                    link.symlink_to(target)
                    told.append(f"{name} is again the link that it was")
        return told

    def _taken_out(self, name: str) -> list[str]:
        """Move away a new file of a protected name; of a new repository's hooks, only those that would run."""
        path = Path(self._root, name)
        if path.name == "hooks" and path.is_dir():
            found = [f"{name}/{hook.name}" for hook in path.iterdir() if hook.suffix != ".sample"]
            return [text for hook in sorted(found) for text in self._taken_out(hook)]
        if not os.path.lexists(path) or os.path.realpath(path.parent) != str(path.parent):
            return []
        target = Path(tempfile.mkdtemp(prefix="", dir=_taken_folder()), path.name)
        shutil.move(path, target)
        return [f"{name}, which the command made, was moved to {target}: a file of this kind needs a person's yes"]


def _taken_folder() -> Path:
    folder = state_folder("tools") / "taken"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _is_in(path: str, parts: tuple[str, ...] | list[str]) -> bool:
    return any(is_within(path, part) for part in parts)


def _index(root: str) -> bytes:
    with suppress(OSError):
        return Path(root, ".git/index").read_bytes()
    return b""


def _is_tracked(name: str, index: bytes) -> bool:
    """Whether git's index may hold the path; version 4 cuts paths short, so there any may be in it."""
    return index[4:8] == b"\0\0\0\4" or name.encode("utf-8", "surrogateescape") in index
