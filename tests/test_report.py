"""The figures, words and shapes of the usage page."""

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_rows import DAY_S, row

from blueprint_llm.report import Figures, render
from blueprint_llm.report.page import count, counted, percent, scale, seconds, spent, usd
from blueprint_llm.usage.stores.records import Charge, Level

NOON = 20_000 * DAY_S + DAY_S // 2  # 2024-10-04


def at(day, n, **fields):
    """An attempt at noon of a day, counted from 2024-10-04."""
    return row(n, **{"at": NOON + day * DAY_S, **fields})


def figures(*rows, until=NOON, since=None):
    """The figures of some attempts."""
    return Figures.of(rows, until=until, since=since)


@pytest.mark.parametrize(
    ("rows", "outcome"),
    [
        pytest.param([{}], "answered", id="answered"),
        pytest.param([{"category": "timeout"}, {}], "answered", id="retried at the same target"),
        pytest.param([{"category": "timeout"}, {"model": "m"}], "fallback", id="by another model"),
        pytest.param([{"category": "timeout"}, {"provider": "p"}], "fallback", id="by another provider"),
        pytest.param([{"category": "timeout"}], "failed", id="failed"),
        pytest.param([{"category": "abandoned"}], "left", id="left"),
        pytest.param([{"cache_hit": True}], "cached", id="cached"),
    ],
)
def test_how_a_call_ended(rows, outcome):
    """A call is counted once, by its last attempt and whether another target had failed."""
    found = figures(*(at(0, n, call="c", attempt=n, **fields) for n, fields in enumerate(rows, 1)))

    assert {name: n for name, n in found.outcomes.items() if n} == {outcome: 1}
    assert len(found.calls) == 1


def test_what_attempts_failed_of():
    """The most frequent first; leaving early is no failure."""
    kinds = ["timeout", "unavailable", "timeout", "abandoned", None]
    found = figures(*(at(0, n, category=kind) for n, kind in enumerate(kinds)))

    assert list(found.categories.items()) == [("timeout", 2), ("unavailable", 1)]


def test_cost_and_time_of_a_call():
    """Its attempts' together; one unknown cost makes the whole unknown."""
    known = figures(at(0, 1, call="c", usd=1, latency_s=2.0), at(0, 2, call="c", attempt=2, usd=0.5, latency_s=None))
    unknown = figures(at(0, 1, call="c", usd=1), at(0, 2, call="c", attempt=2, usd=None, latency_s=None))

    assert (known.calls[0].cost_usd, known.calls[0].latency_s) == (1.5, 2.0)
    assert unknown.calls[0].cost_usd is None
    assert figures(at(0, 1, latency_s=None)).calls[0].latency_s is None


@pytest.mark.parametrize(
    ("days", "columns", "first", "last"),
    [
        pytest.param(1, 24, "13:00", "12:00", id="one day by its hours"),
        pytest.param(2, 14, "21 Sep", "4 Oct", id="at least two weeks"),
        pytest.param(30, 30, "5 Sep", "4 Oct", id="a day a column"),
        pytest.param(100, 50, "27 Jun – 28 Jun", "3 Oct – 4 Oct", id="two days a column"),
    ],
)
def test_columns_are_days(days, columns, first, last):
    """Every day has a place, also one without a call; many days share columns; none is lost."""
    found = figures(at(1 - days, 1, usd=1), at(0, 2, usd=2))

    assert [len(found.columns), found.columns[0].label, found.columns[-1].label] == [columns, first, last]
    assert sum(column.stats.cost_usd for column in found.columns) == 3
    assert found.columns[-1].stats.cost_usd == (3 if days == 1 else 2)


@pytest.mark.slow
@given(st.integers(0, 400), st.integers(0, 400), st.lists(st.integers(0, 400), max_size=8))
def test_no_call_is_lost(since, length, ages):
    """Whatever the span, the columns hold every call exactly once."""
    until = NOON + length * DAY_S
    rows = [row(n, at=until - age * DAY_S, usd=1) for n, age in enumerate(ages)]
    found = Figures.of(rows, until=until, since=min([until - since * DAY_S, *(each.at for each in rows)]))

    assert sum(column.stats.calls for column in found.columns) == len(rows)
    assert 14 <= len(found.columns) <= 62


@given(st.floats(1e-12, 1e12))
def test_scales_are_round_and_tight(most):
    """The top is at or above the highest value, at most twice it, and there are two to four steps to it."""
    top, ticks = scale(most)

    assert most <= top * (1 + 1e-9)
    assert top <= most * 2
    assert 3 <= len(ticks) <= 5
    assert ticks[0] == 0
    assert ticks[-1] == top


def test_an_empty_scale():
    """Nothing to draw has no ticks, and divides by nothing."""
    assert scale(0) == (1.0, [])


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (usd(None), "unknown"),
        (usd(0), "$0"),
        (usd(1234.5), "$1,234.50"),
        (usd(0.0042), "$0.0042"),
        (usd(0.5), "$0.50"),
        (count(9_999), "9,999"),
        (count(12_340), "12.3k"),
        (count(180_000), "180k"),
        (count(2_500_000), "2.5M"),
        (counted(1, "answer"), "1 answer"),
        (counted(2, "answer"), "2 answers"),
        (seconds(None), "–"),
        (seconds(0.84), "840 ms"),
        (seconds(1.5), "1.50 s"),
        (percent(0), "0 %"),
        (percent(0.004), "0.4 %"),
        (percent(0.123), "12 %"),
        (spent("usd", 1, 2), "$1.00 of $2.00"),
        (spent("requests", 3, 500), "3 of 500 requests"),
    ],
)
def test_amounts_in_words(said, text):
    """Amounts are short and say their unit."""
    assert said == text


class Balance(HTMLParser):
    """Notes elements that are not closed where they should be."""

    def __init__(self, text):
        super().__init__()
        self.open, self.wrong = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, name, attributes):
        """Open one."""
        if name not in {"meta", "input"}:
            self.open.append(name)

    def handle_endtag(self, name):
        """Close the last."""
        if self.open.pop() != name:
            self.wrong.append(name)


def level(used, limit=10, *, kind="usd", warn_at=(), on_exceed="block", chain=()):
    """A limit of dollars, or of requests."""
    unit = 10**9 if kind == "usd" else 1
    charge = Charge(
        scope="project", subject="project:acme", kind=kind, window="month", amount=0, limit=limit * unit,
        warn_at=tuple(mark * unit for mark in warn_at), on_exceed=on_exceed, chain=chain,
    )  # fmt: skip
    return Level(charge=charge, used=used * unit, spent=used * unit, resets_at=None)


@pytest.mark.parametrize("rows", [(), (at(0, 1, usd=1), at(0, 2, usd=None))], ids=["no call", "two calls"])
def test_the_page_is_well_formed_and_loads_nothing(rows):
    """Every element is closed; there is no script but ours, no address, no reference to another file."""
    page = render(figures(*rows), [level(5), level(9), level(12)], project="<acme>", note="Of more, the newest.")
    balance = Balance(page)

    assert (balance.open, balance.wrong) == ([], [])
    assert page.count("<script") == 1
    assert not re.search(r"<link|<img|<iframe|https?:|url\(|@import|src=|href=", page)
    assert "<title>Usage of &lt;acme&gt;</title>" in page
    assert "Of more, the newest." in page


def test_no_name_becomes_markup():
    """Whatever a model, a provider, a project or an error is called, it is text in elements and in attributes."""
    odd = """<b>"&'"""
    rows = [at(0, 1, usd=1, model=odd, provider=odd, session=odd, category="refused")]
    kept = {"call1": {"attempts": [{"n": 1, "category": "refused", "said": odd}]}}
    page = render(figures(*rows), [level(5)], project=odd, note=odd, traces=kept)
    balance = Balance(page)

    assert (balance.open, balance.wrong) == ([], [])
    assert "<b>&" not in page
    assert "<b>&#34;" not in page
    assert page.count("&lt;b&gt;&#34;&amp;&#39;") >= 8


def test_limits_in_words():
    """How full, in which colour, what happens beyond, and when it begins anew."""
    levels = [
        level(5, warn_at=(8,)),
        level(8, on_exceed="warn"),
        level(12, on_exceed="degrade", chain=("local",)),
        level(3, limit=0, kind="requests"),
    ]
    page = render(figures(), levels)

    assert re.findall(r'class="budget (\w+)"', page) == ["fine", "near", "over", "over"]
    assert 'style="left:80.00%"' in page
    assert re.findall(r"(\w+) beyond(?: to (\w+))?, never resets", page) == [
        *(("blocks", ""), ("warns", ""), ("degrades", "local"), ("blocks", ""))
    ]


def test_many_models_share_the_last_colour():
    """Seven models have a colour of their own, the dearest first; the rest is one series."""
    page = render(figures(*(at(0, n, usd=n + 1, model=f"m{n}") for n in range(10))))
    legend = re.search(r'id="cost".*?<ul class="legend">(.*?)</ul>', page, re.DOTALL)[1]

    assert re.findall(r'<i class="(c\d)"></i>(.*?) <b>(.*?)</b>', legend)[:1] == [("c0", "m9", "$10.00")]
    assert re.findall(r'<i class="c7"></i>(.*?) <b>(.*?)</b>', legend) == [("3 others", "$6.00")]


def test_stacked_columns_stay_within_the_chart():
    """What models cost on one day stands on one another: each bar ends where the next begins, none beyond the top."""
    page = render(figures(*(at(0, n, usd=2, model=f"m{n}") for n in range(3))))
    chart = re.search(r'id="cost".*?</section>', page, re.DOTALL)[0]
    bars = re.findall(r'<rect class="c\d" y="([\d.]+)%" height="([\d.]+)%"', chart)

    ends = [(round(float(y)), round(float(y) + float(height))) for y, height in bars]
    assert ends == [(67, 100), (33, 67), (0, 33)]


def test_a_line_breaks_where_nobody_answered():
    """Latency of two spells is two strokes, with a dot for each day that has any."""
    page = render(figures(*(at(-ago, ago, usd=1) for ago in (0, 1, 4, 5, 6))))
    line = re.search(r'<g class="line p95">(.*?)</g>', page, re.DOTALL)[1]

    assert [len(points.split()) for points in re.findall(r'<polyline points="(.*?)"', line)] == [3, 2]
    assert line.count("<circle") == 5


def test_doubtful_costs_say_so():
    """An estimate, and what may have been billed unseen, are marked; a partly unknown sum too."""
    rows = [
        at(0, 1, usd=1, usage_source="estimated", maybe_billed=True, category="timeout"),
        at(0, 2, usd=None),
        at(0, 3, usd=0, cache_hit=True, saved_nano=2 * 10**9),
    ]
    page = render(figures(*rows))

    assert "$1.00 (estimated, maybe billed)" in page
    assert "$1.00 + unknown" in page
    assert "1 attempt of unknown cost" in page
    assert "cache hit, saved $2.00" in page


def test_the_newest_calls_come_first_and_no_more_than_two_hundred():
    """Newest first, each with its trace."""
    page = render(figures(*(at(0, n, at=NOON - n) for n in range(240))))

    assert page.count("<details ") == 200
    assert "200 calls of 240" in page
    assert re.findall(r"trace <code>(.*?)</code>", page)[:2] == ["trace-0", "trace-1"]


@pytest.mark.parametrize("ahead_s", [1, 3600, 3 * 86400])
def test_rows_of_a_clock_that_is_ahead_are_counted(ahead_s):
    """A shared ledger may hold what another machine wrote after this one's now."""
    found = figures(row(1, at=NOON - 60), row(2, at=NOON + ahead_s), until=NOON - 0.5)

    assert sum(column.stats.calls for column in found.columns) == found.stats.calls == 2
