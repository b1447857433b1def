"""Calls that must come out of the drop-in functions as they come out of LiteLLM, with what the provider answers."""

import base64

import pytest
from pydantic import BaseModel

from blueprint_llm.testing import Answer, BrokenTool, Recorded, ToolUse

HI = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "d", "parameters": SCHEMA}}
OTHER_TOOL = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
PARIS = ToolUse("get_weather", {"city": "Paris"})
PIXEL = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"0" * 40).decode()
CALL = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
STATUSES = (400, 401, 402, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 504, 529)


class City(BaseModel):
    """A structured answer."""

    city: str


def said(*messages, **more):
    """A whole reply with one choice for each message; a pair is a message and its finish reason."""
    pairs = [message if isinstance(message, tuple) else (message, "stop") for message in messages]
    choices = [
        {"index": n, "message": {"role": "assistant", **message}, "finish_reason": finish, **more.pop("choice", {})}
        for n, (message, finish) in enumerate(pairs)
    ]
    usage = {"prompt_tokens": 12, "completion_tokens": 9, "total_tokens": 21}
    stamp = {"id": "chatcmpl-r", "object": "chat.completion", "created": 1_700_000_000, "model": "gpt-4o"}
    return {**stamp, "choices": choices, "usage": usage, **more}


def chunk(index=0, finish=None, choice=None, **delta):
    """One chunk of a streamed reply."""
    stamp = {"id": "chatcmpl-r", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "gpt-4o"}
    return {**stamp, "choices": [{"index": index, "delta": delta, "finish_reason": finish, **(choice or {})}]}


def replied(message, *chunks, finish="stop", **more):
    """A reply in both forms; the stream ends with its finish reason and a usage chunk."""
    usage = {**chunk(), "choices": [], "usage": said()["usage"]}
    return Recorded(said((message, finish), **more), (*chunks, chunk(finish=finish), usage))


LOGPROBS = {"content": [{"token": "Hel", "logprob": -0.1, "bytes": [72], "top_logprobs": []}], "refusal": None}
SEVERAL = Recorded(
    said({"content": "one"}, ({"content": "two"}, "length")),
    (
        chunk(0, role="assistant", content="o"),
        chunk(1, role="assistant", content="t"),
        chunk(0, content="ne"),
        chunk(0, finish="stop"),
        chunk(1, content="wo"),
        chunk(1, finish="length"),
    ),
)
REASONED = replied(
    {"content": "4", "reasoning_content": "two and two"},
    chunk(role="assistant", content=None, reasoning_content="two "),
    chunk(reasoning_content="and two"),
    chunk(content="4"),
)
REFUSED = replied({"content": None, "refusal": "I cannot"}, chunk(role="assistant", refusal="I "), chunk(refusal="no"))
LEGACY = replied(
    {"content": None, "function_call": CALL["function"]},
    chunk(role="assistant", content=None, function_call={"name": "get_weather", "arguments": ""}),
    chunk(function_call={"arguments": '{"city": '}),
    chunk(function_call={"arguments": '"Paris"}'}),
    finish="function_call",
)
LOGGED = replied(
    {"content": "Hello"},
    chunk(role="assistant", content="Hello", choice={"logprobs": LOGPROBS}),
    system_fingerprint="fp",
)
CALLED_TWICE = Answer("", tool_calls=(PARIS, ToolUse("now", "{}", id="call_b")))
FINGERPRINT = replied(
    {"content": "Hi", "annotations": []},
    {**chunk(role="assistant", content="Hi"), "system_fingerprint": "fp_1", "service_tier": "default"},
    system_fingerprint="fp_1",
    service_tier="default",
)
JSON_TEXT = Answer('{"city": "Paris"}', chunk_chars=4)
JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "city", "strict": True, "schema": SCHEMA}}
IMAGE = [{"type": "text", "text": "what is it?"}, {"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}}]
SOUND = [{"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}]
TALK = [
    {"role": "user", "content": "weather?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
]
NAMED = {"type": "function", "function": {"name": "get_weather"}}
DETAILS = {
    "prompt_tokens": 20,
    "completion_tokens": 10,
    "total_tokens": 30,
    "prompt_tokens_details": {"cached_tokens": 8},
    "completion_tokens_details": {"reasoning_tokens": 4},
}

# What is asked, and what is answered; each whole and as a stream.
CASES = {
    "a greeting": ({}, Answer("Hello there.")),
    "a system message": ({"messages": [{"role": "system", "content": "be brief"}, *HI]}, Answer("Hi.")),
    "a developer message": ({"messages": [{"role": "developer", "content": "be brief"}, *HI]}, Answer("Hi.")),
    "a message with a name": ({"messages": [{"role": "user", "name": "ann", "content": "hi"}]}, Answer("Hi.")),
    "sampling": ({"temperature": 0.3, "top_p": 0.9, "seed": 7, "presence_penalty": 0.1}, Answer("Hi.")),
    "one stop": ({"stop": "END"}, Answer("Hi.")),
    "several stops": ({"stop": ["END", "STOP"]}, Answer("Hi.")),
    "a cap": ({"max_tokens": 50}, Answer("Hi.")),
    "a completion cap": ({"max_completion_tokens": 50}, Answer("Hi.")),
    "a bias": ({"logit_bias": {"50256": -100}, "user": "u1"}, Answer("Hi.")),
    "metadata": ({"metadata": {"trace": "t1"}}, Answer("Hi.")),
    "an extra body": ({"extra_body": {"flavour": "mint"}, "extra_headers": {"X-Team": "red"}}, Answer("Hi.")),
    "a keyword of the provider's": ({"top_k_of_the_server": 5}, Answer("Hi.")),
    "a vendor beside the model": ({"model": "gpt-4o", "custom_llm_provider": "openai"}, Answer("Hi.")),
    "a model without a vendor": ({"model": "gpt-4o"}, Answer("Hi.")),
    "another vendor": ({"model": "deepseek/deepseek-chat"}, Answer("Hi.")),
    "the unlike": ({}, Answer("Grüße 👋🏽 \u2028 \x00 end", chunk_chars=1)),
    "a cut answer": ({"max_tokens": 3}, Answer("one two three", finish_reason="length")),
    "a filtered answer": ({}, Answer("one", finish_reason="content_filter")),
    "detailed usage": ({}, Answer("Hi.", usage=DETAILS)),
    "no usage": ({}, Answer("Hi there.", usage=None)),
    "several answers": ({"n": 2}, SEVERAL),
    "logprobs": ({"logprobs": True, "top_logprobs": 1}, LOGGED),
    "a fingerprint": ({"service_tier": "default"}, FINGERPRINT),
    "a refusal": ({}, REFUSED),
    "reasoning": ({"model": "openai/o3-mini", "reasoning_effort": "low"}, REASONED),
    "reasoning of another vendor": ({"model": "deepseek/deepseek-reasoner"}, REASONED),
    "an image": ({"messages": [{"role": "user", "content": IMAGE}]}, Answer("A pixel.")),
    "a sound": (
        {"messages": [{"role": "user", "content": SOUND}], "model": "openai/gpt-4o-audio-preview"},
        Answer("Hm."),
    ),
    "json mode": ({"response_format": {"type": "json_object"}}, JSON_TEXT),
    "a json schema": ({"response_format": JSON_SCHEMA}, JSON_TEXT),
    "a pydantic schema": ({"response_format": City}, JSON_TEXT),
    "a tool call": ({"tools": [TOOL]}, Answer("Let me see.", tool_calls=(PARIS,))),
    "a tool call alone": ({"tools": [TOOL], "tool_choice": "required"}, Answer("", tool_calls=(PARIS,))),
    "a named tool": ({"tools": [TOOL], "tool_choice": NAMED}, Answer("", tool_calls=(PARIS,), finish_reason="stop")),
    "two tool calls": ({"tools": [TOOL, OTHER_TOOL], "parallel_tool_calls": True}, CALLED_TWICE),
    "tools that are not used": ({"tools": [TOOL], "tool_choice": "none"}, Answer("No.")),
    "a tool's result": ({"messages": TALK, "tools": [TOOL]}, Answer("It is sunny.")),
    "legacy functions": ({"functions": [TOOL["function"]], "function_call": "auto"}, LEGACY),
    "a tool with a hint": (
        {"tools": [{**TOOL, "cache_control": {"type": "ephemeral"}}]},
        Answer("", tool_calls=(PARIS,)),
    ),
}
TABLE = [pytest.param(*case, id=name) for name, case in CASES.items()]
BROKEN_TOOL = BrokenTool()
