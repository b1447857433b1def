"""Where keys come from, in order: explicit, configuration, environment, keychain, command, file.

A source answers with candidates: they say where a key would come from before anything is read, so that a key can be
named (for the cache) and its absence explained without asking a program or the keychain.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from blueprint_llm.config.environment import variable_of
from blueprint_llm.config.providers import env_stem
from blueprint_llm.credentials import command
from blueprint_llm.errors import CredentialsError
from blueprint_llm.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from blueprint_llm.credentials.credential import Source
    from blueprint_llm.credentials.document import Entry, FileKey
    from blueprint_llm.credentials.file import CredentialsFile
    from blueprint_llm.credentials.keychain import Keychain
    from blueprint_llm.credentials.origin import Origin

KEEP_S = 300.0
RETRY_S = 60.0

Answer = tuple[Secret | None, str | None]


class Candidate(NamedTuple):
    """A key that may be there. A `slow` one would ask a program or the keychain now."""

    source: Source
    id: str
    load: Callable[[], Secret | None]
    slow: bool = False
    entry: Entry | None = None

    @property
    def reference(self) -> str:
        """As in `Credential.reference`."""
        return f"{self.source}:{self.id}"


@dataclass(slots=True)
class Remembered:
    """Answers of slow sources: keys for 300 s, failures for 60 s."""

    clock: Callable[[], float]
    _answers: dict[tuple[str, ...], tuple[float, Answer]] = field(default_factory=dict)

    def ask(self, question: tuple[str, ...], load: Callable[[], Answer]) -> Secret | None:
        """The remembered answer, or a fresh one."""
        if not self.knows(question):
            answer = load()
            self._answers[question] = self.clock() + (KEEP_S if answer[0] else RETRY_S), answer
        return self._answers[question][1][0]

    def knows(self, question: tuple[str, ...]) -> bool:
        """Whether asking would be quick."""
        return question in self._answers and self.clock() < self._answers[question][0]

    def troubles(self) -> list[str]:
        """What went wrong lately."""
        return list(dict.fromkeys(answer[1] for _, answer in self._answers.values() if answer[1]))

    def forget(self) -> None:
        """Ask again next time."""
        self._answers.clear()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """All sources of one manager."""

    explicit: Mapping[str, Secret]
    environ: Mapping[str, str]
    keychain: Keychain
    use_keychain: bool
    file: CredentialsFile
    remembered: Remembered

    def groups(self, origin: Origin) -> Iterator[list[Candidate]]:
        """Candidates in order; those of one group take turns, a later group is asked only when a group has none."""
        for name in origin.names:
            if secret := self.explicit.get(name):
                yield [_given("explicit", secret)]
        yield from self._declared(origin)
        for variable in (*(f"BLUEPRINT_{env_stem(name)}_API_KEY" for name in origin.names), *origin.variables):
            yield [self._variable(variable)]
        if self.use_keychain:
            yield from ([self._in_keychain(name, name)] for name in origin.names)
        for name in origin.names:
            yield self.of_entry(name)

    def _declared(self, origin: Origin) -> Iterator[list[Candidate]]:
        declared = origin.params.get("api_key")
        if variable := variable_of(declared):
            yield [self._variable(variable)]
        elif isinstance(declared, Secret):
            yield [_given("config", declared)]

    def of_entry(self, name: str) -> list[Candidate]:
        """The keys that the file has for a name. Raises CredentialsError for an unsafe file."""
        entry = self.file.entries().get(name)
        return [self._of_key(f"{name}#{key.id}", key, entry) for key in entry.keys] if entry else []

    def _of_key(self, identity: str, key: FileKey, entry: Entry) -> Candidate:
        match key.place:
            case Secret() as secret:
                return Candidate(source="file", id=identity, load=lambda: secret, entry=entry)
            case tuple() as argv:
                return self._printed(argv, identity, entry)
            case name if key.kind == "env":
                return self._variable(name, identity, entry)
            case username:
                return self._in_keychain(username, identity, entry)

    def _variable(self, name: str, identity: str | None = None, entry: Entry | None = None) -> Candidate:
        return Candidate(source="env", id=identity or name, load=lambda: self._environment(name), entry=entry)

    def _environment(self, name: str) -> Secret | None:
        secret = Secret(self.environ.get(name, "").strip())
        if not secret.is_clean():
            raise CredentialsError(
                f"the environment variable {name} holds a space or a newline: set it to the key alone"
            )
        return secret if len(secret) else None

    def _in_keychain(self, username: str, identity: str, entry: Entry | None = None) -> Candidate:
        question = ("keychain", username)
        return self._slow("keychain", identity, question, lambda: self._ask_keychain(username), entry)

    def _ask_keychain(self, username: str) -> Answer:
        try:
            return self.keychain.get(username), None
        except CredentialsError as error:
            return None, str(error)

    def _printed(self, argv: tuple[str, ...], identity: str, entry: Entry) -> Candidate:
        return self._slow(
            "command", identity, ("command", *argv), lambda: command.ask(argv, environ=self.environ), entry
        )

    def _slow(
        self, source: Source, identity: str, question: tuple[str, ...], load: Callable[[], Answer], entry: Entry | None
    ) -> Candidate:
        return Candidate(
            source=source,
            id=identity,
            load=lambda: self.remembered.ask(question, load),
            slow=not self.remembered.knows(question),
            entry=entry,
        )


def _given(source: Source, secret: Secret) -> Candidate:
    return Candidate(source=source, id=secret.name(), load=lambda: secret)
