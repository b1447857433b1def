"""The policies around one LiteLLM call: reserve, call, judge, settle, trace; its answer may come from the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blueprint_llm.adapters import Call
from blueprint_llm.adapters.exceptions import call_error
from blueprint_llm.adapters.views import reasoning_of, response_of, usage_info
from blueprint_llm.cache import storable
from blueprint_llm.engine import otel
from blueprint_llm.engine.attempt import BOOKING_S, MAYBE_BILLED, estimated
from blueprint_llm.engine.cached import as_json, count_hit, entry_of
from blueprint_llm.engine.endpoints import (
    CAPS,
    CHATS,
    SPANS,
    EventReader,
    fallbacks_of,
    in_chat_terms,
    prompt_of,
    target_of,
    usage_in,
)
from blueprint_llm.engine.guard import Guard, Send, Watched
from blueprint_llm.engine.handed import key_of
from blueprint_llm.engine.held import HeldBack
from blueprint_llm.engine.kept import KeptAnswer, key_for
from blueprint_llm.engine.reader import AnswerReader
from blueprint_llm.engine.reservation import AttemptReservation, LimitReached
from blueprint_llm.engine.runtime import Runtime
from blueprint_llm.errors import BlueprintError, CallError, InvalidRequestError
from blueprint_llm.streaming import StreamingHandler, check_tools
from blueprint_llm.streaming.chunks import fields
from blueprint_llm.trace import CALLER, Account, AttemptTrace, Trace
from blueprint_llm.types import ChatMessage, ChatRequest
from blueprint_llm.usage import Cap, Outcome
from blueprint_llm.usage.limits import of_attempt
from blueprint_llm.usage.stores.records import ABANDONED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from blueprint_llm.adapters import EndedBy
    from blueprint_llm.cache import Entry
    from blueprint_llm.routing.targets import Target
    from blueprint_llm.streaming import StreamVerdict
    from blueprint_llm.types import ChatResponse, UsageInfo
    from blueprint_llm.usage.limits import Rule


def build(config: Any) -> Guard:
    """Return the guard of a configuration, in any form that `LLMClient` takes. Raises ConfigError."""
    return PolicyGuard(Runtime.build(config))


class PolicyGuard:
    """The policies of one runtime around single LiteLLM calls.

    Args:
        runtime: The limits, prices and stores.
        account: On whose account a call goes, by its keywords.
    """

    def __init__(self, runtime: Runtime, account: Callable[[Mapping[str, Any]], Account] = lambda _: Account()) -> None:
        self.runtime, self._account = runtime, account

    async def call(self, operation: str, send: Send, keywords: dict[str, Any]) -> Any:
        """Make one call of LiteLLM's function `operation`; see `Guard.call`."""
        account = CALLER.get() or self._account(keywords)
        return await _GuardedCall(self.runtime, operation, keywords, account).make(send)


class _GuardedCall:
    """One call of one LiteLLM function; of a stream, also its `Watch`.

    Where a call above is known (`CALLER` with its trace), judging the answer and keeping it are that call's.
    """

    def __init__(self, runtime: Runtime, operation: str, keywords: dict[str, Any], account: Account) -> None:
        self.runtime, self.keywords, self._operation = runtime, keywords, operation
        self._is_chat, self._is_inner = operation in CHATS, account.trace is not None
        self._target = target = target_of(runtime, keywords)
        self._trace = account.trace or Trace(id=runtime.new_id(), policy_hash=runtime.config.digest)
        self._session, self._project = account.session or runtime.session, account.project or runtime.project
        self._began = runtime.now()
        self._row = AttemptTrace(
            n=len(self._trace.attempts) + 1,
            provider=target.provider,
            model=target.model,
            at_s=round(self._began - account.began, 6) if account.trace else 0.0,
        )
        self._shown_trace: dict[str, Any] = {}
        params = {name: value for name, value in keywords.items() if name != "messages"}
        self._call = Call(
            provider=target.provider,
            model=target.model,
            messages=prompt_of(keywords),
            params=params,
            timeout_s=runtime.config.deadline.total_s,
        )
        self._reservation = self._dearest([target, *fallbacks_of(runtime, keywords)])
        self._handed: dict[str, Any] = {}
        self._is_open = False
        self._first_at: float | None = None
        self._answer: Any = None
        self._usage: Any = None
        self._held = HeldBack(wants_usage=bool((keywords.get("stream_options") or {}).get("include_usage")))
        self._events = EventReader()
        self._verdict: StreamVerdict | None = None
        is_kept = self._is_chat and not self._is_inner
        key = key_for(runtime, target, keywords, project=self._project) if is_kept else None
        self._kept = KeptAnswer(runtime, key, keywords.get("cache"), owner=f"{self._trace.id}-{self._row.n}")
        handler = handler_for(runtime, keywords)
        self._reader = AnswerReader(handler, provider=target.provider, model=target.model)

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
                limits=self._limits_of(target),
            )
            for target in targets
        ]
        if len(found) == 1:
            return found[0]
        return max(found, key=lambda each: each.worst(self._call, self._cap(each)).usd or 0)

    def _limits_of(self, target: Target) -> tuple[Rule, ...]:
        """Return the limits of a Router's deployment, which stand in the keywords of an attempt at it."""
        if not target.deployment:
            return ()
        most = self.runtime.config.router_settings.get("default_max_parallel_requests")
        default = {} if most is None else {"max_parallel_requests": most}
        given = {name: value for name, value in self.keywords.items() if value is not None}
        return of_attempt(target.deployment, {**default, **given})

    async def make(self, send: Send) -> Any:
        """Reserve, call, judge and settle; a stream is judged and settled while it is read."""
        if (entry := await self._kept.find()) is not None:
            return await self._replay(entry, send)
        try:
            self._handed = await key_of(self.runtime, self._target, self.keywords)
            cap = self._cap(self._reservation)
            await self._reserve(cap)
        except BaseException:
            await self._kept.leave(None)
            raise
        self._trace.attempts.append(self._row)
        try:
            answer = await send(**self._sent(cap))
            if hasattr(answer, "__anext__") or hasattr(answer, "__next__"):
                self._show_trace(answer)
                _litellm().watch(answer)
                self._is_open = True
                return Watched(stream=answer, watch=self)
            self._judge_whole(answer)
        except BaseException as error:  # whatever ends a call settles it
            await self.settle(error)
            raise
        await self.settle(None)
        self._show_trace(answer)
        return answer

    async def _replay(self, entry: Entry, send: Send) -> Any:
        """Return a kept answer, by LiteLLM's public way to answer in a provider's place: its own objects come back."""
        await count_hit(
            self.runtime, self._target, entry, trace=self._trace, session=self._session, project=self._project
        )
        self._trace.cache["hit"] = True
        if (log := self.keywords.get("litellm_logging_obj")) is not None:
            log.model_call_details["cache_hit"] = True  # free in LiteLLM's own accounts, too
        answer = await send(**{**self.keywords, "mock_response": _litellm().model_response(entry.whole)})
        self._finish_trace(None)
        self._show_trace(answer)
        hidden = getattr(answer, "_hidden_params", None)
        if isinstance(hidden, dict):
            hidden |= {"cache_hit": True, "response_cost": 0.0}
        return answer

    async def _reserve(self, cap: Cap) -> None:
        """Reserve before anything is sent: a refusal costs nothing, and calls at once cannot pass one limit together.

        Raises:
            BlueprintError: A limit refused the call.
        """
        try:
            await self._reservation.take(self._call, cap, force=True)
        except LimitReached as limit:
            refusal, limit_chain = limit.error, limit.chain
        else:
            return
        refusal.chain = limit_chain
        refusal.trace = self._trace.to_dict()
        raise refusal

    def _cap(self, reservation: AttemptReservation) -> Cap:
        """Return the most output; an endpoint that writes no tokens has none."""
        names = CAPS.get(self._operation)
        if names is None:
            return Cap(bound=0)
        return reservation.cap(next((self.keywords[name] for name in names if self.keywords.get(name)), None))

    def _sent(self, cap: Cap) -> dict[str, Any]:
        """Return the caller's keywords, with a cap where a limit needs one, and a stream's usage asked for."""
        sent = {**self.keywords, **self._handed}
        names = CAPS.get(self._operation, ())
        if cap.send is not None and not any(sent.get(name) for name in names):
            sent[names[0]] = cap.send
        if self._is_chat and sent.get("stream"):
            sent["stream_options"] = {"include_usage": True, **(sent.get("stream_options") or {})}
        return sent

    def _judge_whole(self, answer: Any) -> None:
        self._answer, self._usage = answer, usage_in(answer)
        if self._is_chat and not self._is_inner and getattr(answer, "choices", None):
            for _ in self._reader.take_whole(answer):
                pass
            self._require_sound("terminal")

    def _require_sound(self, ended_by: EndedBy) -> None:
        self._verdict = verdict = self._reader.close(self._usage, ended_by)
        # An empty, refused or cut answer is handed over as LiteLLM does.
        self._reader.require_sound(verdict, hands_over_refusals=True)

    @property
    def shown(self) -> bool:
        """Whether content of a stream was handed on."""
        return self._held.shown

    def feed(self, chunk: Any) -> Sequence[Any]:
        """Return the chunks that may be handed on now. Raise CallError if the answer cannot become valid."""
        if self._first_at is None:
            self._first_at = self.runtime.now()
        if not self._is_chat:
            self._events.add(chunk)
            self._held.shown = True
            return [chunk]
        if self._is_inner:
            self._usage = fields(chunk).get("usage") or self._usage
            self._reader.chunks.append(chunk)
            self._held.shown = True
            return [chunk]
        self._usage = fields(chunk).get("usage") or self._usage
        self._reader.check(chunk)
        return self._held.add(chunk)

    def finish(self, stream: Any) -> Sequence[Any]:
        """Return the rest of a stream that has ended. Raise CallError if it is not valid, or nothing proves its end."""
        if self._is_chat and not self._is_inner:
            made_up = self.keywords.get("mock_response") is not None
            self._require_sound("terminal" if made_up else _litellm().end_of(stream))
        return self._held.rest()

    async def settle(self, error: BaseException | None) -> None:
        """Book the call, once, however it ended; nothing is raised."""
        failure = self._failure(error)
        now, row = self.runtime.now(), self._row
        row.duration_s = round(now - self._began, 6)
        row.ttft_s = None if self._first_at is None else round(self._first_at - self._began, 6)
        if failure is not None:
            row.category, row.status, row.code = failure.category, failure.status, failure.code
        elif error is not None:
            row.category = ABANDONED
        outcome = self._outcome(row.category)
        self._reservation.note(outcome)
        await self.runtime.book(self._reservation.settle(outcome, failure), within_s=BOOKING_S)
        await self._kept.leave(self._entry(outcome) if error is None else None)
        self._finish_trace(error)
        self._tell(outcome, type(error).__name__ if isinstance(error, Exception) else outcome.category)

    def _entry(self, outcome: Outcome) -> Entry | None:
        """Return what the cache may keep of an answer that is complete and valid."""
        verdict = self._verdict
        if self._kept.key is None or verdict is None or outcome.usage is None:
            return None
        whole = as_json(self._reader.merged(self._usage) if self._answer is None else self._answer)
        if not storable(whole, status=verdict.status, ended_by=verdict.ended_by):
            return None
        return entry_of(self._response(outcome, whole), whole, self._reader.chunks, at=self.runtime.clock())

    def _response(self, outcome: Outcome, whole: Any = None) -> ChatResponse:
        """Return the answer as a record of ours; of the endpoints other than chat only whose it is and its usage."""
        verdict, usage = self._verdict, outcome.usage
        return response_of(
            whole or {},
            provider=self._target.provider,
            model=self._target.model,
            content=verdict.text if verdict else "",
            tool_calls=verdict.tool_calls if verdict else (),
            usage=usage and usage.model_copy(update={"estimated_cost": outcome.cost_usd}),
        )

    def _tell(self, outcome: Outcome, error: str | None) -> None:
        """Say how the attempt ended, to whoever listens; a call above the guard tells of itself."""
        if self.runtime.audience:
            how = "succeeded" if error is None else "abandoned" if outcome.category == ABANDONED else "failed"
            facts = {**self._row.to_dict(), "trace_id": self._trace.id}
            self.runtime.tell(f"attempt.{how}", level="warning" if how == "failed" else "info", **facts)
        if otel.listened() and not self._is_inner:
            answer = self._reader.merged(self._usage) if self._answer is None else self._answer
            params = {name: value for name, value in self._call.params.items() if name != "tools"}
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

    def _failure(self, error: BaseException | None) -> CallError | None:
        """Return what went wrong in our words; None for an answer, and for a caller who left."""
        if isinstance(error, CallError):
            return error
        if not isinstance(error, Exception):
            return None
        return call_error(error, self._call, in_stream=self._is_open, begun=self._first_at is not None)

    def _outcome(self, category: str | None) -> Outcome:
        timed = Outcome(category=category, latency_s=self._row.duration_s, ttft_s=self._row.ttft_s)
        if category is not None and category != ABANDONED and category not in MAYBE_BILLED:
            return timed._replace(cost_usd=0.0)
        said = usage_info(self._usage or in_chat_terms(self._events.usage))
        usage = said or estimated(self._call, self._reader.seen_chars + self._reasoned_chars())
        cost_usd = self._cost_usd(usage, is_whole=category is None)
        return timed._replace(usage=usage, cost_usd=cost_usd, maybe_billed=category is not None)

    def _cost_usd(self, usage: UsageInfo, *, is_whole: bool) -> float | None:
        """Return what the call cost: by the user's own prices, else as LiteLLM counts; None where nobody knows."""
        is_own = self._reservation.card is not None and self._reservation.card.is_own
        counted = (getattr(self._answer, "_hidden_params", None) or {}).get("response_cost")
        if counted and not (is_own and usage.source == "provider"):
            return float(counted)
        writes = self._operation in CAPS
        if usage.source != "provider" and not writes:  # pictures, speech: their price is not one of tokens
            return None
        answer = None
        if is_whole and self._answer is not None:
            answer = self._answer
        elif is_whole:
            answer = self._priced() if self._is_chat else self._events.answer
        seconds = self._row.duration_s or 0.0
        return self._reservation.cost_usd(usage, call=self._call, answer=answer, seconds=seconds)

    def _priced(self) -> dict[str, Any]:
        """Return what LiteLLM counts a stream's cost by: to merge every chunk takes as long as to read a few more."""
        if self.keywords.get("web_search_options") or self.keywords.get("tools"):  # its text may say what was searched
            return self._reader.merged(self._usage)
        last = fields(self._reader.chunks[-1]) if self._reader.chunks else {}
        told = {name: last.get(name) for name in ("model", "service_tier") if last.get(name)}
        choice = {"index": 0, "message": {"role": "assistant", "content": ""}, "finish_reason": "stop"}
        return {**told, "choices": [choice], "usage": as_json(self._usage) if self._usage is not None else None}

    def _reasoned_chars(self) -> int:
        """Return how much of a stream was reasoning, which no event tells of."""
        choices = (choice for chunk in self._reader.chunks for choice in getattr(chunk, "choices", None) or ())
        return sum(len(reasoning_of(getattr(choice, "delta", None))) for choice in choices)

    def _show_trace(self, answer: Any) -> None:
        """Put the trace beside what LiteLLM tells of an answer; a stream's is complete once it has ended."""
        hidden = getattr(answer, "_hidden_params", None)
        if isinstance(hidden, dict):
            self._shown_trace.update(self._trace.to_dict())
            hidden["blueprint"] = self._shown_trace


def handler_for(runtime: Runtime, keywords: Mapping[str, Any]) -> StreamingHandler:
    """Return the validator of an answer to a call of these keywords."""
    tools = keywords.get("tools") or ()
    return StreamingHandler(
        tools=tools if runtime.config.streaming.validate_tools and are_readable(tools) else (),
        response_format=keywords.get("response_format"),
        max_tokens=keywords.get("max_tokens") or keywords.get("max_completion_tokens"),
    )


def are_readable(tools: Iterable[Any]) -> bool:
    """Return True if every tool is a function that an answer can be held against."""
    try:
        check_tools(tools)
    except (InvalidRequestError, TypeError, AttributeError):
        return False
    return True


def _litellm() -> Any:
    from blueprint_llm.adapters import litellm  # noqa: PLC0415 - loaded by now: a call of it is on its way

    return litellm
