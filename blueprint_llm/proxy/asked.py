"""What LiteLLM is about to send, in our terms: the request, whose it is, and the deployment that was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from litellm.types.utils import all_litellm_params

from blueprint_llm.engine.parsing import build_request, validated
from blueprint_llm.routing.targets import Target
from blueprint_llm.types import ChatMessage

if TYPE_CHECKING:
    from blueprint_llm.engine.parts import Parts
    from blueprint_llm.types import ChatRequest

# LiteLLM's own keywords, and what the chosen deployment adds to a call: not the request's.
OWNED = frozenset(all_litellm_params) | {
    *("model", "messages", "tools", "stream", "stream_options", "client", "litellm_logging_obj"),
}
NO_LIMIT = 10**9
# Of a deployment that is in no file of ours: where it is and, with every name of a cost, its price.
TOLD = ("api_base", "tiered_pricing")
PROJECT = (
    *("user_api_key_project_alias", "user_api_key_team_alias", "user_api_key_team_id", "user_api_key_alias"),
    "project",
)
SESSION = ("session_id", "user_api_key_end_user_id", "user_api_key_user_id")


class Message(ChatMessage):
    """A message of any role: `developer` and `function` are LiteLLM's to judge."""

    role: str  # type: ignore[assignment] # wider on purpose


def group_of(kwargs: Mapping[str, Any]) -> str | None:
    """The `model_name` that LiteLLM's Router is serving; None: the call is not its Router's."""
    group: str | None = (kwargs.get("metadata") or {}).get("model_group")
    return group


def request_of(parts: Parts, kwargs: Mapping[str, Any], group: str) -> ChatRequest:
    """The request in LiteLLM's keywords. Raises InvalidRequestError."""
    facts = kwargs["metadata"]
    tools = kwargs.get("tools") or []
    functions = [tool for tool in tools if isinstance(tool, dict) and "function" in tool]
    params = {name: value for name, value in kwargs.items() if name not in OWNED and value is not None}
    request = build_request(
        None,
        {
            **params,
            "messages": [_message(message) for message in kwargs["messages"]],
            "model": group,
            "tools": functions or None,
            "params": {"tools": tools} if len(functions) < len(tools) else {},
            "project": _first(facts, PROJECT),
            "session": kwargs.get("litellm_session_id") or _first(facts, SESSION),
        },
    )
    return parts.complete_request(request)


def _message(message: Any) -> Message:
    found: Message = validated(Message, message if isinstance(message, Mapping) else {})
    return found


def _first(facts: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    return next((str(facts[name]) for name in names if facts.get(name)), None)


def target_of(parts: Parts, kwargs: Mapping[str, Any], group: str) -> Target:
    """The deployment that LiteLLM's Router chose: as our configuration names it, else as the Router does."""
    model, api_base = kwargs["model"], kwargs.get("api_base")
    names = [name for name, provider in parts.config.providers.items() if provider.model == group]
    same = [target for target in parts.table.of_names([*names, group]) if target.model == model]
    at_home = [target for target in same if target.params.get("api_base") == api_base]
    chosen = next(iter(at_home or same), None) or _unnamed(kwargs, next(iter(names), group), group)
    return replace(chosen, max_context_tokens=NO_LIMIT)  # what does not fit is LiteLLM's Router's to send elsewhere


def _unnamed(kwargs: Mapping[str, Any], provider: str, group: str) -> Target:
    """A deployment that only LiteLLM knows, from its database or another file; its id keeps cached answers apart."""
    info = kwargs.get("model_info") or {}
    told = {name: value for name, value in kwargs.items() if value is not None and (name in TOLD or "cost" in name)}
    params = {**told, "deployment": info.get("id")}
    return Target(provider=provider, model=kwargs["model"], group=group, params=params, info=info, known=False)
