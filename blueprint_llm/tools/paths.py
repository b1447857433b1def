"""The workspace: the one folder that tools may touch, and where a path in it leads.

A path is judged twice: here by name, to decide; and when it is opened, by the kernel (`confine`), to be sure.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from stat import S_ISLNK, S_ISREG

from blueprint_llm.tools.tokens import is_hidden


class PathDeniedError(ValueError):
    """A path that no tool may touch; the message says why."""


_DEVICES = re.compile(r"(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9])(?:\..*)?")


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


@lru_cache(maxsize=1024)
def glob(pattern: str) -> re.Pattern[str]:
    """A path pattern as a regular expression: `**` crosses folders, `*` and `?` do not."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern.removeprefix("./"))
    wild = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(wild.get(part, re.escape(part)) for part in parts) + r"\Z", re.DOTALL)
