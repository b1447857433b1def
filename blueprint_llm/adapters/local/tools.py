"""Tools for a model whose chat template knows none: they are described in the system message and calls are read back.

A call is JSON between `<tool_call>` tags, the format of the Hermes models. A forced call is not left to the model: a
grammar made of the tools' schemas lets it write nothing else, so even 135M parameters make a valid one. With
`tool_choice` "auto", the default, the tools are only offered, and what the model writes between the tags is passed on.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Body = Mapping[str, Any]
Delta = dict[str, Any]

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_NAME = re.compile(r'\s*\{\s*"name"\s*:\s*"([^"\\]+)"')
_ARGUMENTS = re.compile(r'\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)')


def offered(tools: Sequence[Body], choice: Any) -> tuple[list[Body], bool]:
    """The tools to show the model, and whether it must call one. Raises ValueError for an unknown choice."""
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
    """The messages as plain text: calls and results of earlier turns, and the tools in the system message."""
    plain = [_plain(message) for message in messages]
    if not tools:
        return plain
    if plain[0].get("role") != "system":
        plain.insert(0, {"role": "system", "content": ""})
    plain[0]["content"] = f"{_text(plain[0].get('content'))}\n\n{_offer(tools)}".lstrip()
    return plain


def _offer(tools: Sequence[Body]) -> str:
    listed = "\n".join(json.dumps({"type": "function", "function": _function(tool)}) for tool in tools)
    return (
        f"You may call these functions to help with the user's request:\n<tools>\n{listed}\n</tools>\n"
        "To call one, answer with its name and arguments as JSON in tags:\n"
        f'{OPEN}\n{{"name": ..., "arguments": {{...}}}}\n{CLOSE}'
    )


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


def call_schema(tools: Sequence[Body]) -> dict[str, Any]:
    """The schema of one call of any of `tools`; each tool's own `$ref`s are moved with it below `$defs`."""
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

    Each state takes what it can decide on from the front of the undecided text: it answers a delta, an empty one
    when it only moved on, or None when it needs more text.

    Attributes:
        calls: How many calls have begun.
    """

    def __init__(self, *, forced: bool) -> None:
        self.calls = 0
        self._forced = forced
        self._undecided = ""
        self._depth, self._in_string, self._escaped = 0, False, False
        self._state: Callable[[], Delta | None] = self._name if forced else self._prose

    def feed(self, text: str) -> list[Delta]:
        """The deltas that `text` decides."""
        self._undecided += text
        deltas = []
        while (delta := self._state()) is not None:
            deltas.append(delta)
        return [delta for delta in deltas if delta]

    def close(self) -> list[Delta]:
        """What is left when the text ends: prose, or a tag that began no call."""
        rest, self._undecided = self._undecided, ""
        if self._forced or self._state not in {self._prose, self._name}:
            return []
        rest = OPEN + rest if self._state == self._name else rest
        return [{"content": rest}] if rest else []

    def _take(self, length: int) -> str:
        taken, self._undecided = self._undecided[:length], self._undecided[length:]
        return taken

    def _prose(self) -> Delta | None:
        before, tag, _ = self._undecided.partition(OPEN)
        if tag:
            self._take(len(before) + len(OPEN))
            self._state = self._name
            return {"content": before} if before.strip() else {}
        begun = next((n for n in range(len(OPEN) - 1, 0, -1) if before.endswith(OPEN[:n])), 0)
        ready = self._take(len(before) - begun)
        return {"content": ready} if ready else None

    def _name(self) -> Delta | None:
        header = _NAME.match(self._undecided)
        if header is None:
            return None
        self._take(header.end())
        self._state = self._key
        self.calls += 1
        function = {"name": header[1], "arguments": ""}
        call = {
            "index": self.calls - 1,
            "id": f"call_{uuid.uuid4().hex[:24]}",
            "type": "function",
            "function": function,
        }
        return {"tool_calls": [call]}

    def _key(self) -> Delta | None:
        key = _ARGUMENTS.match(self._undecided)
        if key is None:
            return self._end() if CLOSE in self._undecided else None
        self._take(key.end())
        self._state = self._arguments
        return {}

    def _arguments(self) -> Delta | None:
        """Everything up to the brace that closes the arguments."""
        for position, character in enumerate(self._undecided):
            if self._closes(character):
                self._state = self._end
                return self._piece(self._take(position + 1))
        return self._piece(self._take(len(self._undecided))) if self._undecided else None

    def _closes(self, character: str) -> bool:
        """Whether `character` ends the arguments, the object that began at depth 0."""
        if self._escaped:
            self._escaped = False
        elif character == '"':
            self._in_string = not self._in_string
        elif self._in_string:
            self._escaped = character == "\\"
        else:
            self._depth += {"{": 1, "}": -1}.get(character, 0)
            return self._depth == 0
        return False

    def _end(self) -> Delta | None:
        _, tag, after = self._undecided.partition(CLOSE)
        if not tag:
            return None
        self._undecided = after
        self._state = self._prose
        return {}

    def _piece(self, arguments: str) -> Delta:
        return {"tool_calls": [{"index": self.calls - 1, "function": {"arguments": arguments}}]}
