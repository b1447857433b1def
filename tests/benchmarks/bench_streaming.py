"""Speed of the stream validator: each row measured in turns with its peer, the best of several rounds.

Absolute limits are scaled by a yardstick of the same round: `json.loads` of a 2 KB document, nominally 12 us.
Run `python tests/benchmarks/bench_streaming.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tracemalloc
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from measuring import NOMINAL_S, best_s, once_s, row

from blueprint_llm.streaming import JsonMachine, StreamingHandler
from blueprint_llm.streaming.schema_check import compile_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # LiteLLM fetches it in a thread that disturbs
ROUNDS = 25
SIZE = 100_000
DELTA = 4
SOURCE = 'def area(shape: Shape) -> float:\n    """The area."""\n    return shape.width * shape.height\n\n\n'
RECORD = {"id": 1, "name": "item 17", "price": 21.25, "tags": ["a", "b"], "ok": True}
SCHEMA = {
    "type": "object",
    "properties": {
        "items": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "id": {"type": "integer"},
                    "name": {"type": "string"},
                    "price": {"type": "number"},
                    "tags": {"type": "array", "items": {"type": "string"}},
                    "ok": {"type": "boolean"},
                },
                "required": ["id", "name"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["items"],
}
YARDSTICK = json.dumps({"items": [RECORD] * 28})[:-3] + "}]}"


def prose(size: int = SIZE) -> str:
    """Arguments with one long text."""
    return json.dumps({"text": ("the quick brown fox jumps over the lazy dog and then " * (size // 50))[: size - 12]})


def source() -> str:
    """Arguments with a file of Python."""
    return json.dumps({"content": (SOURCE * (SIZE // 50))[: SIZE - 3000]})


def records() -> str:
    """Arguments with a list of objects."""
    return json.dumps({"items": [{**RECORD, "id": number, "price": number * 1.25} for number in range(SIZE // 80)]})


def deltas(text: str) -> list[str]:
    """The text in pieces of four characters."""
    return [text[at : at + DELTA] for at in range(0, len(text), DELTA)]


def best(*works: Callable[[], Any], rounds: int = ROUNDS) -> list[float]:
    """The shortest time of each, measured in turns so that a busy machine hits all alike."""
    times = [[once_s(work) for work in works] for _ in range(rounds)]
    return [min(column) for column in zip(*times, strict=True)]


def yard() -> None:
    """Ten times the yardstick."""
    for _ in range(10):
        json.loads(YARDSTICK)


def feed_all(make: Callable[[], Any], pieces: list[Any]) -> None:
    """Feed a new machine or handler."""
    feed = make().feed
    for piece in pieces:
        feed(piece)


def per_delta(name: str, text: str, limit_ns: float) -> dict[str, Any]:
    """Nanoseconds a delta, against the limit scaled to this machine."""
    pieces = deltas(text)
    ours, yardstick = best(partial(feed_all, JsonMachine, pieces), yard)
    limit = limit_ns * yardstick / 10 / NOMINAL_S
    return row(f"JsonMachine, {name}, per delta", ours / len(pieces) * 1e9, "scaled limit", limit, 1.0, "ns")


def with_schema() -> dict[str, Any]:
    """Records under a closed schema, against the same without."""
    pieces, compiled = deltas(records()), compile_schema(SCHEMA)
    ours, bare = best(
        partial(feed_all, compiled.machine, pieces),
        partial(feed_all, JsonMachine, pieces),
    )
    count = len(pieces)
    return row("JsonMachine, records, with schema", ours / count * 1e9, "without", bare / count * 1e9, 1.6, "ns")


def linear() -> dict[str, Any]:
    """Ten times the text may take eleven times as long."""
    long, short = deltas(prose(10 * SIZE)), deltas(prose())
    ours, peer = best(partial(feed_all, JsonMachine, long), partial(feed_all, JsonMachine, short), rounds=10)
    return row("JsonMachine, 1 MB of prose", ours * 1e3, "100 KB", peer * 1e3, 11.0, "ms")


def one_chunk(name: str, text: str, target: float) -> dict[str, Any]:
    """All arguments in one chunk, against `json.loads`."""
    ours, peer = best(partial(feed_all, JsonMachine, [text]), partial(json.loads, text), rounds=4 * ROUNDS)
    return row(f"JsonMachine, {name}, one chunk", ours * 1e6, "json.loads", peer * 1e6, target, "us")


def against_blind() -> dict[str, Any]:
    """What checking costs over collecting the text and parsing it at the end."""
    pieces = deltas(prose())

    def collect() -> None:
        parts: list[str] = []
        for piece in pieces:
            parts.append(piece)  # noqa: PERF402 - as a client does, delta by delta
        json.loads("".join(parts))

    ours, peer = best(partial(feed_all, JsonMachine, pieces), collect)
    return row("prose, per delta", ours / len(pieces) * 1e9, "join, json.loads", peer / len(pieces) * 1e9, 10.0, "ns")


def against_reparsing() -> dict[str, Any]:
    """Against parsing everything so far again on every delta, as pydantic's partial mode does (10 KB)."""
    from pydantic_core import from_json  # noqa: PLC0415 - the peer only

    pieces = deltas(prose(10_000))

    def reparse() -> None:
        text = ""
        for piece in pieces:
            text += piece
            from_json(text, allow_partial=True)

    ours, peer = best(partial(feed_all, JsonMachine, pieces), reparse, rounds=5)
    count = len(pieces)
    return row("prose, 10 KB, per delta", ours / count * 1e9, "jiter, re-parsing", peer / count * 1e9, 1.0, "ns")


def chunk_of(number: int, piece: str) -> dict[str, Any]:
    """A chunk with a piece of a tool call."""
    function = {"name": "write" if number == 0 else None, "arguments": piece}
    entry = {"index": 0, "id": "call_1" if number == 0 else None, "type": "function", "function": function}
    return {"id": "x", "choices": [{"index": 0, "delta": {"tool_calls": [entry]}, "finish_reason": None}]}


def text_chunk(piece: str) -> dict[str, Any]:
    """A chunk with a piece of text."""
    return {"id": "x", "choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]}


def handler() -> StreamingHandler:
    """A handler for one tool."""
    return StreamingHandler([{"name": "write", "parameters": {"type": "object"}}])


SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
body = sys.stdin.buffer.read()
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


@contextlib.contextmanager
def serving(chunks: list[dict[str, Any]]) -> Iterator[str]:
    """The base URL of a server, in a process of its own, that streams the chunks and their end."""
    end = {"id": "x", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in (*chunks, end)) + "data: [DONE]\n\n"
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError
        try:
            process.stdin.write(body)
            process.stdin.close()
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
        finally:
            process.kill()


def in_litellm(name: str, chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """The whole handler on LiteLLM's own chunks, against what LiteLLM takes for each of a stream over HTTP."""
    import litellm  # noqa: PLC0415 - takes seconds

    message = [{"role": "user", "content": "x"}]
    tool = {"type": "function", "function": {"name": "write", "parameters": {"type": "object"}}}
    with serving(chunks) as base:

        def stream() -> list[Any]:
            answer = litellm.completion(
                "openai/m", message, stream=True, api_base=base, api_key="none", tools=[tool], num_retries=0
            )
            return list(answer)

        made = stream()
        fresh = [made[0], *[made[len(made) // 2]] * (len(made) - 1)]  # a chunk that was just made is in the cache
        feed = partial(feed_all, handler, fresh)
        turns = [(best_s(feed, 5), once_s(stream)) for _ in range(9)]
    # A busy machine hits both of a pair alike, so the pair in the middle counts.
    ours, peer = sorted(turns, key=lambda turn: turn[0] / turn[1])[len(turns) // 2]
    count = len(made)
    return row(f"StreamingHandler, {name}, per chunk", ours / count * 1e6, "LiteLLM", peer / count * 1e6, 0.01, "us")


def memory() -> dict[str, Any]:
    """The peak of a 1 MB call from first delta to validated arguments, against the text."""
    text = prose(10 * SIZE)
    pieces = deltas(text)
    tracemalloc.start()
    checked = handler()
    for number, piece in enumerate(pieces):
        checked.feed(chunk_of(number, piece))
    checked.feed({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})
    verdict = checked.close()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    if verdict.status != "ok":
        raise RuntimeError(verdict.code)
    return row("StreamingHandler, 1 MB, peak memory", peak / 1e6, "the text", len(text) / 1e6, 3.0, "MB")


def rows() -> list[dict[str, Any]]:
    """Every row."""
    return [
        per_delta("prose", prose(), 250),
        per_delta("source", source(), 550),
        per_delta("records", records(), 1600),
        with_schema(),
        linear(),
        one_chunk("prose", prose(), 1.2),
        one_chunk("source", source(), 1.2),
        one_chunk("records", records(), 2.0),
        against_blind(),
        against_reparsing(),
        in_litellm("text", [text_chunk(piece) for piece in deltas(prose(3200))]),
        in_litellm("tool call", [chunk_of(number, piece) for number, piece in enumerate(deltas(prose(3200)))]),
        memory(),
    ]


if __name__ == "__main__":
    for each in rows():
        print(f"{each['name']:40} {each['ours']:9.1f} {each['unit']:3} {each['peer']:18} {each['peer_value']:9.1f}  "
              f"x{each['ratio']:.3f} (at most {each['target']}) {'ok' if each['ok'] else 'MISSED'}")  # fmt: skip
