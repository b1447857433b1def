"""Decides what `.gitignore` files leave out of a project.

Each pattern becomes one regular expression over paths relative to its file's folder; the last pattern that matches
decides, as gitignore(5) has it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# What no plan wants to read, even where nobody ignored it.
ALWAYS = frozenset({".git", ".hg", ".svn", ".venv", "venv", "node_modules", "__pycache__", ".tox", ".mypy_cache"})
_WILDCARDS = re.compile(r"\*\*/|/\*\*$|\*+|\?|\[!?[^\]]+\]|\\.|.", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """One line of a `.gitignore`: `folder` is where the file lies ("" for the root)."""

    folder: str
    regex: re.Pattern[str]
    negated: bool
    folders_only: bool

    def matches(self, path: str, *, is_folder: bool) -> bool:
        """Whether the line speaks about a path relative to the root."""
        if self.folders_only and not is_folder:
            return False
        inside = path[len(self.folder) + 1 :] if self.folder else path
        return bool(self.regex.fullmatch(inside))


def read_patterns(text: str, folder: str = "") -> list[Pattern]:
    """The patterns of one `.gitignore`; lines that are no pattern are passed over."""
    lines = (line.rstrip("\r\n").rstrip(" ") for line in text.split("\n"))
    return [_pattern(line, folder) for line in lines if line.strip("/!") and not line.startswith("#") and _closed(line)]


def _closed(line: str) -> bool:
    """Git matches nothing with a pattern whose bracket never closes."""
    return "[" not in _WILDCARDS.findall(line)


def is_ignored(path: str, patterns: list[Pattern], *, is_folder: bool) -> bool:
    """Whether the last pattern that matches a path leaves it out."""
    last = next((p for p in reversed(patterns) if p.matches(path, is_folder=is_folder)), None)
    return last is not None and not last.negated


def _pattern(line: str, folder: str) -> Pattern:
    negated = line.startswith("!")
    body = line[1:] if negated else line
    folders_only = body.endswith("/")
    body = body.rstrip("/")
    anywhere = "" if "/" in body else "(?:.*/)?"
    regex = anywhere + "".join(map(_piece, _WILDCARDS.findall(body.removeprefix("/"))))
    return Pattern(folder=folder, regex=re.compile(regex, re.DOTALL), negated=negated, folders_only=folders_only)


def _piece(token: str) -> str:
    match token:
        case "**/":
            return "(?:.*/)?"
        case "/**":
            return "/.+"
        case "?":
            return "[^/]"
        case _ if token.startswith("*"):
            return "[^/]*"
        case _ if token.startswith("[") and len(token) > 1:
            inner = token[1:-1].replace("\\", "\\\\")
            return f"[^/{inner[1:]}]" if inner.startswith("!") else f"[{inner}]"
        case _:
            return re.escape(token[-1])
