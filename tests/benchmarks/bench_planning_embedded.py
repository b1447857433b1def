"""How many of ten goals the embedded model turns into valid plans, at temperature 0; about five minutes."""

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from fixtures_embedded import smollm2_weights

from blueprint_llm.adapters.local.embedded import EmbeddedModel
from blueprint_llm.context.policy import policy_for
from blueprint_llm.errors import PlanError
from blueprint_llm.planning import LintFacts, PlanningCoordinator, PlanningTarget, lint
from blueprint_llm.types import ChatResponse, PlanningContext

GOALS = {
    "Add a health check endpoint to a web service": ["GET /health answers 200 with JSON", "it covers the database"],
    "Move the configuration from INI to YAML": ["old files are still read", "a command converts a file"],
    "Write a command line tool that renames photos by date": ["a dry run", "files are never overwritten", "unit tests"],
    "Cache the results of slow database queries": ["entries expire", "the cache can be switched off"],
    "Let users reset a forgotten password": ["a mail with a link", "links expire", "attempts are limited"],
    "Publish a Python library": ["documentation", "a changelog"],
    "Log every request of an API": ["no secrets in the log", "JSON lines"],
    "Translate the user interface to German": ["texts are in one catalogue", "a test finds missing texts"],
    "Speed up the start of a desktop program": ["a benchmark is recorded"],
    "Back up a small server every night": ["backups are encrypted", "a restore is rehearsed", "old ones are deleted"],
}
LEAST = 8


def planned(model, goal, requirements):
    """Whether a valid plan came out; anything but a plan or a PlanError with findings is a crash."""

    async def ask(request):
        body = {
            "messages": [message.to_dict() for message in request.messages],
            "max_tokens": request.max_tokens,
            "temperature": 0,
            "response_format": request.params["response_format"],
        }
        choice = (await model.acomplete(body))["choices"][0]
        reason, text = choice["finish_reason"], choice["message"]["content"] or ""
        return ChatResponse(content=text, finish_reason=reason, provider="local", model="embedded/smollm2")

    policy = policy_for("local", "embedded/smollm2")
    target = PlanningTarget(provider="local", policy=policy, window_tokens=model.window_tokens)
    try:
        coordinator = PlanningCoordinator(ask, [target])
        plan = asyncio.run(coordinator.plan(PlanningContext(goal=goal, requirements=requirements)))
    except PlanError as error:
        if not error.findings:
            raise
        return False
    findings = lint(plan, LintFacts(requirements=frozenset(plan.metadata["requirements"])))
    if findings:
        raise AssertionError(findings)
    return True


def rows():
    """One row: valid plans of ten."""
    model = EmbeddedModel(smollm2_weights())
    valid = sum(planned(model, goal, requirements) for goal, requirements in GOALS.items())
    model.close()
    return [
        {
            "name": "embedded model: valid plans of ten goals",
            "ours": valid,
            "peer": "least",
            "peer_value": LEAST,
            "ratio": valid / LEAST,
            "target": 1.0,
            "ok": valid >= LEAST,
            "unit": "plans",
        }
    ]


if __name__ == "__main__":
    for line in rows():
        print(line)
