"""From a sound verdict to what the caller gets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blueprint_llm.engine.accounts import estimated
from blueprint_llm.types import ChatResponse, StreamChunk, UsageInfo

if TYPE_CHECKING:
    from collections.abc import Callable

    from blueprint_llm.adapters import Call
    from blueprint_llm.engine.attempt import Attempt
    from blueprint_llm.routing.targets import Target
    from blueprint_llm.streaming import StreamVerdict
    from blueprint_llm.trace import Trace


def usage_of(usage: UsageInfo | None, call: Call, chars: int) -> UsageInfo:
    """The provider's usage, else one estimated from the lengths."""
    return usage if usage is not None and usage.total_tokens else estimated(call, chars)


def final_chunk(call: Call, verdict: StreamVerdict, usage: UsageInfo) -> StreamChunk:
    """The one chunk with `is_done`."""
    return StreamChunk(
        is_done=True, usage=usage, tool_calls=tuple(verdict.tool_calls), provider=call.provider, model=call.model
    )


def answer_of(attempt: Attempt, verdict: StreamVerdict, usage: UsageInfo, trace: Trace, target: Target) -> ChatResponse:
    """The whole answer."""
    metadata = {"trace": trace.to_dict(), "cached": False, "deployment": target.deployment or None}
    response = ChatResponse(
        content=verdict.text,
        finish_reason=verdict.finish_reason,
        usage=usage,
        tool_calls=list(verdict.tool_calls),
        provider=attempt.call.provider,
        model=attempt.call.model,
        metadata=metadata,
    )
    response._raw = _raw(attempt, response)  # noqa: SLF001 - made here; a copy would only cost time
    return response


def _raw(attempt: Attempt, response: ChatResponse) -> Callable[[], Any]:
    if attempt.raw is not None:
        _tell_cost(attempt.raw, response.usage)
        return lambda: attempt.raw
    return lambda: _rebuilt(response)


def _tell_cost(raw: Any, usage: UsageInfo | None) -> None:
    """What was paid, where LiteLLM's users look for it; a cost that LiteLLM has counted itself stays."""
    hidden = getattr(raw, "_hidden_params", None)
    if isinstance(hidden, dict) and hidden.get("response_cost") is None and usage is not None:
        hidden["response_cost"] = usage.estimated_cost


def _rebuilt(response: ChatResponse) -> Any:
    from blueprint_llm.adapters import litellm as _litellm  # noqa: PLC0415 - only who asks for LiteLLM's object loads it

    return _litellm.model_response(as_openai(response))


def as_openai(response: ChatResponse) -> dict[str, Any]:
    """The answer in OpenAI's shape."""
    import orjson  # noqa: PLC0415 - for tool calls only

    message: dict[str, Any] = {"role": "assistant", "content": response.content}
    if response.tool_calls:
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": orjson.dumps(call.arguments).decode()},
            }
            for call in response.tool_calls
        ]
    usage = response.usage or UsageInfo()
    return {
        "object": "chat.completion",
        "model": response.model,
        "choices": [{"index": 0, "message": message, "finish_reason": response.finish_reason}],
        "usage": usage.model_dump(include={"prompt_tokens", "completion_tokens", "total_tokens"}),
    }
