"""Public calls as users write them; only type-checked, never run."""

from __future__ import annotations

from typing import assert_type

from litellm import CustomStreamWrapper, EmbeddingResponse, ModelResponse
from litellm.types.utils import ModelResponseStream

from blueprint_llm import (
    ChatMessage,
    ChatRequest,
    ChatResponse,
    Config,
    LLMClient,
    ModelInfo,
    Plan,
    RouteDecision,
    Router,
    StreamChunk,
    StreamingHandler,
    SyncLLMClient,
    UsageFilter,
    UsageStats,
    acompletion,
    completion,
    litellm,
    load_config,
)
from blueprint_llm.streaming import StreamVerdict
from blueprint_llm.tools import RunResult


async def use_as_litellm() -> None:
    """The drop-in functions and the Router return LiteLLM's own objects, typed where LiteLLM's types are known."""
    messages = [{"role": "user", "content": "hi"}]
    assert_type(completion(model="gpt-4o", messages=messages, temperature=0.2), ModelResponse)
    assert_type(completion("gpt-4o", messages), ModelResponse)
    assert_type(completion("gpt-4o", messages, stream=True), CustomStreamWrapper)
    assert_type(litellm.completion("gpt-4o", messages), ModelResponse)
    assert_type(await litellm.aembedding("text-embedding-3-small", ["hi"]), EmbeddingResponse)
    async for chunk in await acompletion(model="gpt-4o", messages=messages, stream=True):
        assert_type(chunk, ModelResponseStream)
    router = Router(model_list=[], num_retries=2, blueprint={"project": "acme"})
    assert_type(await router.acompletion("g", [{"role": "user", "content": "hi"}]), ModelResponse)


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
