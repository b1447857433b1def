"""The ways in for code written for LiteLLM: its module, its functions in place, its Router, each call guarded."""

from blueprint_llm.compat.inplace import Beside, Installed, install, uninstall
from blueprint_llm.compat.router import Router

__all__ = ["Beside", "Installed", "Router", "install", "uninstall"]
