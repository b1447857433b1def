"""Decisions over one call: what a failure means, whether and when to try again, whom to leave alone.

Everything here is pure: the clock, randomness and state are arguments.
"""

from blueprint_llm.policy.classification import Classified, classify
from blueprint_llm.policy.per_exception import breaker_rules, retry_rules
from blueprint_llm.policy.recovery import UNCHANGED, Change, Means, climb
from blueprint_llm.policy.retry import RetryRatio, RetryRules, backoff_s, retry_after_s
from blueprint_llm.policy.verdict import Decision, GoOn, Progress, RetryHere, Stop, decide

__all__ = [
    "UNCHANGED",
    "Change",
    "Classified",
    "Decision",
    "GoOn",
    "Means",
    "Progress",
    "RetryHere",
    "RetryRatio",
    "RetryRules",
    "Stop",
    "backoff_s",
    "breaker_rules",
    "classify",
    "climb",
    "decide",
    "retry_after_s",
    "retry_rules",
]
