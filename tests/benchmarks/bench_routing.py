"""Planning a route: for one small configuration, and for one with 500 deployments and 50 rules."""

import asyncio
import os
import tempfile

from measuring import limited, once_s, row

from blueprint_llm.engine.fallback import plan
from blueprint_llm.engine.parsing import build_request
from blueprint_llm.engine.runtime import Runtime

ROUNDS, CALLS = 9, 200
REQUEST = build_request(None, {"messages": [{"role": "user", "content": "x" * 1024}], "task_type": "review"})


def runtime_of(groups, rules):
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
    return Runtime({"model_list": deployments, "blueprint": {"version": 1, "routes": routes}})


def planning_s(runtime):
    """Seconds of one plan."""

    async def plans():
        for _ in range(CALLS):
            route = await plan(runtime, REQUEST)
        if not route.targets:
            raise RuntimeError("planning found no target")

    return once_s(lambda: asyncio.run(plans())) / CALLS


def rows():
    """The table's lines: measured in turns, the best round."""
    with tempfile.TemporaryDirectory() as home:
        os.environ["BLUEPRINT_HOME"] = home
        small, large = runtime_of(1, 1), runtime_of(50, 50)
        few, many = map(min, zip(*((planning_s(small), planning_s(large)) for _ in range(ROUNDS)), strict=True))
    return [
        limited("plan, ten deployments, one rule", few * 1e6, 50, "us"),
        row("plan, 500 deployments, 50 rules", many * 1e6, "ten deployments, one rule", few * 1e6, 2.0, "us"),
    ]


if __name__ == "__main__":
    for line in rows():
        print(line)
