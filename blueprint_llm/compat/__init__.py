"""The ways in for code written for LiteLLM: its module, its functions in place, its Router, each call guarded."""

from blueprint_llm.compat.inplace import Beside, install, uninstall
from blueprint_llm.compat.router import Router

__all__ = ["Beside", "Router", "install", "uninstall"]
