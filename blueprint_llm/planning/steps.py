"""What a planning walk asks of whoever drives it, next to `blueprint_llm.engine.steps.Offload`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from blueprint_llm.types import ChatRequest, Plan, PlanStep


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """Answer `request`; the result is a `ChatResponse`, a `BlueprintError` is thrown into the walk."""

    request: ChatRequest
    purpose: Literal["plan", "summary", "acceptance"] = "plan"


@dataclass(frozen=True, slots=True, kw_only=True)
class Perform:
    """Carry out one step of a plan through the tool loop; the result has the last answer's text as `content`."""

    step: PlanStep
    messages: list[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """Save the plan as it stands now."""

    plan: Plan
