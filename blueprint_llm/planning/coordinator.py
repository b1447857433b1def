"""Turn a goal into a plan that holds: asked for, checked, mended where that is safe, asked again once, or refused.

No step, coverage or acceptance is invented here, and what the model did not say itself is named in
`metadata["repairs"]`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from blueprint_llm.context.policy import EVERYTHING, HELD_BACK, ContextPolicy, apply
from blueprint_llm.context.tokens import estimate, text_tokens
from blueprint_llm.errors import BlueprintError, CallError, NoTargetError, PlanError
from blueprint_llm.planning import brief as asking
from blueprint_llm.planning.lint import Finding, LintFacts, PlanLimits, lint
from blueprint_llm.planning.plans import ModelChoice, Price, diff_plans, repair, with_costs
from blueprint_llm.planning.project import Chat, Codebase, Summaries, build_pack, planning_request, read_codebase
from blueprint_llm.types import ChatResponse, ContextPart, Plan, PlanningContext

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from blueprint_llm.planning.brief import Brief

Mode = Literal["schema", "tool", "text"]

# A small window goes by three eighths to the answer: 4,096 tokens leave a 135M model the four steps it can write.
_ANSWER_SHARE = 3 / 8
_LEAST_STEPS = 3
_SLACK_TOKENS = 64
_EMBEDDED = "embedded/smollm2"
_NEXT_MODE: Mapping[Mode, Mode] = {"schema": "tool", "tool": "text", "text": "text"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanningTarget:
    """A provider that may be asked for a plan."""

    provider: str | None = None  # its key of `providers`; None: whom the client's routing chooses
    policy: ContextPolicy = EVERYTHING  # what of the project it may see
    window_tokens: int | None = None  # input and answer together, if known
    max_output_tokens: int | None = None  # most tokens of an answer, if known
    mode: Mode = "schema"  # how it is told the schema: by `response_format`, by a tool, or in words

    @property
    def name(self) -> str:
        """The provider's name in texts."""
        return self.provider or "the client"

    def limits(self, *, with_files: bool) -> PlanLimits:
        """Return how large a plan it can write."""
        most, bounds = asking.ASKED, [self.max_output_tokens]
        bounds += [int(self.window_tokens * _ANSWER_SHARE)] if self.window_tokens else []
        room = min((bound for bound in bounds if bound is not None), default=None)
        if room is None:
            return most
        frame, one = (asking.output_tokens(replace(most, max_steps=n), with_files=with_files) for n in (0, 1))
        return replace(most, max_steps=max(_LEAST_STEPS, min(most.max_steps, (room - frame) // (one - frame))))


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanningSettings:
    """What planning needs to know besides its targets."""

    choices: Sequence[ModelChoice] = ()  # the configured models that may carry out steps
    price: Price = lambda _model, _input, _output: None
    left_usd: float | None = None  # what is left of the tightest budget; None for no budget
    budget_blocks: bool = False  # whether that budget blocks: then a plan over it is refused, else it carries a finding
    max_context_tokens: int = 150_000  # most tokens of a whole prompt
    summaries: bool = False  # whether files that do not fit are summarised by extra calls
    summary_folder: Path | None = None  # where summaries are kept; None: nowhere
    # told how many files of a codebase have been read, from another thread
    progress: Callable[[int], None] | None = None


class PlanningCoordinator:
    """Plans with the given targets, first to last, at most two requests each.

    Example:
        plan = await PlanningCoordinator(client.chat).plan(PlanningContext(goal="add a health check"))

    Args:
        chat: Answers a `ChatRequest`: `LLMClient.chat`, or any coroutine function.
        targets: Whom to ask, in order; by default whom the client's routing chooses.
        settings: Prices, budgets and sizes.
    """

    def __init__(
        self, chat: Chat, targets: Sequence[PlanningTarget] | None = None, settings: PlanningSettings | None = None
    ) -> None:
        self.chat = chat
        self.targets = (PlanningTarget(),) if targets is None else tuple(targets)
        self.settings = settings or PlanningSettings()

    async def plan(self, context: PlanningContext) -> Plan:
        """Return a plan that passes every check. Raises PlanError with the findings of the attempts."""
        if not self.targets:
            raise PlanError("no planning provider: set planning.provider, chains.planning or chains.default")
        brief = asking.read_brief(context)
        codebase: Codebase | None = None
        if context.codebase is not None:  # read once for all targets, on a thread: a disk may be slow
            codebase = await asyncio.to_thread(read_codebase, context.codebase, self.settings.progress)
            codebase = await asyncio.to_thread(codebase.ranked, "\n".join([context.goal, *context.requirements]))
        findings: list[Finding] = []
        more = ""
        for target in self.targets:
            attempt = _Attempt(self.chat, self.settings, brief, target, codebase)
            plan = await attempt.run()
            if plan is not None:
                return plan
            findings += [*attempt.findings, *attempt.notices()]
            more = attempt.more or more
        names = ", ".join(target.name for target in self.targets)
        raise PlanError(
            f"no valid plan from {names}: {'; '.join(finding.message for finding in findings[:5])}{more}",
            findings=[finding.to_dict() for finding in findings],
        )


class _Attempt:
    """One target's two requests."""

    def __init__(
        self, chat: Chat, settings: PlanningSettings, brief: Brief, target: PlanningTarget, codebase: Codebase | None
    ) -> None:
        self.chat, self.settings, self.brief, self.target, self.codebase = chat, settings, brief, target, codebase
        self.with_files = target.policy.shares_codebase
        self.limits = target.limits(with_files=self.with_files)
        self.output_tokens = asking.output_tokens(self.limits, with_files=self.with_files)
        self.bound: dict[str, list[str]] = {}
        self.schema = self._schema()
        self.mode: Mode = target.mode
        self.findings: list[Finding] = []
        self.answer: ChatResponse | None = None
        self.more = ""

    async def run(self) -> Plan | None:
        """Return the plan, or None with `findings` set."""
        context = await self._context()
        extra: list[dict[str, Any]] = []
        for _ in range(2):
            answer = await self._ask(context, extra)
            if answer is None and self.mode == self.target.mode:
                return None  # not the way of asking was at fault: the next target may do better
            if answer is None:
                continue
            if (plan := self._judge(answer)) is not None:
                return plan
            extra = asking.correction(_answer_text(answer), self.findings)
            if any(finding.code == "uncovered_requirement" for finding in self.findings):
                # Asked again under a schema that deals the requirements out to the steps.
                ids, wanted = self.brief.step_ids(self.limits.max_steps), list(self.brief.requirements)
                self.bound = {name: share for n, name in enumerate(ids) if (share := wanted[n :: len(ids)])}
                self.schema = self._schema()
        return None

    def _schema(self) -> asking.Schema:
        return asking.plan_schema(self.brief, self.limits, with_files=self.with_files, bound=self.bound)

    async def _context(self) -> tuple[ContextPart, ...]:
        """Return the parts this target may see; they are checked again wherever the request goes."""
        parts: list[ContextPart] = []
        if self.brief.previous is not None:  # another answer about the project
            text = self.brief.previous.to_markdown()
            parts.append(ContextPart(kind="memory", source="previous plan", text=text))
        if self.codebase is not None and self.with_files:
            packed, overflow = build_pack(self.codebase, max(0, self._room(parts)))
            parts += packed
            if self.settings.summaries and overflow:
                summaries = Summaries(self.chat, self.target.provider, self.settings.summary_folder)
                parts += filter(None, [await summaries.of(overflow)])
        return apply(parts, self.target.policy)[0]

    def _room(self, previous: Sequence[ContextPart]) -> int:
        """Return the tokens left for the project: the prompt and a correction with a whole answer set aside."""
        window, most = self.target.window_tokens, self.settings.max_context_tokens
        most = min(most, window - self.output_tokens) if window else most
        prompt = estimate(self._messages(), [self.schema]) + sum(part.tokens for part in previous)
        return most - prompt - self.output_tokens - _SLACK_TOKENS

    def _messages(self) -> list[dict[str, Any]]:
        shown = self.schema if self.mode == "text" else None
        return asking.plan_messages(self.brief, shown, with_files=self.with_files)

    async def _ask(self, context: tuple[ContextPart, ...], extra: list[dict[str, Any]]) -> ChatResponse | None:
        """Ask once; a failure becomes a finding, and a refused schema the next way of telling it."""
        request = planning_request(
            self.target.provider,
            messages=[*self._messages(), *extra],
            context=context,
            max_tokens=self.output_tokens,
            check_answer=False,  # lint says more than a schema, and the second request is this attempt's
            **asking.request_params(self.schema, self.mode),
        )
        try:
            self.answer = await self.chat(request)
        except BlueprintError as error:
            text = error.reasons if isinstance(error, NoTargetError) else str(error)
            self.more = getattr(error, "more", "")
            is_named = text.startswith(f"{self.target.name} (")
            self.findings = [Finding("call_failed", text if is_named else f"{self.target.name}: {text}")]
            if isinstance(error, CallError) and error.category == "invalid_request":
                self.mode = _NEXT_MODE[self.mode]
            return None
        return self.answer

    def _judge(self, answer: ChatResponse) -> Plan | None:
        """Return the finished plan; None with `findings` set when the answer cannot be used."""
        brief, settings = self.brief, self.settings
        goal = hashlib.sha256(brief.goal.encode()).hexdigest()
        plan_id = brief.previous.id if brief.previous else f"plan-{goal[:10]}"
        plan, self.findings = asking.read_plan(_answer_text(answer), plan_id, with_files=self.with_files)
        if plan is None:
            if answer.finish_reason == "length":
                self.findings.append(Finding("truncated", "the answer was cut off: be briefer"))
            return None
        done = frozenset(step.id for step in brief.done)
        steps, notes = repair(plan.steps, brief.step_ids(len(plan.steps)), done)
        notes += [
            f"{step.id}: covers {name} because the second request's schema said so"
            for step in steps
            for name in self.bound.get(step.id, ())
            if name in step.covers
        ]
        plan = plan.model_copy(update={"steps": [*brief.done, *steps]})
        costed = with_costs(plan, settings.choices, settings.price, self._sizes(plan))
        self.findings = lint(costed, self._facts())
        over_budget = [finding for finding in self.findings if finding.code == "over_budget"]
        if len(over_budget) < len(self.findings):
            return None
        if over_budget and settings.budget_blocks:
            raise PlanError(over_budget[0].message, findings=[finding.to_dict() for finding in over_budget])
        return self._finished(costed, notes, over_budget)

    def _facts(self) -> LintFacts:
        return LintFacts(
            requirements=frozenset(self.brief.requirements) or None,
            retired=self.brief.retired,
            rules=self.brief.rules,
            files=self.codebase.paths if self.codebase is not None and self.with_files else None,
            models=frozenset(choice.name for choice in self.settings.choices) or None,
            left_usd=self.settings.left_usd,
        )

    def _sizes(self, plan: Plan) -> dict[str, int]:
        touched = {change.path for step in plan.steps for change in step.files}
        files = self.codebase.files if self.codebase is not None else ()
        return {file.path: text_tokens(file.text) for file in files if file.path in touched}

    def notices(self) -> list[Finding]:
        """Return what the reader of a plan must know about how it was made."""
        by = (self.answer and self.answer.provider) or self.target.name
        reasons = self.answer.trace.get("context", ()) if self.answer else ()
        about = {"the codebase": self.codebase, "the previous plan": self.brief.previous}
        hidden = " and ".join(what for what, value in about.items() if value is not None)
        found: list[Finding] = []
        if hidden and (not self.with_files or any(HELD_BACK in reason for reason in reasons)):
            why = " because its model runs on this machine" if self.target.policy.local else ""
            mend = f"set providers.{by}.share_codebase to true to allow it"
            found.append(Finding("codebase_not_shared", f"{by} was not shown {hidden}{why}: {mend}"))
        elif self.codebase is not None:
            found += [Finding("unread_file", note) for note in self.codebase.notes]
            unread = self.codebase.named - {file.path for file in self.codebase.files}
            what = "not read (binary, or too large)"
            found += [Finding("unread_file", f"{path}: {what}", path=path) for path in sorted(unread)]
        if self.answer is not None and self.answer.model == _EMBEDDED:
            text = "a model of 135 million parameters made this plan: its form is checked, read its content with care"
            found.append(Finding("small_model", text))
        return found

    def _finished(self, plan: Plan, notes: list[str], findings: list[Finding]) -> Plan:
        brief, previous = self.brief, self.brief.previous
        metadata = {
            **plan.metadata,
            "findings": [finding.to_dict() for finding in findings],
            "notices": [notice.to_dict() for notice in self.notices()],
            "repairs": notes,
            "unverified": list(brief.unverified),
            "requirements": dict(brief.requirements),
            "retired": sorted(brief.retired),
            "constraints": list(brief.constraints),
            "planned_by": self.target.provider or (self.answer and self.answer.provider),
        }
        if previous is not None:
            metadata["changes"] = diff_plans(previous, plan)
        return plan.model_copy(update={"revision": previous.revision + 1 if previous else 1, "metadata": metadata})


def _answer_text(answer: ChatResponse) -> str:
    """Return the answer's text, or the arguments of the tool it called."""
    return json.dumps(answer.tool_calls[0].arguments) if answer.tool_calls else answer.content
