"""Where keys come from, in order: explicit, configuration, environment, keychain, command, file.

The places of keys are known before anything is read, so that a key can be named (for the cache) and its absence
explained without asking a program or the keychain. A name may be a key of `providers`, a `model_list` group or a
LiteLLM provider; an origin is where the three meet. A target that declares its own key (`api_key`, `credentials`) is
never given another one's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from blueprint_llm.config.environment import WHERE, references, variable_of, with_listed
from blueprint_llm.config.providers import env_stem, litellm_provider, names_of
from blueprint_llm.config.secrets import protect
from blueprint_llm.credentials import command
from blueprint_llm.credentials.credential import Entry, Key
from blueprint_llm.errors import CredentialsError
from blueprint_llm.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from blueprint_llm.config.model import Config
    from blueprint_llm.credentials.credential import Source
    from blueprint_llm.credentials.file import CredentialsFile
    from blueprint_llm.credentials.keychain import Keychain

KEEP_S = 300.0
RETRY_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where the keys of a target may come from.

    Attributes:
        provider: The name that was asked for.
        litellm: LiteLLM's provider.
        names: Names under which sources know it, most specific first.
        params: The target's own LiteLLM parameters: literal keys are Secrets, `os.environ/NAME` stands as written.
        variables: Environment variables of the provider's key, by LiteLLM's conventions.
        borrows: The environment says where it is.
    """

    provider: str
    litellm: str
    names: tuple[str, ...]
    params: Mapping[str, Any]
    variables: tuple[str, ...]
    borrows: bool

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
    _answers: dict[Key, tuple[float, Secret | None, str | None]] = field(default_factory=dict)

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
            self._answers[_question(key)] = self.clock() + (KEEP_S if secret else RETRY_S), secret, trouble
        return self._answers[_question(key)][1]

    def is_slow(self, key: Key) -> bool:
        """Return True if a program or the keychain would be asked now."""
        if key.source not in {"command", "keychain"}:
            return False
        answer = self._answers.get(_question(key))
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
            return command.ask(place, environ=self.environ)
        try:
            return self.keychain.get(place), None
        except CredentialsError as error:
            return None, str(error)


def _only(source: Source, identity: str, place: Secret | str) -> Entry:
    return Entry((Key(source, identity, place),))


def _question(key: Key) -> Key:
    """Return what is asked of a slow source, whichever key it is for."""
    return key._replace(id="")
