"""The policy layer over LiteLLM: limits that hold, streams you can trust, and answers to "why did it do that?".

Names load on first use, so that importing this package imports no provider library. A name that is not ours is
LiteLLM's, to read and to set: code written for LiteLLM runs after `import blueprint_llm as litellm`.
"""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blueprint_llm.adapters import AdapterFactory, CloudAdapter, FallbackAdapter, LocalAdapter, OpusAdapter
    from blueprint_llm.cache import CacheManager
    from blueprint_llm.client import LLMClient, SyncLLMClient
    from blueprint_llm.compat import Router, acompletion, completion
    from blueprint_llm.config import Config, load_config
    from blueprint_llm.credentials import Credential, CredentialsManager, Secret
    from blueprint_llm.errors import (
        CATEGORIES,
        ApprovalPending,
        BlueprintError,
        BudgetExceededError,
        CallError,
        ChainExhaustedError,
        ConfigError,
        ContextDoesNotFitError,
        CredentialsError,
        DeadlineExceededError,
        InvalidRequestError,
        NoTargetError,
        PlanError,
        QuotaExceededError,
        StreamBrokenError,
        ToolCallInvalidError,
        ToolDeniedError,
        ToolError,
    )
    from blueprint_llm.events import Event
    from blueprint_llm.planning import PlanningCoordinator
    from blueprint_llm.streaming import JsonMachine, StreamingHandler, StreamVerdict, Verdict
    from blueprint_llm.types import (
        ChatMessage,
        ChatRequest,
        ChatResponse,
        ModelInfo,
        PartialToolCall,
        Plan,
        PlanningContext,
        PlanStep,
        RouteDecision,
        StreamChunk,
        Tool,
        ToolCall,
        ToolResult,
        UsageFilter,
        UsageInfo,
        UsageStats,
        UsageTotals,
    )
    from blueprint_llm.usage import UsageTracker

_HOMES = {
    "adapters": "AdapterFactory CloudAdapter FallbackAdapter LocalAdapter OpusAdapter",
    "cache": "CacheManager",
    "client": "LLMClient SyncLLMClient",
    "compat": "Router acompletion completion",
    "config": "Config load_config",
    "credentials": "Credential CredentialsManager Secret",
    "errors": "ApprovalPending BlueprintError BudgetExceededError CATEGORIES CallError ChainExhaustedError ConfigError "
    "ContextDoesNotFitError CredentialsError DeadlineExceededError InvalidRequestError NoTargetError PlanError "
    "QuotaExceededError StreamBrokenError ToolCallInvalidError ToolDeniedError ToolError",
    "events": "Event",
    "planning": "PlanningCoordinator",
    "streaming": "JsonMachine StreamVerdict StreamingHandler Verdict",
    "types": "ChatMessage ChatRequest ChatResponse ModelInfo PartialToolCall Plan PlanStep PlanningContext "
    "RouteDecision StreamChunk Tool ToolCall ToolResult UsageFilter UsageInfo UsageStats UsageTotals",
    "usage": "UsageTracker",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

__version__ = "0.1.0"

__all__ = [
    "CATEGORIES",
    "AdapterFactory",
    "ApprovalPending",
    "BlueprintError",
    "BudgetExceededError",
    "CacheManager",
    "CallError",
    "ChainExhaustedError",
    "ChatMessage",
    "ChatRequest",
    "ChatResponse",
    "CloudAdapter",
    "Config",
    "ConfigError",
    "ContextDoesNotFitError",
    "Credential",
    "CredentialsError",
    "CredentialsManager",
    "DeadlineExceededError",
    "Event",
    "FallbackAdapter",
    "InvalidRequestError",
    "JsonMachine",
    "LLMClient",
    "LocalAdapter",
    "ModelInfo",
    "NoTargetError",
    "OpusAdapter",
    "PartialToolCall",
    "Plan",
    "PlanError",
    "PlanStep",
    "PlanningContext",
    "PlanningCoordinator",
    "QuotaExceededError",
    "RouteDecision",
    "Router",
    "Secret",
    "StreamBrokenError",
    "StreamChunk",
    "StreamVerdict",
    "StreamingHandler",
    "SyncLLMClient",
    "Tool",
    "ToolCall",
    "ToolCallInvalidError",
    "ToolDeniedError",
    "ToolError",
    "ToolResult",
    "UsageFilter",
    "UsageInfo",
    "UsageStats",
    "UsageTotals",
    "UsageTracker",
    "Verdict",
    "acompletion",
    "completion",
    "load_config",
]


def __getattr__(name: str) -> Any:
    """Load the module that `name` lives in: one of ours, else LiteLLM."""
    if home := _HOME_OF.get(name):
        value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
        globals()[name] = value
        return value
    if not name.startswith("__"):  # nobody loads LiteLLM to see whether a module has a `__path__`
        return importlib.import_module(f"{__name__}.{name}") if find_spec(f"{__name__}.{name}") else _of_litellm(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _of_litellm(name: str) -> Any:
    try:
        return getattr(_litellm(), name)
    except AttributeError:
        raise AttributeError(f"neither {__name__!r} nor 'litellm' has an attribute {name!r}") from None


def _litellm() -> Any:
    return importlib.import_module(f"{__name__}.adapters.litellm").module()


class _Facade(ModuleType):
    """This module: to assign a name that is not ours sets LiteLLM's (`drop_params`, `api_key`, `callbacks`, ...)."""

    def __setattr__(self, name: str, value: Any) -> None:
        is_ours = name in _HOME_OF or name.startswith("__") or isinstance(value, ModuleType)
        super().__setattr__(name, value) if is_ours else setattr(_litellm(), name, value)


sys.modules[__name__].__class__ = _Facade


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return sorted({*globals(), *__all__})
