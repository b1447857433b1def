"""The agent loop: chat, judge every call, ask once for all, run, one `tool` message a call in call order, again.

It ends when the model calls nothing more, or at a limit. An error on the way carries the run so far, and what waits,
for a person or for a second try, can be taken up again by its `state_id`.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from blueprint_llm.errors import ApprovalPending, BudgetExceededError, QuotaExceededError, ToolCallInvalidError
from blueprint_llm.streaming.chunks import text_of
from blueprint_llm.tools.approval import ApprovalDecision, ApprovalRequest, answers_to, request_for
from blueprint_llm.tools.engine import Ready, ToolEngine
from blueprint_llm.tools.sealed import PendingStore, state_folder
from blueprint_llm.types import ChatMessage, ChatRequest, ChatResponse, Record, ToolCall, ToolResult, UsageInfo

if TYPE_CHECKING:
    from blueprint_llm.tools.rules import Judged

Chat = Callable[[ChatRequest], Awaitable[ChatResponse]]
Stop = Literal["done", "max_turns", "max_denials", "budget", "approval", "error"]


class RunResult(Record):
    """What a run came to.

    Attributes:
        content: The model's last text.
        messages: The whole conversation, ready to be continued.
        stop: Why it ended; `approval` only on `ApprovalPending.result`, `error` only on an error's `run`.
        usage: Tokens and cost of all its chats.
        trace: The last chat's.
        state_id: What `resume` takes, where it can go on.
    """

    content: str = ""
    messages: list[ChatMessage] = Field(default_factory=list)
    tool_results: list[ToolResult] = Field(default_factory=list)
    stop: Stop = "done"
    usage: UsageInfo | None = None
    trace: dict[str, Any] = Field(default_factory=dict)
    state_id: str | None = None


@dataclass(slots=True, kw_only=True)
class _Run:
    """A run under way."""

    engine: ToolEngine
    request: ChatRequest
    chat: Chat
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

    def ended(self, stop: Stop) -> RunResult:
        return RunResult(
            content=self.content,
            messages=[ChatMessage(**message) for message in self.messages],
            tool_results=self.results,
            stop=stop,
            usage=self.usage,
            trace=self.trace,
            state_id=self.state_id if stop in {"approval", "error"} else None,
        )

    def take(self, response: ChatResponse) -> list[ToolCall]:
        """Count an answer and append it to the conversation as it came; its calls, with ids that differ."""
        self.content, self.trace = response.content, dict(response.trace)
        self.usage = _sum(self.usage, response.usage)
        calls = _distinct(response.tool_calls)
        self.messages.append(_received(response, calls))
        return calls

    def settle(self, calls: Sequence[ToolCall], results: Mapping[str, ToolResult]) -> None:
        """Append one message per call, in call order, and note what they mean for the run."""
        for call in calls:
            result = results[call.id]
            registered = self.engine.registered(call.name)
            self.tainted |= bool(registered and registered.traits.outside and result.status != "denied")
            self.denials += result.status == "denied"
            self.results.append(result)
            self.messages.append(result.to_message().to_dict())

    def keep(self, calls: Sequence[ToolCall] = (), waiting: Sequence[ApprovalRequest] = ()) -> None:
        """Store the run, to be taken up by `state_id`; an earlier state of it is void then."""
        state = {
            **{name: getattr(self, name) for name in _PLAIN},
            "request": self.request.model_dump(mode="json", exclude={"messages"}, exclude_unset=True),
            "results": [result.model_dump(mode="json") for result in self.results],
            "usage": self.usage.model_dump(mode="json") if self.usage else None,
            "calls": [call.model_dump() for call in calls],
            "waiting": [asdict(item) for item in waiting],
        }
        store = _store(self.engine)
        earlier, self.state_id = self.state_id, store.keep(state)
        if earlier:
            store.forget(earlier)


def _store(engine: ToolEngine) -> PendingStore:
    return PendingStore(state_folder("pending"), engine.key(), engine.world.clock, engine.world.random)


# What of a run is stored as it is.
_PLAIN = ("id", "turn", "denials", "tainted", "content", "messages")


async def run_loop(engine: ToolEngine, request: ChatRequest, chat: Chat) -> RunResult:
    """Work on a request with the engine's tools.

    Args:
        engine: Runs the tools.
        request: Without `tools`, all of the engine's are offered.
        chat: Sends a request to a model.

    Raises:
        ApprovalPending: A call waits for a person; its `result` is the run so far.
        Exception: What `chat` raises; its `run` is the run so far, which can be resumed.
    """
    await engine.connect()
    tools = request.tools if request.tools is not None else engine.tools()
    asked = request.model_copy(update={"tools": tools})
    run = _Run(engine=engine, request=asked, chat=chat, id=engine.world.random(8).hex())
    run.messages = [message.to_dict() for message in request.messages]
    return await _turns(run)


async def resume_loop(engine: ToolEngine, state_id: str, decisions: Any, chat: Chat) -> RunResult:
    """Go on with a run that waited, or that an error ended.

    Args:
        engine: With the policy of today.
        state_id: From `ApprovalPending` or `error.run`.
        decisions: One per waiting call in order, or by call id: an `ApprovalDecision`, its fields, or a bool.
        chat: Sends a request to a model.

    Raises:
        ToolDeniedError: When the stored run is missing, used up, expired or was changed.
        ApprovalPending: When it must wait again.
        Exception: As `run_loop`.
    """
    await engine.connect()
    state, is_interrupted = _store(engine).claim(state_id)
    run = _Run(
        **{name: state[name] for name in _PLAIN},
        engine=engine,
        request=ChatRequest(**state["request"], messages=state["messages"]),
        chat=chat,
        results=[ToolResult(**result) for result in state["results"]],
        usage=UsageInfo(**state["usage"]) if state["usage"] else None,
        state_id=state_id,
    )
    calls = [ToolCall(**call) for call in state["calls"]]
    if is_interrupted:
        await _work(run, calls, known=_already_started(run, calls), shown={})
        return await _turns(run)
    waiting = [
        ApprovalRequest(**{**item, "reasons": tuple(item["reasons"]), "effects": tuple(item["effects"])})
        for item in state["waiting"]
    ]
    if isinstance(decisions, Mapping):
        waiting = [item for item in waiting if item.id in decisions]
        decisions = [decisions[item.id] for item in waiting]
    answers = answers_to(waiting, decisions)
    await _work(run, calls, known={}, shown={item.id: (item, answers[at]) for at, item in enumerate(waiting)})
    return await _turns(run)


async def _turns(run: _Run) -> RunResult:
    limits = run.engine.settings.loop
    while run.turn < limits.max_turns:
        if run.denials > limits.max_denials:
            return run.ended("max_denials")
        run.turn += 1
        try:
            response = await run.chat(
                run.request.model_copy(update={"messages": [ChatMessage(**message) for message in run.messages]})
            )
        except (BudgetExceededError, QuotaExceededError):
            return run.ended("budget")
        except ToolCallInvalidError as error:
            # The model can mend its call once it is told what was wrong; not for ever.
            run.denials += 1
            if run.denials > limits.max_denials or not _answered(run, error):
                raise _carrying(error, run) from None
            continue
        except Exception as error:
            _carrying(error, run)
            raise
        calls = run.take(response)
        if not calls and _is_paused(response):  # the provider's own tools are not done: it goes on from its message
            continue
        if not calls:
            return run.ended("done")
        await _work(run, calls, known={}, shown={})
    return run.ended("max_denials" if run.denials > limits.max_denials else "max_turns")


def _is_paused(response: ChatResponse) -> bool:
    """Return True for an answer of Claude's that stopped in the middle of its own tools' work."""
    return (response.message.get("provider_specific_fields") or {}).get("stop_reason") == "pause_turn"


def _carrying(error: Exception, run: _Run) -> Exception:
    """The error, with the run so far on it, and the text that was received with it; kept out of its own text."""
    received = getattr(error, "message_received", None) or {}
    run.content = text_of(received.get("content")) or run.content
    try:
        run.keep()
    except Exception:  # noqa: BLE001 - a disk that fails must not take the place of what went wrong
        run.state_id = None
    error.run = run.ended("error")  # type: ignore[attr-defined] # for whoever catches it
    return error


def _answered(run: _Run, error: ToolCallInvalidError) -> bool:
    """Tell the model what was wrong with its call, as the result of it; False where the error does not say which."""
    verdict = error.verdict
    if verdict is None or not verdict.tool:
        return False
    identity, text = verdict.call_id or f"call-{run.turn}", f"not run: {verdict.clarification()}"
    # The message stays as it was received (some providers want the thoughts before a call back), but not what the model
    # wrote as arguments: it may be half a text, which no provider takes back.
    call = {"id": identity, "type": "function", "function": {"name": verdict.tool, "arguments": "{}"}}
    result = ToolResult(tool_call_id=identity, name=verdict.tool, status="error", content=text)
    run.results.append(result)
    message = {"role": "assistant", "content": None, **(error.message_received or {}), "tool_calls": [call]}
    run.messages += [message, result.to_message().to_dict()]
    return True


Shown = dict[str, tuple[ApprovalRequest, ApprovalDecision]]


async def _work(run: _Run, calls: list[ToolCall], *, known: dict[str, ToolResult], shown: Shown) -> None:
    """Bring every call of a turn to a result; `shown` holds what a person has answered already."""
    engine = run.engine
    open_calls = [call for call in calls if call.id not in known]
    judged = {call.id: engine.judge(call, tainted=run.tainted) for call in open_calls}
    asking = [call for call in open_calls if judged[call.id].decision.decision == "ask"]
    batch = [request_for(call, judged[call.id]) for call in asking if not _still_good(call, judged, shown)]
    answers = dict(shown)
    if batch:
        given = answers_to(batch, await engine.approve(batch)) if engine.approver is not None else []
        if not given or any(answer.decision == "later" for answer in given):
            waiting = [request_for(call, judged[call.id]) for call in asking]
            run.keep(calls, waiting)
            pending = ApprovalPending(str(run.state_id))
            pending.result = run.ended("approval")  # type: ignore[attr-defined] # the run so far, for whoever catches it
            pending.requests = waiting  # type: ignore[attr-defined] # what waits
            raise pending
        answers |= {item.id: (item, answer) for item, answer in zip(batch, given, strict=True)}
    results = {**known, **await _run_all(run, open_calls, judged, answers)}
    run.settle(calls, results)
    if run.state_id:  # what waited is done, and must not be done again
        _store(engine).forget(run.state_id)
        run.state_id = None


def _still_good(call: ToolCall, judged: Mapping[str, Judged], shown: Shown) -> bool:
    """Return True if a stored answer is about this call as it stands now."""
    if call.id not in shown:
        return False
    request, answer = shown[call.id]
    is_same = request.binding == judged[call.id].binding
    return answer.decision == "reject" or (is_same and answer.decision != "later")


async def _run_all(
    run: _Run, calls: Sequence[ToolCall], judged: Mapping[str, Judged], answers: Shown
) -> dict[str, ToolResult]:
    """Run what may run, side by side only where every call of a stretch is marked safe for it."""
    results: dict[str, ToolResult] = {}
    stretch: list[Ready] = []

    async def run_stretch() -> None:
        found = await run.engine.run_all(stretch, run.engine.settings.loop.parallel)
        results.update({ready.call.id: result for ready, result in zip(stretch, found, strict=True)})
        stretch.clear()

    for call in calls:
        basis = Ready(call=call, tainted=run.tainted, run=f"{run.id}:{run.turn}")
        settled: Ready | ToolResult = basis
        if judged[call.id].decision.decision == "ask":
            settled = run.engine.settle(basis, *answers[call.id])
        if isinstance(settled, ToolResult):
            results[call.id] = settled
            continue
        if not judged[call.id].registered.traits.parallel:
            await run_stretch()
        stretch.append(settled)
        if not judged[call.id].registered.traits.parallel:
            await run_stretch()
    await run_stretch()
    return results


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
        if call.id not in events or (registered and registered.traits.idempotent):
            continue
        begun = events[call.id]
        text = "it was started before the interruption; whether it took effect is not known, and it was not repeated"
        if begun["event"] == "outcome":
            text = f"it ran before the interruption, outcome {begun['status']}; its output is lost"
        results[call.id] = ToolResult(
            tool_call_id=call.id, name=call.name, status="unknown", content=text, audit_seq=begun["seq"]
        )
    return results


def _distinct(calls: Sequence[ToolCall]) -> list[ToolCall]:
    """The calls with ids that differ, as some models repeat them."""
    seen: set[str] = set()
    distinct = []
    for number, call in enumerate(calls):
        unique = call.id if call.id and call.id not in seen else f"{call.id or 'call'}-{number}"
        seen.add(unique)
        distinct.append(call if unique == call.id else call.model_copy(update={"id": unique}))
    return distinct


def _received(response: ChatResponse, calls: Sequence[ToolCall]) -> dict[str, Any]:
    """The assistant's message as it came, but for ids of calls that had to be told apart; that is what is sent back."""
    message = dict(response.message)
    if not message:  # a chat of one's own may have none
        message = {"role": "assistant", "content": response.content}
        if calls:
            functions = ({"name": call.name, "arguments": json.dumps(call.arguments)} for call in calls)
            message["tool_calls"] = [{"type": "function", "function": function} for function in functions]
    given = message.get("tool_calls") or []
    if len(given) == len(calls) and any(item.get("id") != call.id for item, call in zip(given, calls, strict=True)):
        message["tool_calls"] = [{**item, "id": call.id} for item, call in zip(given, calls, strict=True)]
    return message


def _sum(left: UsageInfo | None, right: UsageInfo | None) -> UsageInfo | None:
    if left is None or right is None:
        return left or right
    costs = [left.estimated_cost, right.estimated_cost]
    counts = [name for name in UsageInfo.model_fields if name.endswith("_tokens")]
    return UsageInfo(
        **{name: getattr(left, name) + getattr(right, name) for name in counts},
        estimated_cost=None if None in costs else sum(cost or 0 for cost in costs),
        source=right.source,
    )
