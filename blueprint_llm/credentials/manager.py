"""Find the key of a provider: explicit > environment > keychain > command > file.

Nothing is ever written to the environment: keys are handed to each call. What the manager tells about a key (its
reference, whether it is there) never needs the key itself.
"""

from __future__ import annotations

import builtins
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from blueprint_llm.config import private_file
from blueprint_llm.config.environment import closed, variable_of, with_listed
from blueprint_llm.config.model import Config
from blueprint_llm.config.paths import file_in
from blueprint_llm.config.providers import TABLE, env_stem, names_of, needs_key
from blueprint_llm.config.secrets import protect
from blueprint_llm.credentials.file import CredentialsFile, check_name
from blueprint_llm.credentials.keychain import Keychain
from blueprint_llm.credentials.sources import Credential, Entry, Finding, Key, KeyInfo, Origin, Sources, origin_of
from blueprint_llm.errors import CredentialsError, MissingKeyError
from blueprint_llm.redaction import register_url
from blueprint_llm.secret import Secret

MOST_ORIGINS = 1024
OLD_DAYS = 180
BENCH_S: Mapping[str, float] = {"refused": 300.0, "rate_limited": 60.0}


class CredentialsManager:
    """Keys of all providers.

    Args:
        config: Which providers there are, and whether the keychain may be asked.
        file: The credentials file; default: `credentials.file`, else `credentials.json` in the configuration folder.
        environ: Only read.
        explicit: Keys by provider name; they win over every source.
        clock: Monotonic seconds.
        keychain: One with another deadline than 2 s.
    """

    def __init__(
        self,
        config: Config | None = None,
        *,
        file: str | os.PathLike[str] | None = None,
        environ: Mapping[str, str] = os.environ,
        explicit: Mapping[str, str | Secret] | None = None,
        clock: Callable[[], float] = time.monotonic,
        keychain: Keychain | None = None,
    ) -> None:
        secrets = {name: key if isinstance(key, Secret) else Secret(key) for name, key in (explicit or {}).items()}
        del explicit  # a traceback of what follows must not show it
        self.config = config or Config()
        chosen = file or self.config.credentials.file
        self.sources = Sources(
            explicit=secrets,
            environ=environ,
            keychain=keychain or Keychain(),
            use_keychain=self.config.credentials.keyring,
            file=CredentialsFile(Path(chosen).expanduser() if chosen else file_in("config", "credentials.json")),
            clock=clock,
        )
        self._benched: dict[str, float] = {}
        self._file_version = 0
        self._origins: dict[tuple[str, str | None, int], tuple[Any, Origin]] = {}

    def _origin(self, provider: str, model: str | None, params: Mapping[str, Any] | None) -> Origin:
        """What the configuration says of a target: it does not change, and every call asks several times."""
        key = (provider, model, id(params))
        if key not in self._origins:
            if len(self._origins) >= MOST_ORIGINS:
                self._origins.clear()
            self._origins[key] = (params, origin_of(self.config, provider, model, params))  # keeps the id taken
        return self._origins[key][1]

    def get(self, provider: str, *, model: str | None = None, params: Mapping[str, Any] | None = None) -> Credential:
        """The credential for the next call to `provider`.

        Args:
            provider: A key of `providers`, a `model_list` group or a LiteLLM provider.
            model: The LiteLLM model id that will be called, where one was chosen.
            params: The chosen deployment's own `litellm_params`; default: the configuration's.

        Raises:
            CredentialsError: The provider needs a key and none is there, or the credentials file is not safe.
        """
        origin = self._origin(provider, model, params)
        if problem := self._closed(origin):
            raise CredentialsError(problem)
        for entry in self.sources.entries(origin):
            for key in sorted(entry.keys, key=self._bench_until):
                if secret := self.sources.load(key):
                    return Credential(
                        api_key=secret,
                        base_url=self._base_url(origin, entry),
                        extra=entry.extra,
                        id=key.id,
                        source=key.source,
                        provider=provider,
                    )
        if problem := self._missing(origin):
            raise MissingKeyError(problem)
        entry = self._entry(origin)
        return Credential(base_url=self._base_url(origin, entry), extra=entry.extra, provider=provider)

    def available(
        self, provider: str, *, model: str | None = None, params: Mapping[str, Any] | None = None
    ) -> str | None:
        """Why `provider` cannot be called, or None; asks no program and no keychain."""
        origin = self._origin(provider, model, params)
        try:
            return self._closed(origin) or (None if origin.has_key or self._first(origin) else self._missing(origin))
        except CredentialsError as error:
            return str(error)

    def reference(self, provider: str, *, model: str | None = None, params: Mapping[str, Any] | None = None) -> str:
        """What stands for the key in the cache's keys; the same whichever of several keys is in use."""
        return self.account(provider, model=model, params=params)[0]

    def account(
        self, provider: str, *, model: str | None = None, params: Mapping[str, Any] | None = None
    ) -> tuple[str, str | None, Mapping[str, Any]]:
        """Which account a call would use at which address: the key's reference, the address, the extra settings."""
        origin = self._origin(provider, model, params)
        try:
            first = self._first(origin)
            entry = first[0] if first else self._entry(origin)
        except CredentialsError:
            first, entry = None, Entry()  # the call itself will say why
        return first[1].reference if first else "none", self._base_url(origin, entry), entry.extra

    def is_slow(self, provider: str, *, model: str | None = None, params: Mapping[str, Any] | None = None) -> bool:
        """Whether `get` would now wait for a program or the keychain."""
        origin = self._origin(provider, model, params)
        try:
            first = None if origin.has_key else self._first(origin)
        except CredentialsError:
            return False
        return first is not None and self.sources.is_slow(first[1])

    def _first(self, origin: Origin) -> tuple[Entry, Key] | None:
        """Return the key that `get` would take, slow ones assumed to be there."""
        keys = ((entry, key) for entry in self.sources.entries(origin) for key in entry.keys)
        return next((each for each in keys if self.sources.is_slow(each[1]) or self.sources.load(each[1])), None)

    def report(self, credential: Credential, category: str, *, retry_after_s: float | None = None) -> bool:
        """Leave a key alone for a while after 401 (`refused`) or 429 (`rate_limited`).

        Returns:
            Whether the provider has another key that is not left alone, so that asking again at once makes sense.
        """
        if category not in BENCH_S or credential.api_key is None:
            return False
        pause_s = BENCH_S[category] if retry_after_s is None else retry_after_s
        self._benched[credential.reference] = self.sources.clock() + pause_s
        if category == "refused":
            self.sources.forget()  # a program may have a fresh one
        name, turns, _ = credential.id.rpartition("#")
        entries = self.sources.file.entries() if turns else {}
        return any(not self._bench_until(key) for key in entries.get(name, Entry()).keys)

    def _bench_until(self, key: Key) -> float:
        if self._file_version != self.sources.file.version:  # whoever edited the file gets a fresh start
            self._file_version = self.sources.file.version
            self._benched.clear()
        until = self._benched.get(key.reference, 0.0)
        return until if until > self.sources.clock() else 0.0

    def _entry(self, origin: Origin) -> Entry:
        """Return what the file keeps for a target, whether or not a key is among it."""
        entries = self.sources.file.entries()
        return next((entries[name] for name in origin.names if name in entries), Entry())

    def _base_url(self, origin: Origin, entry: Entry) -> str | None:
        """Return the target's own address, else the one that the file keeps with the key, else the environment's."""
        declared = origin.params.get("api_base") or origin.params.get("base_url")
        variable = variable_of(declared)
        named = (self.sources.environ.get(variable) or declared) if variable else declared  # unset is not default
        variables = (self.sources.environ.get(name) for name in names_of(origin.litellm).bases)
        found = named or entry.base_url or next(filter(None, variables), None)
        if found:
            register_url(found)
        return found

    def _closed(self, origin: Origin) -> str | None:
        """Why a call would not go where the configuration says; asked anew each time, the environment may change."""
        if not origin.borrows or (problem := closed(origin.params, self.sources.environ)) is None:
            return None
        return f"{origin.provider!r} cannot be called: {problem}"

    def _missing(self, origin: Origin) -> str | None:
        """What to say where no source has a key; None if none is needed."""
        is_own = origin.litellm in self.config.own_providers
        if is_own or not needs_key(origin.litellm, self._base_url(origin, self._entry(origin))):
            return None
        name = origin.names[0]
        declared = variable_of(origin.params.get("api_key"))
        variable = declared or next(iter(origin.variables), f"BLUEPRINT_{env_stem(name)}_API_KEY")
        troubles = "".join(f"; {trouble}" for trouble in self.sources.troubles())
        return f"no API key for {origin.provider!r}: set {variable} or run blueprint-llm keys set {name}{troubles}"

    def resolve_params(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """LiteLLM parameters with `os.environ/NAME` and `litellm_credential_name` replaced; keys are Secrets.

        A variable that is not set leaves its parameter out, as LiteLLM does.
        """
        found = protect("", self._resolved(with_listed(self.config.credential_list, params)))
        return {name: value for name, value in found.items() if value is not None}

    def _resolved(self, value: Any) -> Any:
        if variable := variable_of(value):
            return self.sources.environ.get(variable)
        if isinstance(value, Mapping):
            return {key: self._resolved(item) for key, item in value.items()}
        return [self._resolved(item) for item in value] if isinstance(value, list) else value

    def set(
        self,
        provider: str,
        api_key: str | Secret,
        *,
        id: str | None = None,  # noqa: A002 - the file's word
        keyring: bool = False,
    ) -> None:
        """Store a key in the file or the keychain; in the file it replaces the one of the same `id`.

        Raises:
            CredentialsError: The key or the name is unfit, or the place is not safe; nothing was changed.
        """
        api_key = api_key if isinstance(api_key, Secret) else Secret(api_key)
        if problem := api_key.problem():
            raise CredentialsError(f"the key {problem}: give the whole key, on one line")
        name, identity = check_name(provider), id and check_name(id)
        if keyring:
            self.sources.keychain.set(name, api_key)
            self.sources.forget()
        else:
            self.sources.file.put(name, api_key, identity)

    def remove(self, provider: str, *, id: str | None = None, keyring: bool = False) -> bool:  # noqa: A002 - as above
        """Delete a provider's keys, or the one of `id`; whether there was one."""
        if keyring:
            self.sources.forget()
            return self.sources.keychain.remove(provider)
        return self.sources.file.drop(provider, id)

    def list(self) -> builtins.list[KeyInfo]:
        """Every key that is there; programs are not run. Raises CredentialsError for an unsafe file."""
        known = (*self.config.providers, *self.config.model_groups, *self.sources.file.entries(), *TABLE)
        rows: dict[tuple[str, str], KeyInfo] = {}
        for name in dict.fromkeys(known):
            entries = self.sources.entries(self._origin(name, None, None))
            for key in (key for entry in entries for key in entry.keys):
                secret = None if key.source == "command" else self.sources.load(key)
                if secret or key.source == "command":
                    hint = secret.hint() if secret else ""
                    rows[key.source, key.id] = KeyInfo(provider=name, id=key.id, source=key.source, hint=hint)
        return builtins.list(rows.values())

    def check(self, *, now: Callable[[], float] = time.time) -> builtins.list[Finding]:
        """Return the rows of `keys check`: what is wrong with the places of keys, and which providers lack one."""
        rows = [*_file(self.sources.file, now())]
        if self.sources.use_keychain:
            try:
                rows.append(Finding(subject="keychain", ok=True, message=self.sources.keychain.describe()))
            except CredentialsError as error:
                rows.append(_bad("keychain", str(error)))
        for name in self.config.providers or self.config.model_groups:
            problem = self.available(name)
            good = Finding(subject=name, ok=True, message="" if problem else self.reference(name))
            rows.append(_bad(name, problem) if problem else good)
        return rows


def _file(file: CredentialsFile, now: float) -> Iterator[Finding]:
    """Yield what there is to say of the credentials file and the folders above it."""
    path = file.path
    if path is None:
        yield Finding(subject="credentials file", ok=True, message="none, for want of a home folder")
        return
    found = private_file.stamp(str(path))
    try:
        text = f"safe; providers: {', '.join(file.entries()) or 'none'}" if found else "not there, which is fine"
        yield Finding(subject=str(path), ok=True, message=text)
    except CredentialsError as error:
        yield _bad(str(path), str(error))
    if found and (days := int((now - found[0] / 1e9) // 86400)) >= OLD_DAYS:
        yield Finding(subject=str(path), ok=True, message=f"unchanged for {days} days: consider fresh keys")
    for above in path.absolute().parents:  # in which somebody else could put another folder in the place of ours
        status = above.stat() if os.path.exists(above) else None  # noqa: PTH110 - it never raises
        if status is None or (status.st_mode & stat.S_ISVTX and private_file.is_ours(status)):
            continue  # a sticky folder (/tmp) lets nobody rename what is ours
        if problem := private_file.folder_problem(above, status):
            yield _bad(str(above), problem)


def _bad(subject: str, sentence: str) -> Finding:
    message, _, mend = sentence.removeprefix(f"{subject}: ").removeprefix(f"{subject} ").rpartition(": ")
    return Finding(subject=subject, ok=False, message=message, mend=mend.removeprefix("run "))
