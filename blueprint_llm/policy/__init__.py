"""Decisions over one call: what a failure means, whether and when to try again, whom to leave alone.

Everything here is pure: the clock, randomness and state are arguments.
"""

from blueprint_llm.policy.classification import Classified, classify
from blueprint_llm.policy.retry import RetryRatio, RetryRules, backoff_s, retry_after_s
from blueprint_llm.policy.verdict import GoOn, Progress, RetryHere, Stop, decide

__all__ = [
    "Classified",
    "GoOn",
    "Progress",
    "RetryHere",
    "RetryRatio",
    "RetryRules",
    "Stop",
    "backoff_s",
    "classify",
    "decide",
    "retry_after_s",
]
