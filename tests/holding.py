"""Processes that hold what a call needs: a database, a lock file, a server that was stopped.

Each lasts longer than what happens meanwhile: whoever waits for its end is let go after a minute, and fails.
"""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress

LASTS_S = 60.0
HOLDER = """
import select, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
for statement in sys.argv[2:]:
    db.execute(statement).fetchall()
print("held", flush=True)
select.select([sys.stdin], [], [], LASTS_S)
"""
FLOCKER = """
import fcntl, os, select, sys
held = [os.open(name, os.O_RDWR | os.O_CREAT, 0o600) for name in sys.argv[1:]]
for each in held:
    fcntl.flock(each, fcntl.LOCK_EX)
print("held", flush=True)
select.select([sys.stdin], [], [], LASTS_S)
"""


@contextmanager
def holding(path, *statements):
    """A process that has done this to the database and keeps its connection; `free()` ends it."""
    with _running(HOLDER, path, *statements) as holder:
        yield holder


@contextmanager
def flocking(*paths):
    """A process that holds an exclusive `flock` on each of the files, made where they are missing."""
    with _running(FLOCKER, *paths) as holder:
        yield holder


@contextmanager
def _running(program, *arguments):
    command = [sys.executable, "-c", program.replace("LASTS_S", str(LASTS_S)), *map(str, arguments)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        yield holder
        assert holder.stdin.closed or holder.poll() is None, "somebody waited until the trouble was over"
    finally:
        free(holder)


def free(holder):
    """End a process that holds a lock."""
    holder.send_signal(signal.SIGCONT)
    if not holder.stdin.closed:
        holder.stdin.close()
    holder.wait(10)
    holder.stdout.close()


@contextmanager
def stopped(pid):
    """The process is stopped meanwhile, as by Ctrl-Z."""
    os.kill(pid, signal.SIGSTOP)
    over = threading.Timer(LASTS_S, os.kill, (pid, signal.SIGCONT))
    over.start()
    try:
        yield
        assert over.is_alive(), "somebody waited until the trouble was over"
    finally:
        over.cancel()
        os.kill(pid, signal.SIGCONT)


async def count_turns():
    """How often the loop came round until this was cancelled."""
    turns = 0
    with suppress(asyncio.CancelledError):
        while True:
            await asyncio.sleep(0.001)
            turns += 1
    return turns


async def longest_pause_s():
    """For how long the loop stood still at most, until this was cancelled."""
    longest, before = 0.0, time.monotonic()
    with suppress(asyncio.CancelledError):
        while True:
            await asyncio.sleep(0.001)
            now = time.monotonic()
            longest, before = max(longest, now - before), now
    return longest
