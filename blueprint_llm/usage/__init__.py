"""Limits, estimates and sums: `Ledger` for the engine, `UsageTracker` for whoever asks what was used."""

from __future__ import annotations

from blueprint_llm.usage.ledger import Cap, Estimate, Ledger, Outcome, Payer, denial, standing
from blueprint_llm.usage.pricing.bounds import Demand, demand
from blueprint_llm.usage.tracker import UsageTracker

__all__ = ["Cap", "Demand", "Estimate", "Ledger", "Outcome", "Payer", "UsageTracker", "demand", "denial", "standing"]
