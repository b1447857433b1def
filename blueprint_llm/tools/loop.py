"""The agent loop: chat, judge every call, ask once for all, run, one `tool` message a call in call order, again.

It ends when the model calls nothing more, or at a limit. An error on the way carries the run so far, and what waits,
for a person or for a second try, can be taken up again by its `state_id`.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SkipValidation, TypeAdapter

from blueprint_llm.errors import ApprovalPending, BudgetExceededError, QuotaExceededError, ToolCallInvalidError
from blueprint_llm.streaming.chunks import text_of
from blueprint_llm.tools.approval import ApprovalRequest, answers_to, request_for
from blueprint_llm.tools.engine import Answers, Ready, ToolEngine
from blueprint_llm.tools.sealed import PendingStore, state_folder
from blueprint_llm.types import ChatMessage, ChatRequest, ChatResponse, Record, ToolCall, ToolResult, UsageInfo

Chat = Callable[[ChatRequest], Awaitable[ChatResponse]]
Stop = Literal["done", "max_turns", "max_denials", "budget", "approval", "error"]
_WAITING = TypeAdapter(list[ApprovalRequest])


class RunResult(Record):
    """What a run came to."""

    content: str = ""  # the model's last text
    messages: list[ChatMessage] = Field(default_factory=list)  # the whole conversation, ready to be continued
    tool_results: list[ToolResult] = Field(default_factory=list)
    stop: Stop = "done"  # `approval` only on `ApprovalPending.result`, `error` only on an error's `run`
    usage: UsageInfo | None = None  # tokens and cost of all its chats
    trace: dict[str, Any] = Field(default_factory=dict)  # the last chat's
    state_id: str | None = None  # what `resume` takes, where it can go on


async def run_loop(engine: ToolEngine, request: ChatRequest, chat: Chat) -> RunResult:
    """Work on a request with the engine's tools; without `tools` in it, all of them are offered.

    Raises ApprovalPending if a call waits for a person (its `result` is the run so far), and what `chat` raises (its
    `run` is the run so far, which can be resumed).
    """
    await engine.connect()
    tools = request.tools if request.tools is not None else engine.tools()
    asked, messages = request.model_copy(update={"tools": tools}), [item.to_dict() for item in request.messages]
    run = _Run(engine=engine, request=asked, chat=chat, id=engine.world.random(8).hex(), messages=messages)
    return await run.turns()


async def resume_loop(engine: ToolEngine, state_id: str, decisions: Any, chat: Chat) -> RunResult:
    """Go on with a run that waited, or that an error ended, under the policy of today.

    `decisions` are one per waiting call in order, or by call id: an `ApprovalDecision`, its fields, or a bool. Raises
    ToolDeniedError if the stored run is missing, used up, expired or was changed, and what `run_loop` raises.
    """
    await engine.connect()
    with _store(engine).claim(state_id) as (state, is_interrupted):
        calls = [ToolCall(**call) for call in state["calls"]]
        waiting = _WAITING.validate_python(state["waiting"])
        # 0.2.0 kept a run's fields beside its calls; an approval may wait over an upgrade.
        kept = state.get("run", state)
        request = ChatRequest(**state["request"], messages=kept["messages"])
        run = _Run(**{**kept, "engine": engine, "request": request, "chat": chat, "state_id": state_id})
        if is_interrupted:
            await run.work(calls, known=run.already_started(calls), shown={})
            return await run.turns()
        if isinstance(decisions, Mapping):
            waiting = [item for item in waiting if item.id in decisions]
            decisions = [decisions[item.id] for item in waiting]
        answers = answers_to(waiting, decisions)
        await run.work(calls, known={}, shown={item.id: (item, answers[at]) for at, item in enumerate(waiting)})
        return await run.turns()


def _store(engine: ToolEngine) -> PendingStore:
    return PendingStore(state_folder("pending"), engine.key(), engine.world.clock, engine.world.random)


class _Run(BaseModel):
    """A run under way. What is excluded is not stored with one that waits."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    engine: ToolEngine = Field(exclude=True)
    request: ChatRequest = Field(exclude=True)
    chat: SkipValidation[Chat] = Field(exclude=True)
    id: str
    turn: int = 0
    denials: int = 0
    tainted: bool = False
    messages: list[dict[str, Any]]
    results: list[ToolResult] = Field(default_factory=list)
    usage: UsageInfo | None = None
    content: str = ""
    trace: dict[str, Any] = Field(default_factory=dict, exclude=True)
    state_id: str | None = Field(default=None, exclude=True)

    async def turns(self) -> RunResult:
        """Chat and work until the model calls nothing more, or at a limit."""
        limits = self.engine.settings.loop
        while self.turn < limits.max_turns:
            if self.denials > limits.max_denials:
                return self.ended("max_denials")
            self.turn += 1
            history = [ChatMessage(**message) for message in self.messages]
            try:
                response = await self.chat(self.request.model_copy(update={"messages": history}))
            except (BudgetExceededError, QuotaExceededError):
                return self.ended("budget")
            except ToolCallInvalidError as error:
                # The model can mend its call once it is told what was wrong; not for ever.
                self.denials += 1
                if self.denials > limits.max_denials or not self.answer(error):
                    raise self.carried_by(error) from None
                continue
            except Exception as error:
                self.carried_by(error)
                raise
            self.content, self.trace = response.content, dict(response.trace)
            self.usage = _sum(self.usage, response.usage)
            calls = _distinct(response.tool_calls)
            self.messages.append(_received(response, calls))
            if calls:
                await self.work(calls, known={}, shown={})
            # Claude may stop in the middle of its own tools' work, to go on from its message.
            elif (response.message.get("provider_specific_fields") or {}).get("stop_reason") != "pause_turn":
                return self.ended("done")
        return self.ended("max_denials" if self.denials > limits.max_denials else "max_turns")

    def ended(self, stop: Stop) -> RunResult:
        """Return the run so far."""
        return RunResult(
            content=self.content,
            messages=[ChatMessage(**message) for message in self.messages],
            tool_results=self.results,
            stop=stop,
            usage=self.usage,
            trace=self.trace,
            state_id=self.state_id if stop in {"approval", "error"} else None,
        )

    def keep(self, calls: Sequence[ToolCall] = (), waiting: Sequence[ApprovalRequest] = ()) -> None:
        """Store the run, to be taken up by `state_id`; an earlier state of it is void then."""
        state = {
            "run": self.model_dump(mode="json"),
            "request": self.request.model_dump(mode="json", exclude={"messages"}, exclude_unset=True),
            "calls": [call.model_dump() for call in calls],
            "waiting": _WAITING.dump_python(list(waiting), mode="json"),
        }
        store = _store(self.engine)
        earlier, self.state_id = self.state_id, store.keep(state)
        if earlier:
            store.forget(earlier)

    def carried_by(self, error: Exception) -> Exception:
        """Return the error with the run so far on it, and the text that came with it; kept out of its own text."""
        received = getattr(error, "message_received", None) or {}
        self.content = text_of(received.get("content")) or self.content
        try:
            self.keep()
        except Exception:  # noqa: BLE001 - a disk that fails must not take the place of what went wrong
            self.state_id = None
        error.run = self.ended("error")  # type: ignore[attr-defined] # for whoever catches it
        return error

    def answer(self, error: ToolCallInvalidError) -> bool:
        """Tell the model what was wrong with its call, as its result; False where the error does not say which."""
        verdict = error.verdict
        if verdict is None or not verdict.tool:
            return False
        identity, text = verdict.call_id or f"call-{self.turn}", f"not run: {verdict.clarification()}"
        # The message stays as it was received (some providers want the thoughts before a call back), but not what the
        # model wrote as arguments: it may be half a text, which no provider takes back.
        call = {"id": identity, "type": "function", "function": {"name": verdict.tool, "arguments": "{}"}}
        result = ToolResult(tool_call_id=identity, name=verdict.tool, status="error", content=text)
        self.results.append(result)
        message = {"role": "assistant", "content": None, **(error.message_received or {}), "tool_calls": [call]}
        self.messages += [message, result.to_message().to_dict()]
        return True

    async def work(self, calls: list[ToolCall], *, known: dict[str, ToolResult], shown: Answers) -> None:
        """Bring every call of a turn to a result, and append one message per call, in call order.

        `known` are results that an earlier resume came to; `shown` is what a person has answered already, which
        holds for calls that still are what was shown.
        """
        ready = [self._ready(call) for call in calls if call.id not in known]
        asked = [request_for(judged) for judged in map(self.engine.judge, ready) if judged.decision.decision == "ask"]
        answers: Answers = {}
        for item in asked:
            request, answer = shown.get(item.id, (item, None))
            if answer and (
                answer.decision == "reject" or (answer.decision != "later" and request.binding == item.binding)
            ):
                answers[item.id] = request, answer
        batch = [item for item in asked if item.id not in answers]
        if batch:
            given = answers_to(batch, await self.engine.approve(batch)) if self.engine.approver is not None else []
            if not given or any(answer.decision == "later" for answer in given):
                self.keep(calls, asked)
                pending = ApprovalPending(str(self.state_id))
                pending.result = self.ended("approval")  # type: ignore[attr-defined] # the run so far, for whoever catches it
                pending.requests = asked  # type: ignore[attr-defined] # what waits
                raise pending
            answers |= {item.id: (item, answer) for item, answer in zip(batch, given, strict=True)}
        results = {**known, **await self.engine.perform(ready, answers)}
        for call in calls:
            registered, result = self.engine.registered(call.name), results[call.id]
            self.tainted |= bool(registered and registered.traits.outside and result.status != "denied")
            self.denials += result.status == "denied"
            self.results.append(result)
            self.messages.append(result.to_message().to_dict())
        if self.state_id:  # what waited is done, and must not be done again
            _store(self.engine).forget(self.state_id)
            self.state_id = None

    def _ready(self, call: ToolCall) -> Ready:
        return Ready(call=call, tainted=self.tainted, run=f"{self.id}:{self.turn}")

    def already_started(self, calls: Sequence[ToolCall]) -> dict[str, ToolResult]:
        """Results for calls that a killed resume had begun: told, and not repeated unless that is harmless."""
        here = self._ready(calls[0]).run if calls else ""
        events: dict[str, Mapping[str, Any]] = {}
        for record in self.engine.audit.records():
            if record.get("run") == here and record.get("event") in {"intent", "outcome"}:
                events[record["call"]] = record
        results = {}
        for call in calls:
            registered = self.engine.registered(call.name)
            if call.id not in events or (registered and registered.traits.idempotent):
                continue
            begun = events[call.id]
            text = (
                "it was started before the interruption; whether it took effect is not known, and it was not repeated"
            )
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
