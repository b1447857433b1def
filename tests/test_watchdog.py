"""The watchdog ends a blocking read at its deadline, and touches nothing else."""

import gc
import socket
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from blueprint_llm.engine.watchdog import IDLE_S, TICK_S, Watch, Watchdog

LATE_S = 5.0  # how much later than its deadline a read may end on a machine that has much else to do
SOON_S = 0.1


@pytest.fixture
def dog():
    """A watchdog of its own."""
    return Watchdog()


@pytest.fixture
def pair():
    """Two connected sockets; nothing is ever sent."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def read_until(watch, connection, due):
    """Block on a socket under a watch; when it ended."""
    with pytest.raises(TimeoutError), watch.until(due):
        connection.recv(1)
    return time.monotonic()


def test_blocking_read_ends_at_its_deadline(dog):
    """A read for which nothing comes ends with TimeoutError, never before the deadline and within 0.1 s after it."""
    lateness = []
    for _ in range(5):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            due = time.monotonic() + SOON_S
            lateness.append(read_until(Watch(dog), ours, due) - due)

    assert 0 <= min(lateness) < 0.1


def test_reader_of_a_file_is_found_too(dog, pair):
    """A socket that only a wrapper's `_sock` names is shut as well, which is how httpcore keeps its own."""

    class Wrapper:
        def __init__(self, connection):
            self._sock = connection

        def read(self):
            return self._sock.recv(1)

    wrapper, due = Wrapper(pair[0]), time.monotonic() + SOON_S

    with pytest.raises(TimeoutError), Watch(dog).until(due):
        wrapper.read()

    assert time.monotonic() < due + LATE_S


def test_interruptible_is_preferred_to_a_socket(dog, pair):
    """A reader with an `interrupt` of its own is asked to end, and sockets are left alone."""

    class Reader:
        def __init__(self):
            self.stopped = threading.Event()

        def read(self):
            return self.stopped.wait(5)

        def interrupt(self):
            self.stopped.set()

    reader, due = Reader(), time.monotonic() + SOON_S

    with pytest.raises(TimeoutError), Watch(dog).until(due):
        reader.read()

    pair[0].sendall(b"x")
    assert pair[1].recv(1) == b"x"


def test_body_in_time_is_untouched(dog, pair):
    """What ends before its deadline keeps its result, and its socket works on."""
    watch = Watch(dog)

    with watch.until(time.monotonic() + 5):
        pair[1].sendall(b"x")
        read = pair[0].recv(1)

    assert read == b"x"
    assert not watch.fired
    assert not watch.armed


def test_own_error_of_the_body_stays(dog):
    """An error before the deadline is no timeout."""
    with pytest.raises(KeyError), Watch(dog).until(time.monotonic() + 5):
        raise KeyError("mine")


def test_later_code_is_never_hit(dog, pair):
    """Once a body has ended, even long after its deadline the sockets of its thread are left alone."""
    watch = Watch(dog)
    for _ in range(20):
        with watch.until(time.monotonic() + TICK_S):
            pass
        pair[0].settimeout(2 * TICK_S)
        with pytest.raises(TimeoutError, match="timed out"):
            pair[0].recv(1)

    assert not watch.fired


def test_sockets_of_the_caller_are_left_alone(dog, pair):
    """Only frames inside the watched body are searched: a caller's own socket or database is none of ours."""
    with sqlite3.connect(":memory:", check_same_thread=True) as database:

        def watched():
            with Watch(dog).until(time.monotonic() + SOON_S):
                time.sleep(3 * SOON_S)

        with pytest.raises(TimeoutError):
            watched()

        pair[0].sendall(b"x")
        assert pair[1].recv(1) == b"x"
        assert database.execute("select 1").fetchone() == (1,)
    database.close()


def test_socket_that_comes_after_the_deadline_is_found(dog, pair):
    """A body that had no socket yet when its time was up is interrupted as soon as it waits on one."""
    due = time.monotonic() + SOON_S

    def resolve_then_read(connections):
        time.sleep(3 * SOON_S)
        connection = connections.pop()
        return connection.recv(1)

    with pytest.raises(TimeoutError), Watch(dog).until(due):
        resolve_then_read([pair[0]])

    assert time.monotonic() < due + 2 * SOON_S + LATE_S


def test_object_that_cannot_be_interrupted_does_not_end_the_watch(dog, pair):
    """An object whose `interrupt` raises costs nobody else the deadline."""

    class Awkward:
        def interrupt(self):
            raise RuntimeError("not now")

        def read(self, connection):
            return connection.recv(1)

    due = time.monotonic() + SOON_S

    with pytest.raises(TimeoutError), Watch(dog).until(due):
        Awkward().read(pair[0])

    assert time.monotonic() < due + LATE_S


def test_keyboard_interrupt_stays_what_it_is(dog):
    """Ctrl-C under a watch is not turned into a timeout, and disarms it."""
    watch = Watch(dog)

    with pytest.raises(KeyboardInterrupt), watch.until(time.monotonic() + 5):
        raise KeyboardInterrupt

    assert not watch.armed


def test_many_threads_end_each_at_its_own_deadline(dog):
    """Of forty threads that block, each ends at its own time, under one watchdog thread."""

    def block(number):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            due = time.monotonic() + SOON_S + number / 100
            return read_until(Watch(dog), ours, due) - due

    with ThreadPoolExecutor(40) as pool:
        lateness = list(pool.map(block, range(40)))

    assert min(lateness) >= 0
    assert max(lateness) < LATE_S


def names():
    """The threads that run."""
    return [thread.name for thread in threading.enumerate()]


def wait_for(condition, limit_s=10.0):
    """Whether `condition` came true in time."""
    end = time.monotonic() + limit_s
    while not condition() and time.monotonic() < end:
        time.sleep(TICK_S)
    return condition()


def test_watchdog_rests_and_wakes(dog, pair):
    """Its thread ends when nothing was armed for a second, and a later watch starts it again."""
    watch = Watch(dog)
    with watch.until(time.monotonic() + 5):
        pass
    assert wait_for(lambda: dog._thread is None)

    due = time.monotonic() + SOON_S
    assert read_until(watch, pair[0], due) < due + LATE_S


def test_watches_of_ended_calls_are_forgotten(dog):
    """A process that always has a call in flight does not collect the watches of those that ended."""
    stop = threading.Event()

    def busy():
        with Watch(dog).until(time.monotonic() + 60):
            stop.wait(30)

    thread = threading.Thread(target=busy)
    thread.start()
    for _ in range(1000):
        with Watch(dog).until(time.monotonic() + 60):
            pass

    forgotten = wait_for(lambda: len(dog._watches) == 1, limit_s=5 * IDLE_S)
    stop.set()
    thread.join()
    gc.collect()
    assert forgotten


def test_no_deadline_is_lost_while_watches_are_forgotten(dog):
    """Threads that arm and rest over and over, while idle watches are dropped, all get their deadlines."""
    end = time.monotonic() + 2.5 * IDLE_S

    def work(_):
        ours, theirs = socket.socketpair()
        watch = Watch(dog)
        with ours, theirs:
            while time.monotonic() < end:
                with watch.until(time.monotonic() + 60):
                    pass
                time.sleep(0.001)
            due = time.monotonic() + SOON_S
            ours.settimeout(5)
            return read_until(watch, ours, due) - due

    with ThreadPoolExecutor(8) as pool:
        lateness = list(pool.map(work, range(8)))

    assert max(lateness) < LATE_S
