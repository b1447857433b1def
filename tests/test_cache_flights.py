"""Identical calls at the same time through the clients: one upstream call, however they ask, in whatever process."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis_server
from asking import asking
from driving import KEY

from blueprint_llm import LLMClient, SyncLLMClient
from blueprint_llm.errors import BlueprintError, DeadlineExceededError
from blueprint_llm.testing import Answer, FaultServer, ScriptedAdapter, Status

MESSAGES = [{"role": "user", "content": "What is a flight?"}]
SLOW = Answer("One for all.", delay_s=0.4)
HANGING = Answer("never said", delay_s=60)

CALLER = """
import asyncio, json, os, sys
from blueprint_llm import LLMClient
from blueprint_llm.adapters.litellm import module
config, messages, count, streamed = map(json.loads, sys.argv[1:])
async def ask(client):
    if not streamed:
        return (await client.chat(messages=messages)).content
    return "".join([chunk.delta async for chunk in client.stream(messages=messages)])
async def main():
    module()
    async with LLMClient(config) as client:
        print("ready", flush=True)
        sys.stdin.readline()
        print(json.dumps(await asyncio.gather(*(ask(client) for _ in range(count)))), flush=True)
        os._exit(0)
asyncio.run(main())
"""


def configured(url="http://127.0.0.1:9/v1", **blueprint):
    """One provider with the cache on."""
    providers = {"p0": {"model": "openai/gpt-4o", "api_base": url, "api_key": KEY}}
    deadline = {"total_s": 20, "first_token_s": 8}
    return {
        "blueprint": {
            "providers": providers,
            "cache": {"enabled": True},
            "deadline": deadline,
            "retry": {"max_attempts": 1},
            **blueprint,
        }
    }


class Callers:
    """Processes that wait for a word, then make identical calls."""

    def __init__(self, config, processes, each, *, streamed=False, homes=()):
        command = [sys.executable, "-c", CALLER, *map(json.dumps, (config, MESSAGES, each, streamed))]
        envs = [{**os.environ, "BLUEPRINT_HOME": str(home)} for home in homes] or [None] * processes
        self.processes = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) for env in envs
        ]
        for process in self.processes:
            assert process.stdout.readline() == "ready\n"

    def go(self, *chosen):
        """Let them call; all of them by default."""
        for process in chosen or self.processes:
            process.stdin.write("go\n")
            process.stdin.flush()

    def answers(self, *chosen):
        """What they got, and the end of them."""
        found = []
        for process in chosen or self.processes:
            output, _ = process.communicate(timeout=60)
            found += json.loads(output)
        return found


@pytest.fixture(params=["disk", "redis"])
def shared(request, tmp_path):
    """The blueprint keys of a cache that processes share."""
    if request.param == "disk":
        yield {}
        return
    with redis_server.running(tmp_path) as url:
        yield {"store": {"url": url}}


def test_twenty_coroutines_make_one_call():
    """All get the answer of the first."""
    p0 = ScriptedAdapter(default=SLOW)

    async def run():
        async with LLMClient(configured(), adapters={"p0": p0}) as client:
            return await asyncio.gather(*(client.chat(messages=MESSAGES) for _ in range(20)))

    answers = asyncio.run(run())

    assert {answer.content for answer in answers} == {"One for all."}
    assert len(p0.calls) == 1
    assert sum(answer.metadata["cached"] for answer in answers) == 19


def test_twenty_threads_make_one_call():
    """The same for blocking calls."""
    p0 = ScriptedAdapter(default=SLOW)
    with SyncLLMClient(configured(), adapters={"p0": p0}) as client, ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: client.chat(messages=MESSAGES).content, range(20)))

        assert answers == ["One for all."] * 20
        assert len(p0.calls) == 1
        assert client.get_usage().cache_hits == 19


def test_streams_and_whole_answers_share_a_flight():
    """Who streams and who does not wait for the same call."""
    p0 = ScriptedAdapter(default=SLOW)

    async def stream(client):
        return "".join([chunk.delta async for chunk in client.stream(messages=MESSAGES)])

    async def chat(client):
        return (await client.chat(messages=MESSAGES)).content

    async def run():
        async with LLMClient(configured(), adapters={"p0": p0}) as client:
            return await asyncio.gather(*((stream if n % 2 else chat)(client) for n in range(10)))

    assert asyncio.run(run()) == ["One for all."] * 10
    assert len(p0.calls) == 1


@pytest.mark.slow
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
def test_two_processes_make_one_call(shared, streamed):
    """Five callers in each of two processes, also through Redis: one call."""
    with FaultServer(default=SLOW) as server:
        callers = Callers(configured(server.url, **shared), 2, 5, streamed=streamed)
        callers.go()

        assert callers.answers() == ["One for all."] * 10
        assert len(server.requests) == 1


@pytest.mark.slow
def test_two_machines_make_one_call(tmp_path):
    """Machines that share nothing but a Redis and its password: one call."""
    homes = [tmp_path / "here", tmp_path / "there"]
    with FaultServer(default=SLOW) as server, redis_server.running(tmp_path, "--requirepass", "redis-password") as url:
        store = {"url": url.replace("redis://", "redis://:redis-password@")}
        callers = Callers(configured(server.url, store=store), 2, 5, homes=homes)
        callers.go()

        assert callers.answers() == ["One for all."] * 10
        assert len(server.requests) == 1


@pytest.mark.slow
def test_a_killed_leader_is_replaced_by_one(shared):
    """`kill -9` of who fetches: one of the others takes over, all of them are answered."""
    with FaultServer([HANGING], default=SLOW) as server:
        callers = Callers(configured(server.url, **shared), 2, 5)
        leader, *followers = callers.processes
        callers.go(leader)
        server.wait_until(lambda requests: len(requests) == 1, 30)
        callers.go(*followers)
        time.sleep(0.3)
        os.kill(leader.pid, signal.SIGKILL)

        assert callers.answers(*followers) == ["One for all."] * 5
        assert len(server.requests) == 2
        leader.communicate()


def test_a_failing_leader_holds_nobody_up():
    """Its error is its own; who waited for it goes alone, at once, and what they get is kept."""
    p0 = ScriptedAdapter([Status(500, delay_s=0.3)], default=SLOW)

    async def run():
        async with LLMClient(configured(), adapters={"p0": p0}) as client:
            calls = (client.chat(messages=MESSAGES) for _ in range(5))
            return await asyncio.gather(*calls, return_exceptions=True)

    answers = asyncio.run(run())

    assert sum(isinstance(answer, BlueprintError) for answer in answers) == 1
    assert len(p0.calls) == 5


async def led(p0, follow):
    """`follow` a leader that has begun; its result, and the leader, cancelled if it still waits."""
    async with LLMClient(configured(), adapters={"p0": p0}) as client:
        leader = asyncio.create_task(client.chat(messages=MESSAGES))
        async with asyncio.timeout(10):
            while not p0.calls:  # noqa: ASYNC110 - the adapter has no event
                await asyncio.sleep(0.005)
        result = await follow(client, leader)
        leader.cancel()
        await asyncio.gather(leader, return_exceptions=True)
        return result


def test_a_followers_deadline_holds():
    """Whoever has little time does not wait for a slow leader beyond it."""

    async def follow(client, leader):
        with pytest.raises(DeadlineExceededError):
            await client.chat(messages=MESSAGES, deadline_s=0.6)
        assert not leader.done()

    asyncio.run(led(ScriptedAdapter(default=HANGING), follow))


def test_an_impatient_follower_asks_itself():
    """Waiting ends while there is time for an own call: a hanging leader fails nobody else."""
    p0 = ScriptedAdapter([HANGING], default=Answer("Quick."))

    async def follow(client, leader):
        return (await client.chat(messages=MESSAGES, deadline_s=2)).content

    assert asyncio.run(led(p0, follow)) == "Quick."
    assert len(p0.calls) == 2


@pytest.mark.slow
def test_nobody_waits_for_a_reader_who_pauses():
    """A stream that is held half read keeps no lease alive: the next caller, even the same task, is answered."""
    p0 = ScriptedAdapter(default=Answer("one two three four"))

    async def run():
        async with LLMClient(configured(), adapters={"p0": p0}) as client:
            chunks = aiter(client.stream(messages=MESSAGES))
            first = await anext(chunks)
            whole = (await client.chat(messages=MESSAGES)).content
            rest = "".join([chunk.delta async for chunk in chunks])
            return whole, first.delta + rest

    assert asyncio.run(run()) == ("one two three four", "one two three four")
    assert len(p0.calls) == 2


@pytest.mark.slow
def test_a_half_read_blocking_stream_holds_nobody_up():
    """The same for a blocking stream, whose answer may be there before it is read."""
    p0 = ScriptedAdapter(default=Answer("one two three four"))
    with asking("sync", configured(), adapters={"p0": p0}) as ask:
        stream = iter(ask.client.stream(messages=MESSAGES))
        next(stream)
        assert ask.chat(messages=MESSAGES).content == "one two three four"
        assert "".join(chunk.delta for chunk in stream).endswith("four")
