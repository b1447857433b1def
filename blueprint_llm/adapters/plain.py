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
    from collections.abc import Awaitable, Mapping

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
    *("vector_store_registry", "secret_manager_client"),
)
SECRET = frozenset({"api_key", "extra_headers"})
_IMPORTED = threading.Event()
_METADATA_TAKES = {"result", "logging_obj", "model", "kwargs", "start_time", "end_time"}


def is_plain(litellm: Any, keywords: Mapping[str, Any]) -> bool:
    """Whether LiteLLM would only compute, and neither the call nor the program has it do more."""
    return (
        keywords.keys() <= KEYWORDS
        and not any(getattr(litellm, name, None) for name in SETTINGS)
        and not _is_checked(keywords.get("response_format"))
        and _is_its_own(litellm.acompletion)
        and _has_the_parts(litellm)
        and not litellm.utils.is_debugging_on()
        and _provider(litellm, keywords["model"], keywords.get("api_base")) == "openai"
    )


def acompletion(litellm: Any, keywords: Mapping[str, Any]) -> Awaitable[Any]:
    """What `litellm.acompletion(**keywords)` answers or raises, for a plain call whose log is made.

    The first one does go to the thread: LiteLLM imports 500 modules while it prepares it, a second or more. No frame
    that waits for an answer holds the key.
    """
    if not _IMPORTED.is_set():
        return _first(litellm.acompletion(**keywords))
    shown = {name: value for name, value in keywords.items() if name not in SECRET}
    started = dt.datetime.now()  # noqa: DTZ005 - as LiteLLM's own, which it is subtracted from
    try:
        answer = copy_context().run(litellm.main.completion, acompletion=True, **keywords)
    except Exception as error:  # noqa: BLE001 - the provider boundary
        raise _mapped(litellm, error, shown)  # noqa: B904 - it may be the same, no cause of itself
    return _answered(litellm, answer, shown, started)


async def _first(answer: Awaitable[Any]) -> Any:
    result = await answer
    _IMPORTED.set()
    return result


async def _answered(litellm: Any, answer: Awaitable[Any], shown: Mapping[str, Any], started: dt.datetime) -> Any:
    try:
        result = await answer
    except Exception as error:  # noqa: BLE001 - the provider boundary
        raise _mapped(litellm, error, shown)  # noqa: B904 - as above
    litellm.utils.update_response_metadata(
        result=result,
        logging_obj=shown["litellm_logging_obj"],
        model=shown["model"],
        kwargs=shown,
        start_time=started,
        end_time=dt.datetime.now(),  # noqa: DTZ005 - likewise
    )
    return result


def _mapped(litellm: Any, error: Exception, shown: Mapping[str, Any]) -> Exception:
    """LiteLLM's exception for `error`, with the facts that it adds to one."""
    facts = {"model": shown["model"], "completion_kwargs": shown, "extra_kwargs": shown}
    try:
        mapped: Any = litellm.exception_type(original_exception=error, custom_llm_provider="openai", **facts)
    except Exception as raised:  # noqa: BLE001 - it raises most of what it makes
        mapped = raised
    for fact in ("num_retries", "timeout"):
        setattr(mapped, fact, shown.get(fact))
    return mapped  # type: ignore[no-any-return] # an exception either way


def _is_checked(answer_format: Any) -> bool:
    """Whether LiteLLM is to hold the answer against a schema of the call's own."""
    return isinstance(answer_format, dict) and answer_format.get("enforce_validation") is True


def _is_its_own(function: Any) -> bool:
    """Whether LiteLLM's function is in its place: a test's double, or a tracer's, is there to be called."""
    name = getattr(function, "__module__", None) or ""
    return name.startswith("litellm.") and getattr(sys.modules.get(name), "acompletion", None) is function


@functools.cache
def _has_the_parts(litellm: Any) -> bool:
    """Whether this LiteLLM makes awaited calls of the parts that we put together, and no trace of its own of them."""
    names = ("update_response_metadata", "_is_async_request", "is_debugging_on")
    metadata, is_async, is_debugging = (getattr(litellm.utils, name, None) for name in names)
    tracing = sys.modules.get("litellm.litellm_core_utils.dd_tracing")
    if not (metadata and is_async and is_debugging) or getattr(tracing, "should_use_dd_tracer", False):
        return False
    return inspect.signature(metadata).parameters.keys() >= _METADATA_TAKES and bool(is_async({"acompletion": True}))


@functools.lru_cache(maxsize=1024)
def _provider(litellm: Any, model: str, api_base: str | None) -> str | None:
    """Who serves the model, as LiteLLM reads its name; None: that is for LiteLLM to complain about."""
    try:
        return str(litellm.get_llm_provider(model=model, api_base=api_base)[1])
    except Exception:  # noqa: BLE001 - the provider boundary
        return None
