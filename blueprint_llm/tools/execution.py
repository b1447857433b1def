"""Run one judged call between two audit records: the intent is on disk before the tool acts, or it does not act.

Whatever a handler returns or raises becomes a result, and every intent gets its outcome.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pydantic_core import to_json

from blueprint_llm.engine import otel
from blueprint_llm.errors import ToolError
from blueprint_llm.tools.registry import Ran, tool
from blueprint_llm.tools.show import visible
from blueprint_llm.types import ToolCall, ToolResult

if TYPE_CHECKING:
    from collections.abc import Callable

    from blueprint_llm.tools.audit import Audit
    from blueprint_llm.tools.judge import Judged

_AUDITED_CHARS = 4000
_KEPT_RESULTS = 32
_MOST_THREADS = 64
Status = Literal["ok", "error", "denied", "timeout", "unknown"]


@dataclass(frozen=True, slots=True)
class _Raised:
    """What a handler raised."""

    error: BaseException


class Executor:
    """Runs calls; knows nothing of rules.

    Args:
        audit: Made on first use, so that an engine that only checks writes nothing.
        redact: Takes secrets out of text.
        monotonic: A clock for durations, in seconds.
        limit: How many characters of a result the model gets.
        timeout_s: After which a coroutine handler is cancelled.
    """

    def __init__(
        self,
        audit: Callable[[], Audit],
        redact: Callable[[str], str],
        monotonic: Callable[[], float],
        limit: int,
        timeout_s: float,
    ) -> None:
        self._audit, self._redact, self._monotonic = audit, redact, monotonic
        self._limit, self._timeout_s = limit, timeout_s
        self._kept: OrderedDict[str, str] = OrderedDict()
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

    def refuse(self, call: ToolCall, judged: Judged, reason: str, run: str = "", rule: str = "") -> ToolResult:
        """Return the result of a call that was not run, recorded as far as that is possible.

        `reason` goes to the model and the audit, `rule` (the one that would have allowed it) to the result's facts.
        """
        seq = None
        try:
            seq = self._record("denied", call, judged, run, {"reason": self._redact(reason)[:_AUDITED_CHARS]})
        except (OSError, ToolError):
            reason += " (and the audit could not be written)"
        facts = {"rule": rule} if rule else {}
        return self._result(call, judged, "denied", f"not run: {reason}", seq, facts=facts)

    async def run(self, call: ToolCall, judged: Judged, run: str = "") -> ToolResult:
        """Run a call; what its handler does is told in the result. Only a cancellation from outside is raised."""
        if self._is_closed:
            return self._result(call, judged, "error", "not run: the tools are closed", None)
        began_s, is_meant = self._monotonic(), False
        with otel.tool_span(call, judged.registered.tool) as told:
            try:
                await self._in_thread(partial(self._record, "intent", call, judged, run, {}))
                is_meant = True
                value = await self._called(judged)
            except (OSError, ToolError) as error:
                return self._result(call, judged, "error", f"not run: the audit cannot be written ({error})", None)
            except BaseException as error:  # the caller is going away; the intent gets its outcome all the same
                doubt = f"interrupted: {_said(error)}" if is_meant else "interrupted before it was run"
                self._end(call, judged, run, began_s, Ran(status="unknown", text=doubt, facts={}))
                raise
            return told(await self._in_thread(partial(self._end, call, judged, run, began_s, value)))

    async def _called(self, judged: Judged) -> Any:
        """What a handler returned, or a `_Raised`; raises only what is not the handler's own."""
        registered = judged.registered
        keywords = judged.keywords | ({"allowance": judged.allowance} if registered.traits.confined else {})
        function = partial(registered.handler, **keywords)
        try:
            is_async = inspect.iscoroutinefunction(registered.handler)
            value = function() if is_async else await self._in_thread(partial(_caught, function), waits=False)
            if inspect.isawaitable(value):
                async with asyncio.timeout(None if registered.traits.confined else self._timeout_s):
                    value = await value
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
        if not waits:
            return await pending
        try:
            return await asyncio.shield(pending)
        except asyncio.CancelledError:
            while not pending.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait({pending})
            raise

    def _end(self, call: ToolCall, judged: Judged, run: str, began_s: float, value: Any) -> ToolResult:
        status, text, facts = _meaning(value)
        took = self._monotonic() - began_s
        safe = self._redact(visible(text))
        digest = hashlib.sha256(safe.encode()).hexdigest()
        outcome = {"status": status, "duration_s": round(took, 6), "sha256": digest, **facts}
        try:
            seq = self._record("outcome", call, judged, run, outcome)
        except (OSError, ToolError):
            seq, facts = None, {**facts, "audit": "the outcome could not be recorded"}
        return self._result(call, judged, status, safe, seq, duration_s=took, facts=facts)

    def _record(self, event: str, call: ToolCall, judged: Judged, run: str, facts: dict[str, Any]) -> int:
        arguments = self._redact(judged.canonical)
        shown = arguments if len(arguments) <= _AUDITED_CHARS else arguments[:_AUDITED_CHARS] + "..."
        fixed = {"run": run, "call": call.id, "tool": call.name, "decision": judged.decision.decision}
        digest = hashlib.sha256(judged.canonical.encode()).hexdigest()
        return self._audit().append(
            event, {**fixed, "rule": judged.decision.rule_id, "arguments": shown, "arguments_sha256": digest, **facts}
        )

    def _result(  # noqa: PLR0913 - one fact each
        self, call: ToolCall, judged: Judged, status: Status, text: str, seq: int | None, *,
        duration_s: float = 0.0, facts: dict[str, Any] | None = None,
    ) -> ToolResult:  # fmt: skip
        known = {"decision": judged.decision.decision, "rule_id": judged.decision.rule_id, **(facts or {})}
        content, handle = self._cut(call, text)
        return ToolResult(
            tool_call_id=call.id,
            name=call.name,
            status=status,
            content=content,
            truncated=handle is not None or bool(known.pop("cut", False)),
            duration_s=duration_s,
            audit_seq=seq,
            metadata={**known, **({"handle": handle} if handle else {})},
        )

    def _cut(self, call: ToolCall, text: str) -> tuple[str, str | None]:
        """The text within the limit, and the handle of the whole where it was cut."""
        if len(text) <= self._limit + 200:
            return text, None
        handle = hashlib.sha256(f"{call.id}\0{text}".encode()).hexdigest()[:12]
        self._kept[handle] = text
        while len(self._kept) > _KEPT_RESULTS:
            self._kept.popitem(last=False)
        half = self._limit // 2
        dropped = len(text) - 2 * half
        gap = f"\n[... {dropped} characters left out; read on with read_result handle={handle} offset={half} ...]\n"
        return text[:half] + gap + text[-half:], handle


def _caught(function: Callable[[], Any]) -> Any:
    """What a function returns or raises: a future carries neither StopIteration nor SystemExit unharmed."""
    try:
        return function()
    except BaseException as error:  # noqa: BLE001 - told to the awaiting side
        return _Raised(error)


def _meaning(value: Any) -> tuple[Status, str, dict[str, Any]]:
    match value:
        case Ran():
            return value.status, value.text, value.facts  # type: ignore[return-value] # a status by construction
        case _Raised(error=TimeoutError()):
            return "timeout", "the tool took too long", {}
        case _Raised(error=OSError(strerror=str()) as error):
            return "error", f"{error.filename or ''}: {error.strerror}".removeprefix(": "), {}
        case _Raised():
            return "error", _said(value.error), {}
        case str():
            return "ok", value, {}
        case _:
            return "ok", _as_text(value), {}


def _said(error: BaseException) -> str:
    name = type(error).__name__
    try:
        text = str(error)
    except BaseException:  # noqa: BLE001 - an exception that cannot even say what it is
        return name
    return f"{name}: {text}" if text else name


def _as_text(value: Any) -> str:
    """A value as JSON, models and dataclasses too; what JSON cannot hold, as Python shows it; else what it is."""
    ways: tuple[Callable[[Any], str], ...] = (
        partial(json.dumps, ensure_ascii=False),
        lambda item: to_json(item).decode(),
        repr,
        hex,
    )
    for way in ways:
        try:
            text = way(value)
            text.encode("utf-8", "surrogatepass")
        except BaseException:  # noqa: BLE001, S112 - a handler may return anything; the next way takes more
            continue
        return text
    return f"a value of type {type(value).__name__} that cannot be shown"
