"""The Python examples of README and docs/, made by `nox -s readme`: type-checked, never run."""

from typing import Any

from blueprint_llm import ChatResponse, SyncLLMClient
from blueprint_llm.pytest_plugin import ScriptedClients
from blueprint_llm.testing import FaultServer
from blueprint_llm.tools import ApprovalDecision, ApprovalRequest

client: SyncLLMClient
config: dict[str, Any]
messages: list[dict[str, str]]
model_list: list[dict[str, Any]]
providers: dict[str, Any]
response: ChatResponse
tools: list[dict[str, Any]]


def ask_me(batch: list[ApprovalRequest]) -> list[ApprovalDecision]:
    """Approve nothing."""
    return [ApprovalDecision(decision="reject") for _ in batch]


def ask_my_program(api_base: str) -> str:
    """Stand for a program."""
    return api_base


async def readme_1() -> None:
    """README.md, example 1."""
    from blueprint_llm import SyncLLMClient

    with SyncLLMClient() as client:  # blueprint.yaml, or without one: the cloud if it has a key, then the local model
        stream = client.stream(messages=[{"role": "user", "content": "Hello"}])
        for chunk in stream:
            print(chunk.delta, end="")
        if stream.response:
            print("\n", stream.response.trace["served_by"], client.get_usage().cost_usd)


async def readme_2() -> None:
    """README.md, example 2."""
    import blueprint_llm

    blueprint_llm.install()  # from here on, every call of LiteLLM in this process is guarded; uninstall() puts it back


async def cache_1() -> None:
    """cache.md, example 1."""
    from blueprint_llm import SyncLLMClient

    config = {"blueprint": {"providers": providers, "cache": {"enabled": True, "ttl_s": 3600}}}
    with SyncLLMClient(config, project="cached") as client:
        client.chat(messages=messages)
        chunks = list(client.stream(messages=messages))  # the same entry serves both
        answer = client.chat(messages=messages, cache_ttl_s=60)  # and only if it is not older than a minute
        print(answer.metadata["cached"], client.get_usage({"project": "cached"}).cache_hits)  # True 2


async def cache_2() -> None:
    """cache.md, example 2."""
    import asyncio
    import time

    from blueprint_llm import CacheManager
    from blueprint_llm.cache import Entry, MemoryCache


    async def main() -> None:
        cache = CacheManager(MemoryCache(), ttl_s=60)
        key = "acme:what-is-a-cache"
        async with cache.flight(key, owner="me", until=time.monotonic() + 10) as flight:
            if flight.entry is None:  # nobody else has fetched it meanwhile
                whole = {"choices": [{"finish_reason": "stop", "message": {"role": "assistant", "content": "A store."}}]}
                await cache.keep(key, Entry(whole=whole, content="A store.", at=time.time()))
        found = await cache.lookup(key)
        print(found.content if found else "nothing")  # A store.
        await cache.aclose()


    asyncio.run(main())


async def errors_1() -> None:
    """errors.md, example 1."""
    from blueprint_llm import BlueprintError, BudgetExceededError, CallError

    try:
        client.chat(messages=messages, provider="cloud")
    except BudgetExceededError as error:
        print(error.scope, error.limit_usd, error.used_usd, error.resets_at)
    except CallError as error:
        print(error.category, error.status, error.retry_after_s)
    except BlueprintError as error:
        print(error, error.trace["route"]["considered"])


async def limits_1() -> None:
    """limits.md, example 1."""
    from blueprint_llm import QuotaExceededError, SyncLLMClient

    config = {
        "blueprint": {
            "project": "acme",
            "providers": providers,
            "budgets": [{"scope": "project", "limit_usd": 20, "window": "month", "on_exceed": "block"}],
            "quotas": [{"scope": "project", "requests": 2, "window": "day"}],
        }
    }
    with SyncLLMClient(config) as client:
        try:
            while True:
                client.chat(messages=messages)
        except QuotaExceededError as error:
            print(error.scope, error.limit, error.used)  # project 2 2
        print(client.get_usage({"project": "acme"}).calls)  # 2


async def litellm_1() -> None:
    """litellm.md, example 1."""
    from blueprint_llm import litellm  # was: import litellm

    response = litellm.completion(model="openai/gpt-4o", messages=messages)
    print(response.choices[0].message.content)  # Hello there
    # The trace: whom it asked and why, what it cost.
    print(response._hidden_params["blueprint"])


async def litellm_2() -> None:
    """litellm.md, example 2."""
    import blueprint_llm

    block = {"project": "acme", "quotas": [{"scope": "project", "requests": 1, "window": "day"}]}
    with blueprint_llm.install({"blueprint": block}):  # or install() and uninstall()
        import litellm

        litellm.completion(model="openai/gpt-4o", messages=messages)
        try:
            litellm.completion(model="openai/gpt-4o", messages=messages)
        except litellm.exceptions.RateLimitError as error:
            print("used up" in str(error))  # True


async def litellm_3() -> None:
    """litellm.md, example 3."""
    from blueprint_llm import Router

    router = Router(
        model_list=model_list,
        fallbacks=[{"gpt-4o": ["claude"]}],
        num_retries=2,
        blueprint={"budgets": [{"scope": "global", "limit_usd": 20, "window": "day"}], "deadline": {"total_s": 60}},
    )
    response = router.completion(model="gpt-4o", messages=messages)
    print(response._hidden_params["blueprint"])


async def operations_1() -> None:
    """operations.md, example 1."""
    from blueprint_llm import Event, SyncLLMClient


    def on_event(event: Event) -> None:  # one frozen record for each attempt, call, warning
        print(event.name, event.facts.get("provider"), event.facts.get("category"))


    with SyncLLMClient(config, on_event=on_event) as client:
        client.chat(messages=messages)


async def planning_1() -> None:
    """planning.md, example 1."""
    plan = client.planning_mode(
        goal="Add a health check",
        requirements=["GET /health answers 200", "it covers the database"],
        constraints=["path: src/legacy is read-only", "keep it simple"],
        codebase="src",
    )
    print(plan.to_markdown())


async def planning_2() -> None:
    """planning.md, example 2."""
    from typing import Any

    from blueprint_llm import LLMClient, Plan, PlanningContext, PlanningCoordinator


    async def plan_with(config: dict[str, Any]) -> Plan:
        async with LLMClient.from_config(config) as client:
            coordinator = PlanningCoordinator(client.chat)
            return await coordinator.plan(PlanningContext(goal="Add a health check", requirements=["it answers 200"]))


async def quickstart_1() -> None:
    """quickstart.md, example 1."""
    from blueprint_llm import SyncLLMClient

    with SyncLLMClient("blueprint.yaml") as client:
        answer = client.chat(messages=[{"role": "user", "content": "Hello"}], max_tokens=100)
        print(answer.content)  # Hello there
        print(answer.provider, answer.metadata["cached"])  # cloud False


async def quickstart_2() -> None:
    """quickstart.md, example 2."""
    from blueprint_llm import LLMClient

    async with LLMClient("blueprint.yaml") as client:
        stream = client.stream(messages=[{"role": "user", "content": "Hello"}])
        async for chunk in stream:
            print(chunk.delta, end="")


async def quickstart_3() -> None:
    """quickstart.md, example 3."""
    decision = client.explain(messages=messages)  # sends nothing, reserves nothing; a table in a notebook
    for row in decision.considered:
        print(row.verdict, row.provider, row.reason)  # chosen cloud first of the chain that can serve it
    print(response.trace["attempts"][0]["category"])  # None


async def routing_1() -> None:
    """routing.md, example 1."""
    for row in client.explain(messages=messages, task_type="lint").considered:
        print(row.verdict, row.provider)


async def routing_2() -> None:
    """routing.md, example 2."""
    for chunk in client.stream(provider="local", messages=messages):
        if chunk.error:  # the stream broke and goes on elsewhere: what came before is void if chunk.restart
            client.set_fallback_chain(["cloud"])  # for the calls after this one
        print(chunk.delta, end="")


async def streams_1() -> None:
    """streams.md, example 1."""
    from blueprint_llm import StreamingHandler, Verdict

    pay = {"name": "pay", "parameters": {"type": "object", "properties": {"amount": {"type": "integer"}}}}
    handler = StreamingHandler([pay])
    call = {"index": 0, "id": "call_1", "function": {"name": "pay", "arguments": '{"amount": "fi'}}
    events = handler.feed({"choices": [{"delta": {"tool_calls": [call]}}]})
    (wrong,) = [event for event in events if isinstance(event, Verdict)]
    print(wrong.code, wrong.path, wrong.char_offset)  # schema_type /amount 11


async def streams_2() -> None:
    """streams.md, example 2."""
    from typing import Any

    import litellm

    from blueprint_llm import StreamingHandler, Verdict

    handler = StreamingHandler(tools=tools)
    stream: Any = litellm.completion("openai/gpt-4o", messages, tools=tools, stream=True)
    for chunk in stream:
        wrong = [event for event in handler.feed(chunk) if isinstance(event, Verdict) and event.status == "invalid"]
        if wrong:
            print(wrong[0].code, wrong[0].path, wrong[0].expected, wrong[0].char_offset)
            break
    print(handler.close().status)  # ok


async def testing_1() -> None:
    """testing.md, example 1."""
    from blueprint_llm.pytest_plugin import ScriptedClients
    from blueprint_llm.testing import Answer, Cut, FaultServer, Status


    def test_survives_a_bad_day(fault_server: FaultServer, scripted_client: ScriptedClients) -> None:
        fault_server.add(Status(429), Cut(3), Answer("Hello"))  # a real socket at fault_server.url
        client = scripted_client(Status(503), Answer("Hello"))  # no socket at all
        assert client.chat(messages=[{"role": "user", "content": "hi"}]).content == "Hello"
        assert ask_my_program(api_base=fault_server.url) == "Hello"


async def testing_2() -> None:
    """testing.md, example 2."""
    from blueprint_llm import SyncLLMClient
    from blueprint_llm.testing import Answer, FaultServer, Status

    with FaultServer([Status(503), Answer("Hello")]) as server:
        provider = {"model": "openai/gpt-4o", "api_base": server.url, "api_key": "not-used"}
        settings = {"blueprint": {"providers": {"it": provider}, "retry": {"base_s": 0}}}
        with SyncLLMClient(settings) as client:
            print(client.chat(messages=messages).content, len(server.requests))  # Hello 2


async def tools_1() -> None:
    """tools.md, example 1."""
    from blueprint_llm import LLMClient

    async with LLMClient.from_config("blueprint.yaml", approver=ask_me) as client:
        result = await client.run(messages=[{"role": "user", "content": "fix the failing test"}])


async def tools_2() -> None:
    """tools.md, example 2."""
    def add(left: int, right: int) -> int:
        """Add two numbers."""
        return left + right


    run = client.run(messages=messages, tools=[add])  # chat, rules, approval, run, chat again
    print(run.content, [each.status for each in run.tool_results])
