"""The agent loop as a generator: it yields what it needs (a chat, approvals, tool runs) and never blocks.

chat -> judge every call -> one approval batch -> run -> one `tool` message per call, in call order -> chat again, until
the model calls nothing more or a limit ends it.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from blueprint_llm.errors import ApprovalPending, BudgetExceededError, QuotaExceededError
from blueprint_llm.tools.approval import ApprovalDecision, ApprovalRequest, answers_to, request_for
from blueprint_llm.tools.calls import Ready
from blueprint_llm.tools.pending import PendingStore
from blueprint_llm.tools.secretbox import state_folder
from blueprint_llm.types import ChatMessage, ChatRequest, ChatResponse, Record, ToolCall, ToolResult, UsageInfo

if TYPE_CHECKING:
    from blueprint_llm.tools.engine import ToolEngine
    from blueprint_llm.tools.judge import Judged


class RunResult(Record):
    """What a run came to.

    Attributes:
        content: The model's last text.
        messages: The whole conversation, ready to be continued.
        stop: Why it ended; `approval` only on `ApprovalPending.result`.
        usage: Tokens and cost of all its chats.
        trace: The last chat's.
        state_id: What `resume` takes, where it waits.
    """

    content: str = ""
    messages: list[ChatMessage] = Field(default_factory=list)
    tool_results: list[ToolResult] = Field(default_factory=list)
    stop: Literal["done", "max_turns", "max_denials", "budget", "approval"] = "done"
    usage: UsageInfo | None = None
    trace: dict[str, Any] = Field(default_factory=dict)
    state_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """Send a request; the result is a `ChatResponse`, an error of it is thrown in."""

    request: ChatRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Approve:
    """Ask for decisions; the result is a list of them, or None where nobody is there to ask."""

    batch: tuple[ApprovalRequest, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Execute:
    """Run calls, at most `parallel` at once; the result is a list of `ToolResult` in their order."""

    calls: tuple[Ready, ...]
    parallel: int = 1


Step = Chat | Approve | Execute
Run = Generator[Step, Any, RunResult]


@dataclass(slots=True, kw_only=True)
class _Run:
    """A run under way."""

    engine: ToolEngine
    request: ChatRequest
    id: str
    turn: int = 0
    denials: int = 0
    tainted: bool = False
    messages: list[dict[str, Any]] = field(default_factory=list)
    results: list[ToolResult] = field(default_factory=list)
    usage: UsageInfo | None = None
    content: str = ""
    trace: dict[str, Any] = field(default_factory=dict)
    state_id: str | None = None

    def ended(self, stop: Any) -> RunResult:
        return RunResult(
            content=self.content,
            messages=[ChatMessage(**message) for message in self.messages],
            tool_results=self.results,
            stop=stop,
            usage=self.usage,
            trace=self.trace,
            state_id=self.state_id if stop == "approval" else None,
        )

    def take(self, response: ChatResponse) -> None:
        """Count an answer and append it to the conversation."""
        self.content, self.trace = response.content, dict(response.trace)
        self.usage = _sum(self.usage, response.usage)
        message: dict[str, Any] = {"role": "assistant", "content": response.content}
        if response.tool_calls:
            message["tool_calls"] = [_as_message(call) for call in response.tool_calls]
        self.messages.append(message)

    def settle(self, calls: Sequence[ToolCall], results: Mapping[str, ToolResult]) -> None:
        """Append one message per call, in call order, and note what they mean for the run."""
        for call in calls:
            result = results[call.id]
            registered = self.engine.registered(call.name)
            self.tainted |= bool(registered and registered.traits.outside and result.status != "denied")
            self.denials += result.status == "denied"
            self.results.append(result)
            self.messages.append(result.to_message().to_dict())


def run_loop(engine: ToolEngine, request: ChatRequest) -> Run:
    """Work on a request with the engine's tools.

    Raises:
        ApprovalPending: When a call waits for a person; its `result` is the run so far.
    """
    tools = request.tools if request.tools is not None else engine.tools()
    run = _Run(engine=engine, request=request.model_copy(update={"tools": tools}), id=engine.world.random(8).hex())
    run.messages = [message.to_dict() for message in request.messages]
    return (yield from _turns(run))


def resume_loop(engine: ToolEngine, state_id: str, decisions: Any) -> Run:
    """Go on with a run that waited.

    Args:
        engine: With the policy of today.
        state_id: From `ApprovalPending`.
        decisions: One per waiting call in order, or by call id: an `ApprovalDecision`, its fields, or a bool.

    Raises:
        ToolDeniedError: When the stored run is missing, used up, expired or was changed.
        ApprovalPending: When it must wait again.
    """
    kept = _store(engine).claim(state_id)
    run = _restored(engine, kept.state, state_id)
    calls = [ToolCall(**call) for call in kept.state["calls"]]
    done = _already_started(run, calls) if kept.resumed_before else {}
    waiting = [ApprovalRequest(**{**item, "reasons": tuple(item["reasons"])}) for item in kept.state["waiting"]]
    answers = {} if kept.resumed_before else _by_id(waiting, decisions)
    yield from _work(
        run, calls, known=done, shown={item.id: (item, answers[item.id]) for item in waiting if item.id in answers}
    )
    return (yield from _turns(run))


def _turns(run: _Run) -> Run:
    limits = run.engine.settings.loop
    while run.turn < limits.max_turns:
        if run.denials > limits.max_denials:
            return run.ended("max_denials")
        run.turn += 1
        try:
            response = yield Chat(
                request=run.request.model_copy(update={"messages": [ChatMessage(**m) for m in run.messages]})
            )
        except (BudgetExceededError, QuotaExceededError):
            return run.ended("budget")
        run.take(response)
        if not response.tool_calls:
            return run.ended("done")
        yield from _work(run, _distinct(response.tool_calls), known={}, shown={})
    return run.ended("max_denials" if run.denials > limits.max_denials else "max_turns")


Shown = dict[str, tuple[ApprovalRequest, ApprovalDecision]]


def _work(
    run: _Run, calls: list[ToolCall], *, known: dict[str, ToolResult], shown: Shown
) -> Generator[Step, Any, None]:
    """Bring every call of a turn to a result; `shown` holds what a person has answered already."""
    open_calls = [call for call in calls if call.id not in known]
    judged = {call.id: run.engine.judge(call, tainted=run.tainted) for call in open_calls}
    asked = [
        call
        for call in open_calls
        if judged[call.id].decision.decision == "ask" and not _still_good(call, judged, shown)
    ]
    batch = tuple(request_for(call, judged[call.id]) for call in asked)
    answers = dict(shown)
    if batch:
        found = yield Approve(batch=batch)
        listed = answers_to(batch, found) if found is not None else [ApprovalDecision(decision="later")] * len(batch)
        if any(answer.decision == "later" for answer in listed):
            raise _pending(run, calls, judged)
        answers |= {item.id: (item, answer) for item, answer in zip(batch, listed, strict=True)}
    results = {**known, **(yield from _run_all(run, open_calls, judged, answers))}
    run.settle(calls, results)
    if run.state_id:
        _store(run.engine).forget(run.state_id)
        run.state_id = None


def _still_good(call: ToolCall, judged: Mapping[str, Judged], shown: Shown) -> bool:
    """Whether a stored answer is about this call as it stands now."""
    found = shown.get(call.id)
    return (
        found is not None
        and found[1].decision != "later"
        and (found[0].binding == judged[call.id].binding or found[1].decision == "reject")
    )


def _run_all(
    run: _Run, calls: Sequence[ToolCall], judged: Mapping[str, Judged], answers: Shown
) -> Generator[Step, Any, dict[str, ToolResult]]:
    """Run what may run, side by side only where every call of a stretch is marked safe for it."""
    results: dict[str, ToolResult] = {}
    stretch: list[Ready] = []
    for call in calls:
        basis = Ready(call=call, tainted=run.tainted, run=f"{run.id}:{run.turn}")
        settled: Ready | ToolResult = basis
        if judged[call.id].decision.decision == "ask":
            settled = run.engine.settle(call, *answers[call.id], basis)
        if isinstance(settled, ToolResult):
            results[call.id] = settled
        elif judged[call.id].registered.traits.parallel:
            stretch.append(settled)
        else:
            results |= yield from _execute(run, stretch)
            stretch = []
            results |= yield from _execute(run, [settled])
    return {**results, **(yield from _execute(run, stretch))}


def _execute(run: _Run, batch: list[Ready]) -> Generator[Step, Any, dict[str, ToolResult]]:
    if not batch:
        return {}
    found: list[ToolResult] = yield Execute(calls=tuple(batch), parallel=run.engine.settings.loop.parallel)
    return {ready.call.id: result for ready, result in zip(batch, found, strict=True)}


def _pending(run: _Run, calls: Sequence[ToolCall], judged: Mapping[str, Judged]) -> ApprovalPending:
    waiting = [
        request_for(call, judged[call.id])
        for call in calls
        if call.id in judged and judged[call.id].decision.decision == "ask"
    ]
    state = {
        "run": run.id,
        "turn": run.turn,
        "denials": run.denials,
        "tainted": run.tainted,
        "content": run.content,
        "messages": run.messages,
        "request": run.request.model_dump(mode="json", exclude={"messages"}, exclude_unset=True),
        "results": [result.model_dump(mode="json") for result in run.results],
        "usage": run.usage.model_dump() if run.usage else None,
        "calls": [call.model_dump() for call in calls],
        "waiting": [{name: getattr(item, name) for name in ApprovalRequest.__slots__} for item in waiting],
    }
    if run.state_id:
        _store(run.engine).forget(run.state_id)
    run.state_id = _store(run.engine).keep(state)
    pending = ApprovalPending(run.state_id)
    pending.result = run.ended("approval")  # type: ignore[attr-defined] # the run so far, for whoever catches it
    pending.requests = waiting  # type: ignore[attr-defined] # what waits
    return pending


def _restored(engine: ToolEngine, state: Mapping[str, Any], state_id: str) -> _Run:
    return _Run(
        engine=engine,
        request=ChatRequest(**state["request"], messages=state["messages"]),
        id=state["run"],
        turn=state["turn"],
        denials=state["denials"],
        tainted=state["tainted"],
        content=state["content"],
        messages=list(state["messages"]),
        results=[ToolResult(**result) for result in state["results"]],
        usage=UsageInfo(**state["usage"]) if state["usage"] else None,
        state_id=state_id,
    )


def _already_started(run: _Run, calls: Sequence[ToolCall]) -> dict[str, ToolResult]:
    """Results for calls that a killed resume had begun: they are told, and not repeated unless that is harmless."""
    here = f"{run.id}:{run.turn}"
    events: dict[str, Mapping[str, Any]] = {}
    for record in run.engine.audit.records():
        if record.get("run") == here and record.get("event") in {"intent", "outcome"}:
            events[record["call"]] = record
    results = {}
    for call in calls:
        registered = run.engine.registered(call.name)
        if call.id in events and not (registered and registered.traits.idempotent):
            results[call.id] = _told_again(call, events[call.id])
    return results


def _told_again(call: ToolCall, record: Mapping[str, Any]) -> ToolResult:
    if record["event"] == "outcome":
        text = f"it ran before the interruption, outcome {record['status']}; its output is lost"
    else:
        text = "it was started before the interruption; whether it took effect is not known, and it was not repeated"
    return ToolResult(tool_call_id=call.id, name=call.name, status="unknown", content=text, audit_seq=record["seq"])


def _by_id(waiting: Sequence[ApprovalRequest], decisions: Any) -> dict[str, ApprovalDecision]:
    if isinstance(decisions, Mapping):
        known = [item for item in waiting if item.id in decisions]
        return dict(
            zip([item.id for item in known], answers_to(known, [decisions[item.id] for item in known]), strict=True)
        )
    return dict(zip([item.id for item in waiting], answers_to(waiting, decisions), strict=True))


def _distinct(calls: Sequence[ToolCall]) -> list[ToolCall]:
    """The calls with ids that differ, as some models repeat them."""
    seen: set[str] = set()
    distinct = []
    for number, call in enumerate(calls):
        unique = call.id if call.id and call.id not in seen else f"{call.id or 'call'}-{number}"
        seen.add(unique)
        distinct.append(call.model_copy(update={"id": unique}))
    return distinct


def _as_message(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": json.dumps(call.arguments)}}


def _sum(left: UsageInfo | None, right: UsageInfo | None) -> UsageInfo | None:
    if left is None or right is None:
        return left or right
    costs = [left.estimated_cost, right.estimated_cost]
    counts = (
        "prompt_tokens",
        "completion_tokens",
        "total_tokens",
        "cached_tokens",
        "reasoning_tokens",
        "cache_write_tokens",
    )
    return UsageInfo(
        **{name: getattr(left, name) + getattr(right, name) for name in counts},
        estimated_cost=None if None in costs else sum(cost or 0 for cost in costs),
        source=right.source,
    )


def _store(engine: ToolEngine) -> PendingStore:
    return PendingStore(state_folder("pending"), engine.key(), engine.world.clock, engine.world.random)
