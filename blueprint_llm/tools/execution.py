"""Run one judged call between two audit records: the intent is on disk before the tool acts, or it does not act.

Whatever a handler returns or raises becomes a result, and every intent gets its outcome.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
import os
import time
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from itertools import islice
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from pydantic_core import to_jsonable_python

from blueprint_llm.engine import otel
from blueprint_llm.errors import StoreError, ToolError
from blueprint_llm.redaction import redact
from blueprint_llm.tools.registry import Ran, to_its_end, tool
from blueprint_llm.tools.words import visible
from blueprint_llm.types import ToolResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from blueprint_llm.config.blocks import ToolLimits
    from blueprint_llm.tools.rules import Judged
    from blueprint_llm.tools.sealed import Audit

_UNWRITABLE = (OSError, StoreError, ToolError)  # what a record raises that cannot be written
_AUDITED_CHARS = 4000
_KEPT_RESULTS = 32
_MOST_THREADS = 64
_MOST_YIELDED = 10_000


@dataclass(frozen=True, slots=True)
class _Raised:
    """What a handler raised."""

    error: BaseException


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the engine takes from the world, so that tests can give it another. Times are in seconds."""

    clock: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    random: Callable[[int], bytes] = os.urandom
    redact: Callable[[str], str] = redact
    approval_timeout_s: float | None = None


class Executor:
    """Runs calls; knows nothing of rules. The audit is made on first use: an engine that only checks writes nothing."""

    def __init__(self, audit: Callable[[], Audit], world: Surroundings, limits: ToolLimits) -> None:
        self._audit, self._redact, self._monotonic = audit, world.redact, world.monotonic
        self._limit, self._timeout_s = limits.output_bytes, limits.timeout_s
        self._kept: dict[str, str] = {}
        self._threads = ThreadPoolExecutor(_MOST_THREADS, thread_name_prefix="blueprint-tool")
        self._is_closed = False

    def close(self) -> None:
        """Start no handler any more."""
        self._is_closed = True
        self._threads.shutdown(wait=False)

    @tool(effect="read", parallel=True, idempotent=True)
    def read_result(self, handle: str, offset: int = 0) -> str:
        """Read on in a result that was cut, from a character offset; the handle stands where it was cut."""
        if handle not in self._kept:
            raise ValueError(f"no result {handle!r} is kept")
        return self._kept[handle][offset : offset + self._limit]

    def refuse(self, judged: Judged, reason: str, rule: str = "") -> ToolResult:
        """Return the result of a call that was not run, recorded as far as that is possible.

        `reason` goes to the model and the audit, `rule` (the one that would have allowed it) to the result's facts.
        """
        seq = None
        try:
            seq = self._record("denied", judged, {"reason": self._redact(reason)[:_AUDITED_CHARS]})
        except _UNWRITABLE:
            reason += " (and the audit could not be written)"
        told = Ran(status="denied", text=f"not run: {reason}", facts={"rule": rule} if rule else {})
        return self._result(judged, told, seq)

    async def run(self, judged: Judged) -> ToolResult:
        """Run a call; what its handler does is told in the result. Only a cancellation from outside is raised."""
        if self._is_closed:
            return self._result(judged, Ran(status="error", text="not run: the tools are closed"))
        began_s, is_meant = self._monotonic(), False
        with otel.tool_span(judged.call, judged.registered.tool) as told:
            try:
                await self._in_thread(partial(self._record, "intent", judged, {}))
                is_meant = True
                value = await self._called(judged)
            except _UNWRITABLE as error:
                told_why = f"not run: the audit cannot be written ({error})"
                return self._result(judged, Ran(status="error", text=told_why))
            except BaseException as error:  # the caller is going away; the intent gets its outcome all the same
                doubt = f"interrupted: {_said(error)}" if is_meant else "interrupted before it was run"
                self._end(judged, began_s, Ran(status="unknown", text=doubt))
                raise
            return told(await self._in_thread(partial(self._end, judged, began_s, value)))

    async def _called(self, judged: Judged) -> Any:
        """What a handler returned, or a `_Raised`; raises only what is not the handler's own.

        One path for all handlers: a coroutine function is called here, any other in a thread, and what either returns
        is awaited if it can be.
        """
        registered = judged.registered
        keywords = judged.keywords | ({"claims": judged.claims} if registered.traits.judged else {})
        function = partial(registered.handler, **keywords)
        try:
            is_async = inspect.iscoroutinefunction(registered.handler)
            value = function() if is_async else await self._in_thread(partial(_caught, function), waits=False)
            if hasattr(type(value), "__await__"):  # a value may lie about its class, or refuse to tell
                async with asyncio.timeout(None if registered.traits.judged else self._timeout_s):
                    value = await value
            if type(value) is GeneratorType:  # which may have no end
                value = await self._in_thread(partial(_caught, partial(_collected, value)), waits=False)
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return _Raised(error)
        except BaseException as error:  # noqa: BLE001 - a tool's failure, SystemExit included, is a result for the model
            return _Raised(error)
        return value

    async def _in_thread(self, function: Callable[[], Any], *, waits: bool = True) -> Any:
        """Run a function beside the event loop; with `waits`, a cancellation is raised once it has ended."""
        try:
            pending = asyncio.get_running_loop().run_in_executor(self._threads, copy_context().run, function)
        except RuntimeError:  # closed meanwhile: what has begun still gets its outcome
            return function()
        return await (to_its_end(pending) if waits else pending)

    def _end(self, judged: Judged, began_s: float, value: Any) -> ToolResult:
        found = _meaning(value)
        took = self._monotonic() - began_s
        safe, facts = self._redact(visible(found.text)), found.facts
        digest = hashlib.sha256(safe.encode()).hexdigest()
        outcome = {"status": found.status, "duration_s": round(took, 6), "sha256": digest, **facts}
        try:
            seq = self._record("outcome", judged, outcome)
        except _UNWRITABLE:
            seq, facts = None, {**facts, "audit": "the outcome could not be recorded"}
        return self._result(judged, Ran(status=found.status, text=safe, facts=facts), seq, took)

    def _record(self, event: str, judged: Judged, facts: dict[str, Any]) -> int:
        arguments, decision = self._redact(judged.canonical), judged.decision
        fixed = {"run": judged.run, "call": judged.call.id, "tool": judged.call.name, "decision": decision.decision}
        fixed |= {"arguments_sha256": hashlib.sha256(judged.canonical.encode()).hexdigest()}
        shown = arguments if len(arguments) <= _AUDITED_CHARS else arguments[:_AUDITED_CHARS] + "..."
        return self._audit().append(event, {**fixed, "rule": decision.rule_id, "arguments": shown, **facts})

    def _result(self, judged: Judged, found: Ran, seq: int | None = None, duration_s: float = 0.0) -> ToolResult:
        """The result of a call; a text beyond the limit is cut in its middle, and kept whole under a handle."""
        facts = {"decision": judged.decision.decision, "rule_id": judged.decision.rule_id, **found.facts}
        text, is_cut = found.text, bool(facts.pop("cut", False))
        if len(text) > self._limit + 200:
            is_cut = True
            handle = facts["handle"] = hashlib.sha256(f"{judged.call.id}\0{text}".encode()).hexdigest()[:12]
            self._kept[handle] = text
            if len(self._kept) > _KEPT_RESULTS:
                del self._kept[next(iter(self._kept))]
            half = self._limit // 2
            gap = f"{len(text) - 2 * half} characters left out; read on with read_result handle={handle} offset={half}"
            text = f"{text[:half]}\n[... {gap} ...]\n{text[-half:]}"
        return ToolResult(
            tool_call_id=judged.call.id, name=judged.call.name, status=found.status, content=text, truncated=is_cut,
            duration_s=duration_s, audit_seq=seq, metadata=facts,
        )  # fmt: skip


def _caught(function: Callable[[], Any]) -> Any:
    """What a function returns or raises: a future carries neither StopIteration nor SystemExit unharmed."""
    try:
        return function()
    except BaseException as error:  # noqa: BLE001 - told to the awaiting side
        return _Raised(error)


def _collected(values: Iterator[Any]) -> list[Any]:
    found = list(islice(values, _MOST_YIELDED + 1))
    return found if len(found) <= _MOST_YIELDED else [*found[:-1], f"... cut at {_MOST_YIELDED} values"]


def _meaning(value: Any) -> Ran:
    """What a handler's value or failure is told as; by `type`, since a value may lie about its class."""
    kind = type(value)
    if kind is Ran:
        return value  # type: ignore[no-any-return] # it is one
    if kind is not _Raised:
        return Ran(status="ok", text=_as_text(value))
    error = value.error
    if isinstance(error, TimeoutError):
        return Ran(status="timeout", text="the tool took too long")
    text = _said(error)
    if isinstance(error, OSError) and type(error.strerror) is str and type(error.filename) in {str, type(None)}:
        text = f"{error.filename or ''}: {error.strerror}".removeprefix(": ")
    return Ran(status="error", text=text)


def _said(error: BaseException) -> str:
    name = type(error).__name__
    try:
        text = f"{error}"
    except BaseException:  # noqa: BLE001 - an exception that cannot even say what it is
        return name
    return f"{name}: {text}" if text else name


def _as_text(value: Any) -> str:
    """A value as JSON, models and dataclasses too; what JSON cannot hold, as Python shows it; else what it is."""
    ways: tuple[Callable[[Any], str], ...] = (
        lambda item: item,  # a string
        partial(json.dumps, ensure_ascii=False, default=_plain),
        repr,
        hex,  # a number of too many digits
    )
    for way in ways:
        try:
            text = str.__str__(way(value))  # whatever a class of its own makes of it
            text.encode("utf-8", "surrogatepass")
        except BaseException:  # noqa: BLE001, S112 - a handler may return anything; the next way takes more
            continue
        return text
    return f"a value of type {type(value).__name__} that cannot be shown"


def _plain(value: Any) -> Any:
    """One level of a value as JSON's own kinds. Raises TypeError for an iterator: it may have no end."""
    if hasattr(type(value), "__next__"):
        raise TypeError("an iterator")
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: getattr(value, item.name) for item in fields(value)}
    return list(value) if isinstance(value, AbstractSet) else to_jsonable_python(value)
