"""Every way in for one question: client, group, drop-in and Router, each for a whole answer and for a stream."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from driving import KEY, closing_clients
from provider_answers import MODELS

from blueprint_llm import LLMClient, Router, SyncLLMClient
from blueprint_llm import litellm as guarded
from blueprint_llm.errors import BlueprintError, CallError

if TYPE_CHECKING:
    from collections.abc import Callable

LITELLMS_BREAKS = {"MidStreamFallbackError", "InternalServerError", "APIConnectionError"}
HI = [{"role": "user", "content": "hi"}]
BLOCK = {
    "version": 1,
    "store": {"url": "memory"},
    "streaming": {"reask": 0},
    "retry": {"max_attempts": 1},
    "deadline": {"total_s": 5, "first_token_s": 3, "idle_s": 3},
}


@dataclass
class Outcome:
    """What a caller got.

    Attributes:
        ended: `answer`, or the category of the error (LiteLLM's own for a stream that broke is `stream_broken`).
        calls: Name and arguments of each function call.
        message: The whole message, for what has no field here.
    """

    ended: str = "answer"
    text: str = ""
    finish: str | None = None
    calls: list[tuple[str, Any]] = field(default_factory=list)
    message: dict[str, Any] = field(default_factory=dict)
    error: BaseException | None = None


def params_of(format_: str, url: str, model: str | None = None) -> dict[str, Any]:
    """LiteLLM's keywords for a model that speaks a format and lives at a server."""
    known, path = MODELS[format_]
    return {"model": model or known, "api_key": KEY, "api_base": url.removesuffix("/v1") + path}


def _failed(error: BaseException) -> Outcome:
    category = error.category if isinstance(error, CallError) else None
    if category is None and type(error).__name__ in LITELLMS_BREAKS:
        category = "stream_broken"
    return Outcome(ended=category or type(error).__name__, error=error)


def _of_response(response: Any) -> Outcome:
    calls = [(call.name, call.arguments) for call in response.tool_calls]
    return Outcome(
        text=response.content, finish=response.finish_reason, calls=calls, message=dict(response.message or {})
    )


def _of_message(message: dict[str, Any], finish: str | None) -> Outcome:
    functions = [call["function"] for call in message.get("tool_calls") or () if call.get("function")]
    calls = [(each["name"], json.loads(each["arguments"] or "{}")) for each in functions if each.get("name")]
    return Outcome(text=message.get("content") or "", finish=finish, calls=calls, message=message)


def _of_chunks(chunks: list[Any]) -> Outcome:
    """Merge LiteLLM's chunks of the first choice; a name begins a call."""
    finish, message = None, dict[str, Any](content="", tool_calls=[])
    for chunk in chunks:
        for choice in chunk.choices:
            if choice.index:
                continue
            finish = choice.finish_reason or finish
            delta = choice.delta.model_dump()
            message["content"] += delta.get("content") or ""
            for call in delta.get("tool_calls") or ():
                function = call.get("function") or {}
                if function.get("name") or not message["tool_calls"]:
                    message["tool_calls"].append({**call, "function": {"name": function.get("name"), "arguments": ""}})
                message["tool_calls"][-1]["function"]["arguments"] += function.get("arguments") or ""
            said = {"content", "tool_calls", "role"}
            message |= {name: value for name, value in delta.items() if name not in said and value}
    return _of_message(message, finish)


def _provider(params: dict[str, Any]) -> dict[str, Any]:
    return {"blueprint": {**BLOCK, "providers": {"p0": params}, "chains": {"default": ["p0"]}}}


def _group(params: dict[str, Any]) -> dict[str, Any]:
    listed = [{"model_name": "g", "litellm_params": params}]
    return {"model_list": listed, "router_settings": {"num_retries": 0}, "blueprint": dict(BLOCK)}


def _client(document: Any, asked: dict[str, Any], *, stream: bool) -> Outcome:
    with SyncLLMClient(document) as client:
        try:
            if not stream:
                return _of_response(client.chat(messages=HI, **asked))
            answer = client.stream(messages=HI, **asked)
            chunks = list(answer)
        except BlueprintError as error:
            return _failed(error)
    assert [chunk.is_done for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    return _of_response(answer.response)


async def _aclient(document: Any, asked: dict[str, Any]) -> Outcome:
    async with LLMClient(document) as client:
        try:
            return _of_response(await client.chat(messages=HI, **asked))
        except BlueprintError as error:
            return _failed(error)


def _blocking(ask: Callable[..., Any], asked: dict[str, Any], *, stream: bool) -> Outcome:
    try:
        answer = ask(messages=HI, stream=stream, **asked)
        if stream:
            return _of_chunks(list(answer))
    except Exception as error:  # noqa: BLE001 - whatever LiteLLM raises is the outcome
        return _failed(error)
    return _of_message(answer.choices[0].message.model_dump(), answer.choices[0].finish_reason)


async def _awaited(ask: Callable[..., Any], asked: dict[str, Any], *, stream: bool) -> Outcome:
    try:
        answer = await ask(messages=HI, stream=stream, **asked)
        if stream:
            return _of_chunks([chunk async for chunk in answer])
    except Exception as error:  # noqa: BLE001 - whatever LiteLLM raises is the outcome
        return _failed(error)
    return _of_message(answer.choices[0].message.model_dump(), answer.choices[0].finish_reason)


def _router(params: dict[str, Any]) -> Any:
    listed = [{"model_name": "g", "litellm_params": params}]
    return Router(listed, num_retries=0, blueprint=BLOCK, disable_cooldowns=True)


async def _closed(work: Any) -> Outcome:
    found: Outcome = await closing_clients(work)
    return found


def ask(way: str, params: dict[str, Any], **asked: Any) -> Outcome:
    """Return what comes of a question that is asked one way.

    Args:
        way: One of `WHOLE` and `STREAMS`. The drop-in's shared guard is the caller's to set.
        params: LiteLLM's keywords for the provider.
        asked: What else is asked.
    """
    through, *how = way.split()
    stream, is_async = how[-1] == "stream", "async" in how
    if through in {"client", "group"}:
        document = _provider(params) if through == "client" else _group(params)
        asked = asked if through == "client" else {"model": "g", **asked}
        if is_async:
            return asyncio.run(_closed(_aclient(document, asked)))
        return _client(document, asked, stream=stream)
    library: Any = guarded if through == "drop-in" else _router(params)
    own = {"num_retries": 0, "max_retries": 0, **params} if through == "drop-in" else {"model": "g"}
    if is_async:
        return asyncio.run(_closed(_awaited(library.acompletion, {**own, **asked}, stream=stream)))
    return _blocking(library.completion, {**own, **asked}, stream=stream)


WHOLE = ("client whole", "client async whole", "group whole", "drop-in whole", "drop-in async whole", "router whole")
STREAMS = (
    *("client stream", "group stream", "drop-in stream", "drop-in async stream"),
    *("router stream", "router async stream"),
)
