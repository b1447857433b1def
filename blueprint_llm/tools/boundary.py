"""What a command may touch: the effects of its rule, what is hidden from it, and what no command changes.

This file and `sandbox`, which has the kernel enforce it, are the whole boundary. Names of files decide here: which are
secrets (hidden from every process), which are kept (read-only for every process, because other programs act on them),
and which run later (only the tools that write files ask for those).
"""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from blueprint_llm.config.paths import Kind, folder
from blueprint_llm.tools.tokens import word_set

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from blueprint_llm.config.tool_blocks import Sandbox


# Folders that hold secrets: hidden.
_SECRET_FOLDERS = word_set(".ssh .gnupg .aws .azure .kube .docker")
# Files that hold secrets: hidden.
_SECRETS = re.compile(
    r"\.env(?:[._-](?!example$|sample$|template$|dist$).*)?|\.envrc|\.netrc|\.npmrc|\.pypirc|\.pgpass|\.git-credentials"
    r"|id_(?:rsa|ed25519|ecdsa|dsa)|credentials(?:\.(?:json|ya?ml|toml|ini|csv|txt|xml|db))?"
    r"|(?!cacert\.|roots\.).*\.(?:pem|key|p12|pfx|jks|kdbx)"
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
_KEPT = re.compile(r"\.env(?:rc|[._-].*)?")
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
_LATER = re.compile(r".*\.(?:pth|service|desktop|mk)|.*\.config\.[cm]?[jt]s|requirements.*\.txt|constraints.*\.txt")
# Folders of other people's packages: their test keys are no secrets and nobody works in them.
_FOREIGN = word_set("node_modules .venv venv site-packages .tox .nox __pycache__ .mypy_cache .ruff_cache .pytest_cache")

# The system and its programs, readable for every command.
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc", "/opt", "/nix", "/run/current-system", "/snap")
# Readable to root alone, so only in the way where the engine runs as root.
_SYSTEM_SECRETS = [
    "/etc/shadow",
    "/etc/shadow-",
    "/etc/gshadow",
    "/etc/gshadow-",
    "/etc/sudoers",
    "/etc/sudoers.d",
    "/etc/ssh",
    "/etc/ssl/private",
    "/etc/krb5.keytab",
    "/etc/wireguard",
    "/etc/NetworkManager",
    "/etc/docker",
    "/etc/kubernetes",
    "/etc/security",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """What a command may do beside reading the workspace."""

    write: bool = False
    network: bool = False

    @classmethod
    def of(cls, names: Iterable[str]) -> Effects:
        """Return the effects that a rule names."""
        return cls(write="write" in names, network="network" in names)

    @property
    def names(self) -> tuple[str, ...]:
        """The effects as a rule spells them."""
        return ("write" if self.write else "read", *(("network",) if self.network else ()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What one command was allowed: its effects, and the part of the workspace that it sees (None: all of it)."""

    effects: Effects
    paths: tuple[str, ...] | None = None


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


def is_secret(name: str, *, is_folder: bool) -> bool:
    """Return True if a file or folder of this name is hidden."""
    low = _folded(name)
    return low in _SECRET_FOLDERS or (not is_folder and _SECRETS.fullmatch(low) is not None)


def is_kept(name: str) -> bool:
    """Return True if no command may change a file or folder of this name."""
    low = _folded(name)
    return low in _KEPT_FILES or low in _KEPT_FOLDERS or _KEPT.fullmatch(low) is not None


def is_protected(name: str) -> bool:
    """Return True if no command may make a file or folder of this name."""
    return is_kept(name) or _folded(name) in _SECRET_FOLDERS


def is_foreign(path: str) -> bool:
    """Return True if a path lies in a folder of other people's packages."""
    return not _FOREIGN.isdisjoint(path.split("/"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """What one command may touch; paths are absolute.

    Attributes:
        shown: The parts of the workspace that it sees.
        read, write: What it may read and write beside the workspace.
        masks: Pairs of what is shown in place of a path, and the path.
        kept: Paths of the workspace that are read-only.
        pinned: Folders that must not be renamed, because a hidden or kept path is below them.
        home: The user's home folder, private and empty inside bubblewrap.
        unsettled: Hidden files with changes that git has not recorded, which it would record as empty.
    """

    workspace: str
    effects: Effects
    shown: tuple[str, ...]
    read: tuple[str, ...]
    write: tuple[str, ...]
    masks: tuple[tuple[str, str], ...]
    kept: tuple[str, ...]
    pinned: tuple[str, ...]
    home: str
    unsettled: tuple[str, ...] = ()


def readable(env: Mapping[str, str], workspace: str, settings: Sandbox) -> tuple[str, ...]:
    """Return what every command may read beside the workspace: the system, its programs, what the user listed."""
    home = env.get("HOME", "")
    tools = [
        place
        for part in env.get("PATH", "").split(":")
        if part and not is_within(home, part) and not is_within(workspace, part)
        for place in _toolchain(part)
    ]
    listed = [os.path.abspath(os.path.expanduser(path)) for path in settings.read if is_outside(path)]  # noqa: PTH100, PTH111 - plain strings
    packages = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    own = str(Path(__file__).parents[1])  # has a plugin that pytest loads, wherever it was installed from
    found = dict.fromkeys([*_SYSTEM, *tools, sys.prefix, sys.base_prefix, *packages, own, *listed])
    there = [path for path in found if os.path.exists(path) and not is_within(path, workspace)]  # noqa: PTH110 - plain strings
    return tuple(path for path in there if not any(path != other and is_within(path, other) for other in there))


def is_outside(path: str) -> bool:
    """Return True if a path of `sandbox.read` lies beside the workspace; a relative one names a secret in it."""
    return path.startswith(("/", "~"))


def _toolchain(part: str) -> list[str]:
    """A folder of programs, and the libraries beside it."""
    beside = (
        str(Path(part).parent / name)
        for name in ("lib", "lib64", "libexec", "include", "versions", "version", "toolchains")
    )
    return [part, *(path for path in beside if os.path.exists(path))]  # noqa: PTH110 - a plain string


def writable(settings: Sandbox) -> tuple[str, ...]:
    """Return what a command with `effects: write` may write beside the workspace."""
    listed = (os.path.abspath(os.path.expanduser(path)) for path in settings.write)  # noqa: PTH100, PTH111 - plain strings
    return tuple(path for path in listed if os.path.exists(path))  # noqa: PTH110 - a plain string


def is_within(path: str, above: str) -> bool:
    """Return True if `path` is `above` or below it."""
    return path == above or path.startswith(above.rstrip("/") + "/")


def own_folders() -> tuple[str, ...]:
    """Return the library's own folders: keys, audit, pending approvals, trusted configuration."""
    kinds: tuple[Kind, ...] = ("state", "config", "cache", "data")
    found = (os.path.realpath(folder(kind)) for kind in kinds)
    return tuple(path for path in found if os.path.isdir(path))  # noqa: PTH112 - a plain string


def system_secrets() -> tuple[str, ...]:
    """Return the files of the system that only root reads, where that is us."""
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    return tuple(path for path in _SYSTEM_SECRETS if is_root and os.path.exists(path))  # noqa: PTH110 - a plain string
