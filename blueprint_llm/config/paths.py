"""Where files of a user live: the XDG folders, or `BLUEPRINT_HOME` in place of them all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

Kind = Literal["config", "state", "data", "cache"]

_DEFAULTS: dict[Kind, str] = {"config": ".config", "state": ".local/state", "data": ".local/share", "cache": ".cache"}


def folder(kind: Kind) -> Path:
    """The folder for `kind`; it need not exist."""
    if home := os.environ.get("BLUEPRINT_HOME"):
        return Path(home) / kind
    base = os.environ.get(f"XDG_{kind.upper()}_HOME")
    return (Path(base) if base else Path.home() / _DEFAULTS[kind]) / "blueprint"


def make_folder(kind: Kind) -> Path:
    """The folder for `kind`, made with mode 0700 where it is missing."""
    path = folder(kind)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path
