"""Drive walks on top of the walk, planning and the tool loop: they ask for chats, approvals and tool runs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from blueprint_llm import tools
from blueprint_llm.engine.steps import Abandoned, Act
from blueprint_llm.planning.steps import Chat

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from blueprint_llm.engine.drivers import Walk
    from blueprint_llm.tools import ToolEngine
    from blueprint_llm.types import ChatRequest


def lowered(walk: Generator[Any, Any, Any], chat: Callable[[ChatRequest], Walk], engine: ToolEngine | None) -> Walk:
    """The steps of `walk` in the drivers' own: a chat becomes the steps of its walk, the rest one step each."""
    resume: Callable[[Any], Any] = walk.send
    result: Any = None
    while True:
        try:
            step = resume(result)
        except StopIteration as end:
            return end.value
        resume = walk.send
        try:
            result = yield from _lower(step, chat, engine)
        except (Exception, Abandoned) as error:  # noqa: BLE001 - every failure of a step goes to the walk
            resume, result = walk.throw, error


def _lower(step: Any, chat: Callable[[ChatRequest], Walk], engine: ToolEngine | None) -> Walk:
    match step:
        case Chat() | tools.Chat():
            return (yield from chat(step.request))
        case tools.Approve() if engine is not None:
            return (yield from _approved(engine, list(step.batch)))
        case tools.Execute() if engine is not None:
            batch = step.calls, step.parallel
            return (yield Act(blocking=partial(engine.run_all, *batch), awaiting=partial(engine.run_all_async, *batch)))
        case _:
            return (yield step)


def _approved(engine: ToolEngine, batch: list[Any]) -> Walk:
    """The approver's decisions; None where there is none to ask."""
    if engine.approver is None:
        return None
    return (yield Act(blocking=partial(engine.approve, batch), awaiting=partial(engine.approve_async, batch)))
