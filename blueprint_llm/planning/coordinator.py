"""Turns a goal into a plan that holds: asked for, checked, mended where that is safe, asked again once, or refused.

`PlanningCoordinator.plan` is a generator: it yields `Chat` and `Offload` steps and is sent their results, so the
same logic serves both clients and knows neither. No step, coverage or acceptance is ever invented here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from blueprint_llm.context import EVERYTHING, ContextPolicy, apply, estimate, message_tokens
from blueprint_llm.engine.steps import Offload
from blueprint_llm.errors import BlueprintError, CallError, PlanError
from blueprint_llm.planning.brief import ASKED, Brief, PlanLimits, output_tokens, read_brief
from blueprint_llm.planning.codebase import read_codebase
from blueprint_llm.planning.costs import ModelChoice, Price, with_costs
from blueprint_llm.planning.findings import Finding
from blueprint_llm.planning.lint import LintFacts, lint
from blueprint_llm.planning.pack import Pack, Project, Ranker, build_pack
from blueprint_llm.planning.prompts import correction, plan_messages, previous_part
from blueprint_llm.planning.repair import repair
from blueprint_llm.planning.revision import diff_plans
from blueprint_llm.planning.schema import plan_schema, read_plan, request_params
from blueprint_llm.planning.steps import Chat
from blueprint_llm.planning.summaries import SummaryCache, summarise
from blueprint_llm.types import ChatRequest, ChatResponse, ContextPart, Plan, PlanningContext

Mode = Literal["schema", "tool", "text"]
Walk = Generator[Chat | Offload, Any, Plan]

# A small window goes by three eighths to the answer: 4,096 tokens leave a 135M model the four steps it can write.
_ANSWER_SHARE = 3 / 8
_LEAST_STEPS = 3
_SLACK_TOKENS = 64
_NEXT_MODE: Mapping[Mode, Mode] = {"schema": "tool", "tool": "text", "text": "text"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanningTarget:
    """A provider that may be asked for a plan, in the order given.

    Attributes:
        provider: Its key of `providers`.
        policy: What of the project it may see.
        window_tokens: Input and answer together, if known.
        max_output_tokens: Most tokens of an answer, if known.
        mode: How it is told the schema: by `response_format`, by a tool, or in words.
    """

    provider: str
    policy: ContextPolicy = EVERYTHING
    window_tokens: int | None = None
    max_output_tokens: int | None = None
    mode: Mode = "schema"

    def limits(self, *, with_files: bool) -> PlanLimits:
        """How large a plan it can write."""
        bounds = [self.max_output_tokens, int(self.window_tokens * _ANSWER_SHARE) if self.window_tokens else None]
        room = min((bound for bound in bounds if bound is not None), default=None)
        if room is None:
            return ASKED
        per_step = output_tokens(replace(ASKED, max_steps=1), with_files=with_files)
        frame = output_tokens(replace(ASKED, max_steps=0), with_files=with_files)
        return replace(ASKED, max_steps=max(_LEAST_STEPS, min(ASKED.max_steps, (room - frame) // (per_step - frame))))


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanningSettings:
    """What planning needs to know besides its targets.

    Attributes:
        choices: The configured models that may carry out steps.
        price: USD of (model id, input tokens, output tokens); None where unknown.
        left_usd: What is left of the tightest budget; None for no budget.
        budget_blocks: Whether that budget blocks: then a plan over it is refused, else it carries a finding.
        max_context_tokens: Most tokens of a whole prompt.
        summaries: Whether files that do not fit are summarised by extra calls.
    """

    choices: Sequence[ModelChoice] = ()
    price: Price = lambda _model, _input, _output: None
    left_usd: float | None = None
    budget_blocks: bool = False
    max_context_tokens: int = 150_000
    summaries: bool = False
    cache: SummaryCache | None = None
    progress: Callable[[int], None] | None = None


class PlanningCoordinator:
    """Plans with the given targets, first to last, at most two requests each."""

    def __init__(self, targets: Sequence[PlanningTarget], settings: PlanningSettings | None = None) -> None:
        self.targets = tuple(targets)
        self.settings = settings or PlanningSettings()
        self._ranker = Ranker()
        self._cache = self.settings.cache or SummaryCache()

    def plan(self, context: PlanningContext) -> Walk:
        """The walk of one plan. Raises PlanError with the findings of the best attempt."""
        if not self.targets:
            raise PlanError("no planning provider: set planning.provider, chains.planning or chains.default")
        brief = read_brief(context)
        project = yield from self._read(context)
        findings: list[Finding] = []
        for target in self.targets:
            attempt = _Attempt(self, brief, target, project)
            plan = yield from attempt.run()
            if plan is not None:
                return plan
            findings += attempt.findings
        names = ", ".join(target.provider for target in self.targets)
        raise PlanError(
            f"no valid plan from {names}: {'; '.join(finding.message for finding in findings[:5])}",
            findings=[finding.to_dict() for finding in findings],
        )

    def _read(self, context: PlanningContext) -> Generator[Offload, Any, Project | None]:
        if context.codebase is None:
            return None
        codebase = yield Offload(function=partial(read_codebase, context.codebase, self.settings.progress))
        query = "\n".join([context.goal, *context.requirements])
        project: Project = yield Offload(function=partial(self._ranker.project, codebase, query))
        return project

    def summary_part(self, pack: Pack, target: PlanningTarget) -> Generator[Chat, Any, list[ContextPart]]:
        """What stands for the files that did not fit; nothing where summaries are off."""
        if not self.settings.summaries or not pack.overflow:
            return []
        part = yield from summarise(pack.overflow, target.provider, self._cache)
        return [part] if part else []


class _Attempt:
    """One target's two requests."""

    def __init__(
        self, coordinator: PlanningCoordinator, brief: Brief, target: PlanningTarget, project: Project | None
    ) -> None:
        self.coordinator, self.brief, self.target, self.project = coordinator, brief, target, project
        self.settings = coordinator.settings
        self.with_files = target.policy.shares_codebase
        self.limits = target.limits(with_files=self.with_files)
        self.schema = plan_schema(brief, self.limits, with_files=self.with_files)
        self.mode: Mode = target.mode
        self.findings: list[Finding] = []
        self.notes: list[str] = []

    def run(self) -> Generator[Chat | Offload, Any, Plan | None]:
        """The plan, or None with `findings` set."""
        context = yield from self._context()
        extra: list[dict[str, Any]] = []
        for _ in range(2):
            answer = yield from self._ask(context, extra)
            if answer is None:
                if self.mode == self.target.mode:
                    return None
                continue
            plan = self._judge(answer)
            if plan is not None:
                return plan
            extra = correction(_answer_text(answer), self.findings)
            self._bind_coverage()
        return None

    def _bind_coverage(self) -> None:
        """A model that left a requirement out is asked again under a schema that deals them out to the steps."""
        if any(finding.code == "uncovered_requirement" for finding in self.findings):
            self.notes = ["asked again with every requirement bound to a step"]
            self.schema = plan_schema(self.brief, self.limits, with_files=self.with_files, bound=True)

    def _context(self) -> Generator[Chat, Any, tuple[ContextPart, ...]]:
        """The parts this target may see; they are checked again wherever the request goes."""
        parts: list[ContextPart] = []
        if self.project is not None and self.with_files:
            pack = build_pack(self.project, max(0, self._room()))
            summary = yield from self.coordinator.summary_part(pack, self.target)
            parts = [*pack.parts, *summary]
        kept, _ = apply([*previous_part(self.brief), *parts], self.target.policy)
        return kept

    def _room(self) -> int:
        """The tokens left for the project: the prompt and a correction with a whole answer set aside."""
        answer = output_tokens(self.limits, with_files=self.with_files)
        window = self.target.window_tokens
        most = self.settings.max_context_tokens
        most = min(most, window - answer) if window else most
        previous = sum(part.tokens for part in previous_part(self.brief))
        return (
            most
            - sum(map(message_tokens, self._messages()))
            - estimate(json.dumps(self.schema))
            - (previous + answer + _SLACK_TOKENS)
        )

    def _messages(self) -> list[dict[str, Any]]:
        return plan_messages(self.brief, self.schema, with_files=self.with_files, show_schema=self.mode == "text")

    def _ask(
        self, context: tuple[ContextPart, ...], extra: list[dict[str, Any]]
    ) -> Generator[Chat, Any, ChatResponse | None]:
        """One request; a failure becomes a finding, and a refused schema the next way of telling it."""
        request = ChatRequest.model_validate(
            {
                "messages": [*self._messages(), *extra],
                "context": context,
                "provider": self.target.provider,
                "fallback": False,
                "temperature": 0,
                "max_tokens": output_tokens(self.limits, with_files=self.with_files),
                "task_type": "planning",
                "check_answer": False,  # lint says more than a schema, and the second request is this walk's
                **request_params(self.schema, self.mode),
            }
        )
        try:
            response: ChatResponse = yield Chat(request=request)
        except BlueprintError as error:
            self.findings = [Finding(code="call_failed", message=f"{self.target.provider}: {error}")]
            if isinstance(error, CallError) and error.category == "invalid_request":
                self.mode = _NEXT_MODE[self.mode]
            return None
        return response

    def _judge(self, answer: ChatResponse) -> Plan | None:
        """The finished plan; None with `findings` set when the answer cannot be used."""
        plan, self.findings = read_plan(_answer_text(answer), self._plan_id(), with_files=self.with_files)
        if plan is None:
            if answer.finish_reason == "length":
                self.findings.append(Finding(code="truncated", message="the answer was cut off: be briefer"))
            return None
        steps, notes = repair(
            plan.steps, self.brief.step_ids(len(plan.steps)), frozenset(s.id for s in self.brief.done)
        )
        plan = plan.model_copy(update={"steps": [*self.brief.done, *steps]})
        costed = with_costs(plan, self.settings.choices, self.settings.price, self._sizes())
        self.findings = lint(costed, self._facts())
        over_budget = [finding for finding in self.findings if finding.code == "over_budget"]
        if len(over_budget) < len(self.findings):
            return None
        if over_budget and self.settings.budget_blocks:
            raise PlanError(over_budget[0].message, findings=[finding.to_dict() for finding in over_budget])
        return self._finished(costed, notes, over_budget)

    def _facts(self) -> LintFacts:
        brief = self.brief
        return LintFacts(
            requirements=frozenset(brief.requirements) if brief.requirements else None,
            retired=brief.retired,
            rules=brief.rules,
            files=self.project.codebase.paths if self.project is not None and self.with_files else None,
            models=frozenset(choice.name for choice in self.settings.choices) if self.settings.choices else None,
            left_usd=self.settings.left_usd,
        )

    def _sizes(self) -> dict[str, int]:
        ranked = self.project.ranked if self.project is not None else ()
        return {file.path: estimate(file.text) for file in ranked}

    def _plan_id(self) -> str:
        if self.brief.previous is not None:
            return self.brief.previous.id
        return "plan-" + hashlib.sha256(self.brief.goal.encode()).hexdigest()[:10]

    def _finished(self, plan: Plan, notes: list[str], findings: list[Finding]) -> Plan:
        previous = self.brief.previous
        metadata = {
            **plan.metadata,
            "findings": [finding.to_dict() for finding in findings],
            "repairs": [*self.notes, *notes],
            "unverified": list(self.brief.unverified),
            "requirements": dict(self.brief.requirements),
            "retired": sorted(self.brief.retired),
            "constraints": list(self.brief.constraints),
            "planned_by": self.target.provider,
        }
        if previous is not None:
            metadata["changes"] = diff_plans(previous, plan).to_dict()
        revision = previous.revision + 1 if previous is not None else 1
        return plan.model_copy(update={"revision": revision, "metadata": metadata})


def _answer_text(answer: ChatResponse) -> str:
    """The answer's text, or the arguments of the tool it called."""
    return json.dumps(answer.tool_calls[0].arguments) if answer.tool_calls else answer.content


def plan_walk(context: PlanningContext, coordinator: PlanningCoordinator) -> Walk:
    """The walk of one plan, for a driver."""
    return coordinator.plan(context)


def drive(walk: Generator[Chat | Offload, Any, Plan], ask: Callable[[ChatRequest], ChatResponse]) -> Plan:
    """Run a planning walk with a blocking `ask`: planning on its own, without a client."""
    try:
        step = next(walk)
        while True:
            try:
                result = step.function() if isinstance(step, Offload) else ask(step.request)
            except BlueprintError as error:
                step = walk.throw(error)
            else:
                step = walk.send(result)
    except StopIteration as stop:
        plan: Plan = stop.value
        return plan
