"""Whoever leaves early closes the upstream at once, and what was used is recorded."""

import asyncio
import gc
import signal
import subprocess
import sys
import threading
import time

import pytest
from driving import CALLERS, MESSAGES, closing_clients, configuration

from blueprint_llm import LLMClient, SyncLLMClient
from blueprint_llm.testing import Answer, FaultServer, Stall, numbered_text

SLOW = Answer(numbered_text(400), pace_s=0.02)
PATIENT = {"total_s": 30, "first_token_s": 20, "idle_s": 15}


@pytest.mark.parametrize("caller", CALLERS, ids=lambda caller: caller.name)
def test_leaving_the_loop_closes_the_upstream(caller, litellm_warm):
    """Leaving a stream after two chunks closes its connection within a second and records its usage."""
    with FaultServer(default=SLOW) as server:
        stats = caller.leave_early(configuration(server.url, deadline=PATIENT), chunks=2)
        left_at = time.monotonic()

        requests = server.wait_until(lambda seen: seen and seen[0].closed_early_at, timeout_s=5)

    assert requests[0].closed_early_at - left_at < 1.0
    assert stats.calls == 1
    assert stats.prompt_tokens > 0
    assert stats.completion_tokens > 0


@pytest.mark.slow
def test_stream_left_to_the_garbage_collector_blocks_nobody(litellm_warm):
    """A stream that is collected in the middle of another call's transaction ends, and so does the call."""
    with FaultServer(default=SLOW) as server, SyncLLMClient(configuration(server.url, deadline=PATIENT)) as client:
        forget_a_stream(client)
        client._runtime.store._clock = collecting(client._runtime.store._clock)
        call = threading.Thread(target=client.chat, kwargs={"messages": MESSAGES}, daemon=True)

        call.start()
        call.join(20)

        assert not call.is_alive()
        server.wait_until(lambda seen: seen[0].closed_early_at, timeout_s=5)


def forget_a_stream(client):
    """Leave a stream that has begun to the garbage collector, which alone can see that nobody has it."""
    stream = client.stream(messages=MESSAGES)
    next(stream)
    stream.itself = stream


def collecting(clock):
    """A clock that collects garbage, once: a store reads it while it holds its lock."""
    collections = iter([gc.collect])

    def read():
        next(collections, int)()
        return clock()

    return read


@pytest.mark.parametrize("streamed", [pytest.param(True, id="stream"), pytest.param(False, id="whole")])
async def test_cancelling_a_task_closes_the_upstream(streamed, litellm_warm):
    """A cancelled task closes its connection within a second, settles, and stays cancelled."""
    await closing_clients(cancel_in_the_middle(streamed=streamed))


async def cancel_in_the_middle(*, streamed):
    """Start a call, cancel it, and look at the server and the usage."""
    with FaultServer(default=Stall(2 if streamed else 0, answer=SLOW)) as server:
        async with LLMClient(configuration(server.url, deadline=PATIENT)) as client:

            async def ask():
                if not streamed:
                    return await client.chat(messages=MESSAGES)
                return [chunk async for chunk in client.stream(messages=MESSAGES)]

            task = asyncio.create_task(ask())
            await asyncio.to_thread(server.wait_until, bool)
            await asyncio.sleep(0.2)
            task.cancel()
            cancelled_at = time.monotonic()
            with pytest.raises(asyncio.CancelledError):
                await task

            requests = await asyncio.to_thread(server.wait_until, lambda seen: seen[0].closed_early_at)

            assert requests[0].closed_early_at - cancelled_at < 1.0
            assert client.get_usage().calls == 1


SCRIPT = """
import sys
from blueprint_llm import SyncLLMClient
client = SyncLLMClient({config!r})
try:
    if {streamed}:
        for chunk in client.stream(messages=[dict(role="user", content="hello")]):
            print(chunk.delta, flush=True)
    else:
        client.chat(messages=[dict(role="user", content="hello")])
except KeyboardInterrupt:
    print("usage", client.get_usage().calls, flush=True)
    sys.stdin.read()  # the process lives on: closing is not the exit's doing
"""


@pytest.mark.slow
@pytest.mark.parametrize("streamed", [pytest.param(True, id="stream"), pytest.param(False, id="whole")])
def test_ctrl_c_closes_the_upstream(streamed):
    """Ctrl-C in a blocking call closes its connection within a second and records its usage; the program lives on."""
    with FaultServer(default=Stall(2 if streamed else 0, answer=SLOW)) as server:
        script = SCRIPT.format(config=configuration(server.url, deadline=PATIENT), streamed=streamed)
        child = subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            server.wait_until(bool, timeout_s=30)
            if streamed:
                child.stdout.readline()  # LiteLLM has loaded what its first stream needs
            time.sleep(0.5)
            child.send_signal(signal.SIGINT)
            sent_at = time.monotonic()

            requests = server.wait_until(lambda seen: seen[0].closed_early_at)
        finally:
            output, _ = child.communicate("", timeout=10)

    assert requests[0].closed_early_at - sent_at < 1.0
    assert "usage 1" in output


# A program whose event loops end in the middle of calls, by every way in; then another loop, and a forked child.
LOOPS = """
import asyncio, gc, os, sys, time
from blueprint_llm import LLMClient, Router, SyncLLMClient, acompletion
config, params = {config!r}, {params!r}
hello = [dict(role="user", content="hello")]
client = LLMClient(config)
router = Router(model_list=[dict(model_name="g", litellm_params=params)], blueprint=dict(store=dict(url="memory")))

async def first(stream):
    async for chunk in stream:
        break
    return stream

async def left(*more):
    streams = [await first(client.stream(messages=hello))]
    streams += [await first(await acompletion(messages=hello, stream=True, **params))]
    asks = [client.chat(messages=hello), acompletion(messages=hello, **params)]
    tasks = [asyncio.ensure_future(ask) for ask in asks + [ask() for ask in more]]
    await asyncio.sleep(0.5)
    return len(streams) + len(tasks)

def routed():
    return router.acompletion(model="g", messages=hello)

async def answered():
    await client.chat(messages=[dict(role="user", content="quick")])

blocking = SyncLLMClient(config)
blocking.chat(messages=[dict(role="user", content="quick")])  # LiteLLM has a task on the background loop from now on
time.sleep(1)  # whose work is done by then
asyncio.run(answered())
gc.collect()
print(asyncio.run(left(routed)), flush=True)
print(asyncio.run(left(routed)), flush=True)
stream = blocking.stream(messages=hello)
next(iter(stream))
child = os.fork()
if not child:  # without the Router, whose native runtime survives no fork
    print(asyncio.run(left()), client.get_usage().calls > 0, flush=True)
    os._exit(0)
print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.mark.slow
def test_loops_that_end_with_calls_open_end_without_noise():
    """Neither they, nor the next loop, nor a forked child write a word on standard error."""
    with FaultServer(lambda request: Answer() if "quick" in str(request.body) else SLOW) as server:
        config = configuration(server.url, deadline=PATIENT, store={"url": "memory"})
        params = {"model": "openai/gpt-4o", "api_base": server.url, "api_key": "sk-test-0123456789abcdef"}
        script = LOOPS.format(config=config, params=params)
        ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=False)

    told = [
        line for line in ran.stderr.splitlines() if line and "LoggingWorker: event loop changed" not in line
    ]  # theirs
    assert (ran.stdout.split(), told) == (["5", "5", "4", "True", "0"], [])
