"""The workspace: the one folder that tools may touch, and which of its files need a person's eye.

A path is judged twice: here by name, to decide; and when it is opened, by the kernel (`confine`), to be sure.
"""

from __future__ import annotations

import os
import re
import unicodedata
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from stat import S_ISLNK, S_ISREG

from blueprint_llm.tools.tokens import is_hidden, word_set


class PathDeniedError(ValueError):
    """A path that no tool may touch; the message says why."""


_DEVICES = re.compile(r"(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9])(?:\..*)?")

# Folders whose every file is configuration of a tool that runs by itself, or holds secrets.
_FOLDERS = word_set(
    ".git .hg .svn .jj .ssh .gnupg .aws .azure .kube .docker .github .gitlab .circleci .buildkite .husky "
    ".githooks .ci .claude .codex .cursor .gemini .aider .continue .windsurf .opencode .blueprint .agents .roo "
    ".cline .vscode .idea .devcontainer .cargo .mvn .gradle .yarn .venv venv node_modules __pycache__ .config "
    "git~1 .direnv .bundle"
)
# Files that configure tools, are run by them, or hold secrets. `HEAD` makes a folder a bare git repository.
_FILES = word_set(
    ".envrc .netrc .npmrc .yarnrc .yarnrc.yml .pnpmfile.cjs .pypirc .gitconfig .gitattributes .gitmodules "
    ".gitignore .git-credentials .pgpass .bashrc .bash_profile .bash_login .bash_logout .bash_aliases .profile "
    ".zshrc .zshenv .zprofile .zlogin .zlogout .inputrc .vimrc .exrc .nvimrc .emacs .gdbinit .lldbinit .pythonrc "
    ".pdbrc .pythonstartup .curlrc .wgetrc .ripgreprc .tmux.conf .xinitrc .xprofile .login .cshrc .tcshrc .kshrc "
    "config.fish .gitlab-ci.yml .travis.yml azure-pipelines.yml jenkinsfile appveyor.yml bitbucket-pipelines.yml "
    ".drone.yml .pre-commit-config.yaml lefthook.yml .mcp.json mcp.json agents.md claude.md gemini.md "
    ".cursorrules .windsurfrules .clinerules .goosehints blueprint.yaml blueprint.yml conftest.py "
    "sitecustomize.py usercustomize.py setup.py setup.cfg pyproject.toml pytest.ini .pytest.ini tox.ini "
    ".coveragerc mypy.ini .mypy.ini ruff.toml .ruff.toml noxfile.py tasks.py fabfile.py dodo.py sconstruct "
    "manage.py pytest.py makefile gnumakefile justfile .justfile taskfile.yml rakefile gemfile cmakelists.txt "
    "meson.build build.rs cargo.toml rust-toolchain rust-toolchain.toml go.mod go.work package.json "
    "package-lock.json yarn.lock pnpm-lock.yaml .babelrc .eslintrc .eslintrc.js .eslintrc.cjs .eslintrc.json "
    ".prettierrc gulpfile.js gruntfile.js tsconfig.json build.gradle build.gradle.kts settings.gradle pom.xml "
    "gradlew mvnw dockerfile containerfile docker-compose.yml docker-compose.yaml compose.yaml compose.yml "
    "vagrantfile procfile composer.json deno.json bunfig.toml head id_rsa id_ed25519 authorized_keys known_hosts "
    "credentials"
)
_PATTERNS = re.compile(
    r"\.env(?:[._-].*)?|.*\.(?:pth|pem|key|p12|pfx|jks|kdbx|service|desktop|mk)|.*\.config\.[cm]?[jt]s|requirements.*\.txt|constraints.*\.txt"
)
_SECRET_FOLDERS = word_set(".ssh .gnupg .aws .azure .kube .docker")
_SECRETS = re.compile(
    r"\.env(?:[._-](?!example$|sample$|template$|dist$).*)?|\.envrc|\.netrc|\.npmrc|\.pypirc|\.pgpass|\.git-credentials"
    r"|id_(?:rsa|ed25519|ecdsa|dsa)|credentials(?:\..*)?|.*\.(?:pem|key|p12|pfx|jks|kdbx)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """Where a path leads.

    Attributes:
        path: POSIX, relative to the workspace, all links resolved; `.` for the workspace itself.
        named: The same before links were resolved.
        exists: Whether something is there.
        links: Hard links of a regular file, else 1.
    """

    path: str
    named: str
    exists: bool
    links: int

    @property
    def names(self) -> tuple[str, ...]:
        """Both spellings, for rules that must not be dodged through a link."""
        return (self.path,) if self.path == self.named else (self.path, self.named)


class Workspace:
    """A folder, given by its real path."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.path.realpath(root)
        self._given = os.path.abspath(root)  # noqa: PTH100 - purely textual: links in it are wanted

    def locate(self, path: str) -> Located:
        """Where `path` leads.

        Raises:
            PathDeniedError: When it leads out of the workspace or could mean two things.
        """
        check_spelling(path)
        return self.resolve(path)

    def resolve(self, path: str) -> Located:
        """Where `path` leads, without judging how it is spelled."""
        named = self._relative(path)
        if ".." not in path and (place := self._plain(named)):
            return place
        real = os.path.realpath(os.path.join(self.root, path))  # noqa: PTH118 - `..` counts after links, as in the kernel
        inside = real[len(self.root) :].strip("/") or "."
        if real != self.root and not real.startswith(self.root.rstrip("/") + "/"):
            raise PathDeniedError(f"{path!r} leads out of the workspace")
        place = self._plain(inside)
        if place is None:
            raise PathDeniedError(f"{path!r} is a loop of links")
        return replace(place, named=named)

    def _plain(self, inside: str) -> Located | None:
        """The place of a path that has no link on its way; None where it has one."""
        real, found = self.root, None
        for part in inside.split("/"):
            real = f"{real}/{part}"
            try:
                found = os.lstat(real)
            except (FileNotFoundError, NotADirectoryError):
                return Located(path=inside, named=inside, exists=False, links=1)
            except OSError as error:
                raise PathDeniedError(f"{inside!r}: {error.strerror}") from None
            if S_ISLNK(found.st_mode):
                return None
        links = found.st_nlink if found and S_ISREG(found.st_mode) else 1
        return Located(path=inside, named=inside, exists=True, links=links)

    def _relative(self, path: str) -> str:
        """`path` as text, relative to the root; an absolute path inside the workspace is stripped first."""
        if "\0" in path:
            raise PathDeniedError(f"{path!r} holds a NUL")
        clean = os.path.normpath(path or ".")
        for root in {self._given, self.root} if clean.startswith("/") else ():
            if clean == root or clean.startswith(root.rstrip("/") + "/"):
                return clean[len(root) :].strip("/") or "."
        if clean == ".." or clean.startswith(("/", "../")):
            raise PathDeniedError(f"{path!r} leads out of the workspace")
        return clean


def check_spelling(path: str) -> None:
    """Refuse a path that some system reads differently: NUL, backslash, drive, stream, invisible characters.

    Raises:
        PathDeniedError: Saying which.
    """
    if not path:
        raise PathDeniedError("the path is empty")
    if not (path.isascii() and path.isprintable()) and any(is_hidden(char) for char in path):
        raise PathDeniedError(f"{path!a} holds an invisible character")
    if "\\" in path or ":" in path:
        raise PathDeniedError(
            f"{path!r} holds a backslash or a colon, which other systems read as a folder or a stream"
        )
    for part in Path(path).parts:
        if part not in {".", ".."} and (part[-1] in ". " or _DEVICES.fullmatch(part.casefold())):
            raise PathDeniedError(f"{path!r} names a device, or ends in a dot or space that other systems drop")


@lru_cache(maxsize=4096)
def protection(path: str) -> str | None:
    """Why a change of `path` needs a person, or None."""
    parts = [unicodedata.normalize("NFKC", part).casefold() for part in path.split("/")]
    name = parts[-1]
    if folder := next((part for part in parts if part in _FOLDERS), None):
        return f"{path}: {folder} configures tools that run by themselves, or holds secrets"
    if name in _FILES or _PATTERNS.fullmatch(name):
        return f"{path}: {name} configures tools, runs later, or holds secrets"
    return None


@lru_cache(maxsize=4096)
def secrecy(path: str) -> str | None:
    """Why reading `path` needs a person, or None."""
    parts = [unicodedata.normalize("NFKC", part).casefold() for part in path.split("/")]
    if (
        _SECRETS.fullmatch(parts[-1])
        or any(part in _SECRET_FOLDERS for part in parts)
        or parts[-2:] == [".git", "config"]
    ):
        return f"{path} may hold secrets"
    return None


@lru_cache(maxsize=1024)
def glob(pattern: str) -> re.Pattern[str]:
    """A path pattern as a regular expression: `**` crosses folders, `*` and `?` do not."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern.removeprefix("./"))
    wild = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(wild.get(part, re.escape(part)) for part in parts) + r"\Z", re.DOTALL)
