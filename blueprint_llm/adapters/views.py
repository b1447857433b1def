"""Look at LiteLLM's answers: our records show a part of one and carry the whole of it.

Nothing here imports LiteLLM. An answer is its `ModelResponse` or the same as JSON (a test double's, the cache's), and
what is read of it is read whatever its type, since providers send what they like.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from blueprint_llm.streaming.chunks import fields, sequence, text_of, word
from blueprint_llm.streaming.chunks import usage_info as counted
from blueprint_llm.types import ChatResponse, UsageInfo, with_raw

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from blueprint_llm.types import ToolCall


def response_of(  # noqa: PLR0913 - the answer, where it came from, and what was found out about it
    raw: Any,
    *,
    provider: str,
    model: str,
    content: str | None = None,
    tool_calls: Sequence[ToolCall] = (),
    usage: UsageInfo | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> ChatResponse:
    """Return an answer as a record; a `content` that was checked and a `usage` with its cost win over what `raw` says.

    `raw` is LiteLLM's `ModelResponse`, or its JSON: then `.raw` makes the object for whoever asks for it.
    """
    message = message_of(raw)
    response = ChatResponse(
        content=text_of(message.get("content")) if content is None else content,
        finish_reason=word(fields(_choice(raw)).get("finish_reason")),
        usage=usage or usage_info(fields(raw).get("usage")),
        tool_calls=list(tool_calls),
        provider=provider,
        model=model,
        metadata=dict(metadata or {}),
        message=message,
        reasoning=reasoning_of(message) or None,
    )
    return with_raw(response, make=partial(_model_response, raw)) if isinstance(raw, dict) else with_raw(response, raw)


def message_of(raw: Any) -> dict[str, Any]:
    """Return the assistant's message of an answer as it must be sent back; empty where the answer has none.

    What the provider left out, LiteLLM writes as None; only `content` says something by being None.
    """
    message = _plain(fields(_choice(raw)).get("message"))
    kept = {name: value for name, value in message.items() if value is not None}
    return {"role": "assistant", "content": None, **kept} if message else {}


def reasoning_of(said: Any) -> str:
    """Return the reasoning text of a message or of a stream's delta, however the provider shows it."""
    record = fields(said)
    for name in ("reasoning_content", "reasoning"):
        if text := text_of(record.get(name)):
            return text
    return "".join(text_of(fields(block).get("thinking")) for block in sequence(record.get("thinking_blocks")))


def usage_info(raw_usage: Any) -> UsageInfo | None:
    """Return a provider's usage as a record that carries it; None where it says nothing."""
    usage = counted(raw_usage)
    return usage if usage is None or usage is raw_usage else with_raw(usage, raw_usage)


def _choice(raw: Any) -> Any:
    choices = sequence(fields(raw).get("choices"))
    return choices[0] if choices else None


def _plain(record: Any) -> dict[str, Any]:
    """Return a record as a dict; an empty one for what is no record."""
    if isinstance(record, dict):
        return record
    dump = getattr(record, "model_dump", None)
    return dict(dump()) if callable(dump) else {}


def _model_response(body: Mapping[str, Any]) -> Any:
    from blueprint_llm.adapters import litellm as _litellm  # noqa: PLC0415 - only a caller who asks for `raw` loads it

    return _litellm.model_response(body)
