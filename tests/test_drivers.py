"""The two drivers: each step to whom it is for, every failure back into the walk, and a farewell for who is left."""

import asyncio
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import pytest
from driving import CALLERS, MESSAGES

from blueprint_llm import LLMClient, SyncLLMClient
from blueprint_llm.engine.drivers import AsyncDriver, Outcome, SyncDriver
from blueprint_llm.engine.on_top import lowered
from blueprint_llm.engine.steps import END, Abandoned, Close, Draw, Emit, Now, Offload, Open, Read, Sleep, Store
from blueprint_llm.planning.steps import Chat
from blueprint_llm.testing import Answer, ScriptedAdapter, Stall, numbered_text

NEVER = float("inf")


@dataclass
class World:
    """A store, an adapter and a handle in one, for either driver; it notes what it was asked."""

    asked: list[Any] = field(default_factory=list)
    slow_s: float = 0.0
    broken: bool = False

    def execute(self, op):
        """Run an operation of the store."""
        self.asked.append(("store", op))
        if self.broken:
            raise OSError("no store")
        return f"did {op}"

    async def aexecute(self, op):
        """Run an operation of the store."""
        await asyncio.sleep(self.slow_s)
        return self.execute(op)

    def complete(self, call):
        """A whole answer."""
        return f"answer to {call}"

    def open(self, call):
        """A stream."""
        self.asked.append(("open", call))
        return self

    def read(self):
        """A chunk."""
        return "chunk"

    def close(self):
        """Close the stream."""
        self.asked.append("close")
        if self.broken:
            raise OSError("no connection")

    async def acomplete(self, call):
        """A whole answer."""
        return self.complete(call)

    async def aopen(self, call):
        """A stream."""
        return self.open(call)

    async def aread(self):
        """A chunk."""
        return self.read()

    async def aclose(self):
        """Close the stream."""
        await asyncio.sleep(self.slow_s)
        self.close()


class Sync:
    """Runs walks on the sync driver."""

    def __init__(self, world):
        self.driver = SyncDriver(world, clock=lambda: 7.0, sleep=world.asked.append, draw=lambda: 0.25)

    def run(self, walk):
        """Its result."""
        return self.driver.run(walk)

    def emitted(self, walk, most=None):
        """What it emits, up to so many; then the caller leaves."""
        outcome, chunks = Outcome(), []
        iterator = self.driver.iterate(walk, outcome)
        for chunk in iterator:
            chunks.append(chunk)
            if len(chunks) == most:
                break
        iterator.close()
        return chunks, outcome.value


class Async:
    """Runs walks on the async driver."""

    def __init__(self, world):
        async def sleep(seconds):
            world.asked.append(seconds)

        self.driver = AsyncDriver(world, clock=lambda: 7.0, sleep=sleep, draw=lambda: 0.25)

    def run(self, walk):
        """Its result."""
        return asyncio.run(self.driver.run(walk))

    def emitted(self, walk, most=None):
        """What it emits, up to so many; then the caller leaves."""

        async def listen():
            outcome, chunks = Outcome(), []
            iterator = self.driver.iterate(walk, outcome)
            async for chunk in iterator:
                chunks.append(chunk)
                if len(chunks) == most:
                    break
            await iterator.aclose()
            return chunks, outcome.value

        return asyncio.run(listen())


@pytest.fixture
def world():
    """What the steps act on."""
    return World()


@pytest.fixture(params=[pytest.param(Sync, id="sync"), pytest.param(Async, id="async")])
def driver(request, world):
    """Either driver."""
    return request.param(world)


def test_each_step_gets_its_result(driver, world):
    """Every kind of step is done by whom it is for, and its result is sent into the walk."""

    def walk():
        handle = yield Open(adapter=world, call="c", stream=True, until=NEVER)
        return [
            handle is world,
            (yield Open(adapter=world, call="c", stream=False, until=NEVER)),
            (yield Read(handle=world, until=NEVER)),
            (yield Now()),
            (yield Draw()),
            (yield Store(op="op")),
            (yield Offload(function=lambda: "slow")),
            (yield Sleep(seconds=3)),
            (yield Emit(chunk="x")),
            (yield Close(handle=world)),
        ]

    assert driver.run(walk()) == [True, "answer to c", "chunk", 7.0, 0.25, "did op", "slow", None, None, None]
    assert world.asked == [("open", "c"), ("store", "op"), 3, "close"]


def test_emitted_chunks_come_out_and_the_result_is_kept(driver):
    """What a walk emits is yielded in order; what it returns lands in the outcome."""

    def walk():
        for n in range(3):
            yield Emit(chunk=n)
        return "result"

    assert driver.emitted(walk()) == ([0, 1, 2], "result")


async def test_steps_handed_out_are_done_by_who_iterates(world):
    """Whoever asks for kinds of steps does them: what it sends is their result, and an exception is thrown."""

    def walk():
        handle = yield Open(adapter=world, call="c", stream=True, until=NEVER)
        stored = yield Store(op="op")
        try:
            yield Read(handle=handle, until=NEVER)
        except OSError as error:
            return [handle, stored, str(error)]

    outcome = Outcome()
    steps = AsyncDriver(world).iterate(walk(), outcome, (Open, Read))

    assert (await anext(steps)).call == "c"
    assert (await steps.asend("a handle")).handle == "a handle"
    with pytest.raises(StopAsyncIteration):
        await steps.asend(OSError("gone"))
    assert outcome.value == ["a handle", "did op", "gone"]
    assert world.asked == [("store", "op")]


def test_error_of_a_step_is_thrown_into_the_walk(driver, world):
    """A walk may recover from what a step raises, and goes on."""
    world.broken = True

    def walk():
        try:
            yield Store(op="op")
        except OSError as error:
            return f"recovered from {error}, at {(yield Now())}"

    assert driver.run(walk()) == "recovered from no store, at 7.0"


def test_error_of_the_walk_leaves_the_driver(driver, world):
    """What the walk does not catch, or raises itself, is the caller's."""
    world.broken = True

    def walk():
        yield Store(op="op")

    with pytest.raises(OSError, match="no store"):
        driver.run(walk())


def farewell_of(world, *, emits=()):
    """A walk that emits for ever and says farewell when it is abandoned."""
    try:
        while True:
            yield Emit(chunk="x")
    except Abandoned:
        for chunk in emits:
            yield Emit(chunk=chunk)
        yield Close(handle=world)
        yield Store(op="settle")
        raise


@pytest.mark.parametrize("broken", [pytest.param(True, id="steps fail"), pytest.param(False, id="steps work")])
def test_abandoned_walk_says_farewell(driver, world, broken):
    """A walk whose caller leaves is told, closes and settles; nobody hears what it still emits or what fails."""
    world.broken = broken

    chunks, result = driver.emitted(farewell_of(world, emits=["unheard"]), most=2)

    assert (chunks, result) == (["x", "x"], None)
    assert world.asked == ["close", ("store", "settle")]


def test_abandoned_walk_may_ask_anything(driver, world):
    """In its farewell a walk still gets the clock and a draw."""

    def walk():
        try:
            yield Emit(chunk="x")
        except Abandoned:
            yield Store(op=((yield Now()), (yield Draw())))

    driver.emitted(walk(), most=1)

    assert world.asked == [("store", (7.0, 0.25))]


def test_walk_that_hides_its_abandonment_is_ended(driver, world):
    """A walk that turns its abandonment into an error or a result disturbs nobody."""

    def walk():
        try:
            yield Emit(chunk="x")
        except Abandoned:
            raise ValueError("mine") from None

    assert driver.emitted(walk(), most=1) == (["x"], None)


def test_ended_walk_is_not_abandoned(driver, world):
    """A caller that leaves after the end disturbs nothing."""

    def walk():
        yield Emit(chunk="x")

    assert driver.emitted(walk()) == (["x"], None)
    assert world.asked == []


def test_interrupted_step_abandons_the_walk(world):
    """Ctrl-C in a blocking step still lets the walk close and settle, and reaches the caller."""

    def interrupted():
        raise KeyboardInterrupt

    def walk():
        try:
            yield Offload(function=interrupted)
        except Abandoned:
            yield Store(op="settle")
            raise

    with pytest.raises(KeyboardInterrupt):
        Sync(world).run(walk())

    assert world.asked == [("store", "settle")]


async def leave(walk, world, *, cancellations):
    """Cancel a task that runs `walk`, so many times in a row."""
    task = asyncio.create_task(AsyncDriver(world).run(walk))
    await asyncio.sleep(0.01)
    for _ in range(cancellations):
        task.cancel()
        await asyncio.sleep(0.01)
    with pytest.raises(asyncio.CancelledError):
        await task


def settling(world):
    """A walk that waits, and settles when it is abandoned."""
    try:
        yield Sleep(seconds=60)
    except Abandoned:
        yield Close(handle=world)
        yield Store(op="settle")
        raise


async def test_cancelled_task_has_settled_when_it_ends(world):
    """One cancellation waits for the farewell, however slow it is."""
    world.slow_s = 0.05

    await leave(settling(world), world, cancellations=1)

    assert world.asked == ["close", ("store", "settle")]


async def test_second_cancellation_does_not_cut_settling_short(world):
    """Whoever cancels again gets away at once; the farewell goes on behind."""
    world.slow_s = 0.05

    await leave(settling(world), world, cancellations=3)
    for _ in range(100):
        await asyncio.sleep(0.01)
        if len(world.asked) == 2:
            break

    assert world.asked == ["close", ("store", "settle")]


def test_loop_that_ends_lets_the_walk_settle(world):
    """A loop that ends right after a second cancellation cuts a slow close short, but not the settling behind it."""

    class Prompt(World):
        async def aexecute(self, op):
            return self.execute(op)

    world = Prompt(slow_s=5)

    asyncio.run(leave(settling(world), world, cancellations=2))

    assert world.asked == [("store", "settle")]


@pytest.mark.parametrize("kind", [pytest.param("open", id="open"), pytest.param("read", id="read")])
async def test_async_wait_ends_at_its_deadline(world, kind):
    """A send or a read that is late is thrown into the walk as TimeoutError."""

    class Silent(World):
        async def acomplete(self, call):
            await asyncio.sleep(60)

        async def aread(self):
            await asyncio.sleep(60)

    world = Silent()
    due = time.monotonic() + 0.05

    def walk():
        late = Read(handle=world, until=due)
        late = Open(adapter=world, call="c", stream=False, until=due) if kind == "open" else late
        try:
            yield late
        except TimeoutError:
            return "late"

    assert await AsyncDriver(world).run(walk()) == "late"


def test_offload_leaves_the_event_loop_free(world):
    """The async driver runs slow functions in a thread of their own."""

    def walk():
        return (yield Offload(function=threading.current_thread))

    assert asyncio.run(AsyncDriver(world).run(walk())) is not threading.main_thread()
    assert SyncDriver(world).run(walk()) is threading.current_thread()


def test_chats_of_a_walk_on_top_are_answered(driver, world):
    """A walk on top gets the answer of the chat it asks for, through the same driver."""

    def chat(request):
        now = yield Now()
        return f"{request} at {now}"

    def on_top():
        return (yield Chat(request="hello")), (yield Store(op="own"))

    assert driver.run(lowered(on_top(), chat, None)) == ("hello at 7.0", "did own")


def test_failed_chat_is_thrown_into_the_walk_on_top(driver):
    """A walk on top may go on after a chat that failed."""

    def chat(request):
        yield Now()
        raise LookupError(request)

    def on_top():
        try:
            yield Chat(request="hello")
        except LookupError as error:
            return f"failed: {error}"

    assert driver.run(lowered(on_top(), chat, None)) == "failed: hello"


def test_abandoned_chat_settles_and_so_does_the_walk_on_top(world):
    """Ctrl-C in a chat reaches first the chat, then the walk that asked for it; both say farewell."""

    def interrupted():
        raise KeyboardInterrupt

    def chat(_):
        try:
            yield Offload(function=interrupted)
        except Abandoned:
            yield Store(op="chat")
            raise

    def on_top():
        try:
            yield Chat(request="hello")
        except Abandoned:
            yield Store(op="on top")
            raise

    with pytest.raises(KeyboardInterrupt):
        Sync(world).run(lowered(on_top(), chat, None))

    assert world.asked == [("store", "chat"), ("store", "on top")]


CONFIG = {"blueprint": {"providers": {"p": {"model": "openai/gpt-4o", "api_key": "k"}}}}


def client_with(kind, adapter):
    """A client whose one provider is `adapter`."""
    return kind(CONFIG, adapters={"p": adapter})


def test_ctrl_c_in_our_own_code_closes_and_settles():
    """Ctrl-C between two steps, while a chunk is looked at, still closes the stream and records its usage."""

    class Interrupting(dict):
        def get(self, *_):
            raise KeyboardInterrupt

    class Adapter(ScriptedAdapter):
        def open(self, call):
            stream = super().open(call)
            chunks = iter([stream.read(), Interrupting(choices=[])])
            stream.read = lambda: next(chunks, END)
            return stream

    adapter = Adapter(default=Answer("Hello there."))
    with client_with(SyncLLMClient, adapter) as client:
        with pytest.raises(KeyboardInterrupt):
            list(client.stream(messages=MESSAGES))

        stats = client.get_usage()

    assert adapter.streams[0].closed
    assert stats.calls == 1
    assert stats.completion_tokens > 0


@pytest.mark.parametrize("chunks", [1, 3])
def test_stream_goes_on_where_next_left_off(chunks):
    """Chunks taken with `next` and then a loop are one stream and one request; a second loop gets nothing."""
    adapter = ScriptedAdapter(default=Answer("One two three four."))
    with client_with(SyncLLMClient, adapter) as client, client.stream(messages=MESSAGES) as stream:
        text = "".join(next(stream).delta for _ in range(chunks)) + "".join(chunk.delta for chunk in stream)
        again = list(stream)

    assert text == stream.response.content == "One two three four."
    assert again == []
    assert len(adapter.calls) == 1


@pytest.mark.parametrize("chunks", [1, 3])
async def test_async_stream_goes_on_where_anext_left_off(chunks):
    """The same for `anext` and `async for`."""
    adapter = ScriptedAdapter(default=Answer("One two three four."))
    async with client_with(LLMClient, adapter) as client, client.stream(messages=MESSAGES) as stream:
        text = "".join([(await anext(stream)).delta for _ in range(chunks)])
        text += "".join([chunk.delta async for chunk in stream])
        again = [chunk async for chunk in stream]

    assert text == stream.response.content == "One two three four."
    assert again == []
    assert len(adapter.calls) == 1


def test_second_loop_sends_no_second_request():
    """A stream that was read to its end, or left, is over."""
    adapter = ScriptedAdapter(default=Answer("One two three four."))
    with client_with(SyncLLMClient, adapter) as client:
        stream = client.stream(messages=MESSAGES)
        first = list(stream)
        second = list(stream)

    assert first
    assert second == []
    assert stream.response.content == "One two three four."
    assert len(adapter.calls) == 1


def test_closing_a_stream_that_was_read_with_next():
    """`close`, or the end of the `with` block, closes the upstream and records the usage."""
    adapter = ScriptedAdapter(default=Answer(numbered_text(50)))
    with client_with(SyncLLMClient, adapter) as client:
        with client.stream(messages=MESSAGES) as stream:
            next(stream)
        never = client.stream(messages=MESSAGES)
        never.close()

        assert client.get_usage().calls == 1

    assert adapter.streams[0].closed
    assert stream.response is None


async def test_closing_an_async_stream_that_was_read_with_anext():
    """`aclose`, or the end of the `async with` block, closes the upstream and records the usage."""
    adapter = ScriptedAdapter(default=Answer(numbered_text(50)))
    async with client_with(LLMClient, adapter) as client:
        async with client.stream(messages=MESSAGES) as stream:
            await anext(stream)
        await client.stream(messages=MESSAGES).aclose()

        assert client.get_usage().calls == 1

    assert adapter.streams[0].closed
    assert stream.response is None


@pytest.mark.parametrize("caller", CALLERS, ids=lambda caller: caller.name)
def test_deadline_of_a_scripted_stall_holds(caller):
    """A reader that is no socket is interrupted at the deadline as well."""
    adapter = ScriptedAdapter(default=Stall(0))
    kind = SyncLLMClient if caller.name == "sync" else LLMClient
    client = client_with(kind, adapter)
    started = time.monotonic()

    async def ask():
        return [chunk async for chunk in client.stream(messages=MESSAGES, deadline_s=0.3)]

    with pytest.raises(Exception, match="deadline of"):
        list(client.stream(messages=MESSAGES, deadline_s=0.3)) if kind is SyncLLMClient else asyncio.run(ask())

    assert time.monotonic() - started < 2
    assert adapter.streams[0].closed
