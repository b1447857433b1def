"""What a target is sent: messages cut to its window, and of the project only what it may see.

Both are pure decisions, taken anew for every target of a chain: `shape` fits, `policy_for` and `apply` hold back.
"""

from __future__ import annotations

from blueprint_llm.context.policy import EVERYTHING, NOTHING, ContextPolicy, apply, is_local, policy_for, render
from blueprint_llm.context.shaping import Shaped, shape
from blueprint_llm.context.summary import may_summarise, summary_messages, with_summary
from blueprint_llm.context.tokens import Count, estimate, fits, message_tokens

__all__ = [
    "EVERYTHING",
    "NOTHING",
    "ContextPolicy",
    "Count",
    "Shaped",
    "apply",
    "estimate",
    "fits",
    "is_local",
    "may_summarise",
    "message_tokens",
    "policy_for",
    "render",
    "shape",
    "summary_messages",
    "with_summary",
]
