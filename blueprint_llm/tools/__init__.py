"""Tools behind rules, a sandbox, durable approval and an audit that shows every tampering.

`ToolEngine` is the way in; `run_loop` is the agent loop on top of it.
"""

from blueprint_llm.config.blocks import Rule
from blueprint_llm.tools.approval import ApprovalDecision, ApprovalRequest, DenyAll
from blueprint_llm.tools.engine import Ready, ToolEngine
from blueprint_llm.tools.execution import Surroundings
from blueprint_llm.tools.loop import RunResult, resume_loop, run_loop
from blueprint_llm.tools.registry import tool
from blueprint_llm.tools.rules import ToolDecision

__all__ = [
    "ApprovalDecision",
    "ApprovalRequest",
    "DenyAll",
    "Ready",
    "Rule",
    "RunResult",
    "Surroundings",
    "ToolDecision",
    "ToolEngine",
    "resume_loop",
    "run_loop",
    "tool",
]
