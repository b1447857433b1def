"""Planning mode: a goal in, a plan out that has been checked against the project, its constraints and its cost.

The heavy model writes, code verifies. Nothing here knows a client: it is handed a function that answers requests.
"""

from __future__ import annotations

from blueprint_llm.planning.brief import PathRule, PlanLimits, read_brief, read_constraint
from blueprint_llm.planning.coordinator import PlanningCoordinator, PlanningSettings, PlanningTarget
from blueprint_llm.planning.costs import ModelChoice
from blueprint_llm.planning.lint import RULES, Finding, LintFacts, lint
from blueprint_llm.planning.revision import PlanDiff, diff_plans
from blueprint_llm.planning.running import run_plan
from blueprint_llm.planning.storage import PlanStore, plan_facts, read_plan_file, write_plan

__all__ = [
    "RULES",
    "Finding",
    "LintFacts",
    "ModelChoice",
    "PathRule",
    "PlanDiff",
    "PlanLimits",
    "PlanStore",
    "PlanningCoordinator",
    "PlanningSettings",
    "PlanningTarget",
    "diff_plans",
    "lint",
    "plan_facts",
    "read_brief",
    "read_constraint",
    "read_plan_file",
    "run_plan",
    "write_plan",
]
