"""The drop-in functions against LiteLLM's own and its Router on one loopback server, in one run."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

CONFIGURATION = """
blueprint:
  version: 1
  budgets: [{scope: project, limit_usd: 1000000}, {scope: session, limit_usd: 1000000}]
  quotas: [{scope: project, requests: 1000000000, window: day}]
"""


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


async def whole_rows(url: str) -> list[dict[str, Any]]:
    """One whole answer, with nothing configured and under limits."""
    import litellm  # noqa: PLC0415 - seconds: not where only the rows are listed

    import blueprint_llm  # noqa: PLC0415 - likewise
    from blueprint_llm.compat import Completions  # noqa: PLC0415 - likewise
    from blueprint_llm.parts import Parts  # noqa: PLC0415 - likewise

    file = Path(BENCH.os.environ["BLUEPRINT_HOME"]) / "limits.yaml"
    file.write_text(CONFIGURATION)
    limited = Completions(Parts.build(file))
    wire = {"model": "openai/gpt-4o", "api_base": url, "api_key": BENCH.KEY, "messages": BENCH.MESSAGES}
    calls = {
        "litellm": lambda: litellm.acompletion(**wire),
        "ours": lambda: blueprint_llm.acompletion(**wire),
        "limited": lambda: limited.acompletion(**wire),
    }
    for call in calls.values():
        await call()
    seen = await BENCH.in_turns(calls, BENCH.median_call)
    # From here on LiteLLM runs the Router's callbacks in every call, so these are compared by themselves.
    group = {"model_name": "gpt-4o", "litellm_params": {key: wire[key] for key in ("model", "api_base", "api_key")}}
    router = litellm.Router(model_list=[group])  # noqa: TID251 - the peer
    calls["router"] = lambda: router.acompletion(model="gpt-4o", messages=BENCH.MESSAGES)
    await calls["router"]()
    later = await BENCH.in_turns(calls, BENCH.median_call)
    bare, routed = seen["litellm"] * 1e3, later["router"] * 1e3
    return [
        BENCH.row("acompletion p50", seen["ours"] * 1e3, "litellm.acompletion", bare, 1.1, "ms"),
        BENCH.row("acompletion p50", later["ours"] * 1e3, "litellm.Router", routed, 1.0, "ms"),
        BENCH.row("acompletion p50, 3 limits on SQLite", later["limited"] * 1e3, "litellm.Router", routed, 1.0, "ms"),
    ]


async def stream_rows(url: str) -> list[dict[str, Any]]:
    """One chunk of a stream."""
    import litellm  # noqa: PLC0415 - as above

    import blueprint_llm  # noqa: PLC0415 - likewise

    wire = {"model": "openai/gpt-4o", "api_base": url, "api_key": BENCH.KEY, "messages": BENCH.MESSAGES}

    def reading(library: Any) -> Any:
        async def read() -> None:
            async for _ in await library.acompletion(**wire, stream=True):
                pass

        return read

    async def once(call: Any) -> float:
        started = time.perf_counter()
        await call()
        return (time.perf_counter() - started) / BENCH.CHUNKS

    calls = {"bare": reading(litellm), "ours": reading(blueprint_llm)}
    for call in calls.values():
        await call()
    seen = await BENCH.in_turns(calls, once)
    bare = seen["bare"] * 1e6
    return [BENCH.row("acompletion stream per chunk", seen["ours"] * 1e6, "litellm.acompletion", bare, 1.05, "us")]


def rows() -> list[dict[str, Any]]:
    """Every row of this part."""
    with BENCH.server(BENCH.ANSWERING) as url:
        return [*asyncio.run(stream_rows(url)), *asyncio.run(whole_rows(url))]


if __name__ == "__main__":
    for line in rows():
        print(line)
