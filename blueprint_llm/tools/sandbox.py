"""How it is confined: the kernel keeps a command inside its fence, by bubblewrap, or by Landlock where that is all.

bubblewrap gives the command its own view of the disk, so files can be hidden and kept one by one, its own processes and
its own network. Landlock only says below which folders a process may read and write. A filter of system calls closes
sockets, mounts and what else neither of them covers. What each cannot do is told by `doubts`, and makes a command ask.

What is hidden is covered by an empty file or folder. A hidden file that git tracks is covered by one of its size and
time, which git takes for unchanged: else `git diff` would print it as deleted, and `git add` would take it out.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import weakref
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from stat import S_ISDIR
from typing import TYPE_CHECKING, NamedTuple

from blueprint_llm.errors import ToolError
from blueprint_llm.tools import boundary
from blueprint_llm.tools.boundary import GIT_GLOBAL, Patterns, Surveyor, inert_git_config, is_in
from blueprint_llm.tools.sealed import state_folder
from blueprint_llm.tools.workspace import ConfinementError, Root

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from blueprint_llm.config.blocks import Sandbox
    from blueprint_llm.tools.boundary import Effects, Survey

# The top of each working tree (empty, or with a slash at its end), and the path and content of its index.
Indexes = dict[str, tuple[str, bytes]]
_MOST_OF_AN_INDEX, _MOST_OF_A_PATH = 1 << 30, 4096
_MOST_RULESETS = 64  # more than commands start at the same moment
FILTER_FD = 9  # where the supervisor puts the filter for bubblewrap
_NAMESPACES = ("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--die-with-parent")


# What works here.


def backend(settings: Sandbox) -> str:
    """Return what will confine commands: `bubblewrap`, `landlock` or `none`."""
    wanted = ["bubblewrap", "landlock"] if settings.backend == "auto" else [settings.backend]
    return next((name for name in wanted if offered(name)), "none")


def offered(name: str) -> bool:
    """Return True if this system can confine with `name`."""
    if name == "landlock":
        return landlock_version() >= _NEEDED and platform.machine() in _MACHINES
    return name == "bubblewrap" and bubblewrap() is not None


@cache
def landlock_version() -> int:
    """Return the kernel's Landlock version; 0 where it has none or refuses."""
    if sys.platform != "linux":
        return 0
    return max(0, int(ctypes.CDLL(None).syscall(_CREATE, None, 0, 1)))


@lru_cache(maxsize=1)
def bubblewrap() -> str | None:
    """Return the path of a bubblewrap that works here: present, and allowed to make namespaces."""
    found = shutil.which("bwrap", path=boundary.SYSTEM_PATH) if sys.platform == "linux" else None
    if found is None:
        return None
    mounts = ("--ro-bind", "/", "/", "--proc", "/proc")
    words = [found, *_NAMESPACES, "--unshare-net", "--cap-drop", "ALL", *mounts, "true"]
    try:
        done = subprocess.run(words, check=False, capture_output=True, timeout=5)  # noqa: S603 - fixed words
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found if done.returncode == 0 else None


def describe(settings: Sandbox) -> str:
    """Return one sentence on what the kernel enforces here."""
    is_waived = settings.backend == "none" and not settings.required
    asks = "are denied" if settings.required else "ask"
    return {
        "bubblewrap": "bubblewrap: effects are enforced, denied files and secrets are hidden, kept files are read-only",
        "landlock": f"landlock: rules with `effects: read` are enforced; write, network and hidden files {asks}",
        "none": "none, as configured: commands run unconfined" if is_waived else f"none: all commands {asks}",
    }[backend(settings)]


# One command's view, and how it is held to it.


class View(NamedTuple):
    """What one command may touch, in absolute paths: parts of the workspace, and what lies beside it."""

    effects: Effects
    shown: tuple[str, ...]
    read: tuple[str, ...]
    write: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a command is confined."""

    prefix: tuple[str, ...] = ()  # words before the command
    ruleset: int | None = None  # a Landlock descriptor to take on; it belongs to the `Confinement`
    filter: bytes = b""  # of system calls; bubblewrap finds it at `FILTER_FD`
    in_force: str = "none"  # what the kernel enforces, for the result and the audit
    env: Mapping[str, str] = field(default_factory=dict)  # variables that the command needs
    entered: tuple[Effects, Survey] | None = None  # what was allowed and found, for `put_right` at its end
    unsettled: tuple[str, ...] = ()  # hidden files with changes that git has not recorded: it would record zeros


class Confinement:
    """Confines the commands of one workspace; `hides` and `keeps` are what rules deny to be read and written."""

    def __init__(self, root: str, settings: Sandbox, hides: Patterns, keeps: Patterns) -> None:
        self._root, self._settings, self._hides = root, settings, hides
        shown = Patterns(path for path in settings.read if not path.startswith(("/", "~")))
        self._surveyor = Surveyor(root, hides, keeps, shown)
        self._rulesets: dict[tuple[object, ...], int] = {}  # by what they say: making one takes longer than all else
        self._readable: dict[tuple[str | None, ...], tuple[str, ...]] = {}
        self._props = ""
        self._making, self._entering = threading.Lock(), threading.Lock()
        self._running: list[tuple[Effects, Survey]] = []

    def close(self) -> None:
        """Remove what stood in for hidden files, and close the rules."""
        while self._rulesets:
            os.close(self._rulesets.popitem()[1])
        if self._props:
            shutil.rmtree(self._props, ignore_errors=True)
            self._props = ""

    def doubts(self, effects: Effects) -> list[str]:
        """Return why the kernel here cannot hold a command to this; looks at the disk for Landlock only."""
        chosen = backend(self._settings)
        if chosen == "bubblewrap":
            return []
        if chosen == "none":
            return ["this system cannot confine commands: approved, it may do anything"]
        survey = self._surveyor.survey()
        configs = [name for name in survey.git_configs if inert_git_config(f"{self._root}/{name}", write=False)[1]]
        seen = [self._root, *boundary.listed((*self._settings.read, *self._settings.write), self._root)]
        unhidden = [*self._hides.texts, *survey.hidden, *configs, *boundary.hidden_beside(seen)]
        around = boundary.readable(os.environ, self._root, self._settings) if effects.paths is not None else ()
        cannot = {
            "keep .git/config, hooks and the like, and modes and times of all your files": effects.write,
            "keep a command with network from this system's own sockets": effects.network,
            f"show a part of {self._root} alone, which is in a folder that all commands see": is_in(self._root, around),
            f"hide {', '.join(unhidden[:3])}": bool(unhidden),
        }
        return [f"Landlock alone cannot {what}" for what, needed in cannot.items() if needed]

    def plan(self, effects: Effects, env: Mapping[str, str]) -> Plan:
        """Return how to run a command that was allowed this.

        Raises ToolError if something cannot be hidden, or the rule's paths are not there; OSError from the kernel.
        """
        chosen = backend(self._settings)
        if chosen == "none":  # a person has approved it, or the user chose to go without
            return Plan()
        survey = self._surveyor.survey()
        if survey.doubt:
            raise ToolError(survey.doubt)
        entered = (effects, survey)
        self._enter(*entered)
        try:
            return self._planned(chosen, effects, survey, env)
        except BaseException:
            self._running.remove(entered)
            raise

    def _enter(self, effects: Effects, survey: Survey) -> None:
        """Note that a command runs. Raises ToolError if one that runs could exchange what is about to be mounted.

        bubblewrap finds a path by its name. What was found before a command started, that one cannot move; what it made
        since, or any other folder, it could have exchanged for a link out of the workspace at the wrong moment.
        """
        places = {
            *survey.hidden,
            *survey.git_configs,
            *((*survey.kept, *survey.named) if effects.write else ()),
        }
        with self._entering:
            for other, known in self._running:
                pair = (effects, other), (other, effects)
                if any(one.paths is not None and writer.write for one, writer in pair):
                    raise ToolError("a command that sees a part of the workspace, and one that may write, run by turns")
                fresh = places - {*known.hidden, *known.git_configs, *known.kept, *known.named}
                if other.write and fresh:
                    raise ToolError(f"{min(fresh)} was made while a command runs that may write: wait for its end")
            self._running.append((effects, survey))

    def _planned(self, chosen: str, effects: Effects, survey: Survey, env: Mapping[str, str]) -> Plan:
        entered = (effects, survey)
        told = f"({', '.join(effects.names)})"
        view = View(
            effects,
            boundary.shown_parts(self._root, survey, effects.paths),
            self._read(env),
            tuple(filter(os.path.exists, boundary.listed(self._settings.write, self._root))) if effects.write else (),
        )
        if chosen == "bubblewrap":
            indexes = self._indexes(survey) if survey.hidden else {}
            masks = self._masks(view, survey, env.get("HOME", ""), indexes)
            # Sockets by a path are those of the workspace; with the network open, this system's own would be in reach.
            own = (*((socket.AF_UNIX,) if effects.write else ()), *(_INTERNET if self._settings.loopback else ()))
            return Plan(
                prefix=self._bubblewrap_words(view, masks, survey, env.get("HOME", "")),
                ruleset=self._ruleset(view, "") if effects.network and landlock_version() >= _NEEDED else None,
                filter=_filter(_INTERNET if effects.network else own),
                in_force=f"bubblewrap {told}",
                entered=entered,
                unsettled=tuple(self._unsettled(masks, indexes)) if effects.write else (),
            )
        temporary = self._made("tmp", lambda made: made.mkdir(mode=0o700, exist_ok=True))
        return Plan(
            ruleset=self._ruleset(view, temporary),
            filter=_filter(_INTERNET if effects.network else (), is_all=True, keeps_files=not effects.write),
            in_force=f"landlock {landlock_version()} {told}",
            env={"TMPDIR": temporary},
            entered=entered,
        )

    def _read(self, env: Mapping[str, str]) -> tuple[str, ...]:
        key = (env.get("PATH"), env.get("HOME"))
        if key not in self._readable:
            beside = os.path.dirname(self._text(""))  # noqa: PTH120 - a plain string
            self._readable[key] = (*boundary.readable(env, self._root, self._settings), beside)
        return self._readable[key]

    def _bubblewrap_words(self, view: View, masks: dict[str, str], survey: Survey, home: str) -> tuple[str, ...]:
        """Later words cover earlier ones: the system, the workspace, what is kept in it, what is hidden in it."""
        root, effects = self._root, view.effects
        words = [bubblewrap() or "bwrap", *_NAMESPACES, *(() if effects.network else ("--unshare-net",))]
        words += ["--cap-drop", "ALL", *(("--seccomp", str(FILTER_FD)) if platform.machine() in _MACHINES else ())]
        # To root, settings of the kernel below /proc/sys are writable without any capability.
        words += ["--proc", "/proc", "--remount-ro", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]  # noqa: S108 - a private one
        words += ["--dir", home] if home.startswith("/") and home != "/" else []  # private and empty
        words += _binds("--ro-bind", view.read)
        if effects.network:  # a link to a file of a resolver that is not below /etc
            resolver = os.path.realpath("/etc/resolv.conf")
            words += _binds("--ro-bind", [resolver] if os.path.exists(resolver) else [])  # noqa: PTH110 - a plain string
        words += _binds("--bind", view.write)
        called = boundary.listed((*self._settings.read, *self._settings.write), root)
        links = [(real, name) for real, name in called.items() if real != name and not is_in(name, view.read)]
        words += [word for link in links for word in ("--symlink", *link)]
        # Of the system's folders, or of those that the user lists, one may have the workspace in it.
        words += ["--tmpfs", root] if view.shown != (root,) else []
        words += _binds("--bind" if effects.write else "--ro-bind", view.shown)
        if effects.write:
            found = [f"{root}/{name}" for name in (*survey.kept, *survey.named)]
            found += boundary.own_environment(root, self._settings)
            kept = [path for path in found if is_in(path, view.shown)]
            fixed = [*kept, *(f"{root}/{name}" for name, _ in survey.links), *masks]
            # A folder above what is hidden or kept must not be renamed: it is a mount of its own.
            folders = {str(folder) for path in fixed for folder in Path(path).parents}
            above = sorted(folder for folder in folders if folder.startswith(f"{root}/"))
            words += _binds("--bind", (path for path in above if is_in(path, view.shown) and not is_in(path, kept)))
            words += _binds("--ro-bind", kept)
        words += [word for path, source in masks.items() for word in ("--ro-bind", source, path)]
        words += ["--remount-ro", root] if view.shown != (root,) else []
        return (*words, "--chdir", root, "--")

    def _masks(self, view: View, survey: Survey, home: str, indexes: Indexes) -> dict[str, str]:
        """What is shown in place of each path that is hidden."""
        visible = (*view.shown, *view.read, *view.write)
        found = {place: source for name in survey.hidden for place, source in self._covers(name, indexes)}
        for path in (f"{self._root}/{name}" for name in survey.git_configs):
            found[path] = self._text(inert_git_config(path, write=view.effects.write)[0])
        if os.path.isfile("/etc/gitconfig"):  # noqa: PTH113 - a plain string
            found["/etc/gitconfig"] = self._text("")
        found = {path: source for path, source in found.items() if is_in(path, visible)}
        found |= {path: self._cover(path) for path in boundary.hidden_beside(visible)}
        place = f"{home}/.gitconfig"
        # In a home that is seen, a file that is not there cannot be covered; elsewhere the home is a private one.
        if home.startswith("/") and (os.path.isfile(place) or not is_in(place, visible)):  # noqa: PTH113 - a plain string
            found[place] = self.global_git_config(home)
        return found

    def global_git_config(self, home: str) -> str:
        """Return a copy of the user's git configuration that names no program."""
        return self._text(inert_git_config(f"{home}/.gitconfig", write=True, user=True)[0])

    def _covers(self, name: str, indexes: Indexes) -> Iterator[tuple[str, str]]:
        """A hidden path and what covers it: of a folder that git tracks, each of its files."""
        path = f"{self._root}/{name}"
        is_folder = os.path.isdir(path)  # noqa: PTH112 - a plain string
        top = _top(name, indexes)
        index = indexes[top][1] if top is not None else b""
        tracked = f"{name}/"[len(top or "") : None if is_folder else -1]
        # Version 4 of the index cuts paths short, so there any may be in it.
        if index[4:8] != b"\0\0\0\4" and tracked.encode("utf-8", "surrogateescape") not in index:
            yield path, self._cover(path)
            return
        unseen: list[OSError] = []
        below = [f"{above}/{file}" for above, _, files in os.walk(path, onerror=unseen.append) for file in files]
        if is_folder and (unseen or len(below) > boundary.MOST_HIDDEN):
            yield path, self._cover(path)
            return
        for place in below if is_folder else [path]:
            if not is_folder or not os.path.islink(place):  # noqa: PTH114 - a plain string
                yield place, self._zeros(os.lstat(place))

    def _unsettled(self, masked: Iterable[str], indexes: Indexes) -> Iterator[str]:
        """The tracked ones of these files that git would take for changed, by their size and time."""
        for name in [path[len(self._root) + 1 :] for path in masked if path.startswith(f"{self._root}/")]:
            if (top := _top(name, indexes)) is None:
                continue
            place, index = indexes[top]
            if index[4:8] == b"\0\0\0\4":  # its paths are cut short
                yield name
                continue
            at = index.find(name[len(top) :].encode("utf-8", "surrogateescape") + b"\0")
            if at < 0 or not os.path.isfile(f"{self._root}/{name}"):  # noqa: PTH113 - a plain string
                continue
            found = os.lstat(f"{self._root}/{name}")
            head = index[at - 62 : at]
            recorded = int.from_bytes(head[8:12], "big"), int.from_bytes(head[36:40], "big")
            is_racy = os.stat(f"{self._root}/{place}").st_mtime_ns // 10**9 <= recorded[0]  # noqa: PTH116 - a plain string
            if is_racy or recorded != (found.st_mtime_ns // 10**9 & 0xFFFFFFFF, found.st_size & 0xFFFFFFFF):
                yield name

    def _indexes(self, survey: Survey) -> Indexes:
        """Git's index of each working tree with something hidden, by the tree's top; none where it is no plain file."""
        folders = [name.removesuffix("config") for name in survey.git_configs]
        tops = {folder.removesuffix(".git/"): folder for folder in folders if f"/{folder}".endswith("/.git/")}
        found: Indexes = {}
        with Root(self._root) as root:
            for name in survey.kept:  # a submodule or another tree has a file that names its folder
                if f"/{name}".endswith("/.git"):
                    with suppress(OSError):
                        line = root.read(name, _MOST_OF_A_PATH)[0].decode("utf-8", "surrogateescape")
                        place = Path(self._root, name, "..", line.removeprefix("gitdir:").strip())
                        tops[name[:-4]] = f"{os.path.relpath(os.path.realpath(place), self._root)}/"
            for top, folder in tops.items():
                if any(name.startswith(top) for name in survey.hidden):
                    with suppress(OSError):
                        found[top] = f"{folder}index", root.read(f"{folder}index", _MOST_OF_AN_INDEX)[0]
        return found

    def _made(self, name: str, make: Callable[[Path], object]) -> str:
        """What stands in for something else, made on first use in a folder of this engine's own."""
        with self._making:  # commands start in threads of their own: none may see what is made half
            if not self._props:
                self._props = tempfile.mkdtemp(prefix="blueprint-")
                weakref.finalize(self, shutil.rmtree, self._props, ignore_errors=True)
            made = Path(self._props, name)
            if not made.exists():
                make(made)
            return str(made)

    def _cover(self, path: str) -> str:
        """An empty file or folder."""
        is_folder = os.path.isdir(path)  # noqa: PTH112 - a plain string
        return self._made("folder", lambda made: made.mkdir(mode=0o555, exist_ok=True)) if is_folder else self._text("")

    def _zeros(self, like: os.stat_result) -> str:
        """A file of zeros, of the same size and time."""
        mode = 0o555 if like.st_mode & 0o100 else 0o444

        def make(made: Path) -> None:
            made.touch(mode)
            os.truncate(made, like.st_size)
            os.utime(made, ns=(like.st_mtime_ns, like.st_mtime_ns))

        return self._made(f"zeros-{like.st_size}-{like.st_mtime_ns}-{mode}", make)

    def _text(self, text: str) -> str:
        def make(made: Path) -> None:
            made.write_text(text, "utf-8", "surrogateescape")
            made.chmod(0o444)

        return self._made(f"text-{hash(text):x}", make)

    def _ruleset(self, view: View, temporary: str) -> int:
        """A descriptor of Landlock's rules for a view; without `temporary`, of those on sockets alone."""
        key: tuple[object, ...] = ()
        if temporary:  # the rules are on folders and files, not on their names: another of that name needs new ones
            key = (view, temporary, *map(_identity, (*view.shown, *view.read, *view.write)))
        if key not in self._rulesets:
            if len(self._rulesets) > _MOST_RULESETS:
                os.close(self._rulesets.pop(next(iter(self._rulesets))))
            self._rulesets[key] = _ruleset(view, temporary)
        return self._rulesets[key]

    def put_right(self, plan: Plan) -> list[str]:
        """Undo what no command may leave behind, whatever its effects; what was done, in sentences.

        The kernel keeps what is there. It cannot forbid a name that is not there yet, so that is looked for afterwards.
        """
        if plan.entered is None:
            return []
        try:
            return self._put_right(plan.entered[1]) if plan.entered[0].write else []
        finally:
            self._running.remove(plan.entered)

    def _put_right(self, before: Survey) -> list[str]:
        after, told = self._surveyor.survey(), []
        for name in set(after.git_configs) - set(before.git_configs):
            path = Path(self._root, name)
            text, dropped = inert_git_config(str(path), write=True, within=self._root)
            if path.is_symlink() or dropped:
                told += self._taken_out(name)  # and not written over: it may be a link to a file of the user's
                with suppress(OSError), self._folder_of(name) as folder:
                    fd = os.open(path.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=folder)
                    with os.fdopen(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
                        file.write(text)
        hidden = set(after.hidden) - set(before.hidden)
        made = {name for name in hidden if boundary.is_protected(name.rpartition("/")[2])}
        made |= set(after.kept) - set(before.kept)
        made |= {name for name, _ in after.links} - {name for name, _ in before.links}
        made |= {self._first_link(name) for name in before.missing if os.path.lexists(f"{self._root}/{name}")}
        for name in sorted(made):
            if not is_in(name, made - {name}):
                told += self._taken_out(name)
        for name, target in before.links:
            link = Path(self._root, name)
            if boundary.link_target(str(link)) != target:
                self._taken_out(name)
                with suppress(OSError), self._folder_of(name) as folder:  # else its target stays hidden all the same
                    os.symlink(target, link.name, dir_fd=folder)
                    told.append(f"{name} is again the link that it was")
        return told

    @contextmanager
    def _folder_of(self, name: str) -> Iterator[int]:
        """The folder that a path is in, reached by no link: another command may exchange them meanwhile."""
        with Root(self._root) as root, root.folder(name.rpartition("/")[0] or ".") as folder:
            yield folder

    def _first_link(self, name: str) -> str:
        """The first part of a path that is a link, or the path: what stands there could be reached by it."""
        ways = [str(folder) for folder in reversed(Path(name).parents[:-1])]
        return next((way for way in ways if Path(self._root, way).is_symlink()), name)

    def _taken_out(self, name: str) -> list[str]:
        """Move away a new file of a protected name; of a new repository's hooks, only those that would run.

        Whatever a command has left (pipes, folders that cannot be written), the next one is taken out all the same.
        """
        path = Path(self._root, name)
        if path.name == "hooks" and path.is_dir() and not path.is_symlink():
            found: list[str] = []
            with suppress(OSError):
                found = [f"{name}/{hook.name}" for hook in path.iterdir() if hook.suffix != ".sample"]
            return [text for hook in sorted(found) for text in self._taken_out(hook)]
        target = path.with_name(f"taken-{os.urandom(8).hex()}")
        try:
            with self._folder_of(name) as folder:
                os.fchmod(folder, os.fstat(folder).st_mode & 0o7777 | 0o700)
                os.rename(path.name, target.name, src_dir_fd=folder, dst_dir_fd=folder)
        except (FileNotFoundError, ConfinementError):  # it is gone, or its folder is not what it was
            return []
        except OSError as error:
            return [f"{name}, which the command made, needs a person's yes, and could not be taken away: {error}"]
        with suppress(OSError, shutil.Error):
            taken = state_folder("tools") / "taken"
            taken.mkdir(mode=0o700, exist_ok=True)
            target = Path(shutil.move(target, Path(tempfile.mkdtemp(prefix="", dir=taken), path.name)))
        return [f"{name}, which the command made, was moved to {target}: a file of this kind needs a person's yes"]


def git_environment(global_config: str) -> dict[str, str]:
    """Return the variables for a git command; `global_config` takes the place of the user's own configuration."""
    env = {"GIT_OPTIONAL_LOCKS": "0", "GIT_PAGER": "cat", "GIT_EDITOR": "true", "GIT_TERMINAL_PROMPT": "0"}
    env |= {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": global_config, "GIT_CONFIG_COUNT": str(len(GIT_GLOBAL))}
    for number, (key, value) in enumerate(GIT_GLOBAL.items()):
        env |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return env


def _top(name: str, indexes: Indexes) -> str | None:
    """The top of the innermost working tree that a path is in."""
    return max((top for top in indexes if name.startswith(top)), key=len, default=None)


def _identity(path: str) -> tuple[int, int] | None:
    """What tells a folder or file from another one that takes its name."""
    with suppress(OSError):
        found = os.stat(path)  # noqa: PTH116 - a plain string
        return found.st_dev, found.st_ino
    return None


def _binds(how: str, paths: Iterable[str]) -> list[str]:
    return [word for path in paths for word in (how, path, path)]


# Landlock (include/uapi/linux/landlock.h).

_CREATE, _ADD_RULE, _PATH_BENEATH = 444, 445, 1
_NEEDED = 6  # the version that also keeps signals and abstract sockets in; 3 brought truncation, 5 devices
_ALL_FILES = (1 << 16) - 1
_READ = 0b1101  # execute, read file, read folder
_ON_A_FILE = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15
_ABSTRACT_SOCKETS, _SIGNALS = 0b01, 0b10
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/fd")


def _ruleset(view: View, temporary: str) -> int:
    """Return a descriptor of the view's rules; without `temporary`, of those on abstract sockets alone."""
    libc = ctypes.CDLL(None, use_errno=True)
    # Signals are left to bubblewrap's own process namespace: it must be able to end what it started.
    scopes = _ABSTRACT_SOCKETS | (_SIGNALS if temporary else 0)
    attributes = struct.pack("=QQQ", _ALL_FILES if temporary else 0, 0, scopes)
    fd: int = libc.syscall(_CREATE, attributes, len(attributes), 0)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "Landlock refused the rules")
    read, changed = list(view.read), view.shown if view.effects.write else ()
    if secrets := boundary.system_secrets():  # they can only be left out by naming everything beside them
        beside = [entry.path for entry in os.scandir("/etc") if entry.path not in secrets and entry.name != "ssl"]
        read = [*(path for path in read if path != "/etc"), *beside, "/etc/ssl/certs", "/etc/ssl/openssl.cnf"]
    rules = [(path, _READ) for path in (*read, *view.shown, "/proc", "/sys")]
    rules += [(path, _ALL_FILES) for path in (*changed, *view.write, temporary, *_DEVICES)]
    for path, allowed in rules if temporary else ():
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                on_it = allowed if S_ISDIR(os.fstat(parent).st_mode) else allowed & _ON_A_FILE
                if libc.syscall(_ADD_RULE, fd, _PATH_BENEATH, struct.pack("=Qi", on_it, parent), 0):
                    raise OSError(ctypes.get_errno(), f"Landlock refused a rule on {path}")
            finally:
                os.close(parent)
    return fd


# The filter of system calls, by their numbers on x86_64 and aarch64; 0: there is none on that machine.

_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_INTERNET = tuple(getattr(socket, name) for name in ("AF_INET", "AF_INET6", "AF_NETLINK") if hasattr(socket, name))
_SOCKET, _PRLIMIT, _IOCTL = (41, 198), (302, 261), (16, 29)
# Refused as if the kernel had none: what opens sockets beside `socket` (io_uring_setup), the user's kernel keyrings
# (add_key, request_key, keyctl), and what is shared by number, which needs no name to be used (shmget, shmat, shmctl,
# semget, semop, semctl, semtimedop, msgget, msgsnd, msgrcv, msgctl).
_UNKNOWN = (
    "425/425 248/217 249/218 250/219 29/194 30/196 31/195 64/190 65/193 66/191 220/192 68/186 69/189 70/188 71/187"
)
# What could take a mask away, or reach below it, in namespaces of its own: mount, umount2, pivot_root, unshare, setns,
# open_by_handle_at, open_tree, move_mount, fsopen, fsconfig, fsmount, fspick, mount_setattr.
_MOUNTS = "165/40 166/39 155/41 272/97 308/268 304/265 428/428 429/429 430/430 431/431 432/432 433/433 442/442"
# What Landlock does not scope: setpriority, sched_setscheduler, sched_setparam, sched_setaffinity, sched_setattr,
# ioprio_set; message queues by name (mq_open, mq_unlink); being told of changes (inotify_add_watch, fanotify_mark).
# prlimit64 of another process is seen by its argument.
_NEIGHBOURS = "141/140 144/119 142/118 203/122 314/274 251/30 240/180 241/181 254/27 301/263"
# What changes owner, mode, times and attributes of a file, which Landlock leaves alone.
_FILES = (
    "90/0 91/52 92/0 93/55 94/0 132/0 188/5 189/6 190/7 197/14 198/15 199/16 235/0 260/54 261/0 268/53 280/88 452/452 "
    "463/463 466/466 469/469"
)
_ALLOW, _EPERM, _EACCES, _ENOSYS = 0x7FFF0000, 0x00050001, 0x0005000D, 0x00050026
_LOAD, _EQUAL, _AT_LEAST, _AND, _END = 0x20, 0x15, 0x35, 0x54, 0x06


@cache
def _filter(families: tuple[int, ...], *, is_all: bool = False, keeps_files: bool = False) -> bytes:
    """Return a BPF program that refuses what is listed above, and sockets of other families than these.

    With `is_all`, nothing but Landlock stands beside it, so it refuses what acts on neighbours as well; with
    `keeps_files`, what changes a file without writing it.
    """
    if platform.machine() not in _MACHINES:
        return b""
    column, arch = _MACHINES[platform.machine()]
    # Each step: code, jump if true, jump if false, value. Loads: 4 architecture, 0 call, 16 and 24 its arguments.
    steps = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, arch), (_END, 0, 0, _EACCES)]
    steps += [(_LOAD, 0, 0, 0), (_AT_LEAST, 0, 1, 0x40000000), (_END, 0, 0, _EACCES)]  # x32, a second numbering
    refused = [(_UNKNOWN, _ENOSYS), (_MOUNTS, _EPERM)]
    refused += [(_NEIGHBOURS, _EACCES)] if is_all else []
    refused += [(_FILES, _EACCES)] if keeps_files else []
    for calls, answer in refused:
        numbers = (int(pair.split("/")[column]) for pair in calls.split())
        steps += [step for number in numbers if number for step in ((_EQUAL, 0, 1, number), (_END, 0, 0, answer))]
    if is_all:  # a process may limit itself: its number is 0 then
        steps += _unless(_PRLIMIT[column], [(_LOAD, 0, 0, 16), (_EQUAL, 1, 0, 0), (_END, 0, 0, _EACCES)])
    if keeps_files:  # attributes of a file (chattr, verity), also through a descriptor that only reads: types f and X
        kinds = [(_EQUAL, 1, 0, ord("f") << 8), (_EQUAL, 0, 1, ord("X") << 8), (_END, 0, 0, _EACCES)]
        steps += _unless(_IOCTL[column], [(_LOAD, 0, 0, 24), (_AND, 0, 0, 0xFF00), *kinds])
    known = [(_EQUAL, len(families) - at, 0, family) for at, family in enumerate(families)]
    steps += _unless(_SOCKET[column], [(_LOAD, 0, 0, 16), *known, (_END, 0, 0, _EACCES)])
    return b"".join(struct.pack("=HBBI", *step) for step in [*steps, (_END, 0, 0, _ALLOW)])


def _unless(call: int, steps: list[tuple[int, int, int, int]]) -> list[tuple[int, int, int, int]]:
    """Steps that are taken for one call alone; the number of the call is loaded again behind them."""
    return [(_EQUAL, 0, len(steps) + 1, call), *steps, (_LOAD, 0, 0, 0)]
