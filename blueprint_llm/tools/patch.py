"""Read a patch in any of three formats (V4A, unified diff, search/replace) into one form: edits of files.

Nothing is fuzzy. What a reader could take two ways (headers that disagree, counts that do not add up, binary parts,
links, special modes) is an error that says so; the model then writes a better patch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class PatchError(ValueError):
    """A patch that cannot be applied; the message tells the model what to mend, `hint` quotes the file."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(slots=True, kw_only=True)
class Hunk:
    """Lines to find and what becomes of them.

    Attributes:
        lines: Pairs of ` `, `-` or `+` and a line without its end.
        start: The 0-based line the patch names, if it does; a match there wins over others.
        anchors: Lines to find first, in order (V4A).
        at_end: The lines are the last of the file.
        bare_old, bare_new: The last line lacks its newline before, after; None: the patch does not say.
    """

    lines: list[tuple[str, str]] = field(default_factory=list)
    start: int | None = None
    anchors: tuple[str, ...] = ()
    at_end: bool = False
    bare_old: bool | None = None
    bare_new: bool | None = None


@dataclass(slots=True, kw_only=True)
class FileEdit:
    """What a patch does to one file. `mode` is 0o644 or 0o755 where the patch sets it."""

    op: Literal["add", "update", "delete"]
    path: str
    moved_to: str | None = None
    hunks: list[Hunk] = field(default_factory=list)
    mode: int | None = None


def parse_patch(text: str) -> list[FileEdit]:
    """The edits of a patch, in order.

    Raises:
        PatchError: When its format is unknown or it is malformed.
    """
    lines = [line.removesuffix("\r") for line in text.split("\n")] if _is_crlf(text) else text.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    reader = Reader(lines)
    for marker, parse in _FORMATS:
        if any(re.match(marker, line) for line in lines):
            if edits := parse(reader):
                return edits
            break
    raise PatchError("no edits found: write a unified diff, a *** Begin Patch block, or <<<<<<< SEARCH blocks")


def _is_crlf(text: str) -> bool:
    return "\r\n" in text and not re.search(r"[^\r]\n", text)


class Reader:
    """Lines with a cursor."""

    def __init__(self, lines: list[str]) -> None:
        self.lines, self.place = lines, 0

    @property
    def line(self) -> str | None:
        """The line at the cursor; None at the end."""
        return self.lines[self.place] if self.place < len(self.lines) else None

    def take(self) -> str:
        """The line at the cursor, which moves on."""
        line = self.line
        if line is None:
            raise PatchError("the patch ends too early")
        self.place += 1
        return line

    def take_while(self, keep: Callable[[str], bool]) -> Iterator[str]:
        """Lines as long as they are wanted."""
        while self.line is not None and keep(self.line):
            yield self.take()

    def fail(self, problem: str) -> PatchError:
        """An error at this place."""
        return PatchError(f"line {self.place + 1} of the patch: {problem}")


# V4A: *** Begin Patch, *** Add|Update|Delete File: PATH, @@ ANCHOR, then lines with ' ', '-' or '+'.


def _parse_v4a(reader: Reader) -> list[FileEdit]:
    _prologue(reader, "*** Begin Patch")
    edits = []
    while (line := reader.take()) != "*** End Patch":
        match = re.fullmatch(r"\*\*\* (Add|Update|Delete) File: (.+)", line)
        if not match:
            raise reader.fail(f"expected '*** Add|Update|Delete File:' or '*** End Patch', found {line!r}")
        edit = FileEdit(op=match[1].lower(), path=match[2].strip())  # type: ignore[arg-type] # one of the three
        edits.append(edit)
        _V4A_BODIES[match[1]](reader, edit)
    _nothing_left(reader)
    return edits


def _prologue(reader: Reader, first: str) -> None:
    for line in reader.take_while(lambda line: line.strip() != first):
        if line.strip() and not line.startswith("```"):
            raise reader.fail(f"unexpected text before {first!r}")
    reader.take()


def _nothing_left(reader: Reader) -> None:
    rest = [line for line in reader.lines[reader.place :] if line.strip() and not line.startswith("```")]
    if rest:
        raise reader.fail(f"unexpected text after the patch: {rest[0]!r}")


def _added_lines(reader: Reader, edit: FileEdit) -> None:
    body = list(reader.take_while(lambda line: not line.startswith("*** ")))
    if any(not line.startswith("+") for line in body):
        raise reader.fail("every line of an added file begins with '+'")
    edit.hunks.append(Hunk(lines=[("+", line[1:]) for line in body]))


def _updated_lines(reader: Reader, edit: FileEdit) -> None:
    if (reader.line or "").startswith("*** Move to: "):
        edit.moved_to = reader.take().removeprefix("*** Move to: ").strip()
    while reader.line is not None and not re.match(r"\*\*\* (?:(?:Add|Update|Delete) File:|End Patch)", reader.line):
        edit.hunks.append(_v4a_hunk(reader))
    if not edit.hunks and not edit.moved_to:
        raise reader.fail(f"no change given for {edit.path}")


def _v4a_hunk(reader: Reader) -> Hunk:
    anchors = [line[2:].strip() for line in reader.take_while(lambda line: line.startswith("@@"))]
    lines = [_body_line(reader, line) for line in reader.take_while(lambda line: not line.startswith(("@@", "*** ")))]
    if not lines:
        raise reader.fail(f"a hunk without lines, found {reader.line!r}")
    at_end = reader.line == "*** End of File"
    if at_end:
        reader.take()
    return Hunk(lines=lines, anchors=tuple(anchor for anchor in anchors if anchor), at_end=at_end)


def _body_line(reader: Reader, line: str) -> tuple[str, str]:
    if line and line[0] not in " +-":
        raise reader.fail(f"a line must begin with ' ', '+' or '-', found {line!r}")
    return (line[0], line[1:]) if line else (" ", "")


_V4A_BODIES: dict[str, Callable[[Reader, FileEdit], None]] = {
    "Add": _added_lines,
    "Update": _updated_lines,
    "Delete": lambda _reader, _edit: None,
}


# Unified diff, with git's extended headers.

_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@.*")
_EXTENDED = re.compile(
    r"(old mode|new mode|new file mode|deleted file mode|rename from|rename to|similarity index|index) (.+)"
)
_MODES = {"100644": 0o644, "100755": 0o755}


def _parse_unified(reader: Reader) -> list[FileEdit]:
    edits = []
    while reader.line is not None:
        if reader.line.startswith("diff --git "):
            edits.append(_git_entry(reader))
        elif reader.line.startswith("--- "):
            edits.append(_plain_entry(reader, {}))
        elif reader.line.strip() and not reader.line.startswith("```"):
            raise reader.fail(f"unexpected {reader.line!r}")
        else:
            reader.take()
    return edits


def _git_entry(reader: Reader) -> FileEdit:
    first = reader.take()
    heads: dict[str, str] = {}
    for line in reader.take_while(lambda line: not line.startswith(("--- ", "diff --git "))):
        match = _EXTENDED.fullmatch(line)
        if not match:
            raise reader.fail(f"{line!r} cannot be shown before it is applied, or is no header of a diff")
        heads[match[1]] = match[2]
    _refuse_modes(reader, heads)
    if (reader.line or "").startswith("--- "):
        return _plain_entry(reader, heads)
    return _bodiless(reader, heads, first)


def _refuse_modes(reader: Reader, heads: dict[str, str]) -> None:
    for key in ("old mode", "new mode", "new file mode", "deleted file mode"):
        if heads.get(key, "100644") not in _MODES:
            raise reader.fail(f"{key} {heads[key]} is not a plain file's")


def _bodiless(reader: Reader, heads: dict[str, str], first: str) -> FileEdit:
    mode = _MODES.get(heads.get("new mode", ""))
    if "rename from" in heads and "rename to" in heads:
        return FileEdit(
            op="update", path=_unquote(heads["rename from"]), moved_to=_unquote(heads["rename to"]), mode=mode
        )
    sides = re.fullmatch(r"diff --git a/(.+) b/\1", first)
    if not sides:
        raise reader.fail("the two names of the file differ")
    if "new file mode" in heads:
        return FileEdit(op="add", path=sides[1], mode=_MODES[heads["new file mode"]], hunks=[Hunk()])
    if "deleted file mode" in heads:
        return FileEdit(op="delete", path=sides[1])
    if mode is None:
        raise reader.fail("no change given")
    return FileEdit(op="update", path=sides[1], mode=mode)


def _plain_entry(reader: Reader, heads: dict[str, str]) -> FileEdit:
    old = _header_path(reader, "--- ", "a/")
    new = _header_path(reader, "+++ ", "b/")
    hunks = list(_unified_hunks(reader))
    if not hunks:
        raise reader.fail("a file without hunks")
    mode = _MODES.get(heads.get("new mode") or heads.get("new file mode") or "")
    if old is None and new is not None:
        return FileEdit(op="add", path=new, hunks=hunks, mode=mode)
    if new is None and old is not None:
        return FileEdit(op="delete", path=old, hunks=hunks)
    if old is None or new is None or (old != new and "rename to" not in heads):
        raise reader.fail(f"the headers name two files, {old!r} and {new!r}")
    return FileEdit(op="update", path=old, moved_to=new if new != old else None, hunks=hunks, mode=mode)


def _header_path(reader: Reader, marker: str, side: str) -> str | None:
    line = reader.take()
    if not line.startswith(marker):
        raise reader.fail(f"expected {marker!r}, found {line!r}")
    path = _unquote(line[len(marker) :].partition("\t")[0].rstrip())
    return None if path == "/dev/null" else path.removeprefix(side)


def _unquote(path: str) -> str:
    """Git's C-style quoting undone; quotes anywhere else are refused."""
    if '"' not in path:
        return path
    match = re.fullmatch(r'"((?:[^"\\]|\\(?:[abtnvfr"\\]|[0-7]{3}))*)"', path)
    if not match:
        raise PatchError(f"the path {path} is quoted in a way that could mean two things")
    raw = re.sub(rb"\\([0-7]{3}|.)", _unescape, match[1].encode())
    return raw.decode("utf-8", "surrogateescape")


def _unescape(match: re.Match[bytes]) -> bytes:
    code = match[1]
    if len(code) == 3:  # noqa: PLR2004 - three octal digits
        return bytes([int(code, 8) & 0xFF])
    return dict(zip(b'abtnvfr"\\', b'\a\b\t\n\v\f\r"\\', strict=True))[code[0]].to_bytes()


def _unified_hunks(reader: Reader) -> Iterator[Hunk]:
    while (match := _HUNK.fullmatch(reader.line or "")) is not None:
        reader.take()
        old, new = int(match[2] or 1), int(match[4] or 1)
        hunk = Hunk(start=int(match[1]) - (1 if old else 0), bare_old=False, bare_new=False)
        _fill(reader, hunk, old, new)
        yield hunk


def _fill(reader: Reader, hunk: Hunk, old: int, new: int) -> None:
    while old > 0 or new > 0:
        kind, text = _body_line(reader, reader.take())
        old, new = old - (kind != "+"), new - (kind != "-")
        hunk.lines.append((kind, text))
        if (reader.line or "").startswith("\\ No newline"):
            reader.take()
            hunk.bare_old = hunk.bare_old or kind != "+"
            hunk.bare_new = hunk.bare_new or kind != "-"
    if old < 0 or new < 0:
        raise reader.fail("the hunk's lines do not add up to the counts in its @@ header")
    if (reader.line or "")[:1] in {"+", " "} or re.match(r"-(?!-- )", reader.line or ""):
        raise reader.fail("the hunk has more lines than the counts in its @@ header")


# Search/replace: a path, then <<<<<<< SEARCH, old lines, =======, new lines, >>>>>>> REPLACE.


def _parse_blocks(reader: Reader) -> list[FileEdit]:
    edits: list[FileEdit] = []
    path = ""
    while reader.line is not None:
        line = reader.take()
        if line.startswith("<<<<<<< SEARCH"):
            if not path:
                raise reader.fail("no path stands before the block")
            edits.append(_block(reader, path))
        elif line.strip() and not line.startswith("```"):
            path = line.strip().strip("`")
    return edits


def _block(reader: Reader, path: str) -> FileEdit:
    old = list(reader.take_while(lambda line: line != "======="))
    reader.take()
    new = list(reader.take_while(lambda line: not line.startswith(">>>>>>> REPLACE")))
    reader.take()
    lines = [("-", line) for line in old] + [("+", line) for line in new]
    return FileEdit(op="update" if old else "add", path=path, hunks=[Hunk(lines=lines)])


_FORMATS: tuple[tuple[str, Callable[[Reader], list[FileEdit]]], ...] = (
    (r"\*\*\* Begin Patch\s*$", _parse_v4a),
    (r"<<<<<<< SEARCH", _parse_blocks),
    (r"diff --git |--- ", _parse_unified),
)
