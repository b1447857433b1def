"""The hooks that LiteLLM's proxy calls, and what each means for the walk of its call.

Before a deployment is called: look in the cache, reserve. An answer of the cache goes back as LiteLLM's own
`mock_response`, the public way for a hook to answer in a deployment's place. After the call: check, settle, keep; in a
stream, chunk by chunk. A walk is kept as long as LiteLLM's own record of its call.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import sys
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from litellm.integrations.custom_logger import CustomLogger

from blueprint_llm.adapters import exceptions
from blueprint_llm.adapters import litellm as _litellm
from blueprint_llm.config import load_config
from blueprint_llm.engine.parts import Parts
from blueprint_llm.errors import BlueprintError, CallError
from blueprint_llm.policy import RetryRules
from blueprint_llm.proxy.asked import group_of, request_of, target_of
from blueprint_llm.proxy.passage import DeploymentWalk, NoKeys, Passage
from blueprint_llm.proxy.refusal import Refusal
from blueprint_llm.proxy.stream import is_usage, relayed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

RECORD = "litellm_logging_obj"
CAPS = ("max_tokens", "max_completion_tokens")
_ENDINGS: set[asyncio.Task[None]] = set()  # an event loop holds its tasks by weak references only


def config_source() -> str | None:
    """`$BLUEPRINT_CONFIG` if set, else the running proxy's own YAML, else None: the usual places."""
    server = sys.modules.get("litellm.proxy.proxy_server")
    return os.environ.get("BLUEPRINT_CONFIG") or getattr(server, "user_config_file_path", None)


class Hooks(CustomLogger):  # type: ignore[misc] # LiteLLM is not followed: too huge
    """Budgets, quotas, stream validation and the cache for every chat completion of a LiteLLM proxy.

    Args:
        source: A configuration, where it is not the proxy's own.
    """

    def __init__(self, source: Any = None) -> None:
        super().__init__()
        self._source = source
        self._passages: weakref.WeakKeyDictionary[Any, Passage] = weakref.WeakKeyDictionary()

    @functools.cached_property
    def parts(self) -> Parts:
        """Our parts, for the proxy's configuration. Raises ConfigError."""
        _litellm.module()  # masks keys in every log
        config = load_config(self._source or config_source())
        return replace(Parts.build(config, credentials=NoKeys(config)), retry=RetryRules(max_attempts=1))

    def load(self) -> None:
        """Read the configuration now rather than with the first call. Raises ConfigError."""
        _ = self.parts

    def _kept(self, data: Mapping[str, Any]) -> Passage | None:
        """The walk of LiteLLM's call, if it is one of ours."""
        record = data.get(RECORD)
        return None if record is None else self._passages.get(record)

    async def async_pre_call_deployment_hook(self, kwargs: dict[str, Any], call_type: Any) -> dict[str, Any] | None:
        """Reserve for a call that is about to be made, or answer it from the cache. Raises Refusal."""
        group = group_of(kwargs)
        if getattr(call_type, "value", None) != "acompletion" or group is None:
            return None
        if earlier := self._kept(kwargs):  # its stream broke before its text, and no hook heard of it
            await _ended(earlier, CallError("LiteLLM went on to another deployment", category="unavailable"))
        try:
            return await self._begun(kwargs, group)
        except BlueprintError as error:
            refusal = Refusal(error)
        raise refusal

    async def _begun(self, kwargs: dict[str, Any], group: str) -> dict[str, Any]:
        streamed = bool(kwargs.get("stream"))
        request, target = request_of(self.parts, kwargs, group), target_of(self.parts, kwargs, group)
        passage = Passage(DeploymentWalk(request, self.parts, target, stream=streamed))
        await passage.begin()
        self._passages[kwargs[RECORD]] = passage
        if passage.call is None:
            kwargs[RECORD].model_call_details["cache_hit"] = True  # free in LiteLLM's own accounts, too
            return {**kwargs, "mock_response": passage.response.raw}
        _abandon_with(asyncio.current_task(), passage, streamed=streamed)
        caps = {name: passage.call.params[name] for name in CAPS if name in passage.call.params}
        usage = {"stream_options": {**(kwargs.get("stream_options") or {}), "include_usage": True}} if streamed else {}
        return {**kwargs, **caps, **usage}

    async def async_post_call_success_deployment_hook(self, request_data: Any, response: Any, *_: Any) -> None:
        """Check and settle an answer that came whole; LiteLLM wants to hear of a bad one in the next hook."""
        if passage := self._kept(request_data):
            await _ended(passage, response)

    async def async_post_call_success_hook(self, data: dict[str, Any], **_: Any) -> None:
        """Refuse an answer that was found bad. Raises Refusal."""
        passage = self._kept(data)
        if passage is not None and passage.error is not None:
            raise Refusal(passage.error)

    async def async_post_call_failure_deployment_hook(
        self, request_data: Any, exception: Exception, *_: Any, **__: Any
    ) -> None:
        """Settle a call that failed, as its kind of failure demands."""
        passage = self._kept(request_data)
        if passage is not None and passage.pending is not None:
            await _ended(passage, exceptions.call_error(exception, passage.call))

    async def async_post_call_failure_hook(self, original_exception: Exception, **_: Any) -> None:
        """Give a refusal, which LiteLLM's Router is done with, the status that is for the client."""
        if isinstance(original_exception, Refusal):
            original_exception.answer()

    async def async_post_call_streaming_iterator_hook(
        self, response: Any, request_data: dict[str, Any], **_: Any
    ) -> AsyncIterator[Any]:
        """Pass a stream on, checked. Raises Refusal, which the proxy turns into an error event."""
        wants_usage = bool((request_data.get("stream_options") or {}).get("include_usage"))
        hides_usage = self._kept(request_data) is not None and not wants_usage
        try:
            async for chunk in relayed(lambda: self._kept(request_data), response):
                if not (hides_usage and is_usage(chunk)):
                    yield chunk
        except BlueprintError as error:
            refusal = Refusal(error)
        else:
            return
        finally:
            if passage := self._kept(request_data):
                await passage.abandon()
        raise refusal


async def _ended(passage: Passage, brought: Any) -> None:
    """Bring a walk what ends it; whether it ended well stands in `passage.error`."""
    with contextlib.suppress(BlueprintError):
        await passage.give(brought)


def _abandon_with(task: asyncio.Task[Any] | None, passage: Passage, *, streamed: bool) -> None:
    """End a walk with the task of its call: a client that leaves cancels that, and no hook hears of it."""

    def look(done: asyncio.Task[Any]) -> None:
        if passage.pending is not None and (done.cancelled() or not streamed):
            _ENDINGS.add(ending := done.get_loop().create_task(passage.abandon()))
            ending.add_done_callback(_ENDINGS.discard)

    if task is not None:
        task.add_done_callback(look)
