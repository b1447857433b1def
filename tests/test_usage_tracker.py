import json
import subprocess
import sys

import pytest

from blueprint_llm.config.blocks import Budget
from blueprint_llm.config.model import Config
from blueprint_llm.sync import run
from blueprint_llm.types import UsageFilter, UsageStats, UsageTotals
from blueprint_llm.usage import Ledger, UsageTracker
from blueprint_llm.usage.stores import MemoryStore, SqliteStore
from blueprint_llm.usage.stores.records import AttemptRow, Reservation, Settlement


def row(n, **facts):
    """The n-th attempt."""
    return AttemptRow(id=f"{n}", call_id=f"{n}", provider="cloud", model="m", **facts)


@pytest.fixture
def store():
    """A store in memory."""
    return MemoryStore()


def test_usage_by_itself(store):
    """A tracker needs nothing but a store: record, sum, list, reset."""
    tracker = UsageTracker(store)
    tracker.record(row(1, cost_nano=5))
    tracker.record(row(2, cache_hit=True, saved_nano=7))

    stats = tracker.get_usage(UsageFilter(provider="cloud"))

    assert (stats.calls, stats.cache_hits) == (2, 1)
    assert [item.id for item in tracker.newest(limit=1)] == ["2"]
    assert [day.calls for day in tracker.by_day().values()] == [2]
    tracker.reset_usage()
    assert tracker.get_usage().calls == 0


def test_limits_can_be_seen_and_emptied(store):
    """The standing of every limit that outlives a session, what calls under way hold included; a reset empties it."""
    budgets = [
        Budget(scope="project", limit_usd=10, window="month"),
        Budget(scope="session", limit_usd=1, window="day"),
        Budget(scope="call", limit_usd=1, window="day"),
        Budget(scope="provider:cloud", limit_usd=1, window="session"),
    ]
    ledger, tracker = Ledger(Config(project="acme", budgets=budgets)), UsageTracker(store)
    charges = ledger.lasting()
    run(store.reserve(Reservation("1", (charges[0]._replace(amount=4),), 60, row(1))))
    run(store.settle(Settlement((charges[0]._replace(amount=3),), row(1))))

    assert [(level.charge.subject, level.used) for level in tracker.standing(charges)] == [("project:acme", 3)]
    tracker.reset_limits()
    assert [level.used for level in tracker.standing(charges)] == [0]
    assert tracker.standing(()) == ()
    assert [day.calls for day in tracker.daily("model")["m"].values()] == [1]


async def test_usage_inside_a_running_loop(store):
    """The tracker's methods block, and work inside a running loop and beside its store's coroutines."""
    tracker = UsageTracker(store)
    await store.record(row(1))

    assert tracker.get_usage().calls == 1
    tracker.reset_usage()
    assert (await store.usage(UsageFilter())).calls == 0


@pytest.mark.slow
def test_usage_survives_restarts_and_processes(tmp_path):
    """What another process wrote is there, in the user's own ledger when no store is named."""
    program = """
from blueprint_llm.usage import UsageTracker
from blueprint_llm.usage.stores.records import AttemptRow
import sys
UsageTracker().record(AttemptRow(id=sys.argv[1], call_id=sys.argv[1], provider="p"))
"""
    for name in ("a", "b"):
        subprocess.run([sys.executable, "-c", program, name], check=True)

    tracker = UsageTracker()

    assert tracker.get_usage().calls == 2
    tracker.close()


def test_a_closed_file_opens_again(tmp_path):
    """A store that was closed is usable afterwards, with all it held."""
    store = SqliteStore(tmp_path / "l.sqlite")
    tracker = UsageTracker(store)
    tracker.record(row(1))
    tracker.close()
    tracker.close()

    assert tracker.get_usage().calls == 1
    tracker.close()


@pytest.mark.parametrize(("usd", "unpriced", "shown"), [(0.0, 2, None), (0.5, 2, 0.5), (0.0, 0, 0.0)])
def test_an_unknown_sum_is_null_in_json(usd, unpriced, shown):
    """What no call of a sum is known to have cost is shown as unknown, not as 0; Python's own number stays one."""
    totals = UsageTotals(calls=2, cost_usd=usd, unpriced=unpriced)
    stats = UsageStats(cost_usd=usd, unpriced=unpriced, by_model={"m": totals})

    dumped = json.loads(stats.model_dump_json())
    assert (dumped["cost_usd"], dumped["by_model"]["m"]["cost_usd"]) == (shown, shown)
    assert stats.cost_usd == stats.model_dump()["cost_usd"] == usd
