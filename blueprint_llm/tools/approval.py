"""Ask a person before a tool acts, a whole batch at a time; whoever does not clearly say yes has said no.

On the terminal: a diff or the words of a command, everything visible, one key to answer.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import threading
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from blueprint_llm.tools.patch import preview
from blueprint_llm.tools.words import one_line, visible

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from blueprint_llm.tools.rules import Judged


_SCOPES: dict[str, Literal["once", "session", "always"]] = {"y": "once", "s": "session", "a": "always"}
_KEYS = "y once, s this session, a always, n reject, e edit, l later"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRequest:
    """A call that waits for a person."""

    id: str  # the tool call's
    tool: str
    arguments: dict[str, Any]
    reasons: tuple[str, ...]  # why it is asked about
    preview: str  # a diff of the very bytes, or the command, one word a line; safe to print
    binding: str  # what an approval is bound to; anything else that the call turns into is asked about again
    grant: str = ""  # what one beyond this call is for
    effects: tuple[str, ...] = ()  # what a command may do if it is approved; the kernel holds it to that


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalDecision:
    """A person's answer to one request."""

    # `later` leaves the run waiting; `edit` approves `arguments` in place of the model's.
    decision: Literal["approve", "reject", "edit", "later"] = "reject"
    scope: Literal["once", "session", "always"] = "once"  # how long it holds for these exact arguments
    reason: str = ""  # told to the model after a rejection
    arguments: dict[str, Any] | None = None
    id: str | None = None  # of the request; without one, answers are taken in order


class DenyAll:
    """The approver of a headless run."""

    def decide(self, batch: list[ApprovalRequest]) -> list[ApprovalDecision]:
        """Reject everything, saying why."""
        return [ApprovalDecision(reason="nobody is there to approve it") for _ in batch]


class TerminalApprover:
    """Shows each request and reads an answer; an end of input rejects. Diffs are coloured where rich is installed."""

    def __init__(
        self, read: Callable[[str], str] = input, write: Callable[[str], None] = print, *, colour: bool = False
    ) -> None:
        self._read, self._write = read, write
        self._colour = colour and find_spec("rich") is not None

    def decide(self, batch: list[ApprovalRequest]) -> list[ApprovalDecision]:
        """Return one decision per request."""
        found = []
        for number, request in enumerate(batch, 1):
            self._write(f"\n[{number}/{len(batch)}] {one_line(request.tool)}")
            for reason in request.reasons:
                self._write(f"  because {reason}")
            if request.effects:
                self._write(f"  it may: {', '.join(request.effects)}")
            if self._colour:
                from rich.console import Console  # noqa: PLC0415 - optional, loaded to show colour
                from rich.syntax import Syntax  # noqa: PLC0415 - likewise

                diff = Syntax(request.preview, "diff", word_wrap=True, background_color="default")
                Console(stderr=True).print(diff)
            else:
                self._write(request.preview)
            while (decision := self._answer(request)) is None:
                pass
            found.append(replace(decision, id=request.id))
        return found

    def _answer(self, request: ApprovalRequest) -> ApprovalDecision | None:
        """The decision that a line read makes; None: ask again."""
        try:
            answer = self._read(f"Run it? ({_KEYS}) ").strip().lower()[:1]
        except EOFError:
            return ApprovalDecision(reason="nobody answered")
        match answer:
            case "y" | "s" | "a":
                return ApprovalDecision(decision="approve", scope=_SCOPES[answer])
            case "n":
                return ApprovalDecision(reason=self._read("Why not (told to the model)? ").strip())
            case "l":
                return ApprovalDecision(decision="later")
            case "e":
                self._write(one_line(json.dumps(request.arguments)))
                try:
                    return ApprovalDecision(decision="edit", arguments=json.loads(self._read("Arguments as JSON: ")))
                except ValueError:
                    self._write("not JSON")
        return None


def request_for(judged: Judged) -> ApprovalRequest:
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
        id=judged.call.id,
        tool=judged.call.name,
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
    """Ask and wait; an approver that raises, answers oddly or is late denies.

    `approver` is a deciding function, sync or async, or an object whose `decide` is one. It is called in a thread that
    nothing waits for: it may sit at a prompt for ever.
    """
    context, pending = copy_context(), Future[Any]()

    def work() -> None:
        answer: Any
        try:
            answer = context.run(getattr(approver, "decide", approver), list(batch))
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is no yes
            answer = error  # as a value: a future cannot carry StopIteration, and takes other failures for its own end
        with suppress(InvalidStateError, RuntimeError):  # nobody waits for the answer any more
            pending.set_result(answer)

    threading.Thread(target=work, name="blueprint-approver", daemon=True).start()
    try:
        async with asyncio.timeout(timeout_s):
            answer = await asyncio.wrap_future(pending)
            answer = await answer if inspect.isawaitable(answer) else answer
    except Exception as error:  # noqa: BLE001 - a person's program decides by not deciding: denied
        answer = error
    if isinstance(answer, BaseException):
        reason = f"the approver failed ({type(answer).__name__})"
        return [ApprovalDecision(reason=reason, id=item.id) for item in batch]
    return answers_to(batch, answer)


def answers_to(batch: Sequence[ApprovalRequest], answer: Any) -> list[ApprovalDecision]:
    """Return one decision per request, in its order; what does not clearly answer a request rejects it."""
    found = [_as_decision(item) for item in answer] if isinstance(answer, list | tuple) else []
    named = {item.id: item for item in found if item.id is not None}
    none = ApprovalDecision(reason="the approver gave no decision on it")
    in_order = found if len(found) == len(batch) and not named else [none] * len(batch)
    return [named.get(item.id) or other for item, other in zip(batch, in_order, strict=True)]


def _as_decision(item: Any) -> ApprovalDecision:
    if isinstance(item, dict):
        try:
            return ApprovalDecision(**item)
        except TypeError:
            return ApprovalDecision(reason="the decision was malformed")
    return (
        item
        if isinstance(item, ApprovalDecision)
        else ApprovalDecision(decision="approve" if item is True else "reject")
    )
