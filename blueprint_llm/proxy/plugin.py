"""The hooks that LiteLLM's proxy calls, and what each means for the walk of its call.

before a deployment is called: look in the cache, reserve; an answer of the cache goes back as LiteLLM's own
`mock_response`, the one public way for a hook to answer for a deployment. After it: check, settle, keep. In a stream:
chunk by chunk. A walk lives as long as LiteLLM's record of its call.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import sys
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from litellm.integrations.custom_logger import CustomLogger

from blueprint_llm.adapters import _litellm
from blueprint_llm.errors import BlueprintError, CallError
from blueprint_llm.parts import Parts
from blueprint_llm.policy import RetryRules
from blueprint_llm.proxy.asked import request_of, target_of
from blueprint_llm.proxy.passage import AnyProvider, Attempt, NoKeys, Passage
from blueprint_llm.proxy.refusal import Refusal
from blueprint_llm.proxy.stream import is_usage, relayed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

T = TypeVar("T")
CAPS = ("max_tokens", "max_completion_tokens")


def config_source() -> str | None:
    """`$BLUEPRINT_CONFIG` if set, else the running proxy's own YAML, else None: the usual places."""
    server = sys.modules.get("litellm.proxy.proxy_server")
    return os.environ.get("BLUEPRINT_CONFIG") or getattr(server, "user_config_file_path", None)


class Kept(Generic[T]):
    """Something of ours for each of LiteLLM's records of a call, as long as that record lives."""

    def __init__(self) -> None:
        self._by_record: weakref.WeakKeyDictionary[Any, T] = weakref.WeakKeyDictionary()

    def put(self, record: Any, value: T) -> None:
        """Keep `value`."""
        self._by_record[record] = value

    def get(self, record: Any) -> T | None:
        """What is kept for `record`, which some of LiteLLM's routes do not have."""
        return None if record is None else self._by_record.get(record)

    def take(self, record: Any) -> T | None:
        """The same, and forget it."""
        return None if record is None else self._by_record.pop(record, None)


class Hooks(CustomLogger):
    """Budgets, quotas, stream validation and the cache for every chat completion of a LiteLLM proxy."""

    def __init__(self, source: Any = None) -> None:
        super().__init__()
        self._source = source
        self._passages: Kept[Passage] = Kept()
        self._refusals: Kept[Refusal] = Kept()

    @functools.cached_property
    def parts(self) -> Parts:
        """Our parts, for the proxy's configuration. Raises ConfigError."""
        _litellm.module()  # masks keys in every log
        parts = Parts.build(self._source or config_source(), adapters=AnyProvider())
        return replace(parts, credentials=NoKeys(parts.config), retry=RetryRules(max_attempts=1))

    async def async_pre_call_deployment_hook(self, kwargs: dict[str, Any], call_type: Any) -> dict[str, Any] | None:
        """Reserve for a call that is about to be made, or answer it from the cache. Raises Refusal."""
        group = (kwargs.get("metadata") or {}).get("model_group")
        if getattr(call_type, "value", None) != "acompletion" or group is None:
            return None
        record = kwargs["litellm_logging_obj"]
        await self._give_up(record)
        try:
            return await self._begun(kwargs, group, record)
        except BlueprintError as error:
            refusal = Refusal(error)
        raise refusal

    async def _give_up(self, record: Any) -> None:
        """End the walk of an earlier deployment whose failure nobody reported: its stream broke before its text."""
        passage = self._passages.take(record)
        if passage is not None:
            with contextlib.suppress(BlueprintError):
                await passage.give(CallError("LiteLLM went on to another deployment", category="unavailable"))

    async def _begun(self, kwargs: dict[str, Any], group: str, record: Any) -> dict[str, Any]:
        streamed = bool(kwargs.get("stream"))
        request, target = request_of(self.parts, kwargs, group), target_of(self.parts, kwargs, group)
        passage = Passage(Attempt(request, self.parts, target, stream=streamed))
        call = await passage.begin()
        if call is None:
            record.model_call_details["cache_hit"] = True  # free of cost in LiteLLM's own spend, too
            return {**kwargs, "mock_response": passage.response.raw}
        self._passages.put(record, passage)
        _abandoned_with(asyncio.current_task(), passage, streamed=streamed)
        caps = {name: call.params[name] for name in CAPS if name in call.params}
        usage = {"stream_options": {**(kwargs.get("stream_options") or {}), "include_usage": True}} if streamed else {}
        return {**kwargs, **caps, **usage}

    async def async_post_call_success_deployment_hook(
        self, request_data: dict[str, Any], response: Any, call_type: Any
    ) -> None:
        """Check and settle an answer that came whole; LiteLLM hears of a bad one in the next hook."""
        record = request_data.get("litellm_logging_obj")
        passage = self._passages.take(record)
        if passage is None:
            return
        try:
            await passage.give(response)
        except BlueprintError as error:
            self._refusals.put(record, Refusal(error))

    async def async_post_call_success_hook(self, data: dict[str, Any], user_api_key_dict: Any, response: Any) -> None:
        """Refuse an answer that was found bad. Raises Refusal."""
        refusal = self._refusals.take(data.get("litellm_logging_obj"))
        if refusal is not None:
            raise refusal

    async def async_post_call_failure_deployment_hook(
        self, request_data: Mapping[str, Any], exception: Exception, call_type: Any, fallback_depth: int | None = None
    ) -> None:
        """Settle a call that failed, as the kind of failure demands."""
        passage = self._passages.take(request_data.get("litellm_logging_obj"))
        if passage is not None and passage.pending is not None:
            with contextlib.suppress(BlueprintError):
                await passage.give(_litellm.call_error(exception, passage.pending.call))

    async def async_post_call_failure_hook(
        self,
        request_data: dict[str, Any],
        original_exception: Exception,
        user_api_key_dict: Any,
        traceback_str: str | None = None,
    ) -> None:
        """The Router is done with a refusal: now it is the client's."""
        if isinstance(original_exception, Refusal):
            original_exception.answer()

    async def async_post_call_streaming_iterator_hook(
        self, user_api_key_dict: Any, response: Any, request_data: dict[str, Any]
    ) -> AsyncIterator[Any]:
        """Pass a stream on, checked. Raises Refusal, which the proxy turns into an error event."""
        record = request_data.get("litellm_logging_obj")
        passage = self._passages.get(record)
        if passage is None or passage.pending is None:
            async for chunk in response:
                yield chunk
            return
        wants_usage = bool((request_data.get("stream_options") or {}).get("include_usage"))
        try:
            async for chunk in relayed(lambda: self._passages.get(record), response, passage.pending.call):
                if wants_usage or not is_usage(chunk):
                    yield chunk
        except BlueprintError as error:
            refusal = Refusal(error)
        else:
            return
        finally:
            await self._abandon(record)
        raise refusal

    async def _abandon(self, record: Any) -> None:
        if passage := self._passages.take(record):
            await passage.abandon()


def _abandoned_with(task: asyncio.Task[Any] | None, passage: Passage, *, streamed: bool) -> None:
    """A client that leaves cancels the task of its call, and no hook hears of it."""

    def look(done: asyncio.Task[Any]) -> None:
        if passage.pending is not None and (done.cancelled() or not streamed):
            done.get_loop().create_task(passage.abandon())

    if task is not None:
        task.add_done_callback(look)
