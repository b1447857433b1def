"""Where files of a user live: the XDG folders, or `BLUEPRINT_HOME` in place of them all."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from blueprint_llm.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

Kind = Literal["config", "state", "data", "cache"]

_DEFAULTS: dict[Kind, str] = {"config": ".config", "state": ".local/state", "data": ".local/share", "cache": ".cache"}
_MEND = "set BLUEPRINT_HOME to a folder that you can write to"


def folder(kind: Kind) -> Path:
    """Return the folder for `kind`; it need not exist. Raises StoreError where the user has no home."""
    if home := os.environ.get("BLUEPRINT_HOME"):
        return Path(home) / kind
    if base := os.environ.get(f"XDG_{kind.upper()}_HOME"):
        return Path(base) / "blueprint"
    try:
        return Path.home() / _DEFAULTS[kind] / "blueprint"
    except RuntimeError:  # no HOME, and the system knows no user of this number
        raise StoreError(f"there is no home folder for the {kind} files: {_MEND}") from None


def file_in(kind: Kind, name: str) -> Path | None:
    """Return where a file of that name is or would be; None: the user has no home."""
    with suppress(StoreError):
        return folder(kind) / name
    return None


@contextmanager
def writing(what: str, place: Path) -> Iterator[None]:
    """Raise StoreError, with the cure, for what the system refuses while `what` is written at `place`."""
    try:
        yield
    except OSError as error:
        text = f"{what} cannot be written to {place} ({error.strerror}): free some space there, or {_MEND}"
    else:
        return
    raise StoreError(text)


def make_folder(kind: Kind) -> Path:
    """Return the folder for `kind`, made with mode 0700 where it is missing. Raises StoreError."""
    path = folder(kind)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"the {kind} folder {path} cannot be made ({error.strerror}): {_MEND}") from None
    return path
