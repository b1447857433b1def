"""The ways to the models: four roles over one LiteLLM boundary."""

from blueprint_llm.adapters.contract import Adapter, Call, EndedBy, StreamHandle
from blueprint_llm.adapters.merge import Merger
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
    "Call",
    "CloudAdapter",
    "EndedBy",
    "FallbackAdapter",
    "LiteLLMAdapter",
    "LocalAdapter",
    "Merger",
    "OpusAdapter",
    "StreamHandle",
]
