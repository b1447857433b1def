"""The response cache around one guarded call of LiteLLM's: what it is known by, and its turn at that key."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from blueprint_llm.cache import Entry, Facts
from blueprint_llm.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping

    from blueprint_llm.engine.runtime import Runtime
    from blueprint_llm.routing.targets import Target

# Keywords that are LiteLLM's own business or the deployment's: they change who is asked, not what is answered.
CARRIED = frozenset(
    {
        *("model", "messages", "api_key", "api_base", "base_url", "client", "shared_session", "model_info", "id"),
        *(
            "litellm_logging_obj",
            "litellm_session_id",
            "litellm_request_debug",
            "proxy_server_request",
            "secret_fields",
        ),
        *("rpm", "tpm", "max_parallel_requests", "max_budget", "budget_duration", "weight", "order", "ttl"),
        *("use_in_pass_through", "use_litellm_proxy", "use_xai_oauth", "merge_reasoning_content_in_choices"),
        *("allow_client_keepalive_override", "turn_off_message_logging", "guardrails", "extra_headers", "headers"),
        *("fallbacks", "fallback_depth", "max_fallbacks", "attempted_targets", "model_file_id_mapping"),
    }
)


def key_for(runtime: Runtime, target: Target, keywords: Mapping[str, Any], *, project: str | None) -> str | None:
    """Return what the answer to a chat is kept under, if it may be; None: the cache has nothing to do with it."""
    if not runtime.cache.enabled or keywords.get("mock_response") is not None or _is_declined(keywords):
        return None
    params = {name: value for name, value in keywords.items() if not _is_carried(name)}
    own = keywords.get("api_key")
    account = (Secret(own), keywords.get("api_base"), {}) if isinstance(own, str) else _account(runtime, target)
    messages = list(keywords.get("messages") or ())
    checked = runtime.config.streaming.validate_tools
    facts = Facts(
        model=target.model, account=account, project=project, messages=messages, params=params, options=(checked,)
    )
    return runtime.cache.key_of(facts)


def _account(runtime: Runtime, target: Target) -> tuple[Any, ...]:
    return runtime.credentials.account(target.provider, model=target.model, params=target.params)


def _is_carried(name: str) -> bool:
    return name in CARRIED or name.startswith(("_", "litellm_")) or "cost" in name


def _is_declined(keywords: Mapping[str, Any]) -> bool:
    """Return True for a call that LiteLLM's keywords keep out of the cache. Its Router says `caching=False` always."""
    return keywords.get("caching") is False and not keywords.get("model_info")


class KeptAnswer:
    """One call's turn at its key.

    Args:
        runtime: Whose cache it is.
        key: None: the cache has nothing to do with this call.
        controls: LiteLLM's `cache={...}` of the call: `no-cache`, `no-store`, `ttl`, `s-maxage`.
        owner: Names the caller among all processes.
    """

    def __init__(self, runtime: Runtime, key: str | None, controls: Any, *, owner: str) -> None:
        self.runtime, self.key, self._owner = runtime, key, owner
        self._controls: Mapping[str, Any] = controls if isinstance(controls, dict) else {}
        self._flight = AsyncExitStack()

    async def find(self) -> Entry | None:
        """Return the kept answer, waited for where an identical call is on its way; None: fetch it, then `leave`."""
        if self.key is None or self._controls.get("no-cache"):
            return None
        cache, max_age_s = self.runtime.cache, self._controls.get("s-maxage", self._controls.get("s-max-age"))
        if entry := await cache.lookup(self.key, max_age_s=max_age_s):
            return entry
        until = self.runtime.now() + self.runtime.config.deadline.total_s / 2
        flight = cache.flight(self.key, owner=self._owner, until=until, max_age_s=max_age_s)
        return (await self._flight.enter_async_context(flight)).entry

    async def leave(self, entry: Entry | None) -> None:
        """Keep what was fetched, if it may be kept, and let those who wait go on."""
        if self.key is not None and entry is not None and not self._controls.get("no-store"):
            await self.runtime.cache.keep(self.key, entry, ttl_s=self._controls.get("ttl"))
        await self._flight.aclose()
