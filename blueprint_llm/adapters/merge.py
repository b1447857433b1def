"""Merge the chunks of a streamed answer into what the answer would have been in one piece.

Values are merged by their shape, so that a field that no provider has invented yet survives:

- Around the choices a later chunk replaces what an earlier one said (`usage`, `service_tier`, `citations`); only the
  first `id` and `created` stay.
- Around a delta likewise (`finish_reason`), but lists grow (`logprobs`).
- In a delta everything is a piece: text is appended, objects are merged, numbers are replaced, lists grow.
- An element of a list with an `index` is a piece of the element with that index.
- None says nothing.

Shape alone cannot tell "ha" + "ha" from a label that comes with every piece, so some names have their meaning here: a
label (`id`, `type`, `name`, ...) is never appended to, and the first one stays. In an object inside a delta a text that
is the same in every piece, while another one changes, is taken for a label as well.
"""

from __future__ import annotations

import base64
import contextlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# Said once, or again with every piece; what comes later never adds to it.
LABELS = frozenset({"id", "type", "role", "name", "format", "object", "model", "call_id", "mime_type", "media_type"})
# What comes later replaces it.
STATES = frozenset({"status", "finish_reason", "stop_reason"})
# Never a label, however its pieces look.
TEXTS = frozenset({"text", "thinking", "content", "arguments", "input", "data", "summary", "transcript", "signature"})
# Each one says all there is so far.
SNAPSHOTS = frozenset(
    {
        *("web_search_calls", "web_search_results", "tool_results", "code_interpreter_results", "server_tool_calls"),
        *("compaction_blocks", "compaction_start", "container"),
    }
)
# Their elements come whole; an index among them is the place in one chunk.
WHOLE_ELEMENTS = frozenset({"images", "annotations", "reasoning_items", "citations", "citation"})
# The last element goes on until it is signed, or has its data.
UNTIL_SIGNED = frozenset({"thinking_blocks"})
# Their index is a place in the stream, which a message does not have.
PLACED = frozenset({"tool_calls", "thinking_blocks"})
_FIRST = frozenset({"id", "created"})
_MOST_PARTS = 64


class Merger:
    """Add the chunks of one stream as `model_dump()` gives them, then ask for the whole."""

    def __init__(self) -> None:
        self._around: dict[str, Any] = {}
        self._choices: dict[int, tuple[dict[str, Any], _Record]] = {}  # what is around a message, and the message

    def add(self, chunk: Mapping[str, Any]) -> None:
        """Take the next chunk. It is not changed, and nothing of it is kept that the caller could change."""
        for name, value in chunk.items():
            if name == "choices":
                for choice in value or ():
                    self._add(choice)
            elif value is None or value == (so_far := self._around.get(name)):
                continue
            elif not (so_far and (name in _FIRST or value in ([], {}))):
                self._around[name] = _copied(value)

    def _add(self, choice: Mapping[str, Any]) -> None:
        around, message = self._choices.setdefault(choice.get("index") or 0, ({}, _Record()))
        for name, value in choice.items():
            if name == "delta":
                message.add(value or {})
            elif value is not None:
                around[name] = _grown(around.get(name), value)

    def whole(self) -> dict[str, Any]:
        """Return the answer so far in the shape of LiteLLM's `ModelResponse`."""
        choices = []
        for index in sorted(self._choices):
            around, record = self._choices[index]
            said = {name: value for name, value in record.whole(labelled=False).items() if value is not None}
            message = {"role": "assistant", "content": None, **said}
            choices.append({**_copied(around), "message": message, "index": index})
        return {**_copied(self._around), "object": "chat.completion", "choices": choices}


class _Text:
    """A text in pieces, joined now and then: an open stream may have thousands.

    Attributes:
        count: How many came.
        is_repeated: All of them are the same.
    """

    __slots__ = ("count", "is_repeated", "parts")

    def __init__(self, first: str) -> None:
        self.parts, self.count, self.is_repeated = [first], 1, True

    def add(self, piece: str) -> None:
        self.count += 1
        self.is_repeated = self.is_repeated and piece == self.parts[0]
        self.parts.append(piece)
        # What is padded stays apart: base64 is joined as bytes where that is in the middle.
        if len(self.parts) >= _MOST_PARTS and not self.is_repeated and not any(map(_is_padded, self.parts)):
            self.parts = ["".join(self.parts)]

    def whole(self) -> str:
        return "".join(self.parts)


def _is_padded(piece: str) -> bool:
    return piece.endswith("=")


class _Record:
    """An object in pieces: a delta, or what lies inside one."""

    __slots__ = ("_fields", "_pieces")

    def __init__(self) -> None:
        self._fields: dict[str, Any] = {}
        self._pieces = 0

    def get(self, name: str) -> Any:
        return self._fields.get(name)

    def add(self, piece: Mapping[str, Any]) -> None:
        self._pieces += 1
        for name, value in piece.items():
            so_far = self._fields.get(name)
            if value is None:
                self._fields.setdefault(name, None)
            elif name == "citation":  # Anthropic's come one by one; an answer in one piece has them in lists
                self._fields[name] = _appended(name, so_far, [value])
            else:
                self._fields[name] = _appended(name, so_far, value)

    def whole(self, *, labelled: bool = True) -> dict[str, Any]:
        """Return the object; `labelled`: a text that every piece repeats may be a label."""
        labels = self._repeated() if labelled else ()
        fields = {name: value.parts[0] if name in labels else _finished(value) for name, value in self._fields.items()}
        if isinstance(data := self._fields.get("data"), _Text):
            fields["data"] = _joined_base64(data.parts)
        if citations := fields.pop("citation", None):
            fields["citations"] = citations if all(isinstance(each, list) for each in citations) else [citations]
        return fields

    def labels(self) -> set[str]:
        """Return the names of the labels that are said so far, also in the objects inside."""
        inner = (value.labels() for value in self._fields.values() if isinstance(value, _Record))
        return {name for name, value in self._fields.items() if name in LABELS and value}.union(*inner)

    def _repeated(self) -> list[str]:
        """Return the texts that are the same in every piece, if there is one that is not."""
        texts = {name: value for name, value in self._fields.items() if isinstance(value, _Text)}
        same = [name for name, text in texts.items() if text.count == self._pieces > 1 and text.is_repeated]
        return [name for name in same if name not in TEXTS] if len(same) < len(texts) else []


class _List:
    """A list in pieces."""

    __slots__ = ("_elements", "_name")

    def __init__(self, name: str) -> None:
        self._name = name
        self._elements: list[Any] = []

    def add(self, pieces: Iterable[Any]) -> None:
        for piece in pieces:
            element = self._continued(piece) if isinstance(piece, dict) else None
            if element is None:
                self._elements.append(_begun(self._name, piece))
            else:
                element.add(piece)

    def whole(self) -> list[Any]:
        elements = [_finished(element) for element in self._elements]
        for element in elements:
            if self._name in PLACED and isinstance(element, dict):
                element.pop("index", None)
        return elements

    def _continued(self, piece: Mapping[str, Any]) -> Any:
        """Return the element that a piece goes on with; None: it begins one."""
        if self._name in UNTIL_SIGNED:
            last = self._elements[-1] if self._elements else None
            return last if isinstance(last, _Record) and _goes_on(last, piece) else None
        if piece.get("index") is None or self._name in WHOLE_ELEMENTS:
            return None
        records = (each for each in reversed(self._elements) if isinstance(each, _Record))
        found = next((each for each in records if each.get("index") == piece["index"]), None)
        return None if found is None or _begins_another(found, piece) else found


def _goes_on(block: _Record, piece: Mapping[str, Any]) -> bool:
    """Return True if a piece belongs to a thought that is still open: not hidden, and not signed before the piece."""
    if block.get("data") is not None or any(_differ(block, piece, name) for name in ("type", "index")):
        return False
    signature = block.get("signature")
    is_signed = isinstance(signature, _Text) and bool(signature.whole())
    thinking = piece.get("thinking")
    return not is_signed or thinking is None or bool(not thinking and piece.get("signature"))


def _begins_another(element: _Record, piece: Mapping[str, Any]) -> bool:
    """Return True if a piece at an element's place belongs to another: it has its own type, or its own id and labels.

    An id alone is no proof: there are servers that make up a new one for every piece.
    """
    if _differ(element, piece, "type"):
        return True
    said = _Record()
    said.add(piece)
    return _differ(element, piece, "id") and element.labels() <= said.labels()


def _differ(element: _Record, piece: Mapping[str, Any], name: str) -> bool:
    nothing = (None, "")
    return element.get(name) not in nothing and piece.get(name) not in (*nothing, element.get(name))


def _appended(name: str, so_far: Any, value: Any) -> Any:
    """Return what a field of a delta comes to with its next piece."""
    if name in SNAPSHOTS:
        return _copied(value)
    match so_far, value:
        case str(), str():  # labels and states, since any other text is a _Text
            return (value or so_far) if name in STATES else (so_far or value)
        case (_Text(), str()) | (_Record(), dict()) | (_List(), list()):
            so_far.add(value)
        case _:
            return _begun(name, value)
    return so_far


def _begun(name: str, value: Any) -> Any:
    begun: _Record | _List
    match value:
        case str() if name not in LABELS and name not in STATES:
            return _Text(value)
        case dict():
            begun = _Record()
        case list():
            begun = _List(name)
        case _:
            return value
    begun.add(value)
    return begun


def _finished(value: Any) -> Any:
    return value.whole() if isinstance(value, _Record | _Text | _List) else value


def _joined_base64(parts: list[str]) -> str:
    """Return pieces one after another; as bytes where one before the last is padded, as sound's may be."""
    with contextlib.suppress(ValueError):  # it only looked like it
        if any(map(_is_padded, parts[:-1])):
            return base64.b64encode(b"".join(base64.b64decode(part, validate=True) for part in parts)).decode()
    return "".join(parts)


def _grown(so_far: Any, value: Any) -> Any:
    """Return what a field around a delta comes to with its next value."""
    match so_far, value:
        case _, None:
            return so_far
        case dict(), dict():
            return {name: _grown(so_far.get(name), value.get(name)) for name in so_far | value}
        case list(), list():
            return so_far + _copied(value)
        case _:
            return _copied(value)


def _copied(value: Any) -> Any:
    """Return a value with lists and objects of its own."""
    match value:
        case dict():
            return {name: _copied(each) for name, each in value.items()}
        case list():
            return [_copied(each) for each in value]
        case _:
            return value


def as_delta(whole: Mapping[str, Any]) -> dict[str, Any]:
    """Return an answer in `ModelResponse`'s shape as the one chunk of its stream."""
    return {**whole, "object": "chat.completion.chunk", "choices": [_streamed(choice) for choice in whole["choices"]]}


def _streamed(choice: Mapping[str, Any]) -> dict[str, Any]:
    delta = dict(choice.get("message") or {})
    if isinstance(calls := delta.get("tool_calls"), list):
        delta["tool_calls"] = [{"index": place, **call} for place, call in enumerate(calls)]
    return {**{name: value for name, value in choice.items() if name != "message"}, "delta": delta}


def usage_of(said: Mapping[str, Any], counted: Mapping[str, Any]) -> dict[str, Any]:
    """Return the usage of a stream as the same answer has it in one piece.

    Args:
        said: The provider's own, all its chunks' taken together.
        counted: What LiteLLM hands out at a stream's end: without the fields that it does not know, but with a cost
            and details that it has counted itself. A count is taken only where the provider has such details.
    """
    return {name: _filled(value, counted.get(name)) for name, value in said.items()}


def _filled(said: Any, counted: Any) -> Any:
    match said, counted:
        case (None, _) | (_, None):
            return said
        case dict(), dict():
            return {name: _grown(said.get(name), counted.get(name)) for name in said | counted}
        case dict(), _:  # a cost in parts, of which LiteLLM hands out the sum
            return said
        case _:
            return counted


def in_one_piece(
    whole: Mapping[str, Any], aside: Mapping[str, Any], message_fields: frozenset[str], choice_fields: frozenset[str]
) -> dict[str, Any]:
    """Return a merged answer of an OpenAI-like provider as LiteLLM has one that came in one piece.

    Args:
        whole: The chunks that LiteLLM passed on, merged.
        aside: The fields that it passes on in part only, merged of the provider's own chunks.
        message_fields: What LiteLLM knows in a message; it puts the rest below `provider_specific_fields`.
        choice_fields: The same of a choice.
    """
    missing = {choice["index"]: choice for choice in aside.get("choices", ())}
    around = {name: value for name, value in aside.items() if name not in {"choices", "object"}}
    choices = []
    for choice in whole["choices"]:
        apart = missing.get(choice["index"], {})
        extra = {name: value for name, value in apart.get("message", {}).items() if name not in PASSED_ON}
        native = apart.get("provider_specific_fields", {})
        message = _with_extras({**choice["message"], **extra}, message_fields)
        if "provider_specific_fields" in message and not message["provider_specific_fields"]:
            del message["provider_specific_fields"]
        beside = {"provider_specific_fields": {**(choice.get("provider_specific_fields") or {}), **native}}
        choices.append(_with_extras({**choice, "message": message, **beside}, choice_fields))
    return {**whole, **around, "choices": choices}


def as_openrouter_wants(messages: list[dict[str, Any]], model: str) -> list[dict[str, Any]]:
    """Return the messages with what OpenRouter asks to have back where it looks for it.

    LiteLLM keeps `reasoning_details` of an answer below `provider_specific_fields`, and sends it back there. Without
    it OpenRouter's models answer a tool's result with an error, or think anew:
    https://openrouter.ai/docs/guides/best-practices/reasoning-tokens
    """
    if not model.startswith("openrouter/"):
        return messages
    kept = [message.get("provider_specific_fields") for message in messages]
    details = [each.get("reasoning_details") if isinstance(each, dict) else None for each in kept]
    return [{"reasoning_details": d, **message} if d else message for d, message in zip(details, messages, strict=True)]


# What LiteLLM passes on of every delta.
PASSED_ON = frozenset(
    {
        *("role", "content", "tool_calls", "function_call", "reasoning_content", "thinking_blocks", "reasoning_items"),
        *("audio", "images", "annotations", "provider_specific_fields"),
    }
)


def _with_extras(record: Mapping[str, Any], known: frozenset[str]) -> dict[str, Any]:
    extras = {name: value for name, value in record.items() if name not in known}
    kept = {name: value for name, value in record.items() if name in known}
    return {**kept, "provider_specific_fields": {**(record.get("provider_specific_fields") or {}), **extras}}
