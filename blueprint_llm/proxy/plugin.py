"""The plugin: it guards LiteLLM in the proxy's process, and gives the client our words for what a guard refuses.

The proxy's Router, and the proxy itself, look up LiteLLM's functions with each call, so a guard in their place is
around every attempt of every endpoint, retries and fallbacks included. Routing and keys stay the proxy's.
"""

from __future__ import annotations

import math
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from fastapi import HTTPException
from litellm.integrations.custom_logger import CustomLogger

from blueprint_llm.adapters.settings import ModuleSettings
from blueprint_llm.compat import install
from blueprint_llm.engine.guarded import PolicyGuard
from blueprint_llm.engine.runtime import Runtime
from blueprint_llm.errors import (
    BlueprintError,
    BudgetExceededError,
    CallError,
    InvalidRequestError,
    NoTargetError,
    QuotaExceededError,
    StoreError,
)
from blueprint_llm.trace import Account

if TYPE_CHECKING:
    from collections.abc import Mapping

# Of the request's metadata, what names a project and a session; the first that is there counts.
PROJECT = (
    *("user_api_key_project_alias", "user_api_key_team_alias", "user_api_key_team_id", "user_api_key_alias"),
    "project",
)
SESSION = ("session_id", "user_api_key_end_user_id", "user_api_key_user_id")
# A budget is answered as LiteLLM answers for its own, by the status that its error has.
STATUSES: tuple[tuple[type[BlueprintError], int, str], ...] = (
    (QuotaExceededError, 429, "rate_limit_error"),
    (NoTargetError, 403, "permission_denied_error"),
    (StoreError, 503, "service_unavailable_error"),
    (InvalidRequestError, 400, "invalid_request_error"),
    (CallError, 502, "upstream_error"),
    (BlueprintError, 500, "internal_error"),
)


def config_source() -> str | None:
    """Return `$BLUEPRINT_CONFIG` if set, else the running proxy's own YAML, else None: the usual places."""
    server = sys.modules.get("litellm.proxy.proxy_server")
    return os.environ.get("BLUEPRINT_CONFIG") or getattr(server, "user_config_file_path", None)


class Hooks(CustomLogger):  # type: ignore[misc] # LiteLLM is not followed: too huge
    """Budgets, quotas, validation and the cache for every call of a LiteLLM proxy."""

    def load(self, source: Any = None) -> None:
        """Guard LiteLLM in this process by a configuration; None: the proxy's. Raise ConfigError."""
        runtime = Runtime(source or config_source())
        runtime.settings = ModuleSettings()  # the proxy sets its `litellm_settings` itself
        install(PolicyGuard(runtime, account=account_of))

    async def async_post_call_failure_hook(self, original_exception: Exception, **_: Any) -> Any:
        """Return what the client hears instead of an error of ours, which LiteLLM's Router added its words to."""
        return Answer(original_exception) if isinstance(original_exception, BlueprintError) else None


def account_of(keywords: Mapping[str, Any]) -> Account:
    """Return on whose account a call of the proxy's goes: the key's project or team, the request's session or user."""
    facts = {**(keywords.get("litellm_metadata") or {}), **(keywords.get("metadata") or {})}
    session = keywords.get("litellm_session_id") or _first(facts, SESSION)
    return Account(project=_first(facts, PROJECT), session=session and str(session))


def _first(facts: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    return next((str(facts[name]) for name in names if facts.get(name)), None)


class Answer(HTTPException):  # type: ignore[misc] # FastAPI comes with the proxy only
    """An error of ours as the proxy's client hears of it: LiteLLM's status and type, our words, never a key."""

    def __init__(self, error: Any) -> None:
        if isinstance(error, BudgetExceededError):
            status, self.type = int(getattr(error, "status_code", 429)), "budget_exceeded"
        else:
            status, self.type = next((status, kind) for cls, status, kind in STATUSES if isinstance(error, cls))
        resets_at = getattr(error, "resets_at", None)
        headers = {} if resets_at is None else {"retry-after": str(max(1, math.ceil(resets_at - time.time())))}
        super().__init__(status_code=status, detail=str(error.args[0]), headers=headers)
