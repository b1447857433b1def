"""Change several files at once: all of them or none, also when the process is killed half way.

The new bytes are written to temporary files first and recorded in a journal; then each file is renamed into place.
Whoever opens the workspace next finds a journal that says `apply` and rolls forward, or any other and sweeps it away.
"""

from __future__ import annotations

import errno
import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from blueprint_llm.tools.patch import Staged, Stored, digest
from blueprint_llm.tools.sealed import locked
from blueprint_llm.tools.workspace import ConfinementError, Root

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

MAX_FILE_BYTES = 16_000_000


class ChangedError(ConfinementError):
    """A file is not what it was when the change was prepared; nothing was touched."""


def load(root: Root, path: str) -> Stored | None:
    """Return a file as it is now. Raises OSError when it cannot be read, or is larger than `MAX_FILE_BYTES`."""
    try:
        content, mode = root.read(path, MAX_FILE_BYTES)
    except FileNotFoundError:
        return None
    if len(content) > MAX_FILE_BYTES:
        raise ConfinementError(errno.EFBIG, f"is larger than {MAX_FILE_BYTES} bytes", path)
    return Stored(content=content, mode=mode)


class Journal:
    """A folder of journals, outside the workspace.

    Args:
        folder: Where journals live; one workspace's own.
        random: Makes names.
        at_step: Told before each step by name; tests die there.
    """

    def __init__(
        self, folder: Path, random: Callable[[int], bytes], at_step: Callable[[str], None] = lambda _step: None
    ) -> None:
        self._folder, self._random, self._at_step = folder, random, at_step

    def apply(self, root: Root, staged: Sequence[Staged]) -> None:
        """Make every change, or none.

        Raises:
            ChangedError: When a file differs from what the change was made for.
            OSError: When the change cannot be prepared; nothing was touched then.
        """
        with locked(self._folder / "lock"):
            self._recover(root)
            token = self._random(8).hex()
            place, entries = self._folder / f"{token}.json", []
            for number, item in enumerate(staged):
                above, _, name = item.path.rpartition("/")
                temporary = f".blueprint-{token}-{number}" if item.after else None
                entries.append({"folder": above or ".", "name": name, "temporary": temporary})
            try:
                self._prepare(root, staged, entries, place)
            except BaseException:
                _sweep(root, entries)
                place.unlink(missing_ok=True)
                raise
            self._at_step("committed")
            self._finish(root, entries, place)

    def recover(self, root: Root) -> None:
        """Finish or undo what a killed process left behind."""
        if self._folder.is_dir() and any(self._folder.glob("*.json")):
            with locked(self._folder / "lock"):
                self._recover(root)

    def _prepare(self, root: Root, staged: Sequence[Staged], entries: list[dict[str, Any]], place: Path) -> None:
        _write(place, {"state": "prepare", "files": entries})
        for number, (item, entry) in enumerate(zip(staged, entries, strict=True)):
            self._at_step(f"stage {number}")
            if item.after is not None:
                _write_temporary(root, entry, item.after)
        for item in staged:
            if digest(load(root, item.path)) != digest(item.before):
                raise ChangedError(errno.ESTALE, "changed since the patch was prepared", item.path)
        self._at_step("before commit")
        _write(place, {"state": "apply", "files": entries})

    def _finish(self, root: Root, entries: list[dict[str, Any]], place: Path) -> None:
        for number, entry in enumerate(entries):
            self._at_step(f"rename {number}")
            with root.folder(entry["folder"]) as folder, suppress(FileNotFoundError):  # done before it was killed
                if entry["temporary"]:
                    os.rename(entry["temporary"], entry["name"], src_dir_fd=folder, dst_dir_fd=folder)
                else:
                    os.unlink(entry["name"], dir_fd=folder)
        self._at_step("before forget")
        place.unlink(missing_ok=True)

    def _recover(self, root: Root) -> None:
        for place in sorted(self._folder.glob("*.json")):
            try:
                record = json.loads(place.read_bytes())
            except ValueError:
                record = {"state": "prepare", "files": []}
            if record["state"] == "apply":
                self._finish(root, record["files"], place)
            else:
                _sweep(root, record["files"])
                place.unlink(missing_ok=True)


def _write(place: Path, record: dict[str, Any]) -> None:
    """Replace a journal so that a reader sees the old or the new one whole, also after the power failed."""
    beside = place.with_suffix(".new")
    with beside.open("wb") as file:
        file.write(json.dumps(record).encode())
        file.flush()
        os.fsync(file.fileno())
    beside.replace(place)
    folder = os.open(place.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _write_temporary(root: Root, entry: dict[str, Any], stored: Stored) -> None:
    with root.folder(entry["folder"], create=True) as folder:
        fd = os.open(entry["temporary"], os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
        with os.fdopen(fd, "wb") as file:
            file.write(stored.content)
            file.flush()
            os.fchmod(fd, stored.mode)
            os.fsync(fd)


def _sweep(root: Root, entries: list[dict[str, Any]]) -> None:
    for entry in entries:
        if entry["temporary"]:
            with suppress(OSError), root.folder(entry["folder"]) as folder:
                os.unlink(entry["temporary"], dir_fd=folder)
