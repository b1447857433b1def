"""The text of the credentials file: `{"version": 1, "providers": {"openai": {"api_key": ...}}}`.

Keys become Secrets as they are read. Functions that hold the raw text return their problem as a sentence instead of
raising, so that no traceback keeps a frame with a key in it; no sentence repeats anything but a provider's name.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import orjson

from blueprint_llm.config.secrets import protect
from blueprint_llm.errors import CredentialsError
from blueprint_llm.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


Kind = Literal["command", "api_key", "keyring", "env"]


class FileKey(NamedTuple):
    """One key of a provider; `id` is unique within it. A tuple: half the time of a frozen record at every load.

    Attributes:
        place: A Secret (`api_key`), words (`command`), or a name in the keychain or the environment.
    """

    id: str
    kind: Kind
    place: Secret | tuple[str, ...] | str


class Entry(NamedTuple):
    """What the file says about one provider."""

    keys: tuple[FileKey, ...]
    base_url: str | None
    extra: Mapping[str, Any]


class _MalformedError(Exception):
    """Never leaves this module: its traceback holds raw text."""


def check_name(name: str) -> str:
    """`name` if it can stand for a provider.

    Raises:
        CredentialsError: It has characters that no provider's name has.
    """
    if not _NAME.fullmatch(name):
        raise CredentialsError(
            "a provider's name has letters, digits, '.', '_' and '-' only, at most 64: mend the name"
        )
    return name


def parse(path: Path, raw: bytes) -> tuple[dict[str, Entry], str | None]:
    """The entries by provider, and what is wrong with the file if anything is."""
    try:
        return {name: _entry(name, entry) for name, entry in _providers(raw).items()}, None
    except _MalformedError as error:
        return {}, f"{path}: {error}"


def _providers(raw: bytes) -> dict[str, Any]:
    document = _load(raw)
    if not isinstance(document, dict) or not isinstance(document.get("providers"), dict):
        raise _MalformedError('has no "providers": write {"version": 1, "providers": {}}')
    if document.get("version") != 1 or isinstance(document["version"], bool):
        raise _MalformedError('has an unknown version: this release reads "version": 1')
    providers: dict[str, Any] = document["providers"]
    return providers


def _load(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
    raise _MalformedError(f"is not valid JSON at {place}: mend or remove it")


def _entry(name: str, raw: Any) -> Entry:
    if not _NAME.fullmatch(name):
        raise _MalformedError("a name under providers has characters that no provider's name has: rename it")
    try:
        keys, base_url, extra = _keys(raw), raw.get("base_url"), raw.get("extra")
    except _MalformedError as error:
        raise _MalformedError(f"providers.{name} {error}") from None
    if not isinstance(extra, dict | None) or not isinstance(base_url, str | None):
        raise _MalformedError(f"providers.{name}: extra must be an object and base_url text: mend it")
    return Entry(keys, base_url, protect("extra", extra) if extra else {})


def _keys(raw: Any) -> tuple[FileKey, ...]:
    if not isinstance(raw, dict):
        raise _MalformedError("is not an object: write it as one, or remove it")
    if not raw.keys() <= _ENTRY_FIELDS:
        raise _MalformedError(f"has an unknown field: allowed are {', '.join(sorted(_ENTRY_FIELDS))}")
    kinds = [kind for kind in _KINDS if kind in raw]
    found = [_key(number, kind, raw[kind]) for number, kind in enumerate(kinds, 1)]
    if "keys" in raw:
        found += _listed(raw["keys"], len(found) + 1)
        if len({key.id for key in found}) < len(found):
            raise _MalformedError("has two keys of one id: give each its own")
    return tuple(found)


def _listed(raw: Any, start: int) -> list[FileKey]:
    if not isinstance(raw, list):
        raise _MalformedError("has keys that are no list: write them as one")
    return [_listed_key(number, key) for number, key in enumerate(raw, start)]


def _listed_key(number: int, raw: Any) -> FileKey:
    kinds = [kind for kind in _KINDS if kind in raw] if isinstance(raw, dict) else []
    if len(kinds) != 1 or not raw.keys() <= _KEY_FIELDS:
        raise _MalformedError(f"key {number} needs one of {', '.join(_KINDS)}, and may have an id: mend it")
    identity = raw.get("id", str(number))
    if not isinstance(identity, str) or not _NAME.fullmatch(identity):
        raise _MalformedError(f"key {number} has an id that is no short name: mend it")
    return _key(number, kinds[0], raw[kinds[0]], identity)


def _key(number: int, kind: Kind, value: Any, identity: str | None = None) -> FileKey:
    try:
        return FileKey(identity or str(number), kind, _place(kind, value))
    except _MalformedError as error:
        raise _MalformedError(f"key {number}: {error}") from None


def _place(kind: Kind, value: Any) -> Secret | tuple[str, ...] | str:
    if kind == "command":
        if isinstance(value, list) and value and all(isinstance(word, str) and word for word in value):
            return tuple(value)
        raise _MalformedError("command must be a list of words (no shell runs it): mend it")
    if kind == "api_key":
        secret = Secret(value if isinstance(value, str) else "")
        if problem := secret.problem():
            raise _MalformedError(f"the API key {problem}: put the whole key there, on one line")
        return secret
    if isinstance(value, str) and value:
        return value
    raise _MalformedError("env and keyring must be names: mend it")


# A command goes before a key written down: it is the fresher of the two.
_KINDS: tuple[Kind, ...] = ("command", "api_key", "keyring", "env")
_KEY_FIELDS = {"id", *_KINDS}
_ENTRY_FIELDS = {"keys", "base_url", "extra", *_KINDS}
