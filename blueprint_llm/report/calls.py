"""The newest calls, each with its trace: the attempts, what they cost and what they failed of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blueprint_llm.report.markup import Html, tag
from blueprint_llm.report.wording import count, moment, seconds, usd

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blueprint_llm.report.figures import Call
    from blueprint_llm.usage.stores.ops import AttemptRow

_SHOWN = 30
_HEAD = ("#", "Provider", "Model", "Result", "Took", "First token", "Tokens in", "out", "Cost")


def calls_panel(calls: Sequence[Call]) -> Html:
    """The newest calls; a click opens one's trace."""
    if not calls:
        content = [tag("p", "There was no call.", class_="nothing")]
    else:
        content = [_call(call) for call in calls[:_SHOWN]]
    return tag("section", tag("h2", "Newest calls"), *content, class_="panel", id="calls")


def _call(call: Call) -> Html:
    last = call.last
    retries = f"{len(call.attempts)} attempts" if len(call.attempts) > 1 else ""
    result = last.category if call.outcome == "failed" else {"left": "left early"}.get(call.outcome, call.outcome)
    line = tag(
        "summary",
        tag("time", moment(call.attempts[0].at)),
        tag("span", tag("i", class_=call.outcome), result, class_="result"),
        tag("span", f"{last.provider} · {last.model}", class_="who"),
        tag("span", retries, class_="dim"),
        tag("span", seconds(call.latency_s)),
        tag("span", usd(call.cost_usd)),
    )
    return tag("details", line, _trace(call))


def _trace(call: Call) -> Html:
    last = call.last
    accounts = {"trace": last.trace_id, "project": last.project, "session": last.session, "prices": last.price_version}
    facts = [tag("li", name, " ", tag("code", value)) for name, value in accounts.items() if value]
    head = tag("thead", tag("tr", *(tag("th", cell) for cell in _HEAD)))
    table = tag("table", head, tag("tbody", *map(_attempt, call.attempts)))
    return tag("div", tag("div", table, class_="wide"), tag("ul", *facts, class_="reasons"), class_="trace")


def _attempt(row: AttemptRow) -> Html:
    tokens = (count(row.prompt_tokens), count(row.completion_tokens))
    times = (seconds(row.latency_s), seconds(row.ttft_s))
    cells = (str(row.attempt), row.provider, row.model, _result(row), *times, *tokens, _cost(row))
    return tag("tr", *(tag("td", cell) for cell in cells))


def _result(row: AttemptRow) -> str:
    if row.cache_hit:
        return f"cache hit, saved {usd(row.saved_nano / 1e9)}"
    return row.category or "answered"


def _cost(row: AttemptRow) -> str:
    cost = usd(None if row.cost_nano is None else row.cost_nano / 1e9)
    doubts = ["estimated"] * (row.usage_source == "estimated") + ["maybe billed"] * row.maybe_billed
    return f"{cost} ({', '.join(doubts)})" if doubts else cost
