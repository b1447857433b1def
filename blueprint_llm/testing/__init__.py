"""Test doubles for code that uses blueprint_llm: scripted, recording, and strict about what was not asked for.

`FaultServer` is a loopback HTTP server for anything that takes an `api_base`; `ScriptedAdapter` stands in a provider's
place without a socket. Both take the same steps.
"""

from blueprint_llm.testing.adapter import ScriptedAdapter, ScriptedStream
from blueprint_llm.testing.script import *
from blueprint_llm.testing.server import FaultServer

__all__ = ["Answer", "BadLine", "BrokenTool", "Cut", "Empty", "ErrorObject", "FaultServer", "HtmlPage", "NotJson"]
__all__ += ["Recorded", "Refuse", "Request", "Reset", "Script", "ScriptedAdapter", "ScriptedStream", "Stall"]
__all__ += ["Status", "Step", "ToolUse", "load_script", "numbered_text"]
