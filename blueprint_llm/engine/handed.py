"""What a guarded call is handed of ours: a key, where LiteLLM would not find one by itself."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from blueprint_llm.errors import MissingKeyError
from blueprint_llm.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping

    from blueprint_llm.engine.runtime import Runtime
    from blueprint_llm.routing.targets import Target

# With one of these the call brings its own way in.
OWN = ("api_key", "client", "litellm_credential_name", "azure_ad_token", "azure_ad_token_provider", "mock_response")


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
