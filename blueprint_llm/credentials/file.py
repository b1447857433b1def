"""The credentials file: `{"version": 1, "providers": {"openai": {"api_key": ...}}}`.

It is read again when it changes and rewritten as a whole under a lock. Keys become Secrets as they are read. Functions
that hold the raw text return their problem as a sentence instead of raising, so that no traceback keeps a frame with a
key in it; no sentence repeats anything but a provider's name.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import orjson

from blueprint_llm.config import private_file
from blueprint_llm.config.secrets import protect
from blueprint_llm.credentials.sources import Entry, Key, Source
from blueprint_llm.errors import CredentialsError
from blueprint_llm.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_EMPTY = b'{"version": 1, "providers": {}}'
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# A command goes before a key written down: it is the fresher of the two.
_SOURCES: dict[str, Source] = {"command": "command", "api_key": "file", "keyring": "keychain", "env": "env"}
_KEY_FIELDS = {"id", *_SOURCES}
_ENTRY_FIELDS = {"keys", "base_url", "extra", *_SOURCES}


class _MalformedError(Exception):
    """Never leaves this module: its traceback holds raw text."""


def check_name(name: str) -> str:
    """Return `name` if it can stand for a provider.

    Raises:
        CredentialsError: It has characters that no provider's name has.
    """
    if not _NAME.fullmatch(name):
        raise CredentialsError(
            "a provider's name has letters, digits, '.', '_' and '-' only, at most 64: mend the name"
        )
    return name


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
        """Return what the file says now; nothing where it is missing.

        Raises:
            CredentialsError: It is unsafe or malformed.
        """
        now = private_file.stamp(self._name) if self.path else None
        if now != self._stamp and self.path:
            self._stamp, self.version = now, self.version + 1
            try:
                self._entries, self._problem = _parsed(self.path, private_file.read(self.path))
            except private_file.Refused as refused:
                self._entries, self._problem = {}, str(refused)
        if self._problem:
            raise CredentialsError(self._problem)
        return self._entries

    def put(self, provider: str, secret: Secret, identity: str | None) -> None:
        """Store a key: the one of `identity`, or the only one. Raises CredentialsError as `_update`."""

        def change(providers: dict[str, Any]) -> bool:
            entry = providers.setdefault(provider, {})
            if identity is None:
                entry["api_key"] = secret
            else:
                others = [key for key in entry.get("keys", ()) if key.get("id") != identity]
                entry["keys"] = [*others, {"id": identity, "api_key": secret}]
            return True

        self._update(change)

    def drop(self, provider: str, identity: str | None) -> bool:
        """Remove a provider, or one of its keys; return True if there was one. Raises CredentialsError as `_update`."""

        def change(providers: dict[str, Any]) -> bool:
            if identity is None or provider not in providers:
                return providers.pop(provider, None) is not None
            keys = providers[provider].get("keys", [])
            kept = [key for key in keys if key.get("id") != identity]
            found, keys[:] = len(kept) < len(keys), kept
            return found

        return self._update(change)

    def _update(self, change: Callable[[dict[str, Any]], bool]) -> bool:
        """Apply `change` to the raw `providers` under the lock and write the file if it returns True.

        Raises:
            CredentialsError: The file is unsafe, malformed, locked or cannot be written; it is as it was.
        """
        if self.path is None:
            raise CredentialsError("there is no home folder for the credentials file: set BLUEPRINT_HOME to a folder")
        try:
            with private_file.locked(self.path):
                changed, problem = _rewritten(self.path, private_file.read(self.path) or _EMPTY, change)
        except private_file.Refused as refused:
            changed, problem = False, str(refused)
        if problem:
            raise CredentialsError(problem)
        return changed


def _rewritten(path: Path, raw: bytes, change: Callable[[dict[str, Any]], bool]) -> tuple[bool, str | None]:
    """Return whether the file was changed, and what went wrong; this frame holds keys."""
    if problem := _parsed(path, raw)[1]:
        return False, problem
    document = orjson.loads(raw)
    if not change(document["providers"]):
        return False, None
    # A Secret is stored as it is: writing down a key is what `keys set` is for.
    content = json.dumps(document, indent=2, default=Secret.reveal).encode() + b"\n"
    return True, _parsed(path, content)[1] or private_file.replace(path, content)


def _parsed(path: Path, raw: bytes | None) -> tuple[dict[str, Entry], str | None]:
    """Return the entries by provider, and what is wrong with the file if anything is."""
    if raw is None:
        return {}, None
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        return {}, f"{path}: is not valid JSON at line {error.lineno}, column {error.colno}: mend or remove it"
    if not isinstance(document, dict) or not isinstance(document.get("providers"), dict):
        return {}, f'{path}: has no "providers": write {{"version": 1, "providers": {{}}}}'
    if document.get("version") != 1 or isinstance(document["version"], bool):
        return {}, f'{path}: has an unknown version: this release reads "version": 1'
    try:
        return {name: _entry(name, entry) for name, entry in document["providers"].items()}, None
    except _MalformedError as error:
        return {}, f"{path}: {error}"


def _entry(name: str, raw: Any) -> Entry:
    if not _NAME.fullmatch(name):
        raise _MalformedError("a name under providers has characters that no provider's name has: rename it")
    if not isinstance(raw, dict):
        raise _MalformedError(f"providers.{name} is not an object: write it as one, or remove it")
    if not raw.keys() <= _ENTRY_FIELDS:
        allowed = ", ".join(sorted(_ENTRY_FIELDS))
        raise _MalformedError(f"providers.{name} has an unknown field: allowed are {allowed}")
    try:
        keys = _keys(name, raw)
    except _MalformedError as error:
        raise _MalformedError(f"providers.{name} {error}") from None
    base_url, extra = raw.get("base_url"), raw.get("extra")
    if not isinstance(extra, dict | None) or not isinstance(base_url, str | None):
        raise _MalformedError(f"providers.{name}: extra must be an object and base_url text: mend it")
    return Entry(keys, base_url, protect("extra", extra) if extra else {})


def _keys(name: str, raw: dict[str, Any]) -> tuple[Key, ...]:
    """Return the keys of a provider: those of its own fields, then those that `keys` lists."""
    own = enumerate((kind for kind in _SOURCES if kind in raw), 1)
    found = [_key(f"{name}#{number}", number, kind, raw[kind]) for number, kind in own]
    listed = raw.get("keys", [])
    if not isinstance(listed, list):
        raise _MalformedError("has keys that are no list: write them as one")
    for number, each in enumerate(listed, len(found) + 1):
        kinds = [kind for kind in _SOURCES if kind in each] if isinstance(each, dict) else []
        if len(kinds) != 1 or not each.keys() <= _KEY_FIELDS:
            raise _MalformedError(f"key {number} needs one of {', '.join(_SOURCES)}, and may have an id: mend it")
        identity = each.get("id", str(number))
        if not isinstance(identity, str) or not _NAME.fullmatch(identity):
            raise _MalformedError(f"key {number} has an id that is no short name: mend it")
        found.append(_key(f"{name}#{identity}", number, kinds[0], each[kinds[0]]))
    if len({key.id for key in found}) < len(found):
        raise _MalformedError("has two keys of one id: give each its own")
    return tuple(found)


def _key(identity: str, number: int, kind: str, value: Any) -> Key:
    place, problem = value, None
    if kind == "api_key":
        place = Secret(value if isinstance(value, str) else "")
        if unfit := place.problem():
            problem = f"the API key {unfit}: put the whole key there, on one line"
    elif kind == "command":
        place = tuple(value) if isinstance(value, list) else ()
        if not place or not all(isinstance(word, str) and word for word in place):
            problem = "command must be a list of words (no shell runs it): mend it"
    elif not isinstance(value, str) or not value:
        problem = "env and keyring must be names: mend it"
    if problem:
        raise _MalformedError(f"key {number}: {problem}")
    return Key(_SOURCES[kind], identity, place)
