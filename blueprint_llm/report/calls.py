"""The newest calls, each with its trace: the attempts, what they cost and what they failed of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blueprint_llm.report.markup import Html, tag
from blueprint_llm.report.wording import count, moment, seconds, usd

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from blueprint_llm.report.figures import Call
    from blueprint_llm.usage.stores.records import AttemptRow

_SHOWN = 200
_NOTHING = tag("p", "There was no call.", class_="nothing")
_HEAD = ("#", "Provider", "Model", "Result", "Took", "First token", "Tokens in", "out", "Cost")


def calls_panel(calls: Sequence[Call], traces: Mapping[str, Mapping[str, Any]]) -> Html:
    """The newest calls, with a field to filter them; a click opens one's trace."""
    if not calls:
        return tag("section", tag("h2", "Newest calls"), _NOTHING, class_="panel", id="calls")
    shown = [_call(call, traces.get(call.last.call_id, {})) for call in calls[:_SHOWN]]
    rest = f"of {count(len(calls))}" if len(calls) > _SHOWN else ""
    outcomes = [tag("option", outcome) for outcome in dict.fromkeys(call.outcome for call in calls[:_SHOWN])]
    fields = tag(
        "div",
        tag(
            "input", type="search", placeholder="model, provider, session, trace, error", aria_label="Search the calls"
        ),
        tag("select", tag("option", "every outcome", value=""), *outcomes, aria_label="How they ended"),
        tag("output", f"{len(shown)} calls {rest}", class_="dim"),
        class_="filter",
        hidden="",
    )
    return tag("section", tag("h2", "Newest calls"), fields, *shown, class_="panel", id="calls")


def _call(call: Call, kept: Mapping[str, Any]) -> Html:
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
    return tag("details", line, _trace(call, kept), data_outcome=call.outcome)


def _trace(call: Call, kept: Mapping[str, Any]) -> Html:
    """What happened to a call: whom it passed over, its attempts, and why they failed."""
    last = call.last
    accounts = {"trace": last.trace_id, "project": last.project, "session": last.session, "prices": last.price_version}
    facts = [tag("li", name, " ", tag("code", value)) for name, value in accounts.items() if value]
    head = tag("thead", tag("tr", *(tag("th", cell) for cell in _HEAD)))
    table = tag("table", head, tag("tbody", *map(_attempt, call.attempts)))
    skipped = [row for row in kept.get("route", {}).get("considered", ()) if row["verdict"] == "skipped"]
    said = [f"skipped {row['provider']} ({row['model']}): {row['reason']}" for row in skipped]
    said += [f"#{each['n']} {_why(each)}" for each in kept.get("attempts", ()) if each.get("category")]
    words = tag("ul", *(tag("li", line) for line in said), class_="words") if said else None
    return tag("div", tag("div", table, class_="wide"), words, tag("ul", *facts, class_="reasons"), class_="trace")


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


def _why(attempt: Mapping[str, Any]) -> str:
    address = attempt.get("address")  # where nobody answered, status and code are LiteLLM's own
    facts = {"at": address} if address else {"HTTP": attempt.get("status"), "code": attempt.get("code")}
    why = ", ".join([attempt["category"], *(f"{name} {value}" for name, value in facts.items() if value)])
    return f"{why}: {attempt['said']}" if attempt.get("said") else why
