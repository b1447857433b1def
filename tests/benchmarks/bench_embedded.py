"""The embedded model: time to load, to the first token, and tokens a second. Informational: the machine decides."""

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from fixtures_embedded import smollm2_weights

from blueprint_llm.adapters.local.embedded import EmbeddedModel

HELLO = [{"role": "user", "content": "Tell a story about a cat."}]
# Measured with one thread on an idle machine; a row never fails.
EXPECTED = {"load": 0.46, "first token": 0.3, "speed": 88.0}
ROUNDS = 3


def row(name, ours, expected, unit):
    """One number beside what an idle machine gave."""
    return {
        "name": f"embedded: {name}", "ours": ours, "peer": "idle machine", "peer_value": expected,
        "ratio": ours / expected, "target": float("inf"), "ok": True, "unit": unit,
    }  # fmt: skip


def streamed(model):
    """Seconds to the first token, and tokens a second after it."""
    began = time.perf_counter()
    stream = model.stream({"messages": HELLO, "max_tokens": 64, "logit_bias": {"2": -100}})
    next(stream)
    first = time.perf_counter()
    tokens = next(chunk for chunk in stream if "usage" in chunk)["usage"]["completion_tokens"]
    return first - began, (tokens - 1) / (time.perf_counter() - first)


def once(path):
    """Load, first token (a fresh prompt) and speed of one new model."""
    model = EmbeddedModel(path)
    began = time.perf_counter()
    model.server()
    loaded = time.perf_counter() - began
    first, speed = streamed(model)
    model.close()
    return loaded, first, speed


def rows():
    """Medians over a few fresh models."""
    path = smollm2_weights()
    loads, firsts, speeds = zip(*[once(path) for _ in range(ROUNDS)], strict=True)
    return [
        row("load", statistics.median(loads), EXPECTED["load"], "s"),
        row("first token", statistics.median(firsts), EXPECTED["first token"], "s"),
        row("speed", statistics.median(speeds), EXPECTED["speed"], "tokens/s"),
    ]


if __name__ == "__main__":
    for line in rows():
        print(f"{line['name']:25} {line['ours']:8.2f} {line['unit']:9} ({line['peer']}: {line['peer_value']})")
