"""Decisions over one call: what a failure means, whether and when to try again, which target to leave alone.

Everything here is pure: the clock, randomness and state are arguments.
"""

from blueprint_llm.policy.classification import Classified, classify, wait_s
from blueprint_llm.policy.clues import CLUES, LASTING, Clue
from blueprint_llm.policy.decision import Decision, Fail, NextTarget, Progress, Retry, decide
from blueprint_llm.policy.recovery import UNCHANGED, Change, RecoveryOptions, recovery_step
from blueprint_llm.policy.retry import HeldBack, RetryRatio, RetryRules, backoff_s, retry_after_s

__all__ = [
    "CLUES",
    "LASTING",
    "UNCHANGED",
    "Change",
    "Classified",
    "Clue",
    "Decision",
    "Fail",
    "HeldBack",
    "NextTarget",
    "Progress",
    "RecoveryOptions",
    "Retry",
    "RetryRatio",
    "RetryRules",
    "backoff_s",
    "classify",
    "decide",
    "recovery_step",
    "retry_after_s",
    "wait_s",
]
