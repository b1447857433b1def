"""How long shaping a conversation to half its tokens takes, alone and against LiteLLM's own trimming."""

import gc
import json
import os
import time
from functools import partial

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

from blueprint_llm.adapters.tokens import count_tokens
from blueprint_llm.context import shape

MODEL = "gpt-4o"
COUNT = partial(count_tokens, MODEL)

NOMINAL_US = 12.0
DOCUMENT = json.dumps({"rows": [{"key": n, "value": "x" * 20} for n in range(50)]})


def best(call, times):
    """The shortest of several runs, in milliseconds."""
    runs = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        runs.append(time.perf_counter() - start)
    return min(runs) * 1e3


def scale():
    """How much slower than nominal this machine is now: `json.loads` of 2 KB against 12 us."""
    return best(lambda: [json.loads(DOCUMENT) for _ in range(200)], 20) / 200 * 1e3 / NOMINAL_US


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


def absolute(name, messages, limit_ms):
    """A row against a fixed limit, scaled by the yardstick of the same run."""
    budget = half(messages)
    ours = best(lambda: shape(messages, budget, count=COUNT), 10)
    limit = limit_ms * scale()
    return {
        "name": name,
        "ours": ours,
        "peer": "yardstick",
        "peer_value": limit,
        "ratio": ours / limit,
        "target": 1.0,
        "ok": ours <= limit,
        "unit": "ms",
    }


def against_litellm(messages):
    """A row against `litellm.utils.trim_messages` on the same conversation and half of its own count."""
    from litellm.utils import token_counter, trim_messages  # noqa: PLC0415 - the variable must be set first

    total = token_counter(model=MODEL, messages=messages)
    trim_messages(messages[-1:], model=MODEL, max_tokens=100)
    theirs = best(lambda: trim_messages(messages, model=MODEL, trim_ratio=1.0, max_tokens=total // 2), 2)
    budget = half(messages)
    ours = best(lambda: shape(messages, budget, count=COUNT), 10)
    return {
        "name": "shape 100 KB to half, against litellm.trim_messages",
        "ours": ours,
        "peer": "litellm",
        "peer_value": theirs,
        "ratio": theirs / ours,
        "target": 20.0,
        "ok": theirs / ours >= 20.0,
        "unit": "ms",
    }


def linearity():
    """A row: ten times the text takes at most about ten times as long."""
    small, large = conversation(502, 200_000), conversation(5002, 2_000_000)
    small_half, large_half = half(small), half(large)
    gc.disable()  # a full collection walks everything that the process holds, which says nothing about this code
    one, ten = (
        best(lambda: shape(small, small_half, count=COUNT), 10),
        best(lambda: shape(large, large_half, count=COUNT), 5),
    )
    gc.enable()
    return {
        "name": "shape ten times as much",
        "ours": ten,
        "peer": "ten times the small one",
        "peer_value": 10 * one,
        "ratio": ten / (10 * one),
        "target": 1.5,
        "ok": ten <= 15 * one,
        "unit": "ms",
    }


def untouched():
    """A row: what surely fits is not tokenized, so a small call pays microseconds."""
    messages = conversation(22, 4_000)
    taken = best(lambda: [shape(messages, 100_000, count=COUNT) for _ in range(200)], 10) / 200
    limit = 0.1 * scale()
    return {
        "name": "shape 4 KB that fit",
        "ours": taken,
        "peer": "yardstick",
        "peer_value": limit,
        "ratio": taken / limit,
        "target": 1.0,
        "ok": taken <= limit,
        "unit": "ms",
    }


def rows():
    """The table of this part."""
    return [
        untouched(),
        absolute("shape 100 KB, 202 messages, to half", conversation(202, 100_000), 25),
        absolute("shape 1 MB, 502 messages, to half", conversation(502, 1_000_000), 120),
        linearity(),
        against_litellm(conversation(202, 100_000)),
    ]


if __name__ == "__main__":
    for line in rows():
        print(line)
