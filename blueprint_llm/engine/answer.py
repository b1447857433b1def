"""What the answer of one guarded call says: heard, judged and held back while it passes, whole once it is over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blueprint_llm.adapters.views import reasoning_of
from blueprint_llm.engine.cached import as_json
from blueprint_llm.engine.called import CALLING, answer_in_chat_terms
from blueprint_llm.engine.endpoints import CHATS, EventReader, in_chat_terms, usage_in
from blueprint_llm.engine.held import HeldBack
from blueprint_llm.engine.reader import AnswerReader
from blueprint_llm.errors import InvalidRequestError
from blueprint_llm.streaming import StreamingHandler, check_tools
from blueprint_llm.streaming.chunks import fields
from blueprint_llm.trace import CALLER

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from blueprint_llm.adapters import EndedBy
    from blueprint_llm.adapters.litellm import Heard
    from blueprint_llm.routing.targets import Target
    from blueprint_llm.streaming import StreamVerdict


class GuardedAnswer:
    """The answer of one call of LiteLLM's.

    Args:
        operation: LiteLLM's name of the function; `keywords`: the call's.
        target: Whose answer it is.
        validates: Calls are held against their tools.
        is_inner: A call above judges it.
        redirects: A Router has others to ask where it is a refusal.

    Attributes:
        verdict: What the validator says of it, once it may be handed over.
        reader: What of it was read.
    """

    def __init__(
        self,
        operation: str,
        keywords: Mapping[str, Any],
        target: Target,
        *,
        validates: bool,
        is_inner: bool,
        redirects: bool,
    ) -> None:
        self._operation, self._keywords = operation, keywords
        self._is_chat, self._is_inner, self._redirects = operation in CHATS, is_inner, redirects
        self._held = HeldBack(wants_usage=bool((keywords.get("stream_options") or {}).get("include_usage")))
        self._events = EventReader()
        self._waiting: list[Any] = []
        self._heard: Heard | None = None
        self._answer: Any = None
        self._usage: Any = None
        self.verdict: StreamVerdict | None = None
        handler = _handler_for(keywords, validates=validates)
        self.reader = AnswerReader(handler, provider=target.provider, model=target.model)

    @property
    def shown(self) -> bool:
        """Return True if content of a stream was handed on."""
        return self._held.shown

    def take(self, answer: Any) -> None:
        """Take a whole answer and judge it. Raise CallError."""
        self._answer, self._usage = answer, usage_in(answer)
        if self._is_chat and not self._is_inner and getattr(answer, "choices", None) is not None:
            self.reader.read_whole(answer)
            self._require_sound("terminal")
        elif self._operation in CALLING and (called := answer_in_chat_terms(answer)) is not None:
            self.reader.check(called)
            self._require_sound("terminal")

    def hear(self, stream: Any) -> None:
        """Listen to a stream that was just opened, for what LiteLLM does not pass on; a call above wants it, too."""
        if not self._is_chat:
            return
        self._heard = heard = _litellm().Heard(stream, is_blocking=self._operation == "completion")
        if (caller := CALLER.get()) is not None and caller.heard is not None:
            caller.heard.append(heard)

    def feed(self, chunk: Any) -> Sequence[Any]:
        """Return the chunks that may be handed on now. Raise CallError if the answer cannot become valid."""
        if not self._is_chat:
            return self._feed_event(chunk)
        if self._is_inner:
            self._usage = fields(chunk).get("usage") or self._usage
            self.reader.chunks.append(chunk)
            self._held.shown = True
            return [chunk]
        is_text = self.reader.check(chunk)
        self._usage = fields(chunk).get("usage") or self._usage
        return self._held.add(chunk, is_text=is_text)

    def _feed_event(self, event: Any) -> Sequence[Any]:
        """Return the events that may be handed on: from the first tool call on they wait for a valid end."""
        chunks, calls = self._events.add(event), self._events.calls
        if not calls.has_calls:
            self._held.shown = True
            return [event]
        self._waiting.append(event)
        for chunk in chunks:
            self.reader.check(chunk)
        if not calls.is_over:
            return []
        self._require_sound("terminal")
        self._held.shown = True
        released, self._waiting = self._waiting, []
        return released

    def finish(self) -> Sequence[Any]:
        """Return the rest of a stream that has ended. Raise CallError if it is not valid, or nothing proves its end."""
        if self._is_chat and not self._is_inner:
            assert self._heard is not None  # noqa: S101 - set when the stream was opened
            made_up = self._keywords.get("mock_response") is not None
            self.reader.take_aside(self._heard.aside())
            self._require_sound("terminal" if made_up else self._heard.ended_by())
        if self._waiting:
            self._require_sound("none")
        return self._held.rest()

    def _require_sound(self, ended_by: EndedBy) -> None:
        """Judge the answer. An empty, refused or cut one is handed over as LiteLLM does.

        Raises:
            CallError: It is not valid; or it is a refusal of which nothing was shown, and a Router has others to ask.
        """
        verdict = self.reader.close(self._usage, ended_by)
        refusal = self.reader.require_sound(verdict)
        self.verdict = verdict
        if refusal is not None and self._redirects and not self.shown:
            raise refusal

    @property
    def usage(self) -> Any:
        """What was used, by the provider, in the terms of a chat's."""
        return self._usage or in_chat_terms(self._events.usage)

    @property
    def seen_chars(self) -> int:
        """How much of it has arrived; of reasoning no event tells."""
        choices = (choice for chunk in self.reader.chunks for choice in getattr(chunk, "choices", None) or ())
        reasoned = sum(len(reasoning_of(getattr(choice, "delta", None))) for choice in choices)
        return self.reader.seen_chars + reasoned

    @property
    def hidden(self) -> Mapping[str, Any]:
        """What LiteLLM keeps beside a whole answer."""
        return getattr(self._answer, "_hidden_params", None) or {}

    def whole(self) -> Any:
        """Return the answer as it came, or merged from its chunks."""
        if self._answer is None and self._heard is not None:
            self._answer = self._heard.as_whole(self.reader.merged(self._usage))
        return self._answer

    def priced(self) -> Any:
        """Return what LiteLLM counts its cost by: to merge every chunk takes as long as to read a few more."""
        if self._answer is not None:
            return self._answer
        if not self._is_chat:
            return self._events.answer
        asked = self._keywords
        if asked.get("web_search_options") or asked.get("tools"):  # the text may say what was searched
            return self.whole()
        last = fields(self.reader.chunks[-1]) if self.reader.chunks else {}
        told = {name: last.get(name) for name in ("model", "service_tier") if last.get(name)}
        choice = {"index": 0, "message": {"role": "assistant", "content": ""}, "finish_reason": "stop"}
        return {**told, "choices": [choice], "usage": as_json(self._usage) if self._usage is not None else None}


def _handler_for(keywords: Mapping[str, Any], *, validates: bool) -> StreamingHandler:
    """Return the validator of an answer to a call of these keywords."""
    tools = keywords.get("tools") or ()
    return StreamingHandler(
        tools=tools if validates and _are_readable(tools) else (),
        response_format=keywords.get("response_format"),
        max_tokens=keywords.get("max_tokens") or keywords.get("max_completion_tokens"),
    )


def _are_readable(tools: Iterable[Any]) -> bool:
    """Return True if every tool is a function that an answer can be held against."""
    try:
        check_tools(tools)
    except (InvalidRequestError, TypeError, AttributeError):
        return False
    return True


def _litellm() -> Any:
    from blueprint_llm.adapters import litellm  # noqa: PLC0415 - loaded by now: a call of it is on its way

    return litellm
