"""A call of any of LiteLLM's endpoints: whom it asks, with which key, what it sends, and what caps its answer."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from blueprint_llm.adapters import litellm as _litellm
from blueprint_llm.config.environment import LISTED, closed, with_listed
from blueprint_llm.config.problems import mapping
from blueprint_llm.errors import CredentialsError, MissingKeyError
from blueprint_llm.secret import revealed
from blueprint_llm.streaming.chunks import sequence

if TYPE_CHECKING:
    from collections.abc import Mapping

    from blueprint_llm.engine.runtime import Runtime
    from blueprint_llm.routing.targets import Target

CHATS = frozenset({"completion", "acompletion"})
TEXTS = frozenset({"text_completion", "atext_completion"})
_CAPS: dict[str, tuple[str, ...]] = {
    "completion": ("max_tokens", "max_completion_tokens"),
    "text_completion": ("max_tokens",),
    "responses": ("max_output_tokens",),
    **dict.fromkeys(("generate_content", "compact_responses", "decisions", "extraction", "systemone"), ()),
}
# The keywords that cap what an endpoint writes, the usual one first; without any it writes as much as the model can.
# What is not here writes no text.
CAPS = {
    **_CAPS,
    **{f"a{name}": names for name, names in _CAPS.items()},
    **dict.fromkeys(("anthropic_messages", "anthropic_messages_handler"), ("max_tokens",)),
}
# What OpenTelemetry's conventions call what an endpoint does; an endpoint without a name there keeps its own.
SPANS = {
    **dict.fromkeys((*CHATS, "responses", "aresponses"), "chat"),
    **dict.fromkeys(("anthropic_messages", "anthropic_messages_handler"), "chat"),
    **dict.fromkeys(("embedding", "aembedding"), "embeddings"),
    **dict.fromkeys(("text_completion", "atext_completion"), "text_completion"),
}
# Where the endpoints have what they send.
PROMPTS = (
    *("input", "prompt", "query", "documents", "system", "instructions", "contents", "state", "questions", "fields"),
)
# With one of these the call brings its own way in.
OWN = ("api_key", "client", "litellm_credential_name", "azure_ad_token", "azure_ad_token_provider", "mock_response")


# The models that LiteLLM, or the provider, takes where a call names none.
_UNNAMED = {
    **dict.fromkeys(("moderation", "amoderation"), "omni-moderation-latest"),
    **dict.fromkeys((f"{way}image_{what}" for way in ("", "a") for what in ("generation", "variation")), "dall-e-2"),
}


def target_of(
    runtime: Runtime,
    keywords: Mapping[str, Any],
    model: str | None = None,
    provider: str | None = None,
    operation: str = "",
) -> Target:
    """Return whom a call of LiteLLM's asks: a provider of the configuration, a Router's deployment, or just a model.

    Args:
        runtime: Whose configuration names providers.
        keywords: The call's.
        model: Another model than the call's own, for one of its `fallbacks`.
        provider: The name under which a call above asks it.
        operation: LiteLLM's name of the function.
    """
    engine, vendor = keywords.get("search_provider"), keywords.get("custom_llm_provider")
    named = model or str(keywords.get("model") or (f"{engine}/search" if engine else _UNNAMED.get(operation, "")))
    if vendor and not model and not named.startswith(f"{vendor}/"):
        named = f"{vendor}/{named}"
    facts, more = mapping(keywords.get("metadata")), mapping(keywords.get("litellm_metadata"))
    group = facts.get("model_group") or more.get("model_group")
    info, address = mapping(keywords.get("model_info")), None if model else keywords.get("api_base")

    def found() -> Target:
        known = runtime.table.of_model(named)
        if not (group or info or address or provider):
            return known
        return replace(
            known,
            provider=provider or (known.provider if known.known or not group else group),
            group=group,
            deployment=str(info.get("id") or ""),
            info=info,
            params={**known.params, "api_base": address} if address else known.params,
        )

    return runtime.table.asked((named, group, address, provider, str(info.get("id"))), info, found)


def fallbacks_of(runtime: Runtime, keywords: Mapping[str, Any]) -> list[Target]:
    """Return whom else a call may ask by its own `fallbacks`: names of models, or keywords with one."""
    names = [each.get("model") if isinstance(each, dict) else each for each in sequence(keywords.get("fallbacks"))]
    return [target_of(runtime, keywords, name) for name in names if isinstance(name, str)]


def prompt_of(keywords: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what a call of any endpoint sends, as messages: their size bounds what it costs."""
    messages = [_message(message) for message in sequence(keywords.get("messages"))]
    texts = [keywords[name] for name in PROMPTS if keywords.get(name)]
    return [*messages, *({"role": "user", "content": str(text)} for text in texts)]


def _message(message: Any) -> dict[str, Any]:
    if isinstance(message, dict):
        return message
    try:
        return dict(message)
    except (TypeError, ValueError):  # for LiteLLM to refuse
        return {"role": "user", "content": str(message)}


def cap_in(operation: str, keywords: Mapping[str, Any]) -> int | None:
    """Return how many tokens a call asks for at most; None: it does not say, or nothing that is a number of them."""
    for name in CAPS.get(operation, ()):
        try:
            cap = math.ceil(float(keywords[name]))
        except (KeyError, TypeError, ValueError, OverflowError):
            continue
        if cap > 0:
            return cap
    return None


def completed(runtime: Runtime, keywords: dict[str, Any]) -> dict[str, Any]:
    """Return the keywords with what the configuration's `credential_list` holds under the name that they borrow.

    LiteLLM's own list is one for the whole process; a name that is not the configuration's is looked up there.

    Raises:
        CredentialsError: An address is taken from the environment and is not set; LiteLLM would choose another.
    """
    listed, name = runtime.config.credential_list, keywords.get(LISTED)
    is_ours = name and any(entry.get("credential_name") == name for entry in listed)
    borrowed = with_listed(listed, {LISTED: name}) if is_ours else {}
    if problem := closed({**borrowed, **keywords} if borrowed else keywords):
        asked = mapping(keywords.get("metadata")).get("model_group") or keywords.get("model")
        raise CredentialsError(f"{asked!r} cannot be called: {problem}")
    if not is_ours:
        return keywords
    own = {key: value for key, value in keywords.items() if key != LISTED and value is not None}
    return {**_litellm.revealed(runtime.credentials.resolve_params(borrowed)), **own}


async def key_of(runtime: Runtime, target: Target, keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Return the target's key and address as keywords; empty where the call, or LiteLLM, has its own.

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
    address = {"api_base": found.base_url} if found.base_url else {}
    handed = {**address, **found.extra, "api_key": found.api_key}
    return {name: revealed(value) for name, value in handed.items() if keywords.get(name) is None}
