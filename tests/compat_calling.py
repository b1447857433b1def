"""Calls of the drop-in functions, blocking or on an event loop of their own."""

import asyncio

from compat_cases import HI
from driving import KEY, closing_clients

from blueprint_llm import litellm
from blueprint_llm.testing import Answer

KINDS = ("sync", "async")
HELLO = Answer("Hello my dear friend.")
OTHER_KEY = "sk-other-0123456789abcdef"


def keywords_of(server, **keywords):
    """The keywords of a call; without a server they are complete already."""
    own = {"api_base": server.url, "api_key": KEY} if server else {}
    return {"model": "openai/gpt-4o", "messages": HI, **own, **keywords}


def call(kind, server, *, through=litellm, **keywords):
    """A whole answer."""
    asked = keywords_of(server, **keywords)
    if kind == "sync":
        return through.completion(**asked)
    return asyncio.run(closing_clients(through.acompletion(**asked)))


def read(kind, server, *, through=litellm, seen=None, **keywords):
    """A stream and its chunks, which also go to `seen` as they come."""
    seen, asked = [] if seen is None else seen, keywords_of(server, **{**keywords, "stream": True})
    if kind == "sync":
        stream = through.completion(**asked)
        seen.extend(stream)
        return stream, seen

    async def run():
        stream = await through.acompletion(**asked)
        async for chunk in stream:
            seen.append(chunk)
        return stream, seen

    return asyncio.run(closing_clients(run()))


def text_of(chunks):
    """The text of a stream."""
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def has_calls(chunk):
    """Whether a chunk carries tool calls."""
    return any(choice.delta.tool_calls for choice in chunk.choices)
