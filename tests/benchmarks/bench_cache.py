"""The cache's speed: a whole hit against LiteLLM's own caches, a lookup, a miss, a replayed stream, one key.

LiteLLM's cache cannot be used after a base install (its first hit imports fastapi); here the modules that it lacks are
stood in for, so that its hits can be timed at all.
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bench_client
from measuring import faster, limited, median_s, scale

from blueprint_llm import LLMClient
from blueprint_llm.cache import CacheManager, Entry, Facts, key_of
from blueprint_llm.cache.disk import DiskCache
from blueprint_llm.testing import Answer, ScriptedAdapter

MESSAGES = [
    {"role": "system", "content": "You are helpful. " * 40},
    {"role": "user", "content": "hello there " * 190},
]
ANSWER = "x" * 2000
ROUNDS = 5
LITELLM = """
import importlib.abc, importlib.machinery, json, statistics, sys, time, types
ABSENT = {"fastapi", "soundfile", "starlette", "uvicorn", "apscheduler", "backoff", "multipart"}
class StandIn(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
    def create_module(self, spec):
        module = types.ModuleType(spec.name)
        module.__path__ = []
        module.__getattr__ = stand_in
        return module
    def exec_module(self, module): pass
def stand_in(name):
    if name.startswith("__"):
        raise AttributeError(name)
    members = {"__init__": lambda self, *a, **k: None, "__class_getitem__": classmethod(lambda cls, item: cls),
               "__getattr__": lambda self, name: lambda *a, **k: lambda f: f}
    return type(name, (Exception,), members)
sys.meta_path.append(StandIn())
import litellm
from litellm.caching.caching import Cache
kind, folder, messages, answer = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), sys.argv[4]
litellm.cache = Cache(type=kind, **({"disk_cache_dir": folder} if kind == "disk" else {}))
ask = lambda: litellm.completion(model="openai/gpt-4o", messages=messages, mock_response=answer, api_key="k",
                                 caching=True)
ask(); time.sleep(0.3); ask()
times = []
for _ in range(300):
    begun = time.perf_counter(); found = ask(); times.append(time.perf_counter() - begun)
assert found._hidden_params.get("cache_hit"), "no hit"
print(statistics.median(times))
"""


def median_of(call, count=2000):
    """The median of a call's times; the best of some rounds, since others use the machine."""
    return min(median_s(call, count // ROUNDS) for _ in range(ROUNDS))


def hit(folder):
    """Seconds of a whole hit through `LLMClient.chat`, ledger and usage row included."""
    os.environ["BLUEPRINT_HOME"] = str(folder)
    providers = {"cloud": {"model": "openai/gpt-4o", "api_key": "sk-0123456789abcdef"}}
    config = {"blueprint": {"project": "acme", "providers": providers, "cache": {"enabled": True}}}

    async def run():
        adapter = ScriptedAdapter(default=Answer(ANSWER))
        async with LLMClient(config, adapters={"cloud": adapter}) as client:
            rounds = []
            for _ in range(ROUNDS):
                times = []
                for _ in range(400):
                    begun = time.perf_counter()
                    answer = await client.chat(messages=MESSAGES)
                    times.append(time.perf_counter() - begun)
                rounds.append(statistics.median(times))
            if len(adapter.calls) != 1 or not answer.metadata["cached"]:
                raise RuntimeError("no hits were measured")
            return min(rounds)

    return asyncio.run(run())


def replays(folder):
    """Seconds a chunk of a stream of 500: replayed from the cache, and LiteLLM's own from a server, in turns."""
    os.environ["BLUEPRINT_HOME"] = str(folder)
    import litellm  # noqa: PLC0415 - seconds, after what is timed without it

    async def run(url):
        wire = {"model": "openai/gpt-4o", "api_base": url, "api_key": "sk-0123456789abcdef"}
        block = {"providers": {"cloud": wire}, "cache": {"enabled": True}}
        asked = {"messages": MESSAGES, "stream_options": {"include_usage": True}}
        async with LLMClient({"blueprint": block}) as client:
            ours, theirs = [], []
            for turn in range(ROUNDS * 2 + 1):
                begun = time.perf_counter()
                count = len([chunk async for chunk in client.stream(messages=MESSAGES)])
                middle = time.perf_counter()
                async for _ in await litellm.acompletion(stream=True, **asked, **wire):
                    pass
                if turn:  # the first one fills the cache
                    ours.append((middle - begun) / count)
                    theirs.append((time.perf_counter() - middle) / count)
            return statistics.median(ours), statistics.median(theirs)

    with bench_client.server(bench_client.ANSWERING) as url:
        return asyncio.run(run(url))


def litellm_hit(kind, folder):
    """Seconds of a hit of LiteLLM's own cache; None where it does not work."""
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    command = [sys.executable, "-c", LITELLM, kind, str(folder), json.dumps(MESSAGES), ANSWER]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=120)
    return float(finished.stdout.split()[-1]) if finished.returncode == 0 else None


def answered(chunks=0):
    """An answer of 2 KB, in so many chunks."""
    message = {"role": "assistant", "content": ANSWER, "tool_calls": None, "function_call": None}
    usage = {"prompt_tokens": 100, "completion_tokens": 500, "total_tokens": 600}
    envelope = {"id": "chatcmpl-1", "created": 1700000000, "model": "gpt-4o", "system_fingerprint": "fp_1"}
    said = {"role": "assistant", "content": "word", "tool_calls": None, "function_call": None, "audio": None}
    piece = {"index": 0, "delta": said, "finish_reason": None, "logprobs": None}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    return Entry(
        whole={**envelope, "object": "chat.completion", "choices": [choice], "usage": usage},
        chunks=[{**envelope, "object": "chat.completion.chunk", "choices": [piece]} for _ in range(chunks)],
        content=ANSWER,
        at=time.time(),
    )


def stored(folder):
    """Seconds of a read, a lookup of 2 KB, of one that came as 500 chunks, of reading those, of a miss with keeping."""

    async def run():
        cache = CacheManager(DiskCache(folder))
        await cache.keep("n:whole", answered())
        await cache.keep("n:stream", answered(500))

        async def read(_):
            return await cache.store.get("n:whole")

        async def whole(_):
            return await cache.lookup("n:whole")

        async def streamed(_):
            return await cache.lookup("n:stream")

        async def replayed(_):
            return list((await cache.lookup("n:stream")).chunks)

        async def missed(n):
            async with cache.flight(f"n:{n}", owner="me", until=time.monotonic() + 5):
                await cache.keep(f"n:{n}", answered())

        found = [await best(read), await best(whole), await best(streamed), await best(replayed, 100)]
        found.append(await best(missed, 100))
        await cache.aclose()
        return found

    return asyncio.run(run())


async def best(ask, count=400):
    """The median of a coroutine's times; the best of some rounds."""
    rounds = []
    for turn in range(ROUNDS):
        times = []
        for n in range(count):
            begun = time.perf_counter()
            await ask(turn * count + n)
            times.append(time.perf_counter() - begun)
        rounds.append(statistics.median(times))
    return min(rounds)


def key():
    """Seconds of the key of a 3 KB request."""
    account = ("env:OPENAI_API_KEY", "https://api.example/v1", {})
    params = {"temperature": 0, "seed": 1}
    facts = Facts(model="openai/gpt-4o", account=account, project="acme", messages=MESSAGES, params=params)
    return median_of(lambda: key_of(facts))


def rows():
    """The table's lines."""
    scaled = scale()
    with tempfile.TemporaryDirectory() as folder:
        ours = hit(Path(folder) / "home")
        peers = {"disk": litellm_hit("disk", Path(folder) / "litellm"), "memory": litellm_hit("local", folder)}
        read, whole, streamed, replayed, missed = stored(Path(folder) / "store")
        limits = (
            ("whole hit through LLMClient.chat, 2 KB, p50", ours, 150),
            ("read of 2 KB from the folder", read, 15),
            ("lookup of 2 KB, hot", whole, 40),
            ("lookup of 2 KB that came as 500 chunks, hot", streamed, 90),
            ("lookup and decoding of 500 chunks", replayed, 3000),
            ("all that a miss adds: lease, look, keep, release", missed, 1000),
            ("key of a 3 KB request", key(), 10),
        )
        chunk, theirs = replays(Path(folder) / "streams")
    return [
        *(limited(name, took_s * 1e6, limit_us, "us", scaled=scaled) for name, took_s, limit_us in limits),
        faster("a chunk replayed", chunk * 1e6, "LiteLLM's own stream", theirs * 1e6, 10, "us"),
        *(
            faster(
                f"whole hit against LiteLLM's {name} cache", ours * 1e6, f"LiteLLM, {name}", peer * 1e6, target, "us"
            )
            for (name, peer), target in zip(peers.items(), (8, None), strict=True)
            if peer is not None
        ),
    ]


if __name__ == "__main__":
    for line in rows():
        print(line)
