"""From a request and a target to the one call that is sent: shaped to the window, with this target's key."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from blueprint_llm import models
from blueprint_llm.adapters import Call
from blueprint_llm.cache import with_breakpoints
from blueprint_llm.context import fits, message_tokens, policy_for, shape
from blueprint_llm.credentials import Credential
from blueprint_llm.errors import InvalidRequestError, MissingKeyError
from blueprint_llm.policy import UNCHANGED
from blueprint_llm.redaction import redact
from blueprint_llm.routing.rules import CONNECTION
from blueprint_llm.streaming import StreamingHandler, check_tools

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blueprint_llm.engine.parts import Parts
    from blueprint_llm.engine.pipeline import Walk
    from blueprint_llm.policy import Change
    from blueprint_llm.routing.targets import Target
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
# Of the call's own keywords: the walk's, and the target's (see `routing.CONNECTION`).
NOT_GIVEN = frozenset({"stream", "num_retries", *CONNECTION})
FIRST_WORD_S = 0.5
# With nothing but these there is nothing to resolve: a listed credential may bring more.
SETTLED = NOT_SENT - {"litellm_credential_name"}


def call_for(walk: Walk, target: Target, change: Change = UNCHANGED, *, output_tokens: int | None) -> Call:
    """The call to `target`, with what the recovery ladder changes. Raises ContextDoesNotFitError, CredentialsError.

    The transport's own timeout is the same for every call: LiteLLM keeps one HTTP client for each value of it. What
    holds is the deadline of the steps `Open` and `Read`.
    """
    parts, request = walk.parts, walk.request
    limits = parts.config.deadline
    credential = _credential(parts, request, target)
    tools = [tool.to_dict() for tool in request.tools or ()]
    messages = [*_shaped(request, target, tools, walk.trace, output_tokens), *_added(change)]
    if parts.config.cache.provider_hints == "auto":
        messages, tools = with_breakpoints(target.model, messages, tools)
    return Call(
        provider=target.provider,
        model=target.model,
        messages=messages,
        params=params_for(parts, request, target, tools, output_tokens) | _identity(request, target),
        credential=credential,
        timeout_s=math.ceil(max(limits.total_s, limits.first_token_s, limits.idle_s, request.deadline_s or 0)),
        as_written=request.as_written,
    )


def _identity(request: ChatRequest, target: Target) -> dict[str, Any]:
    """What LiteLLM's Router tells of a deployment: to the answer's hidden parameters and the program's callbacks."""
    if not (request.as_written and target.deployment):
        return {}
    facts = _facts(target)
    return {"model_info": facts["model_info"], "metadata": {**(request.params.get("metadata") or {}), **facts}}


def _facts(target: Target) -> dict[str, Any]:
    info = {**target.info, "id": target.deployment}
    return {"model_group": target.group, "deployment": target.model, "model_info": info}


def _credential(parts: Parts, request: ChatRequest, target: Target) -> Credential | None:
    """The target's key. Raises CredentialsError.

    LiteLLM has more ways to a key (`litellm.api_key`, a cloud's login) and words of its own for where there is none:
    a request of LiteLLM's form goes without one that LiteLLM would look up itself.
    """
    try:
        found = parts.credentials.get(target.provider, model=target.model, params=target.params)
    except MissingKeyError:
        if not request.as_written:
            raise
        return Credential(base_url=target.params.get("api_base"), provider=target.provider)
    is_its_own = request.as_written and found.source == "env" and not target.known
    return replace(found, api_key=None) if is_its_own and not found.id.startswith("BLUEPRINT_") else found


def own_timeout_s(request: ChatRequest) -> float | None:
    """The `timeout` of the call itself in seconds: a number, a text, or an `httpx.Timeout`, whose read counts.

    The transport is given the same; where its exception is what the caller expects, it comes first.
    """
    own = request.params.get("timeout")
    if request.params.get("stream"):
        own = request.params.get("stream_timeout") or own
    try:
        seconds = float(getattr(own, "read", own))  # type: ignore[arg-type] # the caller's, of any kind
    except (TypeError, ValueError):
        return None
    return seconds + FIRST_WORD_S * request.as_written if seconds > 0 else None


def _added(change: Change) -> list[dict[str, Any]]:
    """Clarifications, and the beginning that the model is to continue (providers refuse trailing white space)."""
    notes = [{"role": "user", "content": note} for note in change.notes]
    begun = [{"role": "assistant", "content": change.prefix.rstrip(), "prefix": True}] if change.prefix else []
    return [*notes, *begun]


def _shaped(
    request: ChatRequest, target: Target, tools: list[dict[str, Any]], trace: Trace, output_tokens: int | None
) -> list[dict[str, Any]]:
    """The messages, shortened where the target's window wants it, and of the project what it may see."""
    messages = target.changes.get("messages") or [message.to_dict() for message in request.messages]
    if request.as_written:
        return list(messages)
    window = input_window(target, request.max_tokens or output_tokens)
    if not request.context and (window is None or fits(messages, window, tools)):
        return list(messages)
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
    given = {name: value for name, value in request.params.items() if name not in NOT_GIVEN}
    changed = {name: value for name, value in target.changes.items() if name != "messages"}
    return {**own, **asked, **offered, **given, **cap, **changed}


def passed_call(parts: Parts, request: ChatRequest, target: Target) -> Call:
    """A call of another of LiteLLM's functions to `target`: its key, its settings and the caller's keywords.

    LiteLLM puts the deployment's id into the id of a response, so that a later call finds back to it. There, `metadata`
    is the provider's own.
    """
    given = request.params
    facts = {**(given.get("litellm_metadata") or {}), **_facts(target)}
    streamed = {"stream": given["stream"]} if given.get("stream") else {}
    return Call(
        provider=target.provider,
        model=target.model,
        messages=[],
        params=params_for(parts, request, target, [], None) | streamed | {"litellm_metadata": facts},
        credential=_credential(parts, request, target),
        timeout_s=own_timeout_s(request) or parts.timeout_s(target, streamed=False),
        as_written=True,
    )


def handler_for(parts: Parts, request: ChatRequest, call: Call) -> StreamingHandler:
    """A validator for the answer to `call`."""
    checked = parts.config.streaming.validate_tools and request.check_answer
    return StreamingHandler(
        tools=_offered(request) if checked else (),
        response_format=request.params.get("response_format") if request.check_answer else None,
        max_tokens=call.params.get("max_tokens") or call.params.get("max_completion_tokens"),
    )


def _offered(request: ChatRequest) -> Sequence[Any]:
    """The tools that an answer is held against; of LiteLLM's form, only where all are functions that we can read."""
    if not request.as_written:
        return request.tools or ()
    tools = request.params.get("tools") or ()
    try:
        check_tools(tools)
    except (InvalidRequestError, TypeError, AttributeError):
        return ()
    return tools


def input_tokens(request: ChatRequest) -> int:
    """The estimated size of a request."""
    return sum(message_tokens(message.to_dict()) for message in request.messages)
