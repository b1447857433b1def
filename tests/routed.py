"""LiteLLM's Router with the proxy plugin's hooks: it calls most of them itself, and `World` what the proxy would."""

import datetime as dt
import uuid

import litellm
import pytest

from blueprint_llm.proxy import Hooks
from blueprint_llm.proxy.refusal import Refusal
from blueprint_llm.types import UsageFilter
from blueprint_llm.usage.stores.ops import Rows

KEY = "sk-test-0123456789abcdef"
LISTS = [
    *("callbacks", "input_callback", "success_callback", "failure_callback", "service_callback"),
    *("_async_input_callback", "_async_success_callback", "_async_failure_callback"),
]
ASK = {"model": "gpt", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 100}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
PRICE = {"input_cost_per_token": 0, "output_cost_per_token": 0.001}


class World:
    """LiteLLM's Router with the hooks, over one server for each group."""

    def __init__(self, servers, blueprint, *, per_deployment=(), named=True, **router):
        shared = {"model": "openai/gpt-4o-mini", "api_key": KEY, **PRICE, **dict(per_deployment)}
        entries = [
            {"model_name": group, "litellm_params": {**shared, "api_base": server.url}} for group, server in servers
        ]
        listed = {"model_list": entries} if named else {}
        self.hooks = Hooks({**listed, "blueprint": {"version": 1, "project": "acme", **blueprint}})
        litellm.callbacks.append(self.hooks)
        router = {"num_retries": 0, **router}
        self.router = litellm.Router(model_list=entries, **router)  # noqa: TID251 - the proxy's, here the world outside

    async def ask(self, **more):
        """A whole answer, through the hooks that the proxy calls after the Router."""
        data = self._recorded({**ASK, **more})
        response = await self.router.acompletion(**data)
        await self.hooks.async_post_call_success_hook(data=data, user_api_key_dict=None, response=response)
        return response

    async def stream(self, **more):
        """A stream, through the proxy's hook."""
        return self.relayed(*await self.opened(**more))

    async def opened(self, **more):
        """A request for a stream, and the Router's answer."""
        data = self._recorded({**ASK, "stream": True, **more})
        return data, await self.router.acompletion(**data)

    def relayed(self, data, response):
        """A stream, as the proxy passes it on."""
        return self.hooks.async_post_call_streaming_iterator_hook(
            user_api_key_dict=None, response=response, request_data=data
        )

    @staticmethod
    def _recorded(data):
        """A request with LiteLLM's record of it, as the proxy makes it."""
        now, data = dt.datetime.now(dt.UTC), {**data, "litellm_call_id": str(uuid.uuid4())}
        record, data = litellm.utils.function_setup("acompletion", litellm.utils.Rules(), now, **data)
        return {**data, "litellm_logging_obj": record}

    async def close(self):
        """Let go of the store and the cache."""
        await self.hooks.parts.cache.aclose()
        await self.hooks.parts.store.aclose()

    @property
    def rows(self):
        """The attempts in the ledger, oldest first."""
        rows = self.hooks.parts.store.execute(Rows(where=UsageFilter(), limit=100))
        return [(row.provider, row.category, row.cost_nano) for row in reversed(rows)]


async def refused(asked):
    """The refusal that a call ends with."""
    with pytest.raises(Refusal) as refusal:
        await asked
    return refusal.value


async def collected(stream, into):
    """Read a stream into a list."""
    async for chunk in stream:
        into.append(chunk)


def text_of(chunks):
    """The text of LiteLLM's chunks."""
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
