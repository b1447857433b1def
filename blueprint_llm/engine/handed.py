"""What a guarded call is handed of ours: a key, where LiteLLM would not find one by itself."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from blueprint_llm.config.environment import LISTED, closed, with_listed
from blueprint_llm.errors import CredentialsError, MissingKeyError
from blueprint_llm.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping

    from blueprint_llm.engine.runtime import Runtime
    from blueprint_llm.routing.targets import Target

# With one of these the call brings its own way in.
OWN = ("api_key", "client", "litellm_credential_name", "azure_ad_token", "azure_ad_token_provider", "mock_response")


def completed(runtime: Runtime, keywords: dict[str, Any]) -> dict[str, Any]:
    """Return the keywords with what the configuration's `credential_list` holds under the name that they borrow.

    LiteLLM's own list is one for the whole process; a name that is not the configuration's is looked up there.

    Raises:
        CredentialsError: An address is taken from the environment and is not set; LiteLLM would choose another.
    """
    listed, name = runtime.config.credential_list, keywords.get(LISTED)
    is_ours = name and any(entry.get("credential_name") == name for entry in listed)
    borrowed = with_listed(listed, {LISTED: name}) if is_ours else {}
    if problem := closed({**borrowed, **keywords}):
        asked = (keywords.get("metadata") or {}).get("model_group") or keywords.get("model")
        raise CredentialsError(f"{asked!r} cannot be called: {problem}")
    if not is_ours:
        return keywords
    own = {key: value for key, value in keywords.items() if key != LISTED and value is not None}
    return {**_litellm().revealed(runtime.credentials.resolve_params(borrowed)), **own}


async def key_of(runtime: Runtime, target: Target, keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords with the target's key and address; empty where the call, or LiteLLM, has its own.

    LiteLLM has more ways to a key (its variables, a cloud's login), and words of its own for where there is none.

    Raises:
        CredentialsError: The credentials file is not safe.
    """
    if any(keywords.get(name) for name in OWN):
        return {}
    credentials, model, params = runtime.credentials, target.model, target.params
    try:
        if credentials.is_slow(target.provider, model=model, params=params):  # a program, or the keychain
            await asyncio.to_thread(credentials.get, target.provider, model=model, params=params)
        found = credentials.get(target.provider, model=model, params=params)
    except MissingKeyError:
        return {}
    is_litellms = found.source == "env" and not found.id.startswith("BLUEPRINT_")
    if found.api_key is None or is_litellms:
        return {}
    more = {name: value.reveal() if isinstance(value, Secret) else value for name, value in found.extra.items()}
    address = {"api_base": found.base_url} if found.base_url else {}
    handed = {**address, **more, "api_key": found.api_key.reveal()}
    return {name: value for name, value in handed.items() if keywords.get(name) is None}


def _litellm() -> Any:
    from blueprint_llm.adapters import litellm  # noqa: PLC0415 - loaded by now: a call of it is on its way

    return litellm
