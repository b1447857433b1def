"""Tool-using histories as OpenAI's, Anthropic's and Gemini's models leave them behind, from a seed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

Message = dict[str, Any]

WORDS = (  # noqa: SIM905 - a word list reads best as words
    "the service reads a configuration file before every request and writes the result to disk because operators want "
    "to see what changed between two deployments without asking the database for each row again when it is slow"
).split()
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"{verb} a file of the project and say what came of it",
            "parameters": {
                "type": "object",
                "properties": {
                    "path": {"type": "string", "description": "relative to the root"},
                    "line": {"type": "integer"},
                },
                "required": ["path"],
            },
        },
    }
    for name, verb in (("read_file", "Read"), ("search_files", "Search"), ("run_tests", "Test"))
]


def text(draw: random.Random, words: int) -> str:
    """Prose, code, JSON, a log or Chinese, of about so many words."""
    match draw.choice(("prose", "prose", "code", "json", "log", "chinese")):
        case "prose":
            return " ".join(draw.choices(WORDS, k=words)).capitalize() + "."
        case "code":
            return "\n".join(
                f"    if self._{draw.choice(WORDS)} >= {draw.randint(0, 99)}:\n        return {draw.choice(WORDS)}({n})"
                for n in range(words // 6 + 1)
            )
        case "json":
            return json.dumps(
                [
                    {"id": draw.randint(1, 10**6), "name": draw.choice(WORDS), "ok": draw.random() < 0.5}
                    for _ in range(words // 8 + 1)
                ]
            )
        case "log":
            return "\n".join(
                f"2026-11-30T13:{n % 60:02d}:07.{draw.randint(0, 999):03d}Z INFO worker-{draw.randint(1, 9)} "
                f"{draw.choice(WORDS)}={draw.randint(0, 10**9):x}"
                for n in range(words // 5 + 1)
            )
        case _:
            return "".join(draw.choices("这是一个用于测试上下文长度的句子请求读取配置文件并写入结果", k=words))


def length(draw: random.Random, usual: int) -> int:
    """Mostly short, sometimes very long."""
    return min(2000, 3 + int(draw.expovariate(1 / usual)))


class Dialect:
    """How one family of models writes calls and results down."""

    def __init__(self, draw: random.Random, *, unique: bool) -> None:
        self.draw, self.unique, self.made = draw, unique, 0

    def ids(self) -> list[str]:
        """The ids of a turn's calls; a server that counts anew for each turn uses them again."""
        count = self.draw.choice((1, 1, 1, 2, 3))
        first = self.made if self.unique else 0
        self.made += count
        return [f"call_{first + n}" for n in range(count)]

    def arguments(self) -> dict[str, Any]:
        """The arguments of a call."""
        return {"path": f"src/{self.draw.choice(WORDS)}.py", "line": self.draw.randint(1, 900)}

    def turn(self) -> list[Message]:
        """An assistant's turn with calls, and their results."""
        raise NotImplementedError


class OpenAI(Dialect):
    """`tool_calls` and messages of the role `tool`."""

    def call(self, name: str) -> dict[str, Any]:
        """One call."""
        return {
            "id": name,
            "type": "function",
            "function": {"name": "read_file", "arguments": json.dumps(self.arguments())},
        }

    def turn(self) -> list[Message]:
        """A turn and its results, as text or in parts."""
        ids = self.ids()
        said = {
            "role": "assistant",
            "content": self.draw.choice((None, "", text(self.draw, 12))),
            "tool_calls": list(map(self.call, ids)),
        }
        return [said, *map(self.result, ids)]

    def result(self, name: str) -> Message:
        """One result."""
        said = text(self.draw, length(self.draw, 120))
        parts = [{"type": "text", "text": said}]
        return {"role": "tool", "tool_call_id": name, "content": parts if self.draw.random() < 0.2 else said}


class Gemini(OpenAI):
    """OpenAI's shape with thought signatures on the calls."""

    def call(self, name: str) -> dict[str, Any]:
        """One call with its signature."""
        return {**super().call(name), "provider_specific_fields": {"thought_signature": "c2lnbmF0dXJl" * 4}}


class Anthropic(Dialect):
    """Content blocks: thinking, `tool_use`, and a user message of `tool_result` parts."""

    def turn(self) -> list[Message]:
        """A turn that thinks, and its results, sometimes with a picture or a remark of the user's."""
        ids = self.ids()
        thought = {"type": "thinking", "thinking": text(self.draw, 15), "signature": "c2ln" * 8}
        calls = [{"type": "tool_use", "id": name, "name": "read_file", "input": self.arguments()} for name in ids]
        results: list[dict[str, Any]] = [
            {"type": "tool_result", "tool_use_id": name, "content": self.result()} for name in ids
        ]
        if self.draw.random() < 0.1:
            results.append({"type": "text", "text": "Go on."})
        return [{"role": "assistant", "content": [thought, *calls]}, {"role": "user", "content": results}]

    def result(self) -> Any:
        """The content of one result."""
        said = text(self.draw, length(self.draw, 120))
        return said if self.draw.random() < 0.5 else [{"type": "text", "text": said}]


def history(draw: random.Random, dialects: Sequence[type[Dialect]] = (OpenAI, Anthropic, Gemini)) -> list[Message]:
    """A valid conversation that ends with a question or with tool results."""
    dialect = draw.choice(dialects)(draw, unique=draw.random() < 0.7)
    messages: list[Message] = [{"role": "system", "content": text(draw, 30)}] if draw.random() < 0.8 else []
    for n in range(draw.randint(3, 10)):
        messages.append({"role": "user", "content": f"Question {n}: {text(draw, length(draw, 30))}"})
        for _ in range(draw.randint(0, 4)):
            messages += dialect.turn()
        messages.append({"role": "assistant", "content": text(draw, length(draw, 60))})
    ending = draw.random()
    if ending < 0.6:
        messages.append({"role": "user", "content": f"And now? {text(draw, length(draw, 20))}"})
    elif ending < 0.9:
        messages += [{"role": "user", "content": "Look at it."}, *dialect.turn()]
    return messages
