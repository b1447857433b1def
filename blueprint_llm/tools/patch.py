"""Read a patch in any of three formats (V4A, unified diff, search/replace), and work out the bytes that it leaves.

Inside there is one form: edits of files, made of hunks that must match exactly once. Nothing is fuzzy. What a reader
could take two ways (headers that disagree, counts that do not add up, binary parts, links, special modes) is an error
that says so; the model then writes a better patch. Lines keep their own ends: only a hunk's lines change, added ones
take the file's line end, and the preview that a person sees is made of the same bytes that are written later.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_BOM = b"\xef\xbb\xbf"
_NOTHING = "/dev/null"
_COMPARED_CHARS = 200


class PatchError(ValueError):
    """A patch that cannot be applied; the message tells the model what to mend, `hint` quotes the file."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(slots=True, kw_only=True)
class Hunk:
    """Lines to find and what becomes of them."""

    lines: list[tuple[str, str]] = field(default_factory=list)  # pairs of ` `, `-` or `+` and a line without its end
    start: int | None = None  # the 0-based line that the patch names; a match there wins over others
    anchors: tuple[str, ...] = ()  # lines to find first, in order (V4A)
    at_end: bool = False  # the lines are the last of the file
    bare: bool | None = None  # the last line lacks its newline afterwards; None: the patch does not say

    @property
    def states_ends(self) -> bool:
        """Return True if it says of its lines which end in CRLF."""
        return any(text.endswith("\r") for _, text in self.lines)


@dataclass(slots=True, kw_only=True)
class FileEdit:
    """What a patch does to one file."""

    op: Literal["add", "update", "delete"]
    path: str
    moved_to: str | None = None
    hunks: list[Hunk] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A file's bytes and permission bits."""

    content: bytes
    mode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """A file before and after; None means that there is no such file."""

    path: str
    before: Stored | None
    after: Stored | None


def digest(stored: Stored | None) -> str:
    """Return a fingerprint of a file's bytes and mode; `absent` where there is none."""
    return hashlib.sha256(b"%o\0" % stored.mode + stored.content).hexdigest() if stored else "absent"


# Reading.


class _Reader:
    """The lines of a patch; those that were taken are gone."""

    def __init__(self, text: str) -> None:
        is_crlf = "\r\n" in text and not re.search(r"[^\r]\n", text)
        lines = text.removesuffix("\n").split("\n")
        self.left = deque(line.removesuffix("\r") for line in lines) if is_crlf else deque(lines)
        self._all = len(lines)

    @property
    def line(self) -> str:
        """The next line; empty at the end."""
        return self.left[0] if self.left else ""

    def take(self) -> str:
        if not self.left:
            raise PatchError("the patch ends too early")
        return self.left.popleft()

    def take_while(self, keep: Callable[[str], object]) -> Iterator[str]:
        while self.left and keep(self.left[0]):
            yield self.left.popleft()

    def take_signed(self) -> tuple[str, str]:
        line = self.take()
        if line and line[0] not in " +-":
            raise self.fail(f"a line must begin with ' ', '+' or '-', found {line!r}")
        return (line[0], line[1:]) if line else (" ", "")

    def skip_noise(self, until: str | None, where: str) -> None:
        """Pass empty lines and the fences of Markdown; anything else is an error."""
        for line in self.take_while(lambda line: line.strip() != until):
            if line.strip() and not line.startswith("```"):
                raise self.fail(f"unexpected text {where}: {line!r}")

    def fail(self, problem: str) -> PatchError:
        return PatchError(f"line {self._all - len(self.left) + 1} of the patch: {problem}")


def parse_patch(text: str) -> list[FileEdit]:
    """Return the edits of a patch, in order. Raises PatchError when its format is unknown or it is malformed."""
    reader = _Reader(text)
    for mark, parse in _FORMATS:
        if any(re.match(mark, line) for line in reader.left):
            if edits := list(parse(reader)):
                return edits
            break
    raise PatchError("no edits found: write a unified diff, a *** Begin Patch block, or <<<<<<< SEARCH blocks")


def _parse_v4a(reader: _Reader) -> Iterator[FileEdit]:
    """*** Begin Patch, *** Add|Update|Delete File: PATH, @@ ANCHOR, then lines with ' ', '-' or '+'."""
    reader.skip_noise("*** Begin Patch", "before '*** Begin Patch'")
    reader.take()
    while (line := reader.take()) != "*** End Patch":
        match = re.fullmatch(r"\*\*\* (Add|Update|Delete) File: (.+)", line)
        if not match:
            raise reader.fail(f"expected '*** Add|Update|Delete File:' or '*** End Patch', found {line!r}")
        edit = FileEdit(op=match[1].lower(), path=match[2].strip())  # type: ignore[arg-type] # one of the three
        if edit.op == "add":
            body = list(reader.take_while(lambda line: not line.startswith("*** ")))
            if any(not line.startswith("+") for line in body):
                raise reader.fail("every line of an added file begins with '+'")
            edit.hunks.append(Hunk(lines=[("+", line[1:]) for line in body]))
        elif edit.op == "update":
            if reader.line.startswith("*** Move to: "):
                edit.moved_to = reader.take().removeprefix("*** Move to: ").strip()
            edit.hunks += _v4a_hunks(reader)
            if not edit.hunks and not edit.moved_to:
                raise reader.fail(f"no change given for {edit.path}")
        yield edit
    reader.skip_noise(None, "after the patch")


def _v4a_hunks(reader: _Reader) -> Iterator[Hunk]:
    while reader.left and not re.match(r"\*\*\* (?:(?:Add|Update|Delete) File:|End Patch)", reader.line):
        anchors = [line[2:].strip() for line in reader.take_while(lambda line: line.startswith("@@"))]
        hunk = Hunk(anchors=tuple(filter(None, anchors)))
        while reader.left and not reader.line.startswith(("@@", "*** ")):
            hunk.lines.append(reader.take_signed())
        if not hunk.lines:
            raise reader.fail(f"a hunk without lines, found {reader.line!r}")
        hunk.at_end = reader.line == "*** End of File"
        if hunk.at_end:
            reader.take()
        yield hunk


def _parse_blocks(reader: _Reader) -> Iterator[FileEdit]:
    """A path, then <<<<<<< SEARCH, old lines, =======, new lines, >>>>>>> REPLACE."""
    path = ""
    while reader.left:
        line = reader.take()
        if line.startswith("<<<<<<< SEARCH"):
            if not path:
                raise reader.fail("no path stands before the block")
            lines = [("-", line) for line in reader.take_while(lambda line: line != "=======")]
            op: Literal["update", "add"] = "update" if lines else "add"
            reader.take()
            lines += [("+", line) for line in reader.take_while(lambda line: not line.startswith(">>>>>>> REPLACE"))]
            reader.take()
            yield FileEdit(op=op, path=path, hunks=[Hunk(lines=lines)])
        elif line.strip() and not line.startswith("```"):
            path = line.strip().strip("`")


_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@.*")
_HEADER = re.compile(r"index .+|similarity index .+|new file mode 100644|deleted file mode .+|rename (?:from|to) .+")


def _parse_unified(reader: _Reader) -> Iterator[FileEdit]:
    """A unified diff; git's headers before it are passed over, where what they say is shown by the diff itself."""
    while reader.left:
        line, heads = reader.line, []
        if is_git := line.startswith("diff --git "):
            reader.take()
            heads = list(reader.take_while(lambda line: not line.startswith(("--- ", "diff --git "))))
            if odd := next((head for head in heads if not _HEADER.fullmatch(head)), None):
                raise reader.fail(f"{odd!r}: modes, links and binary parts cannot be patched")
        if reader.line.startswith("--- "):
            yield _unified_edit(reader, is_rename=any(head.startswith("rename to ") for head in heads))
        elif renamed := re.fullmatch(r'rename from ([^"]+)\nrename to ([^"]+)', "\n".join(heads[1:])):
            yield FileEdit(op="update", path=renamed[1], moved_to=renamed[2])
        elif is_git:
            raise reader.fail(f"no lines are changed by {line!r}")
        elif line.strip() and not line.startswith("```"):
            raise reader.fail(f"unexpected {line!r}")
        else:
            reader.take()


def _unified_edit(reader: _Reader, *, is_rename: bool) -> FileEdit:
    paths: list[str] = []
    for marker, side in (("--- ", "a/"), ("+++ ", "b/")):
        line = reader.take()
        if not line.startswith(marker):
            raise reader.fail(f"expected {marker!r}, found {line!r}")
        path = line[len(marker) :].partition("\t")[0].rstrip()
        if '"' in path:
            raise reader.fail(f"the path {path} is quoted, which could mean two things: write it plainly")
        paths.append(path if path == _NOTHING else path.removeprefix(side))
    old, new = paths
    hunks = list(_unified_hunks(reader))
    if not hunks:
        raise reader.fail("a file without hunks")
    if _NOTHING in paths and old != new:
        is_new = old == _NOTHING
        return FileEdit(op="add" if is_new else "delete", path=new if is_new else old, hunks=hunks)
    if old == _NOTHING or (old != new and not is_rename):
        raise reader.fail(f"the headers name two files, {old!r} and {new!r}")
    return FileEdit(op="update", path=old, moved_to=new if new != old else None, hunks=hunks)


def _unified_hunks(reader: _Reader) -> Iterator[Hunk]:
    while match := _HUNK.fullmatch(reader.line):
        reader.take()
        old, new = int(match[2] or 1), int(match[4] or 1)
        hunk = Hunk(start=int(match[1]) - (1 if old else 0), bare=False)
        while old > 0 or new > 0:
            kind, text = reader.take_signed()
            old, new = old - (kind != "+"), new - (kind != "-")
            hunk.lines.append((kind, text))
            if reader.line.startswith("\\ No newline"):
                reader.take()
                hunk.bare = hunk.bare or kind != "-"
        if old < 0 or new < 0:
            raise reader.fail("the hunk's lines do not add up to the counts in its @@ header")
        if reader.line.startswith(("+", " ")) or re.match(r"-(?!-- )", reader.line):
            raise reader.fail("the hunk has more lines than the counts in its @@ header")
        yield hunk


_FORMATS = (
    (r"\*\*\* Begin Patch\s*$", _parse_v4a),
    (r"<<<<<<< SEARCH", _parse_blocks),
    (r"diff --git |--- ", _parse_unified),
)


# Staging.


def stage(edits: Sequence[FileEdit], load: Callable[[str], Stored | None]) -> list[Staged]:
    """Return what the edits make of the files, each file once.

    Raises PatchError if a hunk does not match exactly once, or a file is not there or already there.
    """
    before: dict[str, Stored | None] = {}
    after: dict[str, Stored | None] = {}

    def current(path: str) -> Stored | None:
        if path not in before:
            before[path] = after[path] = load(path)
        return after[path]

    for edit in edits:
        result = _edited(edit, current(edit.path))
        target = edit.moved_to or edit.path
        if target != edit.path:
            if current(target) is not None:
                raise PatchError(f"{target}: already there")
            after[edit.path] = None
        after[target] = result
    return [Staged(path=path, before=before[path], after=after[path]) for path in after if before[path] != after[path]]


def _edited(edit: FileEdit, old: Stored | None) -> Stored | None:
    if edit.op == "add":
        if old is not None:
            raise PatchError(f"{edit.path}: already there; update it instead")
        lines = [line for hunk in edit.hunks for line in hunk.lines]
        if any(kind != "+" for kind, _ in lines):
            raise PatchError(f"{edit.path}: no such file; a new file has only '+' lines")
        end = "\n" if lines and not edit.hunks[-1].bare else ""
        return Stored(content=("\n".join(line for _, line in lines) + end).encode(), mode=0o644)
    if old is None:
        raise PatchError(f"{edit.path}: no such file")
    mark = _BOM if old.content.startswith(_BOM) else b""
    rest = old.content.removeprefix(mark)
    content, shift = _split(rest), 0
    for hunk in edit.hunks:
        content = _applied(hunk, content, edit.path, shift)
        shift += sum((kind == "+") - (kind == "-") for kind, _ in hunk.lines)
    if edit.op == "update":
        whole = b"".join(content)
        # The new first line may repeat the mark.
        whole = whole if rest.startswith(_BOM) else whole.removeprefix(mark)
        return replace(old, content=mark + whole if content else b"")
    if edit.hunks and content:
        raise PatchError(f"{edit.path}: the deletion does not cover the whole file")
    return None


def _applied(hunk: Hunk, lines: list[bytes], path: str, shift: int) -> list[bytes]:
    """The lines with one hunk applied; `shift` is by how much earlier hunks have moved it."""
    place = _place(hunk, lines, path, shift)
    # Where the hunk says which lines end in CRLF, as a diff of such a file does, it says so of all of them.
    is_crlf = not hunk.states_ends and sum(line.endswith(b"\r\n") for line in lines) * 2 > len(lines)
    end = b"\r\n" if is_crlf else b"\n"
    fresh: list[bytes] = []
    after = place
    for kind, text in hunk.lines:  # kept lines keep their own bytes
        fresh += [text.encode() + end] if kind == "+" else [lines[after]] if kind == " " else []
        after += kind != "+"
    if fresh and after == len(lines):
        was_bare = bool(lines) and not lines[-1].endswith(b"\n")
        if was_bare if hunk.bare is None else hunk.bare:
            fresh[-1] = fresh[-1].removesuffix(end)
    result = lines[:place] + fresh + lines[after:]
    return [line if line.endswith(b"\n") else line + end for line in result[:-1]] + result[-1:]


def _split(content: bytes) -> list[bytes]:
    """The lines with their ends; a line feed alone ends one."""
    return re.findall(rb"[^\n]*\n|[^\n]+", content)


def _place(hunk: Hunk, raw: list[bytes], path: str, shift: int) -> int:
    """The one line where a hunk belongs."""
    lines = [line.removesuffix(b"\n").removesuffix(b"" if hunk.states_ends else b"\r") for line in raw]
    wanted = [text.encode() for kind, text in hunk.lines if kind != "+"]
    named = None if hunk.start is None else hunk.start + shift
    floor = 0
    for anchor in hunk.anchors:
        below = range(floor, len(lines))
        found = [at for at in below if lines[at].strip() == anchor.encode()]
        found = found or [at for at in below if anchor.encode() in lines[at]]
        if len(found) != 1:
            raise PatchError(f"{path}: the anchor {anchor!r} occurs {_times(found)}")
        floor = found[0] + 1
    if not wanted:
        if named is not None and 0 <= named <= len(lines):
            return named
        if hunk.at_end or not lines:
            return len(lines)
        if hunk.anchors:
            return floor
        raise PatchError(f"{path}: lines are added without context; give a line before or after them")
    last = len(lines) - len(wanted)
    found = [at for at in range(floor, last + 1) if lines[at : at + len(wanted)] == wanted]
    found = [at for at in found if at == last] if hunk.at_end else found
    if named in found:
        return named
    if len(found) == 1 or (found and hunk.anchors):
        return found[0]
    if found:
        raise PatchError(f"{path}: the lines to replace occur {_times(found)}: add context until one place is left")
    raise _missing(path, wanted, lines)


def _missing(path: str, wanted: list[bytes], lines: list[bytes]) -> PatchError:
    """The error of a hunk that is nowhere, with what comes near its first line."""
    first = next((line for line in wanted if line.strip()), wanted[0]).decode("utf-8", "replace")
    texts = [line.decode("utf-8", "replace") for line in lines]
    candidates = [text for text in texts[:5000] if len(text) <= _COMPARED_CHARS]  # comparing is quadratic
    near = difflib.get_close_matches(first[:_COMPARED_CHARS], candidates, n=3, cutoff=0.6)
    hint = "; ".join(f"line {texts.index(text) + 1} is {text!r}" for text in near)
    return PatchError(f"{path}: the lines to replace are not in the file as given, beginning with {first!r}", hint)


def _times(found: list[int]) -> str:
    return f"at lines {', '.join(str(at + 1) for at in found[:5])}" if found else "nowhere"


def preview(staged: Sequence[Staged]) -> str:
    """Return a unified diff of the staged bytes."""
    rows: list[str] = []
    for item in staged:
        old, new = (
            [line.decode("utf-8", "backslashreplace") for line in _split(stored.content)] if stored else []
            for stored in (item.before, item.after)
        )
        names = (f"a/{item.path}" if item.before else "/dev/null", f"b/{item.path}" if item.after else "/dev/null")
        rows += difflib.unified_diff(old, new, *names)
    return "".join(row if row.endswith("\n") else f"{row}\n\\ No newline at end of file\n" for row in rows)
