"""The credentials file on disk: read again when it changes, rewritten as a whole under a lock.

Between reading and writing the text is held only by functions that return their problem as a sentence: a traceback
never keeps a frame with a key in it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import orjson

from blueprint_llm.config import private_file
from blueprint_llm.credentials.document import Entry, parse
from blueprint_llm.errors import CredentialsError
from blueprint_llm.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_EMPTY = b'{"version": 1, "providers": {}}'


class CredentialsFile:
    """The file at `path`, read again when it changes."""

    def __init__(self, path: Path | None) -> None:
        self.path = path  # None: the user has no home
        self.version = 0
        self._name = str(path)
        self._stamp: private_file.Stamp | None = None
        self._entries: dict[str, Entry] = {}
        self._problem: str | None = None

    def entries(self) -> dict[str, Entry]:
        """What the file says now; nothing where it is missing.

        Raises:
            CredentialsError: It is unsafe or malformed.
        """
        now = private_file.stamp(self._name) if self.path else None
        if now != self._stamp and self.path:
            self._reload(self.path, now)
        if self._problem:
            raise CredentialsError(self._problem)
        return self._entries

    def _reload(self, path: Path, now: private_file.Stamp | None) -> None:
        try:
            raw = private_file.read(path)
        except private_file.Refused as refused:
            self._entries, self._problem = {}, str(refused)
        else:
            self._entries, self._problem = ({}, None) if raw is None else parse(path, raw)
        self._stamp, self.version = now, self.version + 1

    def update(self, change: Callable[[dict[str, Any]], bool]) -> bool:
        """Apply `change` to the raw `providers` under the lock and write the file if it returns True.

        Raises:
            CredentialsError: The file is unsafe, malformed, locked or cannot be written; it is as it was.
        """
        if self.path is None:
            raise CredentialsError("there is no home folder for the credentials file: set BLUEPRINT_HOME to a folder")
        try:
            with private_file.locked(self.path):
                changed, problem = _rewritten(self.path, private_file.read(self.path), change)
        except private_file.Refused as refused:
            changed, problem = False, str(refused)
        if problem:
            raise CredentialsError(problem)
        return changed


def _rewritten(path: Path, raw: bytes | None, change: Callable[[dict[str, Any]], bool]) -> tuple[bool, str | None]:
    """Whether the file was changed, and what went wrong; this frame holds keys."""
    raw = raw or _EMPTY
    if problem := parse(path, raw)[1]:
        return False, problem
    document = orjson.loads(raw)
    if not change(document["providers"]):
        return False, None
    content = json.dumps(document, indent=2, default=_plain).encode() + b"\n"
    return True, parse(path, content)[1] or private_file.replace(path, content)


def _plain(value: Any) -> str:
    """A Secret as the file stores it: writing down a key is what `keys set` is for."""
    return Secret.reveal(value)


def put(entry: dict[str, Any], secret: Secret, identity: str | None) -> bool:
    """Store a key in a provider's raw entry: the one of `identity`, or the only one."""
    if identity is None:
        entry["api_key"] = secret
        return True
    keys = entry.setdefault("keys", [])
    keys[:] = [key for key in keys if key.get("id") != identity] + [{"id": identity, "api_key": secret}]
    return True


def drop(providers: dict[str, Any], provider: str, identity: str | None) -> bool:
    """Remove a provider, or one of its keys; whether there was one."""
    if identity is None or provider not in providers:
        return providers.pop(provider, None) is not None
    keys = providers[provider].get("keys", [])
    kept = [key for key in keys if key.get("id") != identity]
    found, keys[:] = len(kept) < len(keys), kept
    return found
