"""One target's turn through the response cache: found there, waited for, or fetched and kept.

Identical calls at the same time make one: the first leads, the others wait for what it keeps. Who waited for somebody
that failed goes alone, and of a dead leader's followers one takes over. Waiting leaves time to ask oneself.
"""

from __future__ import annotations

from collections.abc import Generator
from functools import partial
from typing import TYPE_CHECKING, Any

from blueprint_llm.cache import Entry, Facts, storable
from blueprint_llm.cache.manager import Wait
from blueprint_llm.cache.ops import Get, Lease, Release
from blueprint_llm.config.secrets import protect
from blueprint_llm.engine.answers import as_openai
from blueprint_llm.engine.dispatch import params_for
from blueprint_llm.engine.steps import Abandoned, Act, Emit, Now, Step, Store
from blueprint_llm.errors import StoreError
from blueprint_llm.redaction import redact
from blueprint_llm.types import ChatResponse, PartialToolCall, StreamChunk
from blueprint_llm.usage.stores.ops import AttemptRow

if TYPE_CHECKING:
    from blueprint_llm.cache.entry import Delta
    from blueprint_llm.cache.flights import Flight
    from blueprint_llm.engine.parts import Parts
    from blueprint_llm.engine.visit import Visit
    from blueprint_llm.engine.voice import Voice
    from blueprint_llm.routing.targets import Target
    from blueprint_llm.types import ChatRequest

Steps = Generator[Step, Any, Any]
POLL_S, LONGEST_POLL_S = 0.01, 0.1


def key_for(parts: Parts, request: ChatRequest, target: Target) -> str | None:
    """What the answer of `target` to `request` is kept under, if it may be; no secret is revealed for it."""
    if not parts.cache.enabled or request.cache is False:
        return None
    tools = [tool.to_dict() for tool in request.tools or ()]
    own = protect("", request.params) if request.params else {}
    context = [part.model_dump() for part in request.context]
    checked = parts.config.streaming.validate_tools and request.check_answer
    facts = Facts(
        model=target.model,
        account=parts.credentials.account(target.provider, model=target.model, params=target.params),
        project=request.project,
        messages=[message.to_dict() for message in request.messages],
        params={**params_for(parts, request, target, tools, None), **own},
        manner=(context, target.max_context_tokens, target.share_codebase, checked),
    )
    return parts.cache.key_of(facts)


def peek(parts: Parts, request: ChatRequest, targets: list[Target]) -> Generator[Step, Any, str]:
    """What the first target would find in the cache: `hit`, `miss`, or `off`."""
    key = key_for(parts, request, targets[0]) if targets else None
    if key is None:
        return "off"
    found = yield _asking(parts, Get(key=key))
    return "hit" if parts.cache.entry_of(key, found, request.cache_ttl_s) else "miss"


def _asking(parts: Parts, op: Any) -> Act:
    return Act(blocking=partial(parts.cache.execute, op), awaiting=partial(parts.cache.aexecute, op))


def through_cache(visit: Visit) -> Steps:
    """What `visit.run` would return, from the cache where that can be."""
    key = key_for(visit.parts, visit.walk.request, visit.target)
    visit.walk.trace.cache = {"hit": False, "key": key}
    if key is None:
        yield from _loaded(visit)
        return (yield from visit.run())
    return (yield from _Turn(visit, key).run())


def _loaded(visit: Visit) -> Steps:
    visit.until += yield from visit.walk.load(visit.target)


class _Turn:
    """One caller's turn at one key."""

    def __init__(self, visit: Visit, key: str) -> None:
        self.visit, self.walk, self.parts, self.key = visit, visit.walk, visit.parts, key
        self.owner = self.walk.trace.id
        self.leads = False
        self.deltas: list[Delta] = []
        self.ending: StreamChunk | None = None

    def run(self) -> Steps:
        """A `ChatResponse`, or why it is time to leave the target."""
        entry = (yield from self._look()) or (yield from self._queue())
        if entry is not None:
            return (yield from self._replay(entry))
        return (yield from (self._lead() if self.leads else self._fetch(None)))

    def _ask(self, op: Any) -> Steps:
        return (yield _asking(self.parts, op))

    def _look(self) -> Generator[Step, Any, Entry | None]:
        cache, max_age_s = self.parts.cache, self.walk.request.cache_ttl_s
        if entry := cache.recent(self.key, max_age_s):
            return entry
        found = yield from self._ask(Get(key=self.key))
        return cache.entry_of(self.key, found, max_age_s)

    def _queue(self) -> Generator[Step, Any, Entry | None]:
        """Wait while somebody fetches the answer: it, or None, which means to fetch it oneself."""
        standing = yield from self._ask(Lease(key=self.key, owner=self.owner))
        flight, poll_s, patience = standing.flight, POLL_S, (yield from self._patience())
        while not standing.mine and standing.flight == flight and (yield Now()) < patience:
            yield from self._ask(Wait(key=self.key, poll_s=poll_s))
            poll_s = min(2 * poll_s, LONGEST_POLL_S)
            if entry := (yield from self._look()):
                return entry
            standing = yield from self._ask(Lease(key=self.key, owner=self.owner, flight=flight))
        self.leads = standing.mine
        entry = yield from self._look()  # it may have come between the last look and the lease
        if entry is not None and self.leads:
            yield from self._ask(Release(key=self.key, owner=self.owner))
        return entry

    def _patience(self) -> Generator[Step, Any, float]:
        """Until when to wait: as long as leaves a first token its time, at least for half of what is left."""
        now, until = (yield Now()), self.visit.until
        longest: float = max(now + (until - now) / 2, until - self.parts.config.deadline.first_token_s)
        return longest

    def _lead(self) -> Steps:
        flight = self.parts.cache.begin(self.key, self.owner)
        try:
            return (yield from self._fetch(flight))
        finally:
            self.parts.cache.end(flight)
            yield from self._ask(Release(key=self.key, owner=self.owner))

    def _fetch(self, flight: Flight | None) -> Steps:
        """Ask the target and keep its answer, before the stream's last chunk lets the caller go."""
        yield from _loaded(self.visit)
        outcome = yield from self._overheard(self.visit.run(), flight)
        if isinstance(outcome, ChatResponse):
            yield from self._keep(outcome)
        if self.ending is not None:
            yield Emit(chunk=self.ending)
        return outcome

    def _overheard(self, steps: Steps, flight: Flight | None) -> Steps:
        """Do `steps`, noting what is emitted; while the caller has a chunk in hand, the lease is not kept alive."""
        resume: Any = steps.send
        result: Any = None
        while True:
            try:
                step = resume(result)
            except StopIteration as end:
                return end.value
            resume, result = steps.send, None
            if type(step) is Emit and self._note(step.chunk):
                continue
            if flight is not None:
                flight.paused = type(step) is Emit
            try:
                result = yield step
            except (Exception, Abandoned) as error:  # noqa: BLE001 - every failure of a step is the visit's
                resume, result = steps.throw, error

    def _note(self, chunk: Any) -> bool:
        """Remember a chunk of ours; whether it is the last, which is held back."""
        if not isinstance(chunk, StreamChunk):
            return False
        if chunk.restart:
            self.deltas.clear()
        if delta := chunk.delta or chunk.tool_call:
            self.deltas.append(delta)
        self.ending = chunk if chunk.is_done else None
        return chunk.is_done

    def _keep(self, response: ChatResponse) -> Steps:
        cache, request = self.parts.cache, self.walk.request
        if self.visit.answered is None or not storable(response, self.visit.answered[1]):
            return
        entry = Entry.of(response, self._raw(response), self.deltas, at=self.parts.clock())
        put = cache.put_of(self.key, entry, request.cache_ttl_s)
        text = put.value.decode("utf-8", "replace")
        if redact(text) == text:  # an answer that repeats a key stays in memory only
            yield from self._ask(put)

    def _raw(self, response: ChatResponse) -> dict[str, Any]:
        """The provider's whole response, or one put together from a stream's choices."""
        attempt, verdict = self.visit.answered  # type: ignore[misc] # _keep has looked
        if attempt.raw is not None:
            raw = attempt.raw
            return dict(raw) if isinstance(raw, dict) else raw.model_dump(mode="json", warnings=False)
        whole = as_openai(response)
        for n, each in enumerate(verdict.choices[1:], 1):
            parts = {"content": each.text, "finish_reason": each.finish_reason, "tool_calls": list(each.tool_calls)}
            whole["choices"].append(as_openai(response.model_copy(update=parts))["choices"][0] | {"index": n})
        return whole

    def _replay(self, entry: Entry) -> Steps:
        """The kept answer as this target's; what it saved is counted, nothing is reserved."""
        walk, target = self.walk, self.visit.target
        walk.trace.cache["hit"] = True
        walk.trace.served_by = f"{target.provider}/{target.model}"
        walk.note_overhead((yield Now()))
        yield from self._count(entry)
        if walk.voice is not None:
            yield from self._speak(entry, walk.voice)
        metadata = {"trace": walk.trace.to_dict(), "cached": True, "deployment": target.deployment or None}
        response = ChatResponse(
            content=entry.content,
            finish_reason=entry.finish_reason,
            usage=entry.usage,
            tool_calls=list(entry.tool_calls),
            provider=target.provider,
            model=target.model,
            metadata=metadata,
        )
        response._raw = partial(_rebuilt, entry)  # noqa: SLF001 - with_raw would copy what is new anyway
        return response

    def _speak(self, entry: Entry, voice: Voice) -> Steps:
        who = {"provider": self.visit.target.provider, "model": self.visit.target.model}
        for delta in entry.deltas:
            told = {"tool_call": delta} if isinstance(delta, PartialToolCall) else {"delta": delta}
            yield from voice.emit(StreamChunk(**told, **who))
        yield from voice.recite(partial(_rebuilt, entry))
        ending = StreamChunk(is_done=True, usage=entry.usage, tool_calls=entry.tool_calls, **who)
        yield from voice.emit(ending)

    def _count(self, entry: Entry) -> Steps:
        request, target, trace = self.walk.request, self.visit.target, self.walk.trace
        row = AttemptRow(
            id=f"{trace.id}-cache",
            call_id=trace.id,
            provider=target.provider,
            model=target.model,
            session=request.session,
            project=request.project,
            cost_nano=0,
            cache_hit=True,
            saved_nano=entry.saved_nano or 0,
            trace_id=trace.id,
        )
        try:
            if op := self.parts.hits.add(row):
                yield Store(op=op)
        except StoreError as error:  # an answer that is there and costs nothing is not withheld for a statistic
            self.parts.tell("usage.lost", level="warning", reason=str(error))


def _rebuilt(entry: Entry) -> Any:
    from blueprint_llm.adapters import litellm as _litellm  # noqa: PLC0415 - only who asks for LiteLLM's object loads it

    return _litellm.model_response(entry.raw)
