"""Planning mode: a goal in, a plan out that has been checked against the project, its constraints and its cost.

The heavy model writes, code verifies. Everything here is a walk that yields what it needs and knows no client.
"""

from __future__ import annotations

from blueprint_llm.planning.brief import Brief, PathRule, PlanLimits, read_brief, read_constraint
from blueprint_llm.planning.coordinator import (
    PlanningCoordinator,
    PlanningSettings,
    PlanningTarget,
    drive,
    plan_walk,
)
from blueprint_llm.planning.costs import ModelChoice, Price, with_costs
from blueprint_llm.planning.findings import Finding
from blueprint_llm.planning.lint import RULES, LintFacts, lint
from blueprint_llm.planning.revision import PlanDiff, diff_plans
from blueprint_llm.planning.running import run_walk, with_status
from blueprint_llm.planning.steps import Chat, Keep, Perform
from blueprint_llm.planning.storage import PlanStore, plan_facts, read_plan_file, write_plan
from blueprint_llm.planning.summaries import SummaryCache

__all__ = [
    "RULES",
    "Brief",
    "Chat",
    "Finding",
    "Keep",
    "LintFacts",
    "ModelChoice",
    "PathRule",
    "Perform",
    "PlanDiff",
    "PlanLimits",
    "PlanStore",
    "PlanningCoordinator",
    "PlanningSettings",
    "PlanningTarget",
    "Price",
    "SummaryCache",
    "diff_plans",
    "drive",
    "lint",
    "plan_facts",
    "plan_walk",
    "read_brief",
    "read_constraint",
    "read_plan_file",
    "run_walk",
    "with_costs",
    "with_status",
    "write_plan",
]
