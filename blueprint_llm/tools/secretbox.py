"""One key per user, and what is sealed with it: records that nobody else can forge or change unnoticed."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from blueprint_llm.config.paths import make_folder
from blueprint_llm.errors import ToolError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def load_key(folder: Path, random: Callable[[int], bytes] = os.urandom) -> bytes:
    """The user's key, made on first use with mode 0600.

    Raises:
        ToolError: When others could read it, or it is damaged.
    """
    place = folder / "tools.key"
    if not place.exists():
        beside = folder / f"tools.key.{random(8).hex()}"
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(random(32))
        with suppress(FileExistsError):
            os.link(beside, place)  # whole or not at all, and only if nobody was first
        beside.unlink()
    return _read_key(place)


def _read_key(place: Path) -> bytes:
    found = place.stat()
    if os.name == "posix" and (found.st_mode & 0o077 or found.st_uid != os.geteuid()):
        raise ToolError(f"{place} must be readable by you alone: chmod 600 {place}")
    key = place.read_bytes()
    if len(key) != 32:  # noqa: PLR2004 - 256 bits
        raise ToolError(f"{place} is damaged: move it away; what it sealed is void then")
    return key


def state_folder(name: str) -> Path:
    """A private folder of the tools below the user's state."""
    folder = make_folder("state") / name
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def mac(key: bytes, purpose: str, content: bytes) -> str:
    """The seal of some bytes for one purpose, so that a seal cannot be moved elsewhere."""
    return hmac.new(key, purpose.encode() + b"\0" + content, hashlib.sha256).hexdigest()


def canonical(value: Any) -> bytes:
    """JSON that is the same for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def write_sealed(place: Path, key: bytes, purpose: str, value: Any) -> None:
    """Replace a file by a sealed value; mode 0600, synced."""
    body = canonical(value)
    beside = place.with_suffix(".new")
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(mac(key, purpose, body).encode() + b"\n" + body)
        file.flush()
        os.fsync(fd)
    beside.replace(place)


def read_sealed(place: Path, key: bytes, purpose: str) -> Any:
    """A sealed value.

    Raises:
        FileNotFoundError: When there is none.
        ToolError: When a byte of it was changed.
    """
    seal, _, body = place.read_bytes().partition(b"\n")
    if not hmac.compare_digest(seal, mac(key, purpose, body).encode()):
        raise ToolError(f"{place.name} was changed after it was written: refused")
    return json.loads(body)
