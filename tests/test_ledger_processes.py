"""Many processes at one ledger: no call too many, and nothing lost when a process is killed at any moment."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
import redis_server

from blueprint_llm.sync import run
from blueprint_llm.types import UsageFilter
from blueprint_llm.usage.stores import SqliteStore
from blueprint_llm.usage.stores.records import Charge
from blueprint_llm.usage.stores.redis_store import RedisStore

CALLS = 50
COST = 1_000_000
ROUNDS, VICTIMS = 75, 4  # 300 kills
LIMIT = 40_000
ESTIMATE, TRUE = 10, 7
TTL_S = 0.5

OPEN = """
import os, sys
from blueprint_llm.sync import run
from blueprint_llm.usage.stores import SqliteStore
from blueprint_llm.usage.stores.records import AttemptRow, Charge, Reservation, Settlement
def opened(where):
    if where.startswith("redis"):
        from blueprint_llm.usage.stores.redis_store import RedisStore
        return RedisStore(where)
    return SqliteStore(where)
def charge(amount, limit, kind):
    return Charge(scope="global", subject="global", kind=kind, window="ever", amount=amount, limit=limit)
where, kind, calls, amount, true, limit = *sys.argv[1:3], *map(int, sys.argv[3:7])
"""
# Four processes, forked where nothing is open yet, that wait for one another and then call as fast as they can.
RUSH = f"""{OPEN}
def racer():
    store, sent = opened(where), 0
    run(store.levels((charge(0, 1, kind),)))
    os.write(ready[1], b"r")
    os.read(go[0], 1)
    for n in range(calls):
        row = AttemptRow(id=f"{{os.getpid()}}-{{n}}", call_id=f"{{os.getpid()}}-{{n}}", cost_nano=amount)
        done = run(store.reserve(Reservation(row.id, (charge(amount, limit, kind),), 60, row)))
        if done.ok:
            sent += 1
            run(store.settle(Settlement((charge(true, limit, kind),), row)))
        else:
            level = done.denied
            assert (level.charge.scope, level.charge.limit, level.resets_at) == ("global", limit, None), level
            assert level.used + amount > limit, level
    os.write(1, b"s" * sent)
    os._exit(0)
ready, go = os.pipe(), os.pipe()
pids = [os.fork() or racer() for _ in range(4)]
for _ in pids:
    os.read(ready[0], 1)
os.write(go[1], b"gggg")
sys.exit(sum(os.waitpid(pid, 0)[1] for pid in pids))
"""
# A parent that forks a victim for every line it reads, and names its pid. A victim reserves, writes a byte (sent: from
# here on the provider bills) and settles, until it is killed.
FORKER = f"""{OPEN}
parent = opened(where)
run(parent.levels((charge(0, 1, kind),)))
def victim(child):
    store = opened(where) if where.startswith("redis") else parent  # a file's store notices the fork by itself
    for n in range(10**6):
        name = f"{{os.getpid()}}-{{child}}-{{n}}"
        row = AttemptRow(id=name, call_id=name, cost_nano=amount, category="expired")
        if run(store.reserve(Reservation(name, (charge(amount, limit, kind),), {TTL_S}, row))).ok:
            os.write(1, b"s")
            done = row._replace(cost_nano=true, category=None)
            run(store.settle(Settlement((charge(true, limit, kind),), done)))
for child in range(10**6):
    if not sys.stdin.readline():
        break
    pid = os.fork()
    if pid == 0:
        victim(child)
    print(pid, file=sys.stderr, flush=True)
    os.waitpid(pid, 0)
"""


@pytest.fixture(params=["sqlite", "redis"])
def where(request, tmp_path):
    """A store's place that several processes can open."""
    if request.param == "sqlite":
        yield str(tmp_path / "ledger.sqlite")
        return
    with redis_server.running(tmp_path) as url:
        yield url


@pytest.fixture
def store(where):
    """The test's own view of it."""
    store = RedisStore(where) if where.startswith("redis") else SqliteStore(where)
    yield store
    run(store.aclose())


@contextmanager
def children(program, count, *arguments, **pipes):
    """Processes that run `program`; they end with their input."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    started = [subprocess.Popen(command, stdin=subprocess.PIPE, text=True, **pipes) for _ in range(count)]
    try:
        yield started
    finally:
        for child in started:
            child.stdin.close()
        for child in started:
            assert child.wait(timeout=30) == 0
            for pipe in (child.stdout, child.stderr):
                if pipe is not None:
                    pipe.close()


def total(kind="usd"):
    """The counter that all children share."""
    return Charge(scope="global", subject="global", kind=kind, window="ever", amount=0, limit=0)


def rush(where, *, kind, amount, true, limit):
    """How many of 200 calls from 4 processes at once were let through."""
    command = [sys.executable, "-c", RUSH, where, kind, *map(str, (CALLS, amount, true, limit))]
    return len(subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=60).stdout)


@pytest.mark.parametrize(
    ("kind", "amount"), [pytest.param("requests", 1, id="quota"), pytest.param("usd", COST, id="budget")]
)
def test_limit_of_fifty_lets_fifty_of_two_hundred_through(where, store, kind, amount):
    """Four processes with 50 calls each get exactly 50 through a limit of 50; each refusal names the limit."""
    assert rush(where, kind=kind, amount=amount, true=amount, limit=50 * amount) == 50

    (level,) = run(store.levels((total(kind),)))
    assert (level.used, level.spent) == (50 * amount, 50 * amount)


def test_freed_money_is_usable_and_never_overspent(where, store):
    """Calls that cost half of their worst case let more calls through, up to the limit and not beyond."""
    sent = rush(where, kind="usd", amount=COST, true=COST // 2, limit=50 * COST)

    (level,) = run(store.levels((total(),)))
    assert level.used == level.spent == sent * COST // 2
    assert 50 * COST - COST < level.used <= 50 * COST


@pytest.mark.slow
def test_killed_processes_leave_no_hole(where, store, tmp_path):
    """300 kills at random moments: never over the limit, never below the true spend, leaks gone after the TTL + 1 s."""
    chance = random.Random(5)  # noqa: S311 - a seed, so that a failure can be repeated
    sent = tmp_path / "sent"
    with (
        sent.open("ab") as log,
        children(
            FORKER, VICTIMS, where, "usd", 0, ESTIMATE, TRUE, LIMIT, stdout=log, stderr=subprocess.PIPE
        ) as forkers,
    ):
        for _ in range(ROUNDS):
            for forker in forkers:
                forker.stdin.write("\n")
                forker.stdin.flush()
            victims = [int(forker.stderr.readline()) for forker in forkers]
            for victim in victims:
                time.sleep(chance.uniform(0, 0.004))
                _check_bounds(store, sent)
                os.kill(victim, signal.SIGKILL)

    time.sleep(TTL_S + 1)
    stats = run(store.usage(UsageFilter()))
    used, spent = _check_bounds(store, sent)
    assert used == spent
    assert round(stats.cost_usd * 1e9) == spent
    assert stats.errors > 0  # some victims died between reserving and settling


def _check_bounds(store, sent):
    billed = sent.stat().st_size * TRUE  # read first: what is sent later may only raise the counter
    (level,) = run(store.levels((total(),)))
    assert billed <= level.used <= LIMIT
    return level.used, level.spent
