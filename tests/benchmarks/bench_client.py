"""The client against bare LiteLLM and LiteLLM's Router on one loopback server, in one run."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent))

import race
from measuring import row, scale

if TYPE_CHECKING:
    from collections.abc import Iterator

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
os.environ["BLUEPRINT_HOME"] = tempfile.mkdtemp()

HEAVY = ("litellm", "openai", "httpx", "keyring", "diskcache", "redis", "jsonschema")
ROUNDS, CHUNKS = 7, 500
SCALE = {"ms": 1e3, "us": 1e6}
STREAMS, PEERS, FEW = 20, 5, 3
KEY = "sk-test-0123456789abcdef"
MESSAGES = [{"role": "user", "content": "x" * 1024}]


def import_rows() -> list[dict[str, Any]]:
    """Import time, each in a process of its own; with both clients loaded, too, nothing heavy may be."""

    def seconds(statement: str) -> float:
        program = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
        runs = [subprocess.run([sys.executable, "-c", program], capture_output=True, check=True) for _ in range(5)]
        return statistics.median(float(run.stdout) for run in runs)

    clients = "import blueprint_llm; blueprint_llm.LLMClient; blueprint_llm.SyncLLMClient"
    loaded = f"import sys; {clients}; print([name for name in {HEAVY} if name in sys.modules])"
    heavy = subprocess.run([sys.executable, "-c", loaded], capture_output=True, check=True, text=True).stdout.strip()
    peer = seconds("import litellm")
    whole = row(f"import, both clients; heavy modules: {heavy}", seconds(clients), "import litellm", peer, 0.2, "s")
    return [
        row("import blueprint_llm", seconds("import blueprint_llm"), "import litellm", peer, 0.1, "s"),
        {**whole, "ok": whole["ok"] and heavy == "[]"},
    ]


STALLING = """
def step(request):
    return Stall(2000, answer=Answer(numbered_text(2400)))
"""
ANSWERING = f"""
def step(request):
    return Answer(numbered_text({CHUNKS} if request.body.get("stream") else 50))
"""


@contextlib.contextmanager
def server(step: str) -> Iterator[str]:
    """The URL of a fault server in a process of its own: it shares no memory or lock with what is measured."""
    program = (
        "import sys\nfrom blueprint_llm.testing import Answer, FaultServer, Stall, numbered_text\n"
        f"{step}\nwith FaultServer(step) as server:\n    print(server.url, flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield child.stdout.readline().strip() if child.stdout else ""
    finally:
        child.communicate("")


async def in_turns(calls: dict[str, Any], rounds: int) -> dict[str, list[float]]:
    """The seconds of each call, made in turns: whatever else the machine does hits all alike, so pairs can be compared.

    The order changes with every round, so that none always follows the same one.
    """
    seen: dict[str, list[float]] = {name: [] for name in calls}
    gc.collect()
    for number in range(rounds):
        names = list(calls)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            started = time.perf_counter()
            await calls[name]()
            seen[name].append(time.perf_counter() - started)
    return seen


def pairs(name: str, ours: list[float], peer: tuple[str, list[float]], target: float, unit: str) -> dict[str, Any]:
    """One line of the table from times in pairs: the ratio is the median of the pairs' ratios."""
    what, theirs = peer
    ratio = statistics.median(own / other for own, other in zip(ours, theirs, strict=True))
    value = statistics.median(theirs) * SCALE[unit]
    return row(name, ratio * value, what, value, target, unit)


CHATTING = """
async def prepare():
    from blueprint_llm import LLMClient
    client = LLMClient({config!r})
    return lambda: client.chat(messages={messages!r})
"""
BLOCKING = """
async def prepare():
    from blueprint_llm import SyncLLMClient
    client = SyncLLMClient({config!r})
    async def call():
        return client.chat(messages={messages!r})
    return call
"""
BARE = """
async def prepare():
    return lambda: litellm.acompletion(messages={messages!r}, **{wire!r})
"""
ROUTED = """
async def prepare():
    router = litellm.Router(model_list=[{{"model_name": "gpt-4o", "litellm_params": {wire!r}}}])
    return lambda: router.acompletion(model="gpt-4o", messages={messages!r})
"""


def chat_rows(url: str) -> list[dict[str, Any]]:
    """One whole answer."""
    wire = {"model": "openai/gpt-4o", "api_base": url, "api_key": KEY}
    budgets = [{"scope": scope, "limit_usd": 1e6} for scope in ("project", "session", "provider:cloud", "global")]
    base = {"version": 1, "providers": {"cloud": wire}, "chains": {"default": ["cloud"]}}
    seen = race.race(
        {
            "litellm.acompletion": BARE.format(messages=MESSAGES, wire=wire),
            "litellm.Router": ROUTED.format(messages=MESSAGES, wire=wire),
            "plain": CHATTING.format(messages=MESSAGES, config={"blueprint": base}),
            "sync": BLOCKING.format(messages=MESSAGES, config={"blueprint": base}),
            "full": CHATTING.format(messages=MESSAGES, config={"blueprint": {**base, "budgets": budgets}}),
        }
    )
    pairs_of = zip(seen["full"], seen["litellm.acompletion"], strict=True)
    added = statistics.median(own - other for own, other in pairs_of)
    return [
        race.row("client.chat p50", seen, "plain", "litellm.acompletion", 1.1),
        race.row("client.chat p50", seen, "plain", "litellm.Router", 1.0),
        race.row("client.chat p50, 4 budgets on SQLite", seen, "full", "litellm.Router", 0.8),
        race.row("client.chat p50, 4 budgets on SQLite", seen, "full", "litellm.acompletion", 1.25),
        {**race.row("SyncLLMClient.chat p50", seen, "sync", "plain", 1.1), "peer": "LLMClient.chat"},
        row("added with 4 budgets on SQLite", added * 1e3, "0.4 ms, scaled by json.loads", 0.4 * scale(), 1.0, "ms"),
    ]


async def stream_rows(url: str) -> list[dict[str, Any]]:
    """One chunk of a stream."""
    import litellm  # noqa: PLC0415 - after the import was measured

    from blueprint_llm import LLMClient  # noqa: PLC0415 - likewise

    wire = {"model": "openai/gpt-4o", "api_base": url, "api_key": KEY}
    base = {"version": 1, "providers": {"cloud": wire}, "chains": {"default": ["cloud"]}}

    async def bare() -> None:
        stream = await litellm.acompletion(
            messages=MESSAGES, stream=True, stream_options={"include_usage": True}, **wire
        )
        async for _ in stream:
            pass

    async with LLMClient({"blueprint": base}) as client:

        async def ours() -> None:
            async for _ in client.stream(messages=MESSAGES):
                pass

        await bare()
        await ours()
        seen = await in_turns({"bare": bare, "ours": ours}, ROUNDS)
    each = {name: [seconds / CHUNKS for seconds in times] for name, times in seen.items()}
    return [pairs("client.stream per chunk", each["ours"], ("iterating LiteLLM", each["bare"]), 1.05, "us")]


# What a stream holds is counted for the library that asked for it; the standard library and pydantic ask for others.
OURS = "".join(find_spec("blueprint_llm").submodule_search_locations or ())
OTHERS, FRAMES = re.compile("/(?:litellm|openai|aiohttp|httpx|httpcore|anyio)/"), 8


def held_kb() -> tuple[float, float]:
    """What Python has allocated and not freed, and how much of it this library asked for."""
    gc.collect()
    found = tracemalloc.take_snapshot().traces if tracemalloc.is_tracing() else ()
    return sum(each.size for each in found) / 1024, sum(each.size for each in found if is_ours(each)) / 1024


def is_ours(allocated: tracemalloc.Trace) -> bool:
    """Whether this library is the one that asked: the innermost of all libraries but pydantic, which makes records."""
    files = (frame.filename for frame in reversed(allocated.traceback))
    return next((OURS in file for file in files if OURS in file or OTHERS.search(file)), False)


async def held_by_each(streams: int, open_one: Any) -> tuple[float, float]:
    """KB that each of so many streams holds in mid-air after 2,000 chunks, and our own share."""
    reached = asyncio.Semaphore(0)

    async def read() -> None:
        seen = 0
        async for _ in await open_one():
            seen += 1
            if seen == 1998:
                reached.release()

    for _ in range(3):  # what streams before this one have left goes first
        await asyncio.sleep(0.2)
        gc.collect()
    before = held_kb()
    tasks = [asyncio.create_task(read()) for _ in range(streams)]
    for _ in tasks:
        await reached.acquire()
    held, ours = ((after - begun) / streams for begun, after in zip(before, held_kb(), strict=True))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return held, ours


async def memory_rows(url: str) -> list[dict[str, Any]]:
    """200 streams of 2,000 chunks at once; a few of LiteLLM's own show that the measure sees what is held."""
    import litellm  # noqa: PLC0415 - after the import was measured

    from blueprint_llm import LLMClient  # noqa: PLC0415 - likewise

    wire = {"model": "openai/gpt-4o", "api_base": url, "api_key": KEY}
    block = {"version": 1, "providers": {"cloud": wire}, "chains": {"default": ["cloud"]}}
    deadlines = {"total_s": 900, "first_token_s": 600, "idle_s": 600}
    async with LLMClient({"blueprint": {**block, "deadline": deadlines}}) as client:

        async def ours() -> Any:
            return client.stream(messages=MESSAGES)

        async def bare() -> Any:
            return await litellm.acompletion(messages=MESSAGES, stream=True, timeout=900, **wire)

        await held_by_each(1, ours)
        await held_by_each(1, bare)
        tracemalloc.start(1)
        (bare_held, _), (held, _) = await held_by_each(PEERS, bare), await held_by_each(STREAMS, ours)
        tracemalloc.stop()
        tracemalloc.start(FRAMES)  # four times as slow: for a few
        _, share = await held_by_each(FEW, ours)
        tracemalloc.stop()
    return [
        row(f"our own share of each of {FEW} streams after 2,000 chunks", share, "50 KB", 50, 1.0, "KB"),
        row(
            f"held by each of {STREAMS} streams after 2,000 chunks",
            held,
            f"each of {PEERS} of LiteLLM's own",
            bare_held,
            1.0,
            "KB",
        ),
    ]


def rows() -> list[dict[str, Any]]:
    """Every row of this part."""
    found = import_rows()
    with server(STALLING) as url:
        found += asyncio.run(memory_rows(url))
    with server(ANSWERING) as url:
        found += asyncio.run(stream_rows(url))
        found += chat_rows(url)
    return found


if __name__ == "__main__":
    for line in rows():
        print(line)
