"""The policy layer over LiteLLM: limits that hold, streams you can trust, and answers to "why did it do that?".

Names load on first use, so that importing this package imports no provider library. Code written for LiteLLM runs with
`from blueprint_llm import litellm`, or as it is after `blueprint_llm.install()`.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blueprint_llm import litellm
    from blueprint_llm.adapters import AdapterFactory, CloudAdapter, FallbackAdapter, LocalAdapter, OpusAdapter
    from blueprint_llm.cache import CacheManager
    from blueprint_llm.client import LLMClient, SyncLLMClient
    from blueprint_llm.compat import install, uninstall
    from blueprint_llm.config import Config, load_config
    from blueprint_llm.credentials import Credential, CredentialsManager, Secret
    from blueprint_llm.errors import *
    from blueprint_llm.events import Event
    from blueprint_llm.litellm import Router, acompletion, completion
    from blueprint_llm.planning import PlanningCoordinator
    from blueprint_llm.streaming import JsonMachine, StreamingHandler, StreamVerdict, Verdict
    from blueprint_llm.types import *
    from blueprint_llm.usage import UsageTracker

_HOMES = {
    "adapters": "AdapterFactory CloudAdapter FallbackAdapter LocalAdapter OpusAdapter",
    "cache": "CacheManager",
    "client": "LLMClient SyncLLMClient",
    "compat": "Router install uninstall",
    "config": "Config load_config",
    "credentials": "Credential CredentialsManager Secret",
    "errors": "AnswerInvalidError ApprovalPending BlueprintError BudgetExceededError CATEGORIES CallError "
    "ChainExhaustedError ConfigError ContextDoesNotFitError CredentialsError DeadlineExceededError "
    "InvalidRequestError NoTargetError PlanError QuotaExceededError StreamBrokenError ToolCallInvalidError "
    "ToolDeniedError ToolError",
    "events": "Event",
    "planning": "PlanningCoordinator",
    "streaming": "JsonMachine StreamVerdict StreamingHandler Verdict",
    "types": "ChatMessage ChatRequest ChatResponse ModelInfo PartialToolCall Plan PlanStep PlanningContext "
    "RouteDecision StreamChunk Tool ToolCall ToolResult UsageFilter UsageInfo UsageStats UsageTotals",
    "litellm": "acompletion completion",
    "usage": "UsageTracker",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

__version__ = "0.2.0"

__all__ = ["CATEGORIES", "AdapterFactory", "AnswerInvalidError", "ApprovalPending", "BlueprintError"]
__all__ += ["BudgetExceededError", "CacheManager", "CallError", "ChainExhaustedError", "ChatMessage", "ChatRequest"]
__all__ += ["ChatResponse", "CloudAdapter", "Config", "ConfigError", "ContextDoesNotFitError", "Credential"]
__all__ += ["CredentialsError", "CredentialsManager", "DeadlineExceededError", "Event", "FallbackAdapter"]
__all__ += ["InvalidRequestError", "JsonMachine", "LLMClient", "LocalAdapter", "ModelInfo", "NoTargetError"]
__all__ += ["OpusAdapter", "PartialToolCall", "Plan", "PlanError", "PlanStep", "PlanningContext", "PlanningCoordinator"]
__all__ += ["QuotaExceededError", "RouteDecision", "Router", "Secret", "StreamBrokenError", "StreamChunk"]
__all__ += ["StreamVerdict", "StreamingHandler", "SyncLLMClient", "Tool", "ToolCall", "ToolCallInvalidError"]
__all__ += ["ToolDeniedError", "ToolError", "ToolResult", "UsageFilter", "UsageInfo", "UsageStats", "UsageTotals"]
__all__ += ["UsageTracker", "Verdict", "acompletion", "completion", "install", "litellm", "load_config", "uninstall"]


def __getattr__(name: str) -> Any:
    """Load the module that `name` lives in, or that it is."""
    if home := _HOME_OF.get(name):
        value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
        if home != "litellm":  # a test may have patched what stands there
            globals()[name] = value
        return value
    if name in _HOMES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name, obj=sys.modules[__name__])


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
