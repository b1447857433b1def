"""What a target is sent: messages cut to its window, and of the project only what it may see.

Both are pure decisions, taken anew for every target of a chain: `shape` fits, `policy_for` and `apply` hold back.
"""

from __future__ import annotations

from blueprint_llm.context.policy import (
    EVERYTHING,
    HELD_BACK,
    NOTHING,
    ContextPolicy,
    apply,
    is_local,
    policy_for,
    render,
)
from blueprint_llm.context.shaping import Shaped, shape
from blueprint_llm.context.tokens import Count, Margins, estimate, fits, message_tokens, upper_bound

__all__ = [
    "EVERYTHING",
    "HELD_BACK",
    "NOTHING",
    "ContextPolicy",
    "Count",
    "Margins",
    "Shaped",
    "apply",
    "estimate",
    "fits",
    "is_local",
    "message_tokens",
    "policy_for",
    "render",
    "shape",
    "upper_bound",
]
