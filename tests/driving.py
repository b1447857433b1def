"""One way to call either client, so that every scenario runs through both drivers."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, field
from typing import Any

from blueprint_llm import LLMClient, SyncLLMClient
from blueprint_llm.errors import BlueprintError

MESSAGES = [{"role": "user", "content": "hello there"}]
KEY = "sk-test-0123456789abcdef"


@dataclass
class Heard:
    """What a caller got: the chunks of a stream, the answer or the error."""

    chunks: list[Any] = field(default_factory=list)
    response: Any = None
    error: BlueprintError | None = None

    @property
    def text(self) -> str:
        """The text that stands after restarts."""
        text = ""
        for chunk in self.chunks:
            text = chunk.delta if chunk.restart else text + chunk.delta
        return text


def configuration(*urls: str, **blueprint: Any) -> dict[str, Any]:
    """A chain of OpenAI-compatible providers p0, p1, ...; quick retries unless given."""
    providers = {f"p{n}": {"model": "openai/gpt-4o", "api_base": url, "api_key": KEY} for n, url in enumerate(urls)}
    defaults = {"retry": {"base_s": 0.001}, "deadline": {"total_s": 5, "first_token_s": 1.5, "idle_s": 0.4}}
    block = {"version": 1, "providers": providers, "chains": {"default": list(providers)}}
    return {"blueprint": {**block, **defaults, **blueprint}}


async def closing_clients(work: Any) -> Any:
    """Await `work`, then close what LiteLLM, if it was used, keeps open on this event loop."""
    try:
        return await work
    finally:
        if litellm := sys.modules.get("litellm"):
            await asyncio.sleep(0)  # its logging tasks
            await litellm.close_litellm_async_clients()


class SyncCaller:
    """Calls `SyncLLMClient`."""

    name = "sync"

    def chat(self, config: Any, **request: Any) -> Heard:
        """A whole answer."""
        with SyncLLMClient.from_config(config) as client:
            return self.chat_with(client, **request)

    def chat_with(self, client: SyncLLMClient, **request: Any) -> Heard:
        """A whole answer of an open client."""
        heard = Heard()
        try:
            heard.response = client.chat(**{"messages": MESSAGES, **request})
        except BlueprintError as error:
            heard.error = error
        return heard

    def stream(self, config: Any, **request: Any) -> Heard:
        """Every chunk of a stream."""
        heard = Heard()
        with SyncLLMClient.from_config(config) as client:
            stream = client.stream(**{"messages": MESSAGES, **request})
            try:
                heard.chunks.extend(stream)
            except BlueprintError as error:
                heard.error = error
            heard.response = stream.response
        return heard

    def leave_early(self, config: Any, chunks: int) -> Any:
        """Read so many chunks, then leave the loop; the client's usage."""
        with SyncLLMClient.from_config(config) as client:
            for n, _ in enumerate(client.stream(messages=MESSAGES), 1):
                if n == chunks:
                    break
            return client.get_usage()


class AsyncCaller:
    """Calls `LLMClient` on a loop of its own."""

    name = "async"

    def chat(self, config: Any, **request: Any) -> Heard:
        """A whole answer."""

        async def run() -> Heard:
            heard = Heard()
            async with LLMClient.from_config(config) as client:
                try:
                    heard.response = await client.chat(**{"messages": MESSAGES, **request})
                except BlueprintError as error:
                    heard.error = error
            return heard

        return asyncio.run(closing_clients(run()))

    def stream(self, config: Any, **request: Any) -> Heard:
        """Every chunk of a stream."""

        async def run() -> Heard:
            heard = Heard()
            async with LLMClient.from_config(config) as client:
                stream = client.stream(**{"messages": MESSAGES, **request})
                try:
                    async for chunk in stream:
                        heard.chunks.append(chunk)
                except BlueprintError as error:
                    heard.error = error
                heard.response = stream.response
            return heard

        return asyncio.run(closing_clients(run()))

    def leave_early(self, config: Any, chunks: int) -> Any:
        """Read so many chunks, then leave the loop; the client's usage."""

        async def run() -> Any:
            async with LLMClient.from_config(config) as client:
                n = 0
                async for _ in client.stream(messages=MESSAGES):
                    n += 1
                    if n == chunks:
                        break
                await asyncio.sleep(0.3)
                return client.get_usage()

        return asyncio.run(closing_clients(run()))


CALLERS = (SyncCaller(), AsyncCaller())
