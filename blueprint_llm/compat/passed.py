"""LiteLLM's other functions (`embedding`, ...) at a Router's deployments: its routing, nothing of the rest."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from blueprint_llm.adapters import _litellm
from blueprint_llm.compat.failures import both, litellm_failure
from blueprint_llm.dispatch import passed_call
from blueprint_llm.errors import BlueprintError, CallError, NoTargetError
from blueprint_llm.explain import plan
from blueprint_llm.steps import Act

if TYPE_CHECKING:
    from blueprint_llm.adapters import Call
    from blueprint_llm.parts import Parts
    from blueprint_llm.pipeline import Steps
    from blueprint_llm.types import ChatRequest


def passed(parts: Parts, function: str, request: ChatRequest) -> Steps:
    """What LiteLLM's `function` returns at the first deployment that answers. Raises LiteLLM's exceptions."""
    try:
        return (yield from _first_answer(parts, function, request))
    except CallError as error:
        failure = litellm_failure(error, first=True)
    except BlueprintError as error:
        failure = both(error)
    raise failure


def _first_answer(parts: Parts, function: str, request: ChatRequest) -> Steps:
    route = yield from plan(parts, request)
    first: BlueprintError = NoTargetError([row.model_dump() for row in route.considered])
    for number, target in enumerate(route.targets):
        try:
            return (yield _act(function, passed_call(parts, request, target)))
        except CallError as error:
            first = error if number == 0 else first
            if not error.row.next_target:
                break
    raise first


def _act(function: str, call: Call) -> Act:
    return Act(
        blocking=partial(_litellm.passed, function, call), awaiting=partial(_litellm.apassed, f"a{function}", call)
    )
