"""Answers as LiteLLM gives them, for the tests of the cache."""

import time

from blueprint_llm.cache import Entry
from blueprint_llm.types import ToolCall, UsageInfo

# Every field that a provider of today fills, and some that none has yet.
MESSAGE = {
    "role": "assistant",
    "content": "Hello\nworld \U0001f600",
    "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "read", "arguments": '{"path": "ä"}'}}],
    "function_call": None,
    "refusal": None,
    "audio": {"id": "a1", "data": "UklGRg==", "expires_at": 1700000000, "transcript": "Hello"},
    "annotations": [{"type": "url_citation", "url_citation": {"url": "https://a.example", "start_index": 0}}],
    "reasoning_content": "Let me greet.",
    "thinking_blocks": [{"type": "thinking", "thinking": "Let me greet.", "signature": "c2lnbmVk"}],
    "provider_specific_fields": {"citations": [[{"cited_text": "x"}]], "safety": {"score": 0.25}},
    "a_field_of_2031": {"deep": [1, {"deeper": None}]},
}
LOGPROBS = {"content": [{"token": "Hello", "logprob": -0.5, "bytes": [72], "top_logprobs": []}], "refusal": None}
WHOLE = {
    "id": "chatcmpl-1",
    "created": 1700000000,
    "model": "gpt-4o-2031",
    "object": "chat.completion",
    "system_fingerprint": "fp_1",
    "service_tier": "flex",
    "choices": [
        {"index": 0, "finish_reason": "tool_calls", "message": MESSAGE, "logprobs": LOGPROBS},
        {"index": 1, "finish_reason": "stop", "message": {"role": "assistant", "content": "another"}},
    ],
    "usage": {
        "prompt_tokens": 3,
        "completion_tokens": 4,
        "total_tokens": 7,
        "completion_tokens_details": {"reasoning_tokens": 2, "audio_tokens": 1},
        "prompt_tokens_details": {"cached_tokens": 2, "cache_creation": {"ephemeral_1h_input_tokens": 1}},
        "cost": 0.0423,
    },
}
USAGE = UsageInfo(prompt_tokens=3, completion_tokens=4, total_tokens=7, estimated_cost=0.25, cached_tokens=2)


def chunk(delta, finish_reason=None, **more):
    """A chunk of the same stream, as LiteLLM's dump of it."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
    envelope = {"id": "chatcmpl-1", "created": 1700000000, "model": "gpt-4o-2031", "object": "chat.completion.chunk"}
    return {**envelope, "choices": [choice], "citations": None, **more}


CHUNKS = (
    chunk({"role": "assistant", "reasoning_content": "Let me greet."}),
    chunk({"content": "Hello", "a_field_of_2031": [1]}, model="gpt-4o-2031-b"),
    chunk({"content": "\nworld \U0001f600", "logprobs": [True, 1, 1.5, None]}),
    {"id": "chatcmpl-1", "choices": [], "usage": WHOLE["usage"]},
    chunk({}, "stop", created=1700000001, citations=["https://a.example"]),
)


def entry_of(content="Hello", *, chunks=(), at=None, **more):
    """A short entry."""
    message = {"role": "assistant", "content": content}
    whole = {"id": "1", "choices": [{"index": 0, "finish_reason": "stop", "message": message}], "usage": None}
    return Entry(
        whole=whole,
        chunks=chunks,
        content=content,
        at=time.time() if at is None else at,
        **more,
    )


FULL = Entry(
    whole=WHOLE,
    chunks=CHUNKS,
    content=MESSAGE["content"],
    tool_calls=(ToolCall(id="c1", name="read", arguments={"path": "ä"}),),
    usage=USAGE,
    saved_nano=250_000_000,
    at=5.0,
)
