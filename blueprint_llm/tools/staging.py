"""Work out, in memory, the exact bytes that a patch would leave behind.

Lines keep their own ends: only the hunk's lines change, added ones take the file's line end, and the preview a person
sees is made of the same bytes that are written later.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from blueprint_llm.tools.patch import FileEdit, Hunk, PatchError

_BOM = b"\xef\xbb\xbf"


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


Load = Callable[[str], Stored | None]


def stage(edits: Sequence[FileEdit], load: Load) -> list[Staged]:
    """What the edits make of the files, each file once.

    Raises:
        PatchError: When a hunk does not match exactly once, or a file is not there or already there.
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
        return Stored(content=_added(edit), mode=edit.mode or 0o644)
    if old is None:
        raise PatchError(f"{edit.path}: no such file")
    content = old.content
    shift = 0
    for hunk in edit.hunks:
        content, shift = _apply(hunk, content, edit.path, shift)
    if edit.op == "delete":
        if edit.hunks and content:
            raise PatchError(f"{edit.path}: the deletion does not cover the whole file")
        return None
    return replace(old, content=content, mode=edit.mode or old.mode)


def _added(edit: FileEdit) -> bytes:
    lines = [line for hunk in edit.hunks for kind, line in hunk.lines if kind == "+"]
    if any(kind != "+" for hunk in edit.hunks for kind, _ in hunk.lines):
        raise PatchError(f"{edit.path}: no such file; a new file has only '+' lines")
    text = "\n".join(lines) + ("\n" if lines and not edit.hunks[-1].bare_new else "")
    return text.encode()


def _apply(hunk: Hunk, content: bytes, path: str, shift: int) -> tuple[bytes, int]:
    """The content with one hunk applied, and by how much later lines have moved."""
    lines = _split(content)
    place = _place(hunk, [_bare(line) for line in lines], path, shift)
    end = b"\r\n" if lines and sum(line.endswith(b"\r\n") for line in lines) * 2 > len(lines) else b"\n"
    fresh, taken = _rewritten(hunk, lines, place, end)
    _settle_end(hunk, lines, fresh, place + taken == len(lines))
    result = lines[:place] + fresh + lines[place + taken :]
    whole = [line if line.endswith(b"\n") else line + end for line in result[:-1]] + result[-1:]
    moved = sum((kind == "+") - (kind == "-") for kind, _ in hunk.lines)
    return b"".join(whole), shift + moved


def _split(content: bytes) -> list[bytes]:
    parts = content.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


def _bare(line: bytes) -> bytes:
    return line.removesuffix(b"\n").removesuffix(b"\r").removeprefix(_BOM)


def _rewritten(hunk: Hunk, lines: list[bytes], place: int, end: bytes) -> tuple[list[bytes], int]:
    """The hunk's new lines (kept ones with their own bytes), and how many old ones it covers."""
    fresh, taken = [], 0
    for kind, text in hunk.lines:
        if kind == "+":
            fresh.append(text.encode() + end)
            continue
        if kind == " ":
            fresh.append(lines[place + taken])
        taken += 1
    if place == 0 and taken and fresh and lines[0].startswith(_BOM) and not fresh[0].startswith(_BOM):
        fresh[0] = _BOM + fresh[0]
    return fresh, taken


def _settle_end(hunk: Hunk, lines: list[bytes], fresh: list[bytes], touches_end: bool) -> None:  # noqa: FBT001 - private
    if not (touches_end and fresh):
        return
    was_bare = bool(lines) and not lines[-1].endswith(b"\n")
    bare = hunk.bare_new if hunk.bare_new is not None else was_bare
    if bare:
        fresh[-1] = fresh[-1].removesuffix(b"\n").removesuffix(b"\r")


def _place(hunk: Hunk, lines: list[bytes], path: str, shift: int) -> int:
    wanted = [text.encode() for kind, text in hunk.lines if kind != "+"]
    floor = _after_anchors(hunk, lines, path)
    if not wanted:
        return _insertion(hunk, lines, path, shift, floor)
    last = len(lines) - len(wanted)
    found = [at for at in range(floor, last + 1) if lines[at : at + len(wanted)] == wanted]
    if hunk.at_end:
        found = [at for at in found if at == last]
    if hunk.start is not None and hunk.start + shift in found:
        return hunk.start + shift
    if len(found) == 1 or (found and hunk.anchors):
        return found[0]
    raise PatchError(f"{path}: {_explain(found, wanted)}", hint="" if found else _near(lines, wanted))


def _insertion(hunk: Hunk, lines: list[bytes], path: str, shift: int, floor: int) -> int:
    """Where lines go that have no context."""
    if hunk.start is not None and 0 <= hunk.start + shift <= len(lines):
        return hunk.start + shift
    if hunk.at_end or not lines:
        return len(lines)
    if hunk.anchors:
        return floor
    raise PatchError(f"{path}: lines are added without context; give a line before or after them")


def _after_anchors(hunk: Hunk, lines: list[bytes], path: str) -> int:
    floor = 0
    for anchor in hunk.anchors:
        found = [at for at in range(floor, len(lines)) if lines[at].strip() == anchor.encode()]
        found = found or [at for at in range(floor, len(lines)) if anchor.encode() in lines[at]]
        if len(found) != 1:
            raise PatchError(f"{path}: the anchor {anchor!r} occurs {_times(found)}")
        floor = found[0] + 1
    return floor


def _times(found: list[int]) -> str:
    return f"at lines {', '.join(str(at + 1) for at in found[:5])}" if found else "nowhere"


def _explain(found: list[int], wanted: list[bytes]) -> str:
    if found:
        return f"the lines to replace occur {_times(found)}: add context until one place is left"
    return f"the lines to replace are not in the file as given, beginning with {_first(wanted)!r}"


def _first(wanted: list[bytes]) -> str:
    return next((line for line in wanted if line.strip()), wanted[0]).decode("utf-8", "replace")


def _near(lines: list[bytes], wanted: list[bytes]) -> str:
    """The lines of the file that look like the first one wanted."""
    texts = [line.decode("utf-8", "replace") for line in lines]
    near = difflib.get_close_matches(_first(wanted), texts[:5000], n=3, cutoff=0.6)
    return "; ".join(f"line {texts.index(text) + 1} is {text!r}" for text in near)


def preview(staged: Sequence[Staged]) -> str:
    """A unified diff of the staged bytes, mode changes included."""
    return "".join(_diff(item) for item in staged)


def _diff(item: Staged) -> str:
    old, new = _lines(item.before), _lines(item.after)
    rows = difflib.unified_diff(
        old, new, f"a/{item.path}" if item.before else "/dev/null", f"b/{item.path}" if item.after else "/dev/null"
    )
    body = "".join(row if row.endswith("\n") else f"{row}\n\\ No newline at end of file\n" for row in rows)
    modes = (item.before.mode if item.before else 0o644, item.after.mode if item.after else 0o644)
    change = f"mode of {item.path}: {modes[0]:o} -> {modes[1]:o}\n" if modes[0] != modes[1] else ""
    return change + body


def _lines(stored: Stored | None) -> list[str]:
    return [line.decode("utf-8", "backslashreplace") for line in _split(stored.content)] if stored else []
