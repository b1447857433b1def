"""Bad weather, through every way in: locked, frozen and unusable stores cost no more than the deadline allows.

How much more is the bench's to measure. Here a store would wait for an hour by itself, and what it waits for goes on
until the call is over (`holding`): only the call's deadline can end it.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import redis_server
from click.testing import CliRunner
from driving import KEY, MESSAGES, closing_clients
from holding import count_turns, flocking, free, holding, stopped

import blueprint_llm
from blueprint_llm import LLMClient, Router, SyncLLMClient, UsageFilter, sync
from blueprint_llm.cli import main
from blueprint_llm.config.blocks import StoreConfig
from blueprint_llm.errors import BlueprintError, DeadlineExceededError, StoreError
from blueprint_llm.testing import Answer, FaultServer, ToolUse
from blueprint_llm.usage.stores import open_store, sqlite, writer

pytestmark = [
    pytest.mark.usefixtures("litellm_warm", "collected", "patient_stores"),
    pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:store.degraded:RuntimeWarning"),
    # The drop-in's guard is never closed: its connections to Redis end with the loop that they were made on.
    pytest.mark.filterwarnings("ignore:loop is closed:ResourceWarning"),
]
DEADLINE_S = 1.0
FEW_TURNS = 20  # of a loop that comes round every millisecond: it stood still for most of the deadline
HELLO = Answer("hello from upstream")
ROOT = Path(blueprint_llm.__file__).parents[1]


@pytest.fixture
def patient_stores(monkeypatch):
    """Nobody but the call's own deadline ends its waiting."""
    for module in (writer, sqlite):
        monkeypatch.setattr(module, "WAIT_S", 3600.0)


@pytest.fixture
def server():
    """The provider."""
    with FaultServer(default=HELLO) as running:
        yield running


class Place:
    """A configuration with one provider and one group, both at one server, and a store."""

    def __init__(self, folder, url, store, **block):
        params = {"model": "openai/gpt-4o", "api_base": url, "api_key": KEY}
        self.store = store
        self.block = {
            "providers": {"p0": params},
            "chains": {"default": ["p0"]},
            "deadline": {"total_s": DEADLINE_S},
            "retry": {"max_attempts": 1},
            "store": store,
            **block,
        }
        self.groups = [{"model_name": "g", "litellm_params": params}]
        self.document = {"model_list": self.groups, "router_settings": {"num_retries": 0}, "blueprint": self.block}
        self.path = folder / "b.yaml"
        self.path.write_text(json.dumps(self.document))
        self.params = params

    def usage(self):
        """What the store has booked, and holds."""
        store = open_store(StoreConfig(**self.store))

        async def read():
            try:
                return await store.usage(UsageFilter())
            finally:
                await store.aclose()

        return sync.run(read())

    def until_booked(self, calls):
        """Wait until so many calls are booked, at most ten seconds; their usage."""
        for _ in range(200):
            if (stats := self.usage()).calls == calls:
                return stats
            time.sleep(0.05)
        raise AssertionError(stats)


def sync_chat(place):
    """The blocking client."""
    with SyncLLMClient(place.document) as client:
        return client.chat(messages=MESSAGES).content


def sync_stream(place):
    """Its stream."""
    with SyncLLMClient(place.document) as client:
        return "".join(chunk.delta for chunk in client.stream(messages=MESSAGES))


def async_chat(place):
    """The async client, whose loop must go on."""

    async def ask():
        async with LLMClient(place.document) as client:
            return (await client.chat(messages=MESSAGES)).content

    return on_a_loop(ask)


def async_stream(place):
    """Its stream."""

    async def ask():
        async with LLMClient(place.document) as client:
            return "".join([chunk.delta async for chunk in client.stream(messages=MESSAGES)])

    return on_a_loop(ask)


def group(place):
    """The client on a group: LiteLLM's Router inside."""
    with SyncLLMClient(place.document) as client:
        return client.chat(messages=MESSAGES, model="g").content


def drop_in(place):
    """The module's function, by `$BLUEPRINT_CONFIG`."""
    return blueprint_llm.completion(**place.params, messages=MESSAGES).choices[0].message.content


def drop_in_async(place):
    """The awaited one."""

    async def ask():
        return (await blueprint_llm.acompletion(**place.params, messages=MESSAGES)).choices[0].message.content

    return on_a_loop(ask)


def drop_in_stream(place):
    """A stream of it."""
    stream = blueprint_llm.completion(**place.params, messages=MESSAGES, stream=True)
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def router(place):
    """LiteLLM's Router, guarded."""
    return router_of(place).completion(model="g", messages=MESSAGES).choices[0].message.content


def router_async(place):
    """Awaited."""
    made = router_of(place)

    async def ask():
        return (await made.acompletion(model="g", messages=MESSAGES)).choices[0].message.content

    return on_a_loop(ask)


def router_of(place):
    """A Router of its own."""
    return Router(model_list=place.groups, num_retries=0, blueprint=place.block)


class CommandError(Exception):
    """What the command line said."""


def command_line(place):
    """`blueprint-llm chat`."""
    done = CliRunner().invoke(main, ["chat", "hello", "--config", str(place.path)])
    if done.exit_code:
        raise CommandError(done.stderr)
    return done.stdout.strip()


def on_a_loop(ask):
    """Run on a loop, which must not stand still while a call waits for its deadline."""

    async def watched():
        counting = asyncio.create_task(count_turns())
        try:
            return await closing_clients(ask())
        except DeadlineExceededError:
            counting.cancel()
            assert await counting > FEW_TURNS
            raise
        finally:
            counting.cancel()

    return asyncio.run(watched())


QUICK = (sync_chat, async_stream, drop_in, router_async, command_line)
REST = (sync_stream, async_chat, group, drop_in_async, drop_in_stream, router)
WAYS = pytest.mark.parametrize(
    "ask",
    [*QUICK, *(pytest.param(way, marks=pytest.mark.slow) for way in REST)],
    ids=[way.__name__ for way in (*QUICK, *REST)],
)


# A client that is closed waits for what is owed: the others take their time.
OWED = (drop_in, router_async)
OWING = pytest.mark.parametrize(
    "ask",
    [*OWED, *(pytest.param(way, marks=pytest.mark.slow) for way in (*QUICK, *REST) if way not in OWED)],
    ids=lambda way: way.__name__,
)


@pytest.fixture
def place(tmp_path, server, monkeypatch):
    """A configuration with its ledger in a file, which the drop-in functions find as well."""
    found = Place(tmp_path, server.url, {"url": f"sqlite:{tmp_path / 'ledger.sqlite'}"})
    found.ledger = tmp_path / "ledger.sqlite"
    monkeypatch.setenv("BLUEPRINT_CONFIG", str(found.path))
    return found


NOBODY_IN = ("PRAGMA locking_mode = EXCLUSIVE", "BEGIN EXCLUSIVE")


@pytest.mark.slow
@pytest.mark.parametrize("ask", [sync_chat, async_stream, group, command_line], ids=lambda way: way.__name__)
def test_a_ledger_that_nobody_may_read(place, server, ask):
    """The same where not even reading is possible; whoever closes its client leaves the file free for that."""
    endure(place, server, ask, NOBODY_IN)


@WAYS
def test_a_locked_ledger(place, server, ask):
    """The call ends with its deadline and says who holds the ledger; nothing was sent or taken; then all is well."""
    endure(place, server, ask, ["BEGIN EXCLUSIVE"])


def endure(place, server, ask, statements):
    """Ask before, while and after somebody has done this to the ledger."""
    assert ask(place) == "hello from upstream"

    said = pytest.raises(Exception, match="is locked by")
    with holding(place.ledger, *statements) as holder, said as caught:
        ask(place)

    assert f"process {holder.pid}" in str(caught.value)
    assert f"deadline of {DEADLINE_S:g} s" in str(caught.value)
    assert "move" not in str(caught.value)
    assert len(server.requests) == 1
    assert ask(place) == "hello from upstream"
    assert place.until_booked(2).errors == 0


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_three_at_once(place, server, streamed):
    """Each of three calls on one loop ends with its own deadline; the bench measures the loop meanwhile."""

    async def one(client):
        if streamed:
            return [chunk async for chunk in client.stream(messages=MESSAGES, deadline_s=DEADLINE_S)]
        return await client.chat(messages=MESSAGES, deadline_s=DEADLINE_S)

    async def three():
        async with LLMClient({"blueprint": {**place.block, "deadline": {"total_s": 60}}}) as client:
            await client.chat(messages=MESSAGES)
            with holding(place.ledger, "BEGIN EXCLUSIVE") as holder:
                found = await asyncio.gather(*(one(client) for _ in range(3)), return_exceptions=True)
                free(holder)
            assert (await client.chat(messages=MESSAGES)).content
            return found

    assert sync_chat(place)
    errors = on_a_loop(three)

    assert [type(error) for error in errors] == [DeadlineExceededError] * 3
    assert len(server.requests) == 3
    assert place.until_booked(3).errors == 0


@WAYS
def test_lock_files_that_somebody_holds(place, tmp_path, bare_environment, ask):
    """Whoever holds a `flock` on the ledger, on a lock file beside it or on the state folder's, holds up no call."""
    home = Path(os.environ["BLUEPRINT_HOME"]) / "state"
    home.mkdir(parents=True)
    names = ["ledger.sqlite", "ledger.sqlite.lock", "ledger.lock", "ledger.sqlite-wal"]

    with flocking(*(tmp_path / name for name in names), home / "traces.jsonl", home / "lock"):
        assert ask(place) == "hello from upstream"

    assert place.until_booked(1).calls == 1


@WAYS
def test_a_frozen_redis(tmp_path, server, monkeypatch, ask):
    """The same for a Redis that was stopped: the deadline, its address in the error, nothing taken."""
    with redis_server.running(tmp_path) as url:
        place = Place(tmp_path, server.url, {"url": url})
        monkeypatch.setenv("BLUEPRINT_CONFIG", str(place.path))
        assert ask(place) == "hello from upstream"

        with stopped(pid_of(url)), pytest.raises(Exception, match="does not answer") as caught:
            ask(place)

        assert url.rpartition("/")[0].removeprefix("redis://") in str(caught.value)
        assert f"deadline of {DEADLINE_S:g} s" in str(caught.value)
        assert len(server.requests) == 1
        assert ask(place) == "hello from upstream"
        assert place.until_booked(2).errors == 0


def pid_of(url):
    """The process that listens at a URL, by what the server says of itself."""
    import redis  # noqa: PLC0415 - only here

    with redis.Redis.from_url(url) as client:
        return client.info("server")["process_id"]


@pytest.mark.slow
@OWING
def test_the_lock_is_taken_while_the_upstream_answers(tmp_path, place, monkeypatch, ask):
    """The answer is owed and given; it is booked once the ledger is free, with what it cost."""
    holders = []

    def answer(_):
        held = holding(place.ledger, "BEGIN EXCLUSIVE")
        holders.append((held, held.__enter__()))
        return HELLO

    with FaultServer(answer) as upstream:
        locked = Place(tmp_path, upstream.url, place.store)
        try:
            assert ask(locked) == "hello from upstream"
        finally:
            for held, _ in holders:
                held.__exit__(None, None, None)

    stats = place.until_booked(1)
    assert (stats.errors, stats.prompt_tokens, stats.completion_tokens) == (0, 12, 9)
    assert stats.cost_usd > 0


@pytest.mark.slow
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_a_ledger_that_is_locked_for_eight_seconds(tmp_path, place, streamed):
    """The paid answer is given while the lock is held, and booked when it is gone."""
    holders = []

    def answer(_):
        held = holding(place.ledger, "BEGIN EXCLUSIVE")
        holders.append((held, held.__enter__()))
        return HELLO

    with FaultServer(answer) as upstream, SyncLLMClient(Place(tmp_path, upstream.url, place.store).document) as client:
        begun = time.monotonic()
        ask = (
            (lambda: "".join(chunk.delta for chunk in client.stream(messages=MESSAGES)))
            if streamed
            else (lambda: client.chat(messages=MESSAGES).content)
        )
        assert ask() == "hello from upstream"
        time.sleep(begun + 8 - time.monotonic())
        holders[0][0].__exit__(None, None, None)
        stats = place.until_booked(1)

    assert (stats.errors, stats.prompt_tokens) == (0, 12)


@pytest.mark.parametrize("way", ["chat", "stream", "drop-in", "Router"])
def test_cancelled_while_a_store_waits(place, server, way):
    """Whoever is cancelled goes at once, as cancelled, and leaves nothing taken behind."""

    async def ask(client):
        if way == "stream":
            return [chunk async for chunk in client.stream(messages=MESSAGES)]
        if way == "drop-in":
            return await blueprint_llm.acompletion(**place.params, messages=MESSAGES)
        if way == "Router":
            return await made.acompletion(model="g", messages=MESSAGES)
        return await client.chat(messages=MESSAGES)

    made = router_of(place)

    async def cancelled():
        async with LLMClient({"blueprint": {**place.block, "deadline": {"total_s": 60}}}) as client:
            await client.chat(messages=MESSAGES)
            with holding(place.ledger, "BEGIN EXCLUSIVE") as holder:
                task = asyncio.create_task(ask(client))
                await asyncio.sleep(0.3)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert task.cancelled()
                free(holder)
            await client.chat(messages=MESSAGES)
            return client.explain(messages=MESSAGES)

    on_a_loop(cancelled)

    assert len(server.requests) == 2
    assert place.until_booked(2).errors == 0
    assert reserved(place) == 0


def reserved(place):
    """How many reservations are open."""
    import sqlite3  # noqa: PLC0415 - only here

    with sqlite3.connect(place.ledger) as db:
        return db.execute("SELECT count(*) FROM hold WHERE open").fetchone()[0]


@WAYS
@pytest.mark.parametrize("on_failure", ["error", "memory"])
def test_a_home_below_a_file(tmp_path, server, monkeypatch, ask, on_failure):
    """One error that says the cure, or, as configured, limits in memory and the answer."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("BLUEPRINT_HOME", str(tmp_path / "file" / "home"))
    place = Place(tmp_path, server.url, {"on_failure": on_failure}, cache={"enabled": True})
    monkeypatch.setenv("BLUEPRINT_CONFIG", str(place.path))

    if on_failure == "memory":
        assert ask(place) == "hello from upstream"
        return
    with pytest.raises((StoreError, CommandError), match=r"blueprint\.store\.on_failure: memory") as caught:
        ask(place)

    assert str(tmp_path / "file" / "home") in str(caught.value)
    assert "BLUEPRINT_HOME" in str(caught.value)
    assert server.requests == []


CONTAINED = """
    import json, sys
    from pathlib import Path
    from blueprint_llm import SyncLLMClient
    from blueprint_llm.errors import BlueprintError
    try:
        with SyncLLMClient(json.loads(sys.argv[1]), on_event=lambda event: print(event.name)) as client:
            print(client.chat(messages=[{"role": "user", "content": "hi"}]).content)
    except BlueprintError as error:
        print(type(error).__name__, error)
"""


def contained(code, *arguments, options=(), home):
    """What a process prints whose file system is read-only, but for what `options` mount."""
    assert shutil.which("bwrap"), "these tests need bubblewrap"
    env = {**os.environ, "BLUEPRINT_HOME": str(home), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = ["bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", *options, "--die-with-parent"]
    ran = subprocess.run(
        [*command, sys.executable, "-c", textwrap.dedent(code), *arguments],
        capture_output=True, text=True, timeout=100, cwd="/", env=env, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip().splitlines()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("store", "says"),
    [
        pytest.param({"url": "memory"}, ["hello from upstream"], id="a store in memory"),
        pytest.param({"on_failure": "memory"}, ["store.degraded", "hello from upstream"], id="on_failure: memory"),
        pytest.param({}, ["StoreError"], id="neither"),
    ],
)
def test_a_read_only_container(tmp_path, server, store, says):
    """Where nothing may be written at all, a client that keeps nothing answers; another says so in one StoreError."""
    block = Place(tmp_path, server.url, store, logging={"level": "error"}).block

    said = contained(CONTAINED, json.dumps({"blueprint": {**block, "deadline": {"total_s": 60}}}), home="/nowhere")

    kept = [line for line in said if not line.startswith(("attempt.", "call."))]
    assert [line.split(" ")[0] if "Error" in line else line for line in kept] == says
    assert says != ["StoreError"] or "Read-only file system" in kept[0]
    assert len(server.requests) == (says[-1] != "StoreError")


FULL = """
    import asyncio, json, os, sys
    from pathlib import Path
    from blueprint_llm import LLMClient, Plan, SyncLLMClient
    from blueprint_llm.errors import ApprovalPending, BlueprintError
    from blueprint_llm.planning import save_plan
    from blueprint_llm.tools import ApprovalDecision, ToolEngine
    from blueprint_llm.types import ChatRequest

    def fill():
        handle, n = os.open("/mnt/ballast", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 4096
        while n:
            try:
                os.write(handle, b"x" * n)
            except OSError:
                n //= 2

    config, events = json.loads(sys.argv[1]), []
    if "full from the start" in sys.argv:
        fill()
    later = lambda batch: [ApprovalDecision(decision="later") for _ in batch]
    client = SyncLLMClient(config, on_event=events.append, approver=later)
    hi = [{"role": "user", "content": "hi"}]

    def said(function):
        fill()  # what was given back since
        try:
            return function()
        except BlueprintError as error:
            return f"{type(error).__name__}: {error}".splitlines()[0]

    if "full from the start" not in sys.argv:
        client.chat(messages=hi, session="before")
    print("chat:", said(lambda: client.chat(messages=[{"role": "user", "content": "x" * 9000}]).content))
    print("plan:", said(lambda: save_plan(Plan.model_validate(json.loads(sys.argv[2])))))
    call = {"id": "c1", "name": "list_files", "arguments": {"path": "."}}
    print("audit:", said(lambda: client.execute_tool(call).content))
    print("approval:", said(lambda: client.run(messages=[{"role": "user", "content": "write"}])))
    print("told:", sorted({event.name for event in events if event.name.startswith(("cache", "store"))}))
"""
"""A plan's JSON."""
PLAN = {
    "id": "p",
    "revision": 1,
    "hash": "",
    "overview": "o",
    "steps": [{"id": "S1", "title": "t" * 9000, "acceptance": ["a"]}],
    "estimated_complexity": "low",
}


@pytest.mark.slow
@pytest.mark.parametrize("on_failure", ["error", "memory"])
@pytest.mark.parametrize("when", ["full from the start", "full later"])
def test_a_full_disk(tmp_path, when, on_failure):
    """Ledger, cache, audit, plans and approvals without room to write: sentences with a cure, no raw OSError."""
    write = Answer("", tool_calls=(ToolUse("write_file", {"path": "a.txt", "content": "x"}),))

    def answer(request):
        return write if "write" in str(request.body["messages"][-1]) else HELLO

    with FaultServer(answer) as upstream:
        tools = {"workspace": str(tmp_path), "rules": [{"id": "look", "allow": "list_files"}]}
        place = Place(tmp_path, upstream.url, {"on_failure": on_failure}, cache={"enabled": True}, tools=tools)
        document = {"blueprint": {**place.block, "deadline": {"total_s": 60}}}
        size = ["--size", "2097152", "--tmpfs", "/mnt"]
        said = contained(FULL, json.dumps(document), json.dumps(PLAN), when, options=size, home="/mnt/home")

    found = dict(line.split(": ", 1) for line in said)
    cures = ("free some space", "BLUEPRINT_HOME", "on_failure: memory")
    if found["chat"] != "hello from upstream":  # a ledger may have room left in the file that it has
        assert on_failure == "error"
        assert found["chat"].startswith("StoreError: ")
        assert any(cure in found["chat"] for cure in cures)
    assert when == "full later" or (found["chat"] == "hello from upstream") == (on_failure == "memory")
    assert found["plan"].startswith("StoreError: the plan cannot be written to /mnt/home")
    assert "the audit cannot be written" in found["audit"]
    assert "cannot be written to /mnt/home" in found["approval"] or "StoreError" in found["approval"]
    assert when == "full later" or ("store.degraded" in found["told"]) == (on_failure == "memory")


def test_the_audits_lock_that_a_stopped_process_holds(place, tmp_path, monkeypatch):
    """A tool is not run without a record; that is said, and the loop goes on meanwhile."""
    from blueprint_llm.tools import sealed  # noqa: PLC0415 - only here

    monkeypatch.setattr(sealed, "WAIT_S", 0.3)
    audit = Path(os.environ["BLUEPRINT_HOME"]) / "state" / "tools" / "audit.jsonl.lock"
    audit.parent.mkdir(parents=True, mode=0o700)
    rules = {"workspace": str(tmp_path), "rules": [{"id": "look", "allow": "list_files"}]}

    async def run():
        async with LLMClient({"blueprint": {**place.block, "tools": rules}}) as client:
            return await client.execute_tool({"id": "c1", "name": "list_files", "arguments": {"path": "."}})

    with flocking(audit) as holder, stopped(holder.pid):
        result = on_a_loop(run)

    assert result.status == "error"
    assert "not run: the audit cannot be written" in result.content


@pytest.mark.slow
def test_explain_and_plans_keep_the_deadline_too(place):
    """What only reads waits no longer either: `explain` says so in its decision."""
    with SyncLLMClient(place.document) as client:
        client.chat(messages=MESSAGES)
        client.close()
    limits = {"budgets": [{"scope": "project", "limit_usd": 5}], "project": "acme"}
    block = {**place.block, **limits}
    with holding(place.ledger, *NOBODY_IN) as holder, SyncLLMClient({"blueprint": block}) as client:
        decision = client.explain(messages=MESSAGES)
        with pytest.raises(BlueprintError, match=f"locked by process {holder.pid}"):
            client.planning_mode(goal="anything")

    assert (decision.targets, decision.rule) == ([], "none")
    assert f"is locked by process {holder.pid}" in decision.estimate["error"]
