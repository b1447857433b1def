"""Ask a person before a tool acts, a whole batch at a time; whoever does not clearly say yes has said no."""

from __future__ import annotations

import asyncio
import inspect
import json
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from blueprint_llm.tools.show import one_line, visible
from blueprint_llm.tools.staging import preview

if TYPE_CHECKING:
    from blueprint_llm.tools.judge import Judged
    from blueprint_llm.types import ToolCall


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRequest:
    """A call that waits for a person.

    Attributes:
        id: The tool call's id.
        reasons: Why it is asked about.
        preview: What would happen: a diff of the very bytes, or the command, one word a line; safe to print.
        binding: What an approval is bound to; anything else that the call turns into is asked about again.
    """

    id: str
    tool: str
    arguments: dict[str, Any]
    reasons: tuple[str, ...]
    preview: str
    binding: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalDecision:
    """A person's answer to one request.

    Attributes:
        decision: `later` leaves the run waiting; `edit` approves `arguments` in place of the model's.
        scope: How long an approval of these exact arguments holds.
        reason: Told to the model after a rejection.
        id: The request it answers; without one, answers are taken in order.
    """

    decision: Literal["approve", "reject", "edit", "later"] = "reject"
    scope: Literal["once", "session", "always"] = "once"
    reason: str = ""
    arguments: dict[str, Any] | None = None
    id: str | None = None


class Approver(Protocol):
    """Somebody who decides; `decide` may be a coroutine function."""

    def decide(self, batch: list[ApprovalRequest]) -> Any:
        """One decision per request."""


class DenyAll:
    """The approver of a headless run."""

    def decide(self, batch: list[ApprovalRequest]) -> list[ApprovalDecision]:
        """Reject everything, saying why."""
        return [ApprovalDecision(reason="nobody is there to approve it") for _ in batch]


Decide = Callable[[list[ApprovalRequest]], Any]


def request_for(call: ToolCall, judged: Judged) -> ApprovalRequest:
    """The request about a call."""
    return ApprovalRequest(
        id=call.id,
        tool=call.name,
        arguments=json.loads(judged.canonical),
        reasons=tuple(one_line(reason) for reason in judged.decision.reasons),
        preview=_preview(judged),
        binding=judged.binding,
    )


def _preview(judged: Judged) -> str:
    if judged.claims.command:
        return "\n".join(one_line(word) for word in judged.claims.command.argv)
    if judged.claims.staged:
        return visible(preview(judged.claims.staged)) or "no change"
    return "\n".join(
        f"{name}: {one_line(json.dumps(value, ensure_ascii=False))}"
        for name, value in json.loads(judged.canonical).items()
    )


def decide_of(approver: Any) -> Decide:
    """The deciding function of an approver: the object itself, or its `decide`."""
    return getattr(approver, "decide", approver)  # type: ignore[no-any-return] # either is a callable


def ask(approver: Any, batch: Sequence[ApprovalRequest], timeout_s: float | None = None) -> list[ApprovalDecision]:
    """Ask and wait; an approver that raises, answers oddly or is late denies."""
    answers: list[Any] = []

    def work() -> None:
        try:
            found = decide_of(approver)(list(batch))
            answers.append(asyncio.run(_awaited(found)) if inspect.isawaitable(found) else found)
        except Exception as error:  # noqa: BLE001 - a person's program decides by not deciding: denied
            answers.append(error)

    if timeout_s is None and not _loop_is_running():
        work()
    else:
        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        worker.join(timeout_s)
    return answers_to(batch, answers[0] if answers else TimeoutError("no answer in time"))


async def ask_async(
    approver: Any, batch: Sequence[ApprovalRequest], timeout_s: float | None = None
) -> list[ApprovalDecision]:
    """The same without blocking the loop."""
    try:
        decide = decide_of(approver)
        target = getattr(decide, "__call__", decide)  # noqa: B004 - an object may have an async __call__
        if inspect.iscoroutinefunction(decide) or inspect.iscoroutinefunction(target):
            answer = await asyncio.wait_for(decide(list(batch)), timeout_s)
        else:
            answer = await asyncio.wait_for(asyncio.to_thread(decide, list(batch)), timeout_s)
            answer = await asyncio.wait_for(answer, timeout_s) if inspect.isawaitable(answer) else answer
    except Exception as error:  # noqa: BLE001 - a person's program decides by not deciding: denied
        answer = error
    return answers_to(batch, answer)


async def _awaited(found: Awaitable[Any]) -> Any:
    return await found


def _loop_is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def answers_to(batch: Sequence[ApprovalRequest], answer: Any) -> list[ApprovalDecision]:
    """One decision per request, in its order; what does not clearly answer a request rejects it."""
    if isinstance(answer, Exception):
        return [ApprovalDecision(reason=f"the approver failed ({type(answer).__name__})", id=item.id) for item in batch]
    found = [_as_decision(item) for item in answer] if isinstance(answer, list | tuple) else []
    named = {item.id: item for item in found if item.id is not None}
    in_order = found if len(found) == len(batch) and not named else []
    none = ApprovalDecision(reason="the approver gave no decision on it")
    return [named.get(item.id) or (in_order[index] if in_order else none) for index, item in enumerate(batch)]


def _as_decision(item: Any) -> ApprovalDecision:
    if isinstance(item, ApprovalDecision):
        return item
    if isinstance(item, dict):
        try:
            return ApprovalDecision(**item)
        except TypeError:
            return ApprovalDecision(reason="the decision was malformed")
    return ApprovalDecision(decision="approve") if item is True else ApprovalDecision()
