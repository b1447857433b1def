"""What tools keep for a user, sealed by one key, so that nobody else can forge or change it unnoticed.

Approvals that hold beyond one call, and runs that wait for a person. Nothing of it has power of its own: when a run
goes on, every call is judged again by the policy of that moment, and an approval counts only for what was shown.

And the audit: what was meant to be done is on disk before it is done, in a chain that shows every tampering. Each line
carries a seal over itself and the line before. A sealed head file knows the last one, so a cut tail is found as well.
Rolling both files back together to an earlier pair cannot be seen from inside; keep a copy elsewhere.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import hmac
import json
import os
import re
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from blueprint_llm.config.paths import folder, make_folder, writing
from blueprint_llm.errors import ToolDeniedError, ToolError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LIFETIME_S = 86_400.0
WAIT_S = 10.0
_HEAD_BYTES = 256
Sync = Literal["intent", "all", "none"]


def state_folder(name: str) -> Path:
    """Return a private folder of the tools below the user's state. Raises StoreError."""
    place = make_folder("state") / name
    with writing(f"the folder {name}", place.parent):
        place.mkdir(mode=0o700, exist_ok=True)
    return place


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file at `path`, made where it is missing, against other processes and threads.

    Raises TimeoutError if another process held it for WAIT_S: it may have been stopped.
    """
    from filelock import FileLock  # noqa: PLC0415 - 40 ms, only for those who write

    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with FileLock(path, timeout=WAIT_S, mode=0o600, poll_interval=0.01):
        yield


def write_whole(place: Path, content: bytes) -> None:
    """Replace a file, mode 0600, so that a reader sees the old or the new one whole, also after the power failed."""
    beside = place.with_suffix(".new")
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(place)
    above = os.open(place.parent, os.O_RDONLY)
    try:
        os.fsync(above)
    finally:
        os.close(above)


def load_key(place: Path, random: Callable[[int], bytes] = os.urandom) -> bytes:
    """Return the user's key in a file, made on first use with mode 0600.

    Raises ToolError if others could read it or it is damaged, StoreError if it cannot be written or read.
    """
    with writing("the tools' key", place.parent):
        if not place.exists():
            with locked(place.with_suffix(".lock")):
                if not place.exists():  # nobody was first
                    write_whole(place, random(32))
        found, key = place.stat(), place.read_bytes()
    if found.st_mode & 0o077 or found.st_uid != os.geteuid():
        raise ToolError(f"{place} must be readable by you alone: chmod 600 {place}")
    if len(key) != 32:  # noqa: PLR2004 - 256 bits
        raise ToolError(f"{place} is damaged: move it away; what it sealed is void then")
    return key


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
    """Replace a file by a sealed value. Raises StoreError."""
    body = canonical(value)
    with writing(f"what waits or was approved ({purpose})", place.parent):
        write_whole(place, mac(key, purpose, body).encode() + b"\n" + body)


def _read_sealed(place: Path, key: bytes, purpose: str) -> Any:
    """Return a sealed value. Raises FileNotFoundError, or ValueError when a byte of it was changed."""
    seal, _, body = place.read_bytes().partition(b"\n")
    if not hmac.compare_digest(seal, mac(key, purpose, body).encode()):
        raise ValueError(f"{place.name} was changed after it was written")
    return json.loads(body)


class Grants:
    """Approvals beyond one call in one workspace: for the session, and lasting ones in a file that `key` seals."""

    def __init__(self, workspace: str, key: Callable[[], bytes]) -> None:
        self._workspace, self._key = workspace, key
        self._session: set[str] = set()
        self._lasting: set[str] | None = None

    def holds(self, grant: str) -> bool:
        """Return True if what this is the fingerprint of was approved to be repeated."""
        self._lasting = self._stored() if self._lasting is None else self._lasting
        mark = fingerprint([self._workspace, grant])
        return mark in self._session or mark in self._lasting

    def add(self, grant: str, *, lasting: bool) -> None:
        """Remember an approval."""
        mark = fingerprint([self._workspace, grant])
        self._session.add(mark)
        if lasting:
            place = state_folder("tools") / f"grants-{self._workspace}.json"
            with locked(place.with_suffix(".lock")):
                self._lasting = self._stored() | {mark}  # read again: another process may have added some
                _write_sealed(place, self._key(), "grants", sorted(self._lasting))

    def _stored(self) -> set[str]:
        place = folder("state") / "tools" / f"grants-{self._workspace}.json"
        with suppress(ValueError, ToolError):  # a changed file grants nothing, nor one under a key that others read
            return set(_read_sealed(place, self._key(), "grants")) if place.exists() else set()
        return set()


class PendingStore:
    """A private folder of waiting runs, sealed, single-use, and good for a day."""

    def __init__(self, folder: Path, key: bytes, clock: Callable[[], float], random: Callable[[int], bytes]) -> None:
        self._folder, self._key, self._clock, self._random = folder, key, clock, random

    def keep(self, state: dict[str, Any]) -> str:
        """Store a run; return the id to resume it by."""
        identity = self._random(16).hex()
        wrapped = {"id": identity, "expires": self._clock() + LIFETIME_S, "state": state}
        _write_sealed(self._place(identity), self._key, "pending", wrapped)
        return identity

    @contextmanager
    def claim(self, identity: str) -> Iterator[tuple[dict[str, Any], bool]]:
        """Take a run up and hold it; yields it, and True if an earlier resume began and did not come to its end.

        Raises ToolDeniedError if there is none (any more), it has expired, was changed, or is being resumed right now.
        """
        mark = self._place(identity, ".claimed")
        is_interrupted = mark.exists()
        with writing("the waiting run", mark.parent):
            fd = os.open(mark, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # which ends with its process
            except BlockingIOError:
                raise ToolDeniedError("the run is being resumed right now") from None
            try:
                state = self._read(identity)
            except ToolDeniedError:
                if not is_interrupted:
                    mark.unlink(missing_ok=True)
                raise
            yield state, is_interrupted
        finally:
            os.close(fd)

    def _read(self, identity: str) -> dict[str, Any]:
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
        return wrapped["state"]  # type: ignore[no-any-return] # as it was kept

    def forget(self, identity: str) -> None:
        """Delete a run that went on."""
        for kind in (".json", ".claimed"):
            self._place(identity, kind).unlink(missing_ok=True)

    def _place(self, identity: str, kind: str = ".json") -> Path:
        if not re.fullmatch(r"[0-9a-f]{32}", identity):
            raise ToolDeniedError("that is no id of a waiting run")
        return self._folder / f"{identity}{kind}"


# The audit.


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What checking a chain found; `broken_seq` is the first record that is not as it was written."""

    ok: bool
    records: int
    broken_seq: int | None
    problem: str


class _Head(NamedTuple):
    seq: int = 0
    seal: str = "0" * 64
    size: int = 0


class Audit:
    """A chain of records in one file, sealed by a key; several processes may append.

    Its head and its lock stand beside it. `sync` says which records reach the disk before `append` returns.
    """

    def __init__(self, path: Path, key: bytes, clock: Callable[[], float], sync: Sync = "intent") -> None:
        self.path, self._key, self._clock, self._sync = path, key, clock, sync
        self._head_path, self._lock_path = path.with_name(path.name + ".head"), path.with_name(path.name + ".lock")

    def append(self, event: str, facts: dict[str, Any]) -> int:
        """Add a record; return its number. Raises OSError if it cannot be written: nothing may be done then."""
        with locked(self._lock_path):
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                head = self._mended_head(fd)
                record = {**facts, "seq": head.seq + 1, "at": self._clock(), "event": event, "previous": head.seal}
                seal = mac(self._key, "record", canonical(record))
                line = json.dumps({**record, "seal": seal}, sort_keys=True).encode() + b"\n"
                try:
                    is_whole = os.write(fd, line) == len(line)
                    if self._sync in {"all", event}:
                        getattr(os, "fdatasync", os.fsync)(fd)
                except OSError:
                    is_whole = False
                if not is_whole:
                    os.ftruncate(fd, head.size)
                    raise OSError(errno.ENOSPC, "the record could not be written whole")
            finally:
                os.close(fd)
            text = f"{head.seq + 1} {seal} {head.size + len(line)}"
            sealed = f"{text} {mac(self._key, 'head', text.encode())}".ljust(_HEAD_BYTES - 1) + "\n"
            fd = os.open(self._head_path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb", buffering=0) as file:
                file.write(sealed.encode())  # over the one before it, which is as long
            return head.seq + 1

    def _mended_head(self, fd: int) -> _Head:
        """The head, brought forward over whole records that a killed writer left, less a half one."""
        head = self._read_head() or _Head()
        size = os.fstat(fd).st_size
        if size > head.size:
            rest = os.pread(fd, size - head.size, head.size)
            for line in rest.splitlines(keepends=True):
                following = self._following(line, head)
                if isinstance(following, str) or not line.endswith(b"\n"):
                    break
                head = following
            if b"\n" not in rest[head.size - size :] and head.size < size:
                os.ftruncate(fd, head.size)
        return head

    def _following(self, line: bytes, before: _Head) -> _Head | str:
        """The head after a line, or why it is not the record after `before`."""
        number, record = before.seq + 1, _parsed(line)
        if record is None:
            return f"record {number} cannot be read"
        if record.get("seq") != number:
            return f"record {number} is missing or out of order"
        if record.get("previous") != before.seal:
            return f"record {number} does not follow the one before it"
        seal = mac(self._key, "record", canonical({key: value for key, value in record.items() if key != "seal"}))
        if not hmac.compare_digest(str(record.get("seal")), seal):
            return f"record {number} was changed"
        return _Head(number, seal, before.size + len(line))

    def _read_head(self) -> _Head | None:
        try:
            seq, seal, size, own = self._head_path.read_bytes().decode("ascii", "replace").split()
            sealed = mac(self._key, "head", f"{seq} {seal} {size}".encode())
            return _Head(int(seq), seal, int(size)) if hmac.compare_digest(own, sealed) else None
        except (FileNotFoundError, ValueError):
            return None

    def records(self) -> Iterator[dict[str, Any]]:
        """The records as they stand, unchecked."""
        yield from (record for line in self._lines() if (record := _parsed(line)) is not None)

    def _lines(self) -> list[bytes]:
        return self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []

    def verify(self) -> Verified:
        """Check every record and the end of the chain."""
        with locked(self._lock_path):
            head, lines = self._read_head(), self._lines()
        at, broken_seq, problem = _Head(), None, ""
        for line in lines:
            following = self._following(line, at)
            if isinstance(following, str):
                broken_seq, problem = at.seq + 1, following
                break
            at = following
            if head is not None and at.seq == head.seq and at.seal != head.seal:
                broken_seq, problem = at.seq, f"record {at.seq} is not the one of the head"
                break
        if not problem and head is None and (self._head_path.exists() or at.seq > 0):
            broken_seq, problem = at.seq or None, "the head is missing or damaged"
        elif not problem and head is not None and at.seq < head.seq:
            broken_seq, problem = at.seq + 1, f"the records after {at.seq} were cut off"
        return Verified(ok=not problem, records=at.seq, broken_seq=broken_seq, problem=problem)


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
