"""The usage report as a browser shows it: what it loads, what fits, and whether its shapes say what the ledger says."""

import json
import re

import pytest
from click.testing import CliRunner
from report_rows import row, write_ledger

from blueprint_llm import sync
from blueprint_llm.cli import main
from blueprint_llm.trace import AttemptTrace, Trace
from blueprint_llm.types import Considered
from blueprint_llm.usage.stores.records import Charge, Reservation
from blueprint_llm.usage.stores.sqlite import SqliteStore
from blueprint_llm.usage.traces import keep_trace

HOSTILE = '"><script>document.title="taken"</script><img src=http://127.0.0.1:9/x>'
BUDGET = {"scope": "project", "limit_usd": 8, "window": "month", "warn_at": [0.5], "on_exceed": "block"}
CONFIG = {
    "blueprint": {
        "project": "acme",
        "providers": {"cloud": {"model": "openai/gpt-4o"}},
        "budgets": [BUDGET],
    }
}
ROWS = [
    (3, row(1, usd=1.0)),
    (2, row(2, usd=3.0, latency_s=2.0)),
    (2, row(3, usd=1.0, model="anthropic/claude", provider="opus", latency_s=4.0)),
    (1, row(4, call="c", category="timeout", usd=0, trace_id="trace-of-c")),
    (1, row(5, call="c", attempt=2, usd=0.5, provider="opus", model="anthropic/claude", trace_id="trace-of-c")),
    (1, row(6, category="unavailable", usd=0)),
    (1, row(7, cache_hit=True, saved_nano=2 * 10**9, usd=0)),
    (1, row(8, usd=0.25, model=HOSTILE, provider=HOSTILE, session=HOSTILE, trace_id=HOSTILE)),
]
SIZES = [pytest.param(1160, id="desk"), pytest.param(700, id="tablet"), pytest.param(390, id="phone")]
SCHEMES = ["light", "dark"]


@pytest.fixture
def write_page(tmp_path):
    """Write the page of a ledger with the given rows, and 6 of 8 dollars reserved."""

    def write(rows):
        ledger = tmp_path / "ledger.sqlite"
        write_ledger(ledger, rows)
        store = SqliteStore(ledger)
        limit = {"scope": "project", "subject": "project:acme", "kind": "usd", "window": "month"}
        charge = Charge(**limit, amount=6 * 10**9, limit=8 * 10**9)
        sync.run(store.reserve(Reservation("held", (charge,), 3600, row(99, id="held"))))
        sync.run(store.aclose())
        config = tmp_path / "blueprint.yaml"
        config.write_text(json.dumps({"blueprint": {**CONFIG["blueprint"], "store": {"url": f"sqlite://{ledger}"}}}))
        page = tmp_path / "usage.html"
        done = CliRunner().invoke(main, ["usage", "--config", str(config), "--html", str(page)], catch_exceptions=False)
        assert (done.exit_code, done.stdout) == (0, "")
        return page

    return write


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", SIZES)
def test_the_page_needs_only_itself_and_fits(write_page, open_page, width, scheme):
    """Nothing is loaded, the console is silent, nothing is wider than the window, whatever models are called."""
    page = open_page(write_page(ROWS), width=width, scheme=scheme)
    page.eval("document.querySelectorAll('details').forEach(each => each.open = true)")
    page.shoot(f"usage-{width}-{scheme}")

    assert page.requests() == [page.url]
    assert page.complaints() == []
    assert page.eval("document.documentElement.scrollWidth") == width
    assert (
        page.eval("""[...document.querySelectorAll('main *')]
        .filter(each => !each.closest('.wide') && each.getBoundingClientRect().right > innerWidth + 0.5)
        .map(each => each.outerHTML.slice(0, 80))""")
        == []
    )


def test_names_stay_text(write_page, open_page):
    """Markup in a name is shown as it was written and does nothing."""
    page = open_page(write_page(ROWS))

    assert page.eval("document.title") == "Usage of all projects"
    assert page.eval("document.querySelectorAll('script, img').length") == 1  # ours
    assert HOSTILE in page.eval("document.querySelector('#models').innerText")
    assert page.eval(f"[...document.querySelectorAll('.trace code')].some(e => e.textContent == {json.dumps(HOSTILE)})")


@pytest.mark.parametrize("width", SIZES)
def test_bars_are_as_high_as_the_costs(write_page, open_page, width):
    """A day of four dollars is four times as high as a day of one, and three quarters of it are one model's."""
    page = open_page(write_page(ROWS), width=width)
    first, second = page.box("#cost rect.c0")
    (other, *_) = page.box("#cost rect.c1")
    bottom = page.box("#cost .plot")[0]

    assert second["height"] / first["height"] == pytest.approx(3, rel=0.02)
    assert (second["height"] + other["height"]) / first["height"] == pytest.approx(4, rel=0.02)
    assert first["y"] + first["height"] == pytest.approx(bottom["y"] + bottom["height"], abs=1)
    assert other["y"] + other["height"] == pytest.approx(second["y"], abs=0.5)
    assert second["x"] == other["x"]
    assert second["x"] - first["x"] == pytest.approx(bottom["width"] / 14, abs=1)
    assert first["width"] >= 5


def test_points_are_as_high_as_the_latencies(write_page, open_page):
    """The p95 of the second day is four times that of the first; days without an answer have no point."""
    page = open_page(write_page(ROWS))
    plot = page.box("#latency .plot")[0]
    floor = plot["y"] + plot["height"]
    heights = [floor - (dot["y"] + dot["height"] / 2) for dot in page.box("#latency .p95 circle")]

    assert [round(height / heights[0], 1) for height in heights] == [1, 4, 1]


def test_calls_are_stacked_by_their_end(write_page, open_page):
    """On the day of one call of each kind the parts are equal, and the reasons of failed attempts are listed."""
    page = open_page(write_page(ROWS))
    kinds = ("answered", "cached", "fallback", "failed")
    heights = {kind: page.box(f"#outcomes rect.{kind}")[-1]["height"] for kind in kinds}

    assert max(heights.values()) - min(heights.values()) < 0.5
    reasons = re.findall(r"(timeout|unavailable) (\d)", page.eval("document.querySelector('#outcomes').innerText"))
    assert sorted(reasons) == [("timeout", "1"), ("unavailable", "1")]


def test_a_budget_is_as_full_as_it_is(write_page, open_page):
    """Six of eight dollars fill three quarters; the warning's mark is in the middle; limit and reaction are said."""
    page = open_page(write_page(ROWS))
    (meter,), (fill,), (mark,) = (page.box(f"#budgets {part}") for part in (".meter", ".meter i", ".meter b"))
    text = page.eval("document.querySelector('#budgets').innerText")

    assert fill["width"] / meter["width"] == pytest.approx(0.75, abs=0.01)
    assert (mark["x"] - meter["x"]) / meter["width"] == pytest.approx(0.5, abs=0.01)
    assert "$6.00 of $8.00" in text
    assert "blocks beyond" in text


def test_a_call_opens_its_trace(write_page, open_page):
    """The trace is hidden until its call is clicked; then every attempt of it is there."""
    page = open_page(write_page(ROWS))
    call = "[...document.querySelectorAll('details')].find(each => each.textContent.includes('trace-of-c'))"
    hidden = page.eval(f"{call}.querySelector('table').checkVisibility()")
    page.eval(f"{call}.querySelector('summary').click()")
    rows = page.eval(f"[...{call}.querySelectorAll('tbody tr')].map(each => each.innerText.split('\\t'))")

    assert not hidden
    assert page.eval(f"{call}.querySelector('table').checkVisibility()")
    assert [line[1:4] for line in rows] == [
        ["cloud", "openai/gpt-4o", "timeout"],
        ["opus", "anthropic/claude", "answered"],
    ]


def test_savings_are_said(write_page, open_page):
    """What the cache saved, and how often it answered."""
    page = open_page(write_page(ROWS))

    assert "1 answer, 14 %" in page.eval("document.querySelector('#savings').innerText")
    assert "$2.00" in page.eval("document.querySelector('#savings').innerText")
    assert len(page.box("#savings rect.cached")) == 1


@pytest.mark.parametrize("scheme", SCHEMES)
def test_everything_can_be_read(write_page, open_page, scheme):
    """Text has a contrast of at least 4.5 to its ground in both schemes, and the schemes differ."""
    page = open_page(write_page(ROWS), scheme=scheme)
    ground = luminance(page.style(".panel", "backgroundColor"))
    words = ("h1", ".dim", "summary time", ".tiles h2", "th", ".bad", "td")
    texts = {name: page.style(name, "color") for name in words}
    texts["axis"] = page.style(".plot text", "fill")

    assert (ground < 0.1) == (scheme == "dark")
    assert {name: text for name, text in texts.items() if contrast(luminance(text), ground) < 4.5} == {}


def luminance(colour):
    """WCAG's relative luminance of `rgb(r, g, b)`."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    """WCAG's contrast ratio."""
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)


def test_an_empty_ledger_is_a_page_too(write_page, open_page):
    """Without a call every panel says so, and nothing is drawn."""
    page = open_page(write_page([]), width=390)
    page.shoot("usage-empty")

    assert len(page.box(".nothing")) == 6
    assert page.eval("document.querySelectorAll('svg').length") == 0
    assert page.complaints() == []


def found(page, text="", outcome=""):
    """Type into the search field and choose an outcome; the calls that are left, by what their line says."""
    page.eval(f"""(() => {{
        const [search, chosen] = document.querySelector('.filter').children;
        search.value = {json.dumps(text)}; search.dispatchEvent(new Event('input'));
        chosen.value = {json.dumps(outcome)}; chosen.dispatchEvent(new Event('input'));
    }})()""")
    return page.eval("[...document.querySelectorAll('#calls details')].filter(e => e.checkVisibility()).length")


def test_calls_can_be_searched(write_page, open_page):
    """Words that all must be there, and how a call ended, narrow the list; the number found is said."""
    page = open_page(write_page(ROWS))

    assert found(page) == 7
    assert found(page, "Claude") == 2
    assert found(page, "claude trace-of-c") == 1
    assert found(page, outcome="failed") == 1
    assert page.eval("document.querySelector('.filter output').textContent") == "1 found"
    assert found(page, "nothing like it") == 0
    assert found(page) == 7
    assert page.eval("document.querySelector('.filter output').textContent").startswith("7 calls")


def test_one_day_is_shown_by_its_hours(write_page, open_page):
    """With one day of data the charts have a column an hour, and the bars have a width."""
    page = open_page(write_page([(0, row(1, usd=1.0)), (0, row(2, usd=3.0, latency_s=2.0))]), width=390)
    page.shoot("usage-one-day")
    (bar,) = page.box("#cost rect.c0")

    assert page.eval("document.querySelector('#cost h2').textContent") == "Cost per hour"
    assert bar["width"] >= 5
    assert bar["height"] > 100
    assert page.eval("[...document.querySelectorAll('#cost text')].some(e => /^\\d\\d:00$/.test(e.textContent))")


def test_a_trace_says_whom_it_passed_over_and_why(write_page, open_page):
    """What was kept of a call that fell back is in its trace."""
    trace = Trace(id="c", policy_hash="p", served_by="opus/anthropic/claude")
    trace.set_route(
        "chains.default", "default", [Considered(provider="p", model="m", verdict="skipped", reason="no key")]
    )
    trace.attempts.append(AttemptTrace(n=1, provider="cloud", model="openai/gpt-4o", category="timeout", status=504))
    keep_trace(trace)
    page = open_page(write_page(ROWS))
    page.eval("document.querySelectorAll('details').forEach(each => each.open = true)")

    assert "skipped p (m): no key\n#1 timeout, HTTP 504" in page.eval("document.querySelector('.words').innerText")
