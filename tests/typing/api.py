"""Public calls as users write them; only type-checked, never run."""

from __future__ import annotations

from typing import Any, assert_type

from blueprint_llm import (
    ChatMessage,
    ChatRequest,
    ChatResponse,
    Config,
    LLMClient,
    ModelInfo,
    Plan,
    RouteDecision,
    StreamChunk,
    StreamingHandler,
    SyncLLMClient,
    UsageFilter,
    UsageStats,
    acompletion,
    completion,
    load_config,
)
from blueprint_llm.streaming import StreamVerdict
from blueprint_llm.tools import RunResult


async def use_as_litellm() -> None:
    """The drop-in functions return LiteLLM's own objects, which only LiteLLM's types describe."""
    messages = [{"role": "user", "content": "hi"}]
    assert_type(completion(model="gpt-4o", messages=messages, temperature=0.2), Any)
    assert_type(completion("gpt-4o", messages), Any)
    async for chunk in await acompletion(model="gpt-4o", messages=messages, stream=True):
        assert_type(chunk, Any)


async def use_async() -> None:
    """The async client."""
    async with LLMClient.from_config("blueprint.yaml") as client:
        assert_type(await client.chat(messages=[{"role": "user", "content": "hi"}], model="gpt-4o"), ChatResponse)
        assert_type(await client.chat(ChatRequest(messages=[ChatMessage(role="user", content="hi")])), ChatResponse)
        assert_type(await client.generate("a prompt", provider="cloud"), ChatResponse)
        async for chunk in client.stream(messages=[{"role": "user", "content": "hi"}]):
            assert_type(chunk, StreamChunk)
        assert_type(client.stream(messages=[]).response, ChatResponse | None)
        assert_type(await client.planning_mode(goal="x", requirements=["y"]), Plan)
        assert_type(await client.run(messages=[], on_chunk=lambda chunk: print(chunk.delta)), RunResult)
        assert_type(client.get_usage(UsageFilter(provider="cloud")), UsageStats)
        assert_type(client.explain(messages=[]), RouteDecision)
        assert_type(client.list_models(), list[ModelInfo])


def use_sync() -> None:
    """The blocking client."""
    with SyncLLMClient(load_config(None), project="acme", fallback_chain=["cloud"]) as client:
        assert_type(client.config, Config)
        assert_type(client.chat({"messages": []}), ChatResponse)
        for chunk in client.stream(messages=[]):
            assert_type(chunk.delta, str)
        client.set_fallback_chain(["cloud", "local"])
        client.reset_usage()


def use_validator() -> None:
    """The validator on its own."""
    handler = StreamingHandler(tools=[{"type": "function", "function": {"name": "f"}}])
    handler.feed({"choices": []})
    assert_type(handler.close(), StreamVerdict)
