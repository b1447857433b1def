"""The credentials file on disk: read again when it changes, rewritten as a whole under a lock.

Between reading and writing the text is held only by functions that return their problem as a sentence: a traceback
never keeps a frame with a key in it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import orjson

from blueprint_llm.credentials import private_file
from blueprint_llm.credentials.document import Entry, parse
from blueprint_llm.errors import CredentialsError
from blueprint_llm.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_EMPTY = b'{"version": 1, "providers": {}}'


class CredentialsFile:
    """The file at `path`, read again when it changes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.version = 0
        self._path = str(path)
        self._stamp: private_file.Stamp | None = None
        self._entries: dict[str, Entry] = {}
        self._problem: str | None = None

    def entries(self) -> dict[str, Entry]:
        """What the file says now; nothing where it is missing.

        Raises:
            CredentialsError: It is unsafe or malformed.
        """
        now = private_file.stamp(self._path)
        if now != self._stamp:
            self._reload(now)
        if self._problem:
            raise CredentialsError(self._problem)
        return self._entries

    def _reload(self, now: private_file.Stamp | None) -> None:
        try:
            raw = private_file.read(self.path)
        except CredentialsError as error:
            self._entries, self._problem = {}, str(error)
        else:
            self._entries, self._problem = ({}, None) if raw is None else parse(self.path, raw)
        self._stamp, self.version = now, self.version + 1

    def update(self, change: Callable[[dict[str, Any]], bool]) -> bool:
        """Apply `change` to the raw `providers` under the lock and write the file if it returns True.

        Raises:
            CredentialsError: The file is unsafe, malformed, locked or cannot be written; it is as it was.
        """
        with private_file.locked(self.path):
            changed, problem = self._rewrite(private_file.read(self.path), change)
        if problem:
            raise CredentialsError(problem)
        return changed

    def _rewrite(self, raw: bytes | None, change: Callable[[dict[str, Any]], bool]) -> tuple[bool, str | None]:
        raw = raw or _EMPTY
        problem = parse(self.path, raw)[1]
        if problem:
            return False, problem
        document = orjson.loads(raw)
        if not change(document["providers"]):
            return False, None
        content = json.dumps(document, indent=2, default=_plain).encode() + b"\n"
        return True, parse(self.path, content)[1] or private_file.replace(self.path, content)


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
