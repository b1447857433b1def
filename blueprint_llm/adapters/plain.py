"""Plain calls to OpenAI's API, prepared where they are awaited instead of in a thread.

LiteLLM prepares every awaited call in the default executor, since for some providers that reads files or asks the
network. For OpenAI it only computes, so that the way to the thread and back is for nothing: 12 % of what a call costs
(0.3 ms), and a wait without end where a program's own work fills the executor.

What LiteLLM does around the call is left out only where it would do nothing: `is_plain` says where that is.
"""

from __future__ import annotations

import datetime as dt
import functools
import inspect
import sys
import threading
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

# What is OpenAI's own, and what we add. Everything else may ask LiteLLM for more: its fallbacks, mocks, prompts.
KEYWORDS = frozenset(
    {
        *("model", "messages", "functions", "function_call", "tools", "tool_choice", "parallel_tool_calls"),
        *("temperature", "top_p", "n", "stop", "seed", "logit_bias", "presence_penalty", "frequency_penalty"),
        *("max_tokens", "max_completion_tokens", "logprobs", "top_logprobs", "modalities", "audio", "prediction"),
        *("response_format", "reasoning_effort", "verbosity", "user", "safety_identifier", "store", "service_tier"),
        *("api_key", "api_base", "timeout", "extra_headers", "metadata", "model_info", "prompt_cache_key"),
        *("num_retries", "max_retries", "retry_policy", "caching", "_skip_mcp_handler"),
        *("litellm_call_id", "litellm_logging_obj"),
    }
)
# Settings under which LiteLLM does more with a call, or asks somebody while it prepares one.
SETTINGS = (
    *("pre_call_rules", "post_call_rules", "enable_json_schema_validation", "modify_params"),
    *("model_fallbacks", "model_alias_map", "proxy_auth", "num_retries_per_request", "request_correlation_in_logs"),
)
_IMPORTED = threading.Event()
_METADATA_TAKES = {"result", "logging_obj", "model", "kwargs", "start_time", "end_time"}


def is_plain(litellm: Any, keywords: Mapping[str, Any]) -> bool:
    """Whether LiteLLM would only compute, and neither the call nor the program has it do more."""
    return (
        keywords.keys() <= KEYWORDS
        and not any(getattr(litellm, name, None) for name in SETTINGS)
        and _is_its_own(litellm.acompletion)
        and _has_the_parts(litellm)
        and not litellm.utils.is_debugging_on()
        and _provider(litellm, keywords["model"], keywords.get("api_base")) == "openai"
    )


async def acompletion(litellm: Any, keywords: Mapping[str, Any]) -> Any:
    """What `litellm.acompletion(**keywords)` answers or raises, for a plain call whose log is made.

    The first one does go to the thread: LiteLLM imports 500 modules while it prepares it, a second or more.
    """
    if not _IMPORTED.is_set():
        answer = await litellm.acompletion(**keywords)
        _IMPORTED.set()
        return answer
    started = dt.datetime.now()  # noqa: DTZ005 - as LiteLLM's own, which it is subtracted from
    try:
        answer = await copy_context().run(litellm.main.completion, acompletion=True, **keywords)
    except Exception as error:  # noqa: BLE001 - the provider boundary
        wire = {"model": keywords["model"], "custom_llm_provider": "openai", "extra_kwargs": keywords}
        raise litellm.exception_type(original_exception=error, **wire)  # noqa: B904 - it may be the same, no cause of itself
    litellm.utils.update_response_metadata(
        result=answer,
        logging_obj=keywords["litellm_logging_obj"],
        model=keywords["model"],
        kwargs=keywords,
        start_time=started,
        end_time=dt.datetime.now(),  # noqa: DTZ005 - likewise
    )
    return answer


def _is_its_own(function: Any) -> bool:
    """Whether LiteLLM's function is in its place: a test's double, or a tracer's, is there to be called."""
    name = getattr(function, "__module__", None) or ""
    return name.startswith("litellm.") and getattr(sys.modules.get(name), "acompletion", None) is function


@functools.cache
def _has_the_parts(litellm: Any) -> bool:
    """Whether this LiteLLM makes awaited calls of the parts that we put together."""
    names = ("update_response_metadata", "_is_async_request", "is_debugging_on")
    metadata, is_async, is_debugging = (getattr(litellm.utils, name, None) for name in names)
    if not (metadata and is_async and is_debugging):
        return False
    return inspect.signature(metadata).parameters.keys() >= _METADATA_TAKES and bool(is_async({"acompletion": True}))


@functools.lru_cache(maxsize=1024)
def _provider(litellm: Any, model: str, api_base: str | None) -> str | None:
    """Who serves the model, as LiteLLM reads its name; None: that is for LiteLLM to complain about."""
    try:
        return str(litellm.get_llm_provider(model=model, api_base=api_base)[1])
    except Exception:  # noqa: BLE001 - the provider boundary
        return None
