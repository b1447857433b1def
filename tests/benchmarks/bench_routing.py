"""Planning a route: for one small configuration, and for one with 500 deployments and 50 rules."""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from typing import Any

from blueprint_llm.engine.parts import Parts

from blueprint_llm.engine.explain import plan
from blueprint_llm.engine.parsing import build_request

NOMINAL_US = 12.0
ROUNDS, CALLS = 9, 200
DOCUMENT = json.dumps([{"name": f"name {n}", "value": n, "tags": ["a", "b"]} for n in range(38)])
REQUEST = build_request(None, {"messages": [{"role": "user", "content": "x" * 1024}], "task_type": "review"})


def parts(groups: int, rules: int) -> Parts:
    """A client's parts: ten deployments a group, the last rule is the one that holds."""
    deployments = [
        {"model_name": f"group{n}", "litellm_params": {"model": f"openai/m{n}-{k}", "api_key": f"sk-{n:04}-{k:012}"}}
        for n in range(groups)
        for k in range(10)
    ]
    routes = [
        {"when": {"task_type": [f"task{n}"], "input_tokens": {"gt": n}}, "chain": ["group0"]} for n in range(rules - 1)
    ]
    routes.append({"when": {"task_type": ["review"]}, "chain": [f"group{groups - 1}"]})
    return Parts.build({"model_list": deployments, "blueprint": {"version": 1, "routes": routes}})


def planned(made: Parts) -> None:
    """Plan one request; its steps ask for the time and a draw only."""
    steps, answer = plan(made, REQUEST, streamed=False), None
    try:
        while True:
            steps.send(answer)
            answer = 0.0
    except StopIteration as end:
        if len(end.value.targets) != 10:
            raise RuntimeError("planning found other targets") from None


def median_us(call: Any, *arguments: Any) -> float:
    """The median time of a call."""
    times = []
    for _ in range(CALLS):
        begun = time.perf_counter()
        call(*arguments)
        times.append(time.perf_counter() - begun)
    return statistics.median(times) * 1e6


def rows() -> list[dict[str, Any]]:
    """The table's lines: measured in turns, the round in the middle."""
    with tempfile.TemporaryDirectory() as home:
        os.environ["BLUEPRINT_HOME"] = home
        small, large = parts(1, 1), parts(50, 50)
        turns = [
            (median_us(planned, small), median_us(planned, large), median_us(json.loads, DOCUMENT))
            for _ in range(ROUNDS)
        ]
    ours, _, unit = min(turns, key=lambda turn: turn[0] / turn[2])
    before, after, _ = sorted(turns, key=lambda turn: turn[1] / turn[0])[ROUNDS // 2]
    limit = 50 * unit / NOMINAL_US
    return [
        _line("plan, ten deployments, one rule", ours, "50 us, scaled by json.loads", limit, 1.0),
        _line("plan, 500 deployments, 50 rules", after, "ten deployments, one rule", before, 2.0),
    ]


def _line(name: str, ours: float, peer: str, value: float, target: float) -> dict[str, Any]:
    ratio = ours / value
    return {
        "name": name, "ours": ours, "peer": peer, "peer_value": value, "ratio": ratio, "target": target,
        "ok": ratio <= target, "unit": "us",
    }  # fmt: skip


if __name__ == "__main__":
    for line in rows():
        print(line)
