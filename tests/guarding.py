"""A guard for tests: it counts, refuses and validates with StreamingHandler, and remembers how each call ended."""

import asyncio
import threading
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import ClassVar

from blueprint_llm.adapters.settings import ModuleSettings
from blueprint_llm.engine.guarded import PolicyGuard, Watched
from blueprint_llm.errors import BudgetExceededError, QuotaExceededError, ToolCallInvalidError
from blueprint_llm.streaming import StreamingHandler, TextDelta, Verdict


@dataclass
class Booked:
    """One call: what it was and how it ended (`open`, `ok` or the name of what was raised)."""

    operation: str
    keywords: dict = field(repr=False)
    thread: int
    ended: str = "open"


@dataclass
class CountingGuard(PolicyGuard):
    """Let `limit` calls pass, refuse the others, and check every answer."""

    runtime: ClassVar = SimpleNamespace(settings=ModuleSettings())
    limit: int = 10**9
    refusal: str = "quota"
    refuse: frozenset = frozenset()
    booked: list = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    loops: set = field(default_factory=set)

    async def call(self, operation, send, keywords, *, redirects=False):
        """Count, call and check."""
        self.loops.add(id(asyncio.get_running_loop()))
        self.reserve(keywords)
        booked = Booked(operation, keywords, threading.get_ident())
        self.booked.append(booked)
        try:
            answer = await send(**keywords)
            if hasattr(answer, "__anext__") or hasattr(answer, "__next__"):
                watch = Watch(booked, keywords)
                return Watched(answer, watch, watch.settle)
            self.check(answer, keywords)
        except BaseException as error:
            booked.ended = type(error).__name__
            raise
        booked.ended = "ok"
        return answer

    def reserve(self, keywords):
        """Refuse what is over the limit."""
        with self.lock:
            refused = str(keywords.get("model")) in self.refuse
            if refused or len(self.booked) >= self.limit:
                raise self.error()

    def error(self):
        """The refusal."""
        if self.refusal == "budget":
            return BudgetExceededError(scope="project", limit_usd=1.0, used_usd=1.0, resets_at=None)
        return QuotaExceededError(scope="project", kind="requests", limit=self.limit, used=self.limit, resets_at=None)

    def check(self, answer, keywords):
        """Judge a whole answer."""
        handler = StreamingHandler(keywords.get("tools") or ())
        choices = getattr(answer, "choices", None)
        if choices and hasattr(choices[0], "message"):
            message = choices[0].message.model_dump()
            handler.feed({"choices": [{"index": 0, "message": message, "finish_reason": choices[0].finish_reason}]})
            raise_invalid(handler.close(ended_by="terminal"))

    @property
    def operations(self):
        """The names of the calls, in order."""
        return [each.operation for each in self.booked]

    @property
    def endings(self):
        """How the calls ended, in order."""
        return [each.ended for each in self.booked]


class Watch:
    """Judge a chat stream with StreamingHandler, and hold back its calls; other streams pass."""

    def __init__(self, booked, keywords):
        self.booked, self.waiting = booked, []
        self.handler = StreamingHandler(keywords.get("tools") or ())
        self.is_chat = booked.operation in {"completion", "acompletion"}
        self.shown = False
        self.settled = 0

    def feed(self, chunk):
        """Hold or hand on."""
        events = self.handler.feed(chunk) if self.is_chat else []
        for event in events:
            if isinstance(event, Verdict) and event.status == "invalid":
                raise ToolCallInvalidError(f"bad call: {event.code}", verdict=event)
        self.waiting.append(chunk)
        says = any(isinstance(event, TextDelta) for event in events)
        if self.handler.has_calls or (self.is_chat and not says):
            return []
        self.shown = True
        return self.finish(is_over=False)

    def finish(self, *, is_over=True):
        """Judge the whole stream; hand on what waits."""
        if self.is_chat and is_over:
            raise_invalid(self.handler.close())
        released, self.waiting = self.waiting, []
        return released

    async def settle(self, error):
        """Note the end, once."""
        self.settled += 1
        assert self.settled == 1
        self.booked.ended = "ok" if error is None else type(error).__name__


def raise_invalid(verdict):
    """Raise where a call is not valid."""
    is_bad = verdict.status == "invalid" or (verdict.problem is not None and verdict.problem.tool)
    if is_bad and verdict.code != "empty_answer":
        raise ToolCallInvalidError(f"bad call: {verdict.code}", verdict=verdict)
