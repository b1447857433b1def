"""What a store in trouble costs a call beyond its deadline, and for how long the event loop stands still meanwhile."""

import asyncio
import json
import os
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import holding
import redis
import redis_server
from measuring import row

import blueprint_llm
from blueprint_llm import LLMClient, Router, SyncLLMClient
from blueprint_llm.testing import Answer, FaultServer

DEADLINE_S, BEYOND_S, STANDSTILL_S = 1.0, 0.2, 0.05
AT_ONCE, ROUNDS = 3, 2
ASKED = {"messages": [{"role": "user", "content": "hello"}]}


class Ways:
    """Every way in under one configuration: a budget, a deadline, a provider that answers at once."""

    def __init__(self, url, store, folder):
        self.params = {"model": "openai/gpt-4o", "api_base": url, "api_key": "sk-test-0123456789abcdef"}
        groups = [{"model_name": "g", "litellm_params": self.params}]
        block = {
            "providers": {"p0": self.params},
            "chains": {"default": ["p0"]},
            "budgets": [{"scope": "project", "limit_usd": 1000}],
            "project": "a",
            "deadline": {"total_s": DEADLINE_S},
            "store": store,
        }
        self.document = {"model_list": groups, "router_settings": {"num_retries": 0}, "blueprint": block}
        self.router = Router(model_list=groups, num_retries=0, blueprint=block)
        path = folder / "bench.yaml"
        path.write_text(json.dumps(self.document))
        os.environ["BLUEPRINT_CONFIG"] = str(path)  # the drop-in's

    def blocking(self, client):
        """Return the blocking ways, by name."""
        return {
            "client": lambda: client.chat(**ASKED),
            "stream": lambda: list(client.stream(**ASKED)),
            "group": lambda: client.chat(**ASKED, model="g"),
            "drop-in": lambda: blueprint_llm.completion(**self.params, **ASKED),
            "Router": lambda: self.router.completion(model="g", **ASKED),
        }

    def awaited(self, client):
        """Return the awaited ways, by name."""
        return {
            "client": lambda: client.chat(**ASKED),
            "group": lambda: client.chat(**ASKED, model="g"),
            "drop-in": lambda: blueprint_llm.acompletion(**self.params, **ASKED),
            "Router": lambda: self.router.acompletion(model="g", **ASKED),
        }


def blocking(ways, trouble):
    """Return the longest call in seconds, and which way in it took."""
    with SyncLLMClient(ways.document) as client:
        asks = ways.blocking(client)
        for ask in asks.values():
            ask()
        with trouble():
            return max((_timed(ask), name) for name, ask in asks.items() for _ in range(ROUNDS))


def _timed(ask):
    begun = time.perf_counter()
    with suppress(Exception):  # the clock counts, not the words
        ask()
    return time.perf_counter() - begun


def awaited(ways, trouble):
    """Return the longest of calls at once in seconds, its way in, and the loop's longest standstill."""

    async def at_once(ask):
        watch = asyncio.create_task(holding.longest_pause_s())
        await asyncio.sleep(0)
        begun = time.perf_counter()
        await asyncio.gather(*(ask() for _ in range(AT_ONCE)), return_exceptions=True)
        took_s = time.perf_counter() - begun
        watch.cancel()
        return took_s, await watch

    async def run():
        async with LLMClient(ways.document) as client:
            asks = ways.awaited(client)
            for ask in asks.values():
                await asyncio.gather(*(ask() for _ in range(AT_ONCE)))
            with trouble():
                found = [(*await at_once(ask), name) for name, ask in asks.items() for _ in range(ROUNDS)]
        worst_s, _, name = max(found)
        return worst_s, name, max(pause for _, pause, _ in found)

    return asyncio.run(run())


def troubles(folder):
    """Yield each trouble: its name, the store's block, what causes it while it lasts, and what a call may take then."""
    ledger = folder / "ledger.sqlite"
    locks = [folder / name for name in ("ledger.sqlite", "ledger.sqlite.lock", "ledger.lock", "ledger.sqlite-wal")]
    store = {"url": f"sqlite:{ledger}"}
    yield "a locked ledger", store, lambda: holding.holding(ledger, "BEGIN EXCLUSIVE"), DEADLINE_S
    yield "lock files that are held", store, lambda: holding.flocking(*locks), 0.0
    with redis_server.running(folder) as url:
        with redis.Redis.from_url(url) as client:
            pid = client.info("server")["process_id"]
        yield "a frozen Redis", {"url": url}, lambda: holding.stopped(pid), DEADLINE_S


def rows():
    """Return the table's lines."""
    lines = []
    with tempfile.TemporaryDirectory() as name, FaultServer(default=Answer("hello")) as server:
        os.environ["BLUEPRINT_HOME"] = name
        for what, store, trouble, allowed_s in troubles(Path(name)):
            ways = Ways(server.url, store, Path(name))
            took_s, way = blocking(ways, trouble)
            beyond = f"beyond {allowed_s:g} s, {what}"
            lines.append(_row(f"{beyond}, the slowest blocking way ({way})", took_s - allowed_s, BEYOND_S))
            took_s, way, pause_s = awaited(ways, trouble)
            lines.append(_row(f"{beyond}, {AT_ONCE} at once ({way})", took_s - allowed_s, BEYOND_S))
            lines.append(_row("the loop's longest standstill meanwhile", pause_s, STANDSTILL_S))
    return lines


def _row(name, seconds, limit_s):
    return row(name, seconds * 1e3, f"{limit_s * 1e3:g} ms", limit_s * 1e3, 1.0, "ms")


if __name__ == "__main__":
    for line in rows():
        print(line)
