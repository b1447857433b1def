"""Calls and tool runs as OpenTelemetry's spans and metrics, named by its conventions for generative AI.

Nothing is done until the program itself has loaded `opentelemetry`: nobody can listen before. A call's spans are made
at its end, out of its trace, so an open stream holds nothing. Texts stay out unless
`OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT` asks for them.
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from blueprint_llm.redaction import redact
from blueprint_llm.routing.targets import litellm_provider

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from blueprint_llm.trace import AttemptTrace, Trace
    from blueprint_llm.types import ChatRequest, ChatResponse, Tool, ToolCall, ToolResult

CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
# Where the convention's name of a provider is not LiteLLM's.
PROVIDERS = {
    "azure": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "bedrock": "aws.bedrock",
    "bedrock_converse": "aws.bedrock",
    "cohere_chat": "cohere",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "vertex_ai": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}
_NANO = 10**9
_STANDS_IN = ("Proxy", "NoOp")  # what OpenTelemetry gives where no provider is set
_NUMBERS = ("temperature", "top_p", "top_k", "seed", "frequency_penalty", "presence_penalty")


def listened() -> bool:
    """Return True if anybody listens: the program has set a provider of OpenTelemetry's, for traces or for metrics.

    That its interface is loaded says nothing: LiteLLM loads it where it is installed.
    """
    traces, metrics = sys.modules.get("opentelemetry.trace"), sys.modules.get("opentelemetry.metrics")
    providers = (traces and traces.get_tracer_provider(), metrics and metrics.get_meter_provider())
    return any(provider and not any(map(type(provider).__name__.count, _STANDS_IN)) for provider in providers)


@cache
def _tracer() -> Any:
    from opentelemetry import trace  # noqa: PLC0415 - an extra, and nobody listens before it is loaded

    return trace.get_tracer("blueprint_llm")


@cache
def _histogram(name: str, unit: str, description: str, least: float) -> Any:
    """One with the buckets that the convention advises: fourteen, from `least` on."""
    from opentelemetry import metrics  # noqa: PLC0415 - see _tracer

    base = 4 if least == 1 else 2
    return metrics.get_meter("blueprint_llm").create_histogram(
        name, unit, description, explicit_bucket_boundaries_advisory=[least * base**n for n in range(14)]
    )


def record_call(
    request: ChatRequest,
    told: Trace,
    *,
    duration_s: float,
    response: ChatResponse | None,
    error: str | None,
    operation: str = "chat",
) -> None:
    """Record a span for a call that has just ended, one below it for each attempt, and the metrics."""
    end = time.time_ns()
    begin = end - int(duration_s * _NANO)
    asked = told.attempts[0].model if told.attempts else request.model or (response.model if response else "")
    provider = litellm_provider(response.model if response else asked)
    who = {"gen_ai.operation.name": operation, "gen_ai.provider.name": PROVIDERS.get(provider, provider)}
    who |= {"gen_ai.request.model": asked} if asked else {}
    span = _start(f"{operation} {asked}".strip(), begin, kind="CLIENT", attributes=who)
    if span.is_recording():
        span.set_attributes(_present(_facts(request, told, response)))
        span.set_attributes(_texts(request, response))
        _fail(span, error)
        for row in told.attempts:
            _add_attempt(span, row, begin + int(row.at_s * _NANO))
    span.end(end)
    took = _histogram("gen_ai.client.operation.duration", "s", "GenAI operation duration.", 0.01)
    took.record(duration_s, _present({**who, "error.type": error}))
    if response is not None and response.usage is not None and not told.cache["hit"]:
        used = _histogram("gen_ai.client.token.usage", "{token}", "Number of input and output tokens used.", 1)
        used.record(response.usage.prompt_tokens, {**who, "gen_ai.token.type": "input"})
        used.record(response.usage.completion_tokens, {**who, "gen_ai.token.type": "output"})


def _start(name: str, at: int, *, kind: str = "INTERNAL", parent: Any = None, **more: Any) -> Any:
    """Return a span that began at `at`; what a sampler may decide on is there from the start."""
    from opentelemetry import trace  # noqa: PLC0415 - see _tracer

    context = None if parent is None else trace.set_span_in_context(parent)
    return _tracer().start_span(name, context=context, kind=trace.SpanKind[kind], start_time=at, **more)


def _add_attempt(parent: Any, row: AttemptTrace, at: int) -> None:
    span = _start(f"attempt {row.provider}", at, parent=parent)
    names = ("model", "n", "status", "waited_s", "ttft_s")
    span.set_attributes(_present({f"blueprint.{name}": getattr(row, name) for name in names}))
    _fail(span, row.category)
    span.end(at + int((row.duration_s or 0) * _NANO))


def _facts(request: ChatRequest, told: Trace, response: ChatResponse | None) -> dict[str, Any]:
    """Return what was asked, what was answered, and what we did about it."""
    own = {"temperature": request.temperature, "top_p": request.top_p, "max_tokens": request.max_tokens}
    given = {**request.params, **_present(own)}  # the drop-in functions keep everything in `params`
    stop, choices = request.stop or given.get("stop"), given.get("n")
    facts = {
        "gen_ai.conversation.id": request.session,
        "gen_ai.request.stop_sequences": [stop] if isinstance(stop, str) else stop,
        "gen_ai.request.choice.count": None if choices == 1 else choices,
        **{f"gen_ai.request.{name}": given.get(name) for name in _NUMBERS},
        "gen_ai.request.max_tokens": given.get("max_tokens") or given.get("max_completion_tokens"),
        "blueprint.trace_id": told.id,
        "blueprint.rule": told.route.get("rule"),
        "blueprint.cache_hit": told.cache["hit"],
        "blueprint.attempts": len(told.attempts),
    }
    if response is None:
        return facts
    usage = response.usage
    return facts | {
        "gen_ai.response.model": response.model,
        "gen_ai.response.finish_reasons": [response.finish_reason] if response.finish_reason else None,
        "gen_ai.usage.input_tokens": usage and usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage and usage.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": (usage and usage.cached_tokens) or None,
        "blueprint.cost_usd": usage and usage.estimated_cost,
        "blueprint.provider": response.provider,
    }


def _texts(request: ChatRequest, response: ChatResponse | None) -> dict[str, str]:
    """Messages and answer, where the environment asks for them."""
    if not _captures():
        return {}
    said = {"gen_ai.input.messages": [_parts(message.to_dict()) for message in request.messages]}
    if response is not None:
        calls = [
            {"id": call.id, "function": {"name": call.name, "arguments": call.arguments}}
            for call in response.tool_calls
        ]
        answer = _parts({"role": "assistant", "content": response.content, "tool_calls": calls})
        said["gen_ai.output.messages"] = [{**answer, "finish_reason": response.finish_reason}]
    return {name: redact(json.dumps(messages, default=str)) for name, messages in said.items()}


def _parts(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message of OpenAI's in the convention's shape."""
    role, content = message["role"], message.get("content")
    if role == "tool":
        return {
            "role": role,
            "parts": [{"type": "tool_call_response", "id": message.get("tool_call_id"), "response": content}],
        }
    text = [{"type": "text", "content": content}] if content else []
    calls = [
        {"type": "tool_call", "id": call.get("id"), **call.get("function", {})}
        for call in message.get("tool_calls") or ()
    ]
    return {"role": role, "parts": [*text, *calls]}


def _captures() -> bool:
    return os.environ.get(CAPTURE, "").lower() in {"true", "1", "span_only", "span_and_event"}


@contextmanager
def tool_span(call: ToolCall, tool: Tool) -> Iterator[Callable[[ToolResult], ToolResult]]:
    """A span around a tool's run, current while it lasts; what it yields takes the result and returns it."""
    if not listened():
        yield lambda result: result
        return
    facts = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": call.name,
        "gen_ai.tool.call.id": call.id,
        "gen_ai.tool.description": tool.description or None,
        "gen_ai.tool.type": "function",
    }
    with _tracer().start_as_current_span(f"execute_tool {call.name}", attributes=_present(facts)) as span:

        def finish(result: ToolResult) -> ToolResult:
            _fail(span, None if result.status == "ok" else result.status)
            if _captures():
                span.set_attribute("gen_ai.tool.call.arguments", redact(json.dumps(call.arguments, default=str)))
                span.set_attribute("gen_ai.tool.call.result", redact(result.content))
            return result

        yield finish


def _fail(span: Any, error: str | None) -> None:
    from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415 - see _tracer

    if error is not None:
        span.set_attribute("error.type", error)
        span.set_status(Status(StatusCode.ERROR))


def _present(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if value is not None}
