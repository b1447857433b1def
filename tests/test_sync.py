"""Async code for blocking callers: one loop a process, and nobody who leaves early leaves anything behind."""

import asyncio
import contextvars
import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
import warnings

import pytest

from blueprint_llm import sync

WHERE = contextvars.ContextVar("where", default="nowhere")


async def give(value):
    """A result that needs the loop once."""
    await asyncio.sleep(0)
    return value


class Source:
    """An async generator that knows how far it was read and whether it was closed."""

    def __init__(self, items=10_000, pause_s=0.0):
        self.items, self.pause_s = items, pause_s
        self.read = 0
        self.closed = threading.Event()

    async def __call__(self):
        """Yield numbers; note that it was closed."""
        try:
            for number in range(self.items):
                self.read = number + 1
                yield number
                await asyncio.sleep(self.pause_s)
        finally:
            await asyncio.sleep(0)  # closing awaits, as closing a connection does
            self.closed.set()


def test_a_result_and_an_error_come_back():
    """The caller gets what the coroutine returned or raised."""

    async def fail():
        raise LookupError("no such thing")

    assert sync.run(give(3)) == 3
    with pytest.raises(LookupError, match="no such thing"):
        sync.run(fail())


def test_every_item_comes_in_order_and_then_the_error():
    """A stream's items all come before what ended it."""
    got = []

    async def broken():
        for number in range(100):
            yield number
        raise LookupError("broke")

    with pytest.raises(LookupError, match="broke"):
        got.extend(sync.iterate(broken()))

    assert got == list(range(100))


def test_it_works_inside_a_running_loop():
    """A blocking call inside a coroutine runs on the other loop."""

    async def inside():
        return sync.run(give(1)), list(sync.iterate(Source(items=3)()))

    assert asyncio.run(inside()) == (1, [0, 1, 2])


def test_it_works_on_its_own_loop():
    """A callback on the background loop may block on it: it gets a loop of its own."""

    async def nested():
        return sync.run(give(1)), list(sync.iterate(Source(items=3)()))

    assert sync.run(nested()) == (1, [0, 1, 2])


def test_context_variables_travel():
    """What the caller has set is what the coroutine and the stream see."""

    async def look():
        return WHERE.get()

    async def looks():
        yield WHERE.get()

    token = WHERE.set("here")
    try:
        assert (sync.run(look()), list(sync.iterate(looks()))) == ("here", ["here"])
    finally:
        WHERE.reset(token)


def test_thirty_threads_share_one_loop():
    """Calls from many threads at once all come back, each with its own result."""
    results = {}

    def work(number):
        results[number] = [sync.run(give((number, n))) for n in range(20)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert results == {number: [(number, n) for n in range(20)] for number in range(30)}
    assert [thread.name for thread in threading.enumerate()].count("blueprint-loop") == 1


def test_a_broken_for_closes_the_source_before_the_next_line():
    """Leaving a loop closes the generator and waits until it has settled."""
    source = Source()
    for number in sync.iterate(source()):
        if number == 2:
            break

    assert source.closed.is_set()


def test_no_more_is_read_ahead_than_was_taken():
    """Who takes three items and leaves has not had the whole stream read."""
    source = Source()
    stream = sync.iterate(source())
    for _ in range(3):
        next(stream)
    time.sleep(0.1)  # as much as it would read by itself

    read = source.read
    stream.close()

    assert 3 <= read <= 8


def test_a_slow_consumer_is_waited_for():
    """The source is never further ahead than the bound, and still ends."""
    source, furthest = Source(items=300), 0
    for number in sync.iterate(source()):
        furthest = max(furthest, source.read - number)

    assert furthest <= sync.READ_AHEAD + 2
    assert source.closed.is_set()


def test_a_stream_left_to_the_garbage_collector_is_closed():
    """A stream in a reference cycle is closed when it is collected, on whatever thread that is."""
    source = Source(pause_s=0.001)

    def forget():
        stream = sync.iterate(source())
        next(stream)
        cycle = [stream]
        cycle.append(cycle)

    forget()
    sync.run(collect())

    assert source.closed.wait(5)


async def collect():
    """Collect garbage on the background loop's own thread, which cannot wait for itself."""
    gc.collect()


def run_python(code, *, timeout=30, **keywords):
    """Run code in a process of its own, with this module's helpers at hand."""
    setup = "import asyncio, os, signal, sys, threading, time\nfrom blueprint_llm import sync\n"
    return subprocess.run(
        [sys.executable, "-c", setup + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        **keywords,
    )


SETTLING = """
    async def work():
        try:
            for n in range(10_000):
                yield n
                await asyncio.sleep(0.01)
        finally:
            await asyncio.sleep(0.05)
            print("settled", flush=True)
"""


def test_ctrl_c_settles_and_is_raised():
    """Ctrl-C cancels the task, waits until it has settled, and reaches the caller as KeyboardInterrupt."""
    ran = run_python(
        """
        async def work():
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.05)
                print("settled", flush=True)

        threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        try:
            sync.run(work())
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        """
    )

    assert (ran.stdout.split(), ran.stderr, ran.returncode) == (["settled", "interrupted"], "", 0)


def test_a_stream_open_at_exit_is_settled_and_nothing_is_printed():
    """A program that ends with an open stream ends at once, and the stream has settled."""
    ran = run_python(textwrap.dedent(SETTLING) + "\nstream = sync.iterate(work())\nnext(stream)\n")

    assert (ran.stdout.split(), ran.stderr, ran.returncode) == (["settled"], "", 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_a_loop_of_its_own():
    """After a fork the child starts anew; a stream that it inherited is the parent's."""
    ran = run_python(
        """
        async def give(value):
            return value

        async def numbers():
            for n in range(100):
                yield n
                await asyncio.sleep(0)

        stream = sync.iterate(numbers())
        next(stream)
        child = os.fork()
        if not child:
            print("child", sync.run(give(1)), flush=True)
            stream.close()
            os._exit(0)
        os.waitpid(child, 0)
        print("parent", sync.run(give(2)), sum(stream), flush=True)
        """
    )

    assert (ran.stdout.splitlines(), ran.stderr) == (["child 1", "parent 2 4950"], "")


def test_a_fork_waits_until_the_loop_is_between_two_callbacks():
    """A child never finds a lock held that a callback of its parent's loop had taken."""
    lock, taken = threading.Lock(), threading.Event()

    async def hold_it():
        with lock:
            taken.set()
            time.sleep(0.2)  # noqa: ASYNC251 - as an import does

    thread = threading.Thread(target=sync.run, args=(hold_it(),))
    thread.start()
    taken.wait()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        os._exit(int(lock.locked()))
    _, status = os.waitpid(pid, 0)
    thread.join(10)
    assert os.waitstatus_to_exitcode(status) == 0
