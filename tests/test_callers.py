"""Where a client is called from: threads, loops, callbacks, forks, the program's end; nothing hangs or is lost."""

import asyncio
import contextvars
import os
import subprocess
import sys
import threading

import pytest
from driving import KEY, MESSAGES, closing_clients, configuration

from blueprint_llm import LLMClient, SyncLLMClient
from blueprint_llm.sync import run
from blueprint_llm.testing import Answer, FaultServer, ScriptedAdapter, numbered_text
from blueprint_llm.types import UsageFilter

# LiteLLM keeps connections of its own to some providers, which nothing closes.
pytestmark = [
    pytest.mark.usefixtures("collected", "litellm_warm"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]
PATIENT = {"total_s": 60, "first_token_s": 30, "idle_s": 20}
BUDGETS = [{"scope": "project", "limit_usd": 10_000}, {"scope": "session", "limit_usd": 10_000}]
BUDGET = {"budgets": BUDGETS, "project": "a"}


def settings(url):
    """One provider under two budgets."""
    return configuration(url, deadline=PATIENT, **BUDGET)


async def open_holds(client):
    """How much is still reserved, in nano-USD."""
    levels = await client._runtime.store.levels(client._runtime.ledger.lasting())
    return sum(level.used - level.spent for level in levels)


def test_the_blocking_client_inside_a_running_loop():
    """Whole answers and streams come, although the thread's own loop stands still meanwhile."""
    with FaultServer(default=Answer("Hello there")) as server, SyncLLMClient(settings(server.url)) as client:

        async def ask():
            whole = client.chat(messages=MESSAGES).content
            return whole, "".join(chunk.delta for chunk in client.stream(messages=MESSAGES))

        assert asyncio.run(ask()) == ("Hello there", "Hello there")


def test_the_blocking_client_inside_its_own_callbacks(tmp_path):
    """A tool, a listener and a hook of the client may call it; context variables reach them."""
    variable = contextvars.ContextVar("variable", default="unset")
    seen, told = [], []
    with FaultServer(default=Answer("Done.")) as server:
        block = settings(server.url)["blueprint"] | {"tools": {"workspace": str(tmp_path), "rules": [{"allow": "*"}]}}
        with SyncLLMClient({"blueprint": block}) as client:

            def listen(chunk):
                if chunk.is_done and not seen:
                    seen.append((variable.get(), client.chat(messages=MESSAGES).content))

            client.on_event = told.append
            variable.set("set")
            result = client.run(messages=MESSAGES, on_chunk=listen)

    assert result.content == "Done."
    assert seen == [("set", "Done.")]


def test_thirty_threads_share_a_blocking_client():
    """Every call of theirs is answered and booked, whole and streamed."""
    answers = []
    with FaultServer(default=Answer("Hello")) as server, SyncLLMClient(settings(server.url)) as client:

        def work():
            answers.append(client.chat(messages=MESSAGES).content)
            answers.append("".join(chunk.delta for chunk in client.stream(messages=MESSAGES)))

        threads = [threading.Thread(target=work) for _ in range(30)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

        assert answers == ["Hello"] * 60
        assert client.get_usage().calls == 60
        assert run(open_holds(client)) == 0


SEEN = "SELECT category FROM attempt"
PROGRAM = f"""
import os, sqlite3, sys
from blueprint_llm import SyncLLMClient
from blueprint_llm import litellm
class Last:
    async def aclose(self):
        with sqlite3.connect(os.path.join(os.environ["BLUEPRINT_HOME"], "state", "ledger.sqlite")) as ledger:
            print("LiteLLM closes its clients after", *ledger.execute(SEEN), flush=True)
MESSAGES, KEY, SEEN = {MESSAGES!r}, {KEY!r}, {SEEN!r}
url, how = sys.argv[1:]
PROVIDER = {{"model": "openai/gpt-4o", "api_base": url, "api_key": KEY}}
client = SyncLLMClient({{"blueprint": {{"providers": {{"p0": PROVIDER}},
    "chains": {{"default": ["p0"]}}, "deadline": {PATIENT!r}, "budgets": {BUDGETS!r}, "project": "a"}}}})
if how == "fork":
    client.chat(messages=MESSAGES)
    child = os.fork()
    print(client.chat(messages=MESSAGES).content, flush=True)
    if child:
        _, status = os.waitpid(child, 0)
        sys.exit(os.waitstatus_to_exitcode(status))
elif how == "stream":
    stream = client.stream(messages=MESSAGES)
    print(next(stream).delta, flush=True)
    litellm.in_memory_llm_clients_cache.set_cache("last", Last())
else:
    stream = litellm.completion(model="openai/gpt-4o", api_base=url, api_key=KEY, messages=MESSAGES, stream=True)
    print(next(stream).choices[0].delta.content, flush=True)
"""


def played(url, how, home):
    """What a program of its own printed, to both ends; it must succeed."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, url, how],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "BLUEPRINT_HOME": str(home)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def rows(home):
    """The attempts in the ledger of a home."""
    from blueprint_llm.usage.stores.sqlite import SqliteStore  # noqa: PLC0415 - here only

    return asyncio.run(SqliteStore(home / "state" / "ledger.sqlite").rows(UsageFilter()))


@pytest.mark.slow
def test_a_fork_after_use(tmp_path):
    """Parent and child go on with the same client; both are answered and booked, and nothing else is said."""
    with FaultServer(default=Answer("Hello")) as server:
        said = played(server.url, "fork", tmp_path)

    assert said == ("Hello\nHello\n", "")
    assert len(rows(tmp_path)) == 3


@pytest.mark.slow
@pytest.mark.parametrize("how", ["stream", "drop-in"])
def test_a_stream_that_is_open_at_the_programs_end(how, tmp_path):
    """The upstream is closed, what was used is booked, and we print nothing (OpenAI's client does, of its own)."""
    with FaultServer(default=Answer(numbered_text(400), pace_s=0.02)) as server:
        printed, complained = played(server.url, how, tmp_path)
        server.wait_until(lambda seen: seen[0].closed_early_at, timeout_s=10)

    assert printed.startswith("word0")
    # A stream would break with LiteLLM's clients, which it closes at the end of a program, too.
    assert how != "stream" or "LiteLLM closes its clients after ('abandoned',)" in printed
    assert complained == "" if how == "stream" else "blueprint" not in complained
    (row,) = rows(tmp_path)
    assert row.category == "abandoned"
    assert row.prompt_tokens > 0


def test_one_client_in_four_loops():
    """A client outlives the loops that it is used on, one after another."""
    with FaultServer(default=Answer("Hello")) as server:
        client = LLMClient(settings(server.url))

        async def ask():
            whole = await client.chat(messages=MESSAGES)
            return whole.content, "".join([chunk.delta async for chunk in client.stream(messages=MESSAGES)])

        found = [asyncio.run(closing_clients(ask())) for _ in range(4)]
        calls = client.get_usage().calls
        asyncio.run(client.aclose())

    assert found == [("Hello", "Hello")] * 4
    assert calls == 8


async def test_a_thousand_calls_at_once():
    """None is lost, in the answers or in the ledger."""
    adapter = ScriptedAdapter(default=Answer("Hello"))
    block = {"providers": {"p0": {"model": "openai/gpt-4o", "api_key": KEY}}, "deadline": PATIENT, **BUDGET}
    async with LLMClient({"blueprint": block}, adapters={"p0": adapter}) as client:
        answers = await asyncio.gather(*(client.chat(messages=MESSAGES) for _ in range(1000)))

        assert [answer.content for answer in answers] == ["Hello"] * 1000
        assert client.get_usage().calls == 1000
        assert await open_holds(client) == 0


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_a_cancellation_anywhere_settles_once(streamed):
    """Cancelled after any number of turns of the loop, a call leaves nothing reserved and at most one row."""
    with FaultServer(default=Answer("Hello there, all of you", pace_s=0.002)) as server:
        client = LLMClient(settings(server.url))

        async def ask():
            if not streamed:
                return await client.chat(messages=MESSAGES)
            return [chunk async for chunk in client.stream(messages=MESSAGES)]

        await ask()
        for turns in range(60):
            before = client._runtime.store
            known = {row.id for row in await before.rows(UsageFilter(), limit=1000)}
            task = asyncio.create_task(ask())
            for _ in range(turns):
                await asyncio.sleep(0 if turns < 40 else 0.001)
            task.cancel()
            await asyncio.wait([task])
            new = [row for row in await before.rows(UsageFilter(), limit=1000) if row.id not in known]

            assert task.cancelled() or task.exception() is None
            assert len(new) <= 1
            assert await open_holds(client) == 0
        await closing_clients(client.aclose())
