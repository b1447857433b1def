"""What a Router wants of LiteLLM besides chat: its other functions, its `Deployment` and what a program set on it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from blueprint_llm.adapters.exceptions import call_error
from blueprint_llm.adapters.litellm import _keywords, _masked, _revealed, module

if TYPE_CHECKING:
    from collections.abc import Mapping

    from blueprint_llm.adapters.contract import Call

ROUTER_GLOBALS = (
    "num_retries",
    "fallbacks",
    "default_fallbacks",
    "context_window_fallbacks",
    "content_policy_fallbacks",
)


def passed(function: str, call: Call) -> Any:
    """What another of LiteLLM's functions (`embedding`) returns. Raises CallError."""
    litellm = module()
    try:
        return _masked(getattr(litellm, function)(**_passed(call)))
    except Exception as error:  # noqa: BLE001 - the provider boundary
        failure = call_error(error, call)
    raise failure


async def apassed(function: str, call: Call) -> Any:
    """What another of LiteLLM's functions (`aembedding`) returns. Raises CallError."""
    litellm = module()
    try:
        return _masked(await getattr(litellm, function)(**_passed(call)))
    except Exception as error:  # noqa: BLE001 - the provider boundary
        failure = call_error(error, call)
    raise failure


def _passed(call: Call) -> dict[str, Any]:
    """LiteLLM's keywords without those of a chat. Never bind the result to a name: it holds the key."""
    endless = call.timeout_s == float("inf")
    left_out = {"messages", "timeout"} if endless else {"messages"}
    return {name: value for name, value in _keywords(call).items() if name not in left_out}


def opened(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of `model_list` with its keys as LiteLLM's Router shows them."""
    shown: dict[str, Any] = _revealed(entry)
    return shown


def deployment(entry: Mapping[str, Any]) -> Any:
    """LiteLLM's `Deployment` of an entry of `model_list`."""
    return module().types.router.Deployment(**opened(entry))


def router_globals() -> dict[str, Any]:
    """What the program has set on LiteLLM's module for Routers; LiteLLM is not loaded to look."""
    found = {name: getattr(sys.modules.get("litellm"), name, None) for name in ROUTER_GLOBALS}
    return {name: value for name, value in found.items() if value not in (None, [], {})}
