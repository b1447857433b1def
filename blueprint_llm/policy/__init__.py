"""Decisions over one call: what a failure means, whether and when to try again, which target to leave alone.

Everything here is pure: the clock, randomness and state are arguments.
"""

from blueprint_llm.policy.clues import CLUES

__all__ = ["CLUES"]
