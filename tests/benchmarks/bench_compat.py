"""The drop-in functions against LiteLLM's own and its Router on one loopback server, in one run."""

from __future__ import annotations

import asyncio
import importlib.util
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

BUDGET = {"version": 1, "budgets": [{"scope": "project", "limit_usd": 1e6, "window": "day"}]}
INSTALLS = 100


def beside(name: str) -> ModuleType:
    """The bench file of that name, for its server and its measures."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    if spec is None or spec.loader is None:
        raise ImportError(name)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


BENCH = beside("bench_client")


DROPPED_IN = """
async def prepare():
    import blueprint_llm
    return lambda: blueprint_llm.acompletion(messages={messages!r}, **{wire!r})
"""
GUARDED = """
async def prepare():
    import blueprint_llm
    listed = [{{"model_name": "gpt-4o", "litellm_params": {wire!r}}}]
    router = blueprint_llm.Router(model_list=listed, blueprint={config!r})
    return lambda: router.acompletion(model="gpt-4o", messages={messages!r})
"""


def whole_rows(url: str) -> list[dict[str, Any]]:
    """One whole answer: through the functions, and through the Router with a budget on SQLite."""
    asked = {"messages": BENCH.MESSAGES, "wire": {"model": "openai/gpt-4o", "api_base": url, "api_key": BENCH.KEY}}
    seen = BENCH.race.race(
        {
            "litellm.acompletion": BENCH.BARE.format(**asked),
            "litellm.Router": BENCH.ROUTED.format(**asked),
            "ours": DROPPED_IN.format(**asked),
            "guarded": GUARDED.format(config=BUDGET, **asked),
        }
    )
    return [
        BENCH.race.row("acompletion p50", seen, "ours", "litellm.acompletion", 1.15),
        BENCH.race.row("Router.acompletion p50, a budget on SQLite", seen, "guarded", "litellm.Router", 1.15),
    ]


def install_rows() -> list[dict[str, Any]]:
    """Guarding LiteLLM in place, once it is loaded and the configuration read."""
    import blueprint_llm  # noqa: PLC0415 - likewise
    from blueprint_llm.compat.guarding import guard_of  # noqa: PLC0415 - LiteLLM is loaded by now

    guard = guard_of({"blueprint": BUDGET})
    times = []
    for _ in range(INSTALLS):
        started = time.perf_counter()
        with blueprint_llm.install(guard):
            times.append(time.perf_counter() - started)
    return [BENCH.row("install()", statistics.median(times) * 1e3, "1 ms", 1.0, 1.0, "ms")]


async def stream_rows(url: str) -> list[dict[str, Any]]:
    """One chunk of a stream whose usage is asked for, as ours always is: nothing else can be booked.

    The second row, for information: against a stream without usage, for which LiteLLM has 50 us a chunk less to do.
    """
    import litellm  # noqa: PLC0415 - as above

    import blueprint_llm  # noqa: PLC0415 - likewise

    wire = {"model": "openai/gpt-4o", "api_base": url, "api_key": BENCH.KEY, "messages": BENCH.MESSAGES}

    def reading(library: Any, **more: Any) -> Any:
        async def read() -> None:
            async for _ in await library.acompletion(**wire, stream=True, **more):
                pass

        return read

    usage = {"stream_options": {"include_usage": True}}
    calls = {"bare": reading(litellm, **usage), "less": reading(litellm), "ours": reading(blueprint_llm, **usage)}
    for call in calls.values():
        await call()
    seen = await BENCH.in_turns(calls, BENCH.ROUNDS)
    each = {name: [seconds / BENCH.CHUNKS for seconds in times] for name, times in seen.items()}
    less = ("litellm.acompletion, no usage", each["less"])
    informs = BENCH.pairs("acompletion stream per chunk", each["ours"], less, 1.0, "us")
    return [
        BENCH.pairs("acompletion stream per chunk", each["ours"], ("litellm.acompletion", each["bare"]), 1.05, "us"),
        {**informs, "target": None, "ok": None},
    ]


def rows() -> list[dict[str, Any]]:
    """Every row of this part."""
    with BENCH.server(BENCH.ANSWERING) as url:
        return [*asyncio.run(stream_rows(url)), *whole_rows(url), *install_rows()]


if __name__ == "__main__":
    for line in rows():
        print(line)
