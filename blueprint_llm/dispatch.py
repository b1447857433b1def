"""From a request and a target to the one call that is sent: shaped to the window, with this target's key."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from blueprint_llm import models
from blueprint_llm.adapters import Call
from blueprint_llm.cache import with_breakpoints
from blueprint_llm.context import fits, message_tokens, policy_for, shape
from blueprint_llm.policy import UNCHANGED
from blueprint_llm.redaction import redact
from blueprint_llm.streaming import StreamingHandler

if TYPE_CHECKING:
    from blueprint_llm.parts import Parts
    from blueprint_llm.pipeline import Walk
    from blueprint_llm.policy import Change
    from blueprint_llm.routing import Target
    from blueprint_llm.trace import Trace
    from blueprint_llm.types import ChatRequest

WIRE = ("temperature", "top_p", "stop", "max_tokens")
# Settings of a deployment that are ours or LiteLLM's Router's, not a completion's.
NOT_SENT = frozenset(
    {
        *("api_key", "api_base", "base_url", "litellm_credential_name", "model", "timeout", "stream_timeout"),
        *(
            "rpm",
            "tpm",
            "weight",
            "order",
            "max_budget",
            "budget_duration",
            "tags",
            "max_retries",
            "max_parallel_requests",
        ),
    }
)
# With nothing but these there is nothing to resolve: a listed credential may bring more.
SETTLED = NOT_SENT - {"litellm_credential_name"}


def call_for(walk: Walk, target: Target, change: Change = UNCHANGED, *, output_tokens: int | None) -> Call:
    """The call to `target`, with what the recovery ladder changes. Raises ContextDoesNotFitError, CredentialsError.

    The transport's own timeout is the same for every call: LiteLLM keeps one HTTP client for each value of it. What
    holds is the deadline of the steps `Open` and `Read`.
    """
    parts, request = walk.parts, walk.request
    limits = parts.config.deadline
    credential = parts.credentials.get(target.provider, model=target.model, params=target.params)
    tools = [tool.to_dict() for tool in request.tools or ()]
    messages = [*_shaped(request, target, tools, walk.trace, output_tokens), *_added(change)]
    if parts.config.cache.provider_hints == "auto":
        messages, tools = with_breakpoints(target.model, messages, tools)
    return Call(
        provider=target.provider,
        model=target.model,
        messages=messages,
        params=params_for(parts, request, target, tools, output_tokens),
        credential=credential,
        timeout_s=math.ceil(max(limits.total_s, limits.first_token_s, limits.idle_s, request.deadline_s or 0)),
    )


def _added(change: Change) -> list[dict[str, Any]]:
    """Clarifications, and the beginning that the model is to continue (providers refuse trailing white space)."""
    notes = [{"role": "user", "content": note} for note in change.notes]
    begun = [{"role": "assistant", "content": change.prefix.rstrip(), "prefix": True}] if change.prefix else []
    return [*notes, *begun]


def _shaped(
    request: ChatRequest, target: Target, tools: list[dict[str, Any]], trace: Trace, output_tokens: int | None
) -> list[dict[str, Any]]:
    """The messages, shortened where the target's window wants it, and of the project what it may see."""
    messages = [message.to_dict() for message in request.messages]
    window = input_window(target, request.max_tokens or output_tokens)
    if not request.context and (window is None or fits(messages, window, tools)):
        return messages
    policy = policy_for(
        target.provider,
        target.model,
        api_base=target.params.get("api_base"),
        share_codebase=target.share_codebase,
        known=target.known,
        redact=redact,
    )
    shaped = shape(messages, window or 10**9, tools, policy, parts=request.context)
    trace.context.extend(shaped.reasons)
    return [dict(message) for message in shaped.messages]


def input_window(target: Target, output_tokens: int | None) -> int | None:
    """Most input tokens of a target: as configured, else the model's window minus the output cap; None: unknown."""
    if target.max_context_tokens is not None:
        return target.max_context_tokens
    facts = models.info(target.model)
    if facts is None or facts.max_input_tokens is None:
        return None
    shared = facts.max_output_tokens is not None and facts.max_output_tokens >= facts.max_input_tokens
    return max(1, facts.max_input_tokens - (output_tokens or 0 if shared else 0))


def params_for(
    parts: Parts, request: ChatRequest, target: Target, tools: list[dict[str, Any]], output_tokens: int | None
) -> dict[str, Any]:
    """LiteLLM's keywords: the deployment's, then the request's."""
    asked = {name: getattr(request, name) for name in WIRE if getattr(request, name) is not None}
    caps = "max_completion_tokens" if "max_completion_tokens" in request.params else "max_tokens"
    cap = {caps: output_tokens} if output_tokens is not None else {}
    offered = {"tools": tools} if tools else {}
    sent = not target.params.keys() <= SETTLED
    resolved = parts.credentials.resolve_params(target.params) if sent else {}
    own = {name: value for name, value in resolved.items() if name not in NOT_SENT}
    given = {name: value for name, value in request.params.items() if name != "stream"}
    return {**own, **asked, **offered, **given, **cap}


def handler_for(parts: Parts, request: ChatRequest, call: Call) -> StreamingHandler:
    """A validator for the answer to `call`."""
    checked = parts.config.streaming.validate_tools and request.check_answer
    return StreamingHandler(
        tools=(request.tools or ()) if checked else (),
        response_format=request.params.get("response_format") if request.check_answer else None,
        max_tokens=call.params.get("max_tokens") or call.params.get("max_completion_tokens"),
    )


def input_tokens(request: ChatRequest) -> int:
    """The estimated size of a request."""
    return sum(message_tokens(message.to_dict()) for message in request.messages)
