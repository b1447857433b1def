"""Contenders in processes of their own, asked in turns by one parent.

In one process LiteLLM's Router would leave its callbacks to everybody's calls, and the record that LiteLLM makes of a
call after its answer would be paid by whoever comes next.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

ROUNDS, CALLS = 30, 12
# `prepare` is the contender's: it makes what is called, once.
WORKER = """
import asyncio, json, os, sys, tempfile, time
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
os.environ["BLUEPRINT_HOME"] = tempfile.mkdtemp()
import litellm
litellm.suppress_debug_info = True

{prepare}

async def main():
    call = await prepare()
    for _ in range(20):
        await call()
    print("ready", flush=True)
    for line in iter(sys.stdin.readline, ""):
        times = []
        for _ in range(int(line)):
            started = time.perf_counter()
            await call()
            times.append(time.perf_counter() - started)
        print(json.dumps(times), flush=True)

asyncio.run(main())
"""


class Contender:
    """A process that makes one kind of call when it is told to."""

    def __init__(self, prepare: str) -> None:
        command = [sys.executable, "-W", "ignore", "-c", WORKER.format(prepare=prepare)]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def until_ready(self) -> None:
        """Wait until the first calls are made; LiteLLM may print on the way."""
        while self._child.stdout and self._child.stdout.readline().strip() != "ready":
            if self._child.poll() is not None:
                raise RuntimeError("a contender ended before it began")

    def run(self, calls: int) -> float:
        """The median seconds of so many calls, one after the other."""
        if self._child.stdin is None or self._child.stdout is None:
            raise RuntimeError("a contender has no pipes")
        self._child.stdin.write(f"{calls}\n")
        self._child.stdin.flush()
        return statistics.median(json.loads(self._child.stdout.readline()))

    def end(self) -> None:
        """End the process."""
        self._child.communicate()


def race(prepares: Mapping[str, str], *, rounds: int = ROUNDS, calls: int = CALLS) -> dict[str, list[float]]:
    """The median seconds of a call in each round, by contender; who begins changes with every round."""
    contenders = {name: Contender(prepare) for name, prepare in prepares.items()}
    seen: dict[str, list[float]] = {name: [] for name in contenders}
    try:
        for contender in contenders.values():
            contender.until_ready()
        for number in range(rounds):
            names = list(contenders)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                seen[name].append(contenders[name].run(calls))
    finally:
        for contender in contenders.values():
            contender.end()
    return seen


def row(name: str, seen: Mapping[str, list[float]], ours: str, peer: str, target: float) -> dict[str, Any]:
    """One line of the table: the median of the rounds' ratios of `ours` to `peer`; times in ms."""
    ratio = statistics.median(own / other for own, other in zip(seen[ours], seen[peer], strict=True))
    value = statistics.median(seen[peer]) * 1e3
    what = {"ours": ratio * value, "peer": peer, "peer_value": value, "ratio": ratio, "target": target}
    return {"name": name, **what, "ok": ratio <= target, "unit": "ms"}
