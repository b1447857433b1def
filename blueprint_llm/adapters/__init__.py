"""The ways to the models: four roles over one LiteLLM boundary."""

from blueprint_llm.adapters.contract import Adapter, AsyncStreamHandle, Call, EndedBy, StreamHandle
from blueprint_llm.adapters.roles import (
    ROLES,
    AdapterFactory,
    CloudAdapter,
    FallbackAdapter,
    LiteLLMAdapter,
    LocalAdapter,
    OpusAdapter,
)

__all__ = [
    "ROLES",
    "Adapter",
    "AdapterFactory",
    "AsyncStreamHandle",
    "Call",
    "CloudAdapter",
    "EndedBy",
    "FallbackAdapter",
    "LiteLLMAdapter",
    "LocalAdapter",
    "OpusAdapter",
    "StreamHandle",
]
