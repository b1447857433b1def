"""Calls whose keywords are misspelt: each must fail type checkers, or its `type: ignore` is an error of its own."""

from __future__ import annotations

from typing import Any

from blueprint_llm import LLMClient, Router, SyncLLMClient, acompletion, completion

MESSAGES: list[dict[str, Any]] = [{"role": "user", "content": "hi"}]


async def ask(client: LLMClient) -> None:
    """The async client."""
    await client.chat(mesages=MESSAGES)  # type: ignore[call-arg]
    await client.chat(messages=MESSAGES, temprature=0.1)  # type: ignore[call-arg]
    client.stream(messages=MESSAGES, provder="x")  # type: ignore[call-arg]
    await client.generate("hi", max_token=9)  # type: ignore[call-arg]
    await client.planning_mode(goal="x", requirement=["y"])  # type: ignore[call-arg]
    await client.run(messages=MESSAGES, tool=[])  # type: ignore[call-arg]
    await client.chat(messages=MESSAGES, temperature="hot")  # type: ignore[arg-type]


def ask_blocking(client: SyncLLMClient) -> None:
    """The blocking client, the Router and the drop-in functions."""
    client.chat(mesages=MESSAGES)  # type: ignore[call-arg]
    client.stream(messages=MESSAGES, provder="x")  # type: ignore[call-arg]
    client.explain(messages=MESSAGES, modle="x")  # type: ignore[call-arg]
    SyncLLMClient.from_config(None, projct="x")  # type: ignore[call-arg]
    Router(model_list=[], num_retires=2)  # type: ignore[call-arg]
    completion("gpt-4o", MESSAGES, temprature=0.1)  # type: ignore[call-overload]


async def drop_in() -> None:
    """The async drop-in."""
    await acompletion("gpt-4o", MESSAGES, temprature=0.1)  # type: ignore[call-overload]


def accepted(client: SyncLLMClient) -> None:
    """LiteLLM's own parameters are no mistakes, and dictionaries may be spread."""
    given: dict[str, Any] = {"seed": 1}
    client.chat(messages=MESSAGES, seed=7, response_format={"type": "json_object"}, extra_body={"a": 1}, top_k=5)
    client.chat(messages=MESSAGES, tool_choice="auto", extra_headers={"a": "b"}, reasoning_effort="low", **given)
    client.generate("hi", system="be brief", seed=7)
    Router(model_list=[{"model_name": "a", "litellm_params": {"model": "b"}}], num_retries=2, blueprint={})
    completion(model="gpt-4o", messages=MESSAGES, stream=True, api_base="http://127.0.0.1")
