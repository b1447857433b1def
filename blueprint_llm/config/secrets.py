"""Makes Secrets of the keys that stand in a configuration or among a call's keywords."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, GetPydanticSchema, WithJsonSchema
from pydantic_core import PydanticKnownError, core_schema

from blueprint_llm.config.masking import is_secret_key
from blueprint_llm.secret import Secret

ENVIRON = "os.environ/"


def _text(value: Any) -> str | Secret:
    if isinstance(value, str | Secret):
        return value
    raise PydanticKnownError("string_type")


SecretText = Annotated[
    str | Secret,
    GetPydanticSchema(lambda _kind, _handler: core_schema.no_info_plain_validator_function(_text)),
    WithJsonSchema({"type": "string"}),
]


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
        case Keyed():
            return value.protected()
        case _:
            return value


def seal(keywords: dict[str, Any], *, but: Collection[str] = ()) -> dict[str, Any]:
    """Make Secrets of the keys in `keywords`, in place: a frame that raises must not show them."""
    for name in keywords.keys() - but:
        keywords[name] = protect(name, keywords[name])
    return keywords


class Keyed(BaseModel):
    """A record that may hold keys, in itself or in records within."""

    def protected(self) -> Self:
        """The record with its keys made Secrets; the very same where it holds none."""
        changed = {name: new for name, value in self if (new := protect(name, value)) != value}
        return self.model_copy(update=changed) if changed else self
