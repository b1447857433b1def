"""Run one judged call between two audit records: the intent is on disk before the tool acts, or it does not act."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from blueprint_llm.engine import otel
from blueprint_llm.errors import ToolError
from blueprint_llm.tools.registry import Ran, tool
from blueprint_llm.tools.show import visible
from blueprint_llm.types import ToolCall, ToolResult

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from blueprint_llm.tools.audit import Audit
    from blueprint_llm.tools.judge import Judged

_AUDITED_CHARS = 4000
_KEPT_RESULTS = 32
Status = Literal["ok", "error", "denied", "timeout", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A call whose intent is recorded."""

    call: ToolCall
    judged: Judged
    run: str
    began_s: float


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

    @tool(effect="read", parallel=True, idempotent=True)
    def read_result(self, handle: str, offset: int = 0) -> str:
        """Read on in a result that was cut, from a character offset; the handle stands where it was cut."""
        if handle not in self._kept:
            raise ValueError(f"no result {handle!r} is kept")
        return self._kept[handle][offset : offset + self._limit]

    def refuse(self, call: ToolCall, judged: Judged, reason: str, run: str = "") -> ToolResult:
        """The result of a call that was not run, recorded as far as that is possible."""
        seq = None
        try:
            seq = self._record("denied", call, judged, run, {"reason": self._redact(reason)[:_AUDITED_CHARS]})
        except (OSError, ToolError):
            reason += " (and the audit could not be written)"
        return self._result(call, judged, "denied", f"not run: {reason}", seq)

    def run(self, call: ToolCall, judged: Judged, run: str = "") -> ToolResult:
        """Run a call and wait for it."""
        started = self._begin(call, judged, run)
        if isinstance(started, ToolResult):
            return started
        with otel.tool_span(call, judged.registered.tool) as told:
            try:
                value = judged.registered.handler(**judged.keywords)
                if inspect.isawaitable(value):
                    value = _wait_for(self._in_time(value))
            except Exception as error:  # noqa: BLE001 - a tool's failure is a result for the model
                value = error
            return told(self._end(started, value))

    async def run_async(self, call: ToolCall, judged: Judged, run: str = "") -> ToolResult:
        """The same without blocking the loop; sync handlers run in a thread."""
        if not inspect.iscoroutinefunction(judged.registered.handler):
            return await asyncio.to_thread(self.run, call, judged, run)
        started = await asyncio.to_thread(self._begin, call, judged, run)
        if isinstance(started, ToolResult):
            return started
        with otel.tool_span(call, judged.registered.tool) as told:
            try:
                value = await self._in_time(judged.registered.handler(**judged.keywords))
            except Exception as error:  # noqa: BLE001 - a tool's failure is a result for the model
                value = error
            return told(self._end(started, value))

    async def _in_time(self, pending: Any) -> Any:
        return await asyncio.wait_for(pending, self._timeout_s)

    def _begin(self, call: ToolCall, judged: Judged, run: str) -> Started | ToolResult:
        try:
            self._record("intent", call, judged, run, {})
        except (OSError, ToolError) as error:
            return self._result(call, judged, "error", f"not run: the audit cannot be written ({error})", None)
        return Started(call=call, judged=judged, run=run, began_s=self._monotonic())

    def _end(self, started: Started, value: Any) -> ToolResult:
        status, text, facts = _meaning(value)
        took = self._monotonic() - started.began_s
        safe = self._redact(visible(text))
        outcome = {
            "status": status,
            "duration_s": round(took, 6),
            "sha256": hashlib.sha256(safe.encode()).hexdigest(),
            **facts,
        }
        try:
            seq = self._record("outcome", started.call, started.judged, started.run, outcome)
        except OSError:
            seq, facts = None, {**facts, "audit": "the outcome could not be recorded"}
        return self._result(started.call, started.judged, status, safe, seq, duration_s=took, facts=facts)

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


def _meaning(value: Any) -> tuple[Status, str, dict[str, Any]]:
    match value:
        case Ran():
            return value.status, value.text, value.facts  # type: ignore[return-value] # a status by construction
        case TimeoutError():
            return "timeout", "the tool took too long", {}
        case OSError(strerror=str()):
            return "error", f"{value.filename or ''}: {value.strerror}".removeprefix(": "), {}
        case Exception():
            return "error", f"{type(value).__name__}: {value}", {}
        case str():
            return "ok", value, {}
        case _:
            return "ok", json.dumps(value, ensure_ascii=False, default=str), {}


def _wait_for(pending: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end, in a thread of its own where this one has a loop running."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(pending)
    results: list[Any] = []

    def work() -> None:
        try:
            results.append(asyncio.run(pending))
        except Exception as error:  # noqa: BLE001 - carried over to the waiting thread
            results.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    if isinstance(results[0], Exception):
        raise results[0]
    return results[0]
