"""What is confined: which files no command sees, which none changes, and what a rule's effects allow.

This file and `sandbox`, which has the kernel enforce it, are the whole boundary. Names of files decide here: which are
secrets (hidden from every process), which are kept (read-only for every process, because other programs act on them),
and which run later (only the tools that write files ask for those). `Surveyor` finds them in a workspace of any size.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
import unicodedata
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import TYPE_CHECKING

from blueprint_llm.config.paths import Kind, folder
from blueprint_llm.errors import ToolError
from blueprint_llm.tools.words import word_set
from blueprint_llm.tools.workspace import glob

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from blueprint_llm.config.blocks import Sandbox


# Folders that hold secrets: hidden.
_SECRET_FOLDERS = word_set(".ssh .gnupg .aws .azure .kube .docker")
# Files that hold secrets: hidden.
_SECRETS = re.compile(
    r"\.env(?![._-](?:example|sample|template|dist)$).*|\.netrc|\.npmrc|\.pypirc|\.pgpass|\.git-credentials"
    r"|id_(?:rsa|ed25519|ecdsa|dsa|xmss)(?:_sk)?(?:[_-][^.]*)?(?:\.(?:old|bak|orig|\d+)|~)?|credentials(?:\.(?:json|ya?ml|toml|ini|csv|txt|xml|db))?"
    r"|(?!cacert\.|roots\.).*\.(?:pem|key|p12|pfx|jks|kdbx)",
    re.DOTALL,
)
# Folders of shells, CI, editors and agents, which act on their files by themselves: kept.
_KEPT_FOLDERS = word_set(
    ".github .gitlab .circleci .buildkite .husky .githooks .ci .claude .codex .cursor .gemini .aider .continue "
    ".windsurf .opencode .blueprint .agents .roo .cline .vscode .idea .devcontainer"
)
_KEPT_FILES = word_set(
    ".gitconfig .gitmodules .bashrc .bash_profile .bash_login .bash_logout .bash_aliases .profile .zshrc .zshenv "
    ".zprofile .zlogin .zlogout .inputrc .vimrc .exrc .nvimrc .emacs .gdbinit .lldbinit .tmux.conf .xinitrc .xprofile "
    ".login .cshrc .tcshrc .kshrc config.fish .gitlab-ci.yml .travis.yml azure-pipelines.yml jenkinsfile appveyor.yml "
    "bitbucket-pipelines.yml .drone.yml .pre-commit-config.yaml lefthook.yml .mcp.json mcp.json agents.md claude.md "
    "gemini.md .cursorrules .windsurfrules .clinerules .goosehints blueprint.yaml blueprint.yml authorized_keys"
)
_KEPT = re.compile(r"\.env.*", re.DOTALL)
# What runs later, or configures what runs later: `write_file` and `patch` ask.
_LATER_FOLDERS = word_set(
    ".git .hg .svn .jj .cargo .mvn .gradle .yarn .venv venv node_modules __pycache__ .config git~1 .direnv .bundle"
)
_LATER_FILES = word_set(
    ".yarnrc .yarnrc.yml .pnpmfile.cjs .gitattributes .gitignore .pythonrc .pdbrc .pythonstartup .curlrc .wgetrc "
    ".ripgreprc conftest.py sitecustomize.py usercustomize.py setup.py setup.cfg pyproject.toml pytest.ini .pytest.ini "
    "tox.ini .coveragerc mypy.ini .mypy.ini ruff.toml .ruff.toml noxfile.py tasks.py fabfile.py dodo.py sconstruct "
    "manage.py pytest.py makefile gnumakefile justfile .justfile taskfile.yml rakefile gemfile cmakelists.txt "
    "meson.build build.rs cargo.toml rust-toolchain rust-toolchain.toml go.mod go.work package.json package-lock.json "
    "yarn.lock pnpm-lock.yaml .babelrc .eslintrc .eslintrc.js .eslintrc.cjs .eslintrc.json .prettierrc gulpfile.js "
    "gruntfile.js tsconfig.json build.gradle build.gradle.kts settings.gradle pom.xml gradlew mvnw dockerfile "
    "containerfile docker-compose.yml docker-compose.yaml compose.yaml compose.yml vagrantfile procfile composer.json "
    "deno.json bunfig.toml head known_hosts"
)
_LATER = re.compile(
    r".*\.(?:pth|service|desktop|mk)|.*\.config\.[cm]?[jt]s|requirements.*\.txt|constraints.*\.txt", re.DOTALL
)
# Folders of other people's packages: their test keys are no secrets and nobody works in them.
_FOREIGN = word_set("node_modules .venv venv site-packages .tox .nox __pycache__ .mypy_cache .ruff_cache .pytest_cache")

# Where the programs are found that the boundary itself runs: never in a folder that a command could write.
SYSTEM_PATH = "/usr/bin:/bin:/usr/local/bin:/run/current-system/sw/bin:/run/wrappers/bin"
# The system and its programs, readable for every command.
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc", "/opt", "/nix", "/run/current-system", "/snap")
# Readable to root alone, so only in the way where the engine runs as root.
_SYSTEM_SECRETS = word_set(
    "/etc/shadow /etc/shadow- /etc/gshadow /etc/gshadow- /etc/sudoers /etc/sudoers.d /etc/ssh "
    "/etc/ssl/private /etc/krb5.keytab /etc/wireguard /etc/NetworkManager /etc/docker /etc/kubernetes /etc/security"
)
_MOST_OF_A_CONFIG = 1_000_000
_LIBRARY = str(Path(__file__).parents[1])  # has a plugin that pytest loads, wherever it was installed from
MOST_HIDDEN = 300  # each costs a mount, and mounting is quadratic: 300 take about 0.15 s
_CASE = re.IGNORECASE if sys.platform in {"darwin", "win32"} else 0  # as the file systems there
_SETTLED_NS = 50_000_000  # a folder changed later than this before it was read may change again within its time stamp


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """What a command may do beside reading, and the part of the workspace that it sees (None: all of it)."""

    write: bool = False
    network: bool = False
    paths: tuple[str, ...] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The effects as a rule spells them."""
        return ("write" if self.write else "read", *(("network",) if self.network else ()))


# What a command may do that no rule is about, once a person has approved it.
UNRULED = Effects(write=True)


# Names.


def _folded(name: str) -> str:
    """A name as file systems that ignore case and accents' spelling see it."""
    return name.lower() if name.isascii() else unicodedata.normalize("NFKC", name).casefold()


@lru_cache(maxsize=4096)
def secrecy(path: str) -> str | None:
    """Return why reading `path` needs a person, or None."""
    parts = [_folded(part) for part in path.split("/")]
    is_of_git = parts[-1] in {"config", "config.worktree"} and ".git" in parts
    if _SECRETS.fullmatch(parts[-1]) or _SECRET_FOLDERS & set(parts) or is_of_git:
        return f"{path} may hold secrets"
    return None


@lru_cache(maxsize=4096)
def protection(path: str) -> str | None:
    """Return why a change of `path` by a tool needs a person, or None."""
    parts = [_folded(part) for part in path.split("/")]
    name = parts[-1]
    if guarded := next((part for part in parts if part in _KEPT_FOLDERS | _LATER_FOLDERS | _SECRET_FOLDERS), None):
        return f"{path}: {guarded} configures tools that run by themselves, or holds secrets"
    if name in _LATER_FILES or _LATER.fullmatch(name) or is_kept(name) or _SECRETS.fullmatch(name):
        return f"{path}: {name} configures tools, runs later, or holds secrets"
    return None


def is_kept(name: str) -> bool:
    """Return True if no command may change a file or folder of this name."""
    low = _folded(name)
    return low in _KEPT_FILES or low in _KEPT_FOLDERS or _KEPT.fullmatch(low) is not None


def is_protected(name: str) -> bool:
    """Return True if no command may make a file or folder of this name."""
    return is_kept(name) or _folded(name) in _SECRET_FOLDERS


def is_in(path: str, parts: Iterable[str]) -> bool:
    """Return True if `path` is one of the parts or below one."""
    return any(path == part or path.startswith(part.rstrip("/") + "/") for part in parts)


class Patterns:
    """Globs of rules, relative to the workspace, as one question; each also covers what is below it."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self.texts = tuple(dict.fromkeys(pattern.removeprefix("./").rstrip("/") or "." for pattern in patterns))
        self._any = self._compiled(self.texts)
        self._folders = self._compiled([text.removesuffix("/**") for text in self.texts])
        self._heads = tuple(re.split(r"[*?]", text)[0] for text in self.texts)

    @staticmethod
    def _compiled(texts: Sequence[str]) -> re.Pattern[str] | None:
        bodies = [glob(text).pattern.removesuffix(r"\Z") for text in texts]
        return re.compile(rf"(?:{'|'.join(bodies)})(?:/.*)?\Z", re.DOTALL | _CASE) if bodies else None

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


# The workspace.


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What stands in a workspace that a command must not see or change; paths are relative to it."""

    hidden: tuple[str, ...] = ()  # files and folders to hide, links among them resolved
    kept: tuple[str, ...] = ()  # files and folders that stay as they are
    git_configs: tuple[str, ...] = ()
    named: tuple[str, ...] = ()  # what those name as included files and folders of hooks: kept as well
    missing: tuple[str, ...] = ()  # the same, but not there yet
    links: tuple[tuple[str, str], ...] = ()  # links whose names are hidden or kept, with what they point to
    doubt: str = ""  # why hiding would not be enough


# What a folder holds: the folders in it that are looked through as well, and marks of what is special in it.
_Content = tuple[list[str], list[tuple[str, str]]]


class Surveyor:
    """Finds what to hide and to keep in a workspace: what rules name, and secrets but for those in `shows`.

    A folder is read again only after it changed, so that looking at all of them costs a system call each.
    """

    def __init__(self, root: str, hides: Patterns, keeps: Patterns, shows: Patterns) -> None:
        self._root, self._hides, self._keeps, self._shows = root, hides, keeps, shows
        self._known: dict[str, tuple[int, _Content]] = {}
        # What was hidden through a link stays hidden, also when the link is taken away while another command runs.
        self._through_links: set[str] = set()
        self._lock = threading.Lock()

    def survey(self) -> Survey:
        """Walk the workspace."""
        with self._lock:
            if self._hides.match_folder("."):
                return Survey(hidden=(".",))
            found: defaultdict[str, list[str]] = defaultdict(list)
            folders = [""]
            while folders:
                below, marks = self._content(folders.pop())
                folders += below
                for kind, name in marks:
                    found[kind].append(name)
            self._through_links |= set(self._targets(found["hidden link"]))
            through = [path for path in self._through_links if os.path.lexists(f"{self._root}/{path}")]
            hidden = _outermost([*found["hidden"], *through])
            links = found["hidden link"] + found["kept link"]
            named = self._named_by_git(found["git"], [*found["kept"], *found["kept link"]])
            there = [path for path in named if os.path.exists(f"{self._root}/{path}")]  # noqa: PTH110 - a plain string
            return Survey(
                hidden=hidden,
                kept=_outermost([*found["kept"], *self._targets(found["kept link"])], but=hidden),
                git_configs=tuple(name for name in found["git"] if not is_in(name, hidden)),
                named=_outermost(there, but=hidden),
                missing=tuple(named - set(there)),
                links=tuple((name, target) for name in links if (target := link_target(f"{self._root}/{name}"))),
                doubt="".join(found["doubt"][:1]) or self._doubt(hidden),
            )

    def _doubt(self, hidden: tuple[str, ...]) -> str:
        if len(hidden) > MOST_HIDDEN:
            return f"{len(hidden)} files would have to be hidden, more than {MOST_HIDDEN}: deny whole folders instead"
        for path in hidden:
            try:
                found = os.lstat(f"{self._root}/{path}")
            except FileNotFoundError:  # taken away meanwhile
                continue
            if found.st_nlink > 1 and not S_ISDIR(found.st_mode):
                return f"{path} has {found.st_nlink} hard links, and would be readable under its other name"
        return ""

    def _named_by_git(self, configs: Sequence[str], kept: Sequence[str]) -> set[str]:
        # A relative folder of hooks is below the top of whichever working tree git is called in.
        places = [Path(self._root, path) for path in kept]
        tops = [str(place.parent) for place in places if place.name == ".git"]
        found: set[str] = set()
        for config in (f"{self._root}/{name}" for name in configs):
            above = os.path.dirname(config)  # noqa: PTH120 - a plain string
            found |= git_reads(config, [above, f"{above}/..", *tops])
        return {path[len(self._root) + 1 :] for path in found if path.startswith(f"{self._root}/")}

    def _targets(self, links: Iterable[str]) -> Iterator[str]:
        """Where links lead, as far as that is inside the workspace: outside, nothing is seen anyway."""
        for link in links:
            try:
                real = os.path.realpath(f"{self._root}/{link}")
            except OSError:  # it is no link any more
                continue
            if real.startswith(f"{self._root}/") and os.path.lexists(real):
                yield real[len(self._root) + 1 :]

    def _content(self, path: str) -> _Content:
        place = f"{self._root}/{path}" if path else self._root
        try:
            changed_ns = os.lstat(place).st_ctime_ns
            known = self._known.get(path)
            if known is not None and known[0] == changed_ns:
                return known[1]
            content = self._read(path, place)
        except FileNotFoundError:
            return [], []
        except PermissionError:  # a command could open it again, and what is in it is not known
            return [], [("hidden", path)]
        except OSError as error:  # such as a path that a command has made too long
            doubt = f"{path[:80]}... cannot be looked through: {error.strerror}"
            return [], [("doubt", doubt)] if path else []
        self._known[path] = changed_ns if time.time_ns() - changed_ns > _SETTLED_NS else -1, content
        return content

    def _read(self, path: str, place: str) -> _Content:
        folders, marks = [], []
        with os.scandir(place) as entries:
            listed = list(entries)
        names = {entry.name for entry in listed}
        is_repository = path.rpartition("/")[2] == ".git" or "commondir" in names or {"objects", "refs"} <= names
        for entry in listed:
            inside = f"{path}/{entry.name}" if path else entry.name
            is_link = entry.is_symlink()
            is_folder = not is_link and entry.is_dir(follow_symlinks=False)
            kind = self._kind(inside, entry.name, is_folder=is_folder, is_repository=is_repository)
            if kind:
                marks.append((f"{kind} link" if is_link and kind != "git" else kind, inside))
            # Only below `.git` are they git's own: a project may have a folder of that name, with secrets in it.
            is_shut = kind == "hidden" or (entry.name == "objects" and ".git" in path.split("/"))
            if is_folder and not is_shut and (not _is_foreign(inside) or self._hides.may_match_below(inside)):
                folders.append(inside)
        return folders, marks

    def _kind(self, path: str, name: str, *, is_folder: bool, is_repository: bool) -> str:
        if self._hides.match_folder(path) if is_folder else self._hides.match(path):
            return "hidden"
        if name == "config.worktree" or (name == "config" and is_repository and not is_folder):
            return "git"
        if _is_foreign(path.rpartition("/")[0]):
            return ""
        is_secret = _folded(name) in _SECRET_FOLDERS or (not is_folder and _SECRETS.fullmatch(_folded(name)))
        if is_secret and not self._shows.match(path):
            return "hidden"
        is_repository_part = (name in {"hooks", "commondir"} and is_repository) or (name == ".git" and not is_folder)
        keeps = self._keeps.match_folder(path) if is_folder else self._keeps.match(path)
        return "kept" if keeps or is_kept(name) or is_repository_part else ""


def link_target(path: str) -> str | None:
    """Return where a link leads, as it is written; None where there is none."""
    try:
        return os.readlink(path)  # noqa: PTH115 - a plain string
    except OSError:
        return None


def _is_foreign(path: str) -> bool:
    """Return True if `path` is in a folder of packages, and not in one that git only named so (a submodule's)."""
    return not _FOREIGN.isdisjoint(f"/{path}/".partition("/.git/")[0].split("/"))


def _outermost(paths: Iterable[str], *, but: Sequence[str] = ()) -> tuple[str, ...]:
    """The paths that lie in no other of them, nor in those of `but`: what is covered needs no cover of its own."""
    chosen: list[str] = []
    for path in sorted(set(paths)):  # a folder sorts before what is in it
        if not is_in(path, chosen) and not is_in(path, but):
            chosen.append(path)
    return tuple(chosen)


def shown_parts(root: str, survey: Survey, paths: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the parts of the workspace that a command sees: all, or what the patterns of its rule cover.

    Raises ToolError if nothing that is there matches, or too much.
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


# Beside the workspace.


def readable(env: Mapping[str, str], workspace: str, settings: Sandbox) -> tuple[str, ...]:
    """Return what every command may read beside the workspace: the system, its programs, what the user listed."""
    private = (env.get("HOME", ""), os.path.expanduser("~"), workspace)  # noqa: PTH111 - a plain string
    found = dict.fromkeys(_SYSTEM)
    for part in env.get("PATH", "").split(":"):
        if part and not any(is_in(place, (part, os.path.realpath(part))) for place in private):
            beside = ("lib", "lib64", "libexec", "include", "versions", "version", "toolchains")
            found |= dict.fromkeys([part, *(str(Path(part).parent / name) for name in beside)])
    packages = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    found |= dict.fromkeys([sys.prefix, sys.base_prefix, *packages, _LIBRARY])
    # Of what a command may write, only the whole is named: what is in it may have become a link since.
    written = listed(settings.write, workspace)
    chosen = [path for path in found if not is_in(path, (workspace, *written.values()))]
    chosen += [real for real, name in listed(settings.read, workspace).items() if not is_in(name, written.values())]
    return _outermost(path for path in [*chosen, *written] if os.path.exists(path))  # noqa: PTH110 - a plain string


def listed(paths: Iterable[str], workspace: str) -> dict[str, str]:
    """Return the real paths of `sandbox.read` or `sandbox.write` beside the workspace, with what they are called.

    What is hidden and kept is known by its real path: under another one, through a link, it would be neither. One that
    is in the workspace, or in another one, may have become a link by a command.
    """
    beside = (os.path.expanduser(path) for path in paths if path.startswith(("/", "~")))  # noqa: PTH111 - plain strings
    names = _outermost(os.path.abspath(path) for path in beside)  # noqa: PTH100 - a plain string
    ways = {name: {os.path.realpath(above) for above in (name, *map(str, Path(name).parents))} for name in names}
    return {os.path.realpath(name): name for name, way in ways.items() if workspace not in way}


def own_environment(workspace: str, settings: Sandbox) -> list[str]:
    """Return what of the engine's own programs lies in the workspace: a command that changed it would change us."""
    found = [os.path.realpath(path) for path in (sys.prefix, _LIBRARY)]
    inside = [path for path in found if path != workspace and is_in(path, (workspace,))]
    free = [os.path.abspath(os.path.expanduser(path)) for path in settings.write]  # noqa: PTH100, PTH111 - a plain string
    return [path for path in inside if not is_in(path, free)]


def hidden_beside(visible: Iterable[str]) -> list[str]:
    """Return what is hidden of the library's own folders and of the system, as far as a command would see it.

    The library's folders hold keys, audit, waiting approvals and trusted configuration.
    """
    kinds: tuple[Kind, ...] = ("state", "config", "cache", "data")
    own = (os.path.realpath(folder(kind)) for kind in kinds)
    found = [path for path in own if os.path.isdir(path)]  # noqa: PTH112 - a plain string
    return [path for path in (*found, *system_secrets()) if is_in(path, visible)]


def system_secrets() -> tuple[str, ...]:
    """Return the files of the system that only root reads, where that is us."""
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    return tuple(path for path in _SYSTEM_SECRETS if is_root and os.path.exists(path))  # noqa: PTH110 - a plain string


# Git's configuration may name programs for diffs, filters, hooks, signatures, pagers and transports, under names of its
# own choice, so no list of switches turns them all off. A command sees a copy in its place, made of what is known to be
# inert, without passwords in addresses.
_INERT = re.compile(
    r"core\.(?:repositoryformatversion|filemode|bare|logallrefupdates|ignorecase|precomposeunicode|symlinks|autocrlf|eol"
    r"|safecrlf|quotepath|abbrev|sparsecheckout|sparsecheckoutcone|worktree|whitespace|excludesfile|commentchar)"
    r"|extensions\.(?:objectformat|worktreeconfig|partialclone|noop|preciousobjects|compatobjectformat|refstorage"
    r"|relativeworktrees)|(?:user|author|committer)\.(?:name|email)|init\.defaultbranch|safe\.directory"
    r"|branch\..*\.(?:remote|merge|rebase|description|pushremote)"
    r"|remote\..*\.(?:url|pushurl|fetch|push|tagopt|prune|promisor|partialclonefilter)"
    r"|submodule\..*\.(?:url|active|branch|path)|(?:color|advice|column|i18n|status)\..*"
    r"|diff\.(?:algorithm|renames|renamelimit|mnemonicprefix|noprefix|context|interhunkcontext|colormoved"
    r"|colormovedws|wserrorhighlight|suppressblankempty|indentheuristic|submodule|ignoresubmodules)"
    r"|log\.(?:date|decorate|follow|abbrevcommit|mailmap)|pull\.(?:rebase|ff)|push\.(?:default|autosetupremote)"
    r"|merge\.(?:ff|conflictstyle|renames|log|stat)|rebase\.(?:autosquash|autostash|updaterefs)|fetch\.prune"
    r"|grep\.(?:linenumber|patterntype|extendregexp|column|fullname)|commit\.(?:verbose|cleanup|status)|tag\.sort"
)
# A command that may write checks files in and out, which filters (LFS) are there for; it is as confined as they are.
_FILTERS = re.compile(r"filter\..*\.(?:clean|smudge|process|required)|lfs\.repositoryformatversion")
# A file that is hidden keeps its size and time, so that git sees no change in it; both must be all that git compares.
_SETTINGS = {"core.checkstat": "minimal", "core.trustctime": "false", "core.fsmonitor": "false"}
GIT_GLOBAL = {"safe.barerepository": "explicit", "log.showsignature": "false", **_SETTINGS}


def inert_git_config(path: str, *, write: bool, user: bool = False, within: str = "/") -> tuple[str, bool]:
    """Return a configuration's text without what could run a program, and whether anything was left out.

    Args:
        path: The file; one that cannot be read counts as empty.
        write: The command may write, so filters stay.
        user: It is the user's own configuration and not a repository's.
        within: A working tree elsewhere is left out: git would write there what a command has recorded.
    """
    rows, is_read = _git_rows(path)
    trees = (os.path.join(os.path.dirname(path), value) for key, value in rows if key == "core.worktree")  # noqa: PTH118, PTH120 - plain strings
    if not all(is_in(os.path.realpath(tree), (within,)) for tree in trees):
        rows, is_read = tuple(row for row in rows if row[0] != "core.worktree"), False
    inert = [
        (key, _without_password(value))
        for key, value in rows
        if _INERT.fullmatch(key) or (write and _FILTERS.fullmatch(key))
    ]
    dropped = not is_read or any(not _INERT.fullmatch(key) for key, _ in rows)
    return _git_text([*inert, *(GIT_GLOBAL if user else _SETTINGS).items()]), dropped


def git_reads(path: str, tops: Iterable[str]) -> set[str]:
    """Return what else a configuration has git read or run: included files, theirs, and hooks below one of `tops`."""
    found: set[str] = set()
    left = [path]
    while left:
        file = left.pop()
        for key, value in _git_rows(file)[0]:
            place = os.path.expanduser(value)  # noqa: PTH111 - a plain string
            if key == "core.hookspath":
                found |= {os.path.realpath(os.path.join(top, place)) for top in tops}  # noqa: PTH118 - plain strings
            elif key.startswith("include") and key.endswith(".path"):
                included = os.path.realpath(os.path.join(os.path.dirname(file), place))  # noqa: PTH118, PTH120 - plain strings
                left += [] if included in found else [included]
                found.add(included)
    return found


def _git_rows(path: str) -> tuple[tuple[tuple[str, str], ...], bool]:
    """The settings of a file as git reads them; False where there is one that git should not be made to read."""
    try:
        stat = os.stat(path)  # noqa: PTH116 - a plain string
    except OSError:
        return (), True
    if not S_ISREG(stat.st_mode) or stat.st_size > _MOST_OF_A_CONFIG:  # a command may have left a pipe, or too much
        return (), False
    return _read_git_rows(path, stat.st_ctime_ns, stat.st_size)


@lru_cache(maxsize=256)
def _read_git_rows(path: str, _changed_ns: int, _size: int) -> tuple[tuple[tuple[str, str], ...], bool]:
    git = shutil.which("git", path=SYSTEM_PATH)
    if git is None:
        return (), False
    words = [git, "config", "--file", path, "--no-includes", "--null", "--list"]
    try:
        done = subprocess.run(words, capture_output=True, check=False, env={}, cwd="/", timeout=10)  # noqa: S603 - fixed words
    except subprocess.TimeoutExpired:  # a pipe has taken its place
        return (), False
    rows = [row.partition("\n") for row in done.stdout.decode("utf-8", "surrogateescape").split("\0") if row]
    # A key without a value is true.
    return tuple((key, value if separator else "true") for key, separator, value in rows), done.returncode == 0


def _without_password(value: str) -> str:
    found = re.match(r"(\w+://)([^/@:]*)(?::[^/@]*)?@(.*)", value, re.DOTALL)
    if found is None:
        return value
    return f"{found[1]}{found[3]}" if found[1].startswith("http") else f"{found[1]}{found[2]}@{found[3]}"


def _git_text(rows: Iterable[tuple[str, str]]) -> str:
    """Settings in git's own syntax, each quoted whole."""
    escapes = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t"})
    lines = []
    for key, value in rows:
        section, _, name = key.rpartition(".")
        head, dot, sub = section.partition(".")
        title = f'{head} "{sub.translate(escapes)}"' if dot else head
        lines.append(f'[{title}]\n\t{name} = "{value.translate(escapes)}"\n')
    return "".join(lines)
