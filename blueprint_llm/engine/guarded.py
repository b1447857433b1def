"""The policies around one LiteLLM call of any endpoint: reserve, call, judge, settle, trace; or answer from the cache.

Nothing of what LiteLLM answers is changed: a whole answer comes back as it is, a stream with what judges its chunks
while they pass.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from blueprint_llm.adapters import Call
from blueprint_llm.adapters import litellm as _litellm
from blueprint_llm.adapters.exceptions import call_error
from blueprint_llm.adapters.merge import as_openrouter_wants
from blueprint_llm.adapters.router import CIRCUIT_OPEN
from blueprint_llm.adapters.views import message_of, response_of
from blueprint_llm.engine import otel
from blueprint_llm.engine.answer import GuardedAnswer
from blueprint_llm.engine.attempt import OUTPUT_INVALID
from blueprint_llm.engine.cached import KeptAnswer, count_hit, entry_of, key_of_call
from blueprint_llm.engine.endpoints import (
    CAPS,
    CHATS,
    SPANS,
    TEXTS,
    cap_in,
    completed,
    fallbacks_of,
    key_of,
    prompt_of,
    target_of,
)
from blueprint_llm.engine.prepare import seconds_of
from blueprint_llm.engine.reservation import BOOKING_S, AttemptReservation, CircuitOpen, LimitReached, limits_of
from blueprint_llm.engine.runtime import Runtime, late
from blueprint_llm.errors import BlueprintError, CallError
from blueprint_llm.redaction import redact_value
from blueprint_llm.trace import CALLER, Account, AttemptTrace, Trace
from blueprint_llm.types import ChatMessage, ChatRequest
from blueprint_llm.usage import Cap

if TYPE_CHECKING:
    from blueprint_llm.cache import Entry
    from blueprint_llm.routing.targets import Target
    from blueprint_llm.types import ChatResponse
    from blueprint_llm.usage import Outcome

Send = Callable[..., Awaitable[Any]]


class Watched(NamedTuple):
    """A stream of LiteLLM's that was just opened.

    Attributes:
        stream: LiteLLM's own object.
        answer: Judges its chunks: `feed`, `finish`, `shown`.
        settle: Books the call, once, however it ended; a cancellation does not interrupt it and nothing is raised.
    """

    stream: Any
    answer: GuardedAnswer
    settle: Callable[[BaseException | None], Awaitable[None]]


class PolicyGuard:
    """The policies of one runtime around single LiteLLM calls.

    Args:
        runtime: The limits, prices and stores.
        account: On whose account a call goes, by its keywords.
    """

    def __init__(self, runtime: Runtime, account: Callable[[Mapping[str, Any]], Account] = lambda _: Account()) -> None:
        self.runtime, self._account = runtime, account

    async def call(self, operation: str, send: Send, keywords: dict[str, Any], *, redirects: bool = False) -> Any:
        """Make one call of LiteLLM's function `operation`.

        Args:
            operation: LiteLLM's name of the function, such as `acompletion` or `embedding`.
            send: Calls it with keywords. A blocking function runs in the thread that waits for it.
            keywords: The caller's keywords; an attempt of LiteLLM's Router has `model_info` and `metadata` in them.
            redirects: A Router has other targets for a refused answer (`content_policy_fallbacks`).

        Returns:
            LiteLLM's answer itself; for a stream a `Watched`.

        Raises:
            BlueprintError: A limit refused the call, or the answer is not valid.
            Exception: What LiteLLM raised.
        """
        await self.runtime.use_settings()
        account, keywords = CALLER.get() or self._account(keywords), completed(self.runtime, keywords)
        return await _GuardedCall(self.runtime, operation, keywords, account, redirects=redirects).make(send)


def build(config: Any) -> PolicyGuard:
    """Return the guard of a configuration, in any form that `LLMClient` takes. Raises ConfigError."""
    return PolicyGuard(Runtime(config))


class _GuardedCall:
    """One call of one LiteLLM function.

    Where a call above is known (`CALLER` with its trace), judging the answer and keeping it are that call's.
    """

    def __init__(
        self, runtime: Runtime, operation: str, keywords: dict[str, Any], account: Account, *, redirects: bool
    ) -> None:
        self.runtime, self.keywords, self._operation, self._account = runtime, keywords, operation, account
        self._is_chat, self._is_inner = operation in CHATS, account.trace is not None
        self._session, self._project = account.session or runtime.session, account.project or runtime.project
        self._target = target = target_of(runtime, keywords, provider=account.provider, operation=operation)
        self._trace = account.trace or Trace(id=runtime.new_id(), policy_hash=runtime.config.digest)
        self._shown_trace: dict[str, Any] = {}
        self._handed: dict[str, Any] = {}  # on no frame, which an exception would show
        self._began = runtime.now()
        self._row = AttemptTrace(
            n=len(self._trace.attempts) + 1,
            provider=target.provider,
            model=target.model,
            at_s=round(self._began - account.began, 6) if account.trace else 0.0,
        )
        # As the call of a chat, whatever the endpoint: so it is bounded, and told of in errors.
        self._call = Call(
            provider=target.provider,
            model=target.model,
            messages=prompt_of(keywords),
            params=keywords,
            timeout_s=runtime.config.deadline.total_s,
        )
        self._reservation = self._dearest([target, *fallbacks_of(runtime, keywords)])
        self._is_open = False
        is_kept = self._is_chat and not self._is_inner
        key = key_of_call(runtime, target, keywords, project=self._project) if is_kept else None
        self._kept = KeptAnswer(runtime, key, keywords.get("cache"), owner=f"{self._trace.id}-{self._row.n}")
        self._answer = GuardedAnswer(
            operation,
            keywords,
            target,
            validates=runtime.config.streaming.validate_tools,
            is_inner=self._is_inner,
            redirects=redirects,
            now=runtime.now,
        )

    def _dearest(self, targets: Sequence[Target]) -> AttemptReservation:
        """Return what the call takes: LiteLLM may go on to any of a call's own `fallbacks`, so the dearest must fit."""
        found = [
            AttemptReservation(
                self.runtime,
                target,
                params=self.keywords,
                session=self._session,
                project=self._project,
                trace=self._trace,
                row=self._row,
                limits=limits_of(self.runtime, target, self.keywords),
                is_whole=True,
            )
            for target in targets
        ]
        if len(found) == 1:
            return found[0]
        return max(found, key=lambda each: each.worst(self._call, self._cap(each)).usd or 0)

    def _cap(self, reservation: AttemptReservation) -> Cap:
        """Return the most output; an endpoint that writes no tokens has none."""
        if self._operation not in CAPS:
            return Cap(bound=0)
        return reservation.cap(cap_in(self._operation, self.keywords))

    async def make(self, send: Send) -> Any:
        """Reserve, call, judge and settle; a stream is judged and settled while it is read."""
        cap = self._cap(self._reservation)
        if (entry := await self._admit(cap)) is not None:
            return await self._replay(entry, send)
        self._trace.attempts.append(self._row)
        self._reservation.stay()
        try:
            answer = await send(**self._sent(cap))
            kind = type(answer)  # an answer of pydantic's takes long to say that it has no such attribute
            self._is_open = hasattr(kind, "__anext__") or hasattr(kind, "__next__")
            if self._is_open:
                self._shown_trace.update(self._trace.to_dict())
                self._show_trace(answer)
                self._answer.hear(answer)
                return Watched(answer, self._answer, self.settle)
            self._answer.take(answer)
        except BaseException as error:  # whatever ends a call settles it
            await self.settle(error)
            raise
        await self.settle(None)
        self._show_trace(answer)
        return answer

    async def _admit(self, cap: Cap) -> Entry | None:
        """Return a kept answer; None once the call is reserved.

        That is before anything is sent: a refusal costs nothing, and calls at once cannot pass one limit together.

        Raises:
            BlueprintError: A limit refused the call, the stores took too long, or the deployment rests while a call
                above has others to ask.
        """
        refusal: BlueprintError
        longest_s, own_s = self._call.timeout_s, seconds_of(self.keywords.get("timeout"))
        limit_s = min(own_s or longest_s, longest_s)  # a Router's own is ten minutes
        try:
            async with asyncio.timeout(limit_s):  # LiteLLM has its own for what follows
                if (entry := await self._kept.find()) is None:
                    self._handed = await key_of(self.runtime, self._target, self.keywords)
                    await self._reservation.take(self._call, cap, force=self._account.force)
                return entry
        except BaseException as error:
            await self._kept.leave(None)
            match error:
                case TimeoutError():
                    refusal = late(error, limit_s)
                case LimitReached():
                    refusal, refusal.chain = error.error, error.chain
                case CircuitOpen():
                    provider, model = self._target.provider, self._target.model
                    refusal = CallError(
                        str(error), category="unavailable", code=CIRCUIT_OPEN, provider=provider, model=model
                    )
                case _:
                    raise
        refusal.trace = self._trace.to_dict()
        raise refusal

    async def _replay(self, entry: Entry, send: Send) -> Any:
        """Return a kept answer, by LiteLLM's public way to answer in a provider's place: its own objects come back."""
        await count_hit(
            self.runtime, self._target, entry, trace=self._trace, session=self._session, project=self._project
        )
        self._trace.cache["hit"] = True
        if (log := self.keywords.get("litellm_logging_obj")) is not None:
            log.model_call_details["cache_hit"] = True  # free in LiteLLM's own accounts, too
        answer = await send(**{**self.keywords, "mock_response": _litellm.model_response(entry.whole)})
        self._finish_trace(None)
        self._show_trace(answer)
        hidden = getattr(answer, "_hidden_params", None)
        if isinstance(hidden, dict):
            hidden |= {"cache_hit": True, "response_cost": 0.0}
        return answer

    def _sent(self, cap: Cap) -> dict[str, Any]:
        """Return the caller's keywords, with a cap where a limit needs one, and a stream's usage asked for."""
        sent = {**self.keywords, **self._handed}
        if self._is_inner and self._is_chat:
            sent["messages"] = as_openrouter_wants(sent["messages"], self._target.model)
        names = CAPS.get(self._operation, ())
        if names and cap.send is not None and not any(sent.get(name) for name in names):
            sent[names[0]] = cap.send
        if (self._is_chat or self._operation in TEXTS) and sent.get("stream"):
            options = sent.get("stream_options")
            if not options or isinstance(options, dict):  # else it is LiteLLM's to refuse
                sent["stream_options"] = {"include_usage": True, **(options or {})}
        return sent

    async def settle(self, error: BaseException | None) -> None:
        """Book the call, once, however it ended; nothing is raised."""
        failure = error if isinstance(error, CallError) else None  # None, too, for a caller who left
        if failure is None and isinstance(error, Exception):
            failure = call_error(error, self._call, in_stream=self._is_open, begun=self._answer.first_at is not None)
        if isinstance(failure, OUTPUT_INVALID):
            failure.message_received = redact_value(message_of(self._answer.whole()))
        # A call above that waits for the answer must not lose it to a ledger that is locked.
        until, now = self._account.until or math.inf, self.runtime.now()
        waits_s = self.runtime.config.deadline.idle_s if self._is_open else until - now
        within_s = min(BOOKING_S, max(0.0, waits_s / 2)) if self._is_inner else BOOKING_S
        left = failure is None and error is not None
        outcome = await self._reservation.settle(self._answer, failure, left=left, since=self._began, within_s=within_s)
        await self._kept.leave(self._entry(outcome) if error is None else None)
        self._finish_trace(error)
        if not self._is_inner and otel.listened():
            self._record(outcome, type(error).__name__ if isinstance(error, Exception) else outcome.category)

    def _entry(self, outcome: Outcome) -> Entry | None:
        """Return what the cache may keep of an answer that is complete and valid."""
        if self._kept.key is None or outcome.usage is None:
            return None
        return entry_of(self._response(outcome), self._answer, at=self.runtime.clock())

    def _response(self, outcome: Outcome, whole: Any = None) -> ChatResponse:
        """Return the answer as a record of ours; of the endpoints other than chat only whose it is and its usage."""
        verdict, usage = self._answer.verdict, outcome.usage
        return response_of(
            whole or {},
            provider=self._target.provider,
            model=self._target.model,
            content=verdict.text if verdict else "",
            tool_calls=verdict.tool_calls if verdict else (),
            usage=usage and usage.model_copy(update={"estimated_cost": outcome.cost_usd}),
        )

    def _record(self, outcome: Outcome, error: str | None) -> None:
        """Record the call's span; a call above the guard records its own."""
        answer = self._answer.whole()
        params = {name: value for name, value in self.keywords.items() if name not in {"messages", "tools"}}
        messages = [ChatMessage.model_construct(**message) for message in self._call.messages]
        otel.record_call(
            ChatRequest.model_construct(messages=messages, params=params, session=self._session),
            self._trace,
            duration_s=self._row.duration_s or 0.0,
            response=self._response(outcome, answer if self._is_chat else None) if error is None else None,
            error=error,
            operation=SPANS.get(self._operation, self._operation),
        )

    def _finish_trace(self, error: BaseException | None) -> None:
        if error is None:
            self._trace.served_by = f"{self._target.provider}/{self._target.model}"
        self._shown_trace.update(self._trace.to_dict())
        if isinstance(error, BlueprintError):
            error.trace = self._shown_trace

    def _show_trace(self, answer: Any) -> None:
        """Put the trace beside what LiteLLM tells of an answer; a stream's is complete once it has ended."""
        hidden = getattr(answer, "_hidden_params", None)
        if hidden is not None:
            hidden["blueprint"] = self._shown_trace
        elif hasattr(answer, "__dict__"):  # some streams of LiteLLM's have none
            answer._hidden_params = {"blueprint": self._shown_trace}  # noqa: SLF001 - LiteLLM's name, everywhere else
