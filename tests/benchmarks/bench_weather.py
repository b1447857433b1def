"""What a store in trouble costs a call beyond its deadline, and for how long the event loop stands still meanwhile."""

import asyncio
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

from blueprint_llm import LLMClient, SyncLLMClient
from blueprint_llm.errors import BlueprintError
from blueprint_llm.testing import Answer, ScriptedAdapter

DEADLINE_S, BEYOND_S, STANDSTILL_S = 1.0, 0.2, 0.05
AT_ONCE, ROUNDS = 3, 3
ASKED = {"messages": [{"role": "user", "content": "hello"}], "deadline_s": DEADLINE_S}


def clients(kind, store):
    """A client of a kind under a budget, whose provider would answer at once."""
    budgets = [{"scope": "project", "limit_usd": 1000}]
    block = {"providers": {"p0": {"model": "openai/gpt-4o", "api_key": "sk-test-0123456789abcdef"}}, "store": store}
    adapter = ScriptedAdapter(default=Answer("hello"))
    return kind({"blueprint": {**block, "budgets": budgets, "project": "a"}}, adapters={"p0": adapter})


def blocking(store, trouble):
    """Seconds beyond the deadline, at most."""
    client = clients(SyncLLMClient, store)
    client.chat(**ASKED)
    worst = 0.0
    with trouble():
        for _ in range(ROUNDS):
            begun = time.perf_counter()
            with suppress(BlueprintError):
                client.chat(**ASKED)
            worst = max(worst, time.perf_counter() - begun - DEADLINE_S)
    client.close()
    return worst


def awaited(store, trouble):
    """Seconds beyond the deadline of calls at once, and of the loop's longest standstill, at most."""

    async def ask(client):
        with suppress(BlueprintError):
            await client.chat(**ASKED)

    async def run():
        client, worst, pause = clients(LLMClient, store), 0.0, 0.0
        await client.chat(**ASKED)
        with trouble():
            for _ in range(ROUNDS):
                watch = asyncio.create_task(holding.longest_pause_s())
                await asyncio.sleep(0)
                begun = time.perf_counter()
                await asyncio.gather(*(ask(client) for _ in range(AT_ONCE)))
                worst = max(worst, time.perf_counter() - begun - DEADLINE_S)
                watch.cancel()
                pause = max(pause, await watch)
        await client.aclose()
        return worst, pause

    return asyncio.run(run())


def troubles(folder):
    """Each kind of trouble by name: the store's block, and what causes it while it lasts."""
    ledger = folder / "state" / "ledger.sqlite"
    yield "a locked ledger", {"url": "sqlite"}, lambda: holding.holding(ledger, "BEGIN EXCLUSIVE")
    with redis_server.running(folder) as url:
        with redis.Redis.from_url(url) as client:
            pid = client.info("server")["process_id"]
        yield "a frozen Redis", {"url": url}, lambda: holding.stopped(pid)


def rows():
    """The table's lines."""
    lines = []
    with tempfile.TemporaryDirectory() as name:
        os.environ["BLUEPRINT_HOME"] = name
        for what, store, trouble in troubles(Path(name)):
            lines.append(_row(f"beyond a deadline of 1 s, {what}, blocking", blocking(store, trouble), BEYOND_S))
            beyond, pause = awaited(store, trouble)
            lines.append(_row(f"the same, {AT_ONCE} async calls at once", beyond, BEYOND_S))
            lines.append(_row("the loop's longest standstill meanwhile", pause, STANDSTILL_S))
    return lines


def _row(name, seconds, target_s):
    return {
        "name": name, "ours": seconds * 1e3, "peer": f"{target_s * 1e3:g} ms", "peer_value": target_s * 1e3,
        "ratio": seconds / target_s, "target": 1.0, "ok": seconds <= target_s, "unit": "ms",
    }  # fmt: skip


if __name__ == "__main__":
    for line in rows():
        print(line)
