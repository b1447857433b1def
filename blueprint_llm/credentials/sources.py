"""Where keys come from, in order: explicit, configuration, environment, keychain, command, file.

The places of keys are known before anything is read, so that a key can be named (for the cache) and its absence
explained without asking a program or the keychain. A name may be a key of `providers`, a `model_list` group or a
LiteLLM provider; an origin is where the three meet. A target that declares its own key (`api_key`, `credentials`) is
never given another one's.
"""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from blueprint_llm.config.environment import WHERE, references, variable_of, with_listed
from blueprint_llm.config.providers import env_stem, litellm_provider, names_of
from blueprint_llm.config.secrets import protect
from blueprint_llm.errors import CredentialsError
from blueprint_llm.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from blueprint_llm.config.model import Config
    from blueprint_llm.credentials.file import CredentialsFile
    from blueprint_llm.credentials.keychain import Keychain

Source = Literal["explicit", "config", "env", "keychain", "command", "file", "none"]

KEEP_S, RETRY_S = 300.0, 60.0  # what a slow source answered is good for so long; that it failed, for so long
COMMAND_S = 10.0


class Key(NamedTuple):
    """A place where a key may be, known before anything is read. A tuple: half the time of a frozen record."""

    source: Source
    id: str  # which key it is: `OPENAI_API_KEY`, `cloud#1`
    place: Secret | tuple[str, ...] | str  # the key itself, a program's words, or a name in environment or keychain

    @property
    def reference(self) -> str:
        """As in `Credential.reference`."""
        return f"{self.source}:{self.id}"


class Entry(NamedTuple):
    """Keys that take turns, and what the credentials file keeps with them."""

    keys: tuple[Key, ...] = ()
    base_url: str | None = None
    extra: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """What one call needs.

    Attributes:
        api_key: None where the provider takes none.
        extra: More LiteLLM keywords from the file; sensitive ones are Secrets.
        id: Which key it is: `OPENAI_API_KEY`, `cloud#1`.
        provider: The name that was asked for.
    """

    api_key: Secret | None = None
    base_url: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""
    source: Source = "none"
    provider: str = ""

    @property
    def reference(self) -> str:
        """Names the key without telling it: `env:OPENAI_API_KEY`, `file:cloud#1`."""
        return f"{self.source}:{self.id}" if self.id else self.source


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyInfo:
    """A row of `keys list`; `hint` has at most the last four characters."""

    provider: str
    id: str
    source: Source
    hint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A row of `keys check`; `mend` is what to run or do, empty where nothing is wrong."""

    subject: str
    ok: bool
    message: str
    mend: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where the keys of a target may come from."""

    provider: str  # the name that was asked for
    litellm: str  # LiteLLM's provider
    names: tuple[str, ...]  # under which sources know it, most specific first
    params: Mapping[str, Any]  # its own LiteLLM parameters: literal keys are Secrets, `os.environ/NAME` is as written
    variables: tuple[str, ...]  # of the environment, for the provider's key, by LiteLLM's conventions
    borrows: bool  # the environment says where it is

    @property
    def has_key(self) -> bool:
        """Whether the configuration holds the key itself: then no source need be asked whether there is one."""
        return isinstance(self.params.get("api_key"), Secret)


def origin_of(config: Config, provider: str, model: str | None, params: Mapping[str, Any] | None) -> Origin:
    """The origin of `provider`; `model` and `params` are those of the deployment, if the caller has chosen one."""
    entry = config.providers.get(provider)
    group = config.model_groups.get(entry.model if entry else provider)
    home = group[0].model if group else entry.model if entry else provider
    own = dict(group[0].params) if group else {}
    if entry:
        named = {"api_key": entry.api_key, "api_base": entry.api_base}
        own |= {key: value for key, value in named.items() if value} | (entry.model_extra or {})
    found = with_listed(config.credential_list, own if params is None else params, entry.credentials if entry else None)
    litellm = litellm_provider(model or home, found) if model or entry or group else provider
    names = tuple(dict.fromkeys((provider, litellm)))
    pinned = provider if found.get("api_key") else entry.credentials if entry else None
    if entry and litellm != litellm_provider(home, found):  # another provider's model in this one's place
        names = (litellm,)
    elif pinned:
        names = (pinned,)
    found["model"] = home if model in {None, home} else model  # the configuration's own knows where it stands
    return Origin(
        provider=provider,
        litellm=litellm,
        names=names,
        params=protect("", found),
        variables=() if pinned else names_of(litellm).keys,
        borrows=any(True for name in WHERE for _ in references(found.get(name))),
    )


@dataclass(slots=True, kw_only=True)
class Sources:
    """All sources of one manager. What slow ones answered is kept: keys for 300 s, failures for 60 s."""

    explicit: Mapping[str, Secret]
    environ: Mapping[str, str]
    keychain: Keychain
    use_keychain: bool
    file: CredentialsFile
    clock: Callable[[], float]
    _answers: dict[Any, tuple[float, Secret | None, str | None]] = field(default_factory=dict)  # by the key's place

    def entries(self, origin: Origin) -> Iterator[Entry]:
        """Yield keys in order; those of one entry take turns, a later one is asked only when an earlier has none.

        Raises:
            CredentialsError: The credentials file is unsafe or malformed.
        """
        for name in origin.names:
            if secret := self.explicit.get(name):
                yield _only("explicit", secret.name(), secret)
        declared = origin.params.get("api_key")
        if variable := variable_of(declared):
            yield _only("env", variable, variable)
        elif isinstance(declared, Secret):
            yield _only("config", declared.name(), declared)
        for variable in (*(f"BLUEPRINT_{env_stem(name)}_API_KEY" for name in origin.names), *origin.variables):
            yield _only("env", variable, variable)
        if self.use_keychain:
            yield from (_only("keychain", name, name) for name in origin.names)
        for name in origin.names:
            yield self.file.entries().get(name, Entry())

    def load(self, key: Key) -> Secret | None:
        """Return the key, or None where there is none. Raises CredentialsError for a variable that holds no key."""
        if isinstance(key.place, Secret):
            return key.place
        if key.source == "env":
            return self._variable(str(key.place))
        if self.is_slow(key):
            secret, trouble = self._asked(key.place)
            self._answers[key.place] = self.clock() + (KEEP_S if secret else RETRY_S), secret, trouble
        return self._answers[key.place][1]

    def is_slow(self, key: Key) -> bool:
        """Return True if a program or the keychain would be asked now."""
        if key.source not in {"command", "keychain"}:
            return False
        answer = self._answers.get(key.place)
        return answer is None or self.clock() >= answer[0]

    def troubles(self) -> list[str]:
        """Return what went wrong lately with slow sources."""
        return list(dict.fromkeys(trouble for *_, trouble in self._answers.values() if trouble))

    def forget(self) -> None:
        """Ask slow sources again next time."""
        self._answers.clear()

    def _variable(self, name: str) -> Secret | None:
        secret = Secret(self.environ.get(name, "").strip())
        if not secret.is_clean():
            raise CredentialsError(
                f"the environment variable {name} holds a space or a newline: set it to the key alone"
            )
        return secret if len(secret) else None

    def _asked(self, place: tuple[str, ...] | str) -> tuple[Secret | None, str | None]:
        if isinstance(place, tuple):
            return ask(place, self.environ)
        try:
            return self.keychain.get(place), None
        except CredentialsError as error:
            return None, str(error)


def _only(source: Source, identity: str, place: Secret | str) -> Entry:
    return Entry((Key(source, identity, place),))


def ask(
    argv: Sequence[str], environ: Mapping[str, str], timeout_s: float = COMMAND_S
) -> tuple[Secret | None, str | None]:
    """Return the key that a program prints (`[op, read, op://vault/openai/key]`), or what went wrong, without it.

    No shell, no input, its stderr dropped; in the end its whole process group is gone.
    """
    program = f"the command {argv[0]}"
    try:
        process = subprocess.Popen(  # noqa: S603 - argv from the user's own 0600 file, never through a shell
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env=dict(environ), start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        return None, f"{program} cannot be started ({error.strerror})"
    with process:
        try:
            printed = process.communicate(timeout=timeout_s)[0].decode("ascii", "replace").strip()
        except subprocess.TimeoutExpired:
            return None, f"{program} gave no key within {timeout_s:g} s"
        finally:
            # With all its children: one that it left behind would keep the pipe, and the key.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL) if hasattr(os, "killpg") else process.kill()
    if process.returncode != 0:
        return None, f"{program} failed (exit code {process.returncode})"
    secret = Secret(printed)
    problem = secret.problem()
    return (None, f"what {program} printed {problem}") if problem else (secret, None)
