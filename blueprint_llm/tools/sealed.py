"""What tools keep for a user between calls, sealed by one key, so that nobody else can forge or change it unnoticed.

Approvals that hold beyond one call, and runs that wait for a person. Nothing of it has power of its own: when a run
goes on, every call is judged again by the policy of that moment, and an approval counts only for what was shown.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import hmac
import json
import os
import re
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from blueprint_llm.config.paths import folder, make_folder, writing
from blueprint_llm.errors import ToolDeniedError, ToolError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LIFETIME_S = 86_400.0
WAIT_S = 10.0
_POLL_S = 0.01


def state_folder(name: str) -> Path:
    """Return a private folder of the tools below the user's state. Raises StoreError."""
    place = make_folder("state") / name
    with writing(f"the folder {name}", place.parent):
        place.mkdir(mode=0o700, exist_ok=True)
    return place


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file at `path`, made where it is missing, against other processes and threads.

    Raises:
        TimeoutError: Another process held it for WAIT_S: it may have been stopped.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        until = time.monotonic() + WAIT_S
        while not _acquired(fd):
            if time.monotonic() >= until:
                raise TimeoutError(errno.ETIMEDOUT, "another process holds it (`fuser` names it)", str(path))
            time.sleep(_POLL_S)
        yield
    finally:
        os.close(fd)  # which lets go of the lock


def _acquired(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def load_key(place: Path, random: Callable[[int], bytes] = os.urandom) -> bytes:
    """Return the user's key in a file, made on first use with mode 0600.

    Raises:
        ToolError: When others could read it, or it is damaged.
        StoreError: When it cannot be written or read.
    """
    with writing("the tools' key", place.parent):
        if not place.exists():
            _make_key(place, random)
        found, key = place.stat(), place.read_bytes()
    if found.st_mode & 0o077 or found.st_uid != os.geteuid():
        raise ToolError(f"{place} must be readable by you alone: chmod 600 {place}")
    if len(key) != 32:  # noqa: PLR2004 - 256 bits
        raise ToolError(f"{place} is damaged: move it away; what it sealed is void then")
    return key


def _make_key(place: Path, random: Callable[[int], bytes]) -> None:
    beside = place.with_name(f"{place.name}.{random(8).hex()}")
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(random(32))
        with suppress(FileExistsError):
            os.link(beside, place)  # whole or not at all, and only if nobody was first
    finally:
        beside.unlink()


def mac(key: bytes, purpose: str, content: bytes) -> str:
    """Return the seal of some bytes for one purpose, so that a seal cannot be moved elsewhere."""
    return hmac.new(key, purpose.encode() + b"\0" + content, hashlib.sha256).hexdigest()


def canonical(value: Any) -> bytes:
    """Return JSON that is the same for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def fingerprint(value: Any) -> str:
    """Return a digest that is the same for equal values."""
    return hashlib.sha256(canonical(value)).hexdigest()


def _write_sealed(place: Path, key: bytes, purpose: str, value: Any) -> None:
    """Replace a file by a sealed value; mode 0600, synced. Raises StoreError."""
    body = canonical(value)
    beside = place.with_suffix(".new")
    with writing(f"what waits or was approved ({purpose})", place.parent):
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(mac(key, purpose, body).encode() + b"\n" + body)
            file.flush()
            os.fsync(fd)
        beside.replace(place)


def _read_sealed(place: Path, key: bytes, purpose: str) -> Any:
    """Return a sealed value. Raises FileNotFoundError, or ValueError when a byte of it was changed."""
    seal, _, body = place.read_bytes().partition(b"\n")
    if not hmac.compare_digest(seal, mac(key, purpose, body).encode()):
        raise ValueError(f"{place.name} was changed after it was written")
    return json.loads(body)


class Grants:
    """Approvals beyond one call in one workspace: for the session, and lasting ones in a sealed file.

    Args:
        workspace: Whose approvals they are.
        key: Seals the file; asked for only when there is one.
    """

    def __init__(self, workspace: str, key: Callable[[], bytes]) -> None:
        self._workspace, self._key = workspace, key
        self._session: set[str] = set()
        self._lasting: set[str] | None = None

    def holds(self, grant: str) -> bool:
        """Return True if what this is the fingerprint of was approved to be repeated."""
        mark = fingerprint([self._workspace, grant])
        return mark in self._session or mark in self._loaded()

    def add(self, grant: str, *, lasting: bool) -> None:
        """Remember an approval."""
        mark = fingerprint([self._workspace, grant])
        self._session.add(mark)
        if lasting:
            place = state_folder("tools") / f"grants-{self._workspace}.json"
            with locked(place.with_suffix(".lock")):
                self._lasting = None  # another process may have added some
                self._lasting = self._loaded() | {mark}
                _write_sealed(place, self._key(), "grants", sorted(self._lasting))

    def _loaded(self) -> set[str]:
        if self._lasting is None:
            place = folder("state") / "tools" / f"grants-{self._workspace}.json"
            self._lasting = set()
            with suppress(ValueError, ToolError):  # a changed file grants nothing, nor one under a key that others read
                self._lasting = set(_read_sealed(place, self._key(), "grants")) if place.exists() else set()
        return self._lasting


class PendingStore:
    """A folder of waiting runs: private, single-use, and good for a day.

    Args:
        folder: Private to the user.
        key: Seals them.
        clock: Unix time in seconds.
        random: Makes ids.
    """

    def __init__(self, folder: Path, key: bytes, clock: Callable[[], float], random: Callable[[int], bytes]) -> None:
        self._folder, self._key, self._clock, self._random = folder, key, clock, random

    def keep(self, state: dict[str, Any]) -> str:
        """Store a run; return the id to resume it by."""
        identity = self._random(16).hex()
        wrapped = {"id": identity, "expires": self._clock() + LIFETIME_S, "state": state}
        _write_sealed(self._place(identity), self._key, "pending", wrapped)
        return identity

    def claim(self, identity: str) -> tuple[dict[str, Any], bool]:
        """Take a run up; return it, and True if an earlier resume began and did not come to its end.

        Raises:
            ToolDeniedError: When there is none (any more), it has expired, or it was changed.
        """
        try:
            wrapped = _read_sealed(self._place(identity), self._key, "pending")
        except FileNotFoundError:
            raise ToolDeniedError("no run waits under this id: it was resumed already, or never was") from None
        except ValueError:
            raise ToolDeniedError("the stored run was changed after it was written: refused") from None
        if wrapped["id"] != identity:
            raise ToolDeniedError("the stored run belongs to another id: refused")
        if self._clock() >= wrapped["expires"]:
            self.forget(identity)
            raise ToolDeniedError("the stored run has expired: start it again")
        try:
            os.close(os.open(self._claimed(identity), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            return wrapped["state"], True
        return wrapped["state"], False

    def forget(self, identity: str) -> None:
        """Delete a run that went on."""
        self._place(identity).unlink(missing_ok=True)
        self._claimed(identity).unlink(missing_ok=True)

    def _claimed(self, identity: str) -> Path:
        return self._place(identity).with_suffix(".claimed")

    def _place(self, identity: str) -> Path:
        if not re.fullmatch(r"[0-9a-f]{32}", identity):
            raise ToolDeniedError("that is no id of a waiting run")
        return self._folder / f"{identity}.json"
