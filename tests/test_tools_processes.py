"""Processes end with their caller, and whatever a handler does is a result."""

import asyncio
import contextlib
import contextvars
import dataclasses
import datetime as dt
import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import BaseModel

from blueprint_llm import sync
from blueprint_llm.config.blocks import Tools
from blueprint_llm.errors import ToolError
from blueprint_llm.tools import ToolEngine, commands, run_loop, sandbox
from blueprint_llm.types import ChatRequest, ChatResponse, ToolCall

ROOT = Path(__file__).parents[1]
BACKENDS = [name for name in ("none", "bubblewrap") if name == "none" or sandbox.offered(name)]
PID = os.getpid()  # in the marks, so that no other run of these tests on this machine is taken for this one
FAMILY = "setsid sh -c 'setsid sleep {mark}; touch late' & touch began; sleep {mark}; touch late"


@pytest.fixture
def engine(tmp_path):
    """Make engines over one workspace."""
    made = []
    (tmp_path / "ws").mkdir()

    def make(backend="none", rules=({"allow": "*", "effects": "write"},), **block):
        settings = Tools.model_validate({"rules": list(rules), "sandbox": {"backend": backend}, **block})
        made.append(ToolEngine(workspace=tmp_path / "ws", settings=settings))
        return made[-1]

    yield make
    for one in made:
        one.close()


def command(*argv):
    """A call that runs a command."""
    return {"id": "1", "name": "command", "arguments": {"argv": list(argv)}}


def alive(mark):
    """How many processes have the mark on their command line."""
    found = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += mark.encode() in path.read_bytes()
        except OSError:
            continue
    return found


async def until(holds):
    """Wait for a condition, at most 20 seconds."""
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - another process makes it true
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("how", ["cancelled", "timed out", "closed", "left"])
async def test_the_whole_family_is_dead_before_control_returns(how, backend, engine, tmp_path):
    """However a call loses its caller, every process of it, detached ones too, is gone when the caller goes on."""
    mark = f"62.{BACKENDS.index(backend)}{len(how)}{PID}"
    tools = engine(backend)
    began = tmp_path / "ws/began"
    call = tools.execute(command("sh", "-c", FAMILY.format(mark=mark)))
    if how == "left":
        async with tools:
            task = asyncio.create_task(call)
            await until(began.exists)
    elif how == "timed out":
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(call, 1)
    else:
        task = asyncio.create_task(call)
        await until(began.exists)
        if how == "cancelled":
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            await tools.aclose()

    assert alive(mark) == 0
    assert began.exists()
    assert not (tmp_path / "ws/late").exists()
    if how in {"closed", "left"}:
        result = await task
        assert (result.status, "stopped by its caller" in result.content) == ("error", True)
    events = [record["event"] for record in tools.audit.records()]
    assert events == ["intent", "outcome"]


async def test_a_second_cancellation_does_not_cut_the_first_short(engine, tmp_path):
    """Cancelled again while the family is being killed, the call still returns only when it is dead."""
    tools = engine()
    task = asyncio.create_task(tools.execute(command("sh", "-c", FAMILY.format(mark=f"62.31{PID}"))))
    await until((tmp_path / "ws/began").exists)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task

    assert alive(f"62.31{PID}") == 0


async def test_cancelling_a_run_ends_its_commands(engine, tmp_path):
    """`wait_for` around a run: what its commands would do later never happens."""
    tools = engine()

    async def chat(request):
        calls = [ToolCall(id="1", name="command", arguments={"argv": ["sh", "-c", FAMILY.format(mark=f"62.41{PID}")]})]
        return ChatResponse(content="", tool_calls=calls, provider="p", model="m")

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(run_loop(tools, ChatRequest(messages=[{"role": "user", "content": "go"}]), chat), 1)

    assert alive(f"62.41{PID}") == 0
    assert not (tmp_path / "ws/late").exists()


INTERRUPTED = """
    import sys
    sys.path.insert(0, {root!r})
    from blueprint_llm import sync
    from blueprint_llm.config.blocks import Tools
    from blueprint_llm.tools import ToolEngine
    settings = Tools.model_validate({{"sandbox": {{"backend": "none"}}}})
    engine = ToolEngine([{{"allow": "command", "effects": "write"}}], sys.argv[1], settings=settings)
    call = {{"id": "1", "name": "command", "arguments": {{"argv": ["sh", "-c", sys.argv[2]]}}}}
    try:
        {run}
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        sys.stdin.read()
"""


@pytest.mark.parametrize(
    "run",
    ["sync.run(engine.execute(call))", "import asyncio; asyncio.run(engine.execute(call))"],
    ids=["sync", "async"],
)
def test_ctrl_c_ends_the_family_first(run, tmp_path):
    """When Ctrl-C reaches the program, what it was running is dead already."""
    mark = f"62.5{len(run)}{PID}"
    script = textwrap.dedent(INTERRUPTED).format(root=str(ROOT), run=run)
    words = [sys.executable, "-c", script, str(tmp_path), FAMILY.format(mark=mark)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        sync.run(until((tmp_path / "began").exists))
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        assert alive(f"sleep\0{mark}") == 0
        process.stdin.close()

    assert not (tmp_path / "late").exists()


def test_after_closing_nothing_is_started(engine):
    """A closed engine starts no command."""
    tools = engine()
    sync.run(tools.execute(command("true")))
    tools.close()
    tools.close()

    assert "closed" in sync.run(tools.execute(command("true"))).content


def test_closing_does_not_wait_for_what_is_frozen(engine, tmp_path, monkeypatch):
    """Where the processes that end a command are stopped themselves, closing gives up soon, without an error."""
    monkeypatch.setattr(commands, "_GRACE_S", 0.5)
    tools, mark = engine(), f"63.7{PID}"
    running = threading.Thread(
        target=lambda: sync.run(tools.execute(command("sh", "-c", f"touch began; sleep {mark}")))
    )
    running.start()
    sync.run(until((tmp_path / "ws/began").exists))
    server = tools._spawner._server.pid
    own = subprocess.run(["pgrep", "-P", str(server)], capture_output=True, text=True, check=True).stdout.split()
    frozen = [server, *map(int, own)]
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    try:
        tools.close()
        assert time.monotonic() - began < 10
    finally:
        for pid in frozen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    running.join(20)
    sync.run(until(lambda: alive(f"sleep\0{mark}") == 0))


class Reading(BaseModel):
    """A model."""

    at: dt.date
    value: Decimal


@dataclasses.dataclass
class Point:
    """A dataclass."""

    x: int
    inner: Reading


class Odd:
    """Something that cannot even be shown."""

    def __repr__(self):
        raise SystemExit("repr")


class Liar:
    """Something that raises when it is asked what it is."""

    @property
    def __class__(self):
        raise RuntimeError("class")

    def __repr__(self):
        return "a liar"


class Shouting(str):
    """A string whose methods fail."""

    __slots__ = ()

    def __str__(self):
        raise RuntimeError("str")

    encode = replace = __str__


class Awaitable:
    """Something that fails when it is awaited."""

    def __await__(self):
        raise SystemExit(4)


class Mute(Exception):  # noqa: N818 - a test's
    """An exception that cannot say what it is."""

    def __str__(self):
        raise KeyError("str")


def circle():
    """A list that holds itself."""
    found = []
    found.append(found)
    return found


def deep():
    """A list 5,000 deep."""
    found = []
    for _ in range(5000):
        found = [found]
    return found


@pytest.mark.parametrize(
    ("value", "text"),
    [
        pytest.param(lambda: None, "null", id="nothing"),
        pytest.param(lambda: {"a": [1, 2.5]}, '{"a": [1, 2.5]}', id="JSON"),
        pytest.param(lambda: dt.date(2024, 1, 2), '"2024-01-02"', id="a date"),
        pytest.param(lambda: {(1, 2): "x"}, "{(1, 2): 'x'}", id="tuples as keys"),
        pytest.param(
            lambda: Reading(at=dt.date(2024, 1, 2), value="1.50"),
            '{"at": "2024-01-02", "value": "1.50"}',
            id="a model",
        ),
        pytest.param(
            lambda: Point(1, Reading(at=dt.date(2024, 1, 2), value=1)),
            '{"x": 1, "inner": {"at": "2024-01-02", "value": "1"}}',
            id="a dataclass",
        ),
        pytest.param(lambda: {1, 2}, "[1, 2]", id="a set"),
        pytest.param(lambda: b"ab", "ab", id="bytes"),
        pytest.param(lambda: b"\xff", "xff", id="bytes that are no text"),
        pytest.param(circle, "[[...]]", id="circular"),
        pytest.param(deep, "", id="5,000 deep"),
        pytest.param(lambda: 10**5000, "1000000", id="an integer of 5,000 digits"),
        pytest.param(lambda: {"n": 10**5000}, "", id="such an integer inside"),
        pytest.param(lambda: float("nan"), "NaN", id="not a number"),
        pytest.param(lambda: "\ud800", "ud800", id="half a surrogate pair"),
        pytest.param(lambda: ["\ud800"], "ud800", id="and inside"),
        pytest.param(Odd, "a value of type Odd that cannot be shown", id="nothing shows it"),
        pytest.param(object, "<object object", id="an object"),
        pytest.param(Liar, "a liar", id="a liar about its class"),
        pytest.param(lambda: Shouting("loud"), "loud", id="a string whose methods fail"),
        pytest.param(lambda: (n for n in (1, 2)), "[1, 2]", id="a generator"),
        pytest.param(itertools.count, "count(0)", id="an iterator without an end"),
        pytest.param(lambda: [Point(1, itertools.count())], "count(0)", id="and inside"),
        pytest.param(
            lambda: (n for n in itertools.count()), '9999, "... cut at 10000 values"]', id="a generator without an end"
        ),
        pytest.param(lambda: {"n": float("inf")}, "Infinity", id="infinity inside"),
        pytest.param(lambda: {1: "x", None: "y"}, '"1": "x"', id="keys that are no text"),
        pytest.param(lambda: memoryview(b"ab"), "memory at", id="a view of memory"),
        pytest.param(lambda: lambda: 1, "function", id="a function"),
        pytest.param(lambda: sys, "module 'sys'", id="a module"),
    ],
)
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_whatever_a_handler_returns_is_a_result(kind, value, text, engine):
    """It is told as JSON or as text, and the audit has its outcome."""
    tools = engine()

    def act():
        return value()

    async def act_later():
        return value()

    act.__name__ = act_later.__name__ = "act"
    tools.register_tool({"name": "act"}, act if kind == "sync" else act_later)
    result = sync.run(tools.execute({"id": "1", "name": "act", "arguments": {}}))

    assert (result.status, text in result.content) == ("ok", True), result.content[:200]
    assert json.dumps(result.to_message().to_dict())
    assert [record["event"] for record in tools.audit.records()] == ["intent", "outcome"]


def raising(error):
    """A function that raises."""

    def act():
        raise error

    return act


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        pytest.param(ValueError("bad"), "error", "ValueError: bad", id="an exception"),
        pytest.param(Mute(), "error", "Mute", id="one whose str raises"),
        pytest.param(asyncio.CancelledError(), "error", "CancelledError", id="CancelledError"),
        pytest.param(SystemExit(3), "error", "SystemExit: 3", id="SystemExit"),
        pytest.param(StopIteration(1), "error", "StopIteration", id="StopIteration"),
        pytest.param(TimeoutError(), "timeout", "too long", id="TimeoutError"),
        pytest.param(RecursionError(), "error", "RecursionError", id="RecursionError"),
        pytest.param(
            FileNotFoundError(2, "no such file", "x"), "error", "x: no such file", id="an error of the system"
        ),
        pytest.param(BaseExceptionGroup("g", [SystemExit(1)]), "error", "Group", id="a group"),
        pytest.param(OSError(5, "odd", 7), "error", "odd", id="an error about a number"),
        pytest.param(FileNotFoundError(2, b"bytes", b"\xff"), "error", "bytes", id="an error in bytes"),
        pytest.param(Exception(circle()), "error", "[[...]]", id="one about a circle"),
        pytest.param(Exception("\ud800"), "error", "ud800", id="half a surrogate pair"),
    ],
)
@pytest.mark.parametrize("kind", ["sync", "async", "returns a coroutine"])
def test_whatever_a_handler_raises_is_a_result(kind, error, status, text, engine):
    """Sync, async and in between: the run goes on, and the audit has its outcome."""
    tools = engine()
    if isinstance(error, StopIteration) and kind != "sync":
        status, text = "error", "StopIteration"  # Python itself makes it a RuntimeError that says so

    async def later():
        raise error

    def sooner():
        return later()

    handler = {"sync": raising(error), "async": later, "returns a coroutine": sooner}[kind]
    tools.register_tool({"name": "act"}, handler)

    async def both():
        first = await tools.execute({"id": "1", "name": "act", "arguments": {}})
        return first, await tools.execute({"id": "2", "name": "list_files", "arguments": {"path": "."}})

    result, after = sync.run(both())

    assert (result.status, text in result.content, after.status) == (status, True, "ok"), result.content
    assert [record["event"] for record in tools.audit.records()] == ["intent", "outcome"] * 2


def test_a_generator_that_raises_and_a_value_that_cannot_be_awaited_are_results(engine):
    """What fails only when it is looked at fails as a result too."""
    tools = engine()

    def fails():
        yield 1
        raise KeyError("late")

    tools.register_tool({"name": "fails"}, fails)
    tools.register_tool({"name": "waits"}, Awaitable)
    found = [sync.run(tools.execute({"id": "1", "name": name, "arguments": {}})) for name in ("fails", "waits")]

    assert [(result.status, result.content) for result in found] == [
        ("error", "KeyError: 'late'"),
        ("error", "SystemExit: 4"),
    ]


async def test_a_cancelled_handler_has_its_outcome(engine):
    """A cancellation from outside is raised, and recorded as an outcome that is not known."""
    tools, began = engine(), asyncio.Event()

    async def act() -> str:
        """Wait."""
        began.set()
        await asyncio.sleep(60)
        return "never"

    tools.register_tool(act)
    task = asyncio.create_task(tools.execute({"id": "1", "name": "act", "arguments": {}}))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    records = list(tools.audit.records())
    assert [(record["event"], record.get("status")) for record in records] == [("intent", None), ("outcome", "unknown")]


async def test_a_blocking_handler_blocks_nobody(engine):
    """It runs in a thread with the caller's context, and a cancellation does not wait for it."""
    variable, release = contextvars.ContextVar("variable", default=""), threading.Event()
    tools = engine()

    def block() -> str:
        """Wait."""
        release.wait(30)
        return "late"

    def who() -> str:
        """Say it."""
        return variable.get()

    tools.register_tool(block)
    tools.register_tool(who)
    variable.set("me")
    task = asyncio.create_task(tools.execute({"id": "1", "name": "block", "arguments": {}}))
    result = await tools.execute({"id": "2", "name": "who", "arguments": {}})
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    release.set()

    assert result.content == "me"


def test_one_judge_of_arguments(engine):
    """5.0 is an integer for the engine as it is for the validator of streams; a wrong type is wrong for both."""
    tools = engine()

    def add(left: int, right: list[int]) -> int:
        """Add."""
        return left + sum(right)

    tools.register_tool(add)
    tools.register_tool({"name": "double", "parameters": {"properties": {"n": {"type": "integer"}}}}, lambda n: n * 2)

    def call(name, **arguments):
        return sync.run(tools.execute({"id": "1", "name": name, "arguments": arguments}))

    assert call("add", left=5.0, right=[1, 2.0]).content == "8"
    assert call("add", left=5.5, right=[]).status == "denied"
    assert call("double", n=5.0).content == "10.0"
    assert call("double", n="5").status == "denied"
    assert next(item for item in tools.tools() if item.name == "double").parameters["additionalProperties"] is False


@pytest.mark.parametrize("call", ["command", None, {"id": "1", "function": None}, {"function": "command"}])
def test_a_call_that_is_none_is_an_error_of_the_caller(call, engine):
    """What is no tool call at all is told to the program, not to the model."""
    with pytest.raises(ToolError):
        sync.run(engine().execute(call))


@pytest.mark.slow
def test_kill_9_while_commands_run_leaves_nothing(tmp_path):
    """Twenty times, at moments of its own, the engine's process is killed: its commands are gone soon after."""
    script = textwrap.dedent(INTERRUPTED).format(root=str(ROOT), run="sync.run(engine.execute(call))")
    for number in range(20):
        workspace = tmp_path / str(number)
        workspace.mkdir()
        mark = f"63.{number:02}{PID}"
        process = subprocess.Popen([sys.executable, "-c", script, str(workspace), FAMILY.format(mark=mark)])
        sync.run(until((workspace / "began").exists))
        time.sleep(number / 100)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        sync.run(until(lambda mark=mark: alive(f"sleep\0{mark}") == 0))
        assert not (workspace / "late").exists()
