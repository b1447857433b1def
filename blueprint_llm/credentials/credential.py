"""The records of keys: where one may be, what a call is given, what is told of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from blueprint_llm.secret import Secret

Source = Literal["explicit", "config", "env", "keychain", "command", "file", "none"]


class Key(NamedTuple):
    """A place where a key may be, known before anything is read. A tuple: half the time of a frozen record.

    Attributes:
        id: Which key it is: `OPENAI_API_KEY`, `cloud#1`.
        place: The key itself, a program's words, or a name in the environment or the keychain.
    """

    source: Source
    id: str
    place: Secret | tuple[str, ...] | str

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
