"""A program that calls LiteLLM, guarded by `install()`, or by the module where it lets us hand one over.

Chat, streams, tools, structured output and embeddings as far as it has them; a refused key; a budget that stops it.

Run by `nox -s programs` with the program's own environment: `python guarded_program.py NAME`. Each way of asking is the
program's usual one; nothing of the program is patched.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ |= {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
    "MSWEA_SILENT_STARTUP": "1",
}
os.environ |= {"BLUEPRINT_HOME": tempfile.mkdtemp(), "MSWEA_MODEL_RETRY_STOP_AFTER_ATTEMPT": "1"}

sys.path.insert(0, str(Path(__file__).parents[1]))
from endpoint_server import Endpoints
from serving import serving

import blueprint_llm
from blueprint_llm.compat import guarding as guards
from blueprint_llm.engine.guarded import PolicyGuard
from blueprint_llm.engine.runtime import Runtime
from blueprint_llm.sync import run
from blueprint_llm.testing import Answer, FaultServer, Status, ToolUse
from blueprint_llm.types import UsageFilter

if TYPE_CHECKING:
    from collections.abc import Callable

MODEL, KEY = "openai/gpt-4o", "sk-test-0123456789abcdef"
QUESTION = "What is the weather in Paris?"
WEATHER = Answer("", tool_calls=(ToolUse("get_weather", {"city": "Paris"}, id="call_1"),), usage=(12, 5))


def get_weather(city: str) -> str:
    """Tell the weather.

    Args:
        city: Where.
    """
    return f"It rains in {city}."


def dspy(url: str) -> dict[str, Callable[[], Any]]:
    """A language model, called as programs of dspy's do."""
    import dspy  # noqa: PLC0415 - only this program's environment has it

    # Its default engine asks providers by itself; this one asks LiteLLM.
    model = dspy.LM(MODEL, engine="litellm", api_base=url, api_key=KEY, cache=False, num_retries=0)
    embedder = dspy.Embedder("openai/text-embedding-3-small", api_base=url, api_key=KEY, caching=False)
    return {
        "chat": lambda: model(QUESTION)[0],
        "structured": lambda: model(QUESTION, response_format={"type": "json_object"})[0],
        "embedding": lambda: len(embedder(["x"])[0]),
    }


def smolagents(url: str, module: Any = None) -> dict[str, Callable[[], Any]]:
    """A model of an agent's."""
    from smolagents import LiteLLMModel  # noqa: PLC0415 - as above

    model = LiteLLMModel(model_id=MODEL, api_base=url, api_key=KEY)
    if module is not None:
        model.client = module
    messages = [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]
    return {
        "chat": lambda: model.generate(messages).content,
        "stream": lambda: "".join(delta.content or "" for delta in model.generate_stream(messages)),
        "structured": lambda: model.generate(messages, response_format={"type": "json_object"}).content,
    }


def minisweagent(url: str) -> dict[str, Callable[[], Any]]:
    """A model of mini-swe-agent's; it asks for tool calls, so its answer is one."""
    from minisweagent.models.litellm_model import LitellmModel  # noqa: PLC0415 - as above

    model = LitellmModel(
        model_name=MODEL, model_kwargs={"api_base": url, "api_key": KEY}, cost_tracking="ignore_errors"
    )
    return {"tools": lambda: str(model.query([{"role": "user", "content": QUESTION}]))}


def agents(url: str, module: Any = None) -> dict[str, Callable[[], Any]]:
    """An agent with a tool, whole and streamed."""
    from agents import Agent, Runner, function_tool  # noqa: PLC0415 - as above
    from agents.extensions.models import litellm_model  # noqa: PLC0415 - likewise
    from pydantic import BaseModel  # noqa: PLC0415 - likewise

    class City(BaseModel):
        city: str

    if module is not None:
        litellm_model.litellm = module
    model = litellm_model.LitellmModel(model=MODEL, base_url=url, api_key=KEY)
    agent = Agent(name="a", model=model, tools=[function_tool(get_weather)])

    async def streamed() -> str:
        result = Runner.run_streamed(agent, QUESTION)
        async for _ in result.stream_events():
            pass
        return str(result.final_output)

    def asked() -> str:
        return str(asyncio.run(Runner.run(agent, QUESTION)).final_output)

    def structured() -> str:
        plain = Agent(name="b", model=model, output_type=City)
        return str(asyncio.run(Runner.run(plain, QUESTION)).final_output.city)

    return {"chat": asked, "tools": asked, "stream": lambda: asyncio.run(streamed()), "structured": structured}


def instructor(url: str, module: Any = None) -> dict[str, Callable[[], Any]]:
    """A structured answer."""
    import instructor  # noqa: PLC0415 - as above
    import litellm  # noqa: PLC0415 - likewise
    from pydantic import BaseModel  # noqa: PLC0415 - likewise

    class get_weather(BaseModel):  # noqa: N801 - named as the tool
        city: str

    client = instructor.from_litellm((module or litellm).completion)
    asked = {"model": MODEL, "api_base": url, "api_key": KEY, "messages": [{"role": "user", "content": QUESTION}]}
    return {"tools": lambda: client.chat.completions.create(response_model=get_weather, max_retries=0, **asked).city}


def langchain_litellm(url: str, module: Any = None) -> dict[str, Callable[[], Any]]:
    """A chat model, whole, streamed, with a tool, structured; and its embeddings."""
    from langchain_litellm import ChatLiteLLM  # noqa: PLC0415 - as above

    model = ChatLiteLLM(model=MODEL, api_base=url, api_key=KEY, max_retries=0)
    if module is not None:
        model.client = module
    return {
        "chat": lambda: model.invoke(QUESTION).content,
        "stream": lambda: "".join(str(chunk.content) for chunk in model.stream(QUESTION)),
        "tools": lambda: str(model.bind_tools([get_weather]).invoke(QUESTION).tool_calls),
        "structured": lambda: model.bind(response_format={"type": "json_object"}).invoke(QUESTION).content,
    }


PROGRAMS = {each.__name__: each for each in (dspy, smolagents, minisweagent, agents, instructor, langchain_litellm)}
# Those that can be handed a module in LiteLLM's place.
BY_MODULE = (smolagents, agents, instructor, langchain_litellm)
SAID = {"chat": "It rains", "stream": "It rains", "tools": "Paris", "structured": "Paris", "embedding": "1"}
CITY = Answer('{"city": "Paris"}', usage=(12, 5))
# What an agent says once its tool has run.
LAST = Answer("It rains in Paris.", usage=(12, 5))


def guard_of(limit_usd: float) -> PolicyGuard:
    """A guard with one budget, its ledger in memory."""
    budgets = [{"scope": "project", "limit_usd": limit_usd, "window": "day"}]
    block = {"version": 1, "project": "acme", "store": {"url": "memory"}, "budgets": budgets}
    return PolicyGuard(Runtime({"blueprint": block}))


def answer(request: Any) -> Answer:
    """A call of the tool that is offered, until its result is there."""
    tools = [each["function"]["name"] for each in request.body.get("tools") or ()]
    if request.body.get("response_format"):
        return CITY
    has_result = any(message["role"] == "tool" for message in request.body["messages"])
    if "bash" in tools:
        return Answer("", tool_calls=(ToolUse("bash", {"command": "echo Paris"}, id="call_1"),), usage=(12, 5))
    return WEATHER if tools and not has_result else LAST


def failure_of(ask: Callable[[], Any]) -> str:
    """What is raised, its causes included."""
    try:
        ask()
    except BaseException as error:  # noqa: BLE001 - programs wrap what they get as they like
        chain = []
        while error is not None:
            chain.append(f"{type(error).__mro__}: {error}")
            error = error.__cause__ or error.__context__
        return "\n".join(chain)
    return "nothing was raised"


def guarded(guard: PolicyGuard, *, by_module: bool) -> AbstractContextManager[Any]:
    """Bring the guard in: in place, or for `blueprint_llm.litellm`."""
    if not by_module:
        return blueprint_llm.install(guard)
    guards.build = lambda config: guard
    guards.forget()
    return nullcontext()


def main(name: str) -> None:
    """Try every way of one program. Raises AssertionError."""
    program = PROGRAMS[name]
    for by_module in (False, True)[: 1 + (program in BY_MODULE)]:
        more = {"module": blueprint_llm.litellm} if by_module else {}
        ways = tried(lambda url, more=more: program(url, **more), by_module=by_module)
        print(f"{name}{' by module' if by_module else ''}: {', '.join(ways)}, 401, budget")


def tried(program: Callable[[str], dict[str, Callable[[], Any]]], *, by_module: bool) -> list[str]:
    """Return the ways of a program, each tried. Raises AssertionError."""
    with FaultServer(answer) as server, serving(Endpoints) as (endpoints, place):
        guard = guard_of(100)
        with guarded(guard, by_module=by_module):
            ways = program(server.url)
            for way, ask in {**ways, **only(program(place), "embedding")}.items():
                said = ask()
                assert SAID[way] in str(said), (way, said)
        booked, reached = run(guard.runtime.store.usage(UsageFilter(project="acme"))).calls, server.requests
        assert booked == len(reached) + len(endpoints.asked) > 0, (booked, len(reached), len(endpoints.asked))
    first = next(iter(ways))
    with FaultServer(lambda request: Status(401, "Incorrect API key provided")) as server:
        with guarded(guard_of(100), by_module=by_module):
            told = failure_of(program(server.url)[first])
        assert "AuthenticationError" in told, told
        assert KEY not in told
    with FaultServer(answer) as server:
        with guarded(guard_of(0.000001), by_module=by_module):
            told = failure_of(program(server.url)[first])
        assert "budget of project would be exceeded" in told, told
        assert server.requests == [], len(server.requests)
    return list(ways)


def only(ways: dict[str, Callable[[], Any]], name: str) -> dict[str, Callable[[], Any]]:
    """Return one of the ways, where there is such a one."""
    return {name: ways[name]} if name in ways else {}


if __name__ == "__main__":
    main(sys.argv[1])
