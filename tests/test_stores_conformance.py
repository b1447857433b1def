import asyncio
import itertools
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
import redis_server

from blueprint_llm.types import UsageFilter
from blueprint_llm.usage.stores import DegradedStore, MemoryStore, SqliteStore, ledger_sql
from blueprint_llm.usage.stores.breaker import BreakerReport
from blueprint_llm.usage.stores.records import AttemptRow, Charge, Reservation, Settlement, by_day, daily
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


def reserve(id_, *charges, ttl_s=30, target="", probes=1, **changes):
    """A reservation whose row says what an expiry means."""
    expired = row(id_, **{"category": "expired", "maybe_billed": True, "usage_source": "estimated", **changes})
    return Reservation(id=id_, charges=charges, ttl_s=ttl_s, row=expired, target=target, probes=probes)


def settle(id_, *charges, ok=None, failures=3, **changes):
    """The end of an attempt, and whether its target is well."""
    report = BreakerReport(target="t", id=id_, ok=ok, failures=failures)
    return Settlement(charges=charges, row=row(id_, **changes), report=report)


_numbers = itertools.count()


async def told(store, **facts):
    """The breaker after an attempt's report; without an id the attempt had no reservation."""
    report = BreakerReport(target="t", **{"id": f"told-{next(_numbers)}", **facts})
    await store.settle(Settlement(charges=(), row=row(report.id), report=report))
    return (await store.breakers(["t"]))["t"]


async def undone(store, id_):
    """Do what follows a reservation whose caller left before hearing of it."""
    own = getattr(store, "_memory", store)
    if isinstance(own, RedisStore):
        await own._call("release", {"id": id_})
    else:
        await own._transact(lambda db, now: ledger_sql.release(db, now, id_))


async def probe(store, id_, **facts):
    """A reservation of nothing for a target whose breaker may be half open."""
    return await store.reserve(reserve(id_, target="t", ttl_s=5, **facts))


async def settled(store, amount):
    """Wait until the counter holds so much, at most ten seconds."""
    for _ in range(1000):
        if await used(store, charge()) == [(amount, amount)] or await used(store, charge()) == [(amount, 0)]:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(await used(store, charge()))


async def read_and_close(store):
    """What the counter holds, in a loop that is about to end."""
    try:
        return await used(store, charge())
    finally:
        await store.aclose()


async def used(store, *charges):
    """(Spent and reserved, spent) of each charge's counter."""
    return [(level.used, level.spent) for level in await store.levels(charges)]


class Conformance:
    """What every store must do; a backend's class gives a `store` whose clock the test turns."""

    async def test_reserved_and_settled_amounts_are_counted(self, store):
        """A reservation counts at its estimate until it is settled at the true amount."""
        assert (await store.reserve(reserve("a", charge(40)))).ok
        assert await used(store, charge()) == [(40, 0)]

        assert (await store.settle(settle("a", charge(15)))).was == "open"

        assert await used(store, charge()) == [(15, 15)]

    async def test_limit_is_reached_but_never_passed(self, store):
        """A call that fits exactly goes; one nano more is refused and counts nothing anywhere."""
        other = charge(1, subject="global", kind="requests", window="60s")
        assert (await store.reserve(reserve("a", charge(60)))).ok
        assert (await store.reserve(reserve("b", charge(40), other))).ok

        refused = await store.reserve(reserve("c", charge(1), other))

        level = refused.denied
        assert (refused.ok, level.charge, level.used, level.spent) == (False, charge(1), 100, 0)
        assert level.resets_at == datetime(2028, 2, 1, tzinfo=UTC).timestamp()
        assert await used(store, charge(), other) == [(100, 0), (1, 0)]

    async def test_free_call_passes_a_full_limit(self, store):
        """A call that takes nothing is not refused by a limit that is used up."""
        await store.reserve(reserve("a", charge(100)))

        assert (await store.reserve(reserve("b", charge(0)))).ok

    async def test_zero_limit_refuses_everything_that_costs(self, store):
        """A limit of 0 lets nothing through but free calls."""
        assert not (await store.reserve(reserve("a", charge(1, limit=0)))).ok
        assert (await store.reserve(reserve("b", charge(0, limit=0)))).ok

    async def test_warn_goes_on_and_is_reported(self, store):
        """A limit with on_exceed warn is passed, counted and reported as exceeded."""
        done = await store.reserve(reserve("a", charge(150, on_exceed="warn")))

        assert done.ok
        assert [level.charge.amount for level in done.exceeded] == [150]
        assert await used(store, charge()) == [(150, 0)]

    async def test_degrade_is_reported_with_its_chain(self, store):
        """A degrading limit refuses, and its charge carries the chain to take instead."""
        refused = await store.reserve(reserve("a", charge(150, on_exceed="degrade", chain=("local",))))

        assert refused.denied.charge.chain == ("local",)

    async def test_block_outranks_degrade(self, store):
        """Where one limit blocks and one degrades, the block is what the caller is told."""
        soft = charge(150, on_exceed="degrade", subject="provider:cloud")

        refused = await store.reserve(reserve("a", soft, charge(150)))

        assert refused.denied.charge.on_exceed == "block"

    async def test_two_limits_on_one_counter_take_once(self, store):
        """A soft and a hard limit of the same scope and window count a call once."""
        await store.reserve(reserve("a", charge(10, limit=50, on_exceed="warn"), charge(10, limit=100)))
        assert await used(store, charge()) == [(10, 0)]

        await store.settle(settle("a", charge(8, limit=50), charge(8)))

        assert await used(store, charge()) == [(8, 8)]

    async def test_repeated_reservation_takes_once(self, store):
        """A reserve sent again after a lost reply neither counts twice nor is refused."""
        await store.reserve(reserve("a", charge(60)))

        assert (await store.reserve(reserve("a", charge(60)))).ok
        assert await used(store, charge()) == [(60, 0)]

    async def test_repeated_settle_changes_nothing(self, store):
        """The first settle counts; a second one is told that it came late."""
        await store.reserve(reserve("a", charge(60)))
        await store.settle(settle("a", charge(20)))

        assert (await store.settle(settle("a", charge(50)))).was == "settled"
        assert await used(store, charge()) == [(20, 20)]

    async def test_settle_without_reservation_is_charged(self, store):
        """Money that was spent under a reservation this store never saw is counted all the same."""
        assert (await store.settle(settle("a", charge(70)))).was == "unknown"

        assert await used(store, charge()) == [(70, 70)]

    async def test_expired_reservation_is_charged_its_estimate(self, store, clock):
        """Nobody having settled in time, the estimate is spent and the row says maybe billed."""
        await store.reserve(reserve("a", charge(40), cost_nano=40, prompt_tokens=7))
        clock.now += 29
        assert (await store.usage(ALL)).calls == 0
        clock.now += 1

        (found,) = await store.rows(ALL)

        assert (found.category, found.maybe_billed, found.usage_source) == ("expired", True, "estimated")
        assert (found.at, found.cost_nano, found.prompt_tokens) == (JAN_31, 40, 7)

    async def test_expiry_does_not_free_money(self, store, clock):
        """An expired reservation stays counted in its window, as spent."""
        day = charge(60, window="day")
        await store.reserve(reserve("a", day, ttl_s=5))
        clock.now += 6

        assert not (await store.reserve(reserve("b", day._replace(amount=50)))).ok
        assert (await store.reserve(reserve("c", day._replace(amount=40)))).ok
        assert await used(store, day) == [(100, 60)]

    async def test_late_settle_corrects_an_expired_reservation(self, store, clock):
        """After the expiry the true amount replaces the estimate, in the counters and in the row."""
        hour = charge(60, window="86400s")
        await store.reserve(reserve("a", hour, ttl_s=5, cost_nano=60))
        clock.now += 6
        await store.reserve(reserve("b", hour._replace(amount=0)))

        assert (await store.settle(settle("a", hour._replace(amount=25), cost_nano=25))).was == "expired"

        assert await used(store, hour) == [(25, 25)]
        rows = await store.rows(ALL)
        assert [(item.id, item.cost_nano, item.category) for item in rows] == [("a", 25, None)]

    async def test_what_is_lent_comes_back(self, store, clock):
        """Attempts under way count only while they are: a settled one, and one that expired, makes room at once."""
        lent = charge(1, 2, kind="parallel", window="ever")
        assert (await store.reserve(reserve("a", lent, ttl_s=5))).ok
        assert (await store.reserve(reserve("b", lent))).ok
        assert (await store.reserve(reserve("c", lent))).denied.used == 2

        await store.settle(settle("b", lent._replace(amount=0)))
        assert (await store.reserve(reserve("c", lent))).ok
        clock.now += 6

        assert (await store.reserve(reserve("d", lent))).ok
        assert not (await store.reserve(reserve("e", lent))).ok
        await store.settle(settle("a", lent._replace(amount=0)))  # too late, and settled once
        assert await used(store, lent) == [(2, 0)]

    async def test_an_expiry_charges_what_is_not_lent(self, store, clock):
        """Beside what it gives back, an expired reservation is charged its estimate; a late settle corrects that."""
        lent = charge(1, 2, kind="parallel", window="ever")
        await store.reserve(reserve("a", lent, charge(40), ttl_s=5))
        clock.now += 6
        await store.reserve(reserve("b", lent))
        assert await used(store, lent, charge()) == [(1, 0), (40, 40)]

        await store.settle(settle("a", lent._replace(amount=0), charge(15)))
        assert await used(store, lent, charge()) == [(1, 0), (15, 15)]

    async def test_released_reservation_leaves_nothing(self, store, clock):
        """A reservation of which nothing was sent gives everything back and writes no row, even after its expiry."""
        await store.reserve(reserve("a", charge(40)))
        await undone(store, "a")
        assert await used(store, charge()) == [(0, 0)]
        await store.reserve(reserve("b", charge(40, window="ever"), ttl_s=1))
        clock.now += 2
        assert (await store.usage(ALL)).calls == 1

        await undone(store, "b")
        await undone(store, "unknown")

        assert await used(store, charge(window="ever")) == [(0, 0)]
        assert (await store.usage(ALL)).calls == 0

    async def test_heartbeat_keeps_a_reservation(self, store, clock):
        """A heartbeat moves the expiry; a reservation that is gone says so."""
        await store.reserve(reserve("a", charge(40)))
        clock.now += 20
        assert await store.heartbeat("a", 30) is True
        clock.now += 29
        assert (await store.usage(ALL)).calls == 0
        clock.now += 1

        assert (await store.usage(ALL)).calls == 1
        assert await store.heartbeat("a", 30) is False
        assert await store.heartbeat("b", 30) is False

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
    async def test_window_ends(self, store, window, resets):
        """A window ends at its UTC boundary, or at a multiple of its seconds since the epoch."""
        (level,) = await store.levels((charge(window=window),))

        assert level.resets_at == resets.timestamp()

    @pytest.mark.parametrize("moment", [f"{year}-{month:02}" for year in (2027, 2028, 2100) for month in range(1, 13)])
    async def test_month_is_a_calendar_month(self, store, clock, moment):
        """Months of any length and leap years begin and end at midnight UTC of their first days."""
        first = datetime.fromisoformat(f"{moment}-01T00:00:00+00:00")
        following = first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
        month = charge(30)
        clock.now = first.timestamp()
        await store.reserve(reserve(f"{moment}-first", month))
        clock.now = following.timestamp() - 1
        await store.reserve(reserve(f"{moment}-last", month))

        (level,) = await store.levels((month,))
        clock.now += 1
        (after,) = await store.levels((month,))

        assert (level.used, level.resets_at, after.used) == (60, following.timestamp(), 0)

    @pytest.mark.parametrize("window", ["session", "call", "ever"])
    async def test_endless_window_never_resets(self, store, clock, window):
        """Counters of a session, a call or forever have no reset time and outlive the month."""
        await store.reserve(reserve("a", charge(window=window)))
        clock.now += 20 * 86400

        (level,) = await store.levels((charge(window=window),))

        assert (level.used, level.resets_at) == (10, None)

    async def test_window_rolls_over_while_a_reservation_is_open(self, store, clock):
        """A call is charged to the window it began in; the new window neither inherits nor gains from it."""
        await store.reserve(reserve("a", charge(90)))
        clock.now += 20
        assert await used(store, charge()) == [(0, 0)]
        assert (await store.reserve(reserve("b", charge(100)))).ok

        await store.settle(settle("a", charge(30)))

        assert await used(store, charge()) == [(100, 0)]
        clock.now = JAN_31
        assert await used(store, charge()) == [(30, 30)]

    async def test_warning_comes_once_per_threshold_and_window(self, store, clock):
        """Spending across thresholds reports each once; the next window begins anew."""
        watched = charge(0, warn_at=(50, 80))

        async def spend(id_, amount):
            assert (await store.reserve(reserve(id_, watched))).crossed == ()
            return [
                item.threshold for item in (await store.settle(settle(id_, watched._replace(amount=amount)))).crossed
            ]

        assert [
            await spend("a", 49),
            await spend("b", 1),
            await spend("c", 1),
            await spend("d", 40),
            await spend("e", 9),
        ] == [[], [50], [], [80], []]
        clock.now += 20
        assert await spend("f", 85) == [50, 80]

    async def test_reservations_alone_warn_nobody(self, store):
        """A worst case that is only reserved reaches no threshold."""
        watched = charge(90, warn_at=(50,))

        assert (await store.reserve(reserve("a", watched))).crossed == ()
        assert (await store.settle(settle("a", watched._replace(amount=5)))).crossed == ()
        assert (await store.reserve(reserve("b", watched._replace(amount=1)))).crossed == ()

    async def test_expiry_over_a_threshold_warns_the_next_call(self, store, clock):
        """What an expired reservation spent is reported by the next reserve, once, with the level."""
        watched = charge(60, window="86400s", warn_at=(50,))
        await store.reserve(reserve("a", watched, ttl_s=1))
        clock.now += 2

        (crossed,) = (await store.reserve(reserve("b", watched._replace(amount=1)))).crossed

        assert (crossed.threshold, crossed.level.spent, crossed.level.charge.limit) == (50, 60, 100)
        assert (await store.reserve(reserve("c", watched._replace(amount=1)))).crossed == ()

    async def test_large_amounts_are_exact(self, store):
        """Nano-USD are counted to the last digit in the millions of dollars."""
        huge = 9_007_199_254_740_000
        await store.reserve(reserve("a", charge(huge, limit=huge + 10)))

        assert await used(store, charge(limit=huge)) == [(huge, 0)]
        assert not (await store.reserve(reserve("b", charge(11, limit=huge + 10)))).ok
        assert (await store.reserve(reserve("c", charge(10, limit=huge + 10)))).ok

    async def test_rows_come_back_as_written(self, store):
        """Every field of a usage row survives the store."""
        full = row(
            "a", call_id="c", attempt=2, prompt_tokens=1, completion_tokens=2, cached_tokens=3, reasoning_tokens=4,
            cache_write_tokens=5, cost_nano=None, latency_s=1.5, ttft_s=0.25, category="timeout", maybe_billed=True,
            usage_source="estimated", price_version="litellm:1", cache_hit=True, saved_nano=6, session=None,
        )  # fmt: skip

        await store.record(full)

        assert await store.rows(ALL) == (full._replace(at=JAN_31),)

    async def test_newest_rows_come_first(self, store, clock):
        """Rows are listed newest first, as many as asked for, of those the filter keeps."""
        for n in range(6):
            clock.now += 1
            await store.record(row(f"r{n}", provider="ab"[n % 2]))

        assert [item.id for item in await store.rows(ALL, limit=2)] == ["r5", "r4"]
        assert [item.id for item in await store.rows(UsageFilter(provider="a"))] == ["r4", "r2", "r0"]

    async def test_totals_count_a_retried_call_once(self, store):
        """Three attempts of one call are one call and two errors; unknown costs are counted as unpriced."""
        await store.record(row("1", call_id="c", category="rate_limited", cost_nano=0))
        await store.record(row("2", call_id="c", category="timeout", cost_nano=None, provider="spare"))
        await store.record(
            row("3", call_id="c", cost_nano=1500, prompt_tokens=5, completion_tokens=7, provider="spare")
        )

        stats = await store.usage(ALL)

        assert (stats.calls, stats.errors, stats.prompt_tokens, stats.completion_tokens) == (1, 2, 5, 7)
        assert (stats.cost_usd, stats.unpriced) == (pytest.approx(1.5e-6), 1)
        assert {name: (part.calls, part.errors) for name, part in stats.by_provider.items()} == {
            "cloud": (1, 1),
            "spare": (1, 1),
        }

    async def test_a_caller_who_left_is_no_error(self, store):
        """An abandoned attempt is a call with its tokens, but no failure."""
        await store.record(row("1", category="abandoned", prompt_tokens=3))

        stats = await store.usage(ALL)

        assert (stats.calls, stats.errors, stats.prompt_tokens) == (1, 0, 3)

    async def test_cache_hits_and_savings_are_counted(self, store):
        """A cache hit is a call that cost nothing and saved something; its latency is no provider's."""
        await store.record(row("1", cost_nano=0, cache_hit=True, saved_nano=2_000_000_000, latency_s=0.001))

        stats = await store.usage(ALL)

        assert (stats.calls, stats.cache_hits, stats.saved_usd, stats.latency_p50_s) == (1, 1, 2.0, None)

    async def test_latency_quantiles(self, store):
        """p50 and p95 are those of the answered attempts."""
        for n in range(100):
            await store.record(row(f"{n}", latency_s=n / 10))
        await store.record(row("late", latency_s=99.0, category="timeout"))

        stats = await store.usage(ALL)

        assert (stats.latency_p50_s, stats.latency_p95_s) == (5.0, 9.5)

    async def test_filters_and_groups(self, store, clock):
        """Each filter keeps its rows, since and until are half open, and groups add up to the whole."""
        for n, (project, session, model) in enumerate([("a", "s1", "m1"), ("a", "s2", "m2"), ("b", None, "m1")]):
            clock.now = JAN_31 + n
            await store.record(row(f"{n}", project=project, session=session, model=model))

        async def calls(**where):
            return (await store.usage(UsageFilter(**where))).calls

        assert (
            await calls(project="a"),
            await calls(session="s1"),
            await calls(model="m1"),
            await calls(provider="cloud"),
        ) == (2, 1, 2, 3)
        since, until = datetime.fromtimestamp(JAN_31 + 1, UTC), datetime.fromtimestamp(JAN_31 + 2, UTC)
        assert (await calls(since=since), await calls(until=since), await calls(since=since, until=until)) == (2, 1, 1)
        assert await calls(since=since.replace(tzinfo=None)) == 2
        stats = await store.usage(ALL)
        assert {name: part.calls for name, part in stats.by_project.items()} == {"a": 2, "b": 1}
        assert {name: part.calls for name, part in stats.by_session.items()} == {"s1": 1, "s2": 1}
        assert {name: part.calls for name, part in stats.by_model.items()} == {"m1": 2, "m2": 1}

    async def test_many_rows_are_all_counted(self, store, clock):
        """More rows than a page holds are summed once each, and the newest come first across pages."""
        for n in range(2100):
            clock.now = JAN_31 + n // 7
            await store.record(row(f"{n:04}", project="ab"[n % 2], prompt_tokens=n))

        stats = await store.usage(UsageFilter(since=datetime.fromtimestamp(JAN_31 + 1, UTC)))

        assert (stats.calls, stats.prompt_tokens) == (2093, sum(range(7, 2100)))
        newest = await store.rows(UsageFilter(project="a"), limit=1040)
        assert [item.id for item in newest] == [f"{n:04}" for n in range(2098, 18, -2)]

    async def test_a_row_counts_at_its_reservation_whenever_it_is_written(self, store, clock):
        """Neither a slow call nor a clock that was set back moves a row out of the time that is asked for."""
        await store.reserve(reserve("slow"))
        clock.now = JAN_31 + 5
        await store.record(row("quick"))
        await store.settle(settle("slow"))
        clock.now = JAN_31 - 5
        await store.record(row("set back"))

        async def ids(**where):
            moments = {name: datetime.fromtimestamp(JAN_31 + seconds, UTC) for name, seconds in where.items()}
            return {item.id for item in await store.rows(UsageFilter(**moments))}

        assert await ids(since=-5) == {"slow", "quick", "set back"}
        assert await ids(since=0) == {"slow", "quick"}
        assert await ids(since=1) == {"quick"}
        assert await ids(since=-5, until=0) == {"set back"}

    async def test_sums_by_day(self, store, clock):
        """Days are UTC days, oldest first."""
        await store.record(row("1"))
        clock.now += 20
        await store.record(row("2"))
        await store.record(row("3"))

        days = by_day(await store.facts(ALL))

        assert [(day, part.calls) for day, part in days.items()] == [("2028-01-31", 1), ("2028-02-01", 2)]

    async def test_sums_by_day_of_each(self, store, clock):
        """Each value of a dimension has its own days; attempts without one are in none."""
        await store.record(row("1", session="a"))
        await store.record(row("2", session=None))
        clock.now += 20
        await store.record(row("3", session="a"))
        await store.record(row("4", session="b"))

        days = daily(await store.facts(ALL), "session")

        assert {name: [(day, part.calls) for day, part in found.items()] for name, found in days.items()} == {
            "a": [("2028-01-31", 1), ("2028-02-01", 1)],
            "b": [("2028-02-01", 1)],
        }

    async def test_new_epoch_counts_afresh_and_lowers_no_limit(self, store):
        """After a reset no old row is counted, budgets stay; a call under way counts when it ends."""
        await store.record(row("1"))
        await store.reserve(reserve("2", charge(30)))

        await store.new_epoch()

        assert (await store.usage(ALL)).calls == 0
        assert await store.rows(ALL) == ()
        await store.settle(settle("2", charge(20)))
        assert (await store.usage(ALL)).calls == 1
        assert await used(store, charge()) == [(20, 20)]

    async def test_late_correction_moves_a_row_to_the_epoch_of_now(self, store, clock):
        """A row that is corrected after a reset is counted once, in the new epoch."""
        await store.reserve(reserve("a", charge(30), ttl_s=1))
        clock.now += 2
        assert (await store.usage(ALL)).calls == 1
        await store.new_epoch()

        await store.settle(settle("a", charge(20)))

        assert [item.id for item in await store.rows(ALL)] == ["a"]

    async def test_reset_limits_keeps_open_reservations(self, store, clock):
        """Emptied budgets still hold what is under way, and a settle after it makes no money."""
        await store.settle(settle("spent", charge(40)))
        await store.reserve(reserve("gone", charge(10), ttl_s=1))
        clock.now += 2
        await store.reserve(reserve("open", charge(30)))

        await store.reset_limits()

        assert await used(store, charge()) == [(30, 0)]
        await store.settle(settle("gone", charge(3)))
        await store.settle(settle("open", charge(20)))
        assert await used(store, charge()) == [(20, 20)]

    async def test_breaker_opens_after_failures_in_a_row(self, store, clock):
        """Successes in between start the count again; the last of N failures in a row opens it."""
        states = [(await told(store, ok=ok, failures=3)).state for ok in (False, False, True, False, False)]
        assert states == ["closed"] * 5

        opened = await told(store, ok=False, failures=3)

        assert (opened.state, opened.failures, opened.retry_in_s) == ("open", 3, 10)
        assert opened.until == pytest.approx(clock.now + 10, abs=1e-3)

    async def test_an_open_breaker_refuses_and_nothing_is_taken(self, store):
        """The reservation says which breaker refused; no limit counts it, and it may be forced."""
        await told(store, ok=False, failures=1)

        refused = await store.reserve(reserve("x", charge(40), target="t"))

        assert (refused.ok, refused.denied, refused.breaker.state, refused.breaker.retry_in_s) == (
            False,
            None,
            "open",
            10,
        )
        assert await used(store, charge()) == [(0, 0)]
        assert (await store.reserve(reserve("x", charge(40), target="u"))).ok
        assert (await store.reserve(reserve("y", charge(40), target="t"), force=True)).ok
        assert await used(store, charge()) == [(80, 0)]

    async def test_half_open_lets_probes_through_and_closes_on_success(self, store, clock):
        """When its time is over so many probes may go, no more; one success closes it."""
        await told(store, ok=False, failures=1)
        clock.now += 10

        admitted = [await probe(store, f"p{n}", probes=2) for n in range(3)]

        assert [done.ok for done in admitted] == [True, True, False]
        assert admitted[2].breaker.state == "half_open"
        assert (await told(store, id="p0", ok=True)).state == "closed"
        assert (await probe(store, "p3")).ok

    async def test_failed_probe_doubles_the_time_up_to_a_cap(self, store, clock):
        """Each failed probe opens it for twice as long, at most five minutes."""
        await told(store, ok=False, failures=1, open_s=100)
        waits = []
        for n in range(3):
            clock.now += 301
            assert (await probe(store, f"p{n}")).ok
            waits.append((await told(store, id=f"p{n}", ok=False, failures=1, open_s=100)).retry_in_s)

        assert waits == pytest.approx([200, 300, 300], abs=1e-3)

    async def test_late_failures_do_not_prolong_an_open_breaker(self, store, clock):
        """Calls that were under way when it opened, and fail then, change nothing but the count."""
        opened = await told(store, ok=False, failures=1)
        clock.now += 5

        assert (await told(store, ok=False, failures=1)).until == opened.until

    async def test_probe_slot_expires_with_its_holder(self, store, clock):
        """A probe whose process died frees its slot after its reservation's time; the same id keeps it."""
        await told(store, ok=False, failures=1)
        clock.now += 10
        assert (await probe(store, "dead")).ok
        assert (await probe(store, "dead")).ok
        assert not (await probe(store, "next")).ok
        clock.now += 6

        assert (await probe(store, "next")).ok

    async def test_inconclusive_probe_only_frees_its_slot(self, store, clock):
        """A probe that says nothing of the target's health leaves it half open for the next."""
        await told(store, ok=False, failures=1)
        clock.now += 10
        await probe(store, "a")

        assert (await told(store, id="a", ok=None)).state == "half_open"
        assert (await probe(store, "b")).ok

    async def test_released_probe_frees_its_slot(self, store, clock):
        """A reservation that is given back gives back its probe, and the breaker is as it was."""
        await told(store, ok=False, failures=1)
        clock.now += 10
        before = await store.breakers(["t"])
        await probe(store, "a")
        assert not (await probe(store, "b")).ok

        await undone(store, "a")

        assert await store.breakers(["t"]) == before
        assert (await probe(store, "b")).ok

    async def test_probe_that_a_limit_refuses_takes_no_slot(self, store, clock):
        """A limit that refuses a probe leaves the slot to the next one."""
        await told(store, ok=False, failures=1)
        clock.now += 10

        assert (await store.reserve(reserve("a", charge(101), target="t"))).denied
        assert (await probe(store, "b")).ok

    async def test_second_settle_tells_the_breaker_nothing(self, store):
        """A settle that is repeated after a lost reply counts its failure once."""
        failed = settle("a", ok=False)
        await store.settle(failed)

        await store.settle(failed)

        assert (await store.breakers(["t"]))["t"].failures == 1

    async def test_exhausted_account_opens_at_once(self, store, clock):
        """An explicit time opens the breaker until then, whatever the count; a shorter one does not cut it."""
        await told(store, ok=False, open_for_s=3600)

        opened = await told(store, ok=False, open_for_s=60)

        assert opened.retry_in_s == pytest.approx(3600, abs=1e-3)

    async def test_breakers_are_seen_without_changing(self, store, clock):
        """Many breakers are read at once; unknown targets are closed."""
        await told(store, ok=False, failures=1)

        states = await store.breakers(("t", "u"))

        assert {name: item.state for name, item in states.items()} == {"t": "open", "u": "closed"}
        assert await store.breakers(()) == {}

    async def test_coroutines_at_once(self, store):
        """Forty coroutines at once reserve and settle up to the limit, and each failure is told."""

        async def one(n):
            done = await store.reserve(reserve(f"{n}", charge(5), target="t"))
            if done.ok:
                await store.settle(settle(f"{n}", charge(5), ok=False, failures=1000))
            return done.ok

        went = await asyncio.gather(*(one(n) for n in range(40)))

        assert (sum(went), (await store.usage(ALL)).calls) == (20, 20)
        assert (await store.breakers(["t"]))["t"].failures == 20

    async def test_cancelled_reserve_leaves_nothing(self, store):
        """Whenever a reserve is cancelled, nothing stays reserved; what was not cancelled stays."""
        await store.levels([charge()])
        tasks = []
        for n in range(20):
            tasks.append(asyncio.create_task(store.reserve(reserve(f"{n}", charge(1)))))
            for _ in range(n % 7):
                await asyncio.sleep(0)
            tasks[-1].cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)

        await settled(store, sum(not isinstance(item, BaseException) for item in done))

    async def test_cancelled_settle_is_booked(self, store):
        """A settle whose caller leaves is carried out all the same, exactly once."""
        for n in range(8):
            await store.reserve(reserve(f"{n}", charge(9)))
            task = asyncio.create_task(store.settle(settle(f"{n}", charge(2))))
            for _ in range(n % 5 + 1):  # a task that never ran has asked nothing of the store
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        await settled(store, 16)
        assert (await store.usage(ALL)).calls == 8

    def test_several_event_loops(self, store):
        """One store serves loops one after another, and two at once in threads of their own."""

        async def spend(name, count):
            for n in range(count):
                await store.reserve(reserve(f"{name}{n}", charge(1)))
                await store.settle(settle(f"{name}{n}", charge(1)))
            await store.aclose()

        for name in "ab":
            asyncio.run(spend(name, 5))
        with ThreadPoolExecutor(2) as pool:
            for ended in [pool.submit(asyncio.run, spend(name, 20)) for name in "cd"]:
                ended.result()

        assert asyncio.run(read_and_close(store)) == [(50, 50)]


class TestDegraded(Conformance):
    @pytest.fixture
    async def store(self, clock, tmp_path):
        """A store that is in memory for a file that cannot be used, having said so."""
        (tmp_path / "file").touch()
        broken = SqliteStore(tmp_path / "file" / "ledger.sqlite", clock=clock)
        store = DegradedStore(broken, clock=clock, on_event=lambda event: None)
        yield store
        await store.aclose()


class TestMemory(Conformance):
    @pytest.fixture
    async def store(self, clock):
        """A store in memory."""
        store = MemoryStore(clock=clock)
        yield store
        await store.aclose()


class TestSqlite(Conformance):
    @pytest.fixture
    async def store(self, clock, tmp_path):
        """A store in a file."""
        store = SqliteStore(tmp_path / "ledger.sqlite", clock=clock)
        yield store
        await store.aclose()


class TestRedis(Conformance):
    @pytest.fixture
    async def store(self, clock, redis_url, request):
        """A store under a prefix of its own."""
        store = RedisStore(redis_url, prefix=f"{{{request.node.name}}}", clock=clock)
        yield store
        await store.aclose()
