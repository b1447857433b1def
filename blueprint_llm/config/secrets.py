"""Makes Secrets of the keys that stand in a configuration or among a call's keywords."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, GetPydanticSchema, WithJsonSchema
from pydantic_core import PydanticKnownError, core_schema

from blueprint_llm.config.environment import ENVIRON
from blueprint_llm.config.masking import is_secret_key
from blueprint_llm.secret import Secret

FALLBACKS = ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks")
NAMED = {*FALLBACKS, "model_group_alias", "model_group_retry_policy", "provider_budget_config", "providers", "chains"}
OPEN = {"routes"}  # compared with what callers say


def _text(*kinds: type) -> GetPydanticSchema:
    """Take text as the very object that was given: pydantic's own forgets where it was written."""

    def checked(value: Any) -> Any:
        if isinstance(value, kinds):
            return value
        raise PydanticKnownError("string_type")

    return GetPydanticSchema(lambda _kind, _handler: core_schema.no_info_plain_validator_function(checked))


WrittenText = Annotated[str, _text(str), WithJsonSchema({"type": "string"})]
SecretText = Annotated[str | Secret, _text(str, Secret), WithJsonSchema({"type": "string"})]


def protect(name: str, value: Any) -> Any:
    """`value` with every text under a telling name (`api_key`, `Authorization`, ...) made a Secret.

    What only names a variable (`os.environ/NAME`) stays as it is.
    """
    match value:
        case str() if value and is_secret_key(name) and not value.startswith(ENVIRON):
            return Secret(value)
        case Mapping():
            return {key: protect(str(key), item) for key, item in value.items()}
        case list():
            return [protect(name, item) for item in value]
        case _:
            return value


def protect_named(value: Any) -> Any:
    """As `protect`, below names of the user's own choice (groups, aliases, providers), which tell nothing."""
    match value:
        case Mapping():
            return {name: protect("", item) for name, item in value.items()}
        case list():
            return [protect_named(item) for item in value]
        case _:
            return value


def protect_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """LiteLLM's settings or our block with their keys made Secrets."""
    closed = {key: item for key, item in settings.items() if key not in OPEN}
    made = {key: protect_named(item) if key in NAMED else protect(key, item) for key, item in closed.items()}
    return {**settings, **made}


def seal(keywords: dict[str, Any], *, but: Collection[str] = ()) -> dict[str, Any]:
    """Make Secrets of the keys in `keywords`, in place: a frame that raises must not show them."""
    for name in keywords.keys() - but:
        keywords[name] = protect(name, keywords[name])
    return keywords


class Keyed(BaseModel):
    """A record that may hold keys: in its fields `held`, in what it holds beside its fields, and in records within.

    Elsewhere stand names of the user's own choice (a chain may be called `turnkey`), which tell nothing.
    """

    held: ClassVar[frozenset[str]] = frozenset()

    def protected(self) -> Self:
        """The record with its keys made Secrets; the very same where it holds none."""
        keyed = self.held | (self.__pydantic_extra__ or {}).keys()
        made = ((name, value, protect(name, value) if name in keyed else _within(value)) for name, value in self)
        changed = {name: new for name, value, new in made if new != value}
        return self.model_copy(update=changed) if changed else self


def _within(value: Any) -> Any:
    match value:
        case Keyed():
            return value.protected()
        case dict():
            return {name: _within(item) for name, item in value.items()}
        case list():
            return [_within(item) for item in value]
        case _:
            return value
