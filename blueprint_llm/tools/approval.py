"""Ask a person before a tool acts, a whole batch at a time; whoever does not clearly say yes has said no."""

from __future__ import annotations

import asyncio
import inspect
import json
import threading
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from blueprint_llm.tools.patch import preview
from blueprint_llm.tools.show import one_line, visible

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from blueprint_llm.tools.rules import Judged
    from blueprint_llm.types import ToolCall


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRequest:
    """A call that waits for a person.

    Attributes:
        id: The tool call's id.
        reasons: Why it is asked about.
        preview: What would happen: a diff of the very bytes, or the command, one word a line; safe to print.
        binding: What an approval is bound to; anything else that the call turns into is asked about again.
        grant: What one beyond this call is for.
        effects: What a command may do if it is approved; the kernel holds it to that.
    """

    id: str
    tool: str
    arguments: dict[str, Any]
    reasons: tuple[str, ...]
    preview: str
    binding: str
    grant: str = ""
    effects: tuple[str, ...] = ()


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


def request_for(call: ToolCall, judged: Judged) -> ApprovalRequest:
    """Return the request about a call."""
    arguments = json.loads(judged.canonical)
    if judged.claims.command:
        shown = "\n".join(one_line(word) for word in judged.claims.command.argv)
    elif judged.claims.staged:
        shown = visible(preview(judged.claims.staged)) or "no change"
    else:
        rows = ((name, json.dumps(value, ensure_ascii=False)) for name, value in arguments.items())
        shown = "\n".join(f"{name}: {one_line(text)}" for name, text in rows)
    return ApprovalRequest(
        id=call.id,
        tool=call.name,
        arguments=arguments,
        reasons=tuple(one_line(reason) for reason in judged.decision.reasons),
        preview=shown,
        binding=judged.binding,
        grant=judged.grant,
        effects=judged.decision.effects,
    )


async def ask(
    approver: Any, batch: Sequence[ApprovalRequest], timeout_s: float | None = None
) -> list[ApprovalDecision]:
    """Ask and wait; an approver that raises, answers oddly or is late denies. A blocking one runs in a thread.

    Args:
        approver: An `Approver`, or its deciding function.
        batch: What is asked about.
        timeout_s: How long it may take; None: as long as it likes.
    """
    decide = getattr(approver, "decide", approver)
    target = getattr(decide, "__call__", decide)  # noqa: B004 - an object may have an async __call__
    is_async = inspect.iscoroutinefunction(decide) or inspect.iscoroutinefunction(target)
    try:
        async with asyncio.timeout(timeout_s):
            answer = decide(list(batch)) if is_async else await _in_thread(decide, list(batch))
            answer = await answer if inspect.isawaitable(answer) else answer
    except Exception as error:  # noqa: BLE001 - a person's program decides by not deciding: denied
        answer = error
    return answers_to(batch, answer)


async def _in_thread(decide: Callable[[list[ApprovalRequest]], Any], batch: list[ApprovalRequest]) -> Any:
    """Run a blocking approver in a thread that nothing waits for: it may sit at a prompt for ever."""
    loop, context = asyncio.get_running_loop(), copy_context()
    answer: asyncio.Future[Any] = loop.create_future()

    def settle(found: Any) -> None:
        if not answer.done():
            answer.set_result(found)

    def work() -> None:
        try:
            found = context.run(decide, batch)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is no yes
            found = RuntimeError(type(error).__name__) if not isinstance(error, Exception) else error
        with suppress(RuntimeError):  # the loop is closed: nobody waits for the answer any more
            loop.call_soon_threadsafe(settle, found)

    threading.Thread(target=work, name="blueprint-approver", daemon=True).start()
    return await answer


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
