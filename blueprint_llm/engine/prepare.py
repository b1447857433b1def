"""From a request and a target to the one call that is sent: shaped to the window, with this target's key."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

from blueprint_llm import models
from blueprint_llm.adapters import Call
from blueprint_llm.adapters.tokens import count_tokens
from blueprint_llm.cache import with_breakpoints
from blueprint_llm.context.policy import policy_for
from blueprint_llm.context.shaping import shape
from blueprint_llm.context.tokens import fits, message_tokens
from blueprint_llm.policy.retry import UNCHANGED
from blueprint_llm.redaction import redact
from blueprint_llm.routing.rules import CONNECTION
from blueprint_llm.streaming import StreamingHandler

if TYPE_CHECKING:
    from blueprint_llm.engine.runtime import RequestState, Runtime
    from blueprint_llm.policy.retry import Change
    from blueprint_llm.routing.targets import Target
    from blueprint_llm.types import ChatRequest

WIRE = ("temperature", "top_p", "stop", "max_tokens")
# Settings of a target that are ours or LiteLLM's Router's, not a completion's.
NOT_SENT = frozenset(
    {
        *("api_key", "api_base", "base_url", "litellm_credential_name", "model", "timeout", "stream_timeout", "tags"),
        *("rpm", "tpm", "weight", "order", "max_budget", "budget_duration", "num_retries", "max_retries"),
        "max_parallel_requests",
    }
)
# Of the call's own keywords: the request run's, and the target's (see `routing.rules.CONNECTION`).
NOT_GIVEN = frozenset({"stream", "num_retries", "timeout", "stream_timeout", *CONNECTION})
# With nothing but these there is nothing to resolve: a listed credential may bring more.
SETTLED = NOT_SENT - {"litellm_credential_name"}


def call_for(
    state: RequestState, target: Target, *, change: Change = UNCHANGED, output_tokens: int | None = None
) -> Call:
    """Return the call to `target`, with what the recovery ladder changes.

    The transport's own timeout is the same for every call: LiteLLM keeps one HTTP client for each value of it. What
    holds is the deadline under which the engine awaits.

    Raises:
        ContextDoesNotFitError, CredentialsError: The target cannot serve the request.
    """
    runtime, request, limits = state.runtime, state.request, state.runtime.config.deadline
    credential = None
    # Of a group each deployment has its own, for the guard inside the Router, unless the target names one for all.
    if target.group is None or not CONNECTION.keys().isdisjoint(target.params):
        credential = runtime.credentials.get(target.provider, model=target.model, params=target.params)
    tools = [tool.to_dict() for tool in request.tools or ()]
    window = input_window(target, request.max_tokens or output_tokens)
    messages, counted_tokens = _shaped(state, target, tools, window)
    messages += [{"role": "user", "content": note} for note in change.notes]
    if change.prefix:  # the beginning that the model is to continue; providers refuse trailing white space
        messages.append({"role": "assistant", "content": change.prefix.rstrip(), "prefix": True})
    if runtime.config.cache.provider_hints == "auto":
        messages, tools = with_breakpoints(target.model, messages, tools)
    return Call(
        provider=target.provider,
        model=target.model,
        messages=messages,
        params=params_for(runtime, request, target, tools, output_tokens),
        credential=credential,
        timeout_s=math.ceil(max(limits.total_s, limits.first_token_s, limits.idle_s, request.deadline_s or 0)),
        counted_tokens=counted_tokens,
    )


def _shaped(
    state: RequestState, target: Target, tools: list[dict[str, Any]], window: int | None
) -> tuple[list[dict[str, Any]], int | None]:
    """Return the messages, shortened where the window wants it, and their tokens where they had to be counted.

    Of the project only what the target may see goes with them.
    """
    request = state.request
    messages = target.changes.get("messages") or [message.to_dict() for message in request.messages]
    if not request.context and (window is None or fits(messages, window, tools)):
        return list(messages), None
    policy = policy_for(
        target.provider,
        target.model,
        api_base=target.address,
        share_codebase=target.share_codebase,
        known=target.known,
        redact=redact,
    )
    count, margin = partial(count_tokens, target.model), state.runtime.margins.of(target.model)
    shaped = shape(messages, window or 10**9, tools, policy, parts=request.context, count=count, margin=margin)
    state.trace.context.extend(shaped.reasons)
    return [dict(message) for message in shaped.messages], shaped.tokens if shaped.counted else None


def own_timeout_s(request: ChatRequest) -> float | None:
    """Return the call's own `timeout` in seconds."""
    return seconds_of(request.params.get("timeout"))


def seconds_of(own: Any) -> float | None:
    """Return a timeout as LiteLLM takes it: a number, a text, or an `httpx.Timeout`, whose read counts."""
    try:
        seconds = float(getattr(own, "read", own))
    except (TypeError, ValueError):
        return None
    return seconds if seconds > 0 else None


def timeout_s(runtime: Runtime, target: Target, *, streamed: bool) -> float:
    """Return the timeout of one attempt: the target's, else LiteLLM's setting, else as long as the deadline lets."""
    config = runtime.config
    if runtime.is_routed(target):  # LiteLLM's timeouts are for its Router, once for every deployment
        return target.timeout_s or math.inf
    stream_s = config.stream_timeout if streamed else None
    return stream_s or target.timeout_s or config.timeout or math.inf


def first_token_s(runtime: Runtime, target: Target) -> float:
    """Return how long a stream's first token may take; a model that reasons has all the time unless one is set."""
    limits = runtime.config.deadline
    reasons = "first_token_s" not in limits.model_fields_set and models.reasons(target.model)
    return math.inf if reasons else limits.first_token_s


def input_window(target: Target, output_tokens: int | None) -> int | None:
    """Return the most input tokens of a target: as configured, else the model's window minus the output cap.

    None: unknown.
    """
    if target.max_context_tokens is not None:
        return target.max_context_tokens
    facts = models.info(target.model)
    if facts is None or facts.max_input_tokens is None:
        return None
    shared = facts.max_output_tokens is not None and facts.max_output_tokens >= facts.max_input_tokens
    return max(1, facts.max_input_tokens - (output_tokens or 0 if shared else 0))


def params_for(
    runtime: Runtime, request: ChatRequest, target: Target, tools: list[dict[str, Any]], output_tokens: int | None
) -> dict[str, Any]:
    """Return LiteLLM's keywords: the target's, then the request's."""
    is_routed = runtime.is_routed(target)
    own = runtime.credentials.resolve_params(target.params) if is_routed or not target.params.keys() <= SETTLED else {}
    given = {name: value for name in WIRE if (value := getattr(request, name)) is not None}
    if tools:
        given["tools"] = tools
    not_given = {"stream", *CONNECTION} if is_routed else NOT_GIVEN
    given |= {name: value for name, value in request.params.items() if name not in not_given}
    if output_tokens is not None:
        given["max_completion_tokens" if "max_completion_tokens" in request.params else "max_tokens"] = output_tokens
    given |= {name: value for name, value in target.changes.items() if name != "messages"}
    if not is_routed:
        return {**{name: value for name, value in own.items() if name not in NOT_SENT}, **given}
    told: dict[str, Any] = {"metadata": dict(request.metadata)} if request.metadata else {}  # it goes by its tags
    if runtime.config.retry:
        told["num_retries"] = runtime.config.retry.max_attempts - 1
    alone = {"num_retries": 0, "max_retries": 0} if runtime.is_alone(target) else {}
    # The chain, and LiteLLM's fallbacks in it, are walked above the Router, under one deadline.
    return {**told, **own, **given, **alone, "disable_fallbacks": True}


def handler_for(runtime: Runtime, request: ChatRequest, call: Call) -> StreamingHandler:
    """Return the validator of an answer; the schema of tools and of structured text bind where the user wants it."""
    validates = runtime.config.streaming.validate_tools and request.check_answer
    return StreamingHandler(
        tools=tuple(request.tools or ()) if validates else (),
        response_format=request.params.get("response_format") if request.check_answer else None,
        max_tokens=call.params.get("max_tokens") or call.params.get("max_completion_tokens"),
    )


def input_tokens(request: ChatRequest) -> int:
    """Return the estimated size of a request."""
    return sum(message_tokens(message.to_dict()) for message in request.messages)
