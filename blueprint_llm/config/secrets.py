"""What in a configuration is secret: by the name of its key, or by its own shape.

Keys are made Secrets where they are kept; what is shown has masks in their place. `os.environ/NAME` only names a secret
and stays readable.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Annotated, Any

from pydantic import GetPydanticSchema, WithJsonSchema
from pydantic_core import PydanticKnownError, core_schema

from blueprint_llm.config.environment import ENVIRON
from blueprint_llm.secret import Secret

FALLBACKS = ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks")
NAMED = {*FALLBACKS, "model_group_alias", "model_group_retry_policy", "provider_budget_config"}
MASK = "***"

_SECRET_KEY = re.compile(
    r"^(?!.*(?:cost|cache))(?:.*(?:(?:api|access|secret|private|master|salt|signing|encryption|ingestion)[-_ ]?key"
    r"|secret|passw|pwd|authorization|cookie|license|_credentials$|credential_values|database_url|connection_string"
    r"|[-_](?:key|auth)$|(?<!bos_)(?<!eos_)token$)|auth$|key$|environment_variables$)",
    re.IGNORECASE,
)
_NAMES_ONLY = re.compile(r"os\.environ/\S+|true|false|null|none", re.IGNORECASE)
_SECRET_SHAPE = re.compile(
    r"\b[spr]k-[\w\-]{4,}|\b(?:gsk_|hf_|gh[po]_|xai-|glpat-|pplx-|nvapi-|tgp_)[\w\-]{16,}|\bAIza[\w\-]{10,}"
    r"|\bA[KS]IA[A-Z0-9]{10,}|\bxox[a-z]-[\w\-]+|\beyJ[\w\-.]{10,}|(?<=Bearer )\S+|(?<=://)[^@\s]+(?=@)"
)
_RANDOM_SHAPE = re.compile(
    r"(?<![\w/+\-])(?=[\w+/]*[0-9])(?=[\w+/]*[A-Z])(?=[\w+/]*[a-z])[\w+/]{20,}=*(?![\w\-])"
    r"|(?<![\w\-])[0-9a-fA-F]{32,}(?![\w\-])"
)
_SHOWN_CHARS = 60


def masked(value: Any, key: str = "") -> Any:
    """A copy of `value` in which every secret is `***`; numbers and flags are never secrets."""
    if isinstance(value, Secret):
        return MASK
    if isinstance(value, str):
        if is_secret_key(key):
            return value if _NAMES_ONLY.fullmatch(value) else MASK
        return _SECRET_SHAPE.sub(MASK, value)
    if isinstance(value, dict):
        inherited = key if is_secret_key(key) else None
        return {name: masked(item, inherited or str(name)) for name, item in value.items()}
    return [masked(item, key) for item in value] if isinstance(value, list | tuple) else value


def masked_text(text: str) -> str:
    """`text` for a message: also whatever merely looks random is replaced."""
    return _RANDOM_SHAPE.sub(MASK, _SECRET_SHAPE.sub(MASK, text))


@lru_cache(maxsize=1024)
def is_secret_key(key: str) -> bool:
    """Whether what stands under `key` is a secret by its name."""
    return bool(_SECRET_KEY.search(key))


def shown(value: Any, key: str = "") -> str:
    """A short, harmless rendering of the value under `key` for a message."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if is_secret_key(key) or isinstance(value, Secret):
        return MASK
    text = masked_text(value if isinstance(value, str) else repr(value))
    cut = text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 3] + "..."
    return repr(cut) if isinstance(value, str) else cut


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
    """Return `value` with every text under a telling name (`api_key`, `Authorization`, ...) made a Secret.

    What only names a variable (`os.environ/NAME`) stays as it is.
    """
    match value:
        case str() if value and is_secret_key(name) and not value.startswith(ENVIRON):
            return Secret(value)
        case Mapping():
            return {key: protect(str(key), item) for key, item in value.items()}
        case list():
            return [protect(name, item) for item in value]
    return value


def protect_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return LiteLLM's settings with their keys made Secrets; names of groups and aliases tell nothing."""
    return {key: _below_names(item) if key in NAMED else protect(key, item) for key, item in settings.items()}


def _below_names(value: Any) -> Any:
    if isinstance(value, list):
        return [_below_names(item) for item in value]
    return {name: protect("", item) for name, item in value.items()} if isinstance(value, Mapping) else value


def seal(keywords: dict[str, Any], *, but: Collection[str] = ()) -> dict[str, Any]:
    """Make Secrets of the keys in `keywords`, in place: a frame that raises must not show them."""
    for name in keywords.keys() - but:
        keywords[name] = protect(name, keywords[name])
    return keywords
