"""What the answer of one guarded call says: heard, judged and held back while it passes, whole once it is over."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from blueprint_llm.adapters import litellm as _litellm
from blueprint_llm.adapters.views import reasoning_of, usage_info
from blueprint_llm.engine.cached import as_json
from blueprint_llm.engine.called import CALLING, EventReader, answer_in_chat_terms, in_chat_terms, usage_in
from blueprint_llm.engine.endpoints import CAPS, CHATS, TEXTS, cap_in
from blueprint_llm.engine.reader import Answer, AnswerReader
from blueprint_llm.engine.reservation import CHARS_PER_TOKEN
from blueprint_llm.errors import InvalidRequestError
from blueprint_llm.streaming import StreamingHandler, check_tools
from blueprint_llm.streaming.chunks import fields, sequence
from blueprint_llm.trace import CALLER
from blueprint_llm.types import with_raw

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from blueprint_llm.adapters import EndedBy
    from blueprint_llm.routing.targets import Target
    from blueprint_llm.streaming import StreamVerdict
    from blueprint_llm.types import UsageInfo

_CALLS = frozenset({"tool_calls", "function_call"})


class GuardedAnswer(Answer):
    """The answer of one call of LiteLLM's.

    Of a stream, tool calls and everything behind them wait until the answer is complete and valid, an end waits until
    it is proven, and a beginning that says nothing waits for what follows: until then another try can be made
    unnoticed. The rest goes on unchanged and in order.

    Args:
        operation: LiteLLM's name of the function; `keywords`: the call's.
        target: Whose answer it is.
        validates: Calls are held against their tools.
        is_inner: A call above judges it.
        redirects: A Router has others to ask where it is a refusal.
        now: Seconds of the monotonic clock.

    Attributes:
        shown: Content of a stream was handed on: no other answer can take this one's place.
    """

    def __init__(  # noqa: PLR0913 - the call, and who judges its answer
        self,
        operation: str,
        keywords: Mapping[str, Any],
        target: Target,
        *,
        validates: bool,
        is_inner: bool,
        redirects: bool,
        now: Callable[[], float],
    ) -> None:
        self._operation, self._keywords, self._target, self._now = operation, keywords, target, now
        self._validates = validates
        self._is_chat, self._is_inner, self._redirects = operation in CHATS, is_inner, redirects
        self._events: EventReader | None = None
        self._heard: _litellm.Heard | None = None
        self._waiting: list[Any] = []
        self._has_calls = False
        self.shown = False
        self.is_text = operation in CAPS
        self._is_plain = False
        options = keywords.get("stream_options")
        self._asks_usage = bool(options.get("include_usage") if isinstance(options, dict) else options)
        if self._is_chat and keywords.get("response_format") is not None:
            _ = self.reader  # a schema that is none is refused before anything is sent

    @cached_property
    def reader(self) -> AnswerReader:  # type: ignore[override] # most plain answers need none
        """Reads and checks what comes of it; made for the first that wants it."""
        tools = self._keywords.get("tools") or ()
        handler = StreamingHandler(
            tools=tools if tools and self._validates and _are_readable(tools) else (),
            response_format=self._keywords.get("response_format") if self._is_chat else None,
            max_tokens=cap_in(self._operation, self._keywords),
        )
        return AnswerReader(handler, provider=self._target.provider, model=self._target.model)

    @property
    def verdict(self) -> StreamVerdict | None:
        """What the validator says of it, once it may be handed over."""
        if self._is_plain and self._verdict is None:
            self._judge_whole()
        return self._verdict

    def take(self, answer: Any) -> None:
        """Take a whole answer and judge it. Raise CallError."""
        self.came, self.told = answer, fields(answer).get("usage") if self._is_chat else usage_in(answer)
        self.hidden = getattr(answer, "_hidden_params", None) or {}
        if self._is_chat and not self._is_inner and getattr(answer, "choices", None) is not None:
            self._is_plain = self.usage is not None and is_plain(answer, self._keywords)
            if not self._is_plain:
                self._judge_whole()
        elif self._operation in CALLING and (called := answer_in_chat_terms(answer)) is not None:
            self.reader.check(called)
            self._require_sound("terminal")

    def _judge_whole(self) -> None:
        self.reader.read_whole(self.came)
        self._require_sound("terminal")

    def hear(self, stream: Any) -> None:
        """Listen to a stream that was just opened, for what LiteLLM does not pass on; a call above wants it, too."""
        if not self._is_chat:
            self._events = EventReader()
            return
        self._heard = _litellm.Heard(stream, self._target.model)
        self.as_whole = self._heard.as_whole
        if (caller := CALLER.get()) is not None and caller.heard is not None:
            caller.heard.append(self._heard)

    def feed(self, chunk: Any) -> Sequence[Any]:
        """Return the chunks that may be handed on now. Raise CallError if the answer cannot become valid."""
        if self.first_at is None:
            self.first_at = self._now()
        if self._events is not None:
            return self._feed_event(self._events, chunk)
        is_text = not self._is_inner and self.reader.check(chunk)
        facts = fields(chunk)
        usage = facts.get("usage")
        self.told = usage or self.told
        if self._is_inner:
            self.reader.chunks.append(chunk)
        elif not is_text or self._waiting or usage is not None:
            return self._hold(chunk, facts, has_usage=usage is not None)
        self.shown = True
        return [chunk]

    def _hold(self, chunk: Any, facts: Any, *, has_usage: bool) -> list[Any]:
        """Let a chunk of a chat wait; return those that may be handed on now."""
        says = ends = False
        for choice in sequence(facts.get("choices")):
            part = fields(choice)
            delta = fields(part.get("delta"))
            items = delta.items() if isinstance(delta, dict) else ()
            said = {name for name, value in items if value and name != "role"}
            self._has_calls = self._has_calls or not said.isdisjoint(_CALLS)
            says, ends = says or bool(said), ends or bool(part.get("finish_reason"))
        if has_usage and not self._asks_usage:
            if not (says or ends):  # only asked for by us
                return []
            chunk.usage = None
        self._waiting.append(chunk)
        return self._released(shown=True) if says and not self._has_calls else []

    def _feed_event(self, events: EventReader, event: Any) -> Sequence[Any]:
        """Return the events that may be handed on: from the first tool call on they wait for a valid end."""
        chunks = events.add(event)
        if self._operation in TEXTS and not self._asks_usage:  # only asked for by us
            event.usage = None
            if not event.choices:
                return []
        self._waiting.append(event)
        if events.has_calls:
            for chunk in chunks:
                self.reader.check(chunk)
            if not events.is_over:
                return []
            self._require_sound("terminal")
        return self._released(shown=True)

    def finish(self) -> Sequence[Any]:
        """Return the rest of a stream that has ended. Raise CallError if it is not valid, or nothing proves its end."""
        if self._events is not None and self._waiting:
            self._require_sound("none")
        if self._heard is not None and not self._is_inner:
            made_up = self._keywords.get("mock_response") is not None
            self.reader.take_aside(self._heard.aside())
            self._require_sound("terminal" if made_up else self._heard.ended_by())
        return self._released(shown=self.shown)

    def _released(self, *, shown: bool) -> list[Any]:
        released, self._waiting, self.shown = self._waiting, [], shown
        return released

    def _require_sound(self, ended_by: EndedBy) -> None:
        """Judge the answer. An empty, refused or cut one is handed over as LiteLLM does.

        Raises:
            CallError: It is not valid; or it is a refusal of which nothing was shown, and a Router has others to ask.
        """
        _, refusal = self.judge(ended_by)
        if refusal is not None and self._redirects and not self.shown:
            raise refusal

    @property
    def usage(self) -> UsageInfo | None:
        """What was used, by the provider."""
        if self._events is None:
            return super().usage
        said = usage_info(in_chat_terms(self._events.usage))
        if said is None or not self._events.is_begun:
            return said
        written = max(said.completion_tokens, -(-self._events.seen_chars // CHARS_PER_TOKEN))
        counts = {"completion_tokens": written, "total_tokens": said.prompt_tokens + written}
        return with_raw(said.model_copy(update=counts), said.raw)

    @property
    def seen_chars(self) -> int:
        """How much of it has arrived; of reasoning no event of ours tells."""
        if self._events is not None:
            return self._events.seen_chars
        choices = (choice for chunk in self.reader.chunks for choice in getattr(chunk, "choices", None) or ())
        reasoned = sum(len(reasoning_of(getattr(choice, "delta", None))) for choice in choices)
        return self.reader.seen_chars + reasoned

    def priced(self) -> Any:
        """Return what LiteLLM counts its cost by: to merge every chunk takes as long as to read a few more."""
        if self.came is not None:
            return self.came
        if not self._is_chat:
            return self._events.answer if self._events else None
        asked = self._keywords
        if asked.get("web_search_options") or asked.get("tools"):  # the text may say what was searched
            return self.whole()
        last = fields(self.reader.chunks[-1]) if self.reader.chunks else {}
        heard = {} if self._heard is None else self._heard.aside()
        told = {name: said for name in ("model", "service_tier") if (said := last.get(name) or heard.get(name))}
        choice = {"index": 0, "message": {"role": "assistant", "content": ""}, "finish_reason": "stop"}
        usage = dict(as_json(self.told)) if self.told is not None else None
        if usage and told.get("service_tier") != last.get("service_tier"):
            usage.pop("cost", None)  # which LiteLLM has counted without the tier
        return {**told, "choices": [choice], "usage": usage}


def is_plain(answer: Any, keywords: Mapping[str, Any]) -> bool:
    """Return True for one text that ended of itself and binds to no schema: the validator lets every such answer pass.

    Most answers are, and to judge them takes a tenth of what a guard does.
    """
    choices = answer.choices
    if keywords.get("response_format") is not None or not isinstance(choices, list) or len(choices) != 1:
        return False
    choice = fields(choices[0])
    said = fields(choice.get("message"))
    content = said.get("content")
    is_ended = choice.get("finish_reason") == "stop" and not choice.get("provider_specific_fields")
    is_text = isinstance(content, str) and bool(content.strip())
    return is_ended and is_text and not said.get("tool_calls") and said.get("function_call") is None


def _are_readable(tools: Iterable[Any]) -> bool:
    """Return True if every tool is a function that an answer can be held against."""
    try:
        check_tools(tools)
    except (InvalidRequestError, TypeError, AttributeError):
        return False
    return True
