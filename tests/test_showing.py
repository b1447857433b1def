"""What a notebook shows of the records: tables whose text cannot become markup."""

from html.parser import HTMLParser

import pytest

from blueprint_llm import ChatResponse, ModelInfo, Plan, RouteDecision, UsageStats, UsageTotals

EVIL = "<script>alert('x')</script>"


class Page(HTMLParser):
    """The tags and the text of a piece of HTML."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.cells, self.depth = set(), [], []
        self.feed(html)
        assert not self.depth

    def handle_starttag(self, tag, attrs):
        """Note an opening tag."""
        self.tags.add(tag)
        self.depth.append(tag)

    def handle_endtag(self, tag):
        """Check that it closes the innermost one."""
        assert self.depth.pop() == tag

    def handle_data(self, data):
        """Note a text."""
        self.cells.append(data)


STATS = UsageStats(calls=3, cost_usd=0.5, by_model={EVIL: UsageTotals(calls=3, latency_p50_s=0.25)})
ROUTE = RouteDecision(
    rule="default",
    chain=EVIL,
    considered=[{"provider": EVIL, "model": "m", "verdict": "skipped", "reason": "no API key"}],
    estimate={"worst_cost_usd": None},
)
PLAN = Plan(id="p-1", overview=EVIL, steps=[{"id": "S1", "title": EVIL, "files": ["a.py"], "covers": ["R1"]}])

MODEL = ModelInfo(id=EVIL, provider="p", max_input_tokens=1000, available=False, reason="no API key")
ANSWER = ChatResponse(
    content=EVIL,
    provider="cloud",
    model="openai/gpt-4o",
    finish_reason="stop",
    usage={"prompt_tokens": 7, "completion_tokens": 5},
    tool_calls=[{"id": "1", "name": "now", "arguments": {}}],
)


@pytest.mark.parametrize(
    ("record", "shown"),
    [
        pytest.param(MODEL, ["1000", "no: no API key"], id="model"),
        pytest.param(ANSWER, ["cloud: openai/gpt-4o", "now({})", "7", "5", "unknown"], id="answer"),
        pytest.param(STATS, ["total", "3", "0.25", "$0.500000"], id="usage"),
        pytest.param(ROUTE, ["skipped", "no API key"], id="route"),
        pytest.param(PLAN, ["S1", "a.py", "R1", "pending"], id="plan"),
    ],
)
def test_records_are_tables(record, shown):
    """Each record is one well-formed table that says what matters, and a name out of it stays text."""
    page = Page(record._repr_html_())

    assert page.tags == {"table", "caption", "tr", "th", "td"}
    assert set(shown) <= set(page.cells)
    assert any(EVIL in cell for cell in page.cells)


def test_an_unknown_cost_is_not_zero():
    """A route whose price nobody knows says so."""
    assert "at most unknown" in ROUTE._repr_html_()
