"""How long shaping a conversation to half its tokens takes, alone and against LiteLLM's own trimming."""

import gc
import os
from functools import partial

from measuring import best_s, faster, limited, row

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

from blueprint_llm.adapters.tokens import count_tokens
from blueprint_llm.context.shaping import shape

MODEL = "gpt-4o"
COUNT = partial(count_tokens, MODEL)


def conversation(count, size):
    """A tool-using conversation of `count` messages and about `size` bytes."""
    text = "some words of text " * (size // count // 19)
    messages = [{"role": "system", "content": "You help."}]
    for n in range((count - 2) // 4):
        call = {"id": f"call_{n}", "type": "function", "function": {"name": "read", "arguments": '{"path": "a"}'}}
        messages += [
            {"role": "user", "content": text},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": f"call_{n}", "content": text},
            {"role": "assistant", "content": text},
        ]
    return [*messages, {"role": "user", "content": "the question"}]


def half(messages):
    """Half of a conversation's tokens, by the model's tokenizer."""
    return COUNT(messages, []) // 2


def to_half(name, messages, limit_ms):
    """A row of shaping against a fixed limit."""
    budget = half(messages)
    return limited(name, best_s(lambda: shape(messages, budget, count=COUNT), 10) * 1e3, limit_ms, "ms")


def against_litellm(messages):
    """A row against `litellm.utils.trim_messages` on the same conversation and half of its own count."""
    from litellm.utils import token_counter, trim_messages  # noqa: PLC0415 - the variable must be set first

    total = token_counter(model=MODEL, messages=messages)
    trim_messages(messages[-1:], model=MODEL, max_tokens=100)
    theirs = best_s(lambda: trim_messages(messages, model=MODEL, trim_ratio=1.0, max_tokens=total // 2), 2)
    budget = half(messages)
    ours = best_s(lambda: shape(messages, budget, count=COUNT), 10)
    return faster("shape 100 KB to half", ours * 1e3, "litellm.trim_messages", theirs * 1e3, 20.0, "ms")


def linearity():
    """A row: ten times the text takes at most about ten times as long."""
    small, large = conversation(502, 200_000), conversation(5002, 2_000_000)
    small_half, large_half = half(small), half(large)
    gc.disable()  # a full collection walks everything that the process holds, which says nothing about this code
    one = best_s(lambda: shape(small, small_half, count=COUNT), 10) * 1e3
    ten = best_s(lambda: shape(large, large_half, count=COUNT), 5) * 1e3
    gc.enable()
    return row("shape ten times as much", ten, "ten times the small one", 10 * one, 1.5, "ms")


def untouched():
    """A row: what surely fits is not tokenized, so a small call pays microseconds."""
    messages = conversation(22, 4_000)
    taken = best_s(lambda: [shape(messages, 100_000, count=COUNT) for _ in range(200)], 10) / 200
    return limited("shape 4 KB that fit", taken * 1e3, 0.1, "ms")


def rows():
    """The table of this part."""
    return [
        untouched(),
        to_half("shape 100 KB, 202 messages, to half", conversation(202, 100_000), 25),
        to_half("shape 1 MB, 502 messages, to half", conversation(502, 1_000_000), 120),
        linearity(),
        against_litellm(conversation(202, 100_000)),
    ]


if __name__ == "__main__":
    for line in rows():
        print(line)
