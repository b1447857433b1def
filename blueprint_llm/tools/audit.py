"""The audit: what was meant to be done is on disk before it is done, in a chain that shows every tampering.

Each line carries a keyed seal over itself and the line before. A sealed head file knows the last one, so a cut tail is
found as well. Rolling both files back together to an earlier pair cannot be seen from inside; keep a copy elsewhere.
"""

from __future__ import annotations

import errno
import hmac
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from blueprint_llm.tools.sealed import canonical, locked, mac

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_START = "0" * 64
_HEAD_BYTES = 256
Sync = Literal["intent", "all", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What checking a chain found; `broken_seq` is the first record that is not as it was written."""

    ok: bool
    records: int
    broken_seq: int | None
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    seq: int
    seal: str
    size: int


class Audit:
    """A chain of records in one file; several processes may append.

    Args:
        path: The file; its head and lock stand beside it.
        key: Seals the records.
        clock: Unix time in seconds.
        sync: Which records reach the disk before `append` returns.
    """

    def __init__(self, path: Path, key: bytes, clock: Callable[[], float], sync: Sync = "intent") -> None:
        self.path, self._key, self._clock, self._sync = path, key, clock, sync
        self._head_path, self._lock_path = path.with_name(path.name + ".head"), path.with_name(path.name + ".lock")

    def append(self, event: str, facts: dict[str, Any]) -> int:
        """Add a record; its number in the chain.

        Raises:
            OSError: When it cannot be written; nothing may be done then.
        """
        with locked(self._lock_path):
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                head = self._mended_head(fd)
                record = {**facts, "seq": head.seq + 1, "at": self._clock(), "event": event, "previous": head.seal}
                seal = mac(self._key, "record", canonical(record))
                line = json.dumps({**record, "seal": seal}, sort_keys=True).encode() + b"\n"
                self._write(fd, head.size, line, sync=self._sync in {"all", event})
            finally:
                os.close(fd)
            self._write_head(_Head(seq=head.seq + 1, seal=seal, size=head.size + len(line)))
            return head.seq + 1

    @staticmethod
    def _write(fd: int, size: int, line: bytes, *, sync: bool) -> None:
        try:
            whole = os.write(fd, line) == len(line)
            if sync:
                getattr(os, "fdatasync", os.fsync)(fd)
        except OSError:
            whole = False
        if not whole:
            os.ftruncate(fd, size)
            raise OSError(errno.ENOSPC, "the record could not be written whole")

    def _mended_head(self, fd: int) -> _Head:
        """The head, brought forward over whole records that a killed writer left, less a half one."""
        head = self._read_head() or _Head(seq=0, seal=_START, size=0)
        size = os.fstat(fd).st_size
        if size > head.size:
            rest = os.pread(fd, size - head.size, head.size)
            for line in rest.splitlines(keepends=True):
                record = _parsed(line)
                if record is None or not line.endswith(b"\n") or self._fault(record, head.seq, head.seal):
                    break
                head = _Head(seq=record["seq"], seal=record["seal"], size=head.size + len(line))
            if b"\n" not in rest[head.size - size :] and head.size < size:
                os.ftruncate(fd, head.size)
        return head

    def _fault(self, record: dict[str, Any], seq: int, previous: str) -> str | None:
        body = {key: value for key, value in record.items() if key != "seal"}
        if record.get("seq") != seq + 1:
            return f"record {seq + 1} is missing or out of order"
        if record.get("previous") != previous:
            return f"record {seq + 1} does not follow the one before it"
        seal = mac(self._key, "record", canonical(body))
        return None if hmac.compare_digest(str(record.get("seal")), seal) else f"record {seq + 1} was changed"

    def _read_head(self) -> _Head | None:
        try:
            text = self._head_path.read_bytes()
            seq, seal, size, own = text.decode("ascii", "replace").split()
            sealed = mac(self._key, "head", f"{seq} {seal} {size}".encode())
            return _Head(seq=int(seq), seal=seal, size=int(size)) if hmac.compare_digest(own, sealed) else None
        except (FileNotFoundError, ValueError):
            return None

    def _write_head(self, head: _Head) -> None:
        text = f"{head.seq} {head.seal} {head.size}"
        line = f"{text} {mac(self._key, 'head', text.encode())}".ljust(_HEAD_BYTES - 1) + "\n"
        fd = os.open(self._head_path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(fd, line.encode(), 0)
        finally:
            os.close(fd)

    def records(self) -> Iterator[dict[str, Any]]:
        """The records as they stand, unchecked."""
        yield from (record for line in self._lines() if (record := _parsed(line)) is not None)

    def _lines(self) -> list[bytes]:
        return self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []

    def verify(self) -> Verified:
        """Check every record and the end of the chain."""
        with locked(self._lock_path):
            head, lines = self._read_head(), self._lines()
        seq, seal = 0, _START
        for line in lines:
            record = _parsed(line)
            problem = self._fault(record, seq, seal) if record is not None else f"record {seq + 1} cannot be read"
            if record is None or problem:
                return Verified(ok=False, records=seq, broken_seq=seq + 1, problem=str(problem))
            seq, seal = record["seq"], record["seal"]
            if head is not None and seq == head.seq and seal != head.seal:
                return Verified(
                    ok=False, records=seq, broken_seq=seq, problem=f"record {seq} is not the one of the head"
                )
        if head is None:
            known = self._head_path.exists() or seq > 0
            return Verified(
                ok=not known, records=seq, broken_seq=seq or None, problem="the head is missing or damaged" * known
            )
        if seq < head.seq:
            return Verified(ok=False, records=seq, broken_seq=seq + 1, problem=f"the records after {seq} were cut off")
        return Verified(ok=True, records=seq, broken_seq=None, problem="")


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
