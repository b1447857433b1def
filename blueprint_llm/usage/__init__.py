"""Limits, estimates and sums: `Ledger` for the walk, `UsageTracker` for whoever asks what was used."""

from __future__ import annotations

from blueprint_llm.usage.estimate import Margins, upper_bound, worth_counting
from blueprint_llm.usage.hits import Hits
from blueprint_llm.usage.ledger import Cap, Estimate, Ledger, Outcome, Reservation, denial, standing, tokens_of
from blueprint_llm.usage.limits import Payer
from blueprint_llm.usage.tracker import UsageTracker

__all__ = [
    "Cap",
    "Estimate",
    "Hits",
    "Ledger",
    "Margins",
    "Outcome",
    "Payer",
    "Reservation",
    "UsageTracker",
    "denial",
    "standing",
    "tokens_of",
    "upper_bound",
    "worth_counting",
]
