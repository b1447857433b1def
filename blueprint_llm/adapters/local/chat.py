"""Between OpenAI's chat format and the dialect of llama.cpp's server: the request out, the chunks back.

A model whose chat template knows no tools gets them described in the system message, and its calls are read back: JSON
between `<tool_call>` tags, the format of the Hermes models. A forced call is not left to the model: a grammar made of
the tools' schemas lets it write nothing else, so even 135M parameters make a valid one. With `tool_choice` "auto", the
default, the tools are only offered, and what the model writes between the tags is passed on.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Body = Mapping[str, Any]
Delta = dict[str, Any]

MAX_TOKENS = 1024
"""The longest answer where the request sets no limit: a small model may never stop by itself."""

OPEN, CLOSE = "<tool_call>", "</tool_call>"
# Sampling parameters, `stop`, `seed`, `response_format` and `logprobs` pass through; these do not.
_OURS = {"model", "messages", "tools", "tool_choice", "parallel_tool_calls", "n", "user", "metadata", "stream_options"}
_NAME = re.compile(r'\s*\{\s*"name"\s*:\s*"([^"\\]+)"')
_ARGUMENTS = re.compile(r'\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)')
_STRINGS_AND_BRACES = re.compile(r'"(?:[^"\\]|\\.)*"?|[{}]', re.DOTALL)


def prepared(body: Body) -> tuple[dict[str, Any], CallReader | None]:
    """Return what llama.cpp is asked, and how to read the answer where tools are offered. Raise ValueError."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ValueError("messages: at least one is needed")
    if body.get("n") not in {None, 1}:
        raise ValueError("n: the embedded model gives one answer")
    try:
        tools, forced = _offered(body.get("tools") or [], body.get("tool_choice"))
        plain = with_tools(messages, tools)
        schema = {"type": "json_schema", "json_schema": {"schema": _call_schema(tools)}} if forced else None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"messages or tools are not in OpenAI's format: {error}") from None
    asked = {key: value for key, value in body.items() if key not in _OURS and value is not None}
    wire = {"max_tokens": asked.pop("max_completion_tokens", MAX_TOKENS), **asked, "messages": plain}
    wire |= {"response_format": schema} if forced else {}
    wire |= {"stream": True, "stream_options": {"include_usage": True}, "return_progress": True}
    return wire, CallReader(forced=forced) if tools else None


def _offered(tools: Sequence[Body], choice: Any) -> tuple[list[Body], bool]:
    """Return the tools to show the model, and whether it must call one. Raise ValueError for an unknown choice."""
    match choice:
        case None | "auto":
            return list(tools), False
        case "none":
            return [], False
        case "required" | "any":
            return list(tools), bool(tools)
        case {"function": {"name": str(name)}}:
            named = [tool for tool in tools if _function(tool)["name"] == name]
            if named:
                return named, True
    raise ValueError(f"tool_choice {choice!r} names none of the tools")


def _function(tool: Body) -> Body:
    function = tool.get("function")
    if isinstance(function, Mapping) and isinstance(function.get("name"), str):
        return function
    raise ValueError("a tool needs a function with a name")


def with_tools(messages: Sequence[Body], tools: Sequence[Body]) -> list[dict[str, Any]]:
    """Return the messages as plain text: calls and results of earlier turns, and the tools in the system message."""
    plain = [_plain(message) for message in messages]
    if not tools:
        return plain
    if plain[0].get("role") != "system":
        plain.insert(0, {"role": "system", "content": ""})
    listed = "\n".join(json.dumps({"type": "function", "function": _function(tool)}) for tool in tools)
    offer = (
        f"You may call these functions to help with the user's request:\n<tools>\n{listed}\n</tools>\n"
        "To call one, answer with its name and arguments as JSON in tags:\n"
        f'{OPEN}\n{{"name": ..., "arguments": {{...}}}}\n{CLOSE}'
    )
    plain[0]["content"] = f"{_text(plain[0].get('content'))}\n\n{offer}".lstrip()
    return plain


def _plain(message: Body) -> dict[str, Any]:
    match message:
        case {"role": "tool"}:
            return {"role": "user", "content": f"<tool_response>\n{_text(message.get('content'))}\n</tool_response>"}
        case {"tool_calls": [*calls]} if calls:
            written = "\n".join(f"{OPEN}\n{_call(call['function'])}\n{CLOSE}" for call in calls)
            return {"role": "assistant", "content": f"{_text(message.get('content'))}\n{written}".lstrip()}
    return {**message, "content": message.get("content") or ""}


def _call(function: Body) -> str:
    return f'{{"name": {json.dumps(function["name"])}, "arguments": {function.get("arguments") or "{}"}}}'


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content or "")


def _call_schema(tools: Sequence[Body]) -> dict[str, Any]:
    """Return the schema of one call of any of `tools`; each tool's own `$ref`s are moved with it below `$defs`."""
    definitions: dict[str, Any] = {}
    calls = []
    for number, tool in enumerate(tools):
        function, key = _function(tool), f"tool{number}"
        parameters = {"type": "object", "properties": {}, **(function.get("parameters") or {})}
        definitions[key] = json.loads(json.dumps(parameters).replace('"#/', f'"#/$defs/{key}/'))
        properties = {"name": {"const": function["name"]}, "arguments": {"$ref": f"#/$defs/{key}"}}
        calls.append({"type": "object", "properties": properties, "required": list(properties)})
    return {"anyOf": calls, "$defs": definitions}


class CallReader:
    """Turn a model's text into OpenAI deltas as it comes: prose as content, calls as `tool_calls` with argument text.

    All of the text is read again with every piece, and what is new of it is told: a model writes 90 tokens a second.

    Attributes:
        arguments_chars: Of each call that has begun, how much of its arguments was told.
    """

    def __init__(self, *, forced: bool) -> None:
        self.arguments_chars: list[int] = []
        self._forced = forced
        self._text, self._prose_chars = OPEN if forced else "", 0

    def feed(self, text: str, *, ended: bool = False) -> list[Delta]:
        """Return the deltas that `text` decides; where it has `ended`, what is left is prose."""
        self._text += text
        prose, calls = _read(self._text, ended=ended and not self._forced)
        deltas: list[Delta] = [{"content": prose[self._prose_chars :]}] if len(prose) > self._prose_chars else []
        self._prose_chars = max(self._prose_chars, len(prose))
        for index, (name, arguments) in enumerate(calls):
            if index == len(self.arguments_chars):
                self.arguments_chars.append(0)
                head = {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function"}
                deltas.append(_delta(index, {"name": name, "arguments": ""}, **head))
            if more := arguments[self.arguments_chars[index] :]:
                self.arguments_chars[index] += len(more)
                deltas.append(_delta(index, {"arguments": more}))
        return deltas


def _delta(index: int, function: dict[str, str], **head: str) -> Delta:
    return {"tool_calls": [{"index": index, **head, "function": function}]}


def _read(text: str, *, ended: bool) -> tuple[str, list[tuple[str, str]]]:
    """Return the prose, and each call's name and arguments, as far as they are decided."""
    prose = ""
    calls: list[tuple[str, str]] = []
    while True:
        before, tag, rest = text.partition(OPEN)
        if not tag:
            begun = next((n for n in range(len(OPEN) - 1, 0, -1) if before.endswith(OPEN[:n])), 0)
            return prose + (before if ended else before[: len(before) - begun]), calls
        prose += before
        name = _NAME.match(rest)
        if name is None:
            return prose + (OPEN + rest if ended else ""), calls
        key = _ARGUMENTS.match(rest, name.end())
        start = key.end() if key else name.end()
        end = _end_of_object(rest, start) if key else start
        calls.append((name[1], rest[start:end]))
        _, tag, text = rest[end:].partition(CLOSE)
        if end is None or not tag:
            return prose, calls


def _end_of_object(text: str, start: int) -> int | None:
    """Return the place after the brace that closes the one at `start`; None: it is not there yet."""
    depth = 0
    for token in _STRINGS_AND_BRACES.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(token[0], 0)
        if not depth:
            return token.end()
    return None


class Chunks:
    """Turn llama.cpp's chunks into OpenAI's: no progress, no path as the model's name, calls instead of their text."""

    def __init__(self, model: str, reader: CallReader | None) -> None:
        self._model, self._reader = model, reader
        self._started = False
        self.complete = False

    def read(self, raw: Body) -> Iterator[dict[str, Any]]:
        """Yield the chunks that `raw` becomes."""
        if "prompt_progress" in raw:
            return
        if not raw["choices"]:
            self.complete = True
            yield self._chunk(raw, [], usage=raw["usage"])
            return
        choice = raw["choices"][0]
        reason, text = choice["finish_reason"], choice["delta"].get("content") or ""
        if self._reader is not None:
            deltas = self._reader.feed(text, ended=reason is not None)
        else:
            deltas = [{"content": text}] if text else []
        for delta in deltas:
            yield self._chunk(raw, [{**choice, "delta": self._with_role(delta), "finish_reason": None}])
        if reason is not None:
            called = reason == "stop" and self._reader is not None and self._reader.arguments_chars
            finish = "tool_calls" if called else reason
            yield self._chunk(raw, [{"index": 0, "delta": self._with_role({}), "finish_reason": finish}])

    def _with_role(self, delta: Delta) -> Delta:
        started, self._started = self._started, True
        return delta if started else {"role": "assistant", **delta}

    def _chunk(self, raw: Body, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        kept = {key: raw[key] for key in ("id", "created", "object")}
        return {**kept, "model": self._model, "choices": choices, **more}
