"""LiteLLM's calls with this library's policies: the same keywords, objects and exceptions."""

from blueprint_llm.compat.calls import Completions
from blueprint_llm.compat.functions import acompletion, completion
from blueprint_llm.compat.router import Router

__all__ = ["Completions", "Router", "acompletion", "completion"]
