"""Planning mode: a goal in, a plan out that has been checked against the project, its constraints and its cost.

The heavy model writes, code verifies. Nothing here knows a client: it is handed a function that answers requests.
"""

from __future__ import annotations

from blueprint_llm.planning.brief import read_brief
from blueprint_llm.planning.coordinator import PlanningCoordinator, PlanningSettings, PlanningTarget
from blueprint_llm.planning.lint import RULES, Finding, LintFacts, PathRule, PlanLimits, lint, read_constraint
from blueprint_llm.planning.plans import (
    ModelChoice,
    diff_plans,
    plan_facts,
    read_plan_file,
    run_plan,
    save_plan,
    write_plan,
)

__all__ = ["RULES", "Finding", "LintFacts", "ModelChoice", "PathRule", "PlanLimits", "PlanningCoordinator"]
__all__ += ["PlanningSettings", "PlanningTarget", "diff_plans", "lint", "plan_facts", "read_brief", "read_constraint"]
__all__ += ["read_plan_file", "run_plan", "save_plan", "write_plan"]
