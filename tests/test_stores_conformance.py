import asyncio
from datetime import UTC, datetime

import pytest
import redis_server

from blueprint_llm.types import UsageFilter
from blueprint_llm.usage.stores import MemoryStore, SqliteStore
from blueprint_llm.usage.stores.ops import (
    Aggregate,
    AttemptRow,
    Batch,
    BreakerProbe,
    BreakerReport,
    BreakerStates,
    ByDay,
    Charge,
    Daily,
    Heartbeat,
    NewEpoch,
    Release,
    Reserve,
    ResetLimits,
    Rows,
    Settle,
    Standing,
    WriteRow,
)
from blueprint_llm.usage.stores.redis_store import RedisStore

JAN_31 = datetime(2028, 1, 31, 23, 59, 50, tzinfo=UTC).timestamp()
ALL = UsageFilter()


class Clock:
    def __init__(self, now):
        self.now = now

    def __call__(self):
        """Unix seconds, as the test set them."""
        return self.now


@pytest.fixture
def clock():
    """Ten seconds before a month, a day, an hour and a minute end."""
    return Clock(JAN_31)


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory):
    """A server of our own."""
    with redis_server.running(tmp_path_factory.mktemp("redis")) as url:
        yield url


def charge(amount=10, limit=100, **changes):
    """A charge on a project's month, or something like it."""
    facts = {"scope": "project", "subject": "project:acme", "kind": "usd", "window": "month"}
    return Charge(**{**facts, "amount": amount, "limit": limit, **changes})


def row(id_, **changes):
    """A usage row."""
    facts = {"call_id": id_, "provider": "cloud", "model": "openai/gpt-4o", "session": "s", "project": "acme"}
    return AttemptRow(id=id_, **{**facts, "cost_nano": 10, **changes})


def reserve(id_, *charges, ttl_s=30, **changes):
    """A reservation whose row says what an expiry means."""
    expired = {"category": "expired", "maybe_billed": True, "usage_source": "estimated"}
    return Reserve(id=id_, charges=charges, ttl_s=ttl_s, row=row(id_, **{**expired, **changes}))


def settle(id_, *charges, **changes):
    """The end of an answered attempt."""
    return Settle(charges=charges, row=row(id_, **changes))


def used(store, *charges):
    """(Spent and reserved, spent) of each charge's counter."""
    return [(level.used, level.spent) for level in store.execute(Standing(charges=charges))]


class Conformance:
    """What every store must do; a backend's class gives a `store` whose clock the test turns."""

    def test_reserved_and_settled_amounts_are_counted(self, store):
        """A reservation counts at its estimate until it is settled at the true amount."""
        assert store.execute(reserve("a", charge(40))).ok
        assert used(store, charge()) == [(40, 0)]

        assert store.execute(settle("a", charge(15))).was == "open"

        assert used(store, charge()) == [(15, 15)]

    def test_limit_is_reached_but_never_passed(self, store):
        """A call that fits exactly goes; one nano more is refused and counts nothing anywhere."""
        other = charge(1, subject="global", kind="requests", window="60s")
        assert store.execute(reserve("a", charge(60))).ok
        assert store.execute(reserve("b", charge(40), other)).ok

        refused = store.execute(reserve("c", charge(1), other))

        level = refused.denied
        assert (refused.ok, level.charge, level.used, level.spent) == (False, charge(1), 100, 0)
        assert level.resets_at == datetime(2028, 2, 1, tzinfo=UTC).timestamp()
        assert used(store, charge(), other) == [(100, 0), (1, 0)]

    def test_free_call_passes_a_full_limit(self, store):
        """A call that takes nothing is not refused by a limit that is used up."""
        store.execute(reserve("a", charge(100)))

        assert store.execute(reserve("b", charge(0))).ok

    def test_zero_limit_refuses_everything_that_costs(self, store):
        """A limit of 0 lets nothing through but free calls."""
        assert not store.execute(reserve("a", charge(1, limit=0))).ok
        assert store.execute(reserve("b", charge(0, limit=0))).ok

    def test_warn_goes_on_and_is_reported(self, store):
        """A limit with on_exceed warn is passed, counted and reported as exceeded."""
        done = store.execute(reserve("a", charge(150, on_exceed="warn")))

        assert done.ok
        assert [level.charge.amount for level in done.exceeded] == [150]
        assert used(store, charge()) == [(150, 0)]

    def test_degrade_is_reported_with_its_chain(self, store):
        """A degrading limit refuses, and its charge carries the chain to take instead."""
        refused = store.execute(reserve("a", charge(150, on_exceed="degrade", chain=("local",))))

        assert refused.denied.charge.chain == ("local",)

    def test_block_outranks_degrade(self, store):
        """Where one limit blocks and one degrades, the block is what the caller is told."""
        soft = charge(150, on_exceed="degrade", subject="provider:cloud")

        refused = store.execute(reserve("a", soft, charge(150)))

        assert refused.denied.charge.on_exceed == "block"

    def test_two_limits_on_one_counter_take_once(self, store):
        """A soft and a hard limit of the same scope and window count a call once."""
        store.execute(reserve("a", charge(10, limit=50, on_exceed="warn"), charge(10, limit=100)))
        assert used(store, charge()) == [(10, 0)]

        store.execute(settle("a", charge(8, limit=50), charge(8)))

        assert used(store, charge()) == [(8, 8)]

    def test_repeated_reservation_takes_once(self, store):
        """A reserve sent again after a lost reply neither counts twice nor is refused."""
        store.execute(reserve("a", charge(60)))

        assert store.execute(reserve("a", charge(60))).ok
        assert used(store, charge()) == [(60, 0)]

    def test_repeated_settle_changes_nothing(self, store):
        """The first settle counts; a second one is told that it came late."""
        store.execute(reserve("a", charge(60)))
        store.execute(settle("a", charge(20)))

        assert store.execute(settle("a", charge(50))).was == "settled"
        assert used(store, charge()) == [(20, 20)]

    def test_settle_without_reservation_is_charged(self, store):
        """Money that was spent under a reservation this store never saw is counted all the same."""
        assert store.execute(settle("a", charge(70))).was == "unknown"

        assert used(store, charge()) == [(70, 70)]

    def test_expired_reservation_is_charged_its_estimate(self, store, clock):
        """Nobody having settled in time, the estimate is spent and the row says maybe billed."""
        store.execute(reserve("a", charge(40), cost_nano=40, prompt_tokens=7))
        clock.now += 29
        assert store.execute(Aggregate(where=ALL)).calls == 0
        clock.now += 1

        (found,) = store.execute(Rows(where=ALL))

        assert (found.category, found.maybe_billed, found.usage_source) == ("expired", True, "estimated")
        assert (found.at, found.cost_nano, found.prompt_tokens) == (JAN_31, 40, 7)

    def test_expiry_does_not_free_money(self, store, clock):
        """An expired reservation stays counted in its window, as spent."""
        day = charge(60, window="day")
        store.execute(reserve("a", day, ttl_s=5))
        clock.now += 6

        assert not store.execute(reserve("b", day._replace(amount=50))).ok
        assert store.execute(reserve("c", day._replace(amount=40))).ok
        assert used(store, day) == [(100, 60)]

    def test_late_settle_corrects_an_expired_reservation(self, store, clock):
        """After the expiry the true amount replaces the estimate, in the counters and in the row."""
        hour = charge(60, window="86400s")
        store.execute(reserve("a", hour, ttl_s=5, cost_nano=60))
        clock.now += 6
        store.execute(reserve("b", hour._replace(amount=0)))

        assert store.execute(settle("a", hour._replace(amount=25), cost_nano=25)).was == "expired"

        assert used(store, hour) == [(25, 25)]
        rows = store.execute(Rows(where=ALL))
        assert [(item.id, item.cost_nano, item.category) for item in rows] == [("a", 25, None)]

    def test_released_reservation_leaves_nothing(self, store, clock):
        """A reservation of which nothing was sent gives everything back and writes no row, even after its expiry."""
        store.execute(reserve("a", charge(40)))
        store.execute(Release(id="a"))
        assert used(store, charge()) == [(0, 0)]
        store.execute(reserve("b", charge(40, window="ever"), ttl_s=1))
        clock.now += 2
        assert store.execute(Aggregate(where=ALL)).calls == 1

        store.execute(Release(id="b"))
        store.execute(Release(id="unknown"))

        assert used(store, charge(window="ever")) == [(0, 0)]
        assert store.execute(Aggregate(where=ALL)).calls == 0

    def test_heartbeat_keeps_a_reservation(self, store, clock):
        """A heartbeat moves the expiry; a reservation that is gone says so."""
        store.execute(reserve("a", charge(40)))
        clock.now += 20
        assert store.execute(Heartbeat(id="a", ttl_s=30)) is True
        clock.now += 29
        assert store.execute(Aggregate(where=ALL)).calls == 0
        clock.now += 1

        assert store.execute(Aggregate(where=ALL)).calls == 1
        assert store.execute(Heartbeat(id="a", ttl_s=30)) is False
        assert store.execute(Heartbeat(id="b", ttl_s=30)) is False

    @pytest.mark.parametrize(
        ("window", "resets"),
        [
            pytest.param("minute", datetime(2028, 2, 1, tzinfo=UTC), id="minute"),
            pytest.param("hour", datetime(2028, 2, 1, tzinfo=UTC), id="hour"),
            pytest.param("day", datetime(2028, 2, 1, tzinfo=UTC), id="day"),
            pytest.param("month", datetime(2028, 2, 1, tzinfo=UTC), id="month"),
            pytest.param("15s", datetime(2028, 2, 1, tzinfo=UTC), id="seconds"),
            pytest.param("7000s", datetime(2028, 2, 1, 0, 33, 20, tzinfo=UTC), id="seconds-from-the-epoch"),
        ],
    )
    def test_window_ends(self, store, window, resets):
        """A window ends at its UTC boundary, or at a multiple of its seconds since the epoch."""
        (level,) = store.execute(Standing(charges=(charge(window=window),)))

        assert level.resets_at == resets.timestamp()

    @pytest.mark.parametrize("moment", [f"{year}-{month:02}" for year in (2027, 2028, 2100) for month in range(1, 13)])
    def test_month_is_a_calendar_month(self, store, clock, moment):
        """Months of any length and leap years begin and end at midnight UTC of their first days."""
        first = datetime.fromisoformat(f"{moment}-01T00:00:00+00:00")
        following = first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
        month = charge(30)
        clock.now = first.timestamp()
        store.execute(reserve(f"{moment}-first", month))
        clock.now = following.timestamp() - 1
        store.execute(reserve(f"{moment}-last", month))

        (level,) = store.execute(Standing(charges=(month,)))
        clock.now += 1
        (after,) = store.execute(Standing(charges=(month,)))

        assert (level.used, level.resets_at, after.used) == (60, following.timestamp(), 0)

    @pytest.mark.parametrize("window", ["session", "call", "ever"])
    def test_endless_window_never_resets(self, store, clock, window):
        """Counters of a session, a call or forever have no reset time and outlive the month."""
        store.execute(reserve("a", charge(window=window)))
        clock.now += 20 * 86400

        (level,) = store.execute(Standing(charges=(charge(window=window),)))

        assert (level.used, level.resets_at) == (10, None)

    def test_window_rolls_over_while_a_reservation_is_open(self, store, clock):
        """A call is charged to the window it began in; the new window neither inherits nor gains from it."""
        store.execute(reserve("a", charge(90)))
        clock.now += 20
        assert used(store, charge()) == [(0, 0)]
        assert store.execute(reserve("b", charge(100))).ok

        store.execute(settle("a", charge(30)))

        assert used(store, charge()) == [(100, 0)]
        clock.now = JAN_31
        assert used(store, charge()) == [(30, 30)]

    def test_warning_comes_once_per_threshold_and_window(self, store, clock):
        """Spending across thresholds reports each once; the next window begins anew."""
        watched = charge(0, warn_at=(50, 80))

        def spend(id_, amount):
            store.execute(reserve(id_, watched))
            return [item.threshold for item in store.execute(settle(id_, watched._replace(amount=amount))).crossed]

        assert [spend("a", 49), spend("b", 1), spend("c", 1), spend("d", 40), spend("e", 9)] == [[], [50], [], [80], []]
        clock.now += 20
        assert spend("f", 85) == [50, 80]

    def test_reservations_alone_warn_nobody(self, store):
        """A worst case that is only reserved reaches no threshold."""
        watched = charge(90, warn_at=(50,))

        assert store.execute(reserve("a", watched)).crossed == ()
        assert store.execute(settle("a", watched._replace(amount=5))).crossed == ()
        assert store.execute(reserve("b", watched._replace(amount=1))).crossed == ()

    def test_expiry_over_a_threshold_warns_the_next_call(self, store, clock):
        """What an expired reservation spent is reported by the next reserve, once, with the level."""
        watched = charge(60, window="86400s", warn_at=(50,))
        store.execute(reserve("a", watched, ttl_s=1))
        clock.now += 2

        (crossed,) = store.execute(reserve("b", watched._replace(amount=1))).crossed

        assert (crossed.threshold, crossed.level.spent, crossed.level.charge.limit) == (50, 60, 100)
        assert store.execute(reserve("c", watched._replace(amount=1))).crossed == ()

    def test_large_amounts_are_exact(self, store):
        """Nano-USD are counted to the last digit in the millions of dollars."""
        huge = 9_007_199_254_740_000
        store.execute(reserve("a", charge(huge, limit=huge + 10)))

        assert used(store, charge(limit=huge)) == [(huge, 0)]
        assert not store.execute(reserve("b", charge(11, limit=huge + 10))).ok
        assert store.execute(reserve("c", charge(10, limit=huge + 10))).ok

    def test_rows_come_back_as_written(self, store):
        """Every field of a usage row survives the store."""
        full = row(
            "a", call_id="c", attempt=2, prompt_tokens=1, completion_tokens=2, cached_tokens=3, reasoning_tokens=4,
            cache_write_tokens=5, cost_nano=None, latency_s=1.5, ttft_s=0.25, category="timeout", maybe_billed=True,
            usage_source="estimated", price_version="litellm:1", cache_hit=True, saved_nano=6, session=None,
        )  # fmt: skip

        store.execute(WriteRow(row=full))

        assert store.execute(Rows(where=ALL)) == (full._replace(at=JAN_31),)

    def test_newest_rows_come_first(self, store, clock):
        """Rows are listed newest first, as many as asked for, of those the filter keeps."""
        for n in range(6):
            clock.now += 1
            store.execute(WriteRow(row=row(f"r{n}", provider="ab"[n % 2])))

        assert [item.id for item in store.execute(Rows(where=ALL, limit=2))] == ["r5", "r4"]
        assert [item.id for item in store.execute(Rows(where=UsageFilter(provider="a")))] == ["r4", "r2", "r0"]

    def test_totals_count_a_retried_call_once(self, store):
        """Three attempts of one call are one call and two errors; unknown costs are counted as unpriced."""
        store.execute(WriteRow(row=row("1", call_id="c", category="rate_limited", cost_nano=0)))
        store.execute(WriteRow(row=row("2", call_id="c", category="timeout", cost_nano=None, provider="spare")))
        store.execute(
            WriteRow(row=row("3", call_id="c", cost_nano=1500, prompt_tokens=5, completion_tokens=7, provider="spare"))
        )

        stats = store.execute(Aggregate(where=ALL))

        assert (stats.calls, stats.errors, stats.prompt_tokens, stats.completion_tokens) == (1, 2, 5, 7)
        assert (stats.cost_usd, stats.unpriced) == (pytest.approx(1.5e-6), 1)
        assert {name: (part.calls, part.errors) for name, part in stats.by_provider.items()} == {
            "cloud": (1, 1),
            "spare": (1, 1),
        }

    def test_a_caller_who_left_is_no_error(self, store):
        """An abandoned attempt is a call with its tokens, but no failure."""
        store.execute(WriteRow(row=row("1", category="abandoned", prompt_tokens=3)))

        stats = store.execute(Aggregate(where=ALL))

        assert (stats.calls, stats.errors, stats.prompt_tokens) == (1, 0, 3)

    def test_cache_hits_and_savings_are_counted(self, store):
        """A cache hit is a call that cost nothing and saved something; its latency is no provider's."""
        store.execute(WriteRow(row=row("1", cost_nano=0, cache_hit=True, saved_nano=2_000_000_000, latency_s=0.001)))

        stats = store.execute(Aggregate(where=ALL))

        assert (stats.calls, stats.cache_hits, stats.saved_usd, stats.latency_p50_s) == (1, 1, 2.0, None)

    def test_latency_quantiles(self, store):
        """p50 and p95 are those of the answered attempts."""
        for n in range(100):
            store.execute(WriteRow(row=row(f"{n}", latency_s=n / 10)))
        store.execute(WriteRow(row=row("late", latency_s=99.0, category="timeout")))

        stats = store.execute(Aggregate(where=ALL))

        assert (stats.latency_p50_s, stats.latency_p95_s) == (5.0, 9.5)

    def test_filters_and_groups(self, store, clock):
        """Each filter keeps its rows, since and until are half open, and groups add up to the whole."""
        for n, (project, session, model) in enumerate([("a", "s1", "m1"), ("a", "s2", "m2"), ("b", None, "m1")]):
            clock.now = JAN_31 + n
            store.execute(WriteRow(row=row(f"{n}", project=project, session=session, model=model)))

        def calls(**where):
            return store.execute(Aggregate(where=UsageFilter(**where))).calls

        assert (calls(project="a"), calls(session="s1"), calls(model="m1"), calls(provider="cloud")) == (2, 1, 2, 3)
        since, until = datetime.fromtimestamp(JAN_31 + 1, UTC), datetime.fromtimestamp(JAN_31 + 2, UTC)
        assert (calls(since=since), calls(until=since), calls(since=since, until=until)) == (2, 1, 1)
        assert calls(since=since.replace(tzinfo=None)) == 2
        stats = store.execute(Aggregate(where=ALL))
        assert {name: part.calls for name, part in stats.by_project.items()} == {"a": 2, "b": 1}
        assert {name: part.calls for name, part in stats.by_session.items()} == {"s1": 1, "s2": 1}
        assert {name: part.calls for name, part in stats.by_model.items()} == {"m1": 2, "m2": 1}

    def test_many_rows_are_all_counted(self, store, clock):
        """More rows than a page holds are summed once each, and the newest come first across pages."""
        for n in range(2100):
            clock.now = JAN_31 + n // 7
            store.execute(WriteRow(row=row(f"{n:04}", project="ab"[n % 2], prompt_tokens=n)))

        stats = store.execute(Aggregate(where=UsageFilter(since=datetime.fromtimestamp(JAN_31 + 1, UTC))))

        assert (stats.calls, stats.prompt_tokens) == (2093, sum(range(7, 2100)))
        newest = store.execute(Rows(where=UsageFilter(project="a"), limit=1040))
        assert [item.id for item in newest] == [f"{n:04}" for n in range(2098, 18, -2)]

    def test_a_row_counts_at_its_reservation_whenever_it_is_written(self, store, clock):
        """Neither a slow call nor a clock that was set back moves a row out of the time that is asked for."""
        store.execute(reserve("slow"))
        clock.now = JAN_31 + 5
        store.execute(WriteRow(row=row("quick")))
        store.execute(settle("slow"))
        clock.now = JAN_31 - 5
        store.execute(WriteRow(row=row("set back")))

        def ids(**where):
            moments = {name: datetime.fromtimestamp(JAN_31 + seconds, UTC) for name, seconds in where.items()}
            return {item.id for item in store.execute(Rows(where=UsageFilter(**moments)))}

        assert ids(since=-5) == {"slow", "quick", "set back"}
        assert ids(since=0) == {"slow", "quick"}
        assert ids(since=1) == {"quick"}
        assert ids(since=-5, until=0) == {"set back"}

    def test_sums_by_day(self, store, clock):
        """Days are UTC days, oldest first."""
        store.execute(WriteRow(row=row("1")))
        clock.now += 20
        store.execute(WriteRow(row=row("2")))
        store.execute(WriteRow(row=row("3")))

        days = store.execute(ByDay(where=ALL))

        assert [(day, part.calls) for day, part in days.items()] == [("2028-01-31", 1), ("2028-02-01", 2)]

    def test_sums_by_day_of_each(self, store, clock):
        """Each value of a dimension has its own days; attempts without one are in none."""
        store.execute(WriteRow(row=row("1", session="a")))
        store.execute(WriteRow(row=row("2", session=None)))
        clock.now += 20
        store.execute(WriteRow(row=row("3", session="a")))
        store.execute(WriteRow(row=row("4", session="b")))

        days = store.execute(Daily(where=ALL, by="session"))

        assert {name: [(day, part.calls) for day, part in found.items()] for name, found in days.items()} == {
            "a": [("2028-01-31", 1), ("2028-02-01", 1)],
            "b": [("2028-02-01", 1)],
        }

    def test_new_epoch_counts_afresh_and_lowers_no_limit(self, store):
        """After a reset no old row is counted, budgets stay; a call under way counts when it ends."""
        store.execute(WriteRow(row=row("1")))
        store.execute(reserve("2", charge(30)))

        store.execute(NewEpoch())

        assert store.execute(Aggregate(where=ALL)).calls == 0
        assert store.execute(Rows(where=ALL)) == ()
        store.execute(settle("2", charge(20)))
        assert store.execute(Aggregate(where=ALL)).calls == 1
        assert used(store, charge()) == [(20, 20)]

    def test_late_correction_moves_a_row_to_the_epoch_of_now(self, store, clock):
        """A row that is corrected after a reset is counted once, in the new epoch."""
        store.execute(reserve("a", charge(30), ttl_s=1))
        clock.now += 2
        assert store.execute(Aggregate(where=ALL)).calls == 1
        store.execute(NewEpoch())

        store.execute(settle("a", charge(20)))

        assert [item.id for item in store.execute(Rows(where=ALL))] == ["a"]

    def test_reset_limits_keeps_open_reservations(self, store, clock):
        """Emptied budgets still hold what is under way, and a settle after it makes no money."""
        store.execute(settle("spent", charge(40)))
        store.execute(reserve("gone", charge(10), ttl_s=1))
        clock.now += 2
        store.execute(reserve("open", charge(30)))

        store.execute(ResetLimits())

        assert used(store, charge()) == [(30, 0)]
        store.execute(settle("gone", charge(3)))
        store.execute(settle("open", charge(20)))
        assert used(store, charge()) == [(20, 20)]

    def test_breaker_opens_after_failures_in_a_row(self, store, clock):
        """Successes in between start the count again; the last of N failures in a row opens it."""
        failed, fine = BreakerReport(target="t", ok=False, failures=3), BreakerReport(target="t", ok=True)
        states = [store.execute(report).state for report in (failed, failed, fine, failed, failed)]
        assert states == ["closed"] * 5

        opened = store.execute(failed)

        assert (opened.state, opened.failures, opened.retry_in_s) == ("open", 3, 10)
        assert opened.open_until == pytest.approx(clock.now + 10, abs=1e-3)
        assert not store.execute(BreakerProbe(target="t", id="x", probes=1, ttl_s=5)).granted

    def test_half_open_lets_probes_through_and_closes_on_success(self, store, clock):
        """When its time is over so many probes may go, no more; one success closes it."""
        store.execute(BreakerReport(target="t", ok=False, failures=1))
        clock.now += 10

        admitted = [store.execute(BreakerProbe(target="t", id=str(n), probes=2, ttl_s=5)) for n in range(3)]

        assert [(item.granted, item.probe, item.breaker.state) for item in admitted] == [
            (True, True, "half_open"),
            (True, True, "half_open"),
            (False, False, "half_open"),
        ]
        assert store.execute(BreakerReport(target="t", id="0", ok=True)).state == "closed"
        assert store.execute(BreakerProbe(target="t", id="3", probes=2, ttl_s=5)).probe is False

    def test_failed_probe_doubles_the_time_up_to_a_cap(self, store, clock):
        """Each failed probe opens it for twice as long, at most the cap."""
        store.execute(BreakerReport(target="t", ok=False, failures=1))
        waits = []
        for n in range(4):
            clock.now += 100
            assert store.execute(BreakerProbe(target="t", id=str(n), probes=1, ttl_s=5)).granted
            again = store.execute(BreakerReport(target="t", id=str(n), ok=False, failures=1, open_s=10, cap_s=50))
            waits.append(again.retry_in_s)

        assert waits == pytest.approx([20, 40, 50, 50], abs=1e-3)

    def test_late_failures_do_not_prolong_an_open_breaker(self, store, clock):
        """Calls that were under way when it opened, and fail then, change nothing but the count."""
        opened = store.execute(BreakerReport(target="t", ok=False, failures=1))
        clock.now += 5

        assert store.execute(BreakerReport(target="t", ok=False, failures=1)).open_until == opened.open_until

    def test_probe_slot_expires_with_its_holder(self, store, clock):
        """A probe whose process died frees its slot after its time; asking again with the same id keeps it."""
        store.execute(BreakerReport(target="t", ok=False, failures=1))
        clock.now += 10
        assert store.execute(BreakerProbe(target="t", id="dead", probes=1, ttl_s=5)).granted
        assert store.execute(BreakerProbe(target="t", id="dead", probes=1, ttl_s=5)).granted
        assert not store.execute(BreakerProbe(target="t", id="next", probes=1, ttl_s=5)).granted
        clock.now += 6

        assert store.execute(BreakerProbe(target="t", id="next", probes=1, ttl_s=5)).granted

    def test_inconclusive_probe_only_frees_its_slot(self, store, clock):
        """A probe that says nothing of the target's health leaves it half open for the next."""
        store.execute(BreakerReport(target="t", ok=False, failures=1))
        clock.now += 10
        store.execute(BreakerProbe(target="t", id="a", probes=1, ttl_s=5))

        assert store.execute(BreakerReport(target="t", id="a", ok=None)).state == "half_open"
        assert store.execute(BreakerProbe(target="t", id="b", probes=1, ttl_s=5)).granted

    def test_exhausted_account_opens_at_once(self, store, clock):
        """An explicit time opens the breaker until then, whatever the count; a shorter one does not cut it."""
        store.execute(BreakerReport(target="t", ok=False, open_for_s=3600))

        opened = store.execute(BreakerReport(target="t", ok=False, open_for_s=60))

        assert opened.retry_in_s == pytest.approx(3600, abs=1e-3)

    def test_breakers_are_seen_without_changing(self, store, clock):
        """Many breakers are read at once; unknown targets are closed."""
        store.execute(BreakerReport(target="t", ok=False, failures=1))

        states = store.execute(BreakerStates(targets=("t", "u")))

        assert {name: item.state for name, item in states.items()} == {"t": "open", "u": "closed"}
        assert store.execute(BreakerStates(targets=())) == {}

    def test_batch_answers_each(self, store):
        """A batch gives the results of its operations in order."""
        done = store.execute(
            Batch(ops=(reserve("a", charge(10)), BreakerReport(target="t", ok=True), settle("a", charge(4))))
        )

        assert (done[0].ok, done[1].state, done[2].was) == (True, "closed", "open")

    def test_operations_of_coroutines(self, store):
        """Forty coroutines at once reserve, settle and read like blocking callers."""

        async def one(n):
            done = await store.aexecute(reserve(f"{n}", charge(5)))
            if done.ok:
                await store.aexecute(settle(f"{n}", charge(5)))
            return done.ok

        async def many():
            went = await asyncio.gather(*(one(n) for n in range(40)))
            stats = await store.aexecute(Aggregate(where=ALL))
            await store.aclose()
            return sum(went), stats.calls

        assert asyncio.run(many()) == (20, 20)

    def test_foreign_object_is_refused(self, store):
        """Something that is no operation is a TypeError."""
        with pytest.raises(TypeError, match="no operation"):
            store.execute(object())


class TestMemory(Conformance):
    @pytest.fixture
    def store(self, clock):
        """A store in memory."""
        store = MemoryStore(clock=clock)
        yield store
        store.close()


class TestSqlite(Conformance):
    @pytest.fixture
    def store(self, clock, tmp_path):
        """A store in a file."""
        store = SqliteStore(tmp_path / "ledger.sqlite", clock=clock)
        yield store
        store.close()


class TestRedis(Conformance):
    @pytest.fixture
    def store(self, clock, redis_url, request):
        """A store under a prefix of its own."""
        store = RedisStore(redis_url, prefix=f"{{{request.node.name}}}", clock=clock)
        yield store
        store.close()
